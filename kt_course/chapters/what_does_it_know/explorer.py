"""Tracing explorer: choose a layer and a position of a question; see what the model does there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes

from kt_core.models import GPT
from kt_core.vocab import CharVocab
from kt_course.chapters.what_does_it_know.tracing import (
    Cells,
    Prompt,
    knock_out,
    lens_cells,
    make_prompt,
    other_name,
    restore,
)
from kt_course.explorers.panels import frame, picture
from kt_course.explorers.shell import Choice, Grid, Slider, View, explorer, page
from kt_course.figures.style import BLUE, SKY, VERMILION, visible
from kt_course.figures.text_plots import glyphs

VIEWS = ("restored, with its neighbours", "restored alone", "cut off from ⁇", "logit lens")
WINDOW, SINGLE, CUT, LENS = VIEWS
# In inches: a column, a row, where the grid begins.
CELL, HIGH, LEFT, TOP = 0.185, 0.36, 1.15, 0.95


@dataclass(frozen=True)
class Trace:
    """What the explorer shows about one question.

    `views` holds the cells of each of VIEWS, `clean` and `corrupted` the answer's probability with
    the true name and with the other one, `symbols` the characters that the cells name.
    """

    prompt: Prompt
    other: str
    window: int
    clean: float
    corrupted: float
    views: Mapping[str, Cells]
    symbols: Mapping[int, str]

    @property
    def name(self) -> str:
        return self.prompt.text[self.prompt.name.start : self.prompt.name.stop]

    def values(self, view: str) -> np.ndarray:
        """The numbers of a view: probabilities, for CUT what is lost of them."""
        value = self.views[view].value.numpy()
        return np.clip(self.clean - value, 0, None) if view == CUT else value


def trace(
    model: GPT, vocab: CharVocab, question: str, answer: str, other: str, window: int = 7
) -> Trace:
    """Compute everything that the explorer shows about one question.

    All numbers are probabilities of the answer's first letter, at the ⁇. `other` is a name of the
    same length.
    """
    prompt = make_prompt(vocab, question, answer)
    corrupted = other_name(prompt, vocab, other)
    device = model.head.weight.device
    with torch.no_grad():
        logits = [model(ids.to(device))[0] for ids in (prompt.ids, corrupted)]
    probabilities = [float(prompt.probability(one, 1)) for one in logits]
    cells = (
        restore(model, prompt, corrupted, window),
        restore(model, prompt, corrupted),
        knock_out(model, prompt),
        lens_cells(model, prompt),
    )
    ids = {int(i) for one in cells for i in one.ids.unique()}
    symbols = {i: visible(vocab.decode([i]))[0] for i in ids}
    views = dict(zip(VIEWS, cells, strict=True))
    return Trace(prompt, other, window, *probabilities, views, symbols)


def shade(values: np.ndarray) -> np.ndarray:
    """(..., 4) colours of probabilities: white-yellow for 0, dark for 1, even steps."""
    return colormaps["magma_r"](np.clip(values, 0, 1))


def _describe(view: str, one: Trace) -> tuple[str, str]:
    """The title of a view, and a line that explains it."""
    first = one.prompt.answer[0]
    if view == LENS:
        title = f"Logit lens: how likely each state makes “{first}”"
        return title, "dark: this state, read out, predicts the first letter"
    if view == CUT:
        title = f"Cut off: how much “{first}” loses if ⁇ cannot attend there"
        return title, "dark: this connection was needed"
    size = f"{one.window} positions together" if view == WINDOW else "one position"
    title = f"Restored, {size}: how likely “{first}” is again"
    return title, f"the model reads “{one.other}”, and here it gets the true name's state"


class TracingExplorer:
    """What `explore_tracing` draws: a grid of layers and positions, and one cell in detail."""

    def __init__(self, traces: Sequence[Trace]):
        self.people = {one.name: one for one in traces}

    def draw(self, state: Mapping[str, Any], changed: str | None) -> View:
        """Draw the state; `changed` names the control that was moved."""
        one, view = self.people[state["person"]], state["view"]
        values = one.values(view)
        n, T = values.shape
        row = min(state["layer"], n - 1)
        t = one.prompt.mark if changed == "person" else min(state["position"], T - 1)
        layers = [
            f"in block {i}" if view == CUT else f"after block {i - 1}" if i else "embedding"
            for i in range(n)
        ]
        figure, ax = page(9, TOP + 5 * HIGH + 1.95)
        grid, bottom = self._draw_grid(ax, one, view, layers, row, t)
        what = "this state predicts" if view == LENS else "the ⁇ then predicts"
        cell = f"{layers[row]}, “{visible(one.prompt.text[:T])[t]}” at {t}"
        ax.text(LEFT, bottom + 1.12, f"{cell}: {what}", fontsize=9)
        bars = self._draw_likeliest(ax, one, one.views[view], row, t, bottom + 1.2)
        number = "lost" if view == CUT else "probability"
        note = (
            f"{view}, {cell}: {number} {100 * values[row, t]:.0f} %. "
            f"{what[0].upper()}{what[1:]}: {bars}. "
            f"Unchanged {100 * one.clean:.0f} %, with the other name {100 * one.corrupted:.0f} %."
        )
        limits, chosen = dict(layer=n - 1, position=T - 1), dict(layer=row, position=t)
        return View(figure, note, grids=[grid], limits=limits, values=chosen)

    def _draw_grid(
        self, ax: Axes, one: Trace, view: str, layers: list[str], row: int, t: int
    ) -> tuple[Grid, float]:
        """Draw all cells, the last layer on top; returns the grid and its lower edge."""
        values, (title, line) = one.values(view), _describe(view, one)
        n, T = values.shape
        ax.text(LEFT, 0.32, title, fontsize=11)
        answer = f"answer {one.prompt.answer}; {line}"
        ax.text(LEFT, 0.56, answer, fontsize=8, color="#444444")
        width, height, top = min(CELL, 7.6 / T), HIGH * n, TOP + HIGH * max(5 - n, 0)
        bottom, symbols = top + height, visible(one.prompt.text[:T])
        picture(ax, shade(values[::-1]), LEFT, top, width * T, height)
        for i, layer in enumerate(layers):
            y = top + HIGH * (n - i - 0.5)
            ax.text(LEFT - 0.08, y, layer, ha="right", va="center", fontsize=8)
        colours = [VERMILION if k in one.prompt.name else "black" for k in range(T)]
        xs, ys = LEFT + width * (np.arange(T) + 0.5), np.full(T, bottom + 0.14)
        glyphs(ax, xs, ys, symbols, colours, min(10.0, 66 * width))
        frame(ax, LEFT + width * t, top + HIGH * (n - 1 - row), width, HIGH)
        _draw_scale(ax, LEFT, bottom + 0.42, 2.6)
        texts = np.array([[f"{100 * v:.0f} %" for v in line] for line in values[::-1]])
        columns = [f"“{symbol}” at {k}" for k, symbol in enumerate(symbols)]
        # Rows run from the last layer down, so a click cannot set the slider of layers.
        box, click = (LEFT, top, width * T, height), (None, "position")
        return Grid(box, layers[::-1], columns, texts, click=click), bottom

    def _draw_likeliest(
        self, ax: Axes, one: Trace, cells: Cells, row: int, t: int, y: float
    ) -> str:
        """Draw the five most likely characters of a cell as bars; returns them as words."""
        words = []
        answer = visible(one.prompt.answer)[0]
        pairs = zip(cells.ids[row, t].tolist(), cells.shares[row, t].tolist(), strict=True)
        for k, (i, share) in enumerate(pairs):
            x, symbol, percent = LEFT + 1.45 * k, one.symbols[i], f"{100 * share:.0f} %"
            colour = BLUE if symbol == answer else SKY
            ax.barh(y + 0.18, 0.75 * share, 0.2, left=x + 0.25, color=colour)
            glyphs(ax, [x + 0.1], [y + 0.18], [symbol], "black", 11.0)
            end = x + 0.3 + 0.75 * share
            ax.text(end, y + 0.18, percent, va="center_baseline", fontsize=8)
            words.append(f"“{symbol}” {percent}")
        return ", ".join(words)


def _draw_scale(ax: Axes, x: float, y: float, width: float) -> None:
    """Draw the colours of 0 ... 100 %."""
    picture(ax, shade(np.linspace(0, 1, 100))[None], x, y, width, 0.12)
    for share in (0, 0.5, 1):
        text = f"{100 * share:.0f} %"
        ax.text(x + width * share, y + 0.15, text, ha="center", va="top", fontsize=8)


def explore_tracing(traces: Sequence[Trace]) -> Any:
    """Choose a person, a view, a layer and a position; the picture shows all cells, the bars one.

    A click chooses a position. `traces`: what `trace` computed, at least one.
    """
    if not traces:
        how = "trace(model, vocab, question, answer, other)"
        raise ValueError(f"explore_tracing needs at least one trace: {how}")
    first = traces[0]
    controls = dict(
        person=Choice("person", [one.name for one in traces]),
        view=Choice("view", VIEWS),
        layer=Slider("layer (0: embedding)", 2, first.views[WINDOW].value.size(0) - 1),
        position=Slider("position", first.prompt.name.stop - 3, first.prompt.mark),
    )
    return explorer("tracing explorer", TracingExplorer(traces).draw, controls)
