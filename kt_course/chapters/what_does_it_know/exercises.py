"""Exercises of notebook 14: an answer's probability, calibration, a threshold, masks, bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kt_course.chapters.what_does_it_know.capacity import learned_bits
from kt_course.chapters.what_does_it_know.confidence import (
    answer_log_probability,
    choose_threshold,
    expected_calibration_error,
    reliability,
    risk_coverage,
)
from kt_course.chapters.what_does_it_know.tracing import cut_mask, ridge
from kt_course.exercises.assertions import Wrong, close, describe, tensor
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


def check_log_probability(fn: Callable) -> str:
    wrong = diagnoses(__file__, "answer-probability")
    generator = torch.Generator().manual_seed(1)
    args = numbers(9, 6, seed=1), torch.randint(6, (9,), generator=generator), 5
    got = number(fn(*args), "the log-probability of 4 characters")
    wrong.compare(answer_log_probability, got, lambda f: f(*args), "the sum")
    for T, V, start in ((2, 3, 1), (7, 4, 6), (30, 50, 11)):
        logits, ids = numbers(T, V), torch.randint(V, (T,), generator=fresh_generator())
        expected = answer_log_probability(logits, ids, start)
        got = number(fn(logits, ids, start), "the result")
        wrong.reject({"other": not close(got, expected)})
        got = number(fn(logits[:-1], ids, start), "the result without the last row of logits")
        wrong.reject({"last row": not close(got, expected)})
    return "a sum of log-probabilities, from the first character of the answer to its end"


# ---------------------------------------------------------------- calibration


def check_calibration_error(fn: Callable) -> str:
    wrong = diagnoses(__file__, "calibration-error")

    def error(sure: Tensor, right: Tensor, *bins: int) -> Tensor:
        got = number(fn(sure, right, *bins), "the error")
        wrong.reject({"no number": got.isnan()})
        return got

    sure = [0.97, 0.93, 0.91, 0.71, 0.76, 0.62, 0.33, 0.38, 1.0, 1.0, 1.0, 0.05]
    sure = torch.tensor(sure).double()
    right = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 0]).bool()
    what, reference = "the error of 12 answers in 4 bins", expected_calibration_error
    wrong.compare(reference, error(sure, right, 4), lambda f: number(f(sure, right, 4), "it"), what)
    wrong.reject({"default": not close(error(sure, right), number(reference(sure, right), "it"))})
    for n, bins in ((1, 5), (40, 7), (200, 20)):
        generator = fresh_generator()
        inside = 0.1 + 0.8 * torch.rand(n, generator=generator)
        sure = (torch.randint(bins, (n,), generator=generator) + inside).double() / bins
        right = torch.rand(n, generator=generator) < 0.5
        expected = number(reference(sure, right, bins), "it")
        wrong.reject({"other": not close(error(sure, right, bins), expected)})
    return "a weighted mean over the bins, empty ones left out, confidence 1 kept"


# ---------------------------------------------------------------- a threshold


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

    def thresholds(f: Callable) -> Tensor:
        return torch.tensor([f(*case) for case in cases]).double()

    got, expected = torch.stack([answer(*case) for case in cases]), thresholds(choose_threshold)
    if not close(got, expected):
        for variant, text in wrong.variants(choose_threshold).values():
            if close(got, thresholds(variant)):
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
        expected = torch.tensor(choose_threshold(sure, right, accuracy)).double()
        wrong.reject({"other": not close(answer(sure, right, accuracy), expected)})
    return "the lowest one that is accurate enough, ties together, inf where there is none"


# ---------------------------------------------------------------- attention that is cut


def check_cut_mask(fn: Callable) -> str:
    wrong = diagnoses(__file__, "cut-mask")

    def answer(T: int, queries: list[int], keys: list[int]) -> Tensor:
        got = tensor(fn(T, queries, keys), (T, T), f"the mask for T = {T}")
        wrong.reject({"type": got.dtype != torch.bool}, got=got.dtype)
        return got

    examples = [(7, [4, 5, 6], [1, 2]), (6, [2, 3, 4], [3, 2, 1])]

    def masks(f: Callable) -> Tensor:
        return torch.cat([f(*example).double().flatten() for example in examples])

    wrong.compare(cut_mask, masks(answer), masks, "the mask")
    for T in (1, 9, 14):
        queries, keys = (sorted(set(draw(0, T - 1, 4))) for _ in range(2))
        for q, k in ((queries, keys), ([], keys), (range(T), range(T))):
            wrong.reject({"other": not torch.equal(answer(T, q, k), cut_mask(T, q, k))})
    return "causal, each query without each key, no position without itself"


# ---------------------------------------------------------------- a linear probe


def check_ridge(fn: Callable) -> str:
    wrong = diagnoses(__file__, "ridge-probe")
    args = numbers(9, 4, seed=1), numbers(9, 3, seed=2), 2.5
    got = fn(*args)
    wrong.reject({"transposed": isinstance(got, Tensor) and got.shape == (3, 4)})
    got = tensor(got, (4, 3), "the weights for x of (9, 4) and y of (9, 3)").double()
    wrong.compare(ridge, got, lambda f: f(*args), "the weight matrix")
    for n, d, k in ((3, 8, 2), (20, 1, 1), (30, 6, 12)):
        args = numbers(n, d), numbers(n, k), 0.5 + draw(1, 9, 1)[0]
        got = tensor(fn(*args), (d, k), "the weights").double()
        wrong.reject({"other": not close(got, ridge(*args), 1e-4)})
    return "(x^T x + penalty I)^-1 x^T y, with fewer rows than channels as well"


# ---------------------------------------------------------------- bits


def check_bits(fn: Callable) -> str:
    wrong = diagnoses(__file__, "learned-bits")
    nats = torch.tensor([0.1, 0.02, 3.0, 9.0, 0.5]).double()
    share = torch.tensor([0.05, 0.01, 0.02, 0.1, 0.008]).double()
    got = number(fn(nats, share), "what was learned")
    wrong.compare(learned_bits, got, lambda f: number(f(nats, share), "it"), "the sum of bits")
    for n in (1, 30):
        nats, share = numbers(n).abs(), 0.01 + 0.9 * numbers(n).sigmoid()
        got, expected = number(fn(nats, share), "it"), number(learned_bits(nats, share), "it")
        wrong.reject({"other": not close(got, expected)})
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
