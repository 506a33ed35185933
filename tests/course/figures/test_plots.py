"""Pictures: each draws what its data say, fits a notebook, and leaves matplotlib's settings
alone."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import kt_core as kt
from kt_course.figures import plots, style

TEXT = "Where was Ada born?⁇Rome⁇\n"
LONDON = kt.Score(10, 200)


@pytest.fixture(autouse=True)
def _clean():
    before = dict(plt.rcParams)
    yield
    plt.close("all")
    assert dict(plt.rcParams) == before, "a picture changed matplotlib's settings for good"


def png(figure) -> bytes:
    held = io.BytesIO()
    figure.savefig(held, format="png")
    return held.getvalue()


def pictures():
    vocab = kt.CharVocab.from_documents([TEXT.replace("⁇", "")])
    x, y = kt.NamePlace([("Where was Ada born?", "Rome")], vocab)[0]
    return {
        "corruption": plots.corruption([("Ada. ", "Rome", " in 1815\n", 60), ("", "x", "", 0)]),
        "loss": plots.loss_placement(x, y, vocab),
        "bars": plots.accuracy_bars(
            [("one", kt.Score(3, 200)), ("none", None)], LONDON, {"rope": 0.2}
        ),
        "no bars": plots.accuracy_bars([]),
        "curves": plots.curves(
            [1, 2, 3], {"a": torch.tensor([1.0, 2, 3]), "b": np.ones(3)}, "x", "y", log_x=True
        ),
        "rows": plots.rows(2, 2)[0],
    }


def test_every_picture_is_a_png_that_fits_a_notebook_and_its_text_has_no_missing_character(recwarn):
    for name, figure in pictures().items():
        assert figure.get_dpi() == 100, name
        assert figure.get_size_inches()[0] <= style.WIDTH, name
        assert png(figure).startswith(b"\x89PNG"), name
    assert not [
        str(w.message)
        for w in recwarn
        if "Glyph" in str(w.message) or "constrained" in str(w.message)
    ]


def test_the_same_picture_twice():
    draw = lambda: png(plots.curves([1, 2], {"a": [1, 2]}, "x", "y"))  # noqa: E731
    assert draw() == draw()


def test_bars_stand_best_first_with_wilson_whiskers_and_london():
    figure = plots.accuracy_bars([("low", kt.Score(5, 100)), ("high", kt.Score(90, 100))], LONDON)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["high", "low"]
    assert [bar.get_width() for bar in ax.patches[:2]] == pytest.approx([90, 5])
    whisker = ax.containers[1].lines[2][0].get_segments()[0][:, 0]
    assert whisker == pytest.approx([100 * kt.Score(90, 100).low, 100 * kt.Score(90, 100).high])
    assert any(
        line.get_xdata()[0] == pytest.approx(5.0) for line in ax.lines if len(line.get_xdata()) == 2
    )
