"""Figures of the notebooks and reports, in one style, at most 9 inches wide."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kt_core.evaluation import Score
from kt_course._typing import Tensor
from kt_course.figures import style
from kt_course.figures.style import array, in_style
from kt_course.figures.text_plots import corruption, loss_placement

__all__ = ["accuracy_bars", "corruption", "curves", "loss_placement", "reaches", "rows", "whiskers"]


@in_style
def rows(n: int = 1, m: int = 1, **kw: Any) -> tuple[Figure, Any]:
    """plt.subplots(n, m, **kw) in this style: (figure, axes), 9 inches wide."""
    return plt.subplots(n, m, **{"figsize": (style.WIDTH, max(2.6 * n, 3.2))} | kw)


def whiskers(scores: Sequence[Score]) -> np.ndarray:
    """Return how far the 95 % intervals reach below and above the accuracies, in points."""
    return 100 * reaches([(s.accuracy, s.low, s.high) for s in scores])


def reaches(rows: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """Return how far (value, low, high) reach below and above the value, (2, n), at least 0."""
    values, low, high = np.array(rows).T
    return np.clip([values - low, high - values], 0, None)


@in_style
def accuracy_bars(
    rows: Sequence[tuple[str, Score | None]],
    london: Score | None = None,
    pass_marks: Mapping[str, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw bars with 95 % Wilson whiskers, best first; `pass_marks` (name -> fraction) dotted."""
    scored = [(label, score) for label, score in rows if score is not None]
    scored.sort(key=lambda row: -row[1].accuracy)
    if ax is None:
        _, ax = plt.subplots(figsize=(style.WIDTH, 0.42 * len(scored) + 1.4))
    for i, (_, s) in enumerate(scored):
        at = 100 * s.accuracy
        ax.barh(i, at, height=0.62, color=style.SKY)
        ax.errorbar(at, i, xerr=whiskers([s]), color=style.BLACK, capsize=3, lw=1.2)
        ax.text(100 * s.high, i, f"  {at:.1f} %", va="center", fontsize=9)
    most = [5.0, *(100 * s.high for _, s in scored)]
    if london is not None:
        most.append(100 * london.high)
        ax.axvspan(100 * london.low, 100 * london.high, color=style.VERMILION, alpha=0.15, lw=0)
        label = f"always London, {100 * london.accuracy:.1f} %, 95 % interval"
        ax.axvline(100 * london.accuracy, color=style.VERMILION, ls="--", lw=1.4, label=label)
    colours = itertools.cycle((style.GREEN, style.PURPLE, style.ORANGE, style.BLUE))
    for (name, mark), colour in zip((pass_marks or {}).items(), colours, strict=False):
        most.append(100 * mark)
        label = f"pass mark {name}, {100 * mark:.0f} %"
        ax.axvline(100 * mark, color=colour, ls=":", lw=1.6, label=label)
    ax.set_yticks(range(len(scored)), [label for label, _ in scored])
    ax.set(xlim=(0, min(1.14 * max(most), 114)), ylim=(max(len(scored), 1) - 0.4, -0.6))
    ax.set(xlabel="accuracy (%), whiskers: 95 % interval", title=title)
    lines = ax.get_legend_handles_labels()
    if lines[0]:
        ax.figure.legend(*lines, loc="outside lower center", ncols=2)
    return ax.figure


@in_style
def curves(
    xs: Sequence[float] | Tensor | np.ndarray,
    ys: Mapping[str, Any],
    xlabel: str,
    ylabel: str,
    title: str = "",
    *,
    ax: Axes | None = None,
    log_x: bool = False,
    log_y: bool = False,
    marker: str | None = None,
) -> Figure:
    """One named line for each of `ys` over `xs`."""
    if ax is None:
        _, ax = plt.subplots(figsize=(style.WIDTH, 3.6))
    for (name, values), line in zip(ys.items(), ["-", "--", "-.", ":"] * len(ys), strict=False):
        ax.plot(array(xs), array(values), ls=line, marker=marker, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    if any(ys):
        ax.legend()
    return ax.figure
