"""The pictures of chapter 14. Each function draws one and shows it with its alt text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kt_course.chapters.what_does_it_know.capacity import bits_per_parameter, recall_score
from kt_course.chapters.what_does_it_know.confidence import Answers, Bin, risk_coverage
from kt_course.figures.panels import picture, picture_row
from kt_course.figures.plots import reaches, whiskers
from kt_course.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    array,
    write_numbers,
)
from kt_course.statistics import SeedSummary

LINES = ["-", "--", "-.", ":"]


def head_map(maps: Mapping[str, Any], unit: str, title: str, alt: str, digits: int = 2) -> None:
    """Draw one number per head, (n_layer, n_head) per panel; red is above 0 and blue below.

    Each panel has a colour scale of its own, labelled with `unit`, or with its name among several.
    """
    with picture_row(len(maps), 3.4, alt, title) as axes:
        for ax, (name, heads) in zip(axes, maps.items(), strict=True):
            values = array(heads)
            most = np.abs(values).max()
            image = ax.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
            write_numbers(ax, values, digits, most)
            ax.set(title=name, xlabel="head", ylabel="layer")
            ax.set_xticks(range(values.shape[1]))
            ax.set_yticks(range(values.shape[0]))
            ax.figure.colorbar(image, ax=ax, label=unit if len(maps) == 1 else name)


def patch_map(grid: Any, columns: Sequence[str], title: str, alt: str) -> None:
    """Draw the share of the answer that each (state, position) brings back, in per cent."""
    values = 100 * array(grid)
    with picture(3.4, alt) as ax:
        image = ax.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        write_numbers(ax, values, 0, 100)
        ax.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
        rows = [f"before block {i}" for i in range(len(values) - 1)]
        ax.set_yticks(range(len(values)), [*rows, "after the last"])
        ax.figure.colorbar(image, ax=ax, label="logit difference restored (%)")
        ax.set(title=title, xlabel="position whose state comes from the clean run")


def lens_curve(by_layer: Any, title: str, alt: str) -> None:
    """Draw each person's probability of the first letter by state, (n, n_layer + 1)."""
    values = 100 * array(by_layer)
    with picture(3.0, alt) as ax:
        ax.plot(values.T, color=GREY, lw=0.8)
        means = [SeedSummary(tuple(column)) for column in values.T]
        at, bars = range(len(means)), reaches([(m.mean, m.low, m.high) for m in means])
        ax.errorbar(at, [m.mean for m in means], bars, color=BLUE, marker="o", capsize=3)
        ax.set_xticks(at, ["embedding", *(f"after block {i}" for i in at[:-1])])
        ax.set(title=title, ylabel="probability of the\nfirst letter at ⁇ (%)", ylim=(-2, 102))


def confidence_histograms(groups: Mapping[str, Answers], title: str, alt: str) -> None:
    """Draw how confident the answers of each group are, correct and wrong ones stacked."""
    with picture_row(len(groups), 3.0, alt, title, sharey=True) as axes:
        for ax, (name, group) in zip(axes, groups.items(), strict=True):
            parts = [array(group.confidence[rows]) for rows in (group.correct, ~group.correct)]
            weights = [np.full(len(part), 100 / len(group.answers)) for part in parts]
            colours = dict(color=[GREEN, VERMILION], label=["correct", "wrong"])
            ax.hist(parts, np.linspace(0, 1, 11), weights=weights, stacked=True, **colours)
            ax.set(title=f"{name}\nn = {len(group.answers)}", xlabel="confidence", xlim=(0, 1))
        axes[0].set_ylabel("% of the answers")
        axes[0].legend(loc="upper left")


def reliability_diagrams(panels: Mapping[str, Sequence[Bin]], title: str, alt: str) -> None:
    """Draw accuracy against confidence; the area of a dot grows with the answers in its bin."""
    with picture_row(len(panels), 4.1, alt, title, sharey=True) as axes:
        for ax, (name, bins) in zip(axes, panels.items(), strict=True):
            ax.plot([0, 100], [0, 100], color=GREY, lw=1.5, zorder=0)
            x = [100 * b.confidence for b in bins]
            y = [100 * b.score.accuracy for b in bins]
            bars = whiskers([b.score for b in bins])
            ax.errorbar(x, y, bars, color=BLACK, lw=1, capsize=2, ls="none")
            ax.scatter(x, y, [20 + 2 * b.score.total for b in bins], SKY, edgecolor=BLACK, zorder=3)
            ax.set(title=name, xlim=(-3, 103), ylim=(-3, 106))
            ax.set_xlabel("mean confidence of the bin (%)")
        axes[0].set_ylabel("accuracy (%), 95 % interval")


def risk_coverage_curve(
    said: Answers, choices: Mapping[str, tuple[float, float]], promise: float, title: str, alt: str
) -> None:
    """Draw accuracy against coverage, and (coverage, accuracy) of the choices."""
    _, coverage, risk = risk_coverage(said.confidence, said.correct)
    with picture(3.8, alt) as ax:
        ax.plot(100 * coverage, 100 * (1 - risk), color=BLUE, label="all thresholds")
        share = np.linspace(0.01, 1, 200)
        ideal = np.minimum(1, float(said.correct.double().mean()) / share)
        ax.plot(100 * share, 100 * ideal, color=BLACK, lw=1, label="correct answers first (ideal)")
        ax.axhline(100 * promise, color=GREY, lw=1.2, label=f"the promise, {100 * promise:.0f} %")
        for (name, (x, y)), marker in zip(choices.items(), "D*", strict=False):
            ax.scatter(100 * x, 100 * y, 110, ORANGE, marker, edgecolor=BLACK, zorder=4, label=name)
        ax.set(title=title, xlim=(0, 102), ylim=(None, 102))
        ax.set(xlabel="coverage: questions that get an answer (%)", ylabel="accuracy of these (%)")
        ax.legend(loc="lower left", fontsize=9)


def interval_bars(
    rows: Mapping[str, tuple[float, float, float]],
    levels: Mapping[str, float],
    label: str,
    title: str,
    alt: str,
) -> None:
    """Draw one horizontal bar per row, (value, low, high), and vertical lines to compare with."""
    with picture(0.34 * len(rows) + 1.5, alt) as ax:
        values, at = [value for value, _, _ in rows.values()], np.arange(len(rows))
        ax.barh(at, values, color=SKY)
        bars = reaches(list(rows.values()))
        ax.errorbar(values, at, xerr=bars, color=BLACK, lw=1.2, capsize=3, ls="none")
        for (name, level), style in zip(levels.items(), LINES, strict=False):
            ax.axvline(level, color=VERMILION, ls=style, label=f"{name}: {level:.1f}")
        ax.set_yticks(at, list(rows))
        ax.invert_yaxis()
        ax.set(title=title, xlabel=label)
        if levels:
            ax.legend(loc="lower right", fontsize=9)


def capacity_curves(rows: Sequence[dict], published: float, title: str, alt: str) -> None:
    """Draw recall against size and against exposures, and the bits per parameter.

    Points are means over the seeds; bars go from the lowest to the highest seed.
    """
    with picture_row(3, 3.6, alt, title) as axes:
        most_exposed = max(row["exposures"] for row in rows)
        for people, style in zip(sorted({r["people"] for r in rows}), LINES, strict=False):
            picked = [r for r in rows if r["people"] == people and r["exposures"] == most_exposed]
            picked = [r for r in picked if r["lines"] > 1]
            _seed_range(axes[0], picked, "n_embd", _recall, style, f"{people} people")
            _seed_range(axes[2], picked, "n_embd", bits_per_parameter, style, f"{people} people")
        widest = max(r["n_embd"] for r in rows)
        for lines, style in zip(sorted({r["lines"] for r in rows}), LINES, strict=False):
            picked = [r for r in rows if r["lines"] == lines and r["n_embd"] == widest]
            picked = [r for r in picked if r["people"] == 200]
            label = f"{lines:g} wording{'s' if lines > 1 else ''}"
            _seed_range(axes[1], picked, "exposures", _recall, style, label)
        axes[0].set(xlabel="channels", ylabel="held-out people recalled (%)", ylim=(-2, 104))
        axes[1].set(xlabel="exposures per fact (200 people)", ylim=(-2, 104), xscale="log")
        axes[2].axhline(published, color=VERMILION, ls="--", label=f"published: {published:g}")
        axes[2].set(xlabel="channels", ylabel="bits per parameter", yscale="log")
        for ax, key in zip(axes, ("n_embd", "exposures", "n_embd"), strict=True):
            ax.set_xticks(xs := sorted({row[key] for row in rows}), xs)
            ax.minorticks_off()
            ax.legend(fontsize=8)


def _recall(row: dict) -> float:
    """The share of held-out people that a run recalls, in per cent."""
    return 100 * recall_score(row).accuracy


def _seed_range(
    ax: Axes, rows: Sequence[dict], key: str, value: Callable, style: str, label: str | None = None
) -> None:
    """Draw `value` of the rows against their `key`: mean, lowest and highest over the seeds."""
    xs = sorted({row[key] for row in rows})
    seeds = [[value(row) for row in rows if row[key] == x] for x in xs]
    rows = [(sum(each) / len(each), min(each), max(each)) for each in seeds]
    means = [mean for mean, _, _ in rows]
    ax.errorbar(xs, means, reaches(rows), ls=style, marker="o", capsize=2, label=label)


def origin_table(
    table: Any, origins: Sequence[str], regions: Sequence[str], title: str, alt: str
) -> None:
    """Draw the share of each region (column) for names of each origin (row), in per cent."""
    values = 100 * array(table)
    with picture(5.2, alt) as ax:
        image = ax.imshow(values, cmap="Blues", vmin=0, vmax=80, aspect="auto")
        write_numbers(ax, values, 0, 80)
        ax.set_xticks(range(len(regions)), regions, rotation=40, ha="right")
        ax.set_yticks(range(len(origins)), [f"{origin} names" for origin in origins])
        ax.figure.colorbar(image, ax=ax, label="share of the probability (%)")
        ax.set_title(title)
