"""RoPE explorer: vectors that rotate with their position, and the score over the distance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from kt_core.attention import scaled_dot_product_score
from kt_core.positions import rotary_frequencies, rotary_table, rotate
from kt_course.explorers.panels import Chart, chart
from kt_course.explorers.shell import Choice, Slider, View, explorer, page
from kt_course.figures.style import BLACK, BLUE, GREY, ORANGE, VERMILION

BASES = (10_000, 10, 100, 1_000, 100_000, 1_000_000)
DIMENSIONS = (32, 2, 4, 8, 16, 64, 128)
FARTHEST = 127
HANDS = (("query", "t", BLUE, "-", 0.6), ("key", "s", ORANGE, (0, (3, 1.2)), 0.45))


@lru_cache(maxsize=1)
def query_and_key() -> torch.Tensor:
    """Return a random query and a similar key, always the same, (2, 128)."""
    draws = torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    return torch.stack([draws[0], draws[0] + 0.5 * draws[1]])


@lru_cache(maxsize=64)
def scores_by_distance(d: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute scores at the distances 0 ... 127, (128,) each.

    Returns:
        The scores of the query and the key, and the mean over all queries that equal their key.
    """
    query, key = query_and_key()[:, :d]
    distances = torch.arange(FARTHEST + 1)
    queries = query.expand(FARTHEST + 1, -1)
    queries = rotate(queries, *rotary_table(distances, d, base), "interleaved")
    cosines = torch.outer(distances.float(), rotary_frequencies(d, base)).cos()
    mean = cosines.sum(-1) * 2 / math.sqrt(d)
    return scaled_dot_product_score(queries, key[None])[:, 0].numpy(), mean.numpy()


@lru_cache(maxsize=64)
def score_chart(d: int, base: float) -> Chart:
    """Draw the scores of `scores_by_distance` as curves."""

    def curves(ax: Axes) -> None:
        scores, mean = scores_by_distance(d, base)
        ax.axhline(0, color=GREY, lw=1)
        ax.plot(mean, color=BLACK, lw=1.1, ls=":", label="query = key, on average")
        ax.plot(scores, color=BLUE, label="this query and key")
        top = max(scores.max(), mean.max())
        ax.set(xlabel="distance t − s", ylabel="score", xlim=(-3, FARTHEST + 3))
        ax.set_ylim(min(scores.min(), mean.min()) - 0.08 * top, 1.5 * top)
        ax.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.94))

    return chart(4.0, 3.75, curves, "Score over distance")


def explore_rope() -> Any:
    """Move a query and a key through the text, change the base and the head size, read the score.

    On the left, three pairs of channels are drawn as hands of a clock: the fastest, one of your
    choice and the slowest. The query's hand is at position t, the key's at s. On the right is the
    score over the distance t - s. Moving both by the same amount rotates all hands and leaves the
    score unchanged.
    """

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        d, base, s = state["channels"], float(state["base"]), state["key"]
        distance, half = state["distance"], d // 2
        t, middle = s + distance, min(state["pair"], half - 1)
        theta, vectors = rotary_frequencies(d, base).tolist(), query_and_key()[:, :d]
        rotated = rotate(vectors, *rotary_table(torch.tensor([t, s]), d, base), "interleaved")
        score = float(rotated[0] @ rotated[1]) / math.sqrt(d)
        figure, ax = page(9, 4.05)
        for i, pair in enumerate(sorted({0, middle, half - 1})):
            both = torch.stack([vectors, rotated]).unflatten(-1, (half, 2))[:, :, pair]
            draw_clock(ax, 0.95 + 1.6 * i, pair, theta[pair], both, (t, s))
        draw_key(ax, t, s)
        score_chart(d, base).put(ax, 5.0, 0.2, [(distance, score)])
        ax.plot(6.95, 0.66, "o", color=VERMILION, ms=8)
        ax.text(7.15, 0.66, f"t − s = {distance}: {score:.2f}", va="center_baseline", fontsize=9)
        n_slow = sum(2 * math.pi / w > 4 * (FARTHEST + 1) for w in theta)
        note = (
            f"Query at {t}, key at {s}, distance {distance}: score {score:.3f}, the same at every "
            f"position. {n_slow} of {half} pairs turn less than a quarter round in "
            f"{FARTHEST + 1} positions."
        )
        return View(figure, note, limits=dict(pair=half - 1), values=dict(pair=middle))

    controls = dict(
        key=Slider("key's position s (moves both)", 5, FARTHEST),
        distance=Slider("distance t − s", 8, FARTHEST),
        pair=Slider("middle pair", 3, DIMENSIONS[0] // 2 - 1),
        base=Choice("base", BASES),
        channels=Choice("channels per head", DIMENSIONS),
    )
    return explorer("RoPE explorer", draw, controls)


def draw_clock(
    ax: Axes, x: float, pair: int, theta: float, hands: torch.Tensor, positions: Sequence[int]
) -> None:
    """Draw one pair of channels as a clock with two hands, query and key.

    Args:
        ax, x: The page, and where the clock's middle is on it, in inches.
        pair, theta: The pair and its frequency.
        hands: Query and key before and after the rotation, (2, 2, 2).
        positions: Of the query and of the key.
    """
    y, radius, circle = 1.75, 0.66, np.linspace(0, 2 * np.pi, 120)
    ax.plot(x + radius * np.cos(circle), y - radius * np.sin(circle), color=GREY, lw=1)
    for i, (_, _, colour, style, length) in enumerate(HANDS):
        (start_a, start_b), (a, b) = hands[0, i].tolist(), hands[1, i].tolist()
        start, at = math.atan2(start_b, start_a), positions[i]
        angles = np.linspace(start, start + at * theta, min(2 + at * 8, 600))
        r = np.linspace(0.1, length, len(angles)) * radius
        ax.plot(x + r * np.cos(angles), y - r * np.sin(angles), color=colour, lw=0.9, alpha=0.7)
        size = math.hypot(a, b) / radius
        ax.plot([x, x + a / size], [y, y - b / size], color=colour, lw=2.4, ls=style)
    wave = 2 * math.pi / theta
    ax.text(x, 0.82, f"pair {pair}", ha="center", fontsize=10)
    ax.text(x, 2.66, f"θ = {theta:.2g} rad", ha="center", fontsize=9)
    period = f"one turn: {wave:,.{wave < 100:d}f} positions"
    ax.text(x, 2.88, period, ha="center", fontsize=8)


def draw_key(ax: Axes, t: int, s: int) -> None:
    """Draw the title and the legend of the clocks."""
    ax.text(0.3, 0.35, f"Hands of the query at t = {t} and of the key at s = {s}", fontsize=11)
    for i, (name, position, colour, style, _) in enumerate(HANDS):
        ax.plot([0.4 + 2.3 * i, 0.75 + 2.3 * i], [3.4, 3.4], color=colour, lw=2.4, ls=style)
        label = f"{name} (rotated by {position} θ)"
        ax.text(0.85 + 2.3 * i, 3.4, label, va="center_baseline", fontsize=9)
    spirals = "The thin spirals show how far each hand has turned since position 0."
    ax.text(0.4, 3.75, spirals, fontsize=9, color="#555555")
