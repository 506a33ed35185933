"""Tracing explorer: walk over layers and positions of a question, and see where its answer is, or can be cut or put back."""

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
    Asked,
    Cells,
    ask,
    knock_out,
    lens_cells,
    other_name,
    restore,
)
from kt_course.explorers.panels import frame, picture
from kt_course.explorers.shell import Choice, Grid, Slider, View, explorer, page
from kt_course.figures.style import BLUE, SKY, VERMILION, visible
from kt_course.figures.text_plots import glyphs

VIEWS = ("put back, with its neighbours", "put back alone", "cut off from ⁇", "logit lens")
CELL, HIGH, LEFT, TOP = 0.185, 0.36, 1.15, 0.95  # inches: a column, a row, where the grid begins
_MAP = colormaps["magma_r"]


@dataclass(frozen=True)
class Trace:
    """What is known of one question: its cells in each of VIEWS, and the answer's probability untouched and corrupted."""

    asked: Asked
    other: str
    window: int
    clean: float
    corrupted: float
    views: Mapping[str, Cells]
    signs: Mapping[int, str]  # the characters that the cells name


def trace(
    model: GPT, vocab: CharVocab, question: str, answer: str, other: str, window: int = 7
) -> Trace:
    """Compute everything that the explorer shows about one question; `other` is a name of the same length.

    All numbers are probabilities of the answer's first letter, at the ⁇.
    """
    asked = ask(vocab, question, answer)
    corrupted = other_name(asked, vocab, other)
    device = model.head.weight.device
    with torch.no_grad():
        probabilities = [
            float(asked.probability(model(ids.to(device))[0], 1)) for ids in (asked.ids, corrupted)
        ]
    cells = (
        restore(model, asked, corrupted, window),
        restore(model, asked, corrupted),
        knock_out(model, asked),
        lens_cells(model, asked),
    )
    views = dict(zip(VIEWS, cells, strict=True))
    signs = {int(i): visible(vocab.decode([i]))[0] for one in cells for i in one.ids.unique()}
    return Trace(asked, other, window, *probabilities, views, signs)


def shade(values: np.ndarray) -> np.ndarray:
    """(..., 4) colours of probabilities: white-yellow for 0, dark for 1, even steps."""
    return _MAP(np.clip(values, 0, 1))


def _told(view: str, one: Trace) -> tuple[str, str]:
    """What a view shows, in a title and a line below it."""
    first = one.asked.answer[0]
    if view == VIEWS[3]:
        return (
            f"Logit lens: how likely each state makes “{first}”",
            "dark: this state, read out, says the first letter",
        )
    if view == VIEWS[2]:
        return (
            f"Cut off: how much “{first}” loses if ⁇ may not look there",
            "dark: this look was needed",
        )
    wide = f"{one.window} places together" if view == VIEWS[0] else "one place"
    return (
        f"Put back, {wide}: how likely “{first}” is again",
        f"the model reads “{one.other}”, and here it gets the state that belongs to the true name",
    )


def values_of(one: Trace, view: str) -> np.ndarray:
    """The numbers that a view draws: probabilities, for "cut off" what is lost of them."""
    value = one.views[view].value.numpy()
    return np.clip(one.clean - value, 0, None) if view == VIEWS[2] else value


def _likeliest(ax: Axes, one: Trace, cells: Cells, row: int, t: int, y: float) -> str:
    """The five likeliest characters of a cell as bars; returns them as words."""
    words = []
    for k, (i, share) in enumerate(
        zip(cells.ids[row, t].tolist(), cells.shares[row, t].tolist(), strict=True)
    ):
        x, sign = LEFT + 1.45 * k, one.signs[i]
        right = sign == visible(one.asked.answer[0])[0]
        ax.barh(y + 0.18, 0.75 * share, 0.2, left=x + 0.25, color=BLUE if right else SKY)
        glyphs(ax, [x + 0.1], [y + 0.18], [sign], "black", 11.0)
        ax.text(
            x + 0.3 + 0.75 * share,
            y + 0.18,
            f"{100 * share:.0f} %",
            va="center_baseline",
            fontsize=8,
        )
        words.append(f"“{sign}” {100 * share:.0f} %")
    return ", ".join(words)


def explore_tracing(traces: Sequence[Trace]) -> Any:
    """Choose a person, what is done to the model, a layer and a position; the picture shows all of them, the bars one.

    `traces`: what `trace` computed, at least one. A click chooses layer and position.
    """
    if not traces:
        raise ValueError(
            "explore_tracing needs at least one trace: trace(model, vocab, question, answer, other)"
        )
    people = {
        f"{one.asked.text[one.asked.name.start : one.asked.name.stop]}": one for one in traces
    }

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        one, view = people[state["person"]], state["view"]
        cells, values = one.views[view], values_of(one, view)
        n, T = values.shape
        row, t = min(state["layer"], n - 1), min(state["position"], T - 1)
        if changed == "person":
            t = one.asked.mark
        figure, ax = page(9, TOP + 5 * HIGH + 1.95)
        title, below = _told(view, one)
        ax.text(LEFT, 0.32, title, fontsize=11)
        ax.text(LEFT, 0.56, f"answer {one.asked.answer}; {below}", fontsize=8, color="#444444")
        signs = visible(one.asked.text[:T])
        width, high = min(CELL, 7.6 / T), HIGH * n
        top = TOP + HIGH * (5 - n if n < 5 else 0)
        picture(ax, shade(values[::-1]), LEFT, top, width * T, high)  # the last layer above
        where = [
            f"in block {i}" if view == VIEWS[2] else f"after block {i - 1}" if i else "embedding"
            for i in range(n)
        ]
        for i, told in enumerate(where):
            ax.text(
                LEFT - 0.08, top + HIGH * (n - i - 0.5), told, ha="right", va="center", fontsize=8
            )
        y = top + high
        colours = [VERMILION if k in one.asked.name else "black" for k in range(T)]
        glyphs(
            ax,
            LEFT + width * (np.arange(T) + 0.5),
            np.full(T, y + 0.14),
            signs,
            colours,
            min(10.0, 66 * width),
        )
        frame(ax, LEFT + width * t, top + HIGH * (n - 1 - row), width, HIGH)
        _scale(ax, LEFT, y + 0.42, 2.6)
        spot = f"{where[row]}, “{signs[t]}” at {t}"
        what = "this state foretells" if view == VIEWS[3] else "the ⁇ then foretells"
        ax.text(LEFT, y + 1.12, f"{spot}: {what}", fontsize=9)
        words = _likeliest(ax, one, cells, row, t, y + 1.2)
        number = "lost" if view == VIEWS[2] else "probability"
        note = (
            f"{view}, {spot}: {number} {100 * values[row, t]:.0f} %. {what[0].upper()}{what[1:]}: {words}. "
            f"Untouched {100 * one.clean:.0f} %, with the other name {100 * one.corrupted:.0f} %."
        )
        texts = np.array([[f"{100 * v:.0f} %" for v in line] for line in values[::-1]])
        names = where[::-1], [f"“{sign}” at {k}" for k, sign in enumerate(signs)]
        # rows run from the last layer down, so a click cannot set the slider of layers
        grid = Grid((LEFT, top, width * T, high), *names, texts, click=(None, "position"))
        limits = dict(layer=n - 1, position=T - 1)
        return View(figure, note, grids=[grid], limits=limits, values=dict(layer=row, position=t))

    first = traces[0]
    controls = dict(
        person=Choice("person", list(people)),
        view=Choice("what is done", VIEWS),
        layer=Slider("layer (0: embedding)", 2, first.views[VIEWS[0]].value.size(0) - 1),
        position=Slider("position", first.asked.name.stop - 3, first.asked.mark),
    )
    return explorer("tracing explorer", draw, controls)


def _scale(ax: Axes, x: float, y: float, width: float) -> None:
    """The colours of 0 ... 100 %."""
    picture(ax, shade(np.linspace(0, 1, 100))[None], x, y, width, 0.12)
    for share in (0, 0.5, 1):
        ax.text(
            x + width * share, y + 0.15, f"{100 * share:.0f} %", ha="center", va="top", fontsize=8
        )
