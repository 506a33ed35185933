"""The four variants: what each output depends on, which weights there are, recorded passes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from kt_core.blocks import VARIANTS, GPTConfig
from kt_core.models import GPT
from kt_core.positions import rotary_frequencies, rotary_table, rotate
from kt_core.runs.attention_maps import record_attention

V = 11
# Blocks that no stride divides (13), and full ones (12).
VANILLA, ROPE = ("vanilla", 13, 13), ("rope", 13, 13)
PERCEIVER = [("perceiver", 13, 5), ("perceiver", 12, 12)]
PERCEIVER_AR = [
    ("perceiver_ar", 13, 13),
    ("perceiver_ar", 13, 7),
    ("perceiver_ar", 13, 5),
    ("perceiver_ar", 13, 4),
    ("perceiver_ar", 12, 6),
    ("perceiver_ar", 12, 3),
]  # s = 1, 2, 3, 4, 2, 4
COMPLETE = [VANILLA, ROPE, *PERCEIVER_AR]
ALL = [VANILLA, ROPE, *PERCEIVER, *PERCEIVER_AR]
ONE_EACH = [VANILLA, ROPE, PERCEIVER[0], PERCEIVER_AR[2]]


def name(case):
    return "-".join(map(str, case))


every_case = pytest.mark.parametrize("case", ALL, ids=name)
one_of_each = pytest.mark.parametrize("case", ONE_EACH, ids=name)


def config(case, **knobs):
    variant, block_size, bottleneck = case
    sizes = {"vocab_size": V, "n_layer": 3, "n_head": 2, "n_embd": 16, "dropout": 0.0} | knobs
    return GPTConfig(block_size=block_size, variant=variant, bottleneck=bottleneck, **sizes)


def trained_like(case, seed=0, dtype=torch.float32, **knobs):
    """A model with weights far from their start: peaked maps, and no zero that hides a path."""
    model = GPT(config(case, **knobs)).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
        parameter.data = (
            1 + 0.2 * noise
            if "ln" in parameter_name and "weight" in parameter_name
            else 0.4 * noise
        )
    return model.eval()


def text(B, T, seed=0):
    return torch.randint(1, V, (B, T), generator=torch.Generator().manual_seed(seed))


def lengths(case):
    return sorted({1, 2, 3, 7, 8, case[1] - 1, case[1]})


def gradients_are_finite(model):
    """And there is one for every weight (the window of perceiver_ar is empty up to s = 2)."""
    return all(
        p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.numel()
    )


def influence(model, T, seed=0):
    """(T, T): the size of d out_t / d embedding_j, in one pass."""
    idx, outputs = text(1, T, seed).expand(T, T), []

    def leaf(module, args, out):
        outputs.append(out.detach().requires_grad_())
        return outputs[0]

    handle = model.tok_emb.register_forward_hook(leaf)
    logits = model(idx)[0]
    handle.remove()
    direction = torch.randn(V, generator=torch.Generator().manual_seed(1), dtype=logits.dtype)
    (logits.diagonal(dim1=0, dim2=1).T @ direction).sum().backward()
    return outputs[0].grad.abs().amax(-1)


# ---------------------------------------------------------------- sizes and configuration


def test_parameter_counts_of_the_assignments_model():
    counts = {v: GPT(GPTConfig(256, variant=v)).n_parameters() for v in VARIANTS}
    assert counts["vanilla"] == 3_323_392
    assert counts["rope"] == 3_290_624 == counts["vanilla"] - 128 * 256
    assert (
        counts["perceiver"] == counts["vanilla"] + 64 * 256 + 2 * 2 * 256
    )  # latents; two norms of sources
    assert (
        counts["perceiver_ar"] == counts["rope"] + 256 + 2 * 2 * 256
    )  # the null latent; two norms of sources


def test_each_variant_has_its_own_names_and_shapes():
    shapes = {
        case[0]: {n: tuple(p.shape) for n, p in GPT(config(case)).named_parameters()}
        for case in ONE_EACH
    }
    vanilla = shapes["vanilla"]
    assert vanilla["pos_emb"] == (1, 13, 16)
    assert shapes["rope"] == {n: s for n, s in vanilla.items() if n != "pos_emb"}
    norms = {f"blocks.{i}.ln_source.{end}" for i in (0, 2) for end in ("weight", "bias")}
    assert shapes["perceiver"].keys() - vanilla.keys() == norms | {"blocks.0.latents"}
    assert shapes["perceiver"]["blocks.0.latents"] == (1, 5, 16)
    assert shapes["perceiver_ar"].keys() - shapes["rope"].keys() == norms | {
        "blocks.2.null",
        "blocks.2.local",
    }
    assert shapes["perceiver_ar"]["blocks.2.local"] == (1, 16)  # s - 2 inputs, s = 3


def test_the_rotary_table_is_no_weight_and_no_checkpoint_entry():
    assert not [n for n in GPT(config(ROPE)).state_dict() if n in ("cos", "sin")]


@pytest.mark.parametrize(
    ("block", "bottleneck", "stride", "latents"),
    [
        (128, 64, 2, 64),
        (128, 32, 4, 32),
        (128, 128, 1, 128),
        (13, 7, 2, 7),
        (13, 5, 3, 5),
        (13, 4, 4, 4),
        (128, 50, 3, 43),
    ],
)
def test_stride_and_number_of_latents(block, bottleneck, stride, latents):
    model = GPT(config(("perceiver_ar", block, bottleneck)))
    assert model.config.stride == stride
    assert model.config.n_latents == latents
    assert config(("perceiver", block, bottleneck)).stride == 1
    assert config(("perceiver", block, bottleneck)).n_latents == bottleneck


def test_config_is_frozen_and_its_defaults_are_the_assignments():
    c = GPTConfig(256)
    expected = {
        "block_size": 128,
        "n_layer": 4,
        "n_head": 8,
        "n_embd": 256,
        "variant": "vanilla",
        "bottleneck": 64,
        "dropout": 0.1,
    }
    assert {k: getattr(c, k) for k in expected} == expected
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.n_layer = 5
    assert GPTConfig(**dataclasses.asdict(c)) == c


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        *[
            ({field: value}, field)
            for field in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "bottleneck")
            for value in (0, -1, 2.0, True, "4", None)
        ],
        ({"variant": "perciever"}, "variant.*vanilla, rope, perceiver, perceiver_ar.*'perciever'"),
        ({"n_embd": 30, "n_head": 4}, r"n_embd must be a multiple of n_head \(4\), not 30"),
        (
            {"variant": "rope", "n_embd": 30, "n_head": 2},
            "even number of channels per head.*not 30",
        ),
        (
            {"variant": "perceiver_ar", "n_embd": 6, "n_head": 2},
            "even number of channels per head.*not 6",
        ),
        ({"variant": "perceiver", "n_layer": 1}, "n_layer must be 2 or more"),
        ({"variant": "perceiver_ar", "n_layer": 1}, "n_layer must be 2 or more"),
        (
            {"variant": "perceiver", "bottleneck": 129},
            r"bottleneck must be at most block_size \(128\), not 129",
        ),
        *[
            ({"dropout": value}, "dropout")
            for value in (-0.1, 1.0, float("nan"), "0.1", None, True)
        ],
        *[({"rope_base": value}, "rope_base") for value in (1.0, 0.0, -3.0, float("nan"), "10000")],
        ({"qk_norm": "false"}, "qk_norm"),
    ],
    ids=str,
)
def test_wrong_values_are_named(wrong, named):
    c = GPTConfig(256)
    for field, value in wrong.items():  # past the type checks that hold during tests alone
        object.__setattr__(c, field, value)
    with pytest.raises(ValueError, match=named):
        c.__post_init__()


def test_construction_validates():
    with pytest.raises(
        ValueError, match="n_layer must be a whole number of at least 1 and at most 1,000, not 0"
    ):
        GPTConfig(256, n_layer=0)
    with pytest.raises(ValueError, match="n_layer"):
        dataclasses.replace(GPTConfig(256), n_layer=-1)


@one_of_each
def test_a_text_longer_than_the_block_is_named(case):
    with pytest.raises(ValueError, match="14 characters do not fit a block of 13"):
        GPT(config(case))(text(1, 14))


# ---------------------------------------------------------------- the forward pass


@every_case
def test_logits_and_loss_have_their_shapes_and_the_loss_is_cross_entropy_without_pads(case):
    model, idx = trained_like(case), text(3, 9)
    logits, loss = model(idx)
    assert logits.shape == (3, 9, V)
    assert logits.dtype == torch.float32
    assert loss is None
    targets = text(3, 9, seed=1)
    targets[0, 4:], targets[2, 0] = 0, 0
    same, loss = model(idx, targets)
    assert torch.equal(same, logits)
    real = targets != 0
    by_hand = -logits.log_softmax(-1)[real].gather(1, targets[real][:, None]).mean()
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert gradients_are_finite(model)


def test_targets_of_zero_pull_at_nothing():
    model, idx, targets = trained_like(VANILLA), text(1, 6), torch.zeros(1, 6, dtype=torch.long)
    targets[0, 2] = 3
    logits, loss = model(idx, targets)
    torch.testing.assert_close(loss, F.cross_entropy(logits[0, 2:3], targets[0, 2:3]))
    logits.retain_grad()
    loss.backward()
    assert (logits.grad[0, [0, 1, 3, 4, 5]] == 0).all()


@every_case
@pytest.mark.parametrize("qk_norm", [False, True])
def test_fused_and_recorded_passes_agree(case, qk_norm):
    model = trained_like(case, n_layer=4, n_embd=32, qk_norm=qk_norm)
    for T in lengths(case):
        idx = text(2, T, seed=T)
        plain = model(idx)[0]
        with record_attention(model) as maps:
            recorded = model(idx)[0]
        torch.testing.assert_close(plain, recorded, atol=1e-5, rtol=1e-5)
        assert len(maps) == 4
        assert (
            max(m[..., -1, :].max() - m[..., -1, :].min() for m in maps) > 0.1 or T == 1
        )  # not flat


@every_case
def test_maps_have_their_shapes_rows_that_sum_to_one_and_zeros_where_nothing_may_be_seen(case):
    variant, block, bottleneck = case
    model = trained_like(case)
    s = model.config.stride
    for T in lengths(case):
        with record_attention(model) as maps:
            model(text(2, T))
        assert all(m.shape[:2] == (2, 2) and not m.requires_grad for m in maps)
        for m in maps:
            torch.testing.assert_close(m.sum(-1), torch.ones(m.shape[:-1]))
        if not model.config.has_latents:
            n = [(T, T)] * 3
            reach = [(list(range(T)), list(range(T)))] * 3
        else:
            m = min(bottleneck, T) if variant == "perceiver" else -(-T // s)
            latents, extra = (
                [s * (i + 1) - 1 for i in range(m)],
                [-1] if variant == "perceiver_ar" else [],
            )
            n = [
                (m, T),
                (m, m),
                (T, m + len(extra)),
            ]  # Down, middle, Up: T_query != T_key at both ends
            inputs = list(range(T))
            reach = [(latents, inputs), (latents, latents), (inputs, extra + latents)]
        assert [tuple(m.shape[2:]) for m in maps] == n
        for m, (query, key) in zip(maps, reach, strict=True):
            allowed = torch.tensor([[k <= q for k in key] for q in query])
            assert (m[:, :, ~allowed] == 0).all()
            assert (m[:, :, allowed] > 0).all()


@one_of_each
def test_maps_in_train_mode_are_those_before_dropout(case):
    model, idx = trained_like(case, dropout=0.5).train(), text(2, 9)
    torch.manual_seed(3)
    with record_attention(model) as maps:
        logits = model(idx)[0]
    assert logits.requires_grad
    for m in maps:
        torch.testing.assert_close(m.sum(-1), torch.ones(m.shape[:-1]))
    first = [m.clone() for m in maps]
    model(idx)  # after the block nothing is recorded
    assert all(torch.equal(a, b) for a, b in zip(first, maps, strict=True))
    torch.manual_seed(3)
    torch.testing.assert_close(model(idx)[0], logits)  # recording draws the same dropout


@every_case
def test_dropout_works_in_train_mode_on_cpu_and_really_drops(case):
    model, idx = trained_like(case, dropout=0.5).train(), text(2, 9)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        logits, loss = model(idx, idx)
        loss.backward()
        outputs.append(logits.detach())
    assert torch.equal(outputs[0], outputs[1])
    assert (outputs[0] - outputs[2]).abs().max() > 0.1
    assert gradients_are_finite(model)
    model.eval()
    assert torch.equal(model(idx)[0], model(idx)[0])
    same = trained_like(case, dropout=0.0)
    torch.testing.assert_close(model(idx)[0], same(idx)[0])


@every_case
def test_attention_weights_are_dropped_too(case):
    model, idx = trained_like(case, dropout=0.5), text(1, 9)
    whole = model(idx)[0]
    for block in model.blocks:
        block.attn.train()  # nothing else drops
    torch.manual_seed(0)
    assert (model(idx)[0] - whole).abs().max() > 1e-2


@every_case
@pytest.mark.parametrize("qk_norm", [False, True])
def test_bfloat16_autocast_runs(case, qk_norm):
    model, idx = trained_like(case, qk_norm=qk_norm), text(2, 9)
    exact = model(idx)[0]
    with torch.autocast("cpu", torch.bfloat16):
        logits, loss = model(idx, idx)
        with record_attention(model) as maps:
            model(idx)
    assert logits.dtype == torch.bfloat16
    assert loss.isfinite()
    assert (logits.float() - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert all(m.isfinite().all() for m in maps)
    loss.backward()
    assert gradients_are_finite(model)


@every_case
def test_rows_of_a_batch_are_independent(case):
    model, idx = trained_like(case), text(4, 9)
    together = model(idx)[0]
    for b in range(4):
        torch.testing.assert_close(model(idx[b : b + 1])[0][0], together[b], atol=1e-5, rtol=1e-5)
    other = idx.clone()
    other[1] = text(1, 9, seed=9)
    rows = [0, 2, 3]
    torch.testing.assert_close(model(other)[0][rows], together[rows], atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- what each output depends on


@every_case
def test_no_output_depends_on_a_later_input_by_autograd(case):
    model = trained_like(case, dtype=torch.float64)
    for T in lengths(case):
        gradients = influence(model, T)
        assert (gradients.triu(1) == 0).all(), f"T = {T}: an output sees the future"
        assert (gradients.diagonal() > 0).all()  # its own input it does see


@every_case
@pytest.mark.parametrize("recording", [False, True])
def test_no_output_depends_on_a_later_input_by_perturbation(case, recording):
    model = trained_like(case, dtype=torch.float64)

    def run(idx):
        if not recording:
            return model(idx)[0]
        with record_attention(model):
            return model(idx)[0]

    for T in lengths(case):
        idx = text(1, T)
        changed = idx.repeat(T, 1)
        changed[range(T), range(T)] = (
            changed.diagonal() % (V - 1) + 1
        )  # row j: input j is another one
        before, after = run(idx)[0], run(changed)
        for j in range(T):
            torch.testing.assert_close(after[j, :j], before[:j], atol=1e-12, rtol=0)
            assert (after[j, j] - before[j]).abs().max() > 1e-6


@every_case
def test_prefixes_give_the_same_outputs_as_the_whole(case):
    model, idx = trained_like(case), text(2, case[1])
    whole = model(idx)[0]
    for T in range(1, case[1]):
        torch.testing.assert_close(model(idx[:, :T])[0], whole[:, :T], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", COMPLETE, ids=name)
def test_every_output_depends_on_every_earlier_input(case):
    model = trained_like(case, dtype=torch.float64)
    for T in lengths(case):
        past = torch.ones(T, T, dtype=torch.bool).tril()
        assert (influence(model, T)[past] > 1e-12).all(), f"T = {T}: something is lost"


@pytest.mark.parametrize("case", COMPLETE, ids=name)
def test_two_layers_are_complete_already(case):
    model = trained_like(case, dtype=torch.float64, n_layer=2)
    gradients = influence(model, case[1])
    assert (gradients[torch.ones_like(gradients, dtype=torch.bool).tril()] > 1e-12).all()


@pytest.mark.parametrize("case", [("perceiver", 13, m) for m in (1, 2, 5, 13)], ids=name)
def test_the_assignments_perceiver_sees_its_first_inputs_and_its_own_exactly(case):
    m = case[2]
    model = trained_like(case, dtype=torch.float64)
    for T in lengths(case):
        t, j = torch.arange(T)[:, None], torch.arange(T)[None]
        expected = (j <= t.clamp(max=m - 1)) | (j == t)
        assert torch.equal(influence(model, T) > 1e-12, expected)


@pytest.mark.parametrize(("m", "counts"), [(32, [11, 32, 33, 33, 33]), (64, [11, 32, 64, 65, 65])])
def test_the_perceivers_reach_at_full_size(m, counts):
    """The published table: inputs that outputs 10, 31, 63, 80 and 127 of a block of 128 can see."""
    model, at = (
        trained_like(("perceiver", 128, m), dtype=torch.float64, n_layer=2),
        [10, 31, 63, 80, 127],
    )
    outputs = []
    model.tok_emb.register_forward_hook(
        lambda module, args, out: outputs.append(out.detach().requires_grad_()) or outputs[0]
    )
    logits = model(text(1, 128).expand(len(at), -1))[0]
    sum(logits[row, t, :5].sum() for row, t in enumerate(at)).backward()
    assert (outputs[0].grad.abs().amax(-1) > 0).sum(-1).tolist() == counts


def test_only_the_local_window_keeps_wide_strides_complete():
    """s = 4 without it: at most two of the newest inputs are missing, the rest is still there."""
    model = trained_like(("perceiver_ar", 12, 3), dtype=torch.float64)
    model.blocks[-1].local.data.zero_()
    past = torch.ones(12, 12, dtype=torch.bool).tril()
    missing = ((influence(model, 12) == 0) & past).sum(-1)
    assert missing.tolist() == [max((t + 1) % 4 - 1, 0) for t in range(12)]
    assert missing.max() == 2


def test_first_outputs_of_perceiver_ar_look_at_the_null_latent_alone():
    model = trained_like(("perceiver_ar", 13, 4))  # s = 4: outputs 0, 1, 2 have no legal latent
    with record_attention(model) as maps:
        model(text(2, 13))
    up = maps[-1]
    assert (up[:, :, :3, 0] == 1).all()
    assert (up[:, :, :3, 1:] == 0).all()
    assert (up[:, :, 3, 1] > 0).all()


# ---------------------------------------------------------------- variants are really wired


def test_variants_compute_different_things_with_the_same_weights():
    idx, outputs = text(2, 9), {}
    weights = trained_like(VANILLA).state_dict()
    for case in ONE_EACH:
        model = trained_like(case)
        model.load_state_dict(
            {k: v for k, v in weights.items() if k in model.state_dict()}, strict=False
        )
        outputs[case[0]] = model(idx)[0]
    for a in VARIANTS:
        for b in VARIANTS:
            assert a == b or (outputs[a] - outputs[b]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("case", "knob"),
    [
        (VANILLA, {"qk_norm": True}),
        (ROPE, {"qk_norm": True}),
        (ROPE, {"rope_base": 100.0}),
        (PERCEIVER_AR[1], {"rope_base": 100.0}),
        (VANILLA, {"n_head": 4}),
    ],
    ids=str,
)
def test_flags_change_the_computation(case, knob):
    plain, changed = trained_like(case), trained_like(case, **knob)
    assert plain.state_dict().keys() == changed.state_dict().keys()
    assert (plain(text(2, 9))[0] - changed(text(2, 9))[0]).abs().max() > 1e-3


@pytest.mark.parametrize("variant", ["perceiver", "perceiver_ar"])
def test_the_bottleneck_changes_the_computation(variant):
    sizes = []
    for bottleneck in (4, 7):
        with record_attention(model := trained_like((variant, 13, bottleneck))) as maps:
            model(text(1, 13))
        sizes.append(maps[1].size(-1))
    assert sizes == [4, 7]


def test_the_bottleneck_is_of_no_account_without_latents():
    a, b = trained_like(("vanilla", 13, 4)), trained_like(("vanilla", 13, 7))
    assert torch.equal(a(text(1, 13))[0], b(text(1, 13))[0])


# ---------------------------------------------------------------- positions


def test_without_positions_the_past_is_a_bag_and_with_them_it_is_not():
    idx = text(1, 8)
    mixed = idx[:, [4, 1, 0, 6, 2, 5, 3, 7]]  # the last input stays
    assert not torch.equal(idx, mixed)

    def differ(model):
        return (model(idx)[0][0, -1] - model(mixed)[0][0, -1]).abs().max()

    bag = trained_like(VANILLA, n_layer=1)
    with_positions = differ(bag)
    bag.pos_emb.data.zero_()
    assert differ(bag) < 1e-5
    assert with_positions > 1e-2
    assert differ(trained_like(ROPE, n_layer=1)) > 1e-2


@pytest.mark.parametrize("case", [ROPE, PERCEIVER_AR[2]], ids=name)
def test_the_models_table_comes_from_the_head_dimension(case):
    model = trained_like(case, n_embd=32)  # 2 heads of 16
    assert model.rotary.cos.shape == model.rotary.sin.shape == (13 + model.config.stride, 8)
    expected = torch.tensor([10000 ** (-2 * i / 16) for i in range(8)])
    torch.testing.assert_close(
        torch.atan2(model.rotary.sin[1], model.rotary.cos[1]), expected
    )  # position 1 shows the angles
    torch.testing.assert_close(model.rotary.cos[:13], rotary_table(torch.arange(13), 16)[0])
    assert torch.equal(model.rotary.cos[0], torch.ones(8))
    based = trained_like(case, n_embd=32, rope_base=50.0)
    torch.testing.assert_close(
        torch.atan2(based.rotary.sin[1], based.rotary.cos[1]), rotary_frequencies(16, 50.0)
    )


def test_scores_through_the_models_own_layout_depend_on_the_distance_alone():
    """One vector at all positions: scores are then constant along the diagonals."""
    model = trained_like(ROPE, n_head=4, n_embd=32)
    attention = model.blocks[1].attn
    x = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0)).expand(2, 13, 32)
    q, k = attention.split_heads(attention.query(x)), attention.split_heads(attention.key(x))
    assert q.shape == (2, 4, 13, 8)
    rotation = model.rotary(torch.arange(13)[None])
    turned_q, turned_k = rotate(q, *rotation), rotate(k, *rotation)
    assert torch.equal(turned_q[:, :, 0], q[:, :, 0])  # position 0 of every head
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
    scores = turned_q @ turned_k.transpose(-2, -1)
    torch.testing.assert_close(scores[..., 1:, 1:], scores[..., :-1, :-1], atol=1e-4, rtol=1e-4)
    assert (
        scores[..., 1:, 0] - scores[..., :-1, 0]
    ).abs().amin() > 1e-5  # and the distance does count
    theta = rotary_frequencies(8)
    pair = torch.complex(q[..., :4], q[..., 4:]) * torch.complex(k[..., :4], k[..., 4:]).conj()
    for distance in (1, 5, 12):
        phase = torch.polar(torch.ones(4), distance * theta)
        torch.testing.assert_close(
            scores[..., distance, 0], (pair[..., 0, :] * phase).real.sum(-1), atol=1e-4, rtol=1e-4
        )


def test_the_recorded_rope_map_is_the_formula_with_turned_queries_and_keys():
    model, idx = trained_like(ROPE, n_layer=1), text(1, 7)
    with record_attention(model) as maps:
        model(idx)
    attention, x = model.blocks[0].attn, model.blocks[0].ln1(model.tok_emb(idx))
    q, k = attention.query(x)[0], attention.key(x)[0]
    theta = 10000.0 ** (-torch.arange(4) / 4)
    for h in range(2):
        a = torch.complex(q[:, 8 * h : 8 * h + 4], q[:, 8 * h + 4 : 8 * h + 8])
        b = torch.complex(k[:, 8 * h : 8 * h + 4], k[:, 8 * h + 4 : 8 * h + 8])
        for t in range(7):
            phase = torch.polar(torch.ones(t + 1, 4), (t - torch.arange(t + 1))[:, None] * theta)
            scores = (a[t] * b[: t + 1].conj() * phase).real.sum(-1) / 8**0.5
            torch.testing.assert_close(
                maps[0][0, h, t, : t + 1], scores.softmax(-1), atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("k", [1, 3, 6])
def test_a_shifted_text_changes_no_rope_score_between_its_own_characters(k):
    def scores(case, shift):
        """Log weights of the first layer, relative to each row's own position."""
        model = trained_like(case)
        with record_attention(model) as maps:
            model(torch.cat([text(1, shift, seed=5), text(1, 7)], dim=1))
        logs = maps[0][..., shift:, shift:].clamp(min=1e-30).log()
        return (logs - logs.diagonal(dim1=-2, dim2=-1)[..., None]).tril()

    torch.testing.assert_close(scores(ROPE, k), scores(ROPE, 0), atol=2e-4, rtol=1e-4)
    assert (scores(VANILLA, k) - scores(VANILLA, 0)).abs().max() > 0.1


def test_rope_as_a_whole_knows_distances_alone():
    idx, here = text(2, 7), torch.arange(7)[None]
    rope, vanilla = trained_like(ROPE), trained_like(VANILLA)
    torch.testing.assert_close(
        rope.head(rope.hidden(idx, here + 5)), rope(idx)[0], atol=1e-4, rtol=1e-4
    )
    assert (vanilla.head(vanilla.hidden(idx, here + 5)) - vanilla(idx)[0]).abs().max() > 0.1
