"""Exercises of notebook 01: scores, masks, softmax, one head, positions, and a test for leaks.

Sizes differ from axis to axis, so that no swap of axes goes unnoticed. The texts are in
exercises.toml, those of two checks with more than one correct result in diagnoses.toml.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_core import attention, positions
from kt_course.chapters.attention_math import solutions
from kt_course.chapters.attention_math.solutions import causal_mask
from kt_course.exercises.assertions import Wrong, any_tensor, close, describe, parts, tensor
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.random_cases import draw, fresh_generator, numbers

CHAPTER = Comparison(solutions, "01_attention_math")


def fixed(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers in float32, the same ones in each run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- scores


@CHAPTER.exercise("scaled-score", attention.scaled_dot_product_score, forbidden=(attention.attend,))
def scores_of(answer: Callable, seed: int) -> Results:
    if seed == 0:
        q, k = fixed(3, 16), fixed(5, 16, seed=1)
        return {"the table of scores": any_tensor(answer(q, k), "the table of scores")}
    B, n_head, T, d = 1 + seed % 6, 1 + seed // 6 % 6, 1 + seed // 36 % 6, 1 + seed // 216 % 6
    q, k = numbers(B, n_head, T, d, seed=seed), numbers(B, n_head, T + 2, d, seed=seed + 1)
    return {"the scores": answer(q, k)}


# ---------------------------------------------------------------- masks and softmax


@CHAPTER.exercise("causal-mask", attention.causal_mask, forbidden=(attention.reach_mask,))
def mask_of(answer: Callable, seed: int) -> Results:
    results: Results = {}
    for T in (1, 2 + seed % 39, 2 + seed // 39 % 39) if seed else (6,):
        mask = tensor(answer(T), (T, T), f"the mask for T = {T}")
        if mask.dtype != torch.bool:
            dtype = str(mask.dtype).removeprefix("torch.")
            raise Wrong(CHAPTER.texts["causal-mask"]["not_boolean"].format(dtype=dtype))
        for q, row in enumerate(mask.tolist()):
            for k, is_allowed in enumerate(row):
                results[f"the entry for query {q} and key {k}, T = {T},"] = str(is_allowed)
    return results


@CHAPTER.exercise("masked-softmax", attention.masked_softmax, forbidden=(attention.attend,))
def weights_of(answer: Callable, seed: int) -> Results:
    """Compute weights with and without a mask, of very low and high scores, and of an empty row."""
    if seed:
        B, n_head, T = 1 + seed % 5, 1 + seed // 5 % 5, 1 + seed // 25 % 5
        scores, mask = (
            numbers(B, n_head, T, T + 2, seed=seed),
            numbers(T, T + 2, seed=seed + 1) < 0.3,
        )
        return {"the weights": answer(scores, mask)}
    scores, mask = fixed(5, 5), causal_mask(5)
    cases = {
        "without a mask": (scores,),
        "under a causal mask": (scores, mask),
        "of scores near -100,000, where exp gives 0 (subtract the maximum),": (scores - 1e5, mask),
        "of scores in the thousands, where exp gives inf,": (1e4 * scores, mask),
        "of a row with no allowed key": (scores, mask & (torch.arange(5)[:, None] > 0)),
    }
    return {
        f"the table of weights {case}": tensor(answer(*inputs), (5, 5), f"the weights {case}")
        for case, inputs in cases.items()
    }


# ---------------------------------------------------------------- one head


@CHAPTER.exercise("one-head", forbidden=(attention.attend, F.scaled_dot_product_attention))
def head_of(answer: Callable, seed: int) -> Results:
    B, T, d, C = (2, 4, 3, 6) if seed == 0 else (1 + seed % n for n in (3, 5, 4, 7))
    x, weights = numbers(B, T, C, seed=seed), [numbers(C, d, seed=seed + i) for i in (1, 2, 3)]
    results = {}
    for case, mask in (("", None), (" under a causal mask", causal_mask(T))):
        message = "it should return the context and the weights, not {result}"
        pair = parts(answer(x, *weights, mask), 2, message)
        for name, value in zip(("context", "weights"), pair, strict=True):
            results[f"the {name}{case}"] = any_tensor(value, f"the {name}{case}")
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


@CHAPTER.exercise("sinusoidal-positions", positions.sinusoidal_positions)
def positions_of(answer: Callable, seed: int) -> Results:
    results: Results = {}
    for T, C in [(1 + seed % 200, 2 + 2 * (seed % 40))] if seed else [(50, 8), (600, 64)]:
        name = f"the table of {T} positions and {C} channels"
        table, expected = any_tensor(answer(T, C), name), solutions.sinusoidal_positions(T, C)
        if table.shape == expected.shape:  # large angles are not exact in float32
            table = torch.where((table - expected).abs() < 1e-3, expected, table)
        results[name] = table
    return results


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
        "a mask one diagonal too wide, t attends to t + 1": (attention(everything.tril(1)), True),
        "a softmax over the queries, with a causal mask": (attention(mask, axis=-2), True),
        "a mask applied after the softmax": (
            lambda x: ((x @ w @ x.T).softmax(-1) * mask) @ x,
            True,
        ),
        "a layer where only position 0 sees the last one": (with_leak(0, T - 1), True),
        "a layer where only the last but one sees the last": (with_leak(T - 2, T - 1), True),
        "a layer where only position 1 sees position 2": (with_leak(1, 2), True),
        "a layer where only position 0 sees position 1": (with_leak(0, 1), True),
        "a faint leak, a thousandth (use atol=1e-6)": (with_leak(1, T - 2, 1e-3), True),
    }


def recording(layer: Layer, inputs: list[tuple[Tensor, Tensor]]) -> Layer:
    """Return a layer that also stores each of its inputs and a copy of it."""
    return lambda x: inputs.append((x, x.detach().clone())) or layer(x)


@CHAPTER.checked("leak-detector")
def check_leak_detector(fn: Callable) -> str:
    wrong = diagnoses(__file__, "leak-detector")
    fixed_case = 6, torch.Generator().manual_seed(0)
    for T, generator in (fixed_case, *((T, fresh_generator()) for T in draw(5, 9, 2))):
        for description, (layer, leaks) in layers_to_judge(T, 4, generator).items():
            inputs: list[tuple[Tensor, Tensor]] = []
            result = fn(recording(layer, inputs), T, 4)
            if hasattr(result, "item"):  # a tensor or array with a single truth value
                result = result.item()
            if not isinstance(result, bool):
                raise wrong("not a bool", result=describe(result))
            if result != leaks and any(not torch.equal(x, before) for x, before in inputs):
                raise wrong("in place")
            if result != leaks:
                raise wrong("missed" if leaks else "false alarm", layer=description)
    return "finds nine kinds of leak and clears three honest layers"


EXERCISES = CHAPTER.exercises()
