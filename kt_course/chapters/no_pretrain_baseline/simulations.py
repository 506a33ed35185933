"""Simulated experiments of chapter 4, which show what a rule of statistics does when repeated.

Each function returns the rows of a table. All draws come from fixed seeds.
"""

import random
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from kt_core.evaluation import Score, wilson_interval
from kt_course.statistics import sign_test

PEOPLE = 250


def two_rules(n_experiments: int) -> list[tuple[str, str, str]]:
    """Compare two rules for "A and B differ": intervals that do not overlap, and the sign test.

    On a quarter of the people both models are always correct. Only one of them is correct on
    others: 4 % each, or 2 % for A and 10 % for B.
    """
    rows = []
    for truth, only_a, only_b in (
        ("A and B equally good (30 %)", 0.04, 0.04),
        ("A 28 %, B 36 %", 0.02, 0.10),
    ):
        rng, apart, rejected = np.random.default_rng(0), 0, 0
        for _ in range(n_experiments):
            both, wins, losses, _ = rng.multinomial(
                PEOPLE, [0.26, only_a, only_b, 0.74 - only_a - only_b]
            )
            a, b = Score(int(both + wins), PEOPLE), Score(int(both + losses), PEOPLE)
            apart += a.high < b.low or b.high < a.low
            rejected += sign_test(int(wins), int(losses)) < 0.05
        rows.append((truth, share(apart, n_experiments), share(rejected, n_experiments)))
    return rows


def pooled_seeds(n_experiments: int) -> list[tuple[str, str]]:
    """Count how often a 95 % interval holds the true accuracy, for one seed and three pooled.

    Half of the people are easy (90 % correct), the others difficult (10 %), for every seed.
    """
    rng, hits = np.random.default_rng(0), [0, 0]
    for _ in range(n_experiments):
        chance = np.where(rng.random(PEOPLE) < 0.5, 0.9, 0.1)
        correct = rng.random((3, PEOPLE)) < chance
        for i, answers in enumerate((correct[0], correct)):
            low, high = wilson_interval(int(answers.sum()), answers.size)
            hits[i] += low <= 0.5 <= high
    names = f"one seed, n = {PEOPLE}", f"three seeds pooled, n = {3 * PEOPLE}"
    return [(name, share(n, n_experiments)) for name, n in zip(names, hits, strict=True)]


def best_of_20(
    answers: Sequence[str], dev: Sequence[str], test: Sequence[str], n_experiments: int
) -> list[tuple[str, str, str]]:
    """Choose the best of 20 guessers on dev, and measure it on test.

    Args:
        answers: A guesser draws from these.
        dev, test: Correct answers.
        n_experiments: How often this is repeated.
    """
    rng, average, best = random.Random(0), [], []
    for _ in range(n_experiments):
        scores = []
        for _ in range(20):
            pair = [
                fmean(guess == gold for guess, gold in zip(guesses, split, strict=True))
                for split in (dev, test)
                for guesses in [rng.choices(answers, k=len(split))]
            ]
            scores.append(tuple(pair))
        average.append([fmean(column) for column in zip(*scores, strict=True)])
        best.append(max(scores, key=lambda score: score[0]))
    rows = []
    for i, split in enumerate(("dev", "test")):
        means = fmean(row[i] for row in average), fmean(row[i] for row in best)
        rows.append((split, *(f"{100 * mean:.1f} %" for mean in means)))
    return rows


def share(count: int, n: int) -> str:
    """Write a share of experiments in per cent."""
    return f"{100 * count / n:.0f} %"
