"""Parameter groups, Muon and the schedules of the learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kt_core.blocks import VARIANTS, GPTConfig
from kt_core.models import GPT
from kt_core.optim import Muon, make_optimizers, orthogonalise
from kt_core.train_config import TrainConfig


def tiny(variant="vanilla", **more):
    torch.manual_seed(0)
    return GPT(
        GPTConfig(
            vocab_size=20,
            block_size=32,
            n_layer=3,
            n_head=2,
            n_embd=16,
            variant=variant,
            bottleneck=8,
            **more,
        )
    )


def optimizers(model, name, decay=0.1, decay_on="linear"):
    config = TrainConfig(lr=1e-3, optimizer=name, weight_decay=decay, decay_on=decay_on)
    return make_optimizers(model, config)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_only_linear_matrices_decay(variant, name):
    model = tiny(variant, qk_norm=True)
    names = {id(p): n for n, p in model.named_parameters()}
    linear = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    entries = [
        (o, g, names[id(p)])
        for o in optimizers(model, name)
        for g in o.param_groups
        for p in g["params"]
    ]
    assert sorted(n for _, _, n in entries) == sorted(names.values())
    assert {n for _, g, n in entries if g["weight_decay"]} == linear
    free = [n for _, g, n in entries if g["weight_decay"] == 0]
    assert "tok_emb.weight" in free and "ln_f.weight" in free and "blocks.0.mlp.up.bias" in free
    assert ("pos_emb" in free) == (variant in ("vanilla", "perceiver"))
    assert ("blocks.0.latents" in free) == (variant == "perceiver")
    assert ({"blocks.2.null", "blocks.2.local"} <= set(free)) == (variant == "perceiver_ar")
    by_muon = {n for o, _, n in entries if isinstance(o, Muon)}
    assert by_muon == ({n for n in linear if n.startswith("blocks.")} if name == "muon" else set())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_all_but_biases_decay_where_the_assignment_is_followed(variant, name):
    model = tiny(variant)
    names = {id(p): n for n, p in model.named_parameters()}
    opts = optimizers(model, name, decay_on="all")
    decays = {
        names[id(p)]: g["weight_decay"] for o in opts for g in o.param_groups for p in g["params"]
    }
    assert set(decays) == set(names.values())
    assert {n for n, decay in decays.items() if not decay} == {
        n for n in decays if n.endswith("bias")
    }
    assert set(decays.values()) == {0.0, 0.1}


def test_peak_rates():
    adamw, muon = optimizers(tiny(), "muon")
    assert {g["lr"] for g in adamw.param_groups} == {1e-3}
    assert muon.param_groups[0]["lr"] == 0.02
    assert adamw.param_groups[0]["betas"] == (0.9, 0.95)


def test_frozen_parameters_are_left_out():
    model = tiny()
    model.tok_emb.weight.requires_grad_(False)
    model.blocks[0].mlp.up.weight.requires_grad_(False)
    muon_ids = {
        id(p) for o in optimizers(model, "muon") for g in o.param_groups for p in g["params"]
    }
    assert (
        id(model.tok_emb.weight) not in muon_ids
        and id(model.blocks[0].mlp.up.weight) not in muon_ids
    )


@pytest.mark.parametrize("rows, cols", [(32, 32), (16, 64), (64, 16)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_orthogonalise_brings_singular_values_near_1(rows, cols, scale):
    torch.manual_seed(1)
    g = scale * torch.randn(3, rows, cols)
    out = orthogonalise(g)
    assert out.shape == g.shape and out.dtype == g.dtype
    values = torch.linalg.svdvals(out)
    if (
        rows != cols
    ):  # a square random matrix has a singular value near 0, which five steps cannot lift
        assert values.min() > 0.6
    assert values.max() < 1.3 and (values > 0.6).float().mean() > 0.85
    u, _, vt = torch.linalg.svd(g, full_matrices=False)
    inside = torch.diagonal(
        u.mT @ out @ vt.mT, dim1=-2, dim2=-1
    )  # the same singular vectors, none reversed
    assert (inside > 0.5).float().mean() > 0.85


def test_orthogonalise_treats_each_matrix_alone():
    torch.manual_seed(2)
    g = torch.randn(2, 8, 16)
    g[1] *= 1000
    assert torch.allclose(orthogonalise(g)[:1], orthogonalise(g[:1]), atol=1e-2)
    assert not orthogonalise(torch.zeros(1, 4, 4)).any()


@pytest.mark.parametrize("shape, grow", [((8, 32), 1.0), ((32, 8), 2.0)])
def test_a_muon_step_moves_every_direction_alike(shape, grow):
    torch.manual_seed(3)
    p = nn.Parameter(torch.randn(shape))
    start = p.detach().clone()
    p.grad = torch.randn(shape)
    Muon([p], lr=0.1).step()
    values = torch.linalg.svdvals(start - p.detach())
    assert (values > 0.06 * grow).all() and (values < 0.13 * grow).all()


def test_muon_decay_is_decoupled_and_params_without_gradient_stay():
    p, idle = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    p.grad = torch.zeros(4, 4)
    Muon([p, idle], lr=0.5, weight_decay=0.1).step()
    assert torch.allclose(p, torch.full((4, 4), 0.95)) and torch.equal(idle, torch.ones(4, 4))


def test_muon_keeps_momentum():
    torch.manual_seed(4)
    p = nn.Parameter(torch.zeros(4, 8))
    optimizer = Muon([p], lr=0.1, momentum=0.9)
    p.grad = torch.randn(4, 8)
    first = p.grad.clone()
    optimizer.step()
    assert torch.allclose(optimizer.state[p]["momentum"], 0.1 * first)
    p.grad = torch.zeros(4, 8)
    before = p.detach().clone()
    optimizer.step()
    assert not torch.allclose(p, before)  # goes on in the old direction
    assert ((before - p) * first).sum() > 0


# ---------------------------------------------------------------- schedules


def rates(total, **settings):
    return [TrainConfig(**settings).rate(step, total) for step in range(total)]


def test_cosine_falls_from_the_peak_to_its_floor():
    shares = rates(100, schedule="cosine", final_fraction=0.1)
    assert shares[0] == 1.0 and shares[50] == pytest.approx(0.5) and shares[-1] == 0.1
    assert shares == sorted(shares, reverse=True)
    assert shares[60] == pytest.approx(0.5 * (1 + math.cos(0.6 * math.pi)))
    assert rates(100, schedule="cosine", final_fraction=0.0)[-1] < 0.001


def test_a_horizon_stretches_the_cosine():
    assert rates(100, schedule="cosine", horizon=200)[-1] == pytest.approx(0.5, abs=0.01)
    assert set(rates(100, schedule="cosine", horizon=50)[50:]) == {0.1}
    assert rates(100, schedule="linear", horizon=50, cooldown_from=0.0)[60] == pytest.approx(0.1)


def test_linear_is_flat_then_straight():
    shares = rates(100, schedule="linear", cooldown_from=0.4, final_fraction=0.0)
    assert shares[:41] == [1.0] * 41
    steps = torch.tensor(shares[40:]).diff()
    assert torch.allclose(steps, torch.tensor(-1 / 60))
    assert shares[-1] == pytest.approx(1 / 60)
    assert rates(10, schedule="linear", cooldown_from=1.0) == [1.0] * 10


def test_constant_and_warm_up():
    assert rates(10, schedule="constant") == [1.0] * 10
    shares = rates(20, schedule="constant", warmup_steps=4)
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and set(shares[4:]) == {1.0}
    for schedule in ("cosine", "linear"):
        assert rates(20, schedule=schedule, warmup_steps=4)[:4] == pytest.approx(
            [0.2, 0.4, 0.6, 0.8]
        )


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("epochs", 0.0, "above 0"),
        ("steps", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("decay_on", "norms", "one of linear, all"),
        ("lr", 0.0, "above 0"),
        ("epochs", "3", "above 0 and at most 1,000,000, not '3'"),
        ("lr", math.nan, "above 0"),
        ("muon_lr", -1.0, "above 0"),
        ("grad_clip", 0.0, "above 0"),
        ("weight_decay", -0.1, "in 0 ... 1,000,000"),
        ("warmup_steps", -1, "0 or more"),
        ("eval_every", -1, "0 or more"),
        ("log_every", -1, "0 or more"),
        ("optimizer", "sgd", "one of adamw, muon"),
        ("schedule", "step", "one of cosine, linear, constant"),
        ("final_fraction", 1.5, "in 0 ... 1"),
        ("cooldown_from", -0.5, "in 0 ... 1"),
        ("horizon", -1, "0 or more"),
    ],
)
def test_bad_settings_are_named(field, value, words):
    with pytest.raises(ValueError) as error:
        TrainConfig(**{field: value})
    assert f"TrainConfig.{field} must be" in str(error.value) and words in str(error.value)
