"""Exercises of notebook 14: an answer's probability, calibration, a threshold, masks, bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kt_core.attention import causal_mask
from kt_course.chapters.what_does_it_know.capacity import learned_bits
from kt_course.chapters.what_does_it_know.confidence import (
    answer_log_probability,
    choose_threshold,
    expected_calibration_error,
    reliability,
    risk_coverage,
)
from kt_course.chapters.what_does_it_know.tracing import cut_mask, ridge
from kt_course.exercises.assertions import Wrong, close, describe, recognise, tensor
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.random_cases import draw, fresh_generator, numbers
from kt_course.exercises.registry import Exercise

NOTEBOOK = "14_what_does_it_know"


def number(result: Any, what: str) -> Tensor:
    """Return a plain number, or a tensor that holds one, as a tensor in float64; else Wrong."""
    if isinstance(result, Tensor) and result.numel() == 1:
        return result.detach().double().reshape(())
    if isinstance(result, (int, float)) and not isinstance(result, bool):
        return torch.tensor(float(result), dtype=torch.double)
    raise Wrong(f"{what} should be one number, not {describe(result)}")


# ---------------------------------------------------------------- the probability of an answer


def log_probability_with(logits: Tensor, ids: Tensor, start: int, mistake: str = "") -> Tensor:
    """The log-probability of ids[start:], with one mistake built in."""
    n = len(ids)
    steps = logits if mistake == "raw" else logits.log_softmax(0 if mistake == "axis" else -1)
    ranges = {"whole": (1, n), "no end": (start, n - 1), "first": (start, start + 1)}
    late = {"late": 0, "early": 2}.get(mistake, 1)
    positions = range(*ranges.get(mistake, (start, n)))
    each = torch.stack([steps[t - late, ids[t]] for t in positions])
    total = each.mean() if mistake == "mean" else each.sum()
    outcomes = {"minus": -total, "not log": total.exp(), "bits": total / math.log(2)}
    return outcomes.get(mistake, total)


def check_log_probability(fn: Callable) -> str:
    wrong = diagnoses(__file__, "answer-probability")
    generator = torch.Generator().manual_seed(1)
    args = numbers(9, 6, seed=1), torch.randint(6, (9,), generator=generator), 5
    got = number(fn(*args), "the log-probability of 4 characters")
    texts, expected = wrong.texts("mistakes"), log_probability_with(*args)
    recognise(got, expected, lambda m: log_probability_with(*args, m), texts, "the sum")
    for T, V, start in ((2, 3, 1), (7, 4, 6), (30, 50, 11)):
        logits, ids = numbers(T, V), torch.randint(V, (T,), generator=fresh_generator())
        expected = log_probability_with(logits, ids, start)
        got = number(fn(logits, ids, start), "the result")
        wrong.reject({"other": not close(got, expected)})
        got = number(fn(logits[:-1], ids, start), "the result without the last row of logits")
        wrong.reject({"last row": not close(got, expected)})
    return "a sum of log-probabilities, from the first character of the answer to its end"


# ---------------------------------------------------------------- calibration


def calibration_error_with(sure: Tensor, right: Tensor, bins: int, mistake: str = "") -> Tensor:
    """The expected calibration error with one mistake built in."""
    bins = 10 if mistake == "ten bins" else bins
    if mistake == "one bin":
        return (sure.mean() - right.double().mean()).abs()
    if mistake == "no bins":
        return (sure - right.double()).abs().mean()
    index = (sure * bins).floor().long()
    index = index if mistake == "1 dropped" else index.clamp(max=bins - 1)
    gaps, weights = [], []
    for i in range(bins):
        inside = index == i
        if inside.any():
            mean = (i + 0.5) / bins if mistake == "middle" else sure[inside].mean()
            gaps.append(right[inside].double().mean() - mean)
            weights.append(inside.double().mean())
    gap, weight = torch.stack(gaps), torch.stack(weights)
    outcomes = {
        "unweighted": gap.abs().mean(),
        "largest": gap.abs().max(),
        "signed": (weight * gap).sum(),
        "squared": (weight * gap.square()).sum(),
    }
    return outcomes.get(mistake, (weight * gap.abs()).sum())


def check_calibration_error(fn: Callable) -> str:
    wrong = diagnoses(__file__, "calibration-error")

    def error(sure: Tensor, right: Tensor, *bins: int) -> Tensor:
        got = number(fn(sure, right, *bins), "the error")
        wrong.reject({"no number": got.isnan()})
        return got

    sure = [0.97, 0.93, 0.91, 0.71, 0.75, 0.62, 0.33, 0.38, 1.0, 1.0, 1.0, 0.05]
    sure = torch.tensor(sure).double()
    right = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 0]).bool()
    got, expected = error(sure, right, 4), calibration_error_with(sure, right, 4)
    outcomes, what = lambda m: calibration_error_with(sure, right, 4, m), "12 answers in 4 bins"
    recognise(got, expected, outcomes, wrong.texts("mistakes"), f"the error of {what}")
    ten = calibration_error_with(sure, right, 10)
    wrong.reject({"default": not close(error(sure, right), ten)})
    for n, bins in ((1, 5), (40, 7), (200, 20)):
        generator = fresh_generator()
        inside = 0.1 + 0.8 * torch.rand(n, generator=generator)
        sure = (torch.randint(bins, (n,), generator=generator) + inside).double() / bins
        right = torch.rand(n, generator=generator) < 0.5
        expected = calibration_error_with(sure, right, bins)
        wrong.reject({"other": not close(error(sure, right, bins), expected)})
    return "a weighted mean over the bins, empty ones left out, confidence 1 kept"


# ---------------------------------------------------------------- a threshold


def threshold_with(sure: Tensor, right: Tensor, accuracy: float, mistake: str = "") -> float:
    """The lowest confidence from which `accuracy` is reached, with one mistake built in."""
    order = sure.argsort(descending=True)
    sure, right = sure[order].tolist(), right[order].tolist()
    passing = []
    for i, t in enumerate(sure):
        is_answered = [s > t if mistake == "above" else s >= t for s in sure]
        answered = [r for r, given in zip(right, is_answered, strict=True) if given]
        answered = right[: i + 1] if mistake == "ties" else answered
        total = len(sure) if mistake == "of all" else len(answered)
        share = sum(answered) / total if total else 0.0
        enough = {
            "more": share > accuracy + 1e-12,
            "wrong ones": share <= 1 - accuracy + 1e-12,
        }.get(mistake, share >= accuracy - 1e-12)
        if enough:
            passing.append((t, i))
        elif mistake == "first failure":
            break
    if not passing:
        return math.inf
    t, i = passing[0] if mistake == "highest" else passing[-1]
    return {"coverage": (i + 1) / len(sure), "index": float(i)}.get(mistake, t)


THRESHOLD_CASES = [
    ([0.6, 0.9, 0.4, 0.8, 0.5, 0.7], [1, 1, 0, 1, 1, 0], 0.75),
    ([0.6, 0.9, 0.4, 0.8, 0.5, 0.7], [1, 1, 0, 1, 1, 0], 0.8),
    ([0.6, 0.9, 0.6, 0.6], [1, 1, 1, 0], 1.0),
    ([0.95, 0.9, 0.3, 0.2], [0, 1, 1, 1], 0.7),
]


def check_threshold(fn: Callable) -> str:
    wrong = diagnoses(__file__, "abstention-threshold")

    def answer(sure: Tensor, right: Tensor, accuracy: float) -> Tensor:
        return number(fn(sure, right, accuracy), "the threshold")

    cases = [(torch.tensor(s).double(), torch.tensor(r).bool(), a) for s, r, a in THRESHOLD_CASES]

    def thresholds(mistake: str = "") -> Tensor:
        return torch.tensor([threshold_with(*case, mistake) for case in cases]).double()

    got, expected = torch.stack([answer(*case) for case in cases]), thresholds()
    if not close(got, expected):
        for mistake, text in wrong.texts("mistakes").items():
            if close(got, thresholds(mistake)):
                raise Wrong(text)
    for (sure, right, accuracy), mine, true in zip(THRESHOLD_CASES, got, expected, strict=True):
        named = dict(sure=sure, right=right, accuracy=accuracy, got=mine, expected=true)
        wrong.reject({"value": abs(mine - true) > 1e-6}, **named)
    try:
        hopeless = answer(torch.tensor([0.9, 0.8]).double(), torch.tensor([False, True]), 0.9)
    except (IndexError, RuntimeError, ValueError) as error:
        raise wrong("raises", error=type(error).__name__) from error
    wrong.reject({"hopeless": hopeless != math.inf}, got=hopeless)
    for n in (1, 5, *10 * (60,)):
        sure, right = torch.tensor(draw(0, 12, n)).double() / 12, torch.tensor(draw(0, 1, n)).bool()
        accuracy = draw(0, 10, 1)[0] / 10
        expected = torch.tensor(threshold_with(sure, right, accuracy)).double()
        wrong.reject({"other": not close(answer(sure, right, accuracy), expected)})
    return "the lowest one that is accurate enough, ties together, inf where there is none"


# ---------------------------------------------------------------- attention that is cut


def cut_mask_with(T: int, queries: list[int], keys: list[int], mistake: str = "") -> Tensor:
    """The mask with one mistake built in."""
    mask = torch.ones(T, T, dtype=torch.bool) if mistake == "future" else causal_mask(T)
    pairs = {
        "pairs": list(zip(queries, keys, strict=False)),
        "columns": [(q, k) for q in range(T) for k in keys],
        "rows": [(q, k) for q in queries for k in range(T)],
        "transposed": [(k, q) for q in queries for k in keys],
    }.get(mistake, [(q, k) for q in queries for k in keys])
    for q, k in pairs:
        if q != k or mistake == "itself":
            mask[q, k] = False
    return ~mask if mistake == "inverted" else mask


def check_cut_mask(fn: Callable) -> str:
    wrong = diagnoses(__file__, "cut-mask")

    def answer(T: int, queries: list[int], keys: list[int]) -> Tensor:
        got = tensor(fn(T, queries, keys), (T, T), f"the mask for T = {T}")
        wrong.reject({"type": got.dtype != torch.bool}, got=got.dtype)
        return got

    examples = [(7, [4, 5, 6], [1, 2]), (6, [2, 3, 4], [3, 2, 1])]
    got = torch.cat([answer(*example).double().flatten() for example in examples])

    def masks(mistake: str = "") -> Tensor:
        return torch.cat([cut_mask_with(*e, mistake).double().flatten() for e in examples])

    recognise(got, masks(), masks, wrong.texts("mistakes"), "the mask")
    for T in (1, 9, 14):
        queries, keys = (sorted(set(draw(0, T - 1, 4))) for _ in range(2))
        for q, k in ((queries, keys), ([], keys), (range(T), range(T))):
            expected = cut_mask_with(T, list(q), list(k))
            wrong.reject({"other": not torch.equal(answer(T, q, k), expected)})
    return "causal, each query without each key, no position without itself"


# ---------------------------------------------------------------- a linear probe


def ridge_with(x: Tensor, y: Tensor, penalty: float, mistake: str = "") -> Tensor:
    """Ridge regression with one mistake built in."""
    n, d = x.shape
    weights = {
        "none": 0.0,
        "times n": penalty * n,
        "over n": penalty / n,
        "squared": penalty**2,
        "inverse": 1 / penalty,
        "minus": -penalty,
    }
    pattern = torch.ones(d, d) if mistake == "everywhere" else torch.eye(d)
    square = x.T @ x + weights.get(mistake, penalty) * pattern.double()
    if mistake == "elementwise":
        return (1 / square) @ x.T @ y
    w = torch.linalg.solve(square, x.T @ y)
    return w.T if mistake == "transposed" else w


def check_ridge(fn: Callable) -> str:
    wrong = diagnoses(__file__, "ridge-probe")
    args = numbers(9, 4, seed=1), numbers(9, 3, seed=2), 2.5
    got = fn(*args)
    wrong.reject({"transposed": isinstance(got, Tensor) and got.shape == (3, 4)})
    got = tensor(got, (4, 3), "the weights for x of (9, 4) and y of (9, 3)").double()
    texts, expected = wrong.texts("mistakes"), ridge_with(*args)
    recognise(got, expected, lambda m: ridge_with(*args, m), texts, "the weight matrix")
    for n, d, k in ((3, 8, 2), (20, 1, 1), (30, 6, 12)):
        args = numbers(n, d), numbers(n, k), 0.5 + draw(1, 9, 1)[0]
        got = tensor(fn(*args), (d, k), "the weights").double()
        wrong.reject({"other": not close(got, ridge_with(*args), 1e-4)})
    return "(x^T x + penalty I)^-1 x^T y, with fewer rows than channels as well"


# ---------------------------------------------------------------- bits


def bits_with(nats: Tensor, share: Tensor, mistake: str = "") -> Tensor:
    """Bits learned, with one mistake built in."""
    losses = {"nats": nats, "times": nats * math.log(2), "no loss": 0 * nats}
    loss = losses.get(mistake, nats / math.log(2))
    priors = {"prior in nats": -share.log(), "no prior": 0 * share}
    prior = priors.get(mistake, -share.log2())
    each = {
        "turned": loss - prior,
        "both added": prior + loss,
        "clamped": (prior - loss).clamp(min=0),
    }.get(mistake, prior - loss)
    return each.mean() if mistake == "mean" else each.sum()


def check_bits(fn: Callable) -> str:
    wrong = diagnoses(__file__, "learned-bits")
    nats = torch.tensor([0.1, 0.02, 3.0, 9.0, 0.5]).double()
    share = torch.tensor([0.05, 0.01, 0.02, 0.1, 0.008]).double()
    got, expected = number(fn(nats, share), "what was learned"), bits_with(nats, share)
    texts = wrong.texts("mistakes")
    recognise(got, expected, lambda m: bits_with(nats, share, m), texts, "the sum of bits")
    for n in (1, 30):
        nats, share = numbers(n).abs(), 0.01 + 0.9 * numbers(n).sigmoid()
        got = number(fn(nats, share), "the result")
        wrong.reject({"other": not close(got, bits_with(nats, share))})
    return "what a guess pays less what the model pays, in bits, summed over all people"


log_p, ece, threshold = answer_log_probability, expected_calibration_error, choose_threshold
EXERCISES = tuple(
    Exercise(id, NOTEBOOK, title, *details)
    for id, title, *details in (
        ("answer-probability", "The probability of an answer", 2, 8, log_p, check_log_probability),
        (
            "calibration-error",
            "How far confidence and accuracy lie apart",
            *(3, 15, ece, check_calibration_error, (reliability,)),
        ),
        (
            "abstention-threshold",
            "Where to begin to answer",
            *(3, 15, threshold, check_threshold, (risk_coverage,)),
        ),
        ("cut-mask", "Forbid a look", 2, 8, cut_mask, check_cut_mask),
        ("ridge-probe", "A linear probe", 3, 10, ridge, check_ridge),
        ("learned-bits", "Bits learned", 2, 8, learned_bits, check_bits),
    )
)
