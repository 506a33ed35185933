"""Patches, the Vision Transformer, rollout, positions, the digits and their training."""

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kt_core.attention import MultiHeadAttention, causal_mask, record_attention
from kt_core.blocks import Block
from kt_core.train_config import TrainConfig
from kt_core.trainer import Trainer
from kt_course.chapters.vision_transformer.vision import (
    HIDDEN,
    PatchFiller,
    Pictures,
    ViT,
    ViTConfig,
    attention_rollout,
    classify,
    grid_correlation,
    load_digits,
    patch_convolution,
    patchify,
    permute_patches,
    random_shifts,
    score_pictures,
    shift_images,
    unpatchify,
)

FEW = settings(max_examples=20, deadline=None)
SIDES = st.integers(1, 4)
KINDS = [
    dict(pool=pool, positions=positions)
    for pool in ("class", "mean")
    for positions in ("learned", "none")
]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vit(seed=0, **knobs):
    """A ViT whose weights are all away from their start, in eval mode."""
    model = ViT(ViTConfig(**dict(n_layer=2, n_head=2, n_embd=8) | knobs))
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data = 0.5 * torch.randn(p.shape, generator=generator)
    return model.eval()


# ---------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(patch_size=3), r"patch_size must be a divisor of image_size \(8\), not 3"),
        (dict(n_embd=10), r"n_embd must be a multiple of n_head \(4\), not 10"),
        (dict(n_layer=0), "ViTConfig.n_layer must be a whole number of at least 1, not 0"),
        (dict(n_head=True), "ViTConfig.n_head"),
        (dict(patch_size=2.0), "ViTConfig.patch_size must be a whole number"),
        (dict(pool="max"), "ViTConfig.pool must be one of class, mean, not 'max'"),
        (dict(positions="rope"), "ViTConfig.positions must be one of learned, none"),
        (dict(dropout=1.0), r"ViTConfig.dropout must be in \[0, 1\), not 1.0"),
        (dict(dropout="a"), "ViTConfig.dropout"),
        (dict(zero_init=1), "ViTConfig.zero_init must be True or False, not 1"),
    ],
)
def test_a_config_that_no_model_can_have(wrong, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**wrong)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ViTConfig().pool = "mean"


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_counts_of_patches_and_tokens_are_those_of_the_model(pool):
    config = ViTConfig(image_size=12, patch_size=3, channels=2, pool=pool, n_embd=8, n_head=2)
    patches = patchify(torch.zeros(1, 2, 12, 12), 3)
    assert (config.grid, config.n_patches) == (4, patches.size(1))
    assert (
        vit(image_size=12, patch_size=3, channels=2, pool=pool).embed(patches).size(1)
        == config.n_tokens
    )


# ---------------------------------------------------------------- patches


@FEW
@given(p=SIDES, rows=SIDES, columns=SIDES, c=st.integers(1, 3), B=st.integers(0, 3))
def test_patches_are_the_squares_of_the_picture(p, rows, columns, c, B):
    images = random(B, c, rows * p, columns * p)
    patches = patchify(images, p)
    assert patches.shape == (B, rows * columns, c * p * p)
    for n, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
        square = images[:, :, i * p : (i + 1) * p, j * p : (j + 1) * p]
        assert torch.equal(patches[:, n], square.flatten(1))
    torch.testing.assert_close(
        patches, F.unfold(images, p, stride=p).mT, atol=0, rtol=0
    ) if B else None


@FEW
@given(p=SIDES, grid=SIDES, c=st.integers(1, 3))
def test_patches_put_together_are_the_picture(p, grid, c):
    images = random(2, c, grid * p, grid * p)
    assert torch.equal(unpatchify(patchify(images, p), c), images)


def test_patches_that_do_not_fill_the_picture_or_make_none():
    for p in (3, 0, -1):
        with pytest.raises(ValueError, match=f"patches of {p} x {p} do not fill an image of 8 x 8"):
            patchify(torch.zeros(1, 1, 8, 8), p)
    for shape, c in (((1, 5, 4), 1), ((1, 4, 5), 1), ((1, 4, 4), 3)):
        with pytest.raises(ValueError, match="make no square image"):
            unpatchify(torch.zeros(shape), c)


@FEW
@given(p=SIDES, grid=SIDES, c=st.integers(1, 3), C=st.integers(1, 5))
def test_the_patch_embedding_is_a_strided_convolution(p, grid, c, C):
    images, linear = random(2, c, grid * p, grid * p), nn.Linear(c * p * p, C)
    with torch.no_grad():
        expected = linear(patchify(images, p))
        y = patch_convolution(images, linear.weight, linear.bias, p)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_patches_in_another_order():
    images = random(3, 2, 6, 6)
    orders = torch.stack(
        [torch.randperm(9, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    )
    patches, moved = patchify(images, 2), patchify(permute_patches(images, 2, orders), 2)
    for b in range(3):
        assert torch.equal(moved[b], patches[b, orders[b]])
    assert torch.equal(
        permute_patches(images, 2, orders[0])[1], permute_patches(images[1:2], 2, orders[0])[0]
    )
    back = permute_patches(permute_patches(images, 2, orders), 2, orders.argsort(-1))
    assert torch.equal(back, images)


# ---------------------------------------------------------------- shifts


@FEW
@given(down=st.integers(-4, 4), right=st.integers(-4, 4))
def test_a_shift_moves_the_ink_and_lets_zeros_in(down, right):
    images = random(2, 2, 3, 4)
    moved = shift_images(images, down, right)
    for i, j in itertools.product(range(3), range(4)):
        inside = 0 <= i - down < 3 and 0 <= j - right < 4
        expected = images[:, :, i - down, j - right] if inside else torch.zeros(2, 2)
        assert torch.equal(moved[:, :, i, j], expected)
    assert torch.equal(shift_images(images[0], down, right), moved[0])


def test_random_shifts_reach_every_direction_and_repeat_from_their_seed():
    images = torch.zeros(400, 1, 5, 5)
    images[:, 0, 2, 2] = 1.0
    data = Pictures(images, torch.zeros(400, dtype=torch.long)).augmented(random_shifts(1))

    def shifted(data, epoch=0):
        return torch.stack([data.tokens(i, epoch)[0] for i in range(len(data))])

    positions = {tuple(image.nonzero()[0].tolist()) for image in shifted(data)[:, 0]}
    assert positions == set(itertools.product((1, 2, 3), repeat=2))
    assert torch.equal(shifted(data), shifted(data.augmented(random_shifts(1))))
    assert not torch.equal(shifted(data), shifted(data, epoch=1))
    assert not torch.equal(shifted(data), shifted(data.augmented(random_shifts(1), seed=1)))


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_model_by_hand(kind):
    """The formula of the paper, written out with the model's weights."""
    model, images = vit(qk_norm=False, **kind), random(3, 1, 8, 8)
    x = F.unfold(images, 2, stride=2).mT @ model.patch_emb.weight.T + model.patch_emb.bias
    if kind["pool"] == "class":
        x = torch.cat([model.class_token.repeat(3, 1, 1), x], 1)
    if kind["positions"] == "learned":
        x = x + model.pos_emb
    for block in model.blocks:
        h, a = block.ln1(x), block.attn
        q, k, v = (f(h).unflatten(-1, (2, 4)).transpose(1, 2) for f in (a.query, a.key, a.value))
        weights = (q @ k.mT / 2.0).softmax(-1)  # two heads of 4 channels, no mask
        x = x + a.proj((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp.proj(F.gelu(block.mlp.up(block.ln2(x))))
    x = model.ln_f(x)
    expected = model.head(x[:, 0] if kind["pool"] == "class" else x.mean(1))
    labels = torch.tensor([1, 2, 3])
    logits, loss = model(images, labels)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, F.cross_entropy(expected, labels), atol=1e-4, rtol=1e-4)
    assert model(images)[1] is None


def test_blocks_and_attention_are_those_of_the_gpt_and_every_token_reads_every_token():
    model = vit()
    assert all(
        type(block) is Block and type(block.attn) is MultiHeadAttention for block in model.blocks
    )
    with record_attention(model) as maps:
        recorded = model(random(2, 1, 8, 8))[0]
    torch.testing.assert_close(recorded, model(random(2, 1, 8, 8))[0], atol=1e-5, rtol=1e-4)
    assert [tuple(m.shape) for m in maps] == [(2, 2, 17, 17)] * 2
    for m in maps:
        assert (m > 0).all()
        torch.testing.assert_close(m.sum(-1), torch.ones(2, 2, 17))


def test_a_mask_handed_to_the_block_is_used_so_a_causal_class_token_is_blind():
    model = vit()
    x = model.embed(patchify(random(2, 1, 8, 8), 2))
    for block in model.blocks:
        x = block(x, mask=causal_mask(17))
    assert torch.equal(x[0, 0], x[1, 0])
    assert not torch.equal(x[0, -1], x[1, -1])


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_without_positions_the_order_of_the_patches_means_nothing(pool):
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    images = random(4, 1, 8, 8)
    bag, ordered = vit(pool=pool, positions="none"), vit(pool=pool)
    shuffled = permute_patches(images, 2, order)
    torch.testing.assert_close(bag(shuffled)[0], bag(images)[0], atol=1e-4, rtol=1e-4)
    assert (ordered(shuffled)[0] - ordered(images)[0]).abs().max() > 0.01
    front = ordered.config.n_tokens - 16
    rows = ordered.pos_emb.data
    ordered.pos_emb.data = torch.cat(
        [rows[:, :front], rows[:, front:][:, order]], 1
    )  # the positions move along
    torch.testing.assert_close(
        ordered(shuffled)[0], vit(pool=pool)(images)[0], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients_reach_every_weight(kind):
    model = vit(**kind).train()
    model(random(3, 1, 8, 8), torch.tensor([0, 1, 2]))[1].backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters()
    )


def test_blocks_start_as_the_identity_if_asked_and_pictures_of_other_sizes_are_refused():
    model, patches = ViT(ViTConfig()), patchify(random(2, 1, 8, 8), 2)
    torch.testing.assert_close(model.encode(patches), model.ln_f(model.embed(patches)))
    rough = ViT(ViTConfig(zero_init=False))
    assert not torch.allclose(rough.encode(patches), rough.ln_f(rough.embed(patches)), atol=1e-3)
    for shape in ((1, 1, 8, 6), (1, 3, 8, 8), (1, 1, 16, 16)):
        with pytest.raises(ValueError, match="channels, height and width must be the config's"):
            model(torch.zeros(shape))


# ---------------------------------------------------------------- filling hidden patches


def test_the_filler_sees_nothing_of_what_is_hidden_and_is_scored_there_alone():
    torch.manual_seed(0)
    filler, images = PatchFiller(vit()).eval(), torch.rand(2, 1, 8, 8)
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, [2, 5]] = True
    predicted, loss = filler(images, hidden=hidden)
    assert predicted.shape == (2, 16, 4)
    patches = patchify(images, 2)
    torch.testing.assert_close(loss, F.mse_loss(predicted[hidden], patches[hidden]))
    patches[:, [2, 5]] = torch.rand(2, 2, 4)
    other, _ = filler(unpatchify(patches), hidden=hidden)
    assert torch.equal(other, predicted)
    assert HIDDEN < images.min()


def test_the_filler_hides_its_share_trains_the_vit_and_wants_a_share():
    model = vit()
    filler = PatchFiller(model, share=0.25).train()
    before = model.patch_emb.weight.clone()
    masks = []
    model.patch_emb.register_forward_pre_hook(
        lambda module, inputs: masks.append((inputs[0] == HIDDEN).all(-1))
    )
    data = Pictures(torch.rand(400, 1, 8, 8), torch.zeros(400, dtype=torch.long))
    config = TrainConfig(steps=8, batch_size=100, learning_rate=1e-2, device="cpu")
    Trainer(filler, data, config).fit()
    assert abs(torch.stack(masks).float().mean() - 0.25) < 0.02
    assert not torch.equal(model.patch_emb.weight, before)
    for share in (0.0, 1.0, -1):
        with pytest.raises(ValueError, match="share must lie between 0 and 1"):
            PatchFiller(model, share)


# ---------------------------------------------------------------- rollout and positions


def ways(maps, start, end):
    """Sum the products of weights over all paths from a token through the layers, last to first."""
    total = 0.0
    T = maps[0].size(-1)
    for between in itertools.product(range(T), repeat=len(maps) - 1):
        stops = [start, *between, end]
        steps = zip(reversed(maps), itertools.pairwise(stops), strict=True)
        total += math.prod((m[0].mean(0)[a, b].item() + (a == b)) / 2 for m, (a, b) in steps)
    return total


def test_rollout_is_the_sum_over_all_ways_through_the_layers():
    maps = list(random(3, 1, 2, 4, 4).softmax(-1))
    rolled = attention_rollout(maps)
    for start, end in itertools.product(range(4), repeat=2):
        assert rolled[0, start, end].item() == pytest.approx(ways(maps, start, end), abs=1e-5)
    torch.testing.assert_close(rolled.sum(-1), torch.ones(1, 4))
    with pytest.raises(ValueError, match="at least one layer"):
        attention_rollout([])


def test_rollout_of_a_layer_that_looks_at_itself_changes_nothing():
    maps = [random(2, 3, 5, 5).softmax(-1), torch.eye(5).expand(2, 3, 5, 5)]
    torch.testing.assert_close(attention_rollout(maps), attention_rollout(maps[:1]))


@pytest.mark.parametrize("grid", [2, 4, 7])
def test_grid_correlation_against_numpy_and_its_ends(grid):
    positions = random(grid * grid, 6, seed=grid)
    place = np.array(list(itertools.product(range(grid), repeat=2)), float)
    alike, far = [], []
    for a, b in itertools.combinations(range(grid * grid), 2):
        alike.append(F.cosine_similarity(positions[a], positions[b], dim=0).item())
        far.append(np.linalg.norm(place[a] - place[b]))
    assert grid_correlation(positions) == pytest.approx(np.corrcoef(alike, far)[0, 1], abs=1e-5)


def test_grid_correlation_knows_a_grid_from_noise_and_from_a_line():
    place = torch.tensor(list(itertools.product(range(6), repeat=2))).float()
    centres = place[:, None] - place[None]
    bumps = torch.exp(-centres.square().sum(-1) / 8)  # near patches have similar rows
    assert grid_correlation(bumps) < -0.9
    assert abs(grid_correlation(random(36, 400))) < 0.2
    assert (
        grid_correlation(bumps[torch.randperm(36, generator=torch.Generator().manual_seed(0))])
        > -0.3
    )
    for n in (1, 17):
        with pytest.raises(ValueError, match=f"{n} positions fill no square grid"):
            grid_correlation(torch.zeros(n, 3))


# ---------------------------------------------------------------- digits and training


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    return load_digits()


def test_the_splits_are_scikit_learns_digits_each_once_and_always_the_same(digits):
    from sklearn import datasets

    theirs = datasets.load_digits()
    assert [len(part) for part in digits] == [1077, 360, 360]
    every = torch.cat([part.images for part in digits]).flatten(1)
    pixels = sorted(map(tuple, (every * 16).round().int().tolist()))
    assert pixels == sorted(map(tuple, theirs.data.astype(int).tolist()))
    assert every.min() == 0 and every.max() == 1
    by_picture = {
        tuple(row): label
        for row, label in zip(theirs.data.astype(int).tolist(), theirs.target, strict=True)
    }
    test = digits[2]
    for image, label in zip(
        (test.images * 16).round().int().flatten(1).tolist(), test.labels, strict=True
    ):
        assert by_picture[tuple(image)] == label
    assert test.labels[:12].tolist() == load_digits()[2].labels[:12].tolist() == FIRST_OF_TEST
    assert all(part.labels.bincount(minlength=10).min() >= 0.06 * len(part) for part in digits)


FIRST_OF_TEST = [4, 7, 8, 5, 0, 5, 5, 1, 1, 1, 1, 6]


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        load_digits()


def test_importing_it_needs_no_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None; "
    code += "import kt_course.chapters.vision_transformer.vision"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=120,
        cwd=Path(__file__).resolve().parents[3],
    )


def bars(n, seed=0):
    """Noisy pictures with one bright row (class 0 ... 3) or column (class 4 ... 7) of patches."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(8, (n,), generator=generator)
    images = 0.3 * torch.rand(n, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        at = slice(2 * (label % 4), 2 * (label % 4) + 2)
        image[0, at] += 0.7 * (label < 4)
        image[0, :, at] += 0.7 * (label >= 4)
    return Pictures(images.clamp(max=1), labels)


SETTINGS = TrainConfig(
    steps=60, batch_size=64, learning_rate=1e-2, optimizer="muon", weight_decay=0.0, device="cpu"
)


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_it_learns_what_needs_two_dimensions(pool):
    torch.manual_seed(0)
    model = ViT(ViTConfig(n_embd=16, n_head=2, n_layer=2, pool=pool))
    history = Trainer(model, bars(256), SETTINGS).fit()
    assert score_pictures(model, bars(200, seed=1)).accuracy > 0.95
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert not model.training


def test_training_repeats_from_its_seed():
    def train(seed):
        torch.manual_seed(5)
        model = ViT(ViTConfig(n_embd=8, n_head=2, n_layer=1))
        torch.manual_seed(99 + seed)  # what happened before does not matter
        config = dataclasses.replace(SETTINGS, seed=seed, steps=5)
        Trainer(model, bars(70).augmented(random_shifts(), seed), config).fit()
        return torch.cat([p.flatten() for p in model.parameters()])

    one, two, other = train(0), train(0), train(1)
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_every_picture_comes_once_per_epoch_and_is_augmented_again():
    batches = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(nn.Linear(64, 10))

        def forward(self, images, labels):
            batches.append((images, labels))
            logits = self.blocks(images.flatten(1))
            return logits, F.cross_entropy(logits, labels)

    data = Pictures(torch.rand(10, 1, 8, 8), torch.arange(10))
    Trainer(Spy(), data, TrainConfig(epochs=2, batch_size=4, device="cpu")).fit()
    assert sorted(len(labels) for _, labels in batches) == [2, 2, 4, 4, 4, 4]
    epochs = [torch.cat([labels for _, labels in batches[i : i + 3]]).tolist() for i in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10)) and epochs[0] != epochs[1]
    assert all(torch.equal(images, data.images[labels]) for images, labels in batches)
    batches.clear()
    config = TrainConfig(epochs=2, batch_size=10, device="cpu")
    Trainer(Spy(), data.augmented(random_shifts()), config).fit()
    (one, labels), (two, other) = batches
    assert not torch.equal(one[labels.argsort()], two[other.argsort()])


def test_a_loss_that_is_no_number_stops_the_training():
    model = vit()
    model.head.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        Trainer(model, bars(8), TrainConfig(steps=1, batch_size=8, device="cpu")).fit()


def test_scores_count_right_answers():
    model, data = vit(), bars(30)
    right = model(data.images)[0].argmax(-1)
    assert torch.equal(classify(model.train(), data.images), right)
    wrong = Pictures(data.images, (right + 1) % 10)
    wrong.labels[:12] = right[:12]
    assert (score_pictures(model, wrong).correct, score_pictures(model, wrong).total) == (12, 30)
    assert len(data[:7]) == 7 and torch.equal(data[[3, 1]].labels, data.labels[[3, 1]])
