"""The fast paths compute what the core computes, within rounding error."""

from __future__ import annotations

import copy

import pytest
import torch
from small_training import VOCAB, tiny

import kt_core as kt
from kt_core.attention import attend, causal_mask, masked_softmax, scaled_dot_product_score
from kt_core.blocks import VARIANTS
from kt_core.decoding import next_logits
from kt_core.kv_cache import KVCache
from kt_core.runs.fast_paths import (
    CPUDropout,
    LastBlock,
    fast_attend,
    softmax_of_scores,
    use_fast_paths,
)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "mask",
    [
        None,
        causal_mask(7),
        causal_mask(7)[None, None],
        (numbers(5, 1, 7, 7) > 0) | torch.eye(7, dtype=torch.bool),  # a mask per row
        (numbers(1, 1, 1, 7) > -1) | (torch.arange(7) == 0),  # padding
        causal_mask(7).roll(1, 0),  # the first query... attends to all, none is empty
        causal_mask(7) & (torch.arange(7)[:, None] > 2),  # queries that may attend to nothing
    ],
    ids=["none", "causal", "causal 4d", "per row", "padding", "rolled", "empty rows"],
)
def test_attention_gives_the_formulas_context(mask, dtype):
    q, k, v = (numbers(5, 2, 7, 4, seed=seed).to(dtype) for seed in range(3))
    context, weights = fast_attend(q, k, v, mask)
    expected, expected_weights = attend(q, k, v, mask)
    tolerance = dict(atol=1e-5, rtol=1e-4) if dtype == torch.float32 else dict(atol=0.03, rtol=0.02)
    torch.testing.assert_close(context, expected, **tolerance)
    if weights is not None:
        torch.testing.assert_close(weights, expected_weights, **tolerance)


def test_the_masked_softmax_of_the_scores_and_its_gradients():
    query, key = (numbers(2, 3, 7, 4, seed=seed).requires_grad_() for seed in (1, 2))
    factors = numbers(2, 3, 7, 7, seed=3)
    fast = softmax_of_scores(query, key, causal_mask(7))
    slow = masked_softmax(scaled_dot_product_score(query, key), causal_mask(7))
    torch.testing.assert_close(fast, slow)
    assert (fast.triu(1) == 0).all()
    gradients, expected = (
        torch.autograd.grad((weights * factors).sum(), (query, key)) for weights in (fast, slow)
    )
    torch.testing.assert_close(gradients, expected)


def test_dropout_is_applied_to_the_weights_in_training_alone():
    q, k, v = (numbers(5, 2, 7, 4, seed=seed) for seed in range(3))
    drop = CPUDropout(0.5)
    torch.manual_seed(0)
    context, weights = fast_attend(q, k, v, causal_mask(7), drop)
    torch.manual_seed(0)
    torch.testing.assert_close(context, drop(weights) @ v)
    torch.testing.assert_close(weights, attend(q, k, v, causal_mask(7))[1])  # before dropout
    still, _ = fast_attend(q, k, v, causal_mask(7), drop.eval())
    torch.testing.assert_close(still, attend(q, k, v, causal_mask(7))[0])


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("training", [True, False])
def test_models_give_the_same_logits_loss_and_gradients(variant, training):
    plain = tiny(variant).train(training)
    fast = use_fast_paths(copy.deepcopy(plain))
    idx = torch.randint(2, len(VOCAB), (3, 20), generator=torch.Generator().manual_seed(0))
    for model in (plain, fast):
        model(idx, idx)[1].backward()
    torch.testing.assert_close(fast(idx)[0], plain(idx)[0], atol=1e-5, rtol=1e-4)
    for mine, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("start", [[], [5, 6, 7]], ids=["nothing shared", "a shared start"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_prompts_and_steps_give_the_same_logits(variant, start):
    plain = tiny(variant).eval()
    fast = use_fast_paths(copy.deepcopy(plain))
    texts = [start + [2 + row, *range(3, 3 + n)] for row, n in enumerate((1, 9, 4))]
    cache = KVCache(fast, len(texts))
    with torch.no_grad():
        for _ in range(3):
            expected = torch.stack([plain(torch.tensor([text]))[0][0, -1] for text in texts])
            torch.testing.assert_close(
                next_logits(fast, texts, cache), expected, atol=1e-5, rtol=1e-4
            )
            texts = [[*text, 4] for text in texts]
    assert isinstance(fast.blocks[-1], LastBlock) == (variant in ("vanilla", "rope"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_is_recorded_as_before(variant):
    plain = tiny(variant, dropout=0.1).eval()
    fast = use_fast_paths(copy.deepcopy(plain))
    idx = torch.randint(2, len(VOCAB), (3, 20), generator=torch.Generator().manual_seed(0))
    recorded = []
    for model in (plain, fast):
        with kt.record_attention(model) as maps:
            model(idx)
        recorded.append(maps)
    for mine, theirs in zip(*recorded, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert fast.blocks[0].attn.attend is fast_attend  # restored after the recording


def test_exchanging_twice_changes_nothing_more_and_keeps_the_mode_and_the_weights():
    model = tiny(dropout=0.1).eval()
    names = list(model.state_dict())
    assert use_fast_paths(use_fast_paths(model)) is model
    drops = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert drops and all(type(m) is CPUDropout and m.p == 0.1 and not m.training for m in drops)
    assert list(model.state_dict()) == names


# ---------------------------------------------------------------- dropout


def test_dropout_of_nearly_everything():
    assert CPUDropout(0.999999)(torch.ones(1000)).count_nonzero() < 10


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(p, dtype):
    x = torch.ones(300, 1001, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    y = CPUDropout(p)(x)
    assert y.dtype == dtype
    is_zero = y == 0
    # more than five standard deviations of 300,300 draws
    assert abs(float(is_zero.float().mean()) - p) < 0.005
    others = y[~is_zero].detach()
    torch.testing.assert_close(others, torch.full_like(others, 1 / (1 - p)))
    for axis in (0, 1):  # no row or column is favoured
        assert (is_zero.float().mean(axis) - p).abs().max() < 0.2
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # what was dropped learns nothing


def test_dropout_draws_from_the_global_generator_and_is_off_where_it_should_be():
    x, drop = numbers(3, 5), CPUDropout(0.5)
    outputs = []
    for _ in range(2):
        torch.manual_seed(1)
        outputs.append(drop(x))
    assert torch.equal(*outputs) and not torch.equal(outputs[0], drop(x))
    assert torch.equal(drop.eval()(x), x) and torch.equal(CPUDropout(0.0)(x), x)
    assert drop.train()(torch.empty(0, 3)).shape == (0, 3)
