"""Exercises of notebook 14: the probability of an answer, calibration, a threshold, a cut look, a probe, bits."""

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
from kt_course.exercises.random_cases import draw, fresh_generator, numbers
from kt_course.exercises.registry import Exercise

NOTEBOOK = "14_what_does_it_know"


def number(result: Any, what: str) -> Tensor:
    """A plain number, or a tensor that holds one, as a tensor in float64; else Wrong."""
    if isinstance(result, Tensor) and result.numel() == 1:
        return result.detach().double().reshape(())
    if isinstance(result, (int, float)) and not isinstance(result, bool):
        return torch.tensor(float(result), dtype=torch.double)
    raise Wrong(f"{what} should be one number, not {describe(result)}")


# ---------------------------------------------------------------- the probability of an answer


def log_probability(logits: Tensor, ids: Tensor, start: int, slip: str = "") -> Tensor:
    """The log-probability of ids[start:], with one mistake built in."""
    steps = logits if slip == "raw" else logits.log_softmax(0 if slip == "axis" else -1)
    first, last = {
        "whole": (1, len(ids)),
        "no end": (start, len(ids) - 1),
        "first": (start, start + 1),
    }.get(slip, (start, len(ids)))
    late = {"late": 0, "early": 2}.get(slip, 1)
    each = torch.stack([steps[t - late, ids[t]] for t in range(first, last)])
    total = each.mean() if slip == "mean" else each.sum()
    return {"minus": -total, "not log": total.exp(), "bits": total / math.log(2)}.get(slip, total)


def check_log_probability(fn: Callable) -> str:
    slips = {
        "late": "off by one: logits[t] foretells ids[t + 1], so the character at t was foretold by logits[t - 1]",
        "early": "off by one, the other way: the character at t was foretold by logits[t - 1], not by logits[t - 2]",
        "raw": "these are sums of logits: log_softmax over the characters makes them log-probabilities",
        "axis": "softmax over the wrong axis: the V numbers of one position have to sum to 1 (dim=-1)",
        "mean": "that is the mean over the characters: a text's probability is a product, so its log is a sum",
        "whole": "the question is counted too: sum over the answer alone, from start on",
        "no end": "the last character is left out: with it the model says that the answer ends here",
        "first": "only the answer's first character is counted",
        "minus": "that is a loss, -ln p: the logarithm of a probability is 0 or below",
        "not log": "that is the probability itself: give back its logarithm, which long answers do not round to 0",
        "bits": "the logarithm is to base 2: take the natural one, as log_softmax does",
    }
    generator = torch.Generator().manual_seed(1)
    logits, ids = numbers(9, 6, seed=1), torch.randint(6, (9,), generator=generator)
    got = number(fn(logits, ids, 5), "the log-probability of 4 characters")
    recognise(
        got,
        log_probability(logits, ids, 5),
        lambda slip: log_probability(logits, ids, 5, slip),
        slips,
        "the sum",
    )
    for T, V, start in ((2, 3, 1), (7, 4, 6), (30, 50, 11)):
        logits, ids = numbers(T, V), torch.randint(V, (T,), generator=fresh_generator())
        if not close(
            number(fn(logits, ids, start), "the result"), log_probability(logits, ids, start)
        ):
            raise Wrong("right for the example, not for other lengths and starts")
        short = number(fn(logits[:-1], ids, start), "the result without the last row of logits")
        if not close(short, log_probability(logits, ids, start)):
            raise Wrong(
                "right with a row of logits for every id, wrong without the last row, which foretells nothing"
            )
    return "a sum of log-probabilities, from the first character of the answer to its end"


# ---------------------------------------------------------------- calibration


def calibration_error(sure: Tensor, right: Tensor, bins: int, slip: str = "") -> Tensor:
    """The expected calibration error with one mistake built in."""
    if slip == "ten bins":
        bins = 10
    if slip == "one bin":
        return (sure.mean() - right.double().mean()).abs()
    if slip == "no bins":
        return (sure - right.double()).abs().mean()
    where = (sure * bins).floor().long()
    where = where if slip == "1 dropped" else where.clamp(max=bins - 1)
    gaps, shares = [], []
    for i in range(bins):
        inside = where == i
        if inside.any():
            mean = (i + 0.5) / bins if slip == "middle" else sure[inside].mean()
            gaps.append(right[inside].double().mean() - mean)
            shares.append(inside.double().mean())
    gap, share = torch.stack(gaps), torch.stack(shares)
    if slip == "unweighted":
        return gap.abs().mean()
    if slip == "largest":
        return gap.abs().max()
    if slip == "signed":
        return (share * gap).sum()
    return (share * (gap.square() if slip == "squared" else gap.abs())).sum()


def check_calibration_error(fn: Callable) -> str:
    slips = {
        "unweighted": "every bin counts alike: a bin weighs as many answers as it holds, n_bin / n",
        "signed": "bins that are too sure and bins that are too modest cancel out: take the distance, |...|, bin by bin",
        "squared": "the distances are squared: the error is a weighted mean of plain distances",
        "largest": "that is the largest distance (MCE): the expected error is their weighted mean",
        "one bin": "all answers are in one bin: |mean confidence - accuracy| hides what differs from bin to bin",
        "no bins": "that is each answer's distance from 1 or 0: accuracy is a share, so it takes a bin of answers",
        "middle": "the middle of the bin stands for its answers: take the mean of their confidences",
        "1 dropped": "answers with confidence 1 are lost: they belong to the last bin",
        "ten bins": "4 bins give the same as 10: use the argument",
    }

    def asked(sure: Tensor, right: Tensor, *bins: int) -> Tensor:
        got = number(fn(sure, right, *bins), "the error")
        if got.isnan():
            raise Wrong(
                "the error is no number: the mean of an empty bin is 0/0, leave such bins out"
            )
        return got

    sure = torch.tensor(
        [0.97, 0.93, 0.91, 0.71, 0.75, 0.62, 0.33, 0.38, 1.0, 1.0, 1.0, 0.05]
    ).double()
    right = torch.tensor(
        [True, False, True, True, True, False, True, True, True, False, True, False]
    )
    got = asked(sure, right, 4)
    found = {slip: calibration_error(sure, right, 4, slip) for slip in slips}
    recognise(
        got,
        calibration_error(sure, right, 4),
        found.__getitem__,
        slips,
        "the error of 12 answers in 4 bins",
    )
    if not close(asked(sure, right), calibration_error(sure, right, 10)):
        raise Wrong("without a third argument there are 10 bins")
    for n, bins in ((1, 5), (40, 7), (200, 20)):
        sure = (
            torch.randint(bins, (n,), generator=fresh_generator())
            + 0.1
            + 0.8 * torch.rand(n, generator=fresh_generator())
        ) / bins
        right = torch.rand(n, generator=fresh_generator()) < 0.5
        if not close(
            asked(sure.double(), right, bins), calibration_error(sure.double(), right, bins)
        ):
            raise Wrong("right for the example, not for other answers and numbers of bins")
    return "a weighted mean over the bins, empty ones left out, confidence 1 kept"


# ---------------------------------------------------------------- a threshold


def threshold(sure: Tensor, right: Tensor, accuracy: float, slip: str = "") -> float:
    """The lowest confidence above which `accuracy` of the answers are right, with one mistake built in."""
    order = sure.argsort(descending=True)
    sure, right = sure[order].tolist(), right[order].tolist()
    found = []
    for i, t in enumerate(sure):
        answered = [
            r for s, r in zip(sure, right, strict=True) if (s > t if slip == "above" else s >= t)
        ]
        answered = right[: i + 1] if slip == "ties" else answered
        total = len(sure) if slip == "of all" else len(answered)
        share = sum(answered) / total if total else 0.0
        enough = share > accuracy + 1e-12 if slip == "more" else share >= accuracy - 1e-12
        if slip == "wrong ones":
            enough = share <= 1 - accuracy + 1e-12
        if enough:
            found.append((t, i))
        elif slip == "first failure":
            break
    if not found:
        return math.inf
    t, i = found[0] if slip == "highest" else found[-1]
    return {"coverage": (i + 1) / len(sure), "place": float(i)}.get(slip, t)


def check_threshold(fn: Callable) -> str:
    slips = {
        "highest": "that is the highest threshold that is accurate enough, and answers least: take the lowest",
        "first failure": "it stops at the first threshold that fails: accuracy may rise again further down",
        "more": "exactly the wanted accuracy is enough: >=, not >",
        "of all": "the right ones are divided by all questions: divide by those that are answered",
        "ties": "equal confidences pass a threshold together: count all answers with confidence >= it",
        "above": "who has exactly the threshold answers too: confidence >= threshold, not >",
        "wrong ones": "it looks at the share of wrong answers: accuracy is the share of right ones",
        "coverage": "that is the share of questions that are answered: give back the confidence where it happens",
        "place": "that is a place in the list: give back the confidence that stands there",
    }

    def asked(sure: Tensor, right: Tensor, accuracy: float) -> Tensor:
        return number(fn(sure, right, accuracy), "the threshold")

    cases = [
        ([0.6, 0.9, 0.4, 0.8, 0.5, 0.7], [1, 1, 0, 1, 1, 0], 0.75),
        ([0.6, 0.9, 0.4, 0.8, 0.5, 0.7], [1, 1, 0, 1, 1, 0], 0.8),
        ([0.6, 0.9, 0.6, 0.6], [1, 1, 1, 0], 1.0),
        ([0.95, 0.9, 0.3, 0.2], [0, 1, 1, 1], 0.7),
    ]
    lists = [(torch.tensor(s).double(), torch.tensor(r).bool(), a) for s, r, a in cases]
    expected = torch.tensor([threshold(*case) for case in lists]).double()
    got = torch.stack([asked(*case) for case in lists])
    for slip, told in slips.items():
        other = torch.tensor([threshold(*case, slip) for case in lists]).double()
        if close(got, other) and not close(got, expected):
            raise Wrong(told)
    for (sure, right, wanted), mine, true in zip(
        cases, got.tolist(), expected.tolist(), strict=True
    ):
        if abs(mine - true) > 1e-6:
            raise Wrong(
                f"confidences {sure}, right {right}: for an accuracy of {wanted:g} it gives {mine:g} instead of {true:g}"
            )
    try:
        hopeless = float(asked(torch.tensor([0.9, 0.8]).double(), torch.tensor([False, True]), 0.9))
    except (IndexError, RuntimeError, ValueError) as error:
        raise Wrong(
            f"where no threshold is accurate enough it raises {type(error).__name__}: give back inf, which answers nothing"
        ) from error
    if hopeless != math.inf:
        raise Wrong(
            f"no threshold is accurate enough, and it gives {hopeless:g}: inf answers nothing"
        )
    for n in (1, 5, *10 * (60,)):
        sure = torch.tensor(draw(0, 12, n)).double() / 12
        right = torch.tensor(draw(0, 1, n)).bool()
        wanted = draw(0, 10, 1)[0] / 10
        if not close(
            asked(sure, right, wanted), torch.tensor(threshold(sure, right, wanted)).double()
        ):
            raise Wrong("right for the small lists, not for others")
    return "the lowest one that is accurate enough, ties together, inf where there is none"


# ---------------------------------------------------------------- a look that is cut


def cut(T: int, queries: list[int], keys: list[int], slip: str = "") -> Tensor:
    """The mask with one mistake built in."""
    mask = torch.ones(T, T, dtype=torch.bool) if slip == "future" else causal_mask(T)
    pairs = [(q, k) for q in queries for k in keys]
    if slip == "pairs":
        pairs = list(zip(queries, keys, strict=False))
    if slip == "columns":
        pairs = [(q, k) for q in range(T) for k in keys]
    if slip == "rows":
        pairs = [(q, k) for q in queries for k in range(T)]
    if slip == "transposed":
        pairs = [(k, q) for q, k in pairs]
    for q, k in pairs:
        if q != k or slip == "itself":
            mask[q, k] = False
    return ~mask if slip == "inverted" else mask


def check_cut_mask(fn: Callable) -> str:
    slips = {
        "transposed": "rows and columns are swapped: a row is a query, mask[query, key]",
        "inverted": "turned round: True is where looking is allowed",
        "future": "leak: everything that is not cut is allowed, the future too; begin with the causal triangle",
        "columns": "nobody may look at the keys any more: only the rows in queries lose them",
        "rows": "the queries see nothing but themselves: they lose the keys alone",
        "pairs": "only pairs at the same place in the two lists are cut: every query loses every key",
        "itself": "a position that is in both lists does not see itself, and with an empty row softmax is 0/0",
    }

    def asked(T: int, queries: list[int], keys: list[int]) -> Tensor:
        got = tensor(fn(T, queries, keys), (T, T), f"the mask for T = {T}")
        if got.dtype != torch.bool:
            raise Wrong(
                f"the mask holds {got.dtype}: True and False are wanted, .bool() makes them"
            )
        return got

    examples = [(7, [4, 5, 6], [1, 2]), (6, [2, 3, 4], [3, 2, 1])]
    got = torch.cat([asked(*one).double().flatten() for one in examples])

    def flat(slip: str = "") -> Tensor:
        return torch.cat([cut(*one, slip).double().flatten() for one in examples])

    recognise(got, flat(), flat, slips, "the mask")
    for T in (1, 9, 14):
        queries, keys = (sorted(set(draw(0, T - 1, 4))) for _ in range(2))
        for one in ((T, queries, keys), (T, [], keys), (T, range(T), range(T))):
            if not torch.equal(asked(*one), cut(one[0], list(one[1]), list(one[2]))):
                raise Wrong(
                    "right for the examples, not for other positions: they may be empty, or a range"
                )
    return "causal, each query without each key, nobody without itself"


# ---------------------------------------------------------------- a linear probe


def ridge_with(x: Tensor, y: Tensor, penalty: float, slip: str = "") -> Tensor:
    """Ridge regression with one mistake built in."""
    n, d = x.shape
    weight = {
        "none": 0.0,
        "times n": penalty * n,
        "over n": penalty / n,
        "squared": penalty**2,
        "inverse": 1 / penalty,
        "minus": -penalty,
    }.get(slip, penalty)
    square = x.T @ x + (
        weight * torch.ones(d, d).double()
        if slip == "everywhere"
        else weight * torch.eye(d).double()
    )
    if slip == "elementwise":
        return (1 / square) @ x.T @ y
    w = torch.linalg.solve(square, x.T @ y)
    return w.T if slip == "transposed" else w


def check_ridge(fn: Callable) -> str:
    slips = {
        "none": "the penalty is not used: without it the fit learns its examples by heart where channels are many",
        "times n": "the penalty is multiplied by the number of rows: x^T x is a sum over them already",
        "over n": "the penalty is divided by the number of rows: nothing else here is a mean",
        "squared": "the penalty is squared: |W|^2 has its square already, what stands on the diagonal is the penalty",
        "inverse": "1 / penalty is added: a larger penalty has to make smaller weights",
        "minus": "the penalty is subtracted: a larger penalty has to make smaller weights",
        "everywhere": "the penalty is added to every entry: it belongs on the diagonal, penalty * torch.eye(d)",
        "elementwise": "1 / matrix turns round each entry: the inverse of a matrix is torch.linalg.inv, better solve",
    }
    x, y, penalty = numbers(9, 4, seed=1), numbers(9, 3, seed=2), 2.5
    got = fn(x, y, penalty)
    if isinstance(got, Tensor) and got.shape == (3, 4):
        raise Wrong("the weights are (k, d): transposed, x @ W has to be possible")
    got = tensor(got, (4, 3), "the weights for x of (9, 4) and y of (9, 3)").double()
    recognise(
        got,
        ridge_with(x, y, penalty),
        lambda slip: ridge_with(x, y, penalty, slip),
        slips,
        "the weight matrix",
    )
    for n, d, k in ((3, 8, 2), (20, 1, 1), (30, 6, 12)):
        x, y, penalty = numbers(n, d), numbers(n, k), 0.5 + draw(1, 9, 1)[0]
        got = tensor(fn(x, y, penalty), (d, k), "the weights").double()
        if not close(got, ridge_with(x, y, penalty), 1e-4):
            raise Wrong(
                "right for the example, not for other sizes (fewer rows than channels, too)"
            )
    return "(x^T x + penalty I)^-1 x^T y, with fewer rows than channels as well"


# ---------------------------------------------------------------- bits


def bits(nats: Tensor, share: Tensor, slip: str = "") -> Tensor:
    """Bits learned, with one mistake built in."""
    loss = nats if slip == "nats" else nats / math.log(2)
    if slip == "times":
        loss = nats * math.log(2)
    prior = -share.log() if slip == "prior in nats" else -share.log2()
    if slip == "no prior":
        prior = torch.zeros_like(prior)
    if slip == "no loss":
        loss = torch.zeros_like(loss)
    each = {
        "turned": loss - prior,
        "both added": prior + loss,
        "clamped": (prior - loss).clamp(min=0),
    }.get(slip, prior - loss)
    return each.mean() if slip == "mean" else each.sum()


def check_bits(fn: Callable) -> str:
    slips = {
        "nats": "the loss is still in nats: divide it by ln 2, about 0.693, to have bits",
        "times": "the loss is multiplied by ln 2: a nat is more than a bit, so divide",
        "prior in nats": "the guess is paid in nats, the loss in bits: -log2 of the share",
        "no prior": "that is minus the loss: what a guess without the name would pay is missing",
        "no loss": "that is what a guess pays, all there is to learn: subtract what the model still pays",
        "turned": "the sign is turned round: a smaller loss has to give more bits",
        "both added": "the loss is added: what the model still pays is not learned, subtract it",
        "clamped": "terms below 0 are left out: who is surely wrong about some people has learned less, so they count",
        "mean": "that is bits a person: add them up over all people",
    }
    nats = torch.tensor([0.1, 0.02, 3.0, 9.0, 0.5]).double()
    share = torch.tensor([0.05, 0.01, 0.02, 0.1, 0.008]).double()
    got = number(fn(nats, share), "what was learned")
    recognise(
        got, bits(nats, share), lambda slip: bits(nats, share, slip), slips, "the sum of bits"
    )
    for n in (1, 30):
        nats, share = numbers(n).abs(), 0.01 + 0.9 * numbers(n).sigmoid()
        if not close(number(fn(nats, share), "the result"), bits(nats, share)):
            raise Wrong("right for the example, not for other people")
    return "what a guess pays less what the model pays, in bits, summed over all people"


EXERCISES = (
    Exercise(
        "answer-probability",
        NOTEBOOK,
        "The probability of an answer",
        2,
        8,
        answer_log_probability,
        check_log_probability,
    ),
    Exercise(
        "calibration-error",
        NOTEBOOK,
        "How far confidence and accuracy lie apart",
        3,
        15,
        expected_calibration_error,
        check_calibration_error,
        (reliability,),
    ),
    Exercise(
        "abstention-threshold",
        NOTEBOOK,
        "Where to begin to answer",
        3,
        15,
        choose_threshold,
        check_threshold,
        (risk_coverage,),
    ),
    Exercise("cut-mask", NOTEBOOK, "Forbid a look", 2, 8, cut_mask, check_cut_mask),
    Exercise("ridge-probe", NOTEBOOK, "A linear probe", 3, 10, ridge, check_ridge),
    Exercise("learned-bits", NOTEBOOK, "Bits learned", 2, 8, learned_bits, check_bits),
)
