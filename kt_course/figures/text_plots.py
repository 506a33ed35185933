"""Pictures of text: characters on coloured ground, for what is masked, asked for, or looked at."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
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

from kt_course._typing import Int, Tensor
from kt_course.figures.style import GREY, ORANGE, SKY, VERMILION, WIDTH, array, in_style, visible


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
    letters = PathCollection(
        [_glyph(ch) for ch in text],
        offsets=np.column_stack([x, y]),
        offset_transform=ax.transData,
        facecolors=colours,
        linewidths=0,
        clip_on=False,
        snap=False,
    )
    letters.set_transform(Affine2D().scale(size / 72) + ax.figure.dpi_scale_trans)
    ax.add_collection(letters, autolim=False)


def ink(ground: np.ndarray) -> np.ndarray:
    """Colours of letters on grounds (n, 4): white on dark, faint on grey, else black."""
    dark = ground[:, :3] @ (0.299, 0.587, 0.114) < 0.5
    grey = (ground[:, :3] == ground[:, :1]).all(1) & (ground[:, 0] < 1)
    return np.where(dark, "white", np.where(grey, "#888888", "black"))


def _strip(ax: Axes, y: float, text: Sequence[str], colours: Sequence[Any], size: float) -> None:
    """One line of coloured characters at height `y` (1 high)."""
    rgba, n = np.array([to_rgba(c) for c in colours]), len(text)
    extent = (-0.5, n - 0.5, y + 0.5, y - 0.5)
    ax.imshow(rgba[None], extent=extent, aspect="auto", interpolation="nearest")
    glyphs(ax, np.arange(n), np.full(n, y), text, ink(rgba), size)


def _page(
    lines: float, columns: int, title: str, labels: float = 0.0
) -> tuple[Figure, Axes, float]:
    """Make an empty page: (figure, axes, font size). `labels`: inches left free on the left."""
    cell = min(0.17, (WIDTH - 0.4 - labels) / columns)
    height = lines * max(cell * 1.7, 0.2) + (0.5 if title else 0.2) + 0.25
    figure, ax = plt.subplots(figsize=(WIDTH, height))
    ax.set(xlim=(-0.6, (WIDTH - 0.4 - labels) / cell - 0.5), xticks=[])
    ax.set(ylim=(lines - 0.4, -0.6), yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, loc="left")
    return figure, ax, min(10.0, cell * 72 / 0.66)


def _pack(text: Sequence[str], columns: int) -> list[range]:
    return [range(i, min(i + columns, len(text))) for i in range(0, len(text), columns)]


CUT_KINDS = {
    "prefix": SKY,
    "suffix": "#8FD3B6",
    "masked span": ORANGE,
    "⁇": VERMILION,
    "□ padding": GREY,
}


def corruption(examples: Sequence[tuple[str, str, str, int]], title: str = "") -> Figure:
    """Draw examples of span corruption, (prefix, masked, suffix, n_pads), as the model reads them.

    prefix ⁇ suffix ⁇ masked □ □ ..., 64 characters per line. More than 16 pads are drawn as 16
    and their number.
    """
    lines, notes = [], []
    for prefix, masked, suffix, n_pads in examples:
        few = min(n_pads, 16)
        runs = [(prefix, "prefix"), ("⁇", "⁇"), (suffix, "suffix"), ("⁇", "⁇")]
        lines.append([*runs, (masked, "masked span"), ("□" * few, "□ padding")])
        notes.append(f" … {n_pads} □ in all" if n_pads > few else "")
    return coloured_lines(lines, CUT_KINDS, title, notes)


@in_style
def coloured_lines(
    lines: Sequence[Sequence[tuple[str, str]]],
    kinds: Mapping[str, str],
    title: str = "",
    notes: Sequence[str] = (),
) -> Figure:
    """Draw texts in pieces of several kinds, (text, kind) each, 64 characters per line.

    Args:
        kinds: The colour of each kind, for the legend too.
        notes: What to write after each text.
    """
    cells = [
        [(letter, kinds[kind]) for text, kind in runs for letter in visible(text)] for runs in lines
    ]
    height = sum(math.ceil(len(each) / 64) + 0.6 for each in cells) - 0.6
    figure, ax, size = _page(height, 64, title)
    y = 0.0
    for each, note in itertools.zip_longest(cells, notes, fillvalue=""):
        for piece in _pack(each, 64):
            _strip(ax, y, *zip(*(each[i] for i in piece), strict=True), size=size)
            y += 1
        if note and len(piece) < 50:
            ax.text(len(piece) - 0.3, y - 1, note, va="center", fontsize=8, color="#666666")
        y += 0.6
    _legend(figure, kinds)
    plt.close(figure)
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
    n_drawn = min(len(xs), math.ceil(used / 64) * 64)
    pieces = _pack(xs[:n_drawn], 64)
    figure, ax, size = _page(2.6 * len(pieces) - 0.6, 64, title, 0.6)
    for line, piece in enumerate(pieces):
        read, targets = (visible([vocab.decode([int(ids[i])]) for i in piece]) for ids in (xs, ys))
        _strip(ax, 2.6 * line, read, [GREY if xs[i] == 0 else SKY for i in piece], size=size)
        targets = [ch if ys[i] else "·" for ch, i in zip(targets, piece, strict=True)]
        _strip(ax, 2.6 * line + 1, targets, [ORANGE if ys[i] else GREY for i in piece], size=size)
    heights = [2.6 * i + j for i in range(len(pieces)) for j in (0, 1)]
    ax.set_yticks(heights, ["read", "asked"] * len(pieces))
    ax.tick_params(length=0)
    kinds = {"read (x)": SKY, "asked for, counts in the loss (y)": ORANGE}
    _legend(figure, kinds | {"padding, or no loss": GREY})
    return figure


def _legend(figure: Figure, kinds: Mapping[str, str]) -> None:
    patches = [Patch(color=colour, label=kind) for kind, colour in kinds.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(kinds))
