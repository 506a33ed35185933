"""Pictures of text: characters on coloured ground, for what is masked, asked for, or looked at."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from kt_course._typing import Float, Int, Tensor
from kt_course.figures.style import (
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    WIDTH,
    Text,
    array,
    in_style,
    visible,
    weight_colours,
    weight_scale,
)


@functools.lru_cache(maxsize=1024)
def _glyph(ch: str) -> TextPath:
    """The outline of one character, 1 point high, its cell's middle at (0, 0)."""
    ch = ch if ch.strip() else "␣"  # matplotlib 3.11 stumbles over a text without any outline
    family = FontProperties(family=["DejaVu Sans Mono", "DejaVu Sans"])
    return TextPath((-0.301, -0.36), ch, size=1, prop=family)


def glyphs(
    ax: Axes, x: Sequence[float], y: Sequence[float], text: Sequence[str], colours: Any, size: float
) -> None:
    """Draw one character at each (x, y), `size` points high, as one collection: that is fast."""
    drawn = PathCollection(
        [_glyph(ch) for ch in text],
        offsets=np.column_stack([x, y]),
        offset_transform=ax.transData,
        facecolors=colours,
        linewidths=0,
        clip_on=False,
        snap=False,
    )
    drawn.set_transform(Affine2D().scale(size / 72) + ax.figure.dpi_scale_trans)
    ax.add_collection(drawn, autolim=False)


def ink(ground: np.ndarray) -> np.ndarray:
    """Colours of letters on grounds (n, 4): white on dark, faint on grey, else black."""
    dark = ground[:, :3] @ (0.299, 0.587, 0.114) < 0.5
    grey = (ground[:, :3] == ground[:, :1]).all(1) & (ground[:, 0] < 1)
    return np.where(dark, "white", np.where(grey, "#888888", "black"))


def _strip(
    ax: Axes,
    y: float,
    text: Sequence[str],
    colours: Sequence[Any],
    start: int = 0,
    size: float = 9.0,
) -> None:
    """One line of coloured characters at height `y` (1 high), from column `start`."""
    rgba = np.array([to_rgba(c) for c in colours])
    ax.imshow(
        rgba[None],
        extent=(start - 0.5, start + len(text) - 0.5, y + 0.5, y - 0.5),
        aspect="auto",
        interpolation="nearest",
    )
    glyphs(ax, start + np.arange(len(text)), np.full(len(text), y), text, ink(rgba), size)


def _page(
    lines: float, columns: int, title: str, labels: float = 0.0
) -> tuple[Figure, Axes, float]:
    """Make an empty page: (figure, axes, font size). `labels`: inches left free on the left."""
    cell = min(0.17, (WIDTH - 0.4 - labels) / columns)
    figure, ax = plt.subplots(
        figsize=(WIDTH, lines * max(cell * 1.7, 0.2) + (0.5 if title else 0.2) + 0.25)
    )
    ax.set(
        xlim=(-0.6, (WIDTH - 0.4 - labels) / cell - 0.5),
        ylim=(lines - 0.4, -0.6),
        xticks=[],
        yticks=[],
    )
    ax.spines[:].set_visible(False)
    ax.set_title(title, loc="left")
    return figure, ax, min(10.0, cell * 72 / 0.66)


def _pack(text: Sequence[str], columns: int) -> list[range]:
    return [range(i, min(i + columns, len(text))) for i in range(0, len(text), columns)]


@in_style
def text_attention(
    rows: Float[Tensor, "n T"] | np.ndarray, text: Text, labels: Sequence[str], title: str = ""
) -> Figure:
    """Draw weights on the text itself: `rows` (n, T), one labelled strip of characters each.

    Characters behind a row's last weight are grey: they lie in the future.
    """
    weights = np.atleast_2d(array(rows))
    if weights.shape != (len(labels), len(text)):
        raise ValueError(
            f"weights of shape {weights.shape} need as many labels and characters, "
            f"not {len(labels)} and {len(text)}"
        )
    seen = np.flip(np.cumsum(np.flip(weights != 0, 1), 1), 1) > 0
    signs, pieces = visible(text), _pack(text, 80 if len(text) > 96 else len(text))
    space = 0.085 * max(map(len, labels)) + 0.1
    height = len(pieces) + 0.5
    figure, ax, size = _page(height * len(weights) - 0.5, len(pieces[0]), title, space)
    for r in range(len(labels)):
        for line, piece in enumerate(pieces):
            part = slice(piece.start, piece.stop)
            _strip(
                ax,
                r * height + line,
                signs[part],
                weight_colours(weights[r, part], seen[r, part]),
                size=size,
            )
    ax.set_yticks([r * height + (len(pieces) - 1) / 2 for r in range(len(labels))], labels)
    ax.tick_params(length=0)
    weight_scale(figure, ax, orientation="horizontal", shrink=0.5, aspect=40, pad=0.02)
    return figure


@in_style
def corruption(examples: Sequence[tuple[str, str, str, int]], title: str = "") -> Figure:
    """Draw examples of span corruption, (prefix, masked, suffix, n_pads), as the model reads them.

    prefix ⁇ suffix ⁇ masked □ □ ..., 64 characters per line. More than 16 pads are drawn as 16
    and their number.
    """
    kinds = {
        "prefix": SKY,
        "suffix": "#8FD3B6",
        "masked span": ORANGE,
        "⁇": VERMILION,
        "□ padding": GREY,
    }
    texts = []
    for prefix, masked, suffix, n_pads in examples:
        few = min(n_pads, 16)
        parts = [
            (prefix, "prefix"),
            ("⁇", "⁇"),
            (suffix, "suffix"),
            ("⁇", "⁇"),
            (masked, "masked span"),
            ("□" * few, "□ padding"),
        ]
        cells = [(ch, kinds[kind]) for part, kind in parts for ch in visible(part)]
        texts.append((cells, f" … {n_pads} □ in all" if n_pads > few else ""))
    height = sum(math.ceil(len(cells) / 64) + 0.6 for cells, _ in texts) - 0.6
    figure, ax, size = _page(height, 64, title)
    y = 0.0
    for cells, more in texts:
        for piece in _pack(cells, 64):
            _strip(ax, y, [cells[i][0] for i in piece], [cells[i][1] for i in piece], size=size)
            y += 1
        if more and len(piece) < 50:
            ax.text(len(piece) - 0.3, y - 1, more, va="center", fontsize=8, color="#666666")
        y += 0.6
    figure.legend(
        handles=[Patch(color=c, label=k) for k, c in kinds.items()],
        loc="outside lower center",
        ncols=5,
    )
    return figure


@in_style
def loss_placement(
    x: Int[Tensor, " T"] | np.ndarray,
    y: Int[Tensor, " T"] | np.ndarray,
    vocab: Any,
    title: str = "",
) -> Figure:
    """Draw the input x over the target y, with y coloured where there is a loss.

    `x`, `y`: (T,) ids; y is 0 where there is no loss. Padding is drawn to the end of its line.
    """
    xs, ys = array(x).astype(int), array(y).astype(int)
    used = max(int(np.flatnonzero((xs != 0) | (ys != 0)).max(initial=0)) + 1, 1)
    shown = min(len(xs), math.ceil(used / 64) * 64)
    pieces = _pack(xs[:shown], 64)
    figure, ax, size = _page(2.6 * len(pieces) - 0.6, 64, title, 0.6)
    for line, piece in enumerate(pieces):
        read, asked = (visible([vocab.decode([int(ids[i])]) for i in piece]) for ids in (xs, ys))
        _strip(ax, 2.6 * line, read, [GREY if xs[i] == 0 else SKY for i in piece], size=size)
        asked = [ch if ys[i] else "·" for ch, i in zip(asked, piece, strict=True)]
        _strip(ax, 2.6 * line + 1, asked, [ORANGE if ys[i] else GREY for i in piece], size=size)
    ax.set_yticks(
        [2.6 * i + j for i in range(len(pieces)) for j in (0, 1)], ["read", "asked"] * len(pieces)
    )
    ax.tick_params(length=0)
    kinds = {
        "read (x)": SKY,
        "asked for, counts in the loss (y)": ORANGE,
        "padding, or no loss": GREY,
    }
    figure.legend(
        handles=[Patch(color=c, label=k) for k, c in kinds.items()],
        loc="outside lower center",
        ncols=3,
    )
    return figure
