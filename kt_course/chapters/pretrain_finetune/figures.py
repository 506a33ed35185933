"""The pictures of chapter 5: the learning curve, answers by group, recall and confidence."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from kt_core.evaluation import Score
from kt_course.figures.panels import picture, picture_row
from kt_course.figures.plots import whiskers
from kt_course.figures.style import BLUE, GREEN, PURPLE, SKY, VERMILION, array, visible

LEVEL = "#777777"  # lines to compare with


Points = Sequence[tuple[float, float]]


def learning(
    losses: Points,
    stages: Mapping[str, Mapping[str, Points]],
    levels: Mapping[str, float],
    london: Score,
    *,
    unit: str,
    title: str,
    alt: str,
) -> None:
    """Draw the loss of pretraining, and beside it the correct answers in each stage.

    Args:
        losses: (x, nats per character) points; x counts steps or characters.
        stages: By the stage's name, the (x, fraction of correct answers) points of each form of
            question.
        levels: Losses to compare with, by name.
        london: The score of the constant answer.
        unit: What x counts.
        title, alt: Of the whole figure.
    """
    widths = [4.2, 4.2, *[2.2] * (len(stages) - 1)]
    with picture_row(len(widths), 3.6, alt, title, width_ratios=widths) as axes:
        draw_loss(axes[0], losses, levels)
        axes[0].set(title="Loss in pretraining", xlabel=unit)
        for ax, (name, curves) in zip(axes[1:], stages.items(), strict=True):
            draw_accuracies(ax, curves, london)
            ax.set(title=name, xlabel=unit if ax is axes[1] else unit.split(" of ")[0])
        axes[1].set_ylabel("correct answers (%)")
        for ax in axes[2:]:
            ax.set_yticklabels([])
        if any(len(curves) > 1 for curves in stages.values()):
            axes[1].legend(loc="upper left")


def draw_loss(ax: Axes, losses: Points, levels: Mapping[str, float]) -> None:
    """Draw a loss curve and its levels; the first steps, far above the levels, are cut off."""
    ax.plot(*zip(*losses, strict=True), color=BLUE)
    last = losses[-1][0]
    for name, level in levels.items():
        ax.axhline(level, color=LEVEL, lw=1, ls="--")
        label = ax.text(last, level, f"{name}: {level:.2f}", ha="right", va="bottom", fontsize=9)
        label.set_bbox(dict(facecolor="white", edgecolor="none", alpha=0.8, pad=1))  # on the curve
    top = max(2.6 * max(levels.values()), 1.2 * losses[-1][1])
    ax.set(ylabel="loss (nats per character)", ylim=(0, top))
    ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5), useMathText=True)


def draw_accuracies(ax: Axes, curves: Mapping[str, Points], london: Score) -> None:
    """Draw shares of correct answers over a stage, with London's share and its interval."""
    colours = (BLUE, GREEN) if len(curves) > 1 else (GREEN,)
    for (name, points), colour in zip(curves.items(), colours, strict=True):
        x, shares = zip(*points, strict=True)
        ax.plot(x, [100 * s for s in shares], color=colour, marker="o", ms=3.5, label=name)
    ax.axhspan(100 * london.low, 100 * london.high, color=VERMILION, alpha=0.15, lw=0)
    ax.axhline(100 * london.accuracy, color=VERMILION, ls="--", lw=1.4, label="always London")
    ax.set_ylim(0, 104)
    ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5), useMathText=True)


def answers_by_group(
    panels: Mapping[str, Mapping[str, Score]], xlabels: Sequence[str], alt: str
) -> None:
    """Draw accuracies with 95 % intervals, one panel per way to group the people."""
    sizes = [len(groups) + 1 for groups in panels.values()]
    with picture_row(len(panels), 3.4, alt, width_ratios=sizes) as axes:
        for ax, (title, groups), xlabel in zip(axes, panels.items(), xlabels, strict=True):
            labels = [f"{name}\n(n = {score.total})" for name, score in groups.items()]
            scores, at = list(groups.values()), range(len(groups))
            heights = [100 * score.accuracy for score in scores]
            ax.bar(at, heights, 0.75, color=SKY)
            ax.errorbar(at, heights, yerr=whiskers(scores), fmt="none", color="black", capsize=3)
            ax.set_xticks(at, labels)
            ax.set(title=title, xlabel=xlabel, ylabel="accuracy (%)", ylim=(0, 104))


def recall(weights: Tensor, text: str, labels: Sequence[str], title: str, alt: str) -> None:
    """Draw some rows of one head's weights over the text, (rows, T), on a linear scale."""
    values = array(weights)
    with picture(0.34 * len(values) + 1.7, alt) as ax:
        image = ax.imshow(values, cmap="Blues", vmin=0, vmax=values.max(), aspect="auto")
        label_characters(ax, text)
        ax.set_yticks(range(len(labels)), labels)
        ax.tick_params(length=0)
        ax.set(title=title, xlabel="character attended to")
        ax.figure.colorbar(image, ax=ax, label="weight")


def bars_on_text(values: Sequence[float], text: str, title: str, ylabel: str, alt: str) -> None:
    """Draw one bar per character of a text."""
    with picture(2.4, alt) as ax:
        ax.bar(range(len(text)), values, color=SKY)
        label_characters(ax, text)
        ax.set(title=title, ylabel=ylabel, xlim=(-0.7, len(text) - 0.3))


def confidence(groups: Mapping[str, Tensor], title: str, alt: str) -> None:
    """Draw how probabilities of answers are distributed, one panel per group of people."""
    with picture_row(len(groups), 3.0, alt, title, sharey=True) as axes:
        colours = (GREEN, VERMILION, PURPLE, BLUE)
        for ax, (name, values), colour in zip(axes, groups.items(), colours, strict=False):
            draw_shares(ax, array(values), colour)
            ax.set_title(f"{name} (n = {len(values)})")
        axes[0].set_ylabel("% of the answers")


def label_characters(ax: Axes, text: str) -> None:
    """Put one character under each position of the x axis, all on one line."""
    ax.set_xticks(range(len(text)), visible(text), va="baseline")
    ax.tick_params(axis="x", length=0, pad=13)


def draw_shares(ax: Axes, values: np.ndarray, colour: str) -> None:
    """Draw a histogram of probabilities in ten bins; heights are per cent of the values."""
    weights = np.full(len(values), 100 / max(1, len(values)))
    ax.hist(values, bins=np.linspace(0, 1, 11), weights=weights, color=colour)
    ax.set(xlabel="probability of the answer", xlim=(0, 1))


def smooth(values: Sequence[float], width: int = 10) -> list[float]:
    """Return the mean of the last `width` values, for each value."""
    return [
        sum(values[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(values))
    ]
