"""The one style of all pictures: kt.mplstyle, and names for its colours and sizes."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from kt_course._typing import Tensor

SHEET = Path(__file__).with_name("kt.mplstyle")
STYLE = matplotlib.rc_params_from_file(SHEET, use_default_template=False)
WIDTH = STYLE["figure.figsize"][0]  # inches
COLOURS = STYLE["axes.prop_cycle"].by_key()["color"]
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK = COLOURS
YELLOW = "#F0E442"
GREY = "#DADADA"  # what is forbidden, is padding, or has no target
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
