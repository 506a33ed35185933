"""Answers to the exercises of notebook 10, right and wrong: every mistake gets its name."""

import math
import random
import re

import torch
import torch.nn.functional as F
from checking import Answers, notebook_suite, quiz_suite, suite

from kt_core.attention import padding_mask
from kt_course.chapters.masked_language_models.exercises import (
    FILL_MISTAKES,
    KL_MISTAKES,
    fill_with,
    kl_with,
)
from kt_course.chapters.masked_language_models.masked_data import RULE, hide_units, one_hot_kl
from kt_course.chapters.masked_language_models.masked_decoding import fill_masks
from kt_course.chapters.masked_language_models.next_sentence import draw_line_pair

# ---------------------------------------------------------------- the rule


def stub_hide(ids, units, vocab_size, rng, rule=(0.8, 0.1)): ...


def hiding(mistake=""):
    """The rule, with one mistake built in."""

    def answer(ids, units, vocab_size, rng, rule=RULE):
        if mistake == "rule ignored":
            rule = RULE
        if mistake == "all hidden":
            rule = (1.0, 0.0)
        if mistake == "half random":
            rule = (rule[0], rule[1] + 0.1 * (rule == RULE))
        x = ids if mistake == "in place" else list(ids)
        y = list(ids) if mistake == "everywhere" else [0] * len(ids)
        source = random if mistake == "global" else rng
        if mistake == "own":
            source = random.Random()
        for start, stop in units:
            stop += mistake == "stop too"
            draw = source.random()
            filler = source.randrange(2, vocab_size)
            for j in range(start, min(stop, len(ids))):
                before = ids[j]
                if mistake == "a draw per character":
                    draw = source.random()
                if mistake != "one filler":
                    low, high = {
                        "specials": (0, 2),
                        "beyond": (2, vocab_size + 3),
                        "few": (2, 12),
                    }.get(mistake, (2, vocab_size))
                    filler = source.randrange(low, high)
                if mistake == "mask is 0":
                    x[j] = 0 if draw < rule[0] else x[j]
                elif draw < rule[0]:
                    x[j] = 1
                elif draw < sum(rule):
                    x[j] = filler
                y[j] = {"x": x[j]}.get(mistake, before)
                if mistake == "no loss if unchanged" and draw >= sum(rule):
                    y[j] = 0
        if mistake == "shifted":
            y = [ids[j + 1] if v and j + 1 < len(ids) else 0 for j, v in enumerate(y)]
        if mistake == "outside":
            x[1] = 1
        return x, y

    return answer


def by_one_number(ids, units, vocab_size, rng, rule=RULE):
    """Draws the kinds of all units at once."""
    kinds = rng.choices("mrk", weights=(rule[0], rule[1], 1 - sum(rule)), k=len(units))
    what = {j: kind for (a, b), kind in zip(units, kinds, strict=True) for j in range(a, b)}
    fillers = {
        "m": lambda j: 1,
        "r": lambda j: rng.choice(range(2, vocab_size)),
        "k": lambda j: ids[j],
    }
    x = [fillers[what[j]](j) if j in what else ids[j] for j in range(len(ids))]
    return x, [ids[j] if j in what else 0 for j in range(len(ids))]


RULES = Answers(
    stub=stub_hide,
    wrong={
        "shifted": (hiding("shifted"), "shifted by one"),
        "loss everywhere": (hiding("everywhere"), "not chosen"),
        "no loss if unchanged": (hiding("no loss if unchanged"), "stays as it is"),
        "y is x": (hiding("x"), r"y\[j\] is not ids\[j\]"),
        "all hidden": (hiding("all hidden"), "all chosen positions became"),
        "half random": (hiding("half random"), "80 % and 10 %"),
        "specials": (hiding("specials"), "0, which is padding"),
        "mask is 0": (hiding("mask is 0"), "0, which is padding"),
        "beyond": (hiding("beyond"), "with vocab_size 62 the last one is 61"),
        "few": (hiding("few"), "different characters"),
        "a draw per character": (hiding("a draw per character"), "once per unit"),
        "one filler": (hiding("one filler"), "all the same"),
        "stop too": (hiding("stop too"), "not chosen|range"),
        "outside": (hiding("outside"), "outside the chosen"),
        "in place": (hiding("in place"), "changes the list ids|chosen"),
        "global": (hiding("global"), "global `random`"),
        "own generator": (hiding("own"), "all draws have to come from rng"),
        "rule ignored": (hiding("rule ignored"), "not for another"),
        "x alone": (
            lambda ids, units, size, rng, rule=RULE: hiding()(ids, units, size, rng)[0],
            "two lists",
        ),
        "tensors": (
            lambda ids, units, size, rng, rule=RULE: tuple(
                map(torch.tensor, hiding()(ids, units, size, rng))
            ),
            "x should be a list",
        ),
    },
    right={"the kinds at once": by_one_number, "step by step": hiding()},
    borrowed=lambda ids, units, size, rng, rule=RULE: hide_units(ids, units, size, rng, rule),
)

# ---------------------------------------------------------------- the loss


def stub_kl(logits, targets): ...


def by_its_definition(logits, targets):
    total, n = logits.new_zeros(()), 0
    for row, ids in zip(logits, targets, strict=True):
        for z, v in zip(row, ids.tolist(), strict=True):
            if v:
                total = total - (z[v] - z.logsumexp(0))
                n += 1
    return total / n


def by_pytorch(logits, targets):
    chosen = targets != 0
    p = F.one_hot(targets[chosen], logits.size(-1)).to(logits.dtype)
    return F.kl_div(logits[chosen].log_softmax(-1), p, reduction="batchmean")


def naive(logits, targets):
    chosen = targets != 0
    p, q = F.one_hot(targets[chosen], logits.size(-1)).to(logits.dtype), logits[chosen].softmax(-1)
    return (p * (p / q).log()).sum(-1).mean()


def reversed_kl(logits, targets):
    chosen = targets != 0
    p, q = F.one_hot(targets[chosen], logits.size(-1)).to(logits.dtype), logits[chosen].softmax(-1)
    return (q * (q.log() - p.log())).sum(-1).mean()


def overflowing(logits, targets):
    chosen = targets != 0
    e = logits[chosen].exp()
    return -(e / e.sum(-1, keepdim=True)).gather(-1, targets[chosen][:, None]).log().mean()


def mistaken(mistake):
    return lambda logits, targets: kl_with(logits, targets, mistake)


DIVERGENCE = Answers(
    stub=stub_kl,
    wrong={
        mistake: (mistaken(mistake), re.escape(text.split(":")[0]))
        for mistake, text in KL_MISTAKES.items()
    }
    | {
        "0 log 0": (naive, "0 log 0"),
        "reversed": (reversed_kl, "infinite"),
        "overflow": (overflowing, "large logits"),
        "detached": (lambda z, y: kl_with(z.detach(), y), "cut off"),
        "by PyTorch": (
            lambda z, y: F.cross_entropy(z.flatten(0, 1), y.flatten(), ignore_index=0),
            "PyTorch's own cross_entropy",
        ),
        "a number": (lambda z, y: float(kl_with(z, y)), "should be a tensor"),
        "each place": (
            lambda z, y: -z.log_softmax(-1).gather(-1, y[..., None])[..., 0],
            r"shape \(3, 5\)",
        ),
        "a wrong number": (lambda z, y: kl_with(z, y) + 0.1, "differs"),
        "another gradient": (
            lambda z, y: kl_with(z, y).detach() + 0 * z.sum(),
            "its gradient is not",
        ),
        "first row": (
            lambda z, y: kl_with(z, y) if len(z) == 3 else kl_with(z[:1], y[:1]),
            "other sizes",
        ),
    },
    right={
        "by its definition": by_its_definition,
        "PyTorch's kl_div": by_pytorch,
        "gathered": mistaken(""),
    },
    borrowed=lambda logits, targets: one_hot_kl(logits, targets),
)

# ---------------------------------------------------------------- padding


def stub_padding(idx): ...


PADDING = Answers(
    stub=stub_padding,
    wrong={
        "inverted": (lambda idx: (idx == 0)[:, None, None], "inverted"),
        "rows": (lambda idx: (idx != 0)[:, None, :, None], "not its columns"),
        "masks too": (lambda idx: (idx > 1)[:, None, None], "⁇ is masked too"),
        "triangle": (
            lambda idx: (
                (idx != 0)[:, None, None] & torch.ones(idx.size(1), idx.size(1)).tril().bool()
            ),
            "triangle",
        ),
        "nothing": (
            lambda idx: torch.ones(1, 1, 1, idx.size(1), dtype=torch.bool),
            "all keys are allowed",
        ),
        "two axes": (lambda idx: idx != 0, r"does not broadcast"),
        "three axes": (lambda idx: (idx != 0)[:, None], r"does not broadcast"),
        "heads for rows": (
            lambda idx: (
                (idx != 0)[None, :, None] if len(idx) == idx.size(1) else (idx != 0)[:, None, None]
            ),
            "not to head b",
        ),
        "numbers": (lambda idx: (idx != 0)[:, None, None].float(), "True or False"),
        "minus infinity": (
            lambda idx: torch.where(idx == 0, -torch.inf, 0.0)[:, None, None],
            "True or False",
        ),
        "first row": (lambda idx: (idx[:1] != 0)[:, None, None], "row 1: query"),
        "a list": (lambda idx: (idx != 0).tolist(), "a list of 3"),
    },
    right={
        "full size": lambda idx: (idx != 0)[:, None, None].expand(-1, -1, idx.size(1), -1),
        "padding looks nowhere": lambda idx: ((idx[:, :, None] != 0) & (idx[:, None] != 0))[
            :, None
        ],
        "not equal": lambda idx: ~idx.eq(0).view(len(idx), 1, 1, -1),
    },
    borrowed=lambda idx: padding_mask(idx),
)

# ---------------------------------------------------------------- filling


def stub_fill(model, idx, rounds=1): ...


def stale(model, idx, rounds=1):
    """Every round reads the text as it was at first."""
    first = model(idx)[0].detach()
    return fill_with(lambda _: (first, None), idx, rounds)


def filling(mistake=""):
    return lambda model, idx, rounds=1: fill_with(model, idx, rounds, mistake)


def whole_batch(model, idx, rounds=1):
    """The surest of all rows together."""
    idx, n = idx.clone(), int((idx == 1).sum())
    for r in range(1, rounds + 1):
        left = idx == 1
        if not left.any():
            break
        z = model(idx)[0].detach().clone()
        z[..., :2] = -torch.inf
        sure, best = z.softmax(-1).max(-1)
        k = math.ceil(n * r / rounds) - (n - int(left.sum()))
        at = sure.masked_fill(~left, -1).flatten().topk(k).indices
        idx = idx.flatten().scatter(0, at, best.flatten()[at]).view_as(idx)
    return idx


def everything(model, idx, rounds=1):
    z = model(idx)[0].detach().clone()
    z[..., :2] = -torch.inf
    return z.argmax(-1)


def by_topk(model, idx, rounds=1):
    idx = idx.clone()
    total = (idx == 1).sum(1).tolist()
    for r in range(rounds):
        z = model(idx)[0].detach()[..., 2:].log_softmax(-1)
        sure, best = z.max(-1)
        for row, n in enumerate(total):
            left = (idx[row] == 1).nonzero()[:, 0]
            k = -(-n * (r + 1) // rounds) - n + len(left)
            at = left[sure[row, left].topk(k).indices]
            idx[row, at] = best[row, at] + 2
    return idx


def in_place(model, idx, rounds=1):
    idx.copy_(by_topk(model, idx, rounds))
    return idx


FILL = Answers(
    stub=stub_fill,
    wrong={
        mistake: (filling(mistake), re.escape(text.split(":")[0]))
        for mistake, text in FILL_MISTAKES.items()
    }
    | {
        "stale": (stale, "read the text again"),
        "the whole batch": (whole_batch, "each row by itself"),
        "everything": (everything, "none were hidden"),
        "in place": (in_place, "changes its argument idx in place"),
        "half done": (
            lambda model, idx, rounds=1: torch.where(
                torch.arange(idx.size(1)) < 3, by_topk(model, idx, rounds), idx
            ),
            "still holds",
        ),
        "floats": (lambda model, idx, rounds=1: by_topk(model, idx, rounds).float(), "int64"),
        "logits": (lambda model, idx, rounds=1: model(idx)[0].detach(), "shape"),
        "unsure of letters": (
            lambda model, idx, rounds=1: torch.where(idx == 1, 3, idx),
            "differs from the expected text",
        ),
    },
    right={"topk": by_topk, "a row at a time": filling()},
    borrowed=lambda model, idx, rounds=1: fill_masks(model, idx, rounds),
)

# ---------------------------------------------------------------- pairs of lines


def stub_pair(lines, i, rng): ...


def pairing(mistake=""):
    def answer(lines, i, rng):
        rng = random if mistake == "global" else random.Random() if mistake == "own" else rng
        mine = lines[i]
        first = 0 if mistake == "first line" else rng.randrange(len(mine))
        same = rng.random() < {"few": 0.2, "always": 2.0}.get(mistake, 0.5)
        if same:
            second = rng.choice([k for k in range(len(mine)) if k != first or mistake == "itself"])
            if mistake == "next":
                second = (first + 1) % len(mine)
            if mistake == "second line":
                second = 1 if first != 1 else 0
            other = mine[second]
        else:
            others = [j for j in range(len(lines)) if j != i or mistake == "anybody"]
            j = (i + 1) % len(lines) if mistake == "neighbour" else rng.choice(others)
            other = lines[j][0] if mistake == "their first" else rng.choice(lines[j])
        if mistake == "everybody alike":
            other = rng.choice([line for own in lines for line in own if line != mine[first]])
            same = other in mine
        result = mine[first], other, not same if mistake == "labels" else same
        if mistake == "turned":
            result = other, mine[first], same
        if mistake == "numbers":
            result = *result[:2], int(same)
        return result[:2] if mistake == "two" else result

    return answer


PAIRS = Answers(
    stub=stub_pair,
    wrong={
        "itself": (pairing("itself"), "paired with itself"),
        "anybody": (pairing("anybody"), "labelled False|paired with itself"),
        "labels": (pairing("labels"), "inverted"),
        "few": (pairing("few"), "instead of half"),
        "always": (pairing("always"), "100 % of the pairs"),
        "everybody alike": (pairing("everybody alike"), "is person i one of the strangers"),
        "neighbour": (pairing("neighbour"), "from 1 of 4 persons"),
        "their first": (pairing("their first"), "a stranger's line"),
        "first line": (pairing("first line"), "first line is not drawn"),
        "turned": (pairing("turned"), "first line is not always"),
        "second line": (pairing("second line"), "only some of person i"),
        "next": (pairing("next"), "not only the next one"),
        "global": (pairing("global"), "global `random`"),
        "own generator": (pairing("own"), "all draws have to come from rng"),
        "numbers": (pairing("numbers"), "True for two lines"),
        "two": (pairing("two"), "two lines and a truth value"),
    },
    right={
        "chosen by cases": pairing(),
        "shuffled": lambda lines, i, rng: (
            lambda mine, label: (
                mine[0],
                mine[1]
                if label
                else rng.choice(lines[rng.choice([*range(i), *range(i + 1, len(lines))])]),
                label,
            )
        )(rng.sample(list(lines[i]), len(lines[i])), rng.choice((True, False))),
    },
    borrowed=lambda lines, i, rng: draw_line_pair(lines, i, rng),
)

ANSWERS = {
    "bert-rule": RULES,
    "one-hot-kl": DIVERGENCE,
    "padding-mask": PADDING,
    "fill-masks": FILL,
    "line-pairs": PAIRS,
}
TestExercises = suite("10_masked_language_models", ANSWERS)
TestQuizzes = quiz_suite("10_masked_language_models")
TestNotebook = notebook_suite("10_masked_language_models")


def test_the_formulas_of_the_checks_are_the_packages():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 8, generator=generator)
    targets = torch.randint(0, 8, (3, 6), generator=generator)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
    torch.testing.assert_close(one_hot_kl(logits, targets), expected)
    torch.testing.assert_close(kl_with(logits, targets), expected)
    for mistake in KL_MISTAKES:
        assert not torch.allclose(kl_with(logits, targets, mistake), expected)
