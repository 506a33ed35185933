"""Answers to the exercises of notebook 7, right and wrong: every mistake gets its name."""

import math

import torch
import torch.nn.functional as F
from checking import Answers, quiz_suite, suite

import kt_core as kt
from kt_core.attention import MultiHeadAttention
from kt_core.models import GPT
from kt_course.chapters.rope.exercises import TURNS, table, turned
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
        "divided": (tables(lambda p, w: p.unsqueeze(-1) / w), "fly"),
        "all alike": (
            tables(lambda p, w: p.unsqueeze(-1) * torch.ones_like(w)),
            "every pair turns alike",
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


def slipping(slip):
    return lambda x, cos, sin, layout="half": turned(x, cos, sin, layout, slip)


def one_layout(layout):
    return lambda x, cos, sin, given="half": turned(x, cos, sin, layout)


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
    return turned(x, *at, layout)


ROTATE = Answers(
    stub=stub_rotate,
    wrong={slip: (slipping(slip), told.split(":")[0]) for slip, told in TURNS.items()}
    | {
        "half alone": (one_layout("half"), "layout is not used"),
        "interleaved alone": (one_layout("interleaved"), "layout half: .*mixed up"),
        "in place": (in_place, "changes its argument x in place"),
        "one row": (one_row, "whose rows have their own"),
        "interleaved if not told": (
            lambda x, cos, sin, layout="interleaved": turned(x, cos, sin, layout),
            'without a layout it is "half"',
        ),
        "heads for time": (
            lambda x, cos, sin, layout="half": turned(
                x.transpose(1, 2), cos[: x.size(1)], sin[: x.size(1)], layout
            ),
            "raised RuntimeError|shape",
        ),
    },
    right={"complex numbers": as_complex, "2 x 2 matrices": by_matrices},
    borrowed=lambda x, cos, sin, layout="half": kt.rotate(x, cos, sin, layout),
)

# ---------------------------------------------------------------- the right axis


def stub_rotation(model, positions): ...


def rotation(angles, always=False):
    """cos and sin from `angles(config, positions)`, None for models that turn nothing."""

    def answer(model, positions):
        if not model.config.rotary and not always:
            return None
        angle = angles(model.config, positions)
        return angle.cos(), angle.sin()

    return answer


def angles_of(positions, config, width=None, base=None):
    width = width or config.n_embd // config.n_head
    return positions.unsqueeze(-1) * (base or config.rope_base) ** (
        -torch.arange(0, width, 2) / width
    )


def looked_up(model, positions):
    return (
        (model.cos[positions].unsqueeze(1), model.sin[positions].unsqueeze(1))
        if model.pos_emb is None
        else None
    )


AXIS = Answers(
    stub=stub_rotation,
    wrong={
        "heads for time": (
            rotation(lambda c, p: angles_of(p, c).unsqueeze(2)),
            "heads and time are swapped",
        ),
        "n_embd, cut": (
            rotation(
                lambda c, p: angles_of(p, c, c.n_embd)[..., : c.n_embd // c.n_head // 2].unsqueeze(
                    1
                )
            ),
            "table from n_embd, cut",
        ),
        "n_embd": (
            rotation(lambda c, p: angles_of(p, c, c.n_embd).unsqueeze(1)),
            "16 angles.*n_embd",
        ),
        "counts": (
            rotation(lambda c, p: angles_of(torch.arange(p.size(1)), c)),
            "positions that are given",
        ),
        "base": (rotation(lambda c, p: angles_of(p, c, base=10000.0).unsqueeze(1)), "rope_base"),
        "rows for heads": (rotation(lambda c, p: angles_of(p, c)), "row b"),
        "first row": (rotation(lambda c, p: angles_of(p[0], c)), "row b"),
        "any model": (
            rotation(lambda c, p: angles_of(p, c).unsqueeze(1), always=True),
            "learned positions turns nothing",
        ),
        "swapped": (
            lambda model, p: (found := looked_up(model, p)) and found[::-1],
            "cos and sin are swapped",
        ),
        "cos alone": (lambda model, p: angles_of(p, model.config).cos(), "two tensors"),
        "channels first": (
            rotation(lambda c, p: angles_of(p, c).unsqueeze(1).transpose(2, 3)[..., :3]),
            "3 angles",
        ),
        "minus": (rotation(lambda c, p: -angles_of(p, c).unsqueeze(1)), "are not what comes out"),
    },
    right={
        "from the config": rotation(lambda c, p: angles_of(p, c).unsqueeze(1)),
        "by kt.rotary_table": lambda model, p: (
            kt.rotary_table(
                p[:, None], model.config.n_embd // model.config.n_head, model.config.rope_base
            )
            if model.config.rotary
            else None
        ),
        "looked up": looked_up,
        "repeated for each head": rotation(
            lambda c, p: angles_of(p, c)[:, None].repeat(1, c.n_head, 1, 1)
        ),
    },
    borrowed=lambda model, positions: model._rotation(positions),
)

# ---------------------------------------------------------------- attention


def stub_attention(layer, x, *, is_causal=False, query_rotation=None, key_rotation=None): ...


def attention(slip="", causal=True, turn=None):
    """By the formula, with a mistake in the heads, or in `turn(q, k, v, query_rotation, key_rotation)`."""

    def usual(q, k, v, query, key):
        return (
            q if query is None else kt.rotate(q, *query),
            k if key is None else kt.rotate(k, *key),
            v,
        )

    def answer(layer, x, *, is_causal=False, query_rotation=None, key_rotation=None):
        mask = kt.causal_mask(x.size(1)) if is_causal and causal else None

        def done(q, k, v):
            return (turn or usual)(q, k, v, query_rotation, key_rotation)

        return attention_with_mistake(layer, x, x, mask, slip, done)

    return answer


def by_pytorch(layer, x, *, is_causal=False, query_rotation=None, key_rotation=None):
    B, T, C = x.shape
    q, k, v = (
        f(x).view(B, T, layer.n_head, -1).transpose(1, 2)
        for f in (layer.query, layer.key, layer.value)
    )
    if query_rotation is not None:
        q, k = kt.rotate(q, *query_rotation), kt.rotate(k, *key_rotation)
    return layer.proj(
        F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        .transpose(1, 2)
        .reshape(B, T, C)
    )


def by_their_distance(layer, x, *, is_causal=False, query_rotation=None, key_rotation=None):
    """Turns the queries by the difference of the angles, each for each key, and leaves the keys."""
    B, T, C = x.shape
    q, k, v = (
        f(x).view(B, T, layer.n_head, -1).transpose(1, 2)
        for f in (layer.query, layer.key, layer.value)
    )
    q = q[..., :, None, :].expand(-1, -1, -1, T, -1)  # (B, nh, T_query, T_key, hs)
    if query_rotation is not None:
        (qc, qs), (kc, ks) = query_rotation, key_rotation
        cos = qc[:, None] * kc + qs[:, None] * ks
        sin = qs[:, None] * kc - qc[:, None] * ks
        q = kt.rotate(q, cos, sin)
    scores = (q * k[..., None, :, :]).sum(-1) / math.sqrt(q.size(-1))
    if is_causal:
        scores = scores + torch.full((T, T), -torch.inf).triu(1)
    return layer.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def before_the_split(layer, x, *, is_causal=False, query_rotation=None, key_rotation=None):
    turned = x if query_rotation is None else kt.rotate(x, *query_rotation)
    return layer.proj(turned)


ATTENTION = Answers(
    stub=stub_attention,
    wrong={
        slip: (attention(slip), MULTI_HEAD[slip][:20].split("(")[0])
        for slip in MULTI_HEAD
        if slip != "one head"
    }
    | {
        "no turn": (attention(turn=lambda q, k, v, a, b: (q, k, v)), "nothing is turned"),
        "queries alone": (
            attention(turn=lambda q, k, v, a, b: (kt.rotate(q, *a), k, v)),
            "keys are not turned",
        ),
        "keys alone": (
            attention(turn=lambda q, k, v, a, b: (q, kt.rotate(k, *b), v)),
            "queries are not turned",
        ),
        "values too": (
            attention(
                turn=lambda q, k, v, a, b: (kt.rotate(q, *a), kt.rotate(k, *b), kt.rotate(v, *b))
            ),
            "values are turned too",
        ),
        "exchanged": (
            attention(turn=lambda q, k, v, a, b: (kt.rotate(q, *b), kt.rotate(k, *a), v)),
            "exchanged",
        ),
        "one rotation": (
            attention(turn=lambda q, k, v, a, b: (kt.rotate(q, *a), kt.rotate(k, *a), v)),
            "query_rotation: they",
        ),
        "not causal": (attention(causal=False), "leak"),
        "always turned": (
            attention(turn=lambda q, k, v, a, b: (kt.rotate(q, *a), kt.rotate(k, *b), v)),
            "TypeError|wrong without",
        ),
        "before the split": (before_the_split, "raised|differs"),
    },
    right={"PyTorch's": by_pytorch, "by their distance": by_their_distance, "formula": attention()},
    borrowed=lambda layer, x, **where: layer(x, **where),
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
    torch.testing.assert_close(table(positions, 8, 500.0).cos().float(), cos, atol=1e-4, rtol=0)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    for layout in ("half", "interleaved"):
        torch.testing.assert_close(turned(x, cos, sin, layout), kt.rotate(x, cos, sin, layout))
        for slip in TURNS:
            assert not torch.allclose(
                turned(x, cos, sin, layout, slip), kt.rotate(x, cos, sin, layout), atol=1e-3
            )


def test_a_right_answer_fits_into_the_model():
    """What the exercises give back takes the place of the model's own parts."""
    torch.manual_seed(0)
    model = GPT(kt.GPTConfig(9, 12, 2, 2, 16, "rope", dropout=0.0)).eval()
    idx = torch.randint(0, 9, (2, 7))
    expected = model(idx)[0]
    model._rotation = lambda reach: AXIS.right["from the config"](model, reach)
    for block in model.blocks:
        layer: MultiHeadAttention = block.attn
        layer.forward = lambda x, source=None, layer=layer, cache=None, slots=None, **where: (
            by_pytorch(layer, x, **where)
        )
    torch.testing.assert_close(model(idx)[0], expected, atol=1e-5, rtol=1e-5)
