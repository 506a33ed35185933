"""Answers to the exercises of notebook 12, right and wrong: every mistake gets its name."""

import pytest
import torch
import torch.nn.functional as F
from checking import Answers, notebook_suite, quiz_suite, suite
from torch import nn

from kt_core.evaluation import Score
from kt_core.models import GPT, GPTConfig
from kt_course.chapters.finetuning_techniques import exercises
from kt_course.chapters.finetuning_techniques.classify import (
    Classifier,
    depth,
    layer_rates,
    low_rank,
    pool,
    retained,
    train_top,
)
from kt_course.exercises.diagnoses import diagnoses

NOTEBOOK = "12_finetuning_techniques"
POOLS = {how: diagnoses(exercises.__file__, "pool").variants(pool, how) for how in ("last", "mean")}
LOW_RANK = diagnoses(exercises.__file__, "low-rank").variants(low_rank)

# ---------------------------------------------------------------- one vector a text


def stub_pool(hidden, idx, how="last"): ...


def by_gather(hidden, idx, how="last"):
    n = idx.ne(0).sum(1)
    if how == "last":
        return hidden.gather(1, (n - 1)[:, None, None].expand(-1, 1, hidden.size(-1)))[:, 0]
    if how == "mean":
        return hidden.masked_fill(idx.eq(0)[..., None], 0).sum(1) / n[:, None]
    raise ValueError(f"no {how}")


def by_loop(hidden, idx, how="last"):
    if how not in ("last", "mean"):
        raise ValueError("last or mean")
    cut = [states[ids != 0] for states, ids in zip(hidden, idx, strict=True)]
    return torch.stack([rows[-1] if how == "last" else rows.mean(0) for rows in cut])


def silent(hidden, idx, how="last"):
    return by_loop(hidden, idx, how if how in ("last", "mean") else "last")


def over_the_batch(hidden, idx, how="last"):
    return hidden.mean(0)


def one_way(how):
    return lambda hidden, idx, other="last": by_loop(hidden, idx, how)


def mean_by_default(hidden, idx, how="mean"):
    return by_loop(hidden, idx, how)


def its_own_example(hidden, idx, how="last"):
    if how not in ("last", "mean"):
        raise ValueError(how)
    n = (idx > 2).sum(1)
    rows = [h[: max(k, 1)] for h, k in zip(hidden, n.tolist(), strict=True)]
    return torch.stack(
        [r[-1] if how == "last" else r.mean(0) for r in rows][:3] + [r[0] for r in rows][3:]
    )


POOL = Answers(
    stub=stub_pool,
    wrong={
        f"{where}, {mistake}": (variant, text[6:26].split("(")[0])
        for where, variants in POOLS.items()
        for mistake, (variant, text) in variants.items()
    }
    | {
        "never the mean": (one_way("last"), 'belongs to how="last"'),
        "never the last": (one_way("mean"), 'belongs to how="mean"'),
        "mean by default": (mean_by_default, 'without the argument how it is "last"'),
        "no error": (silent, "raise a ValueError"),
        "over the batch": (over_the_batch, "over the batch"),
        "the last axis": (
            lambda hidden, idx, how="last": hidden.mean(-1),
            r"\(3, 6\) instead of \(3, 4\)",
        ),
        "made for the example": (its_own_example, "not for other texts"),
        "a list": (lambda hidden, idx, how="last": list(hidden), "a list of 3"),
    },
    right={"gather": by_gather, "one after the other": by_loop},
    borrowed=lambda hidden, idx, how="last": pool(hidden, idx, how),
)

# ---------------------------------------------------------------- freeze and thaw


def stub_train_top(classifier, n): ...


def trained(classifier):
    return sum(p.numel() for p in classifier.parameters() if p.requires_grad)


def freezing(rule, count=trained, check=True):
    """`rule(depth, n, L, is_head, now)`: is it trained?"""

    def answer(classifier, n):
        L = classifier.body.config.n_layer
        if check and not 0 <= n <= L + 1:
            raise ValueError(f"n is {n}")
        for name, p in classifier.named_parameters():
            p.requires_grad_(
                bool(rule(depth(name, L), n, L, name.startswith("head."), p.requires_grad))
            )
        return count(classifier)

    return answer


def usual(at, n, L, head, now):
    return head or (n > 0 and at > L - n and at >= 0)


def by_modules(classifier, n):
    body = classifier.body
    L = len(body.blocks)
    if n < 0 or n > L + 1:
        raise ValueError("n")
    classifier.requires_grad_(False)
    classifier.head.requires_grad_(True)
    if n:
        body.ln_f.requires_grad_(True)
        for block in list(body.blocks)[max(L - n, 0) :]:
            block.requires_grad_(True)
    if n == L + 1:
        body.tok_emb.requires_grad_(True)
        if body.pos_emb is not None:
            body.pos_emb.requires_grad_(True)
    return trained(classifier)


def last_slice(classifier, n):
    """[-n:] with n = 0 is the whole list."""
    classifier.requires_grad_(False)
    classifier.head.requires_grad_(True)
    for block in list(classifier.body.blocks)[-n:]:
        block.requires_grad_(True)
    if n:
        classifier.body.ln_f.requires_grad_(True)
    if n == 4:
        classifier.body.tok_emb.requires_grad_(True)
    return trained(classifier)


def no_positions(classifier, n):
    if not 0 <= n <= classifier.body.config.n_layer + 1:
        raise ValueError("n")
    number = by_modules(classifier, n)
    if classifier.body.pos_emb is not None:
        classifier.body.pos_emb.requires_grad_(False)
        number = trained(classifier)
    return number


def weights_alone(classifier, n):
    by_modules(classifier, n)
    for name, p in classifier.named_parameters():
        if name.endswith("bias"):
            p.requires_grad_(False)
    return trained(classifier)


TOP = Answers(
    stub=stub_train_top,
    wrong={
        "head frozen": (
            freezing(lambda at, n, L, head, now: not head and usual(at, n, L, head, now)),
            "head is frozen",
        ),
        "own head": (
            freezing(lambda at, n, L, head, now: usual(at, n, L, head, now) or at == -1),
            "own head is trained",
        ),
        "first blocks": (
            freezing(
                lambda at, n, L, head, now: (
                    head or 0 < at <= n or (n and at > L) or (n > L and at >= 0)
                )
            ),
            "first 1 are trained",
        ),
        "slice of 0": (last_slice, r"\[-0:\]"),
        "one more": (
            freezing(lambda at, n, L, head, now: head or (at >= 0 and at > L - n - 1)),
            "off by one|should not be",
        ),
        "one less": (
            freezing(
                lambda at, n, L, head, now: (
                    head or (n and at >= 0 and at > L - n + 1) or (n > L and at >= 0)
                )
            ),
            "off by one",
        ),
        "norm frozen": (
            freezing(lambda at, n, L, head, now: head or (at <= L and usual(at, n, L, head, now))),
            "the last norm is frozen",
        ),
        "norm always": (
            freezing(lambda at, n, L, head, now: at == L + 1 or usual(at, n, L, head, now)),
            "n = 0 of 3 blocks: the last norm is trained",
        ),
        "embedding with the last block": (
            freezing(
                lambda at, n, L, head, now: usual(at, n, L, head, now) or (n == L and at == 0)
            ),
            "n = 3 of 3 blocks: the embedding is trained",
        ),
        "embedding never": (
            freezing(lambda at, n, L, head, now: at != 0 and usual(at, n, L, head, now)),
            "the embedding is frozen",
        ),
        "nothing frozen": (
            freezing(lambda at, n, L, head, now: at != -1),
            "is nothing frozen at all",
        ),
        "never thawed": (
            freezing(lambda at, n, L, head, now: now and usual(at, n, L, head, now)),
            "does not thaw",
        ),
        "tensors counted": (
            freezing(usual, lambda c: sum(p.requires_grad for p in c.parameters())),
            "counts tensors",
        ),
        "all counted": (
            freezing(usual, lambda c: sum(p.numel() for p in c.parameters())),
            "counts the frozen ones too",
        ),
        "nothing counted": (freezing(usual, lambda c: "done"), "give back|count the parameters"),
        "no error": (freezing(usual, check=False), "raise a ValueError"),
        "weights alone": (weights_alone, "only a part of"),
        "no table of positions": (no_positions, "table of positions"),
    },
    right={"by depth": freezing(usual), "by modules": by_modules},
    borrowed=lambda classifier, n: train_top(classifier, n),
)

# ---------------------------------------------------------------- a rate for each layer


def stub_layer_rates(classifier, peak, factor=2.6): ...


def rating(rule, keep=lambda p: p.requires_grad):
    """`rule(steps below the top, L)`: what peak is multiplied by; one group a parameter."""

    def answer(classifier, peak, factor=2.6):
        L = classifier.body.config.n_layer
        return [
            dict(params=[p], lr=peak * rule(L + 1 - depth(name, L), L, factor))
            for name, p in classifier.named_parameters()
            if keep(p) and not name.startswith("body.head.")
        ]

    return answer


def by_parts(classifier, peak, factor=2.6):
    body = classifier.body
    layers = [[*classifier.head.parameters(), *body.ln_f.parameters()]]
    layers += [list(block.parameters()) for block in reversed(body.blocks)]
    layers += [[body.tok_emb.weight] + ([] if body.pos_emb is None else [body.pos_emb])]
    groups, rate = [], peak
    for layer in layers:
        group = [p for p in layer if p.requires_grad]
        if group:
            groups.append({"params": group, "lr": rate})
        rate = rate / factor
    return groups


def norm_apart(classifier, peak, factor=2.6):
    body = classifier.body
    layers = [classifier.head, body.ln_f, *reversed(body.blocks), body.tok_emb]
    return [dict(params=list(m.parameters()), lr=peak / factor**i) for i, m in enumerate(layers)]


def with_frozen(classifier, peak, factor=2.6):
    return rating(lambda k, L, f: f**-k, keep=lambda p: True)(classifier, peak, factor)


def twice(classifier, peak, factor=2.6):
    groups = by_parts(classifier, peak, factor)
    return [*groups, dict(params=groups[0]["params"], lr=peak)]


def forgetting_head(classifier, peak, factor=2.6):
    groups = by_parts(classifier, peak, factor)
    groups[0]["params"] = list(classifier.body.ln_f.parameters())
    return groups


def counting_what_is_left(classifier, peak, factor=2.6):
    groups = by_parts(classifier, peak, factor)
    if len(groups) < classifier.body.config.n_layer + 2:
        return [dict(g, lr=peak / factor ** (i + 1)) for i, g in enumerate(groups)]
    return groups


def empty_group(classifier, peak, factor=2.6):
    return [*by_parts(classifier, peak, factor), dict(params=[], lr=peak)]


def ignoring(value):
    return lambda classifier, peak, factor=2.6: by_parts(classifier, peak, value)


RATES = Answers(
    stub=stub_layer_rates,
    wrong={
        "upside down": (rating(lambda k, L, f: f ** -(L + 1 - k)), "upside down"),
        "growing": (rating(lambda k, L, f: f**k), "divide by factor"),
        "norm apart": (norm_apart, "the last norm gets peak / factor"),
        "last block too": (
            rating(lambda k, L, f: f ** -max(k - 1, 0)),
            "the last block gets peak too",
        ),
        "embeddings with block 0": (rating(lambda k, L, f: f ** -min(k, L)), "layer of their own"),
        "all alike": (rating(lambda k, L, f: 1.0), "every layer has the same rate"),
        "along a line": (rating(lambda k, L, f: 1 - k / f / (L + 1)), "along a line"),
        "head too low": (rating(lambda k, L, f: f ** -(k + 1)), "the head gets 0.4"),
        "roots": (rating(lambda k, L, f: f ** -(k / 2)), "block 2 gets"),
        "frozen ones too": (with_frozen, "frozen and in a group"),
        "twice": (twice, "in two groups"),
        "head forgotten": (forgetting_head, "head is in no group"),
        "counted from what is left": (counting_what_is_left, "depth counts from the head"),
        "factor 2 always": (ignoring(2.0), "not for 4"),
        "other default": (
            lambda classifier, peak, factor=2.0: by_parts(classifier, peak, factor),
            "without the argument factor",
        ),
        "an empty group": (empty_group, "a group is empty"),
        "rates alone": (
            lambda classifier, peak, factor=2.6: [peak, peak / factor],
            "list of dicts",
        ),
        "names": (
            lambda classifier, peak, factor=2.6: [
                dict(params=list(classifier.named_parameters()), lr=peak)
            ],
            "names still in it",
        ),
    },
    right={"a group a parameter": rating(lambda k, L, f: f**-k), "part by part": by_parts},
    borrowed=lambda classifier, peak, factor=2.6: layer_rates(classifier, peak, factor),
)

# ---------------------------------------------------------------- low rank


def stub_low_rank(x, weight, bias, down, up, alpha): ...


def merged(x, weight, bias, down, up, alpha):
    return F.linear(x, weight + alpha / down.size(0) * up @ down, bias)


def by_einsum(x, weight, bias, down, up, alpha):
    low = torch.einsum("...i,ri,or->...o", x, down, up)
    return torch.einsum("...i,oi->...o", x, weight) + bias + low * (alpha / up.size(1))


RANK = Answers(
    stub=stub_low_rank,
    wrong={name: (variant, text[:24]) for name, (variant, text) in LOW_RANK.items()}
    | {
        "rows alone": (
            lambda x, weight, bias, down, up, alpha: (
                torch.mm(x, weight.T)
                + bias
                + alpha / len(down) * torch.mm(torch.mm(x, down.T), up.T)
            ),
            "raised RuntimeError|not for a batch of texts",
        ),
        "not transposed": (
            lambda x, weight, bias, down, up, alpha: x @ weight + bias,
            "raised RuntimeError",
        ),
        "a tuple": (lambda x, weight, bias, down, up, alpha: (x, x), "a tuple of 2"),
        "always up": (
            lambda x, weight, bias, down, up, alpha: merged(
                x, weight, bias, down, up + 0.1 * up.eq(0), alpha
            ),
            "the frozen map itself",
        ),
        "rank 2 always": (
            lambda x, weight, bias, down, up, alpha: merged(
                x, weight, bias, down, up, alpha * len(down) / 2
            ),
            "not for other|right for the examples",
        ),
    },
    right={"merged": merged, "einsum": by_einsum},
    borrowed=lambda x, weight, bias, down, up, alpha: low_rank(x, weight, bias, down, up, alpha),
)

# ---------------------------------------------------------------- retained


def stub_retained(before, after, gold): ...


def scoring(counts):
    """`counts(b, a, g)`: (kept, correct) of one question."""

    def answer(before, after, gold):
        if not len(before) == len(after) == len(gold):
            raise ValueError("as many of each")
        rows = [counts(*row) for row in zip(before, after, gold, strict=True)]
        return Score(sum(bool(k) for k, _ in rows), sum(bool(n) for _, n in rows))

    return answer


def stripped(rule):
    return scoring(lambda b, a, g: rule(b.strip(), a.strip(), g.strip()))


def plain_fraction(before, after, gold):
    correct = [(a, g) for b, a, g in zip(before, after, gold, strict=True) if b.strip() == g]
    return sum(a.strip() == g for a, g in correct) / len(correct)


def divides(before, after, gold):
    score = by_sets(before, after, gold)
    return Score(round(score.correct / score.total * score.total), score.total)


def by_sets(before, after, gold):
    if len({len(before), len(after), len(gold)}) > 1:
        raise ValueError("as many of each")
    was = {i for i, (b, g) in enumerate(zip(before, gold, strict=True)) if b.strip() == g.strip()}
    now = {i for i, (a, g) in enumerate(zip(after, gold, strict=True)) if a.strip() == g.strip()}
    return Score(len(was & now), len(was))


RETAINED = Answers(
    stub=stub_retained,
    wrong={
        "accuracy afterwards": (stripped(lambda b, a, g: (a == g, True)), "accuracy afterwards"),
        "of all": (stripped(lambda b, a, g: (a == b == g, True)), "divide by what was known"),
        "unchanged": (stripped(lambda b, a, g: (a == b, True)), "stayed the same"),
        "new ones too": (
            stripped(lambda b, a, g: (a == g, a == g or b == g)),
            "known before or after",
        ),
        "lost": (stripped(lambda b, a, g: (a != g and b == g, b == g)), "what was lost"),
        "spaces": (scoring(lambda b, a, g: (a == b == g, b == g)), "strip"),
        "spaces afterwards": (
            scoring(lambda b, a, g: (b.strip() == a == g, b.strip() == g)),
            "strip",
        ),
        "a fraction": (plain_fraction, r"a Score\(kept, known\)"),
        "divides": (divides, "divides by 0"),
        "no error": (
            lambda before, after, gold: stripped(lambda b, a, g: (a == b == g, b == g))(
                *zip(*zip(before, after, gold, strict=False), strict=True)
            ),
            "raise a ValueError",
        ),
        "eleven only": (
            lambda before, after, gold: (
                Score(4, 6) if len(gold) == 11 else by_sets(before, after, before)
            ),
            "nothing to keep|not for other answers",
        ),
    },
    right={"sets": by_sets, "row by row": stripped(lambda b, a, g: (a == b == g, b == g))},
    borrowed=lambda before, after, gold: retained(before, after, gold),
)

ANSWERS = {
    "pool": POOL,
    "train-top": TOP,
    "layer-rates": RATES,
    "low-rank": RANK,
    "retained": RETAINED,
}
TestExercises = suite(NOTEBOOK, ANSWERS)
TestQuizzes = quiz_suite(NOTEBOOK)
TestNotebook = notebook_suite(NOTEBOOK)


@pytest.mark.parametrize("name", ["by depth", "by modules"])
def test_a_right_answer_trains_what_it_says(name):
    """An optimiser step moves exactly what an answer has left trained."""
    torch.manual_seed(0)
    tuned = Classifier(GPT(GPTConfig(9, 12, 2, 2, 8, "rope", dropout=0.0)))
    TOP.right[name](tuned, 1)
    before = {n: p.detach().clone() for n, p in tuned.named_parameters()}
    optimizer = torch.optim.SGD(RATES.right["part by part"](tuned, 0.1), lr=1.0)
    idx = torch.tensor([[3, 4, 5], [6, 7, 0]])
    nn.functional.cross_entropy(tuned(idx)[0], torch.tensor([0, 1])).backward()
    optimizer.step()
    moved = {n for n, p in tuned.named_parameters() if not torch.equal(p, before[n])}
    still = {n for n in before if n.startswith(("body.blocks.0.", "body.tok_emb", "body.head."))}
    assert not moved & still
    assert {"head.weight", "body.ln_f.weight", "body.blocks.1.mlp.up.weight"} <= moved
