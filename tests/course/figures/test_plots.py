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
from kt_course.figures import plots

TEXT = "Where was Ada born?⁇Rome⁇\n"
LONDON = kt.Score(10, 200)


@pytest.fixture(autouse=True)
def _clean():
    before = dict(plt.rcParams)
    yield
    plt.close("all")
    assert dict(plt.rcParams) == before, "a picture changed matplotlib's settings for good"


def causal(*shape):
    torch.manual_seed(0)
    return kt.masked_softmax(torch.randn(*shape), kt.causal_mask(shape[-1]))


def png(figure) -> bytes:
    held = io.BytesIO()
    figure.savefig(held, format="png")
    return held.getvalue()


def pictures():
    n = len(TEXT)
    vocab = kt.CharVocab.from_documents([TEXT.replace("⁇", "")])
    x, y = kt.NamePlace([("Where was Ada born?", "Rome")], vocab)[0]
    return {
        "map": plots.attention_map(causal(n, n), TEXT),
        "long map": plots.attention_map(causal(128, 128), (TEXT * 5)[:128]),
        "words": plots.attention_map(torch.ones(2, 3) / 3, ["a", "b"], ["the", "animal", "it"]),
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
        assert figure.get_size_inches()[0] <= plots.WIDTH, name
        assert png(figure).startswith(b"\x89PNG"), name
    assert not [
        str(w.message)
        for w in recwarn
        if "Glyph" in str(w.message) or "constrained" in str(w.message)
    ]


def test_the_same_picture_twice():
    draw = lambda: png(plots.attention_map(causal(9, 9), TEXT[:9]))  # noqa: E731
    assert draw() == draw()


def colours_of(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def test_forbidden_cells_are_grey_and_weights_are_not():
    n = 6
    grey = matplotlib.colors.to_rgba(plots.GREY)
    drawn = colours_of(plots.attention_map(causal(n, n), TEXT[:n]))
    is_grey = np.isclose(drawn, grey).all(-1)
    assert (is_grey == ~np.tril(np.ones((n, n), bool))).all()
    full = colours_of(plots.attention_map(torch.full((n, n), 1 / n), TEXT[:n]))
    assert not np.isclose(full, grey).all(-1).any(), "a map without a mask has nothing forbidden"
    given = colours_of(plots.attention_map(torch.eye(n), TEXT[:n], mask=torch.ones(n, n).bool()))
    assert not np.isclose(given, grey).all(-1).any(), "a mask that is given says what is forbidden"
    across = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    assert np.isclose(colours_of(plots.attention_map(across, "ab", "abc")), grey).all(
        -1
    ).tolist() == [[False, False, True], [False] * 3]


def test_one_scale_for_all_maps_and_small_weights_show():
    one, half, small, zero = colours_of(
        plots.attention_map(
            torch.tensor([[1.0, 0.5], [0.01, 0.0]]), "ab", mask=torch.ones(2, 2).bool()
        )
    ).reshape(4, -1)
    assert abs(small - zero).max() > 0.05, "one per cent must be seen beside nothing"
    again = colours_of(plots.attention_map(torch.tensor([[0.5, 0.5], [0.5, 0.5]]), "ab")).reshape(
        4, -1
    )
    assert np.allclose(again[0], half)
    assert not np.allclose(one, half)


def test_ticks_are_characters_with_signs_for_white_space_and_thinned_beyond_64():
    ax = plots.attention_map(causal(4, 4), "a b\n").axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "␣", "b", "↵"]
    ax = plots.attention_map(causal(128, 128), "x" * 128).axes[0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert 8 <= len(labels) <= 64
    assert labels[1].startswith("x ")


def test_a_map_that_does_not_fit_its_text_is_refused():
    with pytest.raises(ValueError, match="lengths"):
        plots.attention_map(causal(4, 4), "abc")


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
