"""Answers to the exercises of notebook 7, right and wrong: every mistake gets its name."""

import math

import torch
import torch.nn.functional as F
from checking import Answers, quiz_suite, suite

import kt_core as kt
from kt_core.attention import MultiHeadAttention
from kt_core.models import GPT
from kt_core.positions import Rotary
from kt_course.chapters.rope.exercises import (
    ATTENTION_MISTAKES,
    ROTATE_MISTAKES,
    angles,
    attend_with,
    rotate_with,
)
from kt_course.exercises.multi_head_mistakes import MULTI_HEAD, attention_with_mistake

# ---------------------------------------------------------------- frequencies


def stub_frequencies(head_dim, base=10000.0):
    """theta, (d/2,)."""
    ...


def powers(exponent, factor=1.0):
    return lambda d, base=10000.0: factor * base ** exponent(torch.arange(d // 2).float(), d)


FREQUENCIES = Answers(
    stub=stub_frequencies,
    wrong={
        "sign": (powers(lambda i, d: 2 * i / d), "sign of the exponent"),
        "from 1": (powers(lambda i, d: -2 * (i + 1) / d), "i starts at 0"),
        "half as fast": (powers(lambda i, d: -i / d), "half as fast"),
        "n_embd": (
            lambda d, base=10000.0: (
                base ** (-torch.arange(0, 2 * d, 2).float() / (2 * d))[: d // 2]
            ),
            "half as fast",
        ),
        "wavelengths": (powers(lambda i, d: 2 * i / d, 2 * math.pi), "wavelengths"),
        "turns": (powers(lambda i, d: -2 * i / d, 2 * math.pi), "2 pi too much"),
        "whole numbers": (powers(lambda i, d: -(2 * i // d)), "all are 1"),
        "one a channel": (
            lambda d, base=10000.0: base ** (-torch.arange(d) / d),
            "8 frequencies for 8 channels",
        ),
        "base ignored": (
            lambda d, base=10000.0: 10000.0 ** (-torch.arange(0, d, 2) / d),
            "base 16",
        ),
        "one too few": (
            lambda d, base=10000.0: base ** (-torch.arange(0, d - 2, 2) / d),
            r"\(3,\) instead of \(4,\)",
        ),
        "a list": (
            lambda d, base=10000.0: [base ** (-2 * i / d) for i in range(d // 2)],
            "a list of 4",
        ),
        "8 channels": (
            lambda d, base=10000.0: base ** (-torch.arange(0, d, 2) / 8),
            "not for other sizes",
        ),
    },
    right={
        "float64": lambda d, base=10000.0: torch.tensor(
            [1 / base ** (2 * i / d) for i in range(d // 2)]
        ).double(),
        "exp and log": lambda d, base=10000.0: torch.exp(
            -math.log(base) * torch.linspace(0, 1, d // 2 + 1)[:-1]
        ),
    },
    borrowed=lambda d, base=10000.0: kt.rotary_frequencies(d, base),
)

# ---------------------------------------------------------------- the table


def stub_table(positions, head_dim, base=10000.0): ...


def tables(angles):
    def answer(positions, head_dim, base=10000.0):
        angle = angles(positions, kt.rotary_frequencies(head_dim, base))
        return angle.cos(), angle.sin()

    return answer


def by_einsum(positions, head_dim, base=10000.0):
    angle = torch.einsum(
        "...,i->...i", positions.double(), kt.rotary_frequencies(head_dim, base).double()
    )
    complex_turn = torch.polar(torch.ones_like(angle), angle)
    return complex_turn.real, complex_turn.imag


def plain(positions, theta):
    return positions.unsqueeze(-1) * theta


TABLE = Answers(
    stub=stub_table,
    wrong={
        "counts": (
            tables(lambda p, w: torch.arange(p.size(-1))[:, None] * w),
            "positions that are given",
        ),
        "from one": (tables(lambda p, w: plain(p + 1, w)), "count from 0"),
        "degrees": (tables(lambda p, w: torch.deg2rad(plain(p, w))), "degrees"),
        "divided": (tables(lambda p, w: p.unsqueeze(-1) / w), "far too large"),
        "all alike": (
            tables(lambda p, w: p.unsqueeze(-1) * torch.ones_like(w)),
            "every pair has the same angle",
        ),
        "minus": (tables(lambda p, w: -plain(p, w)), "minus the angle"),
        "swapped": (lambda p, d, base=10000.0: tables(plain)(p, d, base)[::-1], "swapped"),
        "transposed": (tables(lambda p, w: w[:, None] * p), "transposed"),
        "a column a channel": (tables(lambda p, w: torch.cat([plain(p, w)] * 2, -1)), "8 columns"),
        "base ignored": (lambda p, d, base=10000.0: tables(plain)(p, d), "base 16"),
        "rows only": (
            tables(lambda p, w: torch.outer(p.flatten(), w)),
            r"instead of \(2, 3, \d\)|batch",
        ),
        "cos alone": (
            lambda p, d, base=10000.0: plain(p, kt.rotary_frequencies(d, base)).cos(),
            "two tensors",
        ),
        "low precision": (tables(lambda p, w: plain(p, w.bfloat16())), "cosines are|bfloat16"),
    },
    right={"einsum": by_einsum, "broadcast": tables(plain)},
    borrowed=lambda positions, head_dim, base=10000.0: kt.rotary_table(positions, head_dim, base),
)

# ---------------------------------------------------------------- the turn


def stub_rotate(x, cos, sin, layout="half"): ...


def mistaken(mistake):
    return lambda x, cos, sin, layout="half": rotate_with(x, cos, sin, layout, mistake)


def one_layout(layout):
    return lambda x, cos, sin, unused="half": rotate_with(x, cos, sin, layout)


def in_place(x, cos, sin, layout="half"):
    a, b = x.chunk(2, dim=-1) if layout == "half" else (x[..., 0::2], x[..., 1::2])
    before = a.clone()
    a.copy_(a * cos - b * sin)
    b.copy_(before * sin + b * cos)
    return x


def as_complex(x, cos, sin, layout="half"):
    pairs = x.unflatten(-1, (2, -1)).mT if layout == "half" else x.unflatten(-1, (-1, 2))
    z = torch.view_as_complex(pairs.contiguous()) * torch.complex(cos, sin)
    pairs = torch.view_as_real(z)
    return pairs.mT.flatten(-2) if layout == "half" else pairs.flatten(-2)


def by_matrices(x, cos, sin, layout="half"):
    turn = torch.stack(
        [torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2
    )  # (..., T, hs/2, 2, 2)
    pairs = torch.stack(x.chunk(2, -1) if layout == "half" else [x[..., 0::2], x[..., 1::2]], -1)
    pairs = torch.einsum("...pij,...pj->...pi", turn, pairs)
    return pairs.mT.reshape(x.shape) if layout == "half" else pairs.reshape(x.shape)


def one_row(x, cos, sin, layout="half"):
    at = cos[(0,) * (cos.ndim - 2)], sin[(0,) * (sin.ndim - 2)]
    return rotate_with(x, *at, layout)


ROTATE = Answers(
    stub=stub_rotate,
    wrong={
        mistake: (mistaken(mistake), text.split(":")[0])
        for mistake, text in ROTATE_MISTAKES.items()
    }
    | {
        "half alone": (one_layout("half"), "layout is not used"),
        "interleaved alone": (one_layout("interleaved"), "layout half: .*mixed up"),
        "in place": (in_place, "changes its argument x in place"),
        "one row": (one_row, "whose rows have their own"),
        "interleaved by default": (
            lambda x, cos, sin, layout="interleaved": rotate_with(x, cos, sin, layout),
            'without a layout it is "half"',
        ),
        "heads for time": (
            lambda x, cos, sin, layout="half": rotate_with(
                x.transpose(1, 2), cos[: x.size(1)], sin[: x.size(1)], layout
            ),
            "raised RuntimeError|shape",
        ),
    },
    right={"complex numbers": as_complex, "2 x 2 matrices": by_matrices},
    borrowed=lambda x, cos, sin, layout="half": kt.rotate(x, cos, sin, layout),
)

# ---------------------------------------------------------------- the right axis


def stub_rotation(rotary, positions): ...


def rotation(lookup):
    """cos and sin, each by `lookup(table, positions)`."""
    return lambda rotary, positions: (lookup(rotary.cos, positions), lookup(rotary.sin, positions))


def recomputed(head_dim=None, base=10000.0):
    """cos and sin computed again, with a base and a head size of its own."""

    def answer(rotary, positions):
        n = rotary.cos.size(-1)
        width = head_dim or 2 * n
        angle = positions.unsqueeze(-1) * base ** (-torch.arange(0, width, 2) / width)
        return angle[..., :n].cos().unsqueeze(1), angle[..., :n].sin().unsqueeze(1)

    return answer


def negative(rotary, positions):
    return rotary.cos[positions].unsqueeze(1), -rotary.sin[positions].unsqueeze(1)


looked_up = rotation(lambda table, p: table[p].unsqueeze(1))
AXIS = Answers(
    stub=stub_rotation,
    wrong={
        "heads for positions": (
            rotation(lambda table, p: table[p].unsqueeze(2)),
            "heads and positions are swapped",
        ),
        "n_embd, cut": (recomputed(32), "table for n_embd, cut"),
        "n_embd": (
            rotation(lambda table, p: table[p].repeat(1, 1, 4).unsqueeze(1)),
            "16 angles per position",
        ),
        "counts": (
            rotation(lambda table, p: table[None, None, : p.size(1)]),
            "positions that are given",
        ),
        "base": (recomputed(), "base 100"),
        "rows for heads": (rotation(lambda table, p: table[p]), "row b"),
        "first row": (rotation(lambda table, p: table[p[0]]), "row b"),
        "swapped": (lambda rotary, p: looked_up(rotary, p)[::-1], "cos and sin are swapped"),
        "cos alone": (lambda rotary, p: rotary.cos[p].unsqueeze(1), "two tensors"),
        "numbers": (lambda rotary, p: (1.0, 0.0), "instead of a tensor"),
        "channels first": (
            rotation(lambda table, p: table[p].unsqueeze(1).transpose(2, 3)[..., :3]),
            "3 angles",
        ),
        "minus": (negative, "is not cos and sin"),
    },
    right={
        "looked up": looked_up,
        "by F.embedding": rotation(lambda table, p: F.embedding(p, table)[:, None]),
        "one-hot": rotation(lambda table, p: (F.one_hot(p, len(table)).float() @ table)[:, None]),
        "repeated for each head": rotation(lambda table, p: table[p][:, None].repeat(1, 4, 1, 1)),
    },
    borrowed=lambda rotary, positions: rotary(positions),
)

# ---------------------------------------------------------------- attention


def stub_attention(layer, x, mask=None, rotation=None): ...


def attention(mistake=""):
    """By the formula, with one mistake."""

    def answer(layer, x, mask=None, rotation=None):
        if rotation is None:
            return attention_with_mistake(layer, x, x, mask)
        return attend_with(layer, x, mask, rotation, mistake)

    return answer


def always_rotated(layer, x, mask=None, rotation=None):
    if rotation is None:
        cos, sin = kt.rotary_table(torch.arange(x.size(1)), x.size(-1) // layer.n_head)
        rotation = ((cos, sin), (cos, sin))
    return attend_with(layer, x, mask, rotation)


def split(layer, x):
    B, T, _ = x.shape
    linears = (layer.query, layer.key, layer.value)
    return (f(x).view(B, T, layer.n_head, -1).transpose(1, 2) for f in linears)


def by_pytorch(layer, x, mask=None, rotation=None):
    q, k, v = split(layer, x)
    if rotation is not None:
        q, k = kt.rotate(q, *rotation[0]), kt.rotate(k, *rotation[1])
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return layer.proj(context.transpose(1, 2).reshape(x.shape))


def by_their_distance(layer, x, mask=None, rotation=None):
    """Rotates the queries by the difference of the angles, once per key, and leaves the keys."""
    q, k, v = split(layer, x)
    q = q[..., :, None, :].expand(-1, -1, -1, x.size(1), -1)  # (B, nh, T_query, T_key, hs)
    if rotation is not None:
        (qc, qs), (kc, ks) = rotation
        cos = qc[:, None] * kc + qs[:, None] * ks
        sin = qs[:, None] * kc - qc[:, None] * ks
        q = kt.rotate(q, cos, sin)
    scores = (q * k[..., None, :, :]).sum(-1) / math.sqrt(q.size(-1))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return layer.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def before_the_split(layer, x, mask=None, rotation=None):
    rotated = x if rotation is None else kt.rotate(x, *rotation[0])
    return layer.proj(rotated)


ATTENTION = Answers(
    stub=stub_attention,
    wrong={
        mistake: (attention(mistake), text[:20].split("(")[0])
        for mistake, text in (MULTI_HEAD | ATTENTION_MISTAKES).items()
        if mistake != "one head"
    }
    | {
        "always rotated": (always_rotated, "wrong without"),
        "a rotation is needed": (
            lambda layer, x, mask=None, rotation=None: attend_with(layer, x, mask, rotation),
            "TypeError|wrong without",
        ),
        "detached": (torch.no_grad()(attention()), "cut off"),
        "before the split": (before_the_split, "raised|differs"),
    },
    right={"PyTorch's": by_pytorch, "by their distance": by_their_distance, "formula": attention()},
    borrowed=lambda layer, x, **options: layer(x, **options),
)

ANSWERS = {
    "rotary-frequencies": FREQUENCIES,
    "rotary-table": TABLE,
    "rotate": ROTATE,
    "model-rotation": AXIS,
    "rotary-attention": ATTENTION,
}
TestExercises = suite("07_rope", ANSWERS)
TestQuizzes = quiz_suite("07_rope")


def test_the_formulas_of_the_checks_are_the_packages():
    positions = torch.randint(0, 99, (3, 5), generator=torch.Generator().manual_seed(0))
    cos, sin = kt.rotary_table(positions, 8, 500.0)
    torch.testing.assert_close(angles(positions, 8, 500.0).cos().float(), cos, atol=1e-4, rtol=0)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    for layout in ("half", "interleaved"):
        expected = kt.rotate(x, cos, sin, layout)
        torch.testing.assert_close(rotate_with(x, cos, sin, layout), expected)
        for mistake in ROTATE_MISTAKES:
            other = rotate_with(x, cos, sin, layout, mistake)
            assert not torch.allclose(other, expected, atol=1e-3)


def test_a_right_answer_fits_into_the_model():
    """What the exercises return can replace the model's own parts."""
    torch.manual_seed(0)
    model = GPT(kt.GPTConfig(9, 12, 2, 2, 16, "rope", dropout=0.0)).eval()
    idx = torch.randint(0, 9, (2, 7))
    expected = model(idx)[0]
    rotary: Rotary = model.rotary
    rotary.forward = lambda positions: AXIS.right["by F.embedding"](rotary, positions)
    for block in model.blocks:
        layer: MultiHeadAttention = block.attn
        layer.forward = lambda x, source, mask, rotation, cache, layer=layer: by_pytorch(
            layer, x, mask, rotation
        )
    torch.testing.assert_close(model(idx)[0], expected, atol=1e-5, rtol=1e-5)
