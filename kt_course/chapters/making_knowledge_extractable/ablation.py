"""The table and the figure of an ablation: data/results/ablation-CORPUS.json, by row.

`tools/experiments/ablation.py` writes the file. A row holds, per seed, the share of people answered
correctly (`accuracy`) and a string with a 1 for each of them (`correct`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kt_core.corpora.paths import data_dir
from kt_course.figures.style import BLACK, BLUE, GREY, VERMILION, WIDTH, in_style
from kt_course.statistics import Table, p_value, percent, sign_test

OURS = "ours"  # the name of the row without a change


@dataclass(frozen=True)
class Comparison:
    """One row beside the whole recipe, on the same people.

    Attributes:
        accuracy: Mean over the seeds.
        difference: Mean over the seeds of accuracy minus the recipe's accuracy, with equal seeds.
        wins, losses: People with more correct answers over all seeds in this row, or in the recipe.
        p: Of the exact sign test on wins and losses.
    """

    label: str
    accuracy: float
    difference: float
    wins: int
    losses: int
    p: float


def read_ablation(corpus: str) -> dict[str, Any]:
    """Read the ablation of a corpus from data/results."""
    path = data_dir() / "results" / f"ablation-{corpus}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def compare_rows(table: Mapping[str, Any]) -> list[Comparison]:
    """Compare every row with the whole recipe, worst first; the recipe itself comes last."""
    ours = next(row for row in table["rows"] if row["name"] == OURS)
    others = [compare_row(row, ours) for row in table["rows"] if row["name"] != OURS]
    return [*sorted(others, key=lambda c: c.accuracy), compare_row(ours, ours)]


def compare_row(row: Mapping[str, Any], ours: Mapping[str, Any]) -> Comparison:
    """Compare two rows that were trained with the same seeds."""
    totals = [people_correct(each["correct"]) for each in (row, ours)]
    wins = sum(a > b for a, b in zip(*totals, strict=True))
    losses = sum(a < b for a, b in zip(*totals, strict=True))
    accuracy, reference = (mean(each["accuracy"]) for each in (row, ours))
    p = sign_test(wins, losses)
    return Comparison(row["label"], accuracy, accuracy - reference, wins, losses, p)


def people_correct(seeds: Sequence[str]) -> list[int]:
    """Return the number of correct answers of each person over the seeds."""
    return [sum(map(int, marks)) for marks in zip(*seeds, strict=True)]


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


class AblationTable(Table):
    """Every row beside the whole recipe; shows itself in a notebook."""

    def __init__(self, table: Mapping[str, Any]):
        n = str(len(table["seeds"]))
        rows = [
            [c.label, n, percent(c.accuracy), f"{100 * c.difference:+.1f}", str(c.wins)]
            + [str(c.losses), p_value(c.p)]
            for c in compare_rows(table)
        ]
        better = "accuracy", "difference", "better", "worse", "p (sign test)"
        super().__init__(("changed", "seeds", *better), rows)


@in_style
def draw_ablation(table: Mapping[str, Any]) -> Figure:
    """Draw all seeds of every row as dots, their mean as a line, and the recipe's mean across."""
    rows = {row["label"]: row for row in table["rows"]}
    comparisons = compare_rows(table)
    figure, ax = plt.subplots(figsize=(WIDTH, 0.38 * len(comparisons) + 1.5))
    recipe = comparisons[-1].accuracy
    ax.axvline(100 * recipe, color=GREY, lw=6, zorder=0)
    for y, c in enumerate(comparisons):
        is_clear = c.p < 0.05
        colour = BLACK if c.label == comparisons[-1].label else VERMILION if is_clear else BLUE
        values = [100 * value for value in rows[c.label]["accuracy"]]
        ax.plot(values, [y] * len(values), "o", ms=5, mfc="white", color=colour)
        ax.plot([100 * c.accuracy] * 2, [y - 0.3, y + 0.3], color=colour, lw=3)
    for colour, label in ((BLUE, "p of 0.05 or more"), (VERMILION, "p below 0.05")):
        ax.plot([], [], color=colour, lw=3, label=f"mean, {label}")
    ax.plot([], [], "o", ms=5, mfc="white", color=BLACK, label="one seed")
    ax.set_yticks(range(len(comparisons)), [c.label for c in comparisons])
    ax.set(xlabel=f"correct answers (%), n = {table['asked']} people", xlim=(0, 100))
    size = f"{table['people']} people of {table['corpus']}"
    ax.set_title(f"What each part is worth ({size}, {table['characters'] / 1e6:g} M characters)")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def describe_ablation(table: Mapping[str, Any]) -> str:
    """Return a text alternative of the figure: each row's mean, worst first."""
    texts = [f"{c.label} {100 * c.accuracy:.0f} %" for c in compare_rows(table)]
    return f"Share of correct answers by what was changed, worst first: {'; '.join(texts)}."
