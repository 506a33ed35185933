"""The table and the pictures of chapter 12, from data/results/finetuning.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from kt_course.chapters.finetuning_techniques.techniques import TECHNIQUES, rows_of, shares
from kt_course.explorers.living_page import LivingView, attach_data
from kt_course.figures.alt_text import show
from kt_course.figures.plots import reaches
from kt_course.figures.style import BLUE, COLOURS, GREEN, GREY, VERMILION, WIDTH, in_style
from kt_course.statistics import SeedSummary, Table

MEASURES = {
    "alone": ("region, alone", BLUE, "o-"),
    "assisted": ("region, assisted", GREEN, "s--"),
    "kept": ("birthplaces retained", VERMILION, "^:"),
}


class TechniqueTable(Table):
    """One row per technique: rate, trained parameters, seconds, and shares over seeds.

    A share is written as the mean over seeds, with its 95 % t-interval.
    """

    def __init__(self, table: Mapping[str, Any]):
        cells = []
        for name, technique in TECHNIQUES.items():
            rows = rows_of(table, name)
            seconds = SeedSummary(tuple(row["seconds"] for row in rows)).mean
            first = [technique.label, f"{rows[0]['rate']:g}", f"{rows[0]['trained']:,}"]
            means = [mean_and_interval(shares(rows, key)) for key in MEASURES]
            cells.append([*first, f"{seconds:.1f}", *means])
        measures = "region, alone (%)", "region, assisted (%)", "retained (%)"
        super().__init__(("", "rate", "trained", "seconds", *measures), cells)


def mean_and_interval(values: Sequence[float]) -> str:
    """Write a mean of shares and its 95 % t-interval in per cent, cut at 0 and 100."""
    summary = SeedSummary(tuple(values))
    low, high = max(summary.low, 0.0), min(summary.high, 1.0)
    return f"{100 * summary.mean:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def _bars(summaries: Sequence[SeedSummary]) -> tuple[list[float], np.ndarray]:
    """Means in per cent, and the lengths of the interval, cut at 0 and 100, below and above."""
    rows = [(s.mean, max(s.low, 0.0), min(s.high, 1.0)) for s in summaries]
    return [100 * s.mean for s in summaries], 100 * reaches(rows)


def explore_forgetting(table: Mapping) -> LivingView:
    """Choose the rate for everything trained: shares over seeds, and what six people get."""
    rates = TECHNIQUES["all"].rates
    summaries = {
        key: [SeedSummary(tuple(shares(rows_of(table, "all", rate), key))) for rate in rates]
        for key in MEASURES
    }
    bars = [
        {label: summaries[key][i].mean for key, (label, *_) in MEASURES.items()}
        for i in range(len(rates))
    ]
    parts = [
        f"{label} {', '.join(f'{100 * s.mean:.0f} %' for s in summaries[key])}"
        for key, (label, *_) in MEASURES.items()
    ]
    alt = f"At the rates {', '.join(f'{rate:g}' for rate in rates)}: {'; '.join(parts)}."
    data = dict(rates=rates, bars=bars, said=table["people"], people=table["asked"][0]["people"])
    data["n_seeds"] = len(table["seeds"])
    return attach_data("forgetting", data, alt=alt, picture=_draw_rates(rates, summaries))


@in_style
def _draw_rates(rates: Sequence[float], summaries: Mapping[str, Sequence[SeedSummary]]) -> Figure:
    figure, ax = plt.subplots(figsize=(WIDTH, 3.8))
    for key, (label, colour, line) in MEASURES.items():
        means, bars = _bars(summaries[key])
        ax.errorbar(rates, means, bars, fmt=line, color=colour, capsize=3, label=label)
    ax.set(xscale="log", xlabel="peak learning rate", ylabel="per cent of people", ylim=(0, 105))
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.set_title("Larger rates learn more regions and lose more birthplaces")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.close(figure)
    return figure


@in_style
def learned_and_forgotten(table: Mapping, title: str) -> None:
    """Draw each technique as a point: birthplaces retained, and accuracy on the new task."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.8))
    parts = []
    for colour, (name, technique) in zip(COLOURS, TECHNIQUES.items(), strict=False):
        rows = rows_of(table, name)
        x, x_bars = _bars([SeedSummary(tuple(shares(rows, "kept")))])
        y, y_bars = _bars([SeedSummary(tuple(shares(rows, "assisted")))])
        ax.errorbar(x, y, y_bars, x_bars, "o", color=colour, capsize=3, label=technique.label)
        parts.append(f"{technique.label} {x[0]:.0f} % and {y[0]:.0f} %")
    ax.set(xlabel="birthplaces retained (%)", ylabel="correct regions (%)", title=title)
    ax.set(xlim=(-3, 104), ylim=(20, 100))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    show(figure, f"Birthplaces retained and correct regions: {'; '.join(parts)}.")


@in_style
def rank_curve(ranks: Sequence[int], accuracies: Sequence[float], share: Sequence, title: str):
    """Draw accuracy, and the share of the change, against the directions that are kept."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.2))
    x = range(len(ranks))
    ax.plot(x, [100 * a for a in accuracies], "o-", color=BLUE, label="correct regions")
    ax.plot(x, [100 * s for s in share], "s--", color=GREY, label="share of the squared change")
    ax.set_xticks(x, ranks)
    ax.set(xlabel="directions kept in every matrix", ylabel="per cent", ylim=(0, 105), title=title)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    pairs = ", ".join(f"{k}: {100 * a:.0f} %" for k, a in zip(ranks, accuracies, strict=True))
    show(figure, f"Correct regions by the number of directions kept: {pairs}.")
