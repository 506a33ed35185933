"""How many answers are right: exact match with its interval, the London baseline, prediction files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kt_core.corpora.files import write_atomically


def wilson_interval(correct: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): fractions (low, high); (0, 1) when nothing was asked."""
    if total == 0:
        return 0.0, 1.0
    p, n = correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # none or all right: the end is exact, where rounding would leave it a hair inside
    return 0.0 if correct == 0 else centre - half, 1.0 if correct == total else centre + half


@dataclass(frozen=True)
class Score:
    """`correct` answers out of `total`; accuracy and its 95 % Wilson interval as fractions 0 ... 1."""

    correct: int
    total: int

    def __post_init__(self):
        if not 0 <= self.correct <= self.total:
            raise ValueError(f"Score: {self.correct} correct out of {self.total} cannot be")

    @property
    def accuracy(self) -> float:
        return self.correct / self.total if self.total else 0.0

    @property
    def low(self) -> float:
        return wilson_interval(self.correct, self.total)[0]

    @property
    def high(self) -> float:
        return wilson_interval(self.correct, self.total)[1]

    def __str__(self) -> str:
        """The assignment's line."""
        return f"Correct: {self.correct} out of {self.total}: {100 * self.accuracy:.1f}%"


def exact_match(answers: Sequence[str], gold: Sequence[str | None]) -> Score:
    """Answers that equal the gold ones, surrounding white space aside. ValueError if the counts differ."""
    if len(answers) != len(gold):
        raise ValueError(
            f"{len(answers)} answers cannot be compared with {len(gold)} gold answers: one a question is needed"
        )
    if any(g is None for g in gold):
        raise ValueError(
            "some gold answers are missing: this split has questions only, so it cannot be scored"
        )
    return Score(sum(a.strip() == g.strip() for a, g in zip(answers, gold, strict=True)), len(gold))


def stored_and_found(
    filled: Sequence[str], answers: Sequence[str], gold: Sequence[str | None]
) -> tuple[Score, Score, Score]:
    """(stored, found, guessed) of facts that were asked for twice, by a gap in their own text and by a question.

    stored: gaps filled rightly, of all. found: questions answered rightly, of the stored ones. guessed: questions
    answered rightly, of the others. The two sums of right answers are those of `exact_match(answers, gold)`.
    ValueError for lists of different lengths or a missing gold answer.
    """
    exact_match(filled, gold)  # refuses what cannot be compared
    exact_match(answers, gold)
    groups: dict[bool, list[bool]] = {True: [], False: []}
    for gap, answer, right in zip(filled, answers, gold, strict=True):
        groups[gap.strip() == right.strip()].append(answer.strip() == right.strip())
    stored = Score(len(groups[True]), len(gold))
    return stored, *(Score(sum(groups[kind]), len(groups[kind])) for kind in (True, False))


def london_baseline(pairs: Sequence[tuple[str, str | None]]) -> Score:
    """What always answering "London" scores on (question, answer) pairs."""
    return exact_match(["London"] * len(pairs), [a for _, a in pairs])


def write_predictions(path: str | Path, answers: Sequence[str]) -> None:
    """The assignment's format: one answer a line, in the order of the questions; written atomically.

    Line ends inside an answer (a poorly trained model may make them) become spaces, so that lines stay aligned.
    """
    write_atomically(path, "".join(" ".join(a.splitlines()) + "\n" for a in answers).encode())


def read_predictions(path: str | Path) -> list[str]:
    """The answers in a prediction file, one a line."""
    text = Path(path).read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n") if text else []
