"""Controls of an explorer as plain data, and the canvas on which it draws a state."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from kt_course.figures.style import DPI, STYLE


@dataclass(frozen=True)
class Slider:
    """A whole number in low ... high."""

    label: str
    value: int
    high: int
    low: int = 0


@dataclass(frozen=True)
class Choice:
    """One of several options, the first at first."""

    label: str
    options: Sequence[Any]

    @property
    def value(self) -> Any:
        return self.options[0]


@dataclass(frozen=True)
class Words:
    """A line of text, read when the user presses Enter; `options` are offered while typing."""

    label: str
    value: str
    options: Sequence[str] = ()


Control = Slider | Choice | Words


@dataclass(frozen=True)
class Grid:
    """A part of the picture whose cells tell something under the mouse, and may be clicked.

    box: left, top, width, height in inches. rows, columns: names of the cells' sides.
    values: (n, m) weights in 0 ... 1, NaN where there is none, or texts.
    click: the controls that a click sets to row and column.
    """

    box: tuple[float, float, float, float]
    rows: Sequence[str]
    columns: Sequence[str]
    values: Any
    click: tuple[str | None, str | None] = (None, None)

    def data(self, figure: Figure) -> dict[str, Any]:
        """Return what the browser needs: the box, and weights as bytes of their square roots."""
        shares = np.array(self.box).reshape(2, 2) / figure.get_size_inches()
        told = dict(
            box=shares.ravel().round(5).tolist(), rows=list(self.rows), columns=list(self.columns)
        )
        values = np.asarray(self.values)
        if values.dtype.kind in "US":
            return told | dict(texts=values.ravel().tolist())
        steps = np.where(
            np.isnan(values), 255, np.round(254 * np.sqrt(np.clip(np.nan_to_num(values), 0, 1)))
        )
        return told | dict(weights=base64.b64encode(steps.astype(np.uint8).tobytes()).decode())


@dataclass(frozen=True)
class View:
    """A drawn state: the figure, a sentence that reads it out, and what it means for the controls.

    `limits` gives sliders another highest value, `values` sets controls. `notice` is a warning.
    """

    figure: Figure
    note: str = ""
    notice: str = ""
    grids: Sequence[Grid] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


LARGE = 120_000  # bytes; a saved notebook may hold the live picture too

Draw = Callable[[Mapping[str, Any], str | None], View]


def page(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure and, all over it, axes in inches from the upper left corner.

    pyplot does not know the figure, so that no cell shows it. Images and characters on the one
    pair of
    axes are drawn several times faster than axes with ticks of their own.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, layout="none")
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return figure, ax


def png(figure: Figure) -> bytes:
    """A figure as a PNG file, quickly; in 256 colours where it would be large."""
    figure.canvas.draw()
    held = io.BytesIO()
    pixels = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    pixels.save(held, "png", compress_level=3)
    picture = held.getvalue()
    return picture if len(picture) < LARGE else smaller(picture)


def smaller(picture: bytes) -> bytes:
    """Return a PNG file in 256 colours of its own: a third of the bytes."""
    held = io.BytesIO()
    few = Image.open(io.BytesIO(picture)).quantize(
        256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )
    few.save(held, "png")
    return held.getvalue()


def render(draw: Draw, state: Mapping[str, Any], changed: str | None = None) -> tuple[View, bytes]:
    """Draw a state in the house's style: (view, its picture as PNG)."""
    with rc_context(STYLE):
        view = draw(state, changed)
        return view, png(view.figure)
