"""Exercises of notebook 7: frequencies, the table of angles, the turn itself, its place in the model and in attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kt_core.attention import (
    MultiHeadAttention,
    causal_mask,
    rotary_frequencies,
    rotary_table,
    rotate,
)
from kt_core.models import GPT, GPTConfig
from kt_course.exercises.assertions import Wrong, close, describe, recognise, tensor
from kt_course.exercises.multi_head_mistakes import MULTI_HEAD, attention_with_mistake
from kt_course.exercises.random_cases import draw, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "07_rope"


def short(values: Tensor) -> str:
    """A few numbers, rounded."""
    return ", ".join(f"{value:.3g}" for value in values.tolist())


def check_frequencies(fn: Callable) -> str:
    i = torch.arange(4).double()
    base = torch.tensor(10000.0).double()
    slips = {
        "the sign of the exponent is wrong: they rise to 1000 rad a position, and should fall from 1": base
        ** (i / 4),
        "the first is 0.1 instead of 1: i starts at 0 here, at 1 in the paper, whose exponent has i - 1": base
        ** (-(i + 1) / 4),
        "they fall half as fast as they should: the exponent is -2i/d, with d the size of one head": base
        ** (-i / 8),
        "these are wavelengths, 2 pi / theta: what is asked for is theta, radians a position": 2
        * math.pi
        * base ** (i / 4),
        "a factor of 2 pi too much: theta is in radians a position, not in turns": 2
        * math.pi
        * base ** (-i / 4),
        "all are 1: is the exponent divided with // instead of /?": torch.ones(4),
    }
    got = fn(8)
    if isinstance(got, Tensor) and got.shape == (8,):
        raise Wrong("8 frequencies for 8 channels: a pair of channels shares one, so there are d/2")
    got = tensor(got, (4,), "the frequencies of 8 channels")
    for told, values in slips.items():
        if close(got, values):
            raise Wrong(told)
    if not close(got, base ** (-i / 4)):
        raise Wrong(f"the frequencies of 8 channels are {short(got)}; they are 1, 0.1, 0.01, 0.001")
    if close(tensor(fn(8, 16.0), (4,), "the frequencies for base 16"), base ** (-i / 4)):
        raise Wrong("base 16 gives the same as base 10000: use the argument")
    for half, base in zip((1, 2, 5, 32), draw(2, 10**6, 4), strict=True):
        right = [base ** (-2 * k / (2 * half)) for k in range(half)]
        if not close(tensor(fn(2 * half, float(base)), (half,), "the result"), torch.tensor(right)):
            raise Wrong(
                "right for 8 channels, not for other sizes and bases: base^(-2i/d), i = 0 ... d/2 - 1"
            )
    return "from 1 down to base^(-(d-2)/d), one a pair of channels"


def table(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """Angles (..., T, hs/2) in float64."""
    i = torch.arange(head_dim // 2).double()
    return positions.double().unsqueeze(-1) * base ** (-2 * i / head_dim)


def two(result: object, shape: tuple[int, ...], what: str) -> tuple[Tensor, Tensor]:
    """(cos, sin) of that shape; else Wrong."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Wrong(f"{what} should be two tensors, cos and sin, not {describe(result)}")
    return tensor(result[0], shape, f"cos for {what}"), tensor(result[1], shape, f"sin for {what}")


def check_table(fn: Callable) -> str:
    positions, told = torch.tensor([0, 1, 2, 5, 9]), "5 positions and 8 channels"
    got = fn(positions, 8)
    if (
        isinstance(got, (tuple, list))
        and len(got) == 2
        and all(isinstance(one, Tensor) for one in got)
    ):
        if tuple(got[0].shape) == (4, 5):
            raise Wrong("the table is (hs/2, T): transposed; a row is a position, (T, hs/2)")
        if tuple(got[0].shape) == (5, 8):
            raise Wrong("the table has 8 columns: one a pair of channels, hs/2 = 4")
    cos, sin = two(got, (5, 4), told)
    angle = table(positions, 8)
    slips: dict[str, Tensor] = {
        "it counts 0, 1, 2 ... instead of taking the positions that are given": table(
            torch.arange(5), 8
        ),
        "position 0 is turned already: count from 0": table(positions + 1, 8),
        "the angles are in degrees: cos and sin want radians": table(positions, 8) * math.pi / 180,
        "the angles fly: is the sign of the exponent wrong, or do you divide by the frequencies?": positions[
            :, None
        ]
        * 1e4 ** (torch.arange(4).double() / 4),
        "every pair turns alike: each has its own frequency": positions[:, None] * torch.ones(4),
    }
    if close(cos, angle.sin(), 1e-4) and close(sin, angle.cos(), 1e-4):
        raise Wrong("cos and sin are swapped: cos comes first")
    if close(cos, angle.cos(), 1e-4) and close(sin, -angle.sin(), 1e-4):
        raise Wrong("it turns by minus the angle: position x theta, without a sign")
    for reason, other in slips.items():
        if close(cos, other.cos(), 1e-3) and close(sin, other.sin(), 1e-3):
            raise Wrong(reason)
    if not (close(cos, angle.cos(), 1e-4) and close(sin, angle.sin(), 1e-4)):
        raise Wrong(
            f"at position 1 the cosines are {short(cos[1])} instead of {short(angle[1].cos())}"
        )
    if not cos.dtype.is_floating_point or cos.dtype in (torch.float16, torch.bfloat16):
        raise Wrong(f"the table is in {cos.dtype}: angles of far positions need float32")
    if close(two(fn(positions, 8, 16.0), (5, 4), "base 16")[0], cos, 1e-4):
        raise Wrong("base 16 gives the same as base 10000: hand the base on")
    for half, shape in ((1, (6,)), (3, (2, 3)), (5, (2, 1, 4))):
        at = torch.tensor(draw(0, 120, math.prod(shape))).view(shape)
        cos, sin = two(fn(at, 2 * half, 500.0), (*shape, half), "positions of a batch, a row each")
        right = table(at, 2 * half, 500.0)
        if not (close(cos, right.cos(), 1e-4) and close(sin, right.sin(), 1e-4)):
            raise Wrong(
                "right for five positions, not for batches of them: positions.unsqueeze(-1) * theta"
            )
    return "cos and sin of position x theta, for rows and batches of positions"


def turned(x: Tensor, cos: Tensor, sin: Tensor, layout: str, slip: str = "") -> Tensor:
    """Every pair of channels turned, with one mistake built in."""
    if slip == "other layout":
        layout = {"half": "interleaved", "interleaved": "half"}[layout]
    half = x.size(-1) // 2
    a, b = (x[..., :half], x[..., half:]) if layout == "half" else (x[..., 0::2], x[..., 1::2])
    sin = -sin if slip == "backwards" else sin
    first, second = a * cos - b * sin, a * sin + b * cos
    if slip == "both plus":
        first = a * cos + b * sin
    if slip == "mirror":
        first, second = a * cos + b * sin, a * sin - b * cos
    if slip == "overwritten":
        second = first * sin + b * cos
    if slip == "elementwise":
        first, second = a * cos, b * sin
    if slip == "swapped":
        first, second = second, first
    stacked = (layout == "interleaved") != (slip == "put together")
    return (
        torch.stack([first, second], -1).flatten(-2) if stacked else torch.cat([first, second], -1)
    )


TURNS = {
    "backwards": "it turns by minus the angle: the first of a pair is a cos - b sin, the second a sin + b cos",
    "both plus": "lengths are not kept: one of the four products is subtracted, a cos - b sin",
    "mirror": "position 0 should change nothing, and flips the second of each pair: a mirror, no turn",
    "overwritten": "the second of a pair is made from the new first one: keep a and b until both are made",
    "elementwise": "each channel is only scaled: a turn mixes the two of a pair, a cos - b sin and a sin + b cos",
    "swapped": "the two of a pair come out in the wrong order: position 0 should change nothing",
    "put together": "the pairs are put together in the other layout's order: cat for halves, stack and flatten if interleaved",
    "other layout": "the layouts are mixed up: half pairs x[i] with x[i + hs/2], interleaved x[2i] with x[2i + 1]",
}


def check_rotate(fn: Callable) -> str:
    for layout in ("half", "interleaved"):
        x, angle = numbers(2, 3, 5, 8, seed=1), table(torch.arange(5), 8)  # (B, nh, T, hs)
        what = f"layout {layout}: the result"
        got = tensor(
            fn(x, angle.cos(), angle.sin(), layout), x.shape, f"{what} for x of (2, 3, 5, 8)"
        )
        right = turned(x, angle.cos(), angle.sin(), layout)

        def slipped(
            slip: str, x: Tensor = x, angle: Tensor = angle, layout: str = layout
        ) -> Tensor:
            return turned(x, angle.cos(), angle.sin(), layout, slip)

        if not close(got, right) and close(got, turned(x, angle.cos(), angle.sin(), "half")):
            raise Wrong("the argument layout is not used: interleaved pairs x[2i] with x[2i + 1]")
        recognise(
            got,
            right,
            slipped,
            {slip: f"layout {layout}: {told}" for slip, told in TURNS.items()},
            what,
        )
    x, angle = (
        numbers(3, 2, 4, 6),
        table(torch.tensor(draw(0, 99, 12)).view(3, 1, 4), 6),
    )  # a row's own positions
    for layout in ("half", "interleaved"):
        got = tensor(
            fn(x, angle.cos(), angle.sin(), layout),
            x.shape,
            "the result for rows at their own positions",
        )
        if not close(got, turned(x, angle.cos(), angle.sin(), layout)):
            raise Wrong("right for one row of positions, not for a batch whose rows have their own")
    if not close(
        tensor(fn(x, angle.cos(), angle.sin()), x.shape, "without a layout the result"),
        turned(x, angle.cos(), angle.sin(), "half"),
    ):
        raise Wrong('without a layout it is "half"')
    return "every pair turned by its angle, lengths kept, both layouts"


def check_rotation(fn: Callable) -> str:
    def made(base: float, n_head: int = 4, block: int = 12) -> GPT:
        return GPT(GPTConfig(2, block, 1, n_head, 8 * n_head, "rope", rope_base=base, dropout=0.0))

    def asked(model: GPT, positions: Tensor, what: str) -> tuple[Tensor, Tensor]:
        B, T = positions.shape
        x_shape = (B, model.config.n_head, T, 4)
        got = fn(model, positions)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise Wrong(f"{what} give {describe(got)} instead of two tensors, cos and sin")
        for one in got:
            if not isinstance(one, Tensor):
                raise Wrong(f"{what} give {describe(one)} instead of a tensor")
            if one.shape[-1:] != (4,):
                raise Wrong(
                    f"{one.size(-1) if one.ndim else 0} angles a position for 4 pairs of channels: a table from n_embd? "
                    "d is the size of ONE head, n_embd / n_head"
                )
            try:
                one.broadcast_to(x_shape)
            except RuntimeError:
                raise Wrong(
                    f"{what}: {tuple(one.shape)} does not broadcast against queries of (B, nh, T, pairs) = {x_shape}"
                ) from None
        return tuple(one.broadcast_to(x_shape).detach() for one in got)

    model, positions = (
        made(10000.0),
        torch.tensor([[0, 1, 5, 9]]),
    )  # as many positions as heads: a mix-up is silent
    cos, sin = asked(model, positions, "4 positions")
    angle = table(positions, 8)[:, None]  # (1, 1, T, hs/2)
    slips = {
        "heads and time are swapped: head h is turned by the h-th position; unsqueeze(1), not (2)": table(
            positions, 8
        )[:, :, None],
        "a table from n_embd, cut to size: all pairs are fast. d is the size of ONE head, n_embd / n_head": (
            positions[:, None, :, None] * 1e4 ** (-torch.arange(4).double() / 16)
        ),
        "it counts 0, 1, 2 ... instead of taking the positions that are given": table(
            torch.arange(4), 8
        ),
    }
    for told, other in slips.items():
        if all(
            close(one, o.broadcast_to(one.shape), 1e-4)
            for one, o in ((cos, other.cos()), (sin, other.sin()))
        ):
            raise Wrong(told)

    def right(cos: Tensor, sin: Tensor, angle: Tensor) -> bool:
        return close(cos, angle.cos().broadcast_to(cos.shape), 1e-4) and close(
            sin, angle.sin().broadcast_to(sin.shape), 1e-4
        )

    if right(sin, cos, angle):
        raise Wrong("cos and sin are swapped: cos comes first")
    if not right(cos, sin, angle):
        raise Wrong(
            "cos and sin of position x theta are not what comes out for the positions 0, 1, 5, 9"
        )
    if not right(
        *asked(made(100.0), positions, "4 positions"), table(positions, 8, 100.0)[:, None]
    ):
        raise Wrong(
            "right for base 10000, not for a model with rope_base 100: use model.config.rope_base"
        )
    positions = torch.tensor(draw(0, 11, 16)).view(4, 4)  # as many rows as heads, too
    if not right(
        *asked(made(50.0), positions, "4 rows of 4 positions"), table(positions, 8, 50.0)[:, None]
    ):
        raise Wrong(
            "right for one row, not for a batch: row b's positions go to row b, (B, 1, T, hs/2), not to head b"
        )
    if fn(GPT(GPTConfig(2, 12, 1, 2, 8, "vanilla")), positions) is not None:
        raise Wrong("a model with learned positions turns nothing: None unless config.rotary")
    return "one table for all heads, a row's own positions, the head's size and the model's base"


def check_attention(fn: Callable) -> str:
    layer, x = randomise(MultiHeadAttention(12, 3), seed=1), numbers(2, 4, 12, seed=2)
    at = {
        "query": torch.tensor([2, 3, 7, 8]),
        "key": torch.tensor([0, 1, 5, 6]),
    }  # not the same: mix-ups show

    def rotation(which: str, shift: int = 0) -> tuple[Tensor, Tensor]:
        angle = table(at[which] + shift, 4)
        return angle.cos(), angle.sin()

    def turn(slip: str = "", shift: int = 0) -> Callable:
        query, key = rotation("query", shift=shift), rotation("key", shift=shift)
        if slip == "exchanged":
            query, key = key, query
        if slip == "query's for both":
            key = query

        def done(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return (
                q if slip in ("no turn", "keys alone") else rotate(q, *query),
                k if slip in ("no turn", "queries alone") else rotate(k, *key),
                rotate(v, *key) if slip == "values too" else v,
            )

        return done

    def asked(shift: int = 0) -> Tensor:
        got = fn(
            layer,
            x,
            is_causal=True,
            query_rotation=rotation("query", shift=shift),
            key_rotation=rotation("key", shift=shift),
        )
        return tensor(got, x.shape, "the result for x of (2, 4, 12)")

    slips = {slip: told for slip, told in MULTI_HEAD.items() if slip != "one head"} | {
        "no turn": "nothing is turned: rotate queries and keys, after the split into heads",
        "queries alone": "the keys are not turned: a score then depends on the query's own position",
        "keys alone": "the queries are not turned: a score then depends on the key's own position",
        "values too": "the values are turned too: the sum would carry absolute positions; queries and keys alone are",
        "exchanged": "query_rotation and key_rotation are exchanged",
        "query's for both": "keys are turned by query_rotation: they have their own, which differs in decoding",
        "not causal": "leak: query 0 reads keys 1 ... 3 although is_causal is True",
    }

    def slipped(slip: str) -> Tensor:
        mask = None if slip == "not causal" else causal_mask(4)
        return attention_with_mistake(layer, x, x, mask, slip if slip in MULTI_HEAD else "", turn(slip))

    recognise(asked(), slipped(""), slipped, slips, "the result")
    if not close(asked(shift=30), slipped("")):
        raise Wrong(
            "moving everything by 30 positions changes the result: scores depend on the distance alone"
        )
    plain = tensor(fn(layer, x, is_causal=False), x.shape, "the result without rotations and mask")
    if not close(plain, attention_with_mistake(layer, x, x)):
        raise Wrong(
            "right with rotations, wrong without: None means that nothing is turned, is_causal=False no mask"
        )
    for T, nh in ((1, 2), (6, 1), (5, 4)):
        layer, x = randomise(MultiHeadAttention(4 * nh, nh)), numbers(3, T, 4 * nh)
        at["query"] = at["key"] = torch.tensor(draw(0, 50, T))
        rotations = {"query_rotation": rotation("query"), "key_rotation": rotation("key")}
        got = tensor(fn(layer, x, is_causal=True, **rotations), x.shape, "the result")
        if not close(got, attention_with_mistake(layer, x, x, causal_mask(T), "", turn())):
            raise Wrong("right for 3 heads and 4 characters, not for other sizes")
    return "queries and keys turned, values not, causal, the same wherever the text stands"


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
    Exercise("model-rotation", NOTEBOOK, "The right axis", 3, 10, GPT._rotation, check_rotation),
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
