"""Exercises of notebook 12: one vector a text, freezing, rates by layer, low rank, what is retained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kt_core.evaluation import Score
from kt_core.models import GPT, GPTConfig
from kt_course.chapters.finetuning_techniques.classify import (
    Classifier,
    depth,
    layer_rates,
    low_rank,
    pool,
    retained,
    train_top,
)
from kt_course.exercises.assertions import (
    Wrong,
    close,
    describe,
    expect_value_error,
    fresh_cases,
    recognise,
    tensor,
)
from kt_course.exercises.random_cases import draw, fresh_random, numbers
from kt_course.exercises.registry import Exercise

NOTEBOOK = "12_finetuning_techniques"


# ---------------------------------------------------------------- one vector a text


def pooled(hidden: Tensor, idx: Tensor, how: str, slip: str = "") -> Tensor:
    """One vector a text, one text after the other, with one mistake built in."""
    rows = []
    for states, ids in zip(hidden, idx, strict=True):
        n = int((ids != 0).sum())
        if how == "last":
            at = {
                "column": len(ids) - 1,
                "behind": min(n, len(ids) - 1),
                "before": max(n - 2, 0),
                "first": 0,
            }
            rows.append(states[at.get(slip, n - 1)])
        elif slip == "padded mean":
            rows.append(states.mean(0))
        elif slip == "divided by T":
            rows.append(states[:n].sum(0) / len(ids))
        elif slip == "sum":
            rows.append(states[:n].sum(0))
        elif slip == "maximum":
            rows.append(states[:n].amax(0))
        else:
            rows.append(states[:n].mean(0))
    return torch.stack(rows)


POOLS = {
    "last": {
        "column": "last: the vector of column T - 1 is taken for every text: for a shorter one that is padding",
        "behind": "last: off by one, the place behind the last character: n characters end at place n - 1",
        "before": "last: off by one, the character before the last one: n characters end at place n - 1",
        "first": "last: the first character's vector has seen one character only: take the last one's",
    },
    "mean": {
        "padded mean": "mean: padding is averaged too: a text would get another vector in another batch",
        "divided by T": "mean: padding is left out of the sum, but the sum is divided by T: divide by the text's own length",
        "sum": "mean: this is the sum over the characters: divide by their number",
        "maximum": "mean: this is the largest value of each channel, not the mean",
    },
}


def texts_of(lengths: Sequence[int], width: int) -> Tensor:
    """Ids of texts of these lengths, padded on the right with 0."""
    return torch.stack(
        [torch.tensor([3 + i for i in range(n)] + [0] * (width - n)) for n in lengths]
    )


def check_pool(fn: Callable) -> str:
    hidden, idx = numbers(3, 6, 4, seed=1), texts_of((3, 6, 1), 6)
    for how in ("last", "mean"):
        got = fn(hidden, idx, how)
        if isinstance(got, Tensor) and got.shape == (6, 4):
            raise Wrong(
                f"{how}: (6, 4) for 3 texts of 6 places: it pools over the batch; take axis 1, the places"
            )
        got = tensor(got, (3, 4), f"{how}: the result for hidden of (3, 6, 4)")
        other = {"last": "mean", "mean": "last"}[how]
        if close(got, pooled(hidden, idx, other)):
            raise Wrong(f'with how="{how}" it gives what belongs to how="{other}"')
        recognise(
            got,
            pooled(hidden, idx, how),
            lambda slip, how=how: pooled(hidden, idx, how, slip),
            POOLS[how],
            f"{how}: the result",
        )
    if not close(
        tensor(fn(hidden, idx), (3, 4), "without how the result"), pooled(hidden, idx, "last")
    ):
        raise Wrong('without the argument how it is "last"')
    expect_value_error('how="first"', fn, hidden, idx, "first")
    with fresh_cases(
        "right for the example, not for other texts: the length is the number of ids that are not 0"
    ):
        for _ in range(3):
            lengths = draw(1, 9, 5)
            hidden, idx = numbers(5, max(lengths), 3), texts_of(lengths, max(lengths))
            idx = idx * torch.tensor(draw(1, 7, 1))  # other ids, and none of them 0
            for how in ("last", "mean"):
                assert close(tensor(fn(hidden, idx, how), (5, 3), "it"), pooled(hidden, idx, how))
    return "the last character's vector or the mean of all, and no padding"


# ---------------------------------------------------------------- what is trained


def tiny(n_layer: int = 3, variant: str = "rope") -> Classifier:
    """A classifier of a few values."""
    return Classifier(GPT(GPTConfig(5, 8, n_layer, 1, 4, variant, dropout=0.0)))


def layers_trained(classifier: Classifier) -> dict[int, set[bool]]:
    """For each depth, whether its parameters are trained; the classifier's own head apart, under "head"."""
    L, found = classifier.body.config.n_layer, {}
    for name, p in classifier.named_parameters():
        at = L + 2 if name.startswith("head.") else depth(name, L)
        found.setdefault(at, set()).add(p.requires_grad)
    return found


def named(at: int, L: int) -> str:
    """A depth in words."""
    words = {
        -1: "the body's own head",
        0: "the embedding",
        L + 1: "the last norm",
        L + 2: "the classifier's head",
    }
    return words.get(at, f"block {at - 1}")


def check_train_top(fn: Callable) -> str:
    def asked(classifier: Classifier, n: int) -> None:
        L = classifier.body.config.n_layer
        told = f"n = {n} of {L} blocks"
        got = fn(classifier, n)
        found = {at: any(trained) for at, trained in layers_trained(classifier).items()}
        mixed = [at for at, trained in layers_trained(classifier).items() if len(trained) > 1]
        right = {at: at == L + 2 or (n > 0 and at > L - n and at >= 0) for at in found}
        blocks = [found[at] for at in range(1, L + 1)]
        if mixed:
            raise Wrong(
                f"{told}: only a part of {named(mixed[0], L)} is trained: take all of its parameters"
            )
        if not found[L + 2]:
            raise Wrong(
                f"{told}: the classifier's head is frozen: it is new, so it is always trained"
            )
        if found[-1]:
            raise Wrong(
                f"{told}: the body's own head is trained: it has no part in this task, keep it as it was"
            )
        if 0 < n < L and blocks == [True] * n + [False] * (L - n):
            raise Wrong(
                f"{told}: the first {n} are trained: the top is the end that is near the head, the last {n}"
            )
        if n == 0 and any(blocks) and all(blocks):
            raise Wrong(
                "n = 0: every block is trained: is [-0:] the whole list? Or is nothing frozen at all?"
            )
        if 0 < n <= L and sum(blocks) in (n - 1, n + 1):
            raise Wrong(f"{told}: {sum(blocks)} blocks are trained: off by one")
        for at in sorted(found, reverse=True):
            if found[at] != right[at]:
                raise Wrong(
                    f"{told}: {named(at, L)} is {'trained' if found[at] else 'frozen'}, and should not be"
                )
        number = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
        if isinstance(got, Tensor) or isinstance(got, bool) or got != number:
            every = list(classifier.parameters())
            names = {
                sum(
                    p.requires_grad for p in every
                ): "that counts tensors: a matrix of 4 x 4 holds 16 values",
                sum(p.numel() for p in every): "that counts the frozen ones too",
                sum(p.numel() for p in every) - number: "that counts the frozen ones",
                None: "give back the number of values that are trained",
            }
            why = names.get(
                None if isinstance(got, (Tensor, bool)) else got,
                "count the values of what is trained",
            )
            raise Wrong(f"{told}: it gives back {describe(got)} instead of {number}: {why}")

    for n in (
        4,
        0,
        1,
        2,
        3,
    ):  # everything comes first, so that what has to be frozen is not frozen yet
        asked(tiny(), n)
    again = tiny()
    asked(again, 0)
    try:
        asked(again, 2)
    except Wrong as error:
        raise Wrong(
            "called with 0 and then with 2, the second call does not thaw: set requires_grad to True as well"
        ) from error
    for n in (5, -1):
        expect_value_error(f"n = {n} of 3 blocks (0 ... 4 make sense)", fn, tiny(), n)
    with fresh_cases(
        "right for rope with 3 blocks, not for other models: a table of positions belongs to the embeddings"
    ):
        for L in draw(1, 4, 2):
            for n in range(L + 2):
                asked(tiny(L, "vanilla"), n)
    return (
        "the head always, then the last blocks, then the embeddings, and never the body's own head"
    )


# ---------------------------------------------------------------- how fast


def rate_of(at: int, L: int, peak: float, factor: float) -> float:
    """The rate at a depth."""
    return peak / factor ** (L + 1 - at)


def rates_found(groups: Any, classifier: Classifier) -> dict[int, float]:
    """The rate at each depth that the groups tell; Wrong for groups that are none."""
    if not isinstance(groups, (list, tuple)) or not all(isinstance(g, Mapping) for g in groups):
        raise Wrong(f"the groups should be a list of dicts, not {describe(groups)}")
    if any("params" not in g or "lr" not in g for g in groups):
        raise Wrong('each group needs "params", a list of parameters, and "lr", its rate')
    groups = [(list(g["params"]), float(g["lr"])) for g in groups]
    if not all(isinstance(p, Tensor) for params, _ in groups for p in params):
        raise Wrong('"params" holds something else than parameters: are the names still in it?')
    if any(not params for params, _ in groups):
        raise Wrong("a group is empty: leave it out")
    L, rates = classifier.body.config.n_layer, {}
    of = {id(p): lr for params, lr in groups for p in params}
    if len(of) < sum(len(params) for params, _ in groups):
        raise Wrong("a parameter is in two groups: an optimiser refuses that")
    for name, p in classifier.named_parameters():
        at = L + 2 if name.startswith("head.") else depth(name, L)
        if not p.requires_grad and id(p) in of:
            raise Wrong(
                f"{named(at, L)} is frozen and in a group all the same: take what requires_grad alone"
            )
        if p.requires_grad and id(p) not in of:
            raise Wrong(f"{named(at, L)} is in no group: it would not be trained")
        if p.requires_grad and rates.setdefault(at, of[id(p)]) != of[id(p)]:
            raise Wrong(
                f"the parameters of {named(at, L)} have different rates: one layer, one rate"
            )
    return rates


def check_layer_rates(fn: Callable) -> str:
    def asked(classifier: Classifier, peak: float, factor: float) -> dict[int, float]:
        return rates_found(fn(classifier, peak, factor), classifier)

    def same(rates: Mapping[int, float], right: Callable[[int], float]) -> bool:
        return all(abs(lr - right(at)) <= 1e-6 * abs(right(at)) for at, lr in rates.items())

    L, peak, factor = 3, 0.8, 2.0
    rates = asked(tiny(), peak, factor)
    top = {at: min(at, L + 1) for at in rates}  # the head and the last norm are one layer
    slips = {
        "it is upside down: the embeddings get the largest rate. The head gets peak, what is below it less": lambda at: (
            peak / factor ** top[at]
        ),
        "the rates grow towards the embeddings: divide by factor for each layer down, do not multiply": lambda at: (
            peak * factor ** (L + 1 - top[at])
        ),
        "the last norm gets peak / factor: it lies above the blocks, in one layer with the head": lambda at: (
            peak / factor ** (L + 2 - at)
        ),
        "the last block gets peak too, and all below it one step too much: the head's layer is one more": lambda at: (
            peak / factor ** max(L - top[at], 0)
        ),
        "the embeddings have the rate of block 0: they are a layer of their own, one further down": lambda at: (
            peak / factor ** (L + 1 - max(top[at], 1))
        ),
        "every layer has the same rate": lambda at: rates[L + 2],
        "the rates fall along a line: each is that of the layer above it divided by factor": lambda at: (
            peak * (1 - (L + 1 - top[at]) / factor / (L + 1))
        ),
    }
    if not same(rates, lambda at: rate_of(top[at], L, peak, factor)):
        for told, slip in slips.items():
            if same(rates, slip):
                raise Wrong(told)
        if abs(rates[L + 2] - peak) > 1e-9:
            raise Wrong(f"peak 0.8: the head gets {rates[L + 2]:.3g}: it is the top and gets peak")
        at = next(
            at
            for at in sorted(rates, reverse=True)
            if abs(rates[at] - rate_of(top[at], L, peak, factor)) > 1e-9
        )
        raise Wrong(
            f"peak 0.8, factor 2, 3 blocks: {named(at, L)} gets {rates[at]:.3g} instead of {rate_of(top[at], L, peak, factor):.3g}"
        )
    frozen = tiny()
    train_top(frozen, 1)
    rates = asked(frozen, peak, factor)
    if not same(rates, lambda at: rate_of(min(at, L + 1), L, peak, factor)):
        raise Wrong(
            "with all but the last block frozen, the rates differ: depth counts from the head, frozen or not"
        )
    if not same(asked(tiny(), peak, 4.0), lambda at: rate_of(min(at, L + 1), L, peak, 4.0)):
        raise Wrong("right for factor 2, not for 4: use the argument")
    usual = tiny()
    if not same(
        rates_found(fn(usual, peak), usual), lambda at: rate_of(min(at, L + 1), L, peak, 2.6)
    ):
        raise Wrong("without the argument factor it is 2.6, Howard and Ruder's")
    with fresh_cases("right for 3 blocks, not for other models"):
        for n in draw(1, 5, 2):
            rates = asked(tiny(n, "vanilla"), 0.1, 1.7)
            assert same(rates, lambda at, n=n: rate_of(min(at, n + 1), n, 0.1, 1.7))
    return "peak for the head and the last norm, divided by factor for each layer down"


# ---------------------------------------------------------------- low rank


def mapped(
    x: Tensor, weight: Tensor, bias: Tensor, down: Tensor, up: Tensor, alpha: float, slip: str = ""
) -> Tensor:
    """The map with its low-rank part, with one mistake built in."""
    r = len(down)
    scale = {
        "alpha": alpha,
        "upside down": r / alpha,
        "no scale": 1.0,
        "n_in": alpha / x.size(-1),
        "root": alpha / r**0.5,
    }
    added = scale.get(slip, alpha / r) * (x @ down.T @ up.T)
    frozen = x @ weight.T + (0 if slip == "no bias" else bias)
    return {
        "added alone": added,
        "frozen alone": frozen,
        "minus": frozen - added,
        "all scaled": alpha / r * (frozen + x @ down.T @ up.T),
    }.get(slip, frozen + added)


LOW_RANK = {
    "alpha": "the low-rank part is multiplied by alpha: by alpha / r, so that another rank needs no other rate",
    "upside down": "the low-rank part is multiplied by r / alpha: it is alpha / r",
    "no scale": "the low-rank part lacks its factor alpha / r",
    "n_in": "alpha is divided by the number of inputs: r is the number of rows of down",
    "root": "alpha is divided by the root of r: here by r itself",
    "no bias": "the bias of the frozen map is missing",
    "added alone": "the frozen map is missing: the low-rank part is added to it",
    "frozen alone": "this is the frozen map alone: the low-rank part is missing",
    "minus": "the low-rank part is subtracted: it is added",
    "all scaled": "the frozen map is multiplied by alpha / r as well: the low-rank part alone is",
}


def check_low_rank(fn: Callable) -> str:
    def case(
        n_in: int, n_out: int, r: int, *batch: int, seed: int | None = None
    ) -> tuple[Tensor, ...]:
        shapes = ((*batch, n_in), (n_out, n_in), (n_out,), (r, n_in), (n_out, r))
        return tuple(
            numbers(*shape, seed=None if seed is None else seed + i)
            for i, shape in enumerate(shapes)
        )

    given = case(5, 4, 2, 3, seed=1)
    got = tensor(
        fn(*given, 6.0), (3, 4), "the result for x of (3, 5), weight (4, 5), down (2, 5), up (4, 2)"
    )
    recognise(
        got, mapped(*given, 6.0), lambda slip: mapped(*given, 6.0, slip), LOW_RANK, "the result"
    )
    x, weight, bias, down, up = given
    if not close(fn(x, weight, bias, down, 0 * up, 6.0), x @ weight.T + bias):
        raise Wrong(
            "with up = 0 it should be the frozen map itself: that is how the training starts"
        )
    given = case(5, 4, 2, 2, 3, seed=9)
    if not close(
        tensor(fn(*given, 6.0), (2, 3, 4), "the result for x of (2, 3, 5)"), mapped(*given, 6.0)
    ):
        raise Wrong(
            "right for x of (3, 5), not for a batch of texts, (B, T, n_in): act on the last axis"
        )
    with fresh_cases("right for the examples, not for other sizes, ranks and alphas"):
        for n_in, n_out, r, alpha in zip(
            draw(1, 9, 4), draw(1, 9, 4), draw(1, 5, 4), draw(1, 32, 4), strict=True
        ):
            given = case(n_in, n_out, r, 2)
            assert close(fn(*given, float(alpha)), mapped(*given, float(alpha)))
    return "the frozen map and, times alpha / r, the map through r numbers"


# ---------------------------------------------------------------- what is retained


def check_retained(fn: Callable) -> str:
    def asked(before: list[str], after: list[str], gold: list[str], told: str) -> tuple[int, int]:
        got = fn(before, after, gold)
        if not isinstance(got, Score):
            raise Wrong(
                f"{told}: it gives back {describe(got)}: a Score(kept, known), whose interval tells how sure it is"
            )
        return got.correct, got.total

    # 6 are right before, one of them with a space; afterwards 4 of these are, and 2 others
    gold = "Rome,Oslo,Bern,Riga,Kyiv,Lima,Doha,Bonn,Cork,Pisa,Graz".split(",")
    before = "Rome,Oslo, Bern,Riga,Kyiv,Lima,Cork,Oslo,Rome,Lima,Oslo".split(",")
    after = "Rome ,Oslo,Bern,Riga,Rome,,Doha,Oslo,Cork,Lima,Oslo".split(",")
    got = asked(before, after, gold, "11 questions")
    slips = {
        "6 of 11": "the accuracy afterwards: what has been learnt since hides what was lost. Look at what was right before",
        "4 of 11": "what was kept is right, but divide by what was known before, 6",
        "6 of 6": "answers that are right now and were wrong before are counted: they are new, not kept",
        "7 of 11": "answers that stayed the same, wrong ones too: only what was right before can be kept",
        "2 of 6": "the share of what was lost",
        "2 of 5": "the spaces around an answer count for nothing, strip them",
        "3 of 5": "the spaces around an answer before count for nothing either, strip them",
        "3 of 6": "the spaces around an answer afterwards count for nothing either, strip them",
        "2 of 11": "these were lost; count what was kept, of those that were known",
        "6 of 8": "what was known before or after: what is new is not kept",
    }
    if got != (4, 6):
        told = f"{got[0]} of {got[1]}"
        raise Wrong(
            f"{told}: {slips.get(told, 'of the 6 answers that were right before, 4 still are')}"
        )
    try:
        nothing = asked(["x"], ["Rome"], ["Rome"], "nothing was known")
    except ZeroDivisionError:
        raise Wrong(
            "where nothing was known before it divides by 0: Score(0, 0) takes care of that"
        ) from None
    if nothing != (0, 0):
        raise Wrong("where nothing was known before there is nothing to keep: Score(0, 0)")
    expect_value_error("one answer less than questions", fn, before, after[:-1], gold)
    with fresh_cases("right for the example, not for other answers"):
        rng = fresh_random()
        for n in draw(1, 30, 4):
            gold, before, after = ([rng.choice("abc") for _ in range(n)] for _ in range(3))
            known = [i for i in range(n) if before[i] == gold[i]]
            assert asked(before, after, gold, "it") == (
                sum(after[i] == gold[i] for i in known),
                len(known),
            )
    return "kept of those that were known, spaces aside"


EXERCISES = (
    Exercise("pool", NOTEBOOK, "One vector a text", 2, 10, pool, check_pool),
    Exercise("train-top", NOTEBOOK, "Freeze and thaw", 3, 15, train_top, check_train_top),
    Exercise(
        "layer-rates", NOTEBOOK, "A rate for each layer", 3, 15, layer_rates, check_layer_rates
    ),
    Exercise("low-rank", NOTEBOOK, "Around the frozen map", 2, 8, low_rank, check_low_rank),
    Exercise("retained", NOTEBOOK, "What is left", 1, 5, retained, check_retained),
)
