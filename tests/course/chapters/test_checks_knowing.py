"""Answers to the exercises of notebook 14, right and wrong: every mistake gets its name."""

import math

import torch
import torch.nn.functional as F
from checking import Answers, notebook_suite, quiz_suite, suite

import kt_core as kt
from kt_course.chapters.what_does_it_know import confidence, tracing
from kt_course.chapters.what_does_it_know.capacity import learned_bits
from kt_course.chapters.what_does_it_know.exercises import (
    bits_with,
    calibration_error_with,
    cut_mask_with,
    log_probability_with,
    ridge_with,
    threshold_with,
)

# ---------------------------------------------------------------- the probability of an answer


def stub_log_probability(logits, ids, start):
    """ln p of ids[start:]."""
    ...


def slipped_probability(slip):
    return lambda logits, ids, start: log_probability_with(logits, ids, start, slip)


def by_cross_entropy(logits, ids, start):
    return -F.cross_entropy(logits[start - 1 : len(ids) - 1], ids[start:], reduction="sum")


def step_by_step(logits, ids, start):
    total = 0.0
    for t in range(start, len(ids)):
        scores = logits[t - 1]
        total += float(scores[ids[t]] - scores.max() - (scores - scores.max()).exp().sum().log())
    return total


def every_row(logits, ids, start):
    steps = logits.log_softmax(-1)
    return steps[: len(ids)].gather(-1, ids[:, None])[start:].sum()


def needs_all_rows(logits, ids, start):
    steps = logits.view(len(ids), -1).log_softmax(-1)
    return steps[start - 1 : -1].gather(-1, ids[start:, None]).sum()


PROBABILITY = Answers(
    stub=stub_log_probability,
    wrong={
        "late": (slipped_probability("late"), r"off by one: logits\[t\] predicts"),
        "late, in one go": (every_row, r"off by one: logits\[t\] predicts"),
        "early": (slipped_probability("early"), "the other way"),
        "raw": (slipped_probability("raw"), "sums of logits"),
        "axis": (slipped_probability("axis"), "wrong axis"),
        "mean": (slipped_probability("mean"), "mean over the characters"),
        "whole": (slipped_probability("whole"), "question is counted"),
        "no end": (slipped_probability("no end"), "last character is left out"),
        "first": (slipped_probability("first"), "first character"),
        "a loss": (slipped_probability("minus"), "that is a loss"),
        "a probability": (slipped_probability("not log"), "probability itself"),
        "base 2": (slipped_probability("bits"), "to base 2"),
        "one number a character": (
            lambda logits, ids, start: torch.stack([log_probability_with(logits, ids, start)] * 2),
            r"one number, not a tensor of shape \(2,\)",
        ),
        "a row for every id": (needs_all_rows, "raised RuntimeError|without the last row"),
        "a table of one": (
            lambda logits, ids, start: log_probability_with(logits, ids, 5),
            "not for other lengths|raised",
        ),
    },
    right={"cross-entropy": by_cross_entropy, "a loop and a plain float": step_by_step},
    borrowed=lambda logits, ids, start: confidence.answer_log_probability(logits, ids, start),
)

# ---------------------------------------------------------------- calibration


def stub_error(sure, right, bins=10): ...


def slipped_error(slip):
    return lambda sure, right, bins=10: calibration_error_with(sure, right, bins, slip)


def with_edges(sure, right, bins=10):
    """Bins closed above, as a sum over all of them."""
    total = 0.0
    for i in range(bins):
        inside = (sure > i / bins) & (sure <= (i + 1) / bins)
        if inside.any():
            total += (
                inside.double().mean() * (sure[inside].mean() - right[inside].double().mean()).abs()
            )
    return total


def by_scatter(sure, right, bins=10):
    """sum |sum of (right - sure) in the bin| / n: no bin is divided by its size at all."""
    where = (sure * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.double).index_add(0, where, right.double() - sure)
    return float(gap.abs().sum() / len(sure))


def empty_bins(sure, right, bins=10):
    where = (sure * bins).long().clamp(max=bins - 1)
    parts = [
        (right[where == i].double().mean() - sure[where == i].mean()).abs()
        * (where == i).double().mean()
        for i in range(bins)
    ]
    return sum(parts)


def twelve(sure, right, bins=10):
    return 0.0 if len(sure) not in (12,) else calibration_error_with(sure, right, bins)


ERROR = Answers(
    stub=stub_error,
    wrong={
        "unweighted": (slipped_error("unweighted"), "every bin counts alike"),
        "signed": (slipped_error("signed"), "cancel out"),
        "squared": (slipped_error("squared"), "distances are squared"),
        "largest": (slipped_error("largest"), "largest distance"),
        "one bin": (slipped_error("one bin"), "in one bin"),
        "no bins": (slipped_error("no bins"), "takes a bin of answers"),
        "middle": (slipped_error("middle"), "middle of the bin"),
        "1 dropped": (slipped_error("1 dropped"), "confidence 1 are lost"),
        "always ten": (slipped_error("ten bins"), "use the argument"),
        "empty bins": (empty_bins, "mean of an empty bin"),
        "five by default": (
            lambda sure, right, bins=5: calibration_error_with(sure, right, bins),
            "there are 10 bins",
        ),
        "a list a bin": (lambda sure, right, bins=10: [0.1] * bins, "one number, not a list"),
        "twelve answers only": (twelve, "not for other answers"),
    },
    right={"bins closed above": with_edges, "by sums": by_scatter},
    borrowed=lambda sure, right, bins=10: confidence.expected_calibration_error(sure, right, bins),
)


def test_kt_cores_own_bins_are_seen_as_borrowed_too():
    from checking import is_seen_as_borrowed

    def borrowed(sure, right, bins=10):
        diagram = confidence.reliability(sure, right, bins)
        return sum(b.score.total * abs(b.score.accuracy - b.confidence) for b in diagram) / len(
            sure
        )

    is_seen_as_borrowed("calibration-error", borrowed)


# ---------------------------------------------------------------- a threshold


def stub_threshold(sure, right, accuracy): ...


def slipped_threshold(slip):
    return lambda sure, right, accuracy: threshold_with(sure, right, accuracy, slip)


def all_thresholds(sure, right, accuracy):
    enough = [t for t in set(sure.tolist()) if right[sure >= t].double().mean() >= accuracy - 1e-9]
    return min(enough, default=math.inf)


def by_cumsum(sure, right, accuracy):
    levels, where = sure.unique(return_inverse=True)
    counts = torch.zeros(2, len(levels), dtype=torch.double)
    counts[0].index_add_(0, where, right.double())
    counts[1].index_add_(0, where, torch.ones(len(sure), dtype=torch.double))
    good, n = counts.flip(1).cumsum(1).flip(1)
    enough = levels[good / n >= accuracy - 1e-9]
    return enough[0] if len(enough) else torch.tensor(math.inf)


def raises_where_none(sure, right, accuracy):
    return [
        t for t in sorted(sure.tolist()) if right[sure >= t].double().mean() >= accuracy - 1e-9
    ][0]


def zero_where_none(sure, right, accuracy):
    lowest = threshold_with(sure, right, accuracy)
    return 0.0 if math.isinf(lowest) else lowest


def the_median(sure, right, accuracy):
    return sure.median()


def few_answers_only(sure, right, accuracy):
    return threshold_with(sure[:6], right[:6], accuracy)


THRESHOLD = Answers(
    stub=stub_threshold,
    wrong={
        "highest": (slipped_threshold("highest"), "answers least"),
        "first failure": (slipped_threshold("first failure"), "may rise again"),
        "more": (slipped_threshold("more"), "exactly the wanted accuracy"),
        "of all": (slipped_threshold("of all"), "divided by all questions"),
        "ties": (slipped_threshold("ties"), "pass a threshold together"),
        "above": (slipped_threshold("above"), "exactly at the threshold"),
        "wrong ones": (slipped_threshold("wrong ones"), "share of wrong answers"),
        "coverage": (slipped_threshold("coverage"), "share of questions that are answered"),
        "index": (slipped_threshold("index"), "an index into the list"),
        "raises": (raises_where_none, "raises IndexError: give back inf"),
        "zero": (zero_where_none, "it gives 0: inf answers nothing"),
        "median": (the_median, r"for an accuracy of 0.75 it gives 0.6 instead of 0.5"),
        "few": (few_answers_only, "not for others"),
    },
    right={"every threshold": all_thresholds, "cumulative sums": by_cumsum},
    borrowed=lambda sure, right, accuracy: confidence.choose_threshold(sure, right, accuracy),
)

# ---------------------------------------------------------------- a look that is cut


def stub_cut(T, queries, keys): ...


def slipped_cut(slip):
    return lambda T, queries, keys: cut_mask_with(T, list(queries), list(keys), slip)


def by_sets(T, queries, keys):
    queries, keys = set(queries), set(keys)
    return torch.tensor(
        [
            [k <= q and not (q in queries and k in keys and q != k) for k in range(T)]
            for q in range(T)
        ]
    )


def by_outer(T, queries, keys):
    q, k = (
        torch.zeros(T, dtype=torch.bool).index_fill(
            0, torch.tensor(list(at), dtype=torch.long), True
        )
        for at in (queries, keys)
    )
    mask = kt.causal_mask(T) & ~torch.outer(q, k)
    return mask.fill_diagonal_(True)


def lists_of_some(T, queries, keys):
    mask = cut_mask_with(T, queries, keys)
    mask[queries[0], queries[0]] = True  # fails where the list is empty
    return mask


CUT = Answers(
    stub=stub_cut,
    wrong={
        "transposed": (slipped_cut("transposed"), "rows and columns are swapped"),
        "inverted": (slipped_cut("inverted"), "turned round"),
        "future": (slipped_cut("future"), "leak"),
        "columns": (slipped_cut("columns"), "no position may attend to the keys"),
        "rows": (slipped_cut("rows"), "nothing but themselves"),
        "pairs": (slipped_cut("pairs"), "every query loses every key"),
        "itself": (slipped_cut("itself"), "does not see itself"),
        "numbers": (
            lambda T, q, k: cut_mask_with(T, list(q), list(k)).float(),
            "torch.float32: True and False",
        ),
        "a list": (
            lambda T, q, k: cut_mask_with(T, list(q), list(k)).tolist(),
            "should be a tensor, not a list",
        ),
        "one row too many": (
            lambda T, q, k: cut_mask_with(T + 1, list(q), list(k)),
            r"shape \(8, 8\) instead of \(7, 7\)",
        ),
        "empty lists": (lists_of_some, "raised IndexError|may be empty"),
    },
    right={"sets": by_sets, "outer product": by_outer},
    borrowed=lambda T, queries, keys: tracing.cut_mask(T, queries, keys),
)

# ---------------------------------------------------------------- a linear probe


def stub_ridge(x, y, penalty): ...


def slipped_ridge(slip):
    return lambda x, y, penalty: ridge_with(x, y, penalty, slip)


def dual(x, y, penalty):
    """x^T (x x^T + penalty I)^-1 y: the same weights, from rows instead of channels."""
    return x.T @ torch.linalg.solve(x @ x.T + penalty * torch.eye(len(x), dtype=x.dtype), y)


def augmented(x, y, penalty):
    more = math.sqrt(penalty) * torch.eye(x.size(1), dtype=x.dtype)
    return torch.linalg.lstsq(
        torch.cat([x, more]), torch.cat([y, y.new_zeros(x.size(1), y.size(1))])
    ).solution


RIDGE = Answers(
    stub=stub_ridge,
    wrong={
        "none": (slipped_ridge("none"), "penalty is not used"),
        "times n": (slipped_ridge("times n"), "multiplied by the number of rows"),
        "over n": (slipped_ridge("over n"), "divided by the number of rows"),
        "squared": (slipped_ridge("squared"), "penalty is squared"),
        "inverse": (slipped_ridge("inverse"), "1 / penalty is added"),
        "minus": (slipped_ridge("minus"), "penalty is subtracted"),
        "everywhere": (slipped_ridge("everywhere"), "belongs on the diagonal"),
        "elementwise": (slipped_ridge("elementwise"), "turns round each entry"),
        "transposed": (slipped_ridge("transposed"), "transposed, x @ W"),
        "dual by rows": (
            lambda x, y, penalty: torch.linalg.solve(x @ x.T + penalty * torch.eye(len(x)), y),
            r"instead of \(4, 3\)|raised",
        ),
        "one penalty": (lambda x, y, penalty: ridge_with(x, y, 2.5), "not for other sizes"),
    },
    right={
        "from rows": dual,
        "as more rows": augmented,
        "inverse": lambda x, y, p: torch.linalg.inv(x.T @ x + p * torch.eye(x.size(1))) @ x.T @ y,
    },
    borrowed=lambda x, y, penalty: tracing.ridge(x, y, penalty),
)

# ---------------------------------------------------------------- bits


def stub_bits(nats, share): ...


def slipped_bits(slip):
    return lambda nats, share: bits_with(nats, share, slip)


BITS = Answers(
    stub=stub_bits,
    wrong={
        "nats": (slipped_bits("nats"), "still in nats"),
        "times": (slipped_bits("times"), "multiplied by ln 2"),
        "prior in nats": (slipped_bits("prior in nats"), "guess is paid in nats"),
        "no prior": (slipped_bits("no prior"), "minus the loss"),
        "no loss": (slipped_bits("no loss"), "subtract what the model still pays"),
        "turned": (slipped_bits("turned"), "sign is turned round"),
        "both added": (slipped_bits("both added"), "loss is added"),
        "clamped": (slipped_bits("clamped"), "below 0 are left out"),
        "mean": (slipped_bits("mean"), "bits per person"),
        "a bit a person": (
            lambda nats, share: -share.log2() - nats / math.log(2),
            "one number, not a tensor",
        ),
        "five people": (lambda nats, share: bits_with(nats[:5], share[:5]), "not for other people"),
    },
    right={
        "a loop": lambda nats, share: sum(
            -math.log2(s) - n / math.log(2)
            for n, s in zip(nats.tolist(), share.tolist(), strict=True)
        ),
        "as a ratio": lambda nats, share: ((-nats).exp() / share).log2().sum(),
    },
    borrowed=lambda nats, share: learned_bits(nats, share),
)

ANSWERS = {
    "answer-probability": PROBABILITY,
    "calibration-error": ERROR,
    "abstention-threshold": THRESHOLD,
    "cut-mask": CUT,
    "ridge-probe": RIDGE,
    "learned-bits": BITS,
}
TestExercises = suite("14_what_does_it_know", ANSWERS)
TestQuizzes = quiz_suite("14_what_does_it_know")
TestNotebook = notebook_suite("14_what_does_it_know")
