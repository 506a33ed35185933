"""The widget: controls, the picture and its caption. Needs ipywidgets, but no network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from typing import Any

import ipywidgets

from kt_course.explorers.canvas import Control, Draw, Slider, View, Words, render, smaller

# Runs in the browser when the mouse is over the picture: finds the cell and shows its value.
# On a click it hands "grid row column" to the kernel through a hidden text field.
_FIND = """
const b = this.getBoundingClientRect();
const x = (event.clientX - b.left) / b.width, y = (event.clientY - b.top) / b.height;
let said = '\\u00a0', at = null;
JSON.parse(this.dataset.grids).forEach((g, n) => {
  const [l, t, w, h] = g.box, R = g.rows.length, C = g.columns.length;
  const r = Math.floor((y - t) / h * R), c = Math.floor((x - l) / w * C);
  if (r < 0 || c < 0 || r >= R || c >= C) return;
  const v = g.texts ? 0 : atob(g.weights).charCodeAt(r * C + c), p = 100 * (v / 254) ** 2;
  const percent = p.toFixed(p < 9.95 ? 1 : 0) + ' %';
  const told = g.texts ? g.texts[r * C + c] : v == 255 ? 'not allowed' : percent;
  said = g.rows[r] + (g.texts ? ', ' : ' \\u2192 ') + g.columns[c] + ': ' + told;
  at = n + ' ' + r + ' ' + c;
});
"""
_OVER = _FIND + "this.nextElementSibling.textContent = said;"
_CLICK = (
    _FIND
    + """
const field = this.closest('.kt-explorer').querySelector('.kt-click input');
if (at && field) {
  field.value = at + ' ' + Date.now();
  ['input', 'change'].forEach(kind => field.dispatchEvent(new Event(kind, {bubbles: true})));
}
"""
)
_WARNING = "color:#8a3b00;border-left:4px solid #D55E00;padding-left:.5em"


def _one_line(script: str) -> str:
    return html.escape(" ".join(script.split()))


def _widget(control: Control) -> Any:
    style = {"description_width": "initial"}
    if isinstance(control, Slider):
        layout = ipywidgets.Layout(
            width=f"{220 + 7 * len(control.label)}px"
        )  # the label shares it with the track
        return ipywidgets.IntSlider(
            control.value,
            control.low,
            control.high,
            description=control.label,
            style=style,
            layout=layout,
        )
    if isinstance(control, Words):
        kind = ipywidgets.Combobox if control.options else ipywidgets.Text
        more = {"options": tuple(control.options)} if control.options else {}
        layout = ipywidgets.Layout(width="600px", max_width="98%")
        return kind(
            value=control.value,
            description=control.label,
            continuous_update=False,
            style=style,
            layout=layout,
            **more,
        )
    return ipywidgets.Dropdown(
        options=list(control.options),
        value=control.value,
        description=control.label,
        style=style,
        layout=ipywidgets.Layout(width="auto"),
    )


class Live(ipywidgets.VBox):
    """An explorer. `controls[name].value = ...` moves a control, `png` is the picture.

    Displayed, it carries `twin`, the picture of its first state, for whoever cannot run it.
    """

    def __init__(
        self, name: str, draw: Draw, controls: Mapping[str, Control], view: View, picture: bytes
    ) -> None:
        self.name, self.draw, self.twin = name, draw, smaller(picture)
        self.alt = f"{name}: {view.note}"
        self.controls = {key: _widget(control) for key, control in controls.items()}
        self.message, self.picture = ipywidgets.HTML(), ipywidgets.HTML()
        self.clicked = ipywidgets.Text(layout=ipywidgets.Layout(display="none"))
        self.clicked.add_class("kt-click")
        self._held = False  # while the widget sets its own controls
        row = ipywidgets.HBox(
            list(self.controls.values()), layout=ipywidgets.Layout(flex_flow="row wrap")
        )
        super().__init__([row, self.message, self.picture, self.clicked])
        self.add_class("kt-explorer")
        self._show(view, picture)
        for key, widget in self.controls.items():
            widget.observe(lambda _, key=key: self._redraw(key), "value")
        self.clicked.observe(lambda change: self._click(change["new"]), "value")

    def __repr__(self) -> str:
        return f"<{self.name}: a widget and its first picture>"

    def _repr_mimebundle_(self, **kw: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kw)
        data = dict(bundle[0] if isinstance(bundle, tuple) else bundle)
        data |= {"image/png": base64.b64encode(self.twin).decode(), "text/plain": repr(self)}
        return data, {"image/png": {"alt": self.alt}}

    @property
    def state(self) -> dict[str, Any]:
        """The controls' values by their names."""
        return {key: widget.value for key, widget in self.controls.items()}

    def _redraw(self, changed: str) -> None:
        if self._held:
            return
        try:
            view, picture = render(self.draw, self.state, changed)
        except (
            ValueError
        ) as error:  # what the user typed cannot be drawn; the last picture stays, faint
            self.note = str(error)
            self.message.value = (
                f'<div role="alert" style="{_WARNING}">{html.escape(self.note)}</div>'
            )
            self._image(faint=True)
            return
        self._show(view, picture)

    def _show(self, view: View, picture: bytes) -> None:
        self._held = True
        try:
            for key, high in view.limits.items():
                self.controls[key].max = max(high, self.controls[key].min)
            for key, value in view.values.items():
                self.controls[key].value = value
        finally:
            self._held = False
        for widget in self.controls.values():  # a slider with one place is no control
            if isinstance(widget, ipywidgets.IntSlider):
                widget.layout.display = None if widget.max > widget.min else "none"
        self.view, self.png, self.note = view, picture, view.note
        notice = f'<div role="alert" style="{_WARNING}">{html.escape(view.notice)}</div>' * bool(
            view.notice
        )
        self.message.value = f"{notice}<div>{html.escape(view.note)}</div>"
        self._image()

    def _image(self, faint: bool = False) -> None:
        grids = html.escape(
            json.dumps(
                [grid.data(self.view.figure) for grid in self.view.grids], ensure_ascii=False
            )
        )
        script = (
            f' data-grids="{grids}" onmousemove="{_one_line(_OVER)}" onclick="{_one_line(_CLICK)}"'
            if self.view.grids
            else ""
        )
        self.picture.value = (
            f'<img alt="{html.escape(self.name + ": " + self.view.note)}"{script} '
            'style="max-width:100%;'
            f'{"opacity:.25;" if faint else ""}{"cursor:crosshair;" if script else ""}" '
            f'src="data:image/png;base64,{base64.b64encode(self.png).decode()}">'
            f'<div style="min-height:1.4em;font-family:monospace">&nbsp;</div>'
        )

    def _click(self, told: str) -> None:
        """Handle a click, "grid row column time"; the time makes each message unique."""
        words = told.split()[:3]
        if len(words) < 3 or not all(word.isdecimal() for word in words):
            return
        grid, *at = map(int, words)
        if grid >= len(self.view.grids):
            return
        moved = [key for key in self.view.grids[grid].click if key is not None]
        self._held = True  # one picture for both
        try:
            for key, index in zip(self.view.grids[grid].click, at, strict=True):
                if key is not None and index <= self.controls[key].max:
                    self.controls[key].value = index
        finally:
            self._held = False
        if moved:
            self._redraw(moved[0])
