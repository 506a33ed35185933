"""Open an explorer: `explorer(name, draw, controls)`.

`draw(state, changed)` gets the values of all controls by name, and the name of the control that was
moved (None at first). It returns a `View`, or raises ValueError for what a user typed; the widget
then shows the message. Drawn once at the defaults, it also gives the picture that a saved notebook
keeps for readers who cannot run it.
"""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Mapping
from typing import Any

from kt_course.explorers.canvas import (
    Choice,
    Control,
    Draw,
    Grid,
    Slider,
    View,
    Words,
    page,
    png,
    render,
    smaller,
)

__all__ = ["Choice", "Grid", "Slider", "View", "Words", "explorer", "page", "png", "render"]

INSTALL = "The controls need ipywidgets: pip install ipywidgets, then restart the kernel."


class Still:
    """An explorer where ipywidgets is missing: its first picture, and what to install."""

    def __init__(self, name: str, view: View, picture: bytes):
        self.name, self.note, self.png, self.twin = name, view.note, picture, smaller(picture)

    def __repr__(self) -> str:
        return f"<{self.name}: a picture>"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        print(INSTALL)
        data = {"image/png": base64.b64encode(self.twin).decode(), "text/plain": repr(self)}
        alt = f"{self.name}: {self.note}"
        display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def explorer(name: str, draw: Draw, controls: Mapping[str, Control]) -> Any:
    """The widget of an explorer, drawn at its defaults; a `Still` where ipywidgets is missing.

    ValueError if the defaults cannot be drawn, so that a mistake in the call is reported at once.
    """
    state = {key: control.value for key, control in controls.items()}
    view, picture = render(draw, state)
    if importlib.util.find_spec("ipywidgets") is None:
        return Still(name, view, picture)
    from kt_course.explorers.live import Live

    return Live(name, draw, controls, view, picture)
