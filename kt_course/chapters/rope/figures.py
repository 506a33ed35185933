"""Pictures of chapter 7: a position table, rotated vectors, scores by position and by distance."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from kt_course.figures.panels import picture_row
from kt_course.figures.style import BLUE, GREY, array


def draw_position_table(
    similarity: Any, lengths: Any, n_trained: int, title: str, alt: str
) -> None:
    """Draw the cosines of the rows of a position table, (T, T), and their lengths, (T,)."""
    with picture_row(2, 3.7, alt, title) as (left, right):
        image = left.imshow(array(similarity), cmap="RdBu_r", vmin=-1, vmax=1)
        left.figure.colorbar(image, ax=left, shrink=0.85, label="cosine of two rows")
        left.set(title="How similar are two rows?", xlabel="position", ylabel="position")
        right.plot(array(lengths), color=BLUE)
        label = "no training text reached it"
        right.axvspan(n_trained, len(array(lengths)), color=GREY, label=label)
        right.set(title="How long is each row?", xlabel="position", ylabel="length of the row")
        right.legend(loc="upper right")


def draw_rotations(vectors: Mapping[str, Any], title: str, alt: str) -> None:
    """Draw a pair of channels at several positions as arrows, (T, 2); one panel per pair."""
    with picture_row(len(vectors), 3.5, alt, title) as axes:
        circle = np.linspace(0, 2 * math.pi, 100)
        for ax, (name, points) in zip(axes, vectors.items(), strict=True):
            ax.plot(np.cos(circle), np.sin(circle), color="#d0d0d0", lw=1)
            points = array(points)
            is_spread = np.linalg.norm(points[1] - points[0]) > 0.1
            for t, (a, b) in enumerate(points):
                colour = plt.cm.viridis(t / len(points))
                arrow = dict(arrowstyle="->", color=colour, lw=1.8)
                ax.annotate("", (a, b), (0, 0), arrowprops=arrow)
                if t == 0 or is_spread:
                    ax.text(1.17 * a, 1.17 * b, str(t), ha="center", va="center", fontsize=9)
            ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal", title=name)
            ax.set(xlabel="first channel of the pair", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        axes[0].set_ylabel("second channel")


def draw_score_maps(maps: Mapping[str, Any], title: str, alt: str) -> None:
    """Draw scores by the positions of query and key, (T, T), on one linear scale for all panels."""
    with picture_row(len(maps), 4.0 if len(maps) < 4 else 2.6, alt, title) as axes:
        top = max(float(np.abs(array(scores)).max()) for scores in maps.values())
        for ax, (name, scores) in zip(axes, maps.items(), strict=True):
            image = ax.imshow(array(scores), cmap="RdBu_r", vmin=-top, vmax=top)
            ax.set_title(name, fontsize=11 if len(maps) < 4 else 9)
            ax.set_xlabel("position of the key")
        axes[0].set_ylabel("position of the query")
        axes[0].figure.colorbar(image, ax=axes, shrink=0.8, label="score")


def draw_scores_by_distance(
    curves: Mapping[str, tuple[Any, Any]], distances: Sequence[int], title: str, alt: str
) -> None:
    """Draw the mean score (blue) and single ones (grey) by distance; one panel per base."""
    with picture_row(len(curves), 2.9, alt, title, sharey=True) as axes:
        for ax, (name, (mean, examples)) in zip(axes, curves.items(), strict=True):
            ax.plot(distances, array(examples).T, color="#c8c8c8", lw=0.7)
            ax.plot(distances, array(mean), color=BLUE)
            ax.axhline(0, color="black", lw=0.6)
            ax.set(title=name, xlabel="distance t − s")
        axes[0].set_ylabel("score / score at distance 0")
