"""How many answers are correct: exact match with its interval, and the London baseline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


def wilson_interval(correct: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of a proportion (Wilson 1927); (0, 1) for 0 of 0."""
    if total == 0:
        return 0.0, 1.0
    p, n = correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # rounding would leave the ends 0 and 1 a little inside
    return 0.0 if correct == 0 else centre - half, 1.0 if correct == total else centre + half


@dataclass(frozen=True)
class Score:
    """`correct` answers out of `total`; accuracy and interval are fractions 0 ... 1."""

    correct: int
    total: int

    def __post_init__(self):
        if not 0 <= self.correct <= self.total:
            raise ValueError(f"Score: {self.correct} correct out of {self.total} is impossible")

    @property
    def accuracy(self) -> float:
        """The share of correct answers, 0 if nothing was asked."""
        return self.correct / self.total if self.total else 0.0

    @property
    def low(self) -> float:
        """The lower end of the 95 % Wilson interval."""
        return wilson_interval(self.correct, self.total)[0]

    @property
    def high(self) -> float:
        """The upper end of the 95 % Wilson interval."""
        return wilson_interval(self.correct, self.total)[1]

    def as_dict(self) -> dict[str, int | float]:
        """Return the numbers as JSON files hold them, fractions with four digits."""
        fractions = {key: round(getattr(self, key), 4) for key in ("accuracy", "low", "high")}
        return {"correct": self.correct, "total": self.total, **fractions}

    def __str__(self) -> str:
        """Return the assignment's line."""
        return f"Correct: {self.correct} out of {self.total}: {100 * self.accuracy:.1f}%"


def exact_match(answers: Sequence[str], gold: Sequence[str | None]) -> Score:
    """Count the answers that equal the gold ones, apart from surrounding white space."""
    if len(answers) != len(gold):
        raise ValueError(f"{len(answers)} answers for {len(gold)} gold ones: give one per question")
    if any(g is None for g in gold):
        raise ValueError("some gold answers are missing: a split with questions only has no score")
    return Score(sum(a.strip() == g.strip() for a, g in zip(answers, gold, strict=True)), len(gold))


def london_baseline(pairs: Sequence[tuple[str, str | None]]) -> Score:
    """Score the constant answer "London" on (question, answer) pairs."""
    return exact_match(["London"] * len(pairs), [answer for _, answer in pairs])
