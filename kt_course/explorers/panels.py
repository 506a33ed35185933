"""Parts of the explorers' pictures: one head, all heads, weights on the text, the scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from PIL import Image

from kt_course._typing import Bool, Float
from kt_course.explorers.canvas import Grid
from kt_course.explorers.reading import Layer, Reading, Side
from kt_course.figures.plots import head_role
from kt_course.figures.style import DPI, GAMMA, VERMILION, weight_colours
from kt_course.figures.text_plots import glyphs, ink

LINE, CELL, HIGH = 64, 0.132, 0.24  # a line of text: characters, their width and height in inches


def frame(
    ax: Axes, x: float, y: float, width: float, height: float, colour: str = VERMILION
) -> None:
    """A frame around what is chosen."""
    ax.add_patch(Rectangle((x, y), width, height, fill=False, ec=colour, lw=1.8, zorder=5))


def picture(ax: Axes, pixels: np.ndarray, x: float, y: float, width: float, height: float) -> None:
    """Coloured cells, (rows, columns, 3 or 4), in a box of the page."""
    ax.imshow(pixels, extent=(x, x + width, y + height, y), aspect="auto", interpolation="nearest")


def _signs_along(ax: Axes, side: Side, x: float, y: float, size: float, upright: bool) -> float:
    """Label an edge of `size` inches with characters: all, or some with their positions.

    Returns how far they reach from the edge, in inches.
    """
    n = len(side.signs)
    cell = size / n
    middles = cell * (np.arange(n) + 0.5)
    if 72 * cell < 5.5:
        for i in range(0, n, 2 ** math.ceil(math.log2(12 / 72 / cell))):
            at = (x, y + middles[i]) if upright else (x + middles[i], y)
            turned = (
                {"ha": "right", "va": "center"}
                if upright
                else {"ha": "center", "va": "top", "rotation": 90}
            )
            ax.text(*at, f"{side.signs[i]} {i}", fontsize=8, **turned)
        return 0.5
    away, zeros = 0.09, np.zeros(n)
    where = (zeros + x - away, y + middles) if upright else (x + middles, zeros + y + away)
    glyphs(ax, *where, side.signs, "black", min(9.0, 75 * cell))
    return 0.2


def head_map(
    ax: Axes, layer: Layer, head: int, query: int, x: float, y: float, size: float
) -> Grid:
    """Draw one head in a square of `size` inches, with the chosen query framed."""
    weights = layer.weights[head]
    picture(ax, weight_colours(weights, layer.allowed), x, y, size, size)
    left = x - 0.08 - _signs_along(ax, layer.queries, x, y, size, upright=True)
    below = y + size + 0.1 + _signs_along(ax, layer.keys, x, y + size, size, upright=False)
    ax.text(left, y + size / 2, "query: who looks", rotation=90, ha="center", va="center")
    ax.text(x + size / 2, below, "key: what is looked at", ha="center", va="center")
    cell = size / len(weights)
    frame(ax, x, y + query * cell, size, cell)
    values = np.where(layer.allowed, weights, np.nan)
    return Grid(
        (x, y, size, size), layer.queries.names, layer.keys.names, values, click=("query", None)
    )


def role(layer: Layer, head: int) -> str:
    """A head in words: "1.4 bits, previous 61%"."""
    return head_role(layer.weights[head].astype(float)).replace("\n", ", ")


def tiles(reading: Reading, wide: int, high: int) -> np.ndarray:
    """Draw all heads as one picture, one row per layer, with 2 pixels between the tiles."""
    n_head = max(len(layer.weights) for layer in reading.layers)
    mosaic = np.full((len(reading.layers) * high, n_head * wide, 3), 255, dtype=np.uint8)
    for row, layer in enumerate(reading.layers):
        for column, weights in enumerate(layer.weights):
            colours = (
                (255 * weight_colours(weights, layer.allowed)[..., :3]).round().astype(np.uint8)
            )
            kind = Image.Resampling.BOX if weights.shape[1] >= wide else Image.Resampling.NEAREST
            tile = Image.fromarray(colours).resize((wide - 2, high - 2), kind)
            y, x = row * high + 1, column * wide + 1
            mosaic[y : y + high - 2, x : x + wide - 2] = np.asarray(tile)
    return mosaic


def gallery(
    ax: Axes,
    reading: Reading,
    layer: int,
    head: int,
    x: float,
    y: float,
    width: float,
    height: float,
) -> Grid:
    """All heads of all layers; the chosen one framed. A click chooses another."""
    rows, columns = len(reading.layers), max(len(each.weights) for each in reading.layers)
    wide, high = int(width * DPI / columns), int(min(width / columns, height / rows) * DPI)
    w, h = wide / DPI, high / DPI
    picture(ax, tiles(reading, wide, high), x, y, columns * w, rows * h)
    for i in range(columns):
        told = f"head {i}" if columns <= 4 else i
        ax.text(x + (i + 0.5) * w, y - 0.03, told, ha="center", va="bottom", fontsize=8)
    for i in range(rows):
        ax.text(x - 0.06, y + (i + 0.5) * h, f"layer {i}", ha="right", va="center", fontsize=8)
    frame(ax, x + head * w, y + layer * h, w, h)
    roles = [
        [role(each, i) if i < len(each.weights) else "" for i in range(columns)]
        for each in reading.layers
    ]
    names = [f"layer {i}" for i in range(rows)], [f"head {i}" for i in range(columns)]
    return Grid((x, y, columns * w, rows * h), *names, roles, click=("layer", "head"))


def on_text(
    ax: Axes,
    signs: Sequence[str],
    weights: Float[np.ndarray, " T"],
    seen: Bool[np.ndarray, " T"],
    chosen: int | None,
    x: float,
    y: float,
) -> None:
    """Draw weights over the text, 64 characters per line, grey where attention is not allowed."""
    characters(ax, signs, weight_colours(weights, seen), x, y)
    if chosen is not None:
        row, column = divmod(chosen, LINE)
        frame(ax, x + CELL * column, y + HIGH * row, CELL, HIGH)


def characters(ax: Axes, signs: Sequence[str], colours: Sequence[Any], x: float, y: float) -> float:
    """Draw characters on coloured ground, 64 per line; return where the lines end, in inches."""
    rgba = np.array([to_rgba(colour) for colour in colours])
    for row in range(0, len(signs), LINE):
        ground = rgba[None, row : row + LINE]
        picture(ax, ground, x, y + HIGH * (row // LINE), CELL * ground.shape[1], HIGH)
    n = np.arange(len(signs))
    glyphs(ax, x + CELL * (n % LINE + 0.5), y + HIGH * (n // LINE + 0.5), signs, ink(rgba), 9.0)
    return y + HIGH * -(-len(signs) // LINE)


def scale(ax: Axes, x: float, y: float, width: float) -> None:
    """The colours of weights, `width` inches wide."""
    steps = np.linspace(0, 1, 200)  # along the bar: weights to the power of GAMMA, as colours go
    picture(
        ax, weight_colours(steps[None] ** (1 / GAMMA), np.ones((1, 200), bool)), x, y, width, 0.12
    )
    for weight in (0, 0.01, 0.05, 0.2, 0.5, 1):
        at = x + width * weight**GAMMA
        ax.text(at, y + 0.15, f"{100 * weight:.0f} %", ha="center", va="top", fontsize=8)
    told = f"weight (its power of {GAMMA} gives the colour)"
    ax.text(x + width / 2, y + 0.33, told, ha="center", va="top", fontsize=8)
