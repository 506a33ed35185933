"""Exercises of notebook 01: scores, masks, softmax, heads, positions, and a test for leaks.

Each check begins with a fixed case. The outcomes of known mistakes are computed beside it, so the
mistake can be named with numbers. Random cases of other sizes follow. Sizes differ from axis to
axis, so that no swap of axes goes unnoticed. The diagnoses are in diagnoses.toml.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_core.attention import (
    MultiHeadAttention,
    additive_score,
    attend,
    causal_mask,
    masked_softmax,
    scaled_dot_product_score,
)
from kt_core.positions import sinusoidal_positions
from kt_course.exercises.assertions import close, describe, expect_close, recognise, tensor
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.multi_head_mistakes import MULTI_HEAD, attention_with_mistake
from kt_course.exercises.random_cases import draw, fresh_generator, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "01_attention_math"


def fixed(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers in float32, the same ones in each run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_sizes(*highest: int, n: int = 3) -> list[tuple[int, ...]]:
    """Draw n tuples of sizes from 1 to the highest of each."""
    return list(zip(*(draw(1, high, n) for high in highest), strict=True))


# ---------------------------------------------------------------- scores


def check_scaled(fn: Callable) -> str:
    wrong = diagnoses(__file__, "scaled-score")
    q, k = fixed(3, 16), fixed(5, 16, seed=1)
    result, products = fn(q, k), q @ k.T
    if isinstance(result, Tensor) and result.shape == (5, 3):
        raise wrong("transposed")
    result = tensor(result, (3, 5), "the scores of 3 queries and 5 keys")
    mistakes = {
        "no scale": products,
        "by d": products / 16,
        "times": products * 4,
        "by keys": products / 5**0.5,
        "by queries": products / 3**0.5,
        "softmax": (products / 4).softmax(-1),
    }
    wrong.blame(result, mistakes)
    if not close(result, products / 4):
        raise wrong("value", score=result[0, 0], expected=products[0, 0] / 4)
    with wrong.fresh_cases("heads"):
        for B, n_head, T, d in draw_sizes(6, 6, 6, 6):
            q, k = numbers(B, n_head, T, d), numbers(B, n_head, T + 2, d)
            expect_close(fn(q, k), scaled_dot_product_score(q, k))
    return "q . k / sqrt(d), for single queries and batches of heads"


def check_additive(fn: Callable) -> str:
    wrong = diagnoses(__file__, "additive-score")
    q, k, v = fixed(3, 4), fixed(5, 6), fixed(7, seed=2)
    w_query, w_key = fixed(4, 7), fixed(6, 7, seed=1)
    result = fn(q, k, w_query, w_key, v)
    if isinstance(result, Tensor) and result.shape == (5, 3):
        raise wrong("transposed")
    if isinstance(result, Tensor) and result.shape == (3, 5, 7):
        raise wrong("hidden")
    result = tensor(result, (3, 5), "the scores of 3 queries and 5 keys")
    queries, keys = (q @ w_query)[:, None], (k @ w_key)[None]  # (3, 1, 7), (1, 5, 7)
    linear, hidden = queries + keys, torch.tanh(queries + keys)  # (3, 5, 7)
    mistakes = {
        "no tanh": linear @ v,
        "tanh last": torch.tanh(linear @ v),
        "no v": hidden.sum(-1),
        "two tanh": (queries.tanh() + keys.tanh()) @ v,
        "product": torch.tanh(queries * keys) @ v,
        "softmax": (hidden @ v).softmax(-1),
    }
    wrong.blame(result, mistakes)
    if not close(result, hidden @ v):
        raise wrong("value", score=result[0, 0], expected=(hidden @ v)[0, 0])
    with wrong.fresh_cases("batch"):
        for B, T in draw_sizes(3, 6):
            shapes = (B + 1, T, 3), (B + 1, T + 1, 2), (3, 5), (2, 5), (5,)
            inputs = [numbers(*shape) for shape in shapes]
            expect_close(fn(*inputs), additive_score(*inputs))
    return "v . tanh(W_q q + W_k k) for every pair of query and key"


# ---------------------------------------------------------------- masks and softmax


def check_causal_mask(fn: Callable) -> str:
    wrong = diagnoses(__file__, "causal-mask")
    mask, expected = tensor(fn(6), (6, 6), "the mask for T = 6"), causal_mask(6)
    if mask.dtype != torch.bool:
        raise wrong("not boolean", dtype=str(mask.dtype).removeprefix("torch."))
    everything = torch.ones(6, 6, dtype=torch.bool)
    mistakes = {
        "swapped": ~expected,
        "upper": expected.T,
        "too wide": everything.tril(1),
        "no diagonal": everything.tril(-1),
    }
    wrong.blame(mask, mistakes)
    if leaks := (mask & ~expected).nonzero().tolist():
        raise wrong("leak", query=leaks[0][0], key=leaks[0][1], count=len(leaks))
    if hidden := (expected & ~mask).nonzero().tolist():
        raise wrong("hidden", query=hidden[0][0], key=hidden[0][1])
    with wrong.fresh_cases("sizes"):
        for T in (1, *draw(2, 40, 4)):
            expect_close(fn(T), causal_mask(T))
    return "position t sees 0 ... t, for every T"


def check_softmax(fn: Callable) -> str:
    wrong = diagnoses(__file__, "masked-softmax")
    scores = fixed(3, 5)
    weights = tensor(fn(scores), (3, 5), "the weights without a mask")
    if close(weights, scores.softmax(0)):
        raise wrong("columns", total=weights[0].sum())
    if close(weights, scores.flatten().softmax(0).view(3, 5)):
        raise wrong("whole")
    if not close(weights, scores.softmax(-1)):
        raise wrong("unmasked", total=weights[0].sum())
    check_softmax_under_a_mask(fn, fixed(5, 5), causal_mask(5))
    check_extreme_scores(fn, fixed(5, 5), causal_mask(5))
    with wrong.fresh_cases("batch"):
        for B, n_head, T in draw_sizes(5, 5, 5):
            scores, mask = numbers(B, n_head, T, T + 2), numbers(T, T + 2) < 0.3
            expect_close(fn(scores, mask), masked_softmax(scores, mask))
    return "softmax over the keys, forbidden ones exactly 0, empty rows 0"


def check_softmax_under_a_mask(fn: Callable, scores: Tensor, mask: Tensor) -> None:
    wrong = diagnoses(__file__, "masked-softmax")
    weights = tensor(fn(scores, mask), (5, 5), "the weights under a causal mask")
    filled = scores.masked_fill(~mask, -math.inf)
    late = scores.softmax(-1) * mask
    if close(weights, late):
        raise wrong("late", total=late[0].sum())
    mistakes = {
        "columns": filled.softmax(0),
        "ignored": scores.softmax(-1),
        "zero scores": (scores * mask).softmax(-1),
    }
    wrong.blame(weights, mistakes)
    leak = weights[~mask].max()
    if leak > 1e-6 and weights[0, 0].nan_to_num() < 1e-6:
        raise wrong("upside down")
    if weights.isnan().any():
        raise wrong("nan")
    if leak > 1e-6:
        raise wrong("forbidden", weight=leak)
    if not close(weights, masked_softmax(scores, mask)):
        row, expected = (
            "[" + ", ".join(f"{weight:.2f}" for weight in w[2].tolist()) + "]"
            for w in (weights, masked_softmax(scores, mask))
        )
        raise wrong("value", row=row, expected=expected)


def check_extreme_scores(fn: Callable, scores: Tensor, mask: Tensor) -> None:
    """Check very low and very high scores, and a query that may attend to nothing."""
    wrong = diagnoses(__file__, "masked-softmax")
    low = tensor(fn(scores - 1e5, mask), (5, 5), "the weights of low scores")
    if low.isnan().any():
        raise wrong("low nan")
    if not close(low, masked_softmax(scores - 1e5, mask)):
        raise wrong("low leak")
    high = tensor(fn(scores * 1e4, mask), (5, 5), "the weights")
    if not close(high, masked_softmax(scores * 1e4, mask)):
        raise wrong("overflow")
    mask = mask.clone()
    mask[0] = False
    row = tensor(fn(scores, mask), (5, 5), "the weights with an empty row")[0]
    if row.isnan().any():
        raise wrong("empty nan")
    if row.abs().sum() > 1e-6:
        raise wrong("empty leak", weight=row.max())


# ---------------------------------------------------------------- heads


def multi_head_with_mistake(layer: MultiHeadAttention, x: Tensor, mask: Tensor, mistake: str):
    """Compute the layer's output, (B, T, C), with a mistake of `diagnoses.toml` or MULTI_HEAD."""
    if mistake in ("view", "stride"):
        B, T, C = x.shape
        n_head, head_dim = layer.n_head, C // layer.n_head
        q, k, v = layer.query(x), layer.key(x), layer.value(x)  # (B, T, C)
        if mistake == "view":
            y, _ = attend(*(z.view(B, n_head, T, head_dim) for z in (q, k, v)), mask)
            return layer.proj(y.reshape(B, T, C))
        heads = (z.view(B, T, head_dim, n_head).permute(0, 3, 1, 2) for z in (q, k, v))
        return layer.proj(attend(*heads, mask)[0].permute(0, 2, 3, 1).reshape(B, T, C))
    orders = {"swapped": lambda q, k, v: (k, q, v), "keys": lambda q, k, v: (q, k, k)}
    allowed = None if mistake == "no mask" else mask
    return attention_with_mistake(layer, x, x, allowed, mistake, orders.get(mistake))


@torch.no_grad()
def check_multi_head(fn: Callable) -> str:
    wrong = diagnoses(__file__, "multi-head")
    layer = randomise(MultiHeadAttention(12, 3), seed=0)
    x, mask = numbers(2, 5, 12, seed=1), causal_mask(5)
    result = tensor(fn(layer, x, mask=mask), x.shape, "the output")
    with_mistake = functools.partial(multi_head_with_mistake, layer, x, mask)
    mistakes = wrong.texts("mistakes") | MULTI_HEAD
    recognise(result, layer(x, mask=mask), with_mistake, mistakes, "the output")
    if not close(tensor(fn(layer, x), x.shape, "the output without a mask"), layer(x)):
        raise wrong("no mask")
    with wrong.fresh_cases("sizes"):
        for n_head, head_dim, T in draw_sizes(5, 5, 6):
            C, mask = n_head * head_dim, causal_mask(T)
            layer, x = randomise(MultiHeadAttention(C, n_head)), numbers(3, T, C)
            expect_close(fn(layer, x, mask=mask), layer(x, mask=mask))
    return "each head works on its own channels, and proj mixes them"


# ---------------------------------------------------------------- an average of two


def average_query(keys: Tensor, a: int, b: int) -> Tensor:
    """Return a query whose weights, softmax(K q), are one half each on the keys a and b.

    The keys, (n, d), are orthonormal. The query is beta (k_a + k_b): both keys score beta and the
    others 0, so the two share all but about n exp(-beta) / 2 of the weight.
    """
    return 20.0 * (keys[a] + keys[b])


def check_average(fn: Callable) -> str:
    wrong = diagnoses(__file__, "average-of-two")
    fixed_case = 32, torch.Generator().manual_seed(0)
    for n, generator in (fixed_case, *((n, fresh_generator()) for n in (5, 64, 64))):
        keys = torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q[:n]  # orthonormal rows
        a, b = (3, 17) if n == 32 else torch.randperm(n, generator=generator)[:2].tolist()
        q = tensor(fn(keys, a, b), (64,), "the query, for keys of 64 channels,").to(keys.dtype)
        weights = (keys @ q).softmax(-1)
        both = weights[a] + weights[b]
        case = f"with {n} keys"
        if n == 32:  # no random numbers in a diagnosis
            case += f", weights {weights[a]:.2f} and {weights[b]:.2f} on the two"
        if not weights.isfinite().all():
            raise wrong("infinite", case=case)
        if both < 0.05:
            raise wrong("away", case=case)
        if (weights[a] - weights[b]).abs() > 0.05 * both:
            raise wrong("unequal", case=case)
        if both < 0.98:
            raise wrong("short", case=case)
    return "one half each, for any number of orthonormal keys up to 64"


# ---------------------------------------------------------------- positions


def check_clocks(fn: Callable) -> str:
    wrong = diagnoses(__file__, "sinusoidal-positions")
    T, C = 50, 8
    result = fn(T, C)
    if isinstance(result, Tensor) and result.shape == (C, T):
        raise wrong("transposed")
    result = tensor(result, (T, C), "the table of 50 positions and 8 channels")
    t, i, channel = torch.arange(T)[:, None], torch.arange(C // 2), torch.arange(C)

    def table(angle: Tensor, first: Callable = torch.sin, second: Callable = torch.cos) -> Tensor:
        return torch.stack([first(angle), second(angle)], -1).flatten(1)

    angle, own = t / 10000 ** (2 * i / C), t / 10000 ** (channel / C)  # (T, C/2), (T, C)
    mistakes = {
        "halves": torch.cat([angle.sin(), angle.cos()], -1),
        "swapped": table(angle, torch.cos, torch.sin),
        "exponent": table(t / 10000 ** (i / C)),
        "own": torch.where(channel % 2 == 0, own.sin(), own.cos()),
        "multiplied": table(t * 10000 ** (2 * i / C)),
        "from 1": table((t + 1) / 10000 ** (2 * i / C)),
    }
    wrong.blame(result, mistakes, tolerance=1e-3)
    expected = sinusoidal_positions(T, C)
    if not close(result, expected, 1e-3):
        differs = (result - expected).abs().nan_to_num(math.inf) > 1e-3
        at = tuple(differs.nonzero()[0].tolist())
        raise wrong("value", t=at[0], channel=at[1], value=result[at], expected=expected[at])
    with wrong.fresh_cases("sizes"):
        for T, half in draw_sizes(200, 40):
            expect_close(fn(T, 2 * half), sinusoidal_positions(T, 2 * half), 1e-3)
    return "a pair of channels is one clock, from 1 radian a position downwards"


# ---------------------------------------------------------------- does a layer leak?

Layer = Callable[[Tensor], Tensor]


def sees_future(layer: Layer, T: int, d: int) -> bool:
    """Whether an output of `layer`, (T, d) -> (T, d), depends on a later input.

    One input at a time gets another value; no output before it may change.
    """
    x, other = torch.randn(2, T, d, generator=torch.Generator().manual_seed(0))
    before = layer(x)
    for t in range(1, T):
        changed = x.clone()
        changed[t] = other[t]
        if not torch.allclose(layer(changed)[:t], before[:t], atol=1e-6):
            return True
    return False


def layers_to_judge(T: int, d: int, generator: torch.Generator) -> dict[str, tuple[Layer, bool]]:
    """Return layers by a description of each: (layer, whether it leaks)."""
    w = torch.randn(d, d, generator=generator) / d
    mask, everything = causal_mask(T), torch.ones(T, T).bool()

    def attention(mask: Tensor, axis: int = -1) -> Layer:
        return lambda x: (x @ w @ x.T).masked_fill(~mask, -math.inf).softmax(axis) @ x

    def with_leak(query: int, key: int, size: float = 1.0) -> Layer:
        selected = size * F.one_hot(torch.tensor(query), T)[:, None]
        return lambda x: attention(mask)(x) + selected * x[key]

    return {
        "attention under a causal mask": (attention(mask), False),
        "a layer that looks at each position alone": (lambda x: torch.tanh(x @ w), False),
        "running sums over the past": (lambda x: x.cumsum(0), False),
        "attention without a mask": (attention(everything), True),
        "a mask one diagonal too wide, t sees t + 1": (attention(everything.tril(1)), True),
        "a softmax over the queries, with a causal mask": (attention(mask, axis=-2), True),
        "a mask applied after the softmax": (
            lambda x: ((x @ w @ x.T).softmax(-1) * mask) @ x,
            True,
        ),
        "a layer where only position 0 sees the last one": (with_leak(0, T - 1), True),
        "a layer where only the last but one sees the last": (with_leak(T - 2, T - 1), True),
        "a layer where only position 1 sees position 2": (with_leak(1, 2), True),
        "a faint leak, a thousandth of the size": (with_leak(1, T - 2, 1e-3), True),
    }


def check_leak_detector(fn: Callable) -> str:
    wrong = diagnoses(__file__, "leak-detector")
    fixed_case = 6, torch.Generator().manual_seed(0)
    for T, generator in (fixed_case, *((T, fresh_generator()) for T in draw(5, 9, 2))):
        for description, (layer, leaks) in layers_to_judge(T, 4, generator).items():
            result = fn(layer, T, 4)
            if hasattr(result, "item"):  # a tensor or array with a single truth value
                result = result.item()
            if not isinstance(result, bool):
                raise wrong("not a bool", result=describe(result))
            if result != leaks:
                raise wrong("missed" if leaks else "false alarm", layer=description)
    return "finds eight kinds of leak and clears three honest layers"


EXERCISES = (
    Exercise(
        "additive-score", NOTEBOOK, "The additive score", 2, 10, additive_score, check_additive
    ),
    Exercise(
        "scaled-score",
        NOTEBOOK,
        "The scaled dot product",
        1,
        3,
        scaled_dot_product_score,
        check_scaled,
    ),
    Exercise("causal-mask", NOTEBOOK, "The causal mask", 1, 3, causal_mask, check_causal_mask),
    Exercise(
        "masked-softmax", NOTEBOOK, "Softmax under a mask", 3, 10, masked_softmax, check_softmax
    ),
    Exercise(
        "multi-head",
        NOTEBOOK,
        "Several heads",
        4,
        15,
        MultiHeadAttention.forward,
        check_multi_head,
        forbidden=(MultiHeadAttention.split_heads,),
    ),
    Exercise("average-of-two", NOTEBOOK, "A query for two", 2, 5, average_query, check_average),
    Exercise(
        "sinusoidal-positions",
        NOTEBOOK,
        "Clocks for positions",
        3,
        10,
        sinusoidal_positions,
        check_clocks,
    ),
    Exercise("leak-detector", NOTEBOOK, "A leak detector", 4, 15, sees_future, check_leak_detector),
)
