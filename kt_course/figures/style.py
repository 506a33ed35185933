"""The one style of all pictures: colours, sizes, and how attention weights become colours.

Lines take Okabe and Ito's colours (Wong 2011, "Points of view: Color blindness"). Attention
weights share one scale in every picture: 0 ... 1 raised to 0.4, because on a linear scale a row of
128 weights is nearly blank.
Forbidden cells are grey, which is no colour of the scale.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm, to_rgba
from matplotlib.figure import Figure

from kt_course._typing import Tensor

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
GREY = "#DADADA"  # what is forbidden, padding, or asks for nothing
DPI = 100  # dots an inch
WIDTH = 9.0  # inches: a notebook's column at that density
GAMMA = 0.4
STYLE = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.figsize": (WIDTH, 3.4),
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "font.family": ["DejaVu Sans", "DejaVu Sans Mono"],  # the second one has MASK_SIGN
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": plt.cycler(color=[c for c in COLOURS if c != YELLOW]),
}
MASK_SIGN = "⍰"  # in figures, for the mask ⁇, which looks like two question marks there
_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥", "⁇": MASK_SIGN}
_MAP = plt.get_cmap("magma_r")
_NORM = PowerNorm(GAMMA, 0.0, 1.0)
_SCALE = f"weight (colour = weight to the power of {GAMMA})"

Text = str | Sequence[str]


def in_style(draw: Callable) -> Callable:
    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        with plt.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def array(values: Any) -> np.ndarray:
    """Tensor, array or list as a float array."""
    if isinstance(values, Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=float)


def visible(text: Text) -> list[str]:
    """The characters (or words) of `text` with signs for white space and the mask."""
    return [
        "".join(_SIGNS.get(ch, ch) for ch in token) if token.strip(" \n\t⁇") == "" else token
        for token in text
    ]


def allowed_cells(weights: np.ndarray, mask: Any = None) -> np.ndarray:
    """Where a query may look: `mask`; without it the lower triangle of a square map that is 0
    above it, or
    all but the zeros behind a row's last weight."""
    if mask is not None:
        return np.broadcast_to(array(mask) != 0, weights.shape)
    if weights.shape[0] == weights.shape[1]:
        every = np.ones(weights.shape, dtype=bool)
        return every if np.triu(weights, 1).any() else np.tril(every)
    return np.flip(np.cumsum(np.flip(weights != 0, 1), 1), 1) > 0


def weight_colours(weights: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """(..., 4) colours of weights, grey where looking is forbidden."""
    colours = _MAP(_NORM(np.clip(weights, 0, 1)))
    colours[~allowed] = to_rgba(GREY)
    return colours


def weight_scale(figure: Figure, axes: Any, **kw: Any) -> None:
    bar = figure.colorbar(ScalarMappable(_NORM, _MAP), ax=axes, **kw)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", ".01", ".05", ".2", ".5", "1"])
    bar.set_label(_SCALE, fontsize=8)
