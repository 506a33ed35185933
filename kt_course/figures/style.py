"""The one style of all pictures: colours and sizes.

Lines take Okabe and Ito's colours (Wong 2011, "Points of view: Color blindness").
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

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

Text = str | Sequence[str]


def in_style(draw: Callable) -> Callable:
    @functools.wraps(draw)
    def draw_in_style(*args, **kwargs):
        with plt.rc_context(STYLE):
            return draw(*args, **kwargs)

    return draw_in_style


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


def write_numbers(ax: Axes, values: np.ndarray, digits: int, most: float) -> None:
    """Write each number of a heat map into its cell, white on cells above 60 % of `most`."""
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if abs(value) > 0.6 * most else BLACK
            ax.text(j, i, f"{value:.{digits}f}", ha="center", va="center", color=colour, fontsize=9)
