"""Exercises of notebook 7: frequencies, the table of angles, the rotation, its use in attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kt_core.attention import MultiHeadAttention, causal_mask
from kt_core.positions import Rotary, rotary_frequencies, rotary_table, rotate
from kt_course.exercises.assertions import close, describe, expect_close, recognise, tensor
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.multi_head_mistakes import MULTI_HEAD, attention_with_mistake
from kt_course.exercises.random_cases import draw, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "07_rope"
ROTATE_MISTAKES = diagnoses(__file__, "rotate").texts("mistakes")
ATTENTION_MISTAKES = diagnoses(__file__, "rotary-attention").texts("mistakes")

# ---------------------------------------------------------------- frequencies and their table


def check_frequencies(fn: Callable) -> str:
    wrong, i, base = diagnoses(__file__, "rotary-frequencies"), torch.arange(4).double(), 10000.0
    theta = base ** (-i / 4)  # the frequencies of 8 channels
    mistakes = {
        "sign": 1 / theta,
        "from one": base ** (-(i + 1) / 4),
        "half the exponent": theta.sqrt(),
        "wavelengths": 2 * math.pi / theta,
        "turns": 2 * math.pi * theta,
        "whole division": torch.ones(4),
    }
    result = fn(8)
    if isinstance(result, Tensor) and result.shape == (8,):
        raise wrong("one per channel")
    result = tensor(result, (4,), "the frequencies of 8 channels")
    wrong.blame(result, mistakes)
    if not close(result, theta):
        raise wrong("values", result=short(result))
    if close(tensor(fn(8, 16.0), (4,), "the frequencies for base 16"), theta):
        raise wrong("base unused")
    with wrong.fresh_cases("other sizes"):
        for half, base in zip((1, 2, 5, 32), draw(2, 10**6, 4), strict=True):
            expected = torch.tensor([base ** (-i / half) for i in range(half)])
            expect_close(fn(2 * half, float(base)), expected)
    return "from 1 down to base^(-(d-2)/d), one per pair of channels"


def short(values: Tensor) -> str:
    """Return a few numbers, rounded."""
    return ", ".join(f"{value:.3g}" for value in values.tolist())


def angles(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """Compute position times frequency, (..., T, hs/2), in float64."""
    i = torch.arange(head_dim // 2).double()
    return positions.double().unsqueeze(-1) * base ** (-2 * i / head_dim)


def is_table(result: tuple[Tensor, Tensor], angle: Tensor, tolerance: float = 1e-4) -> bool:
    """Are these the cosines and sines of the angles, which may broadcast to their shape?"""
    cos, sin = (values.broadcast_to(result[0].shape) for values in (angle.cos(), angle.sin()))
    return close(result[0], cos, tolerance) and close(result[1], sin, tolerance)


def read_table(result: object, shape: tuple[int, ...], what: str) -> tuple[Tensor, Tensor]:
    """Return an answer's cos and sin if both have that shape, (..., T, hs/2)."""
    wrong = diagnoses(__file__, "rotary-table")
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise wrong("not two", what=what, result=describe(result))
    first_shape = getattr(result[0], "shape", None)
    if first_shape == shape[::-1] != shape:
        raise wrong("transposed")
    if first_shape == (*shape[:-1], 2 * shape[-1]):
        raise wrong("a column per channel")
    cos, sin = result
    return tensor(cos, shape, f"cos for {what}"), tensor(sin, shape, f"sin for {what}")


def check_table(fn: Callable) -> str:
    wrong = diagnoses(__file__, "rotary-table")

    def table(positions: Tensor, head_dim: int, what: str, *base: float) -> tuple[Tensor, Tensor]:
        shape = (*positions.shape, head_dim // 2)
        return read_table(fn(positions, head_dim, *base), shape, what)

    positions = torch.tensor([0, 1, 2, 5, 9])
    angle = angles(positions, 8)  # (5, 4)
    cos, sin = result = table(positions, 8, "5 positions and 8 channels")
    mistakes = {
        "counts": angles(torch.arange(5), 8),
        "from one": angles(positions + 1, 8),
        "degrees": angle * math.pi / 180,
        "divided": positions[:, None] / (angles(torch.tensor(1), 8)),
        "same frequency": positions[:, None] * torch.ones(4).double(),
    }
    wrong.reject({"swapped": is_table((sin, cos), angle), "negative": is_table(result, -angle)})
    wrong.reject({name: is_table(result, other, 1e-3) for name, other in mistakes.items()})
    if not is_table(result, angle):
        raise wrong("values", result=short(cos[1]), expected=short(angle[1].cos()))
    if not cos.dtype.is_floating_point or cos.dtype in (torch.float16, torch.bfloat16):
        raise wrong("precision", dtype=str(cos.dtype).removeprefix("torch."))
    if close(table(positions, 8, "base 16", 16.0)[0], cos, 1e-4):
        raise wrong("base unused")
    for half, shape in ((1, (6,)), (3, (2, 3)), (5, (2, 1, 4))):
        positions = torch.tensor(draw(0, 120, math.prod(shape))).view(shape)
        result = table(positions, 2 * half, "a batch of positions", 500.0)
        if not is_table(result, angles(positions, 2 * half, 500.0)):
            raise wrong("batches")
    return "cos and sin of position x theta, for rows and batches of positions"


# ---------------------------------------------------------------- the rotation


def rotate_with(x: Tensor, cos: Tensor, sin: Tensor, layout: str, mistake: str = "") -> Tensor:
    """Rotate every pair of channels, with one mistake built in."""
    if mistake == "other layout":
        layout = {"half": "interleaved", "interleaved": "half"}[layout]
    a, b = x.chunk(2, -1) if layout == "half" else (x[..., 0::2], x[..., 1::2])
    sin = -sin if mistake == "negative" else sin
    first, second = a * cos - b * sin, a * sin + b * cos
    first, second = {
        "both plus": (a * cos + b * sin, second),
        "mirror": (a * cos + b * sin, a * sin - b * cos),
        "overwritten": (first, first * sin + b * cos),
        "elementwise": (a * cos, b * sin),
        "swapped": (second, first),
    }.get(mistake, (first, second))
    if (layout == "interleaved") != (mistake == "joined"):
        return torch.stack([first, second], -1).flatten(-2)
    return torch.cat([first, second], -1)


def check_rotate(fn: Callable) -> str:
    wrong = diagnoses(__file__, "rotate")
    x, angle = numbers(2, 3, 5, 8, seed=1), angles(torch.arange(5), 8)  # (B, n_head, T, hs)
    cos, sin = angle.cos(), angle.sin()
    expected = {name: rotate_with(x, cos, sin, name) for name in ("half", "interleaved")}
    for layout in expected:
        what = f"layout {layout}: the result"
        result = tensor(fn(x, cos, sin, layout), x.shape, f"{what} for x of (2, 3, 5, 8)")
        if layout == "interleaved" and close(result, expected["half"]):
            raise wrong("layout unused")
        texts = {name: f"layout {layout}: {text}" for name, text in ROTATE_MISTAKES.items()}
        rotated = {name: rotate_with(x, cos, sin, layout, name) for name in texts}
        recognise(result, expected[layout], rotated.__getitem__, texts, what)
    x, positions = numbers(3, 2, 4, 6), torch.tensor(draw(0, 99, 12)).view(3, 1, 4)
    cos, sin = angles(positions, 6).cos(), angles(positions, 6).sin()
    for layout in expected:
        result = tensor(fn(x, cos, sin, layout), x.shape, "the result for a batch of positions")
        if not close(result, rotate_with(x, cos, sin, layout)):
            raise wrong("batches")
    result = tensor(fn(x, cos, sin), x.shape, "without a layout the result")
    if not close(result, rotate_with(x, cos, sin, "half")):
        raise wrong("default layout")
    return "every pair rotated by its angle, lengths kept, both layouts"


# ---------------------------------------------------------------- the axis for the heads


def read_rotation(result: object, queries: tuple[int, ...], what: str) -> tuple[Tensor, Tensor]:
    """Return an answer's cos and sin, broadcast to queries (B, n_head, T, pairs)."""
    wrong = diagnoses(__file__, "model-rotation")
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise wrong("not two", what=what, result=describe(result))
    for values in result:
        if not isinstance(values, Tensor):
            raise wrong("not a tensor", what=what, result=describe(values))
        if values.shape[-1:] != queries[-1:]:
            raise wrong("pairs", n=values.size(-1) if values.ndim else 0)
        try:
            values.broadcast_to(queries)
        except RuntimeError:
            raise wrong("shape", what=what, shape=tuple(values.shape), queries=queries) from None
    cos, sin = (values.broadcast_to(queries).detach() for values in result)
    return cos, sin


def check_rotation(fn: Callable) -> str:
    wrong = diagnoses(__file__, "model-rotation")

    def rotation(rotary: Rotary, positions: Tensor, what: str) -> tuple[Tensor, Tensor]:
        B, T = positions.shape
        return read_rotation(fn(rotary, positions), (B, 4, T, 4), what)

    rotary = Rotary(8, 12)
    positions = torch.tensor([[0, 1, 5, 9]])  # as many as heads: exchanged axes raise no error
    cos, sin = result = rotation(rotary, positions, "4 positions")
    expected = angles(positions, 8)[:, None]  # (1, 1, T, hs/2)
    mistakes = {
        "heads for positions": angles(positions, 8)[:, :, None],
        "wider table": angles(positions, 32)[:, None, :, :4],
        "counts": angles(torch.arange(4), 8),
    }
    wrong.reject({name: is_table(result, other) for name, other in mistakes.items()})
    right, swapped = is_table(result, expected), is_table((sin, cos), expected)
    wrong.reject({"swapped": swapped, "values": not right})
    result = rotation(Rotary(8, 12, 100.0), positions, "4 positions")
    if not is_table(result, angles(positions, 8, 100.0)[:, None]):
        raise wrong("base")
    positions = torch.tensor(draw(0, 11, 16)).view(4, 4)  # as many rows as heads, too
    result = rotation(Rotary(8, 12, 50.0), positions, "4 rows of 4 positions")
    if not is_table(result, angles(positions, 8, 50.0)[:, None]):
        raise wrong("rows")
    return "one table for all heads, and for each row its own positions"


# ---------------------------------------------------------------- attention


def attend_with(
    layer: MultiHeadAttention, x: Tensor, mask: Tensor | None, rotation: tuple, mistake: str = ""
) -> Tensor:
    """Compute attention with rotated queries and keys, with one mistake built in."""
    query, key = rotation
    if mistake == "exchanged":
        query, key = key, query
    if mistake == "query's for both":
        key = query

    def turn(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            q if mistake in ("no rotation", "keys alone") else rotate(q, *query),
            k if mistake in ("no rotation", "queries alone") else rotate(k, *key),
            rotate(v, *key) if mistake == "values too" else v,
        )

    mask = None if mistake == "mask unused" else mask
    return attention_with_mistake(layer, x, x, mask, mistake if mistake in MULTI_HEAD else "", turn)


def check_attention(fn: Callable) -> str:
    wrong = diagnoses(__file__, "rotary-attention")

    def rotation(query: Tensor, key: Tensor) -> tuple:
        head_dim = layer.query.out_features // layer.n_head
        both = (angles(query, head_dim), angles(key, head_dim))
        return tuple((angle.cos(), angle.sin()) for angle in both)

    layer, x = randomise(MultiHeadAttention(12, 3), seed=1), numbers(2, 4, 12, seed=2)
    mask = causal_mask(4)
    query, key = torch.tensor([2, 3, 7, 8]), torch.tensor([0, 1, 5, 6])  # different: mix-ups show
    what = "the result for x of (2, 4, 12)"
    output = fn(layer, x, mask=mask, rotation=rotation(query, key))
    result = tensor(output, x.shape, what)
    texts = {name: text for name, text in MULTI_HEAD.items() if name != "one head"}

    def attend(mistake: str) -> Tensor:
        return attend_with(layer, x, mask, rotation(query, key), mistake)

    recognise(result, attend(""), attend, texts | ATTENTION_MISTAKES, "the result")
    if not output.requires_grad:
        raise wrong("detached")
    moved = fn(layer, x, mask=mask, rotation=rotation(query + 30, key + 30))
    if not close(tensor(moved, x.shape, what), attend("")):
        raise wrong("moved")
    plain = tensor(fn(layer, x), x.shape, "the result without rotation and mask")
    if not close(plain, attention_with_mistake(layer, x, x)):
        raise wrong("without")
    for T, n_head in ((1, 2), (6, 1), (5, 4)):
        layer, x = randomise(MultiHeadAttention(4 * n_head, n_head)), numbers(3, T, 4 * n_head)
        mask, query = causal_mask(T), torch.tensor(draw(0, 50, T))
        both = rotation(query, query)
        result = tensor(fn(layer, x, mask=mask, rotation=both), x.shape, "the result")
        if not close(result, attend_with(layer, x, mask, both)):
            raise wrong("other sizes")
    return "queries and keys rotated, values not, causal, the same wherever the text begins"


EXERCISES = (
    Exercise(
        "rotary-frequencies",
        NOTEBOOK,
        "The hands of the clock",
        1,
        4,
        rotary_frequencies,
        check_frequencies,
    ),
    Exercise("rotary-table", NOTEBOOK, "Angles for positions", 2, 6, rotary_table, check_table),
    Exercise("rotate", NOTEBOOK, "Turn the pairs", 3, 12, rotate, check_rotate),
    Exercise("model-rotation", NOTEBOOK, "The right axis", 3, 10, Rotary.forward, check_rotation),
    Exercise(
        "rotary-attention",
        NOTEBOOK,
        "Attention that knows distances",
        4,
        20,
        MultiHeadAttention.forward,
        check_attention,
    ),
)
