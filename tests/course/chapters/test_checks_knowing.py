"""Answers to the exercises of notebook 14, right and wrong: every mistake gets its name."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from checking import Answers, notebook_suite, quiz_suite, suite

import kt_core as kt
from kt_course.chapters.what_does_it_know import confidence, exercises, tracing
from kt_course.chapters.what_does_it_know.capacity import learned_bits
from kt_course.exercises.diagnoses import diagnoses


def variants_of(id, reference):
    """The reference with each mistake that the check recognises: name -> function."""
    variants = diagnoses(exercises.__file__, id).variants(reference)
    return {name: variant for name, (variant, _) in variants.items()}


SUMMED = variants_of("answer-probability", confidence.answer_log_probability)
MASKS = variants_of("cut-mask", tracing.cut_mask)
RIDGES = variants_of("ridge-probe", tracing.ridge)
LEARNED = variants_of("learned-bits", learned_bits)

# ---------------------------------------------------------------- the probability of an answer


def stub_log_probability(logits, ids, start):
    """ln p of ids[start:]."""
    ...


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
        "late": (SUMMED["late"], r"off by one: logits\[t\] predicts"),
        "late, in one go": (every_row, r"off by one: logits\[t\] predicts"),
        "early": (SUMMED["early"], "the other way"),
        "raw": (SUMMED["raw"], "sums of logits"),
        "axis": (SUMMED["axis"], "wrong axis"),
        "mean": (SUMMED["mean"], "mean over the characters"),
        "whole": (SUMMED["whole"], "question is counted"),
        "no end": (SUMMED["no end"], "last character is left out"),
        "first": (SUMMED["first"], "first character"),
        "a loss": (SUMMED["minus"], "that is a loss"),
        "a probability": (SUMMED["not log"], "probability itself"),
        "base 2": (SUMMED["bits"], "to base 2"),
        "one number a character": (
            lambda logits, ids, start: torch.stack([by_cross_entropy(logits, ids, start)] * 2),
            r"one number, not a tensor of shape \(2,\)",
        ),
        "a row for every id": (needs_all_rows, "raised RuntimeError|without the last row"),
        "a table of one": (
            lambda logits, ids, start: by_cross_entropy(logits, ids, 5),
            "not for other lengths|raised",
        ),
    },
    right={"cross-entropy": by_cross_entropy, "a loop and a plain float": step_by_step},
    borrowed=lambda logits, ids, start: confidence.answer_log_probability(logits, ids, start),
)

# ---------------------------------------------------------------- calibration


def stub_error(sure, right, bins=10): ...


def calibration_error_with(sure, right, bins=10, mistake=""):
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
    return 0.0 if len(sure) not in (12,) else by_scatter(sure, right, bins)


ERROR = Answers(
    stub=stub_error,
    wrong={
        "unweighted": (
            partial(calibration_error_with, mistake="unweighted"),
            "every bin counts alike",
        ),
        "signed": (partial(calibration_error_with, mistake="signed"), "cancel out"),
        "squared": (partial(calibration_error_with, mistake="squared"), "distances are squared"),
        "largest": (partial(calibration_error_with, mistake="largest"), "largest distance"),
        "one bin": (partial(calibration_error_with, mistake="one bin"), "in one bin"),
        "no bins": (partial(calibration_error_with, mistake="no bins"), "takes a bin of answers"),
        "middle": (partial(calibration_error_with, mistake="middle"), "middle of the bin"),
        "1 dropped": (
            partial(calibration_error_with, mistake="1 dropped"),
            "confidence 1 are lost",
        ),
        "always ten": (partial(calibration_error_with, mistake="ten bins"), "use the argument"),
        "empty bins": (empty_bins, "mean of an empty bin"),
        "five by default": (
            lambda sure, right, bins=5: by_scatter(sure, right, bins),
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


def threshold_with(sure, right, accuracy, mistake=""):
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
    lowest = all_thresholds(sure, right, accuracy)
    return 0.0 if math.isinf(lowest) else lowest


def the_median(sure, right, accuracy):
    return sure.median()


def few_answers_only(sure, right, accuracy):
    return all_thresholds(sure[:6], right[:6], accuracy)


THRESHOLD = Answers(
    stub=stub_threshold,
    wrong={
        "highest": (partial(threshold_with, mistake="highest"), "answers least"),
        "first failure": (partial(threshold_with, mistake="first failure"), "may rise again"),
        "more": (partial(threshold_with, mistake="more"), "exactly the wanted accuracy"),
        "of all": (partial(threshold_with, mistake="of all"), "divided by all questions"),
        "ties": (partial(threshold_with, mistake="ties"), "pass a threshold together"),
        "above": (partial(threshold_with, mistake="above"), "exactly at the threshold"),
        "wrong ones": (partial(threshold_with, mistake="wrong ones"), "share of wrong answers"),
        "coverage": (
            partial(threshold_with, mistake="coverage"),
            "share of questions that are answered",
        ),
        "index": (partial(threshold_with, mistake="index"), "an index into the list"),
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
    mask = by_sets(T, queries, keys)
    mask[queries[0], queries[0]] = True  # fails where the list is empty
    return mask


CUT = Answers(
    stub=stub_cut,
    wrong={
        "transposed": (MASKS["transposed"], "rows and columns are swapped"),
        "inverted": (MASKS["inverted"], "turned round"),
        "future": (MASKS["future"], "leak"),
        "columns": (MASKS["columns"], "no position may attend to the keys"),
        "rows": (MASKS["rows"], "nothing but themselves"),
        "pairs": (MASKS["pairs"], "every query loses every key"),
        "itself": (MASKS["itself"], "does not see itself"),
        "numbers": (
            lambda T, q, k: by_sets(T, list(q), list(k)).float(),
            "torch.float32: True and False",
        ),
        "a list": (
            lambda T, q, k: by_sets(T, list(q), list(k)).tolist(),
            "should be a tensor, not a list",
        ),
        "one row too many": (
            lambda T, q, k: by_sets(T + 1, list(q), list(k)),
            r"shape \(8, 8\) instead of \(7, 7\)",
        ),
        "empty lists": (lists_of_some, "raised IndexError|may be empty"),
    },
    right={"sets": by_sets, "outer product": by_outer},
    borrowed=lambda T, queries, keys: tracing.cut_mask(T, queries, keys),
)

# ---------------------------------------------------------------- a linear probe


def stub_ridge(x, y, penalty): ...


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
        "none": (RIDGES["none"], "penalty is not used"),
        "times n": (RIDGES["times n"], "multiplied by the number of rows"),
        "over n": (RIDGES["over n"], "divided by the number of rows"),
        "squared": (RIDGES["squared"], "penalty is squared"),
        "inverse": (RIDGES["inverse"], "1 / penalty is added"),
        "minus": (RIDGES["minus"], "penalty is subtracted"),
        "everywhere": (RIDGES["everywhere"], "belongs on the diagonal"),
        "elementwise": (RIDGES["elementwise"], "turns round each entry"),
        "transposed": (lambda x, y, penalty: dual(x, y, penalty).T, "transposed, x @ W"),
        "dual by rows": (
            lambda x, y, penalty: torch.linalg.solve(x @ x.T + penalty * torch.eye(len(x)), y),
            r"instead of \(4, 3\)|raised",
        ),
        "one penalty": (lambda x, y, penalty: dual(x, y, 2.5), "not for other sizes"),
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


def as_a_loop(nats, share):
    pairs = zip(nats.tolist(), share.tolist(), strict=True)
    return sum(-math.log2(s) - n / math.log(2) for n, s in pairs)


BITS = Answers(
    stub=stub_bits,
    wrong={
        "nats": (LEARNED["nats"], "still in nats"),
        "times": (LEARNED["times"], "multiplied by ln 2"),
        "prior in nats": (LEARNED["prior in nats"], "guess is paid in nats"),
        "no prior": (LEARNED["no prior"], "minus the loss"),
        "no loss": (LEARNED["no loss"], "subtract what the model still pays"),
        "turned": (LEARNED["turned"], "sign is turned round"),
        "both added": (LEARNED["both added"], "loss is added"),
        "clamped": (LEARNED["clamped"], "below 0 are left out"),
        "mean": (LEARNED["mean"], "bits per person"),
        "a bit a person": (
            lambda nats, share: -share.log2() - nats / math.log(2),
            "one number, not a tensor",
        ),
        "five people": (lambda nats, share: as_a_loop(nats[:5], share[:5]), "not for other people"),
    },
    right={
        "a loop": as_a_loop,
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
