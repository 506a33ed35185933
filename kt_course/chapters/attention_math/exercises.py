"""Exercises and questions of notebook 01: scores, masks, softmax, heads, positions, and a test for leaks.

Each check begins with a fixed case whose outcome under known mistakes is computed beside it, so that the mistake can
be named with numbers; fresh cases of other sizes follow. Sizes differ from axis to axis, so that no swap goes unseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from kt_core._typing import Float, Tensor
from kt_core.attention import (
    MultiHeadAttention,
    additive_score,
    attend,
    causal_mask,
    masked_softmax,
    scaled_dot_product_score,
    sinusoidal_positions,
)
from kt_course.exercises.assertions import Wrong, close, describe, fresh_cases, recognise, tensor
from kt_course.exercises.multi_head_mistakes import MULTI_HEAD, attention_with_mistake
from kt_course.exercises.random_cases import draw, fresh_generator, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "01_attention_math"


def fixed(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blame(result: Tensor, mistakes: Mapping[str, Tensor], tolerance: float = 1e-5) -> None:
    """Wrong with the first diagnosis in `mistakes` whose tensor, the outcome of that mistake, equals `result`."""
    for diagnosis, outcome in mistakes.items():
        if close(result, outcome, tolerance):
            raise Wrong(diagnosis)


def expect_close(result: Any, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Wrong unless `result` is a tensor close to `expected`."""
    if not close(tensor(result, expected.shape, "the result"), expected, tolerance):
        raise Wrong("the values differ")


# ---------------------------------------------------------------- scores


def check_scaled_score(fn: Callable) -> str:
    q, k = fixed(3, 16), fixed(5, 16, seed=1)
    result = fn(q, k)
    if isinstance(result, Tensor) and result.shape == (5, 3):
        raise Wrong("the scores have the shape (T_key, T_query) = (5, 3): a row belongs to a query")
    result, plain = tensor(result, (3, 5), "the scores of 3 queries and 5 keys"), q @ k.T
    blame(
        result,
        {
            "missing 1/sqrt(d): with d = 16 every score is 4 times too large": plain,
            "divided by d = 16; the scale is sqrt(d) = 4": plain / 16,
            "multiplied by sqrt(d) = 4; the scale divides": plain * 4,
            "scaled by the number of keys, 5: d = 16 is the last axis, size(-1)": plain / 5**0.5,
            "scaled by the number of queries, 3: d = 16 is the last axis, size(-1)": plain / 3**0.5,
            "the softmax is done already: give back the scores alone": (plain / 4).softmax(-1),
        },
    )
    if not close(result, plain / 4):
        raise Wrong(
            f"query 0 and key 0 score {result[0, 0]:.3f}; q . k / sqrt(d) is {plain[0, 0] / 4:.3f}"
        )
    with fresh_cases(
        "right for q of shape (3, 16), wrong for (B, nh, T, hs): swap the last two axes alone"
    ):
        for B, n_head, T, d in zip(*(draw(1, 6, 3) for _ in range(4)), strict=True):
            q, k = numbers(B, n_head, T, d), numbers(B, n_head, T + 2, d)
            expect_close(fn(q, k), scaled_dot_product_score(q, k))
    return "q . k / sqrt(d), for single queries and batches of heads"


def check_additive_score(fn: Callable) -> str:
    q, k, w_query, w_key, v = (
        fixed(3, 4),
        fixed(5, 6),
        fixed(4, 7),
        fixed(6, 7, seed=1),
        fixed(7, seed=2),
    )
    result = fn(q, k, w_query, w_key, v)
    if isinstance(result, Tensor) and result.shape == (5, 3):
        raise Wrong("the scores have the shape (T_key, T_query) = (5, 3): a row belongs to a query")
    if isinstance(result, Tensor) and result.shape == (3, 5, 7):
        raise Wrong(
            "the scores have the shape (3, 5, 7): v still has to make one number of 7 hidden ones"
        )
    result = tensor(result, (3, 5), "the scores of 3 queries and 5 keys")
    asked, shown = (q @ w_query)[:, None], (k @ w_key)[None]  # (3, 1, 7), (1, 5, 7)
    linear, hidden = asked + shown, torch.tanh(asked + shown)
    blame(
        result,
        {
            "no tanh: the query's part is then the same for every key, and softmax drops it": linear
            @ v,
            "tanh stands outside: it belongs before v, around the sum": torch.tanh(linear @ v),
            "v is missing: the hidden numbers are added up without weights": hidden.sum(-1),
            "tanh of each part alone: add first, or query and key never meet": (
                asked.tanh() + shown.tanh()
            )
            @ v,
            "the two parts are multiplied: they are added inside the tanh": torch.tanh(
                asked * shown
            )
            @ v,
            "the softmax is done already: give back the scores alone": (hidden @ v).softmax(-1),
        },
    )
    if not close(result, hidden @ v):
        right = (hidden @ v)[0, 0]
        raise Wrong(
            f"query 0 and key 0 score {result[0, 0]:.3f}; v . tanh(W_q q + W_k k) is {right:.3f}"
        )
    with fresh_cases("right for one sequence (T, d), wrong for a batch (B, T, d)"):
        for B, T in zip(draw(2, 4, 3), draw(1, 6, 3), strict=True):
            given = [numbers(*shape) for shape in ((B, T, 3), (B, T + 1, 2), (3, 5), (2, 5), (5,))]
            expect_close(fn(*given), additive_score(*given))
    return "v . tanh(W_q q + W_k k) for every pair of query and key"


# ---------------------------------------------------------------- masks and softmax


def check_causal_mask(fn: Callable) -> str:
    mask, right = tensor(fn(6), (6, 6), "the mask for T = 6"), causal_mask(6)
    if mask.dtype != torch.bool:
        kind = str(mask.dtype).removeprefix("torch.")
        raise Wrong(f"the mask holds {kind}: masks here are boolean, True where a query may look")
    ones = torch.ones(6, 6, dtype=torch.bool)
    blame(
        mask,
        {
            "True and False are swapped: query 3 may look at key 5 and not at key 0": ~right,
            "leak from the future at (q=0, k=5): upside down, triu for tril or rows for columns": right.T,
            "leak from the future at (q=0, k=1): one diagonal too many": ones.tril(1),
            "the diagonal is missing: position t sees itself too; here query 0 sees nothing": ones.tril(
                -1
            ),
        },
    )
    if leaks := (mask & ~right).nonzero().tolist():
        raise Wrong(
            f"leak from the future at (q={leaks[0][0]}, k={leaks[0][1]}): {len(leaks)} cells in all"
        )
    if hidden := (right & ~mask).nonzero().tolist():
        raise Wrong(
            f"query {hidden[0][0]} may not look at key {hidden[0][1]}, which is not in its future"
        )
    with fresh_cases("right for T = 6, wrong for another T"):
        for T in (1, *draw(2, 40, 4)):
            expect_close(fn(T), causal_mask(T))
    return "position t sees 0 ... t, for every T"


def check_masked_softmax(fn: Callable) -> str:
    scores = fixed(3, 5)
    weights = tensor(fn(scores), (3, 5), "the weights without a mask")
    if close(weights, scores.softmax(0)):
        raise Wrong(
            f"softmax over the wrong axis: columns sum to 1, row 0 to {weights[0].sum():.2f}; dim=-1"
        )
    if close(weights, scores.flatten().softmax(0).view(3, 5)):
        raise Wrong(
            "one softmax over the whole matrix: each row is a distribution of its own; use dim=-1"
        )
    if not close(weights, scores.softmax(-1)):
        raise Wrong(
            f"without a mask, row 0 sums to {weights[0].sum():.2f} and is no softmax of its scores"
        )

    scores, mask = fixed(5, 5), causal_mask(5)
    weights = tensor(fn(scores, mask), (5, 5), "the weights under a causal mask")
    _blame_masking(weights, scores, mask)
    low = tensor(fn(scores - 1e5, mask), (5, 5), "the weights of low scores")
    if low.isnan().any():
        raise Wrong(
            "scores near -100,000 give NaN, as exp of them is 0: subtract the row's maximum first"
        )
    if not close(low, masked_softmax(scores - 1e5, mask)):
        raise Wrong(
            "scores near -100,000 let forbidden keys in: fill with -inf, which is below every score"
        )
    if not close(
        tensor(fn(scores * 1e4, mask), (5, 5), "the weights"), masked_softmax(scores * 1e4, mask)
    ):
        raise Wrong(
            "scores in the thousands overflow, exp gives inf: subtract the row's maximum first"
        )

    empty = mask.clone()
    empty[0] = False  # query 0 may look at nothing
    row = tensor(fn(scores, empty), (5, 5), "the weights with an empty row")[0]
    if row.isnan().any():
        raise Wrong(
            "a row with no allowed key gives NaN, as softmax of nothing but -inf is 0/0; it must be 0"
        )
    if row.abs().sum() > 1e-6:
        raise Wrong(
            f"a row with no allowed key gives weight {row.max():.2f} to a forbidden one: a large negative "
            "number such as -1e9 is no -inf, and leaks; its weights must be 0"
        )
    with fresh_cases(
        "right for one matrix, wrong for scores (B, nh, T_query, T_key) under one mask for all"
    ):
        for B, n_head, T in zip(*(draw(1, 5, 3) for _ in range(3)), strict=True):
            scores, mask = numbers(B, n_head, T, T + 2), numbers(T, T + 2) < 0.3
            expect_close(fn(scores, mask), masked_softmax(scores, mask))
    return "softmax over the keys, forbidden ones exactly 0, empty rows 0"


def _blame_masking(weights: Tensor, scores: Tensor, mask: Tensor) -> None:
    """Wrong unless `weights` are the masked softmax; with the reason."""
    filled, inside = scores.masked_fill(~mask, -math.inf), scores.softmax(-1)
    late = inside * mask
    blame(
        weights,
        {
            "softmax over the wrong axis under a mask: columns sum to 1, not rows; dim=-1": filled.softmax(
                0
            ),
            "the mask is not applied: query 0 looks at key 4, in its future": inside,
            f"zeroed after the softmax: row 0 sums to {late[0].sum():.2f}, and forbidden keys still count in "
            "the denominator, a leak; the mask goes in before": late,
            "forbidden scores are set to 0, and exp(0) = 1; set them to -inf": (
                scores * mask
            ).softmax(-1),
        },
    )
    if weights[~mask].max() > 1e-6 and weights[0, 0].nan_to_num() < 1e-6:
        raise Wrong(
            "the mask is upside down: True is where a query may look; fill where it is False, ~mask"
        )
    if weights.isnan().any():
        raise Wrong("NaN under a causal mask, where every row has an allowed key: 0 times inf?")
    if weights[~mask].max() > 1e-6:
        raise Wrong(
            f"a forbidden key gets weight {weights[~mask].max():.3f}: forbidden scores must be -inf"
        )
    if not close(weights, masked_softmax(scores, mask)):
        raise Wrong(
            f"row 2 is {_row(weights[2])}, the softmax over its keys {_row(filled[2].softmax(-1))}"
        )


def _row(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:.2f}" for value in values.tolist()) + "]"


# ---------------------------------------------------------------- heads


def check_multi_head(fn: Callable) -> str:
    layer, x, mask = (
        randomise(MultiHeadAttention(12, 3), seed=0),
        numbers(2, 5, 12, seed=1),
        causal_mask(5),
    )
    slips = {
        "view": "heads and time are swapped: view as (B, T, nh, hs), then transpose; view(B, nh, T, hs) mixes",
        "stride": "a head takes every third channel: view as (B, T, nh, hs), not (B, T, hs, nh)",
        "no mask": "the mask is not used: position 0 sees the future",
        "swapped": "queries and keys are swapped",
        "keys": "keys are handed out instead of values",
        **MULTI_HEAD,
    }

    def slipped(slip: str) -> Tensor:
        if slip in ("view", "stride"):
            q, k, v = layer.query(x), layer.key(x), layer.value(x)  # (B, T, C)
            if slip == "view":
                y, _ = attend(*(z.view(2, 3, 5, 4) for z in (q, k, v)), mask)
                return layer.proj(y.reshape(2, 5, 12))
            y, _ = attend(*(z.view(2, 5, 4, 3).permute(0, 3, 1, 2) for z in (q, k, v)), mask)
            return layer.proj(y.permute(0, 2, 3, 1).reshape(2, 5, 12))
        turns = {"swapped": lambda q, k, v: (k, q, v), "keys": lambda q, k, v: (q, k, k)}
        allowed = None if slip == "no mask" else mask
        return attention_with_mistake(layer, x, x, allowed, "" if slip in turns else slip, turns.get(slip))

    with torch.no_grad():
        result = tensor(fn(layer, x, mask=mask), x.shape, "the output")
        recognise(result, layer(x, mask=mask), slipped, slips, "the output")
        if not close(tensor(fn(layer, x), x.shape, "the output without a mask"), layer(x)):
            raise Wrong(
                "right with a mask, wrong without one (mask=None): then every position sees all"
            )
        with fresh_cases("right for 3 heads of 4 channels, wrong for other sizes"):
            for n_head, hs, T in zip(draw(1, 5, 3), draw(1, 5, 3), draw(1, 6, 3), strict=True):
                layer, x = (
                    randomise(MultiHeadAttention(n_head * hs, n_head)),
                    numbers(3, T, n_head * hs),
                )
                expect_close(fn(layer, x, mask=causal_mask(T)), layer(x, mask=causal_mask(T)))
    return "each head works on its own channels, and proj mixes them"


# ---------------------------------------------------------------- an average of two


def average_query(keys: Float[Tensor, "n d"], a: int, b: int) -> Float[Tensor, " d"]:
    """A query whose weights, softmax(K q), are one half each on the orthonormal keys a and b: beta (k_a + k_b).

    Both score beta and the others 0, so the two share all but about n exp(-beta) / 2 of the weight.
    """
    return 20.0 * (keys[a] + keys[b])


def check_average_of_two(fn: Callable) -> str:
    for n, g in (
        (32, torch.Generator().manual_seed(0)),
        (5, fresh_generator()),
        (64, fresh_generator()),
        (64, fresh_generator()),
    ):
        keys = torch.linalg.qr(torch.randn(64, 64, generator=g)).Q[:n]  # orthonormal rows
        a, b = torch.randperm(n, generator=g)[:2].tolist()
        if n == 32:
            a, b = 3, 17
        q = tensor(fn(keys, a, b), (64,), "the query, for keys of 64 channels,").to(keys.dtype)
        alpha = (keys @ q).softmax(-1)
        told = f"with {n} keys"
        if n == 32:  # the fixed case: with numbers
            told += f", weights {alpha[a]:.2f} and {alpha[b]:.2f} on the two"
        if not alpha.isfinite().all():
            raise Wrong(f"{told}: scores are infinite; make the query long, not endless")
        elsewhere = (1 - alpha[a] - alpha[b]).item()
        if alpha[a] + alpha[b] < 0.05:
            raise Wrong(f"{told}: the query points away from them")
        if (alpha[a] - alpha[b]).abs() > 0.05 * (alpha[a] + alpha[b]):
            raise Wrong(f"{told}: unequal, so their scores differ; q . k_a must equal q . k_b")
        if elsewhere > 0.02:
            raise Wrong(
                f"{told}: too much goes to the others (at most 0.02 may); the query is too short"
            )
    return "one half each, for any number of orthonormal keys up to 64"


# ---------------------------------------------------------------- positions


def check_sinusoidal_positions(fn: Callable) -> str:
    T, C = 50, 8
    result = fn(T, C)
    if isinstance(result, Tensor) and result.shape == (C, T):
        raise Wrong(
            "the table has the shape (channels, positions) = (8, 50): a row is a position, (T, C)"
        )
    result = tensor(result, (T, C), "the table of 50 positions and 8 channels")
    t, i, channel = torch.arange(T)[:, None], torch.arange(C // 2), torch.arange(C)

    def table(angle: Tensor, first: Callable = torch.sin, second: Callable = torch.cos) -> Tensor:
        return torch.stack([first(angle), second(angle)], -1).flatten(1)

    angle = t / 10000 ** (2 * i / C)  # (T, C/2)
    halves = torch.cat([angle.sin(), angle.cos()], -1)
    own = t / 10000 ** (channel / C)  # each channel with a clock of its own
    own = torch.where(channel % 2 == 0, own.sin(), own.cos())
    blame(
        result,
        {
            "all sines first, then all cosines: they alternate, sin in channel 2i, cos in 2i + 1": halves,
            "sin and cos are swapped: position 0 is (0, 1, 0, 1, ...)": table(
                angle, torch.cos, torch.sin
            ),
            "the exponent is i/C: with i counting pairs it is 2i/C": table(t / 10000 ** (i / C)),
            "cos has a clock of its own: channels 2i and 2i + 1 share the exponent 2i/C": own,
            "multiplied by 10000^(2i/C): divide, later pairs turn slowly": table(
                t * 10000 ** (2 * i / C)
            ),
            "positions count from 1: the first is 0, so (0, 1, ...)": table(
                (t + 1) / 10000 ** (2 * i / C)
            ),
        },
        1e-3,
    )
    expected = sinusoidal_positions(T, C)
    if not close(result, expected, 1e-3):
        wrong = (result - expected).abs().nan_to_num(math.inf) > 1e-3
        at, c = wrong.nonzero()[0].tolist()
        raise Wrong(
            f"position {at}, channel {c} holds {result[at, c]:.3f} instead of {expected[at, c]:.3f}"
        )
    with fresh_cases("right for 50 positions and 8 channels, wrong for other sizes"):
        for T, half in zip(draw(1, 200, 3), draw(1, 40, 3), strict=True):
            expect_close(fn(T, 2 * half), sinusoidal_positions(T, 2 * half), 1e-3)
    return "a pair of channels is one clock, from 1 radian a position downwards"


# ---------------------------------------------------------------- design an experiment: does a layer leak?

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


def _layers(T: int, d: int, g: torch.Generator) -> dict[str, tuple[Layer, bool]]:
    """Layers to judge, by a description: (layer, whether it leaks)."""
    w, mask, everything = (
        torch.randn(d, d, generator=g) / d,
        causal_mask(T),
        torch.ones(T, T).bool(),
    )

    def attention(mask: Tensor) -> Layer:
        return lambda x: (x @ w @ x.T).masked_fill(~mask, -math.inf).softmax(-1) @ x

    def wrong_axis(x: Tensor) -> Tensor:
        return (x @ w @ x.T).masked_fill(~mask, -math.inf).softmax(-2) @ x

    def masked_late(x: Tensor) -> Tensor:
        return ((x @ w @ x.T).softmax(-1) * mask) @ x

    def single(query: int, key: int, size: float = 1.0) -> Layer:
        def layer(x: Tensor) -> Tensor:
            y = attention(mask)(x)
            return y + size * F.one_hot(torch.tensor(query), T)[:, None] * x[key]

        return layer

    return {
        "attention under a causal mask": (attention(mask), False),
        "a layer that looks at each position alone": (lambda x: torch.tanh(x @ w), False),
        "running sums over the past": (lambda x: x.cumsum(0), False),
        "attention without a mask": (attention(everything), True),
        "a mask one diagonal too wide, t sees t + 1": (attention(everything.tril(1)), True),
        "a softmax over the queries, with a causal mask": (wrong_axis, True),
        "a mask applied after the softmax": (masked_late, True),
        "a layer where only position 0 sees the last one": (single(0, T - 1), True),
        "a layer where only the last but one sees the last": (single(T - 2, T - 1), True),
        "a layer where only position 1 sees position 2": (single(1, 2), True),
        "a faint leak, a thousandth of the size": (single(1, T - 2, 1e-3), True),
    }


def check_leak_detector(fn: Callable) -> str:
    for T, g in ((6, torch.Generator().manual_seed(0)), *((T, fresh_generator()) for T in draw(5, 9, 2))):
        for told, (layer, leaks) in _layers(T, 4, g).items():
            found = fn(layer, T, 4)
            found = (
                found.item() if hasattr(found, "item") else found
            )  # a tensor or array of one truth value
            if not isinstance(found, bool):
                raise Wrong(f"the answer should be True or False, not {describe(found)}")
            if found and not leaks:
                raise Wrong(
                    f"false alarm, no leak: {told}. Only outputs before the changed input must stay"
                )
            if leaks and not found:
                raise Wrong(
                    f"leak not found: {told}. Change each position in turn, and keep the others"
                )
    return "finds eight kinds of leak and clears three honest layers"


# ---------------------------------------------------------------- the lists

EXERCISES = (
    Exercise(
        "additive-score",
        NOTEBOOK,
        "The additive score",
        2,
        10,
        additive_score,
        check_additive_score,
    ),
    Exercise(
        "scaled-score",
        NOTEBOOK,
        "The scaled dot product",
        1,
        3,
        scaled_dot_product_score,
        check_scaled_score,
    ),
    Exercise("causal-mask", NOTEBOOK, "The causal mask", 1, 3, causal_mask, check_causal_mask),
    Exercise(
        "masked-softmax",
        NOTEBOOK,
        "Softmax under a mask",
        3,
        10,
        masked_softmax,
        check_masked_softmax,
    ),
    Exercise(
        "multi-head",
        NOTEBOOK,
        "Several heads",
        4,
        15,
        MultiHeadAttention.forward,
        check_multi_head,
        forbidden=(MultiHeadAttention._heads,),
    ),
    Exercise(
        "average-of-two", NOTEBOOK, "A query for two", 2, 5, average_query, check_average_of_two
    ),
    Exercise(
        "sinusoidal-positions",
        NOTEBOOK,
        "Clocks for positions",
        3,
        10,
        sinusoidal_positions,
        check_sinusoidal_positions,
    ),
    Exercise("leak-detector", NOTEBOOK, "A leak detector", 4, 15, sees_future, check_leak_detector),
)
