"""The statistics of all chapters: scores with intervals, paired tests, variation between seeds.

Chapter 4 teaches them; every chapter uses these functions. Each returns an object that holds the
numbers and shows itself as a table, in a notebook cell, by `print` and in a report.

    score_table({"always London": Score(13, 250), "your model": score})
    compare_answers({"vanilla": answers, "rope": other_answers}, gold)
    seed_table({"pretrained": [0.81, 0.84, 0.79], "not pretrained": [0.05, 0.04, 0.06]})
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit
from tabulate import tabulate

from kt_core.evaluation import Score, exact_match


class Table:
    """Rows of text under their titles; it shows itself in a notebook and by `print`."""

    def __init__(self, headers: Sequence[str], rows: Sequence[Sequence[str]]):
        self.headers, self.rows = headers, rows

    def _format(self, style: str) -> str:
        sides = ["left"] + ["right"] * (len(self.headers) - 1)
        return tabulate(self.rows, self.headers, style, colalign=sides, disable_numparse=True)

    def __str__(self) -> str:
        return self._format("simple")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._format("html")


def score_table(scores: Mapping[str, Score], counted: str = "correct") -> Table:
    """Show scores by name, each with its n and its 95 % Wilson interval.

    The intervals say how well each accuracy is known. Whether two models differ is another
    question: `compare_answers` tests it, if both answered about the same people.

    Args:
        scores: For example `{"always London": kt.london_baseline(corpus.dev)}`.
        counted: The column title of the counts, if they are not correct answers.
    """
    share = "accuracy" if counted == "correct" else "share"
    rows = [
        [name, str(s.correct), str(s.total), percent(s.accuracy), interval(s.low, s.high)]
        for name, s in scores.items()
    ]
    return Table(("", counted, "n", share, "95 % interval"), rows)


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact sign test (McNemar's exact test).

    It is the probability of a split at least as uneven as this one, if each of the wins + losses
    is a fair coin toss. Ties are left out: they say nothing about the direction.
    """
    n, most = wins + losses, max(wins, losses)
    tail = sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n
    return min(1.0, 2 * tail)


class PairedComparison(Table):
    """Two models on the same questions.

    Attributes:
        both, neither: Questions that both, or neither, answered correctly.
        wins, losses: Questions that only the first, or only the second, answered correctly.
        total: The number of questions.
        p: The p-value of the exact sign test.
    """

    def __init__(self, names: Sequence[str], both: int, wins: int, losses: int, neither: int):
        self.both, self.wins, self.losses, self.neither = both, wins, losses, neither
        self.total, self.p = both + wins + losses + neither, sign_test(wins, losses)
        only = [f"only {name}" for name in names]
        headers = ["correct answers", "both", *only, "neither", "n", "p (exact sign test)"]
        counts = map(str, (both, wins, losses, neither, self.total))
        super().__init__(headers, [["people", *counts, p_value(self.p)]])


def compare_answers(
    answers: Mapping[str, Sequence[str]], gold: Sequence[str | None]
) -> PairedComparison:
    """Compare the answers of two models to the same questions, question by question.

    Args:
        answers: Two lists of answers, by the model's name.
        gold: The correct answers, in the same order.
    """
    correct = {
        name: [bool(exact_match([a], [g]).correct) for a, g in zip(texts, gold, strict=True)]
        for name, texts in answers.items()
    }
    return compare_correct(correct)


def compare_correct(correct: Mapping[str, Sequence[bool]]) -> PairedComparison:
    """Like `compare_answers`, for lists that already say whether each answer is correct."""
    if len(correct) != 2:
        raise ValueError(f"a paired comparison needs two models, not {len(correct)}")
    pairs = [(bool(a), bool(b)) for a, b in zip(*correct.values(), strict=True)]
    outcomes = (True, True), (True, False), (False, True), (False, False)
    return PairedComparison(list(correct), *map(pairs.count, outcomes))


@dataclass(frozen=True)
class SeedSummary:
    """A result over several seeds: its mean, its range and the 95 % t-interval of the mean.

    With one seed the interval is infinitely wide.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return fmean(self.values)

    @property
    def half_width(self) -> float:
        """Half of the t-interval: t of n - 1 degrees of freedom, times the standard error."""
        n = len(self.values)
        return (
            float(stdtrit(n - 1, 0.975)) * stdev(self.values) / math.sqrt(n) if n > 1 else math.inf
        )

    @property
    def low(self) -> float:
        """The lower end of the 95 % t-interval of the mean."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end of the 95 % t-interval of the mean."""
        return self.mean + self.half_width


def seed_table(values: Mapping[str, Sequence[float]], is_percent: bool = True) -> Table:
    """Show how a result varies between training runs that differ only in their seed.

    To compare two settings, run both with the same seeds and give the differences a row of their
    own: `{"rope - vanilla": [a - b for a, b in zip(rope, vanilla)]}`. If its interval contains 0,
    these seeds do not show a difference.

    Args:
        values: One number per seed, by setting. Accuracies are fractions 0 ... 1.
        is_percent: Show fractions in per cent; False for other numbers, such as losses.
    """
    if empty := [name for name, numbers in values.items() if not len(numbers)]:
        raise ValueError(f"{empty[0]!r} has no value: give one per seed")
    rows = []
    for name, numbers in values.items():
        seeds = SeedSummary(tuple(map(float, numbers)))
        results = seeds.mean, min(seeds.values), max(seeds.values)
        cells = [percent(x) if is_percent else f"{x:.2f}" for x in results]
        width = interval(seeds.low, seeds.high, is_percent) if len(numbers) > 1 else "unknown"
        rows.append([name, str(len(numbers)), *cells, width])
    return Table(("", "seeds", "mean", "lowest", "highest", "95 % t-interval"), rows)


def percent(share: float) -> str:
    """Write a fraction in per cent: 5.2 %."""
    return f"{100 * share:.1f} %"


def interval(low: float, high: float, is_percent: bool = True) -> str:
    """Write an interval: 3.1 to 8.7 % for fractions, otherwise with two digits."""
    return f"{100 * low:.1f} to {100 * high:.1f} %" if is_percent else f"{low:.2f} to {high:.2f}"


def p_value(p: float) -> str:
    """Write a p-value with the digits that matter."""
    return "below 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
