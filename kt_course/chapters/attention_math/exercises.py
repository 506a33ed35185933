"""Exercises of notebook 01: scores, masks, softmax, one head, positions, and a test for leaks.

Each check begins with a fixed case. The outcomes of known mistakes are computed beside it, so the
mistake can be named with numbers. Random cases of other sizes follow. Sizes differ from axis to
axis, so that no swap of axes goes unnoticed. The diagnoses are in diagnoses.toml, those of
"one-head" in exercises.toml.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_core import attention, positions
from kt_course.chapters.attention_math import solutions
from kt_course.chapters.attention_math.solutions import (
    causal_mask,
    masked_softmax,
    scaled_dot_product_score,
    sinusoidal_positions,
)
from kt_course.exercises.assertions import Wrong, close, describe, expect_close, tensor
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.random_cases import draw, fresh_generator, numbers

CHAPTER = Comparison(solutions, "01_attention_math")


def fixed(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers in float32, the same ones in each run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_sizes(*highest: int, n: int = 3) -> list[tuple[int, ...]]:
    """Draw n tuples of sizes from 1 to the highest of each."""
    return list(zip(*(draw(1, high, n) for high in highest), strict=True))


# ---------------------------------------------------------------- scores


@CHAPTER.checked("scaled-score", attention.scaled_dot_product_score, forbidden=(attention.attend,))
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


# ---------------------------------------------------------------- masks and softmax


@CHAPTER.checked("causal-mask", attention.causal_mask, forbidden=(attention.reach_mask,))
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


@CHAPTER.checked("masked-softmax", attention.masked_softmax, forbidden=(attention.attend,))
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


# ---------------------------------------------------------------- one head


@CHAPTER.exercise("one-head", forbidden=(attention.attend, F.scaled_dot_product_attention))
def head_of(answer: Callable, seed: int) -> Results:
    B, T, d, C = (2, 4, 3, 6) if seed == 0 else (1 + seed % n for n in (3, 5, 4, 7))
    x, weights = numbers(B, T, C, seed=seed), [numbers(C, d, seed=seed + i) for i in (1, 2, 3)]
    results = {}
    for case, mask in (("", None), (" under a causal mask", causal_mask(T))):
        result = answer(x, *weights, mask)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise Wrong(f"it should return the context and the weights, not {describe(result)}")
        for name, value in zip(("context", "weights"), result, strict=True):
            if not isinstance(value, Tensor):
                raise Wrong(f"the {name}{case} should be a tensor, not {describe(value)}")
            results[f"the {name}{case}"] = value
    return results


# ---------------------------------------------------------------- an average of two


@CHAPTER.checked("average-of-two")
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
            is_long = close((q / q.norm()) @ (keys[a] - keys[b]), torch.zeros(()))
            raise wrong("rounding" if is_long and q.norm() > 1e4 else "unequal", case=case)
        if both < 0.98:
            raise wrong("short", case=case)
    return "one half each, for any number of orthonormal keys up to 64"


# ---------------------------------------------------------------- positions


@CHAPTER.checked("sinusoidal-positions", positions.sinusoidal_positions)
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
        "doubled": table(t / 10000 ** (4 * i / C)),
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
    long = tensor(fn(600, 64), (600, 64), "the table of 600 positions and 64 channels")
    wrong.reject({"base": not close(long, sinusoidal_positions(600, 64), 1e-3)})
    return "a pair of channels is one clock, from 1 radian a position downwards"


# ---------------------------------------------------------------- does a layer leak?

Layer = Callable[[Tensor], Tensor]


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
        "a layer where only position 0 sees position 1": (with_leak(0, 1), True),
        "a faint leak, a thousandth of the size": (with_leak(1, T - 2, 1e-3), True),
    }


@CHAPTER.checked("leak-detector")
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
    return "finds nine kinds of leak and clears three honest layers"


EXERCISES = CHAPTER.exercises()
