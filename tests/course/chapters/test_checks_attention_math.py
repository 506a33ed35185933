"""The exercises of notebook 01: correct answers pass, and each known mistake is named."""

from __future__ import annotations

import math
import re
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from checking import Answers, notebook_suite, quiz_suite, suite

import kt_core as kt
from kt_course.chapters.attention_math import exercises, solutions
from kt_course.chapters.attention_math.solutions import average_query, sees_future

ROOT = Path(__file__).resolve().parents[3]

# ---------------------------------------------------------------- stubs, as in the notebook


def scaled_stub(query, key):
    scores = ...
    return scores


def mask_stub(T):
    """A mask."""
    ...


def softmax_stub(scores, mask=None):
    """Weights."""
    ...


def head_stub(x, w_query, w_key, w_value, mask=None):
    """Context and weights."""
    ...


def query_stub(keys, a, b):
    """A query."""
    ...


def positions_stub(T, n_embd):
    """A table."""
    ...


def detector_stub(layer, T, d):
    """True or False."""
    ...


# ---------------------------------------------------------------- answers of more than a line


def softmax_by_sums(scores, mask=None):
    """exp, and a division that leaves empty rows at 0."""
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    scores = scores.double()
    top = torch.where(mask, scores, -torch.inf).amax(-1, keepdim=True)
    parts = torch.where(mask, (scores - torch.where(top.isfinite(), top, 0.0)).exp(), 0.0)
    return parts / parts.sum(-1, keepdim=True).clamp_min(1e-30)


def masked(fill, after=lambda weights, mask: weights):
    """A masked softmax with another filler, and something done to the weights."""

    def answer(scores, mask=None):
        mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
        return after(scores.masked_fill(~mask, fill).softmax(-1), mask)

    return answer


def upside_down(scores, mask=None):
    return scores.softmax(-1) if mask is None else scores.masked_fill(mask, -torch.inf).softmax(-1)


def in_place(scores, mask=None):
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    return scores.softmax(-1).nan_to_num()


def exp_of_all(scores, mask=None):
    parts = scores.exp() if mask is None else scores.exp() * mask
    return parts / parts.sum(-1, keepdim=True)


def head_by_loops(x, w_query, w_key, w_value, mask=None):
    """Query by query, key by key."""
    mask = torch.ones(x.size(-2), x.size(-2)).bool() if mask is None else mask
    contexts, maps = [], []
    for text in x:
        rows = []
        for t, query in enumerate(text @ w_query):
            scores = torch.stack([query @ key for key in text @ w_key]) / len(query) ** 0.5
            rows.append(torch.where(mask[t], scores, -torch.inf).softmax(-1))
        maps.append(torch.stack(rows))
        contexts.append(maps[-1] @ (text @ w_value))
    return torch.stack(contexts), torch.stack(maps)


def head_by_einsum(x, w_query, w_key, w_value, mask=None):
    products = torch.einsum("btc,cd,ed,bse->bts", x, w_query, w_key, x)
    scores = products / w_query.size(1) ** 0.5
    weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
    return weights @ x @ w_value, weights


def positions(angle, first=math.sin, second=math.cos):
    """A table by loops: `angle(t, i, C)`."""

    def answer(T, n_embd):
        rows = [
            [f(angle(t, i, n_embd)) for i in range(n_embd // 2) for f in (first, second)]
            for t in range(T)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    return answer


def halves(T, n_embd):
    angle = torch.arange(T)[:, None] / 10000 ** (torch.arange(0, n_embd, 2) / n_embd)
    return torch.cat([angle.sin(), angle.cos()], -1)


def own_clocks(T, n_embd):
    channel = torch.arange(n_embd)
    angle = torch.arange(T)[:, None] / 10000 ** (channel / n_embd)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


def by_slices(T, n_embd):
    table = torch.empty(T, n_embd)
    angle = torch.outer(
        torch.arange(T).float(), torch.exp(-math.log(1e4) * torch.arange(0, n_embd, 2) / n_embd)
    )
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
    return table


def pseudo_inverse(keys, a, b):
    """For any independent keys: the query whose scores are 12 on a and b, and 0 on the others."""
    scores = torch.zeros(len(keys))
    scores[[a, b]] = 12.0
    return torch.linalg.pinv(keys) @ scores


def detector(where, compared=lambda after, before, t: (after[:t], before[:t]), tolerance=1e-5):
    """Changes the inputs at `where(T)`, one at a time, and compares what `compared` picks."""

    def answer(layer, T, d):
        # whatever ran before, the same finding
        x = torch.randn(T, d, generator=torch.Generator().manual_seed(T))
        for t in where(T):
            changed = x.clone()
            changed[t] += 1.0
            after, before = compared(layer(changed), layer(x), t)
            if not torch.allclose(after, before, atol=tolerance):
                return True
        return False

    return answer


def by_gradient(layer, T, d):
    jacobian = (
        torch.autograd.functional.jacobian(layer, torch.randn(T, d)).abs().sum((1, 3))
    )  # (T out, T in)
    return (jacobian.triu(1) > 1e-7).any()


def in_the_input(layer, T, d):
    """Forgets the copy: both runs see the changed input."""
    x = torch.randn(T, d)
    changed = x
    changed[-1] += 1.0
    return not torch.allclose(layer(changed)[:-1], layer(x)[:-1], atol=1e-6)


ANSWERS = {
    "scaled-score": Answers(
        stub=scaled_stub,
        wrong={
            "no scale": (lambda q, k: q @ k.mT, r"missing 1/sqrt\(d\).*d = 16"),
            "by d": (lambda q, k: q @ k.mT / q.size(-1), "divided by d = 16"),
            "times sqrt(d)": (lambda q, k: q @ k.mT * q.size(-1) ** 0.5, "multiplied by sqrt"),
            "by the keys": (lambda q, k: q @ k.mT / k.size(-2) ** 0.5, "number of keys, 5"),
            "by the queries": (lambda q, k: q @ k.mT / q.size(-2) ** 0.5, "number of queries, 3"),
            "transposed": (
                lambda q, k: k @ q.mT / q.size(-1) ** 0.5,
                r"\(T_key, T_query\) = \(5, 3\)",
            ),
            "softmax too": (
                lambda q, k: (q @ k.mT / q.size(-1) ** 0.5).softmax(-1),
                "softmax is done",
            ),
            "constant d": (lambda q, k: q @ k.mT / 4, r"right for q of shape \(3, 16\)"),
            "cosine": (
                lambda q, k: F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT,
                "the table of scores differs",
            ),
            "no matrix": (lambda q, k: (q @ k.mT).mean(), r"has the shape \(\)"),
        },
        right={
            "einsum": lambda q, k: torch.einsum("...qd,...kd->...qk", q, k) * q.size(-1) ** -0.5,
            "scaled on both sides": lambda q, k: (
                (q * q.size(-1) ** -0.25) @ (k * q.size(-1) ** -0.25).mT
            ),
            "float64": lambda q, k: q.double() @ k.double().mT / math.sqrt(q.size(-1)),
        },
        borrowed=lambda q, k: kt.scaled_dot_product_score(q, k),
    ),
    "causal-mask": Answers(
        stub=mask_stub,
        wrong={
            "triu": (
                lambda T: torch.ones(T, T).triu().bool(),
                r"leak from the future at \(q=0, k=5\)",
            ),
            "swapped": (lambda T: torch.ones(T, T).triu(1).bool(), "True and False are swapped"),
            "one too many": (
                lambda T: torch.ones(T, T).tril(1).bool(),
                r"\(q=0, k=1\): one diagonal",
            ),
            "no diagonal": (lambda T: torch.ones(T, T).tril(-1).bool(), "diagonal is missing"),
            "float": (lambda T: torch.ones(T, T).tril(), "holds float32: .*boolean"),
            "additive": (lambda T: torch.full((T, T), -torch.inf).triu(1), "boolean"),
            "only itself": (lambda T: torch.eye(T).bool(), "only the diagonal is True"),
            "everything": (lambda T: torch.ones(T, T).bool(), r"leak .*\(q=0, k=1\): 15 cells"),
            "T = 6 hard-coded": (
                lambda T: torch.ones(6, 6).tril().bool(),
                "right for T = 6, wrong for another T",
            ),
            "a list": (lambda T: [[k <= q for k in range(T)] for q in range(T)], "not a list of 6"),
        },
        right={
            "by comparing": lambda T: torch.arange(T)[None] <= torch.arange(T)[:, None],
            "by loops": lambda T: torch.tensor([[k <= q for k in range(T)] for q in range(T)]),
            "not above": lambda T: ~torch.ones(T, T, dtype=torch.bool).triu(diagonal=1),
        },
        borrowed=lambda T: kt.causal_mask(T) & True,
    ),
    "masked-softmax": Answers(
        stub=softmax_stub,
        wrong={
            "wrong axis": (lambda s, m=None: s.softmax(-2), "wrong axis: columns sum to 1"),
            "wrong axis under a mask": (
                lambda s, m=None: (
                    s.softmax(-1) if m is None else s.masked_fill(~m, -torch.inf).softmax(-2)
                ),
                "wrong axis under a mask",
            ),
            "one softmax for all": (
                lambda s, m=None: s.flatten().softmax(0).view_as(s),
                "whole matrix",
            ),
            "mask ignored": (lambda s, m=None: s.softmax(-1), "mask is not applied"),
            "zeros afterwards": (
                lambda s, m=None: s.softmax(-1) if m is None else s.softmax(-1) * m,
                "zeroed after the softmax: .*leak",
            ),
            "score 0": (lambda s, m=None: (s if m is None else s * m).softmax(-1), r"exp\(0\) = 1"),
            "upside down": (upside_down, "upside down.*~mask"),
            "NaN row": (masked(-torch.inf), "no allowed key gives NaN.*0/0"),
            "-1e9 row": (masked(-1e9), "-1e9 is no -inf, and leaks"),
            "-1e4": (
                masked(-1e4, lambda w, m: w.masked_fill(~m.any(-1, keepdim=True), 0)),
                "-100,000 let forbidden",
            ),
            "overflow": (exp_of_all, "-100,000 give NaN.*maximum"),
            "in place": (in_place, "changes its argument scores in place"),
            "needs a mask": (
                lambda s, m: s.masked_fill(~m, -torch.inf).softmax(-1),
                "cannot be called .*missing 1 required",
            ),
        },
        right={
            "by sums": softmax_by_sums,
            "nan to 0": lambda s, m=None: (
                s.masked_fill(~(s == s if m is None else m), -torch.inf).softmax(-1).nan_to_num(0.0)
            ),
            "-1e9 and zeros": masked(-1e30, lambda weights, mask: weights * mask),
        },
        borrowed=lambda s, m=None: kt.masked_softmax(s, m),
    ),
    "one-head": Answers(
        stub=head_stub,
        wrong={
            "context alone": (
                lambda *inputs: head_by_loops(*inputs)[0],
                "return the context and the weights",
            ),
            "no softmax": (
                lambda x, q, k, v, mask=None: ((x @ q @ (x @ k).mT) @ (x @ v), x @ q @ (x @ k).mT),
                "differs",
            ),
        }
        | {
            name: (exercises.CHAPTER.execute(source, "one_head"), re.escape(text))
            for name, source, text in exercises.CHAPTER.mistakes("one-head")
        },
        right={"by loops": head_by_loops, "by einsum": head_by_einsum},
        borrowed=lambda x, q, k, v, mask=None: kt.attend(x @ q, x @ k, x @ v, mask),
    ),
    "average-of-two": Answers(
        stub=query_stub,
        wrong={
            "one key": (lambda keys, a, b: 20 * keys[a], r"weights 1\.00 and 0\.00 .*unequal"),
            "too short": (lambda keys, a, b: keys[a] + keys[b], "the query is too short"),
            "unequal lengths": (lambda keys, a, b: 20 * keys[a] + 10 * keys[b], "unequal"),
            "difference": (lambda keys, a, b: 20 * (keys[a] - keys[b]), "unequal"),
            "away": (lambda keys, a, b: -20 * (keys[a] + keys[b]), "points away"),
            "the values' average": (lambda keys, a, b: 20 * keys.mean(0), "too short"),
            "the weights": (
                lambda keys, a, b: (keys @ (20 * (keys[a] + keys[b]))).softmax(-1),
                r"the query.* has the shape \(32,\) instead of \(64,\)",
            ),
            "far too long": (
                lambda keys, a, b: 1e6 * (keys[a] + keys[b]),
                "rounding errors decide",
            ),
            "endless": (lambda keys, a, b: 1e39 * (keys[a] + keys[b]).double(), "infinite|endless"),
            "enough for 32 keys": (
                lambda keys, a, b: 6.8 * (keys[a] + keys[b]),
                "with 64 keys.*too short",
            ),
        },
        right={
            "pseudo-inverse": pseudo_inverse,
            "the others pushed away": lambda keys, a, b: 30 * (keys[a] + keys[b]) - 5 * keys.sum(0),
            "float64": lambda keys, a, b: 15.0 * keys.double()[[a, b]].sum(0),
        },
        borrowed=lambda keys, a, b: average_query(keys, a, b),
    ),
    "sinusoidal-positions": Answers(
        stub=positions_stub,
        wrong={
            "halves": (halves, "all sines first"),
            "sin and cos swapped": (
                positions(lambda t, i, C: t / 1e4 ** (2 * i / C), math.cos, math.sin),
                "sin and cos are swapped",
            ),
            "exponent i/d": (positions(lambda t, i, C: t / 1e4 ** (i / C)), "exponent is i/d"),
            "doubled": (positions(lambda t, i, C: t / 1e4 ** (4 * i / C)), "doubled twice"),
            "own clocks": (own_clocks, "share the exponent"),
            "multiplied": (positions(lambda t, i, C: t * 1e4 ** (2 * i / C)), "divide"),
            "from 1": (
                positions(lambda t, i, C: (t + 1) / 1e4 ** (2 * i / C)),
                "positions count from 1",
            ),
            "another base": (
                positions(lambda t, i, C: t / 1e3 ** (2 * i / C)),
                "the base is 1000: it is 10000",
            ),
            "channels in rows": (lambda T, C: by_slices(T, C).T, r"\(8, 50\): a row"),
            "one column short": (
                lambda T, C: by_slices(T, C)[:, :-1],
                r"\(50, 7\) instead of \(50, 8\)",
            ),
            "8 channels hard-coded": (lambda T, C: by_slices(T, 8), r"\(600, 8\) instead of"),
        },
        right={"loops": positions(lambda t, i, C: t / 1e4 ** (2 * i / C)), "slices": by_slices},
        borrowed=lambda T, C: kt.sinusoidal_positions(T, C),
    ),
    "leak-detector": Answers(
        stub=detector_stub,
        wrong={
            "always yes": (lambda layer, T, d: True, "false alarm"),
            "always no": (lambda layer, T, d: False, "leak not found: attention without a mask"),
            "the last input only": (
                detector(lambda T: [T - 1]),
                "leak not found: .*position 1 sees",
            ),
            "the next output only": (
                detector(
                    lambda T: range(1, T), lambda after, before, t: (after[t - 1], before[t - 1])
                ),
                "leak not found: .*position 0 sees the last",
            ),
            "output 0 only": (
                detector(lambda T: range(1, T), lambda after, before, t: (after[0], before[0])),
                "leak not found: .*(last but one|position 1)",
            ),
            "all outputs": (
                detector(lambda T: range(T), lambda after, before, t: (after, before)),
                "false alarm.*Only outputs before",
            ),
            "at the changed one": (
                detector(
                    lambda T: range(1, T),
                    lambda after, before, t: (after[: t + 1], before[: t + 1]),
                ),
                "false alarm",
            ),
            "outputs after it": (
                detector(
                    lambda T: range(T), lambda after, before, t: (after[t + 1 :], before[t + 1 :])
                ),
                "false alarm",
            ),
            "blunt": (
                detector(lambda T: range(1, T), tolerance=0.05),
                "leak not found: a faint leak",
            ),
            "the input itself": (in_the_input, "leak not found"),
            "how much": (lambda layer, T, d: 0.5, "True or False, not 0.5"),
        },
        right={"every input": detector(lambda T: range(1, T)), "the gradient": by_gradient},
        borrowed=lambda layer, T, d: sees_future(layer, T, d),
    ),
}


def cells():
    notebook = nbformat.read(ROOT / "notebooks" / "01_attention_math.ipynb", as_version=4)
    return {cell.id: cell for cell in notebook.cells}


TestExercises = suite("01_attention_math", ANSWERS)
TestQuizzes = quiz_suite("01_attention_math")
TestNotebook = notebook_suite("01_attention_math")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_average_query_gives_one_half_each(dtype):
    keys = torch.eye(40, dtype=dtype)
    alpha = (keys @ average_query(keys, 2, 31)).softmax(-1)
    assert alpha[2] == pytest.approx(0.5, abs=1e-6) and alpha[31] == pytest.approx(0.5, abs=1e-6)


def test_the_fused_kernel_leaks_only_without_is_causal():
    def fused(causal):
        return lambda x: F.scaled_dot_product_attention(
            x[None], x[None], x[None], is_causal=causal
        )[0]

    assert sees_future(fused(False), 7, 4) and not sees_future(fused(True), 7, 4)


def test_the_solutions_agree_with_kt_core():
    q, k, v = torch.randn(3, 2, 4, 7, 6)
    mask = solutions.causal_mask(7)
    assert torch.equal(mask, kt.causal_mask(7))
    for a, b in zip(solutions.attend(q, k, v, mask), kt.attend(q, k, v, mask), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    scores, some = torch.randn(5, 6), torch.randn(5, 6) < 0
    assert torch.allclose(solutions.masked_softmax(scores, some), kt.masked_softmax(scores, some))
    ours = solutions.sinusoidal_positions(50, 8)
    assert torch.allclose(ours, kt.sinusoidal_positions(50, 8), atol=1e-5)


@pytest.mark.slow
@pytest.mark.notebook("01_attention_math")
def test_what_the_page_says_of_its_training_and_simulation(facts):
    """The cells that nbval does not compare, and the shares in the text."""
    assert facts["reversed_with_positions"]["accuracy"] > 0.95
    assert facts["reversed_without_positions"]["accuracy"] < 0.05
    assert facts["mirrored_queries"] == 6
    assert facts["near_one_head"] < 0.1 and facts["near_two_heads"] > 0.8
