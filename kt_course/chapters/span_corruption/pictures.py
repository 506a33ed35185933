"""Pictures of chapter 3: what is measured against what is specified, and what is asked for."""

from collections.abc import Mapping

import numpy as np

from kt_course.chapters.span_corruption.birthplaces import (
    ASKED,
    DIVIDED,
    HIDDEN_NAME,
    INVISIBLE,
    READ,
)
from kt_course.figures.panels import picture, picture_row
from kt_course.figures.style import BLUE, GREY, ORANGE, PURPLE, SKY, VERMILION

COLOURS = {ASKED: BLUE, HIDDEN_NAME: PURPLE, READ: SKY, DIVIDED: ORANGE, INVISIBLE: GREY}


def specification(
    measured: Mapping[str, np.ndarray], grid: np.ndarray, expected: np.ndarray, alt: str
) -> None:
    """Draw measured lengths, shares and positions (blue) with what is specified (red)."""
    with picture_row(3, 3.2, alt) as axes:
        counts = np.array([(measured["length"] == n).mean() for n in grid])
        axes[0].bar(grid, 100 * counts, width=1.0, color=SKY)
        axes[0].plot(grid, 100 * expected, color=VERMILION, lw=1.5)
        axes[0].set(title="Length after truncation", xlabel="characters", ylabel="documents (%)")
        axes[1].hist(measured["share"], bins=np.linspace(0.08, 0.42, 35), density=True, color=SKY)
        axes[1].plot([1 / 8, 1 / 8, 3 / 8, 3 / 8], [0, 4, 4, 0], color=VERMILION, lw=1.5)
        axes[1].set(title="Masked share", xlabel="share of the characters", ylabel="density")
        axes[2].hist(measured["position"], bins=20, range=(0, 1), density=True, color=SKY)
        axes[2].plot([0, 1], [1, 1], color=VERMILION, lw=1.5)
        axes[2].set(title="Position of the span", xlabel="0: start, 1: end", ylabel="density")
        axes[0].figure.suptitle("Your cuts (blue) follow the specification (red)")


def visible_birthplaces(m: np.ndarray, curves: Mapping[str, np.ndarray], alt: str) -> None:
    """Draw the percentage of birthplaces that is visible, by the longest text allowed."""
    with picture(3.4, alt) as ax:
        for (name, values), style in zip(curves.items(), ("-", "--"), strict=True):
            ax.plot(m, values, style, label=name)
        ax.axvline(112, color="#888888", lw=1)
        ax.text(111, 2, "the assignment: 112", ha="right", color="#555555")
        ax.set(xlabel="m: greatest number of characters", ylabel="birthplaces visible (%)")
        ax.set(title="Random truncation hides half of the birthplaces", ylim=(0, 102))
        ax.legend(loc="upper left")


def birthplace_fates(shares: Mapping[str, Mapping[str, float]], alt: str) -> None:
    """Draw what happens to the birthplaces, one bar per way of making training examples."""
    with picture(0.9 + 0.6 * len(shares), alt) as ax:
        for row, by_fate in enumerate(shares.values()):
            left = 0.0
            for kind, colour in COLOURS.items():
                value = 100 * by_fate[kind]
                ax.barh(row, value, left=left, color=colour, label=kind if row == 0 else None)
                if value >= 4:
                    ink = "white" if colour == BLUE else "black"
                    middle = dict(ha="center", va="center", color=ink)
                    ax.text(left + value / 2, row, f"{value:.0f}", **middle)
                left += value
        ax.set_yticks(range(len(shares)), list(shares))
        ax.invert_yaxis()
        ax.set(title="What happens to a birthplace", xlabel="% of the documents", xlim=(0, 100))
        ax.figure.legend(loc="outside lower center", ncols=3)
