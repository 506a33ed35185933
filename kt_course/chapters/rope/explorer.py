"""RoPE explorer: vectors that turn with their position, and the score over the distance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from kt_core._typing import Float, Tensor
from kt_core.attention import rotary_frequencies, rotary_table, rotate, scaled_dot_product_score
from kt_course.explorers.panels import Chart, chart
from kt_course.explorers.shell import Choice, Slider, View, explorer, page
from kt_course.figures.style import BLACK, BLUE, GREY, ORANGE, VERMILION

BASES = (10_000, 10, 100, 1_000, 100_000, 1_000_000)
DIMENSIONS = (32, 2, 4, 8, 16, 64, 128)
FARTHEST = 127


@lru_cache(maxsize=1)
def query_and_key() -> Float[Tensor, "2 128"]:
    """A random query and a key that resembles it, always the same; fewer channels are the first of them."""
    draws = torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    return torch.stack([draws[0], draws[0] + 0.5 * draws[1]])


@lru_cache(maxsize=64)
def scores_by_distance(d: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """(128,) scores of the query and the key at distances 0 ... 127, and the mean over all queries that equal their key."""
    query, key = query_and_key()[:, :d]
    turned = rotate(
        query.expand(FARTHEST + 1, -1),
        *rotary_table(torch.arange(FARTHEST + 1), d, base),
        "interleaved",
    )
    mean = (
        torch.outer(torch.arange(FARTHEST + 1.0), rotary_frequencies(d, base)).cos().sum(-1)
        * 2
        / math.sqrt(d)
    )
    return scaled_dot_product_score(turned, key[None])[:, 0].numpy(), mean.numpy()


@lru_cache(maxsize=64)
def score_chart(d: int, base: float) -> Chart:
    """The scores of `scores_by_distance` as curves."""

    def curves(ax: Axes) -> None:
        this, mean = scores_by_distance(d, base)
        ax.axhline(0, color=GREY, lw=1)
        ax.plot(mean, color=BLACK, lw=1.1, ls=":", label="query = key, on average")
        ax.plot(this, color=BLUE, label="this query and key")
        top = max(this.max(), mean.max())
        ax.set(xlabel="distance t − s", ylabel="score", xlim=(-3, FARTHEST + 3))
        ax.set_ylim(min(this.min(), mean.min()) - 0.08 * top, 1.5 * top)
        ax.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.94))

    return chart(4.0, 3.75, curves, "Score over distance")


def explore_rope() -> Any:
    """Move a query and a key through the text, change the base and the channels of a head, and read the score.

    Left three pairs of channels as hands of a clock, the fastest, one of your choice and the slowest: the query's hand at
    position t, the key's at s. Right the score over the distance t - s. Moving both by the same amount turns all hands
    and leaves the score where it is.
    """

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        d, base, s, distance = (
            state["channels"],
            float(state["base"]),
            state["key"],
            state["distance"],
        )
        t, half = s + distance, d // 2
        pairs = sorted({0, min(state["pair"], half - 1), half - 1})
        vectors = query_and_key()[:, None, :d]
        turned = [
            rotate(vector, *rotary_table(torch.tensor([at]), d, base), "interleaved")[0]
            for vector, at in zip(vectors, (t, s), strict=True)
        ]
        score = float(turned[0] @ turned[1]) / math.sqrt(d)
        figure, ax = page(9, 4.05)
        theta, around = rotary_frequencies(d, base).tolist(), np.linspace(0, 2 * np.pi, 120)
        for i, pair in enumerate(pairs):
            x, y, radius = 0.95 + 1.6 * i, 1.75, 0.66
            ax.plot(x + radius * np.cos(around), y - radius * np.sin(around), color=GREY, lw=1)
            for (vector, at), start, colour, name in zip(
                zip(turned, (t, s), strict=True),
                vectors[:, 0],
                (BLUE, ORANGE),
                ("query", "key"),
                strict=True,
            ):
                a, b = vector.view(-1, 2)[pair].tolist()
                size = math.hypot(a, b)
                began = math.atan2(*reversed(start.view(-1, 2)[pair].tolist()))
                way = np.linspace(began, began + at * theta[pair], min(2 + at * 8, 600))
                r = np.linspace(0.1, 0.6 if name == "query" else 0.45, len(way)) * radius
                ax.plot(x + r * np.cos(way), y - r * np.sin(way), color=colour, lw=0.9, alpha=0.7)
                ax.plot(
                    [x, x + radius * a / size],
                    [y, y - radius * b / size],
                    color=colour,
                    lw=2.4,
                    ls="-" if name == "query" else (0, (3, 1.2)),
                )
            wave = 2 * math.pi / theta[pair]
            ax.text(x, 0.82, f"pair {pair}", ha="center", fontsize=10)
            ax.text(x, 2.66, f"θ = {theta[pair]:.2g} rad", ha="center", fontsize=9)
            ax.text(
                x, 2.88, f"once round: {wave:,.{wave < 100:d}f} places", ha="center", fontsize=8
            )
        ax.text(0.3, 0.35, f"Hands of the query at t = {t} and of the key at s = {s}", fontsize=11)
        for i, (name, colour, style) in enumerate(
            (("query (turned by t θ)", BLUE, "-"), ("key (turned by s θ)", ORANGE, (0, (3, 1.2))))
        ):
            ax.plot([0.4 + 2.3 * i, 0.75 + 2.3 * i], [3.4, 3.4], color=colour, lw=2.4, ls=style)
            ax.text(0.85 + 2.3 * i, 3.4, name, va="center_baseline", fontsize=9)
        ax.text(
            0.4,
            3.75,
            "The thin spirals: how far each hand has turned since position 0.",
            fontsize=9,
            color="#555555",
        )

        score_chart(d, base).put(ax, 5.0, 0.2, [(distance, score)])
        ax.plot(6.95, 0.66, "o", color=VERMILION, ms=8)
        ax.text(7.15, 0.66, f"t − s = {distance}: {score:.2f}", va="center_baseline", fontsize=9)
        slow = sum(2 * math.pi / w > 4 * (FARTHEST + 1) for w in theta)
        note = (
            f"Query at {t}, key at {s}, distance {distance}: score {score:.3f}, the same at every place. "
            f"{slow} of {half} pairs turn less than a quarter round in {FARTHEST + 1} places."
        )
        return View(
            figure, note, limits=dict(pair=half - 1), values=dict(pair=min(state["pair"], half - 1))
        )

    controls = dict(
        key=Slider("key's place s (moves both)", 5, FARTHEST),
        distance=Slider("distance t − s", 8, FARTHEST),
        pair=Slider("middle pair", 3, DIMENSIONS[0] // 2 - 1),
        base=Choice("base", BASES),
        channels=Choice("channels of a head", DIMENSIONS),
    )
    return explorer("RoPE explorer", draw, controls)
