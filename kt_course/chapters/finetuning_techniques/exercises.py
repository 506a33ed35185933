"""Exercises of notebook 12: one vector per text, freezing, rates, low rank, what is retained."""

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
    n_trained,
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
    tensor,
)
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.random_cases import draw, fresh_random, numbers
from kt_course.exercises.registry import Exercise

NOTEBOOK = "12_finetuning_techniques"


# ---------------------------------------------------------------- one vector per text


def texts_of(lengths: Sequence[int], width: int) -> Tensor:
    """Ids of texts of these lengths, padded on the right with 0."""
    rows = [[3 + i for i in range(n)] + [0] * (width - n) for n in lengths]
    return torch.tensor(rows)


def check_pool(fn: Callable) -> str:
    wrong = diagnoses(__file__, "pool")
    hidden, idx = numbers(3, 6, 4, seed=1), texts_of((3, 6, 1), 6)
    for how, other in (("last", "mean"), ("mean", "last")):
        got = fn(hidden, idx, how)
        wrong.reject({"over batch": isinstance(got, Tensor) and got.shape == (6, 4)}, how=how)
        got = tensor(got, (3, 4), f"{how}: the result for hidden of (3, 6, 4)")
        wrong.reject({"other way": close(got, pool(hidden, idx, other))}, how=how, other=other)
        what = f"{how}: the result"
        wrong.compare(pool, got, lambda f, how=how: f(hidden, idx, how), what, table=how)
    got = tensor(fn(hidden, idx), (3, 4), "without how the result")
    wrong.reject({"default": not close(got, pool(hidden, idx))})
    expect_value_error('how="first"', fn, hidden, idx, "first")
    rule = "the length is the number of ids that are not 0"
    with fresh_cases(f"right for the example, not for other texts: {rule}"):
        for _ in range(3):
            lengths = draw(1, 9, 5)
            hidden, idx = numbers(5, max(lengths), 3), texts_of(lengths, max(lengths))
            idx = idx * torch.tensor(draw(1, 7, 1))  # other ids, and none of them 0
            for how in ("last", "mean"):
                got = tensor(fn(hidden, idx, how), (5, 3), "it")
                assert close(got, pool(hidden, idx, how))
    return "the last character's vector or the mean of all, and no padding"


# ---------------------------------------------------------------- what is trained


def tiny_classifier(n_layer: int = 3, variant: str = "rope") -> Classifier:
    """A classifier of a few parameters."""
    return Classifier(GPT(GPTConfig(5, 8, n_layer, 1, 4, variant, dropout=0.0)))


def parameters_by_layer(classifier: Classifier) -> dict[int, list[Tensor]]:
    """Parameters by their depth; the classifier's own head has a layer of its own, L + 2."""
    L, layers = classifier.body.config.n_layer, {}
    for name, p in classifier.named_parameters():
        d = L + 2 if name.startswith("head.") else depth(name, L)
        layers.setdefault(d, []).append(p)
    return layers


def layer_name(d: int, L: int) -> str:
    """A depth in words."""
    names = {-1: "the body's own head", 0: "the embedding"}
    names |= {L + 1: "the last norm", L + 2: "the classifier's head"}
    return names.get(d, f"block {d - 1}")


def check_frozen(classifier: Classifier, n: int, case: str) -> None:
    """Wrong, unless the top n parts of a classifier are trained and all others are frozen."""
    L, layers = classifier.body.config.n_layer, parameters_by_layer(classifier)
    flags = {d: {p.requires_grad for p in layer} for d, layer in layers.items()}
    is_trained = {d: any(flag) for d, flag in flags.items()}
    expected = {d: d == L + 2 or (n > 0 and d > L - n and d >= 0) for d in flags}
    mixed = [layer_name(d, L) for d, flag in flags.items() if len(flag) > 1]
    blocks = [is_trained[d] for d in range(1, L + 1)]
    mistakes = {
        "mixed": mixed,
        "head": not is_trained[L + 2],
        "own head": is_trained[-1],
        "first": 0 < n < L and blocks == [True] * n + [False] * (L - n),
        "slice of 0": n == 0 and any(blocks) and all(blocks),
        "off by one": 0 < n <= L and sum(blocks) in (n - 1, n + 1),
    }
    named = dict(case=case, n=n, mixed=mixed[0] if mixed else "", blocks=sum(blocks))
    wrong = diagnoses(__file__, "train-top")
    wrong.reject(mistakes, **named)
    for d in sorted(flags, reverse=True):
        state = "trained" if is_trained[d] else "frozen"
        named = dict(case=case, part=layer_name(d, L), state=state)
        wrong.reject({"other": is_trained[d] != expected[d]}, **named)


def check_count(got: Any, classifier: Classifier, case: str) -> None:
    """Wrong, unless `got` is the number of trained parameters."""
    wrong, number = diagnoses(__file__, "train-top"), n_trained(classifier)
    if not isinstance(got, (Tensor, bool)) and got == number:
        return
    parameters = list(classifier.parameters())
    n_all = sum(p.numel() for p in parameters)
    counts = {
        sum(p.requires_grad for p in parameters): "tensors",
        n_all: "all counted",
        n_all - number: "frozen counted",
        None: "no number",
    }
    why = wrong(counts.get(None if isinstance(got, (Tensor, bool)) else got, "count"))
    raise wrong("returned", case=case, got=describe(got), number=number, why=why)


def check_train_top(fn: Callable) -> str:
    def compare(classifier: Classifier, n: int) -> None:
        case = f"n = {n} of {classifier.body.config.n_layer} blocks"
        got = fn(classifier, n)
        check_frozen(classifier, n, case)
        check_count(got, classifier, case)

    for n in (4, 0, 1, 2, 3):  # everything first: what has to be frozen is not frozen before
        compare(tiny_classifier(), n)
    reused = tiny_classifier()
    compare(reused, 0)
    try:
        compare(reused, 2)
    except Wrong as error:
        raise diagnoses(__file__, "train-top")("no thaw") from error
    for n in (5, -1):
        expect_value_error(f"n = {n} of 3 blocks (0 ... 4 make sense)", fn, tiny_classifier(), n)
    rule = "a table of positions belongs to the embeddings"
    with fresh_cases(f"right for rope with 3 blocks, not for other models: {rule}"):
        for L in draw(1, 4, 2):
            for n in range(L + 2):
                compare(tiny_classifier(L, "vanilla"), n)
    return "always the head, then the last blocks, then the embeddings, never the body's own head"


# ---------------------------------------------------------------- learning rates


def rates_by_layer(groups: Any, classifier: Classifier) -> dict[int, float]:
    """The rate of each layer by its depth; Wrong for groups that no optimiser could use."""
    wrong, layers = diagnoses(__file__, "layer-rates"), parameters_by_layer(classifier)
    is_list = isinstance(groups, (list, tuple)) and all(isinstance(g, Mapping) for g in groups)
    wrong.reject({"no list": not is_list}, got=describe(groups))
    wrong.reject({"keys": any("params" not in g or "lr" not in g for g in groups)})
    pairs = [(list(g["params"]), float(g["lr"])) for g in groups]
    all_params = [p for params, _ in pairs for p in params]
    rate_of = {id(p): lr for params, lr in pairs for p in params}
    mistakes = {
        "no parameters": not all(isinstance(p, Tensor) for p in all_params),
        "empty": any(not params for params, _ in pairs),
        "twice": len(rate_of) < len(all_params),
    }
    wrong.reject(mistakes)
    rates = {}
    for d, layer in layers.items():
        layer_lrs = {rate_of.get(id(p)) for p in layer if p.requires_grad}
        mistakes = {
            "frozen": any(not p.requires_grad and id(p) in rate_of for p in layer),
            "missing": None in layer_lrs,
            "mixed": len(layer_lrs) > 1,
        }
        wrong.reject(mistakes, part=layer_name(d, classifier.body.config.n_layer))
        if layer_lrs:
            rates[d] = layer_lrs.pop()
    return rates


def check_layer_rates(fn: Callable) -> str:
    wrong, peak, factor = diagnoses(__file__, "layer-rates"), 0.8, 2.0

    def rates(f: Callable, classifier: Classifier, *args: float) -> Tensor:
        layers = rates_by_layer(f(classifier, *args), classifier)
        return torch.tensor([layers[d] for d in sorted(layers)], dtype=torch.double)

    def matches(make: Callable[[], Classifier], *args: float) -> bool:
        return close(rates(fn, make(), *args), rates(layer_rates, make(), *args), 1e-6)

    def top_is_trained() -> Classifier:
        classifier = tiny_classifier()
        train_top(classifier, 1)
        return classifier

    got = rates(fn, tiny_classifier(), peak, factor)
    right = rates(layer_rates, tiny_classifier(), peak, factor)
    if not close(got, right, 1e-6):
        for variant, text in wrong.variants(layer_rates, "rates").values():
            if close(got, rates(variant, tiny_classifier(), peak, factor), 1e-6):
                raise Wrong(text)
        wrong.reject({"head": abs(got[-1] - peak) > 1e-9}, rate=got[-1])
        at = int((got - right).abs().gt(1e-9).nonzero()[-1])
        raise wrong("other", part=layer_name(at, 3), rate=got[at], right=right[at])
    mistakes = {
        "frozen depth": not matches(top_is_trained, peak, factor),
        "factor 2": not matches(tiny_classifier, peak, 4.0),
        "default": not matches(tiny_classifier, peak),
    }
    wrong.reject(mistakes)
    with fresh_cases("right for 3 blocks, not for other models"):
        for n in draw(1, 5, 2):
            assert matches(lambda n=n: tiny_classifier(n, "vanilla"), 0.1, 1.7)
    return "peak for the head and the last norm, divided by factor for each layer down"


# ---------------------------------------------------------------- low rank


def check_low_rank(fn: Callable) -> str:
    def case(
        n_in: int, n_out: int, r: int, *batch: int, seed: int | None = None
    ) -> tuple[Tensor, ...]:
        shapes = ((*batch, n_in), (n_out, n_in), (n_out,), (r, n_in), (n_out, r))
        seeds = [None if seed is None else seed + i for i in range(5)]
        return tuple(numbers(*shape, seed=s) for shape, s in zip(shapes, seeds, strict=True))

    wrong = diagnoses(__file__, "low-rank")
    args = case(5, 4, 2, 3, seed=1)
    sizes = "x of (3, 5), weight (4, 5), down (2, 5), up (4, 2)"
    got = tensor(fn(*args, 6.0), (3, 4), f"the result for {sizes}")
    wrong.compare(low_rank, got, lambda f: f(*args, 6.0), "the result")
    x, weight, bias, down, up = args
    start = fn(x, weight, bias, down, 0 * up, 6.0)
    wrong.reject({"start": not close(start, x @ weight.T + bias)})
    batch = case(5, 4, 2, 2, 3, seed=9)
    got = tensor(fn(*batch, 6.0), (2, 3, 4), "the result for x of (2, 3, 5)")
    wrong.reject({"batch": not close(got, low_rank(*batch, 6.0))})
    with fresh_cases("right for the examples, not for other sizes, ranks and alphas"):
        sizes = zip(draw(1, 9, 4), draw(1, 9, 4), draw(1, 5, 4), draw(1, 32, 4), strict=True)
        for n_in, n_out, r, alpha in sizes:
            args = case(n_in, n_out, r, 2)
            assert close(fn(*args, float(alpha)), low_rank(*args, float(alpha)))
    return "the frozen map and, times alpha / r, the map through r numbers"


# ---------------------------------------------------------------- what is retained


def check_retained(fn: Callable) -> str:
    wrong = diagnoses(__file__, "retained")

    def score(before: list[str], after: list[str], gold: list[str], case: str) -> tuple[int, int]:
        got = fn(before, after, gold)
        wrong.reject({"no score": not isinstance(got, Score)}, case=case, got=describe(got))
        return got.correct, got.total

    # 6 are correct before, one of them with a space; afterwards 4 of these are, and 2 others
    gold = "Rome,Oslo,Bern,Riga,Kyiv,Lima,Doha,Bonn,Cork,Pisa,Graz".split(",")
    before = "Rome,Oslo, Bern,Riga,Kyiv,Lima,Cork,Oslo,Rome,Lima,Oslo".split(",")
    after = "Rome ,Oslo,Bern,Riga,Rome,,Doha,Oslo,Cork,Lima,Oslo".split(",")
    got = score(before, after, gold, "11 questions")
    counts = f"{got[0]} of {got[1]}"
    if got != (4, 6):
        still = "of the 6 answers that were correct before, 4 still are"
        why = wrong.texts("counts").get(counts, still)
        raise wrong("score", got=counts, why=why)
    try:
        nothing = score(["x"], ["Rome"], ["Rome"], "nothing was known")
    except ZeroDivisionError:
        raise wrong("divides") from None
    wrong.reject({"nothing": nothing != (0, 0)})
    expect_value_error("one answer less than questions", fn, before, after[:-1], gold)
    with fresh_cases("right for the example, not for other answers"):
        rng = fresh_random()
        for n in draw(1, 30, 4):
            gold, before, after = ([rng.choice("abc") for _ in range(n)] for _ in range(3))
            known = [i for i in range(n) if before[i] == gold[i]]
            n_kept = sum(after[i] == gold[i] for i in known)
            assert score(before, after, gold, "it") == (n_kept, len(known))
    return "kept of those that were known, spaces aside"


EXERCISES = tuple(
    Exercise(id, NOTEBOOK, *details)
    for id, *details in (
        ("pool", "One vector a text", 2, 10, pool, check_pool),
        ("train-top", "Freeze and thaw", 3, 15, train_top, check_train_top),
        ("layer-rates", "A rate for each layer", 3, 15, layer_rates, check_layer_rates),
        ("low-rank", "Around the frozen map", 2, 8, low_rank, check_low_rank),
        ("retained", "What is left", 1, 5, retained, check_retained),
    )
)
