"""Explorers: what they show is what the models compute, every control redraws, and a saved
notebook keeps a picture."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time

import ipywidgets
import ipywidgets.embed
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import kt_core as kt
from kt_core.blocks import VARIANTS
from kt_course.chapters.attention_math.explorer import explore_attention
from kt_course.explorers import reading, shell

TEXT = "Where was Ada Hall born?⁇Rome"
MOST_BYTES = 400_000  # what one explorer may add to a notebook
SLOWEST = 0.3  # seconds of processor time a redraw: twice what is wanted, for slow machines


@pytest.fixture(scope="module")
def corpus():
    return kt.load_corpus("bios", people=20)


def gpt(vocab, variant="rope", seed=0, block=64, n_layer=3, n_head=2, n_embd=16, **more):
    torch.manual_seed(seed)
    config = kt.GPTConfig(
        len(vocab), block, n_layer, n_head, n_embd, variant, block // 2, dropout=0.1, **more
    )
    model = kt.GPT(config)
    model.head.weight.data *= 30
    return model.eval()


@pytest.fixture
def make(corpus):
    """name -> a fresh explorer."""
    vocab = corpus.vocab
    return {
        "attention": lambda: explore_attention({v: gpt(vocab, v) for v in VARIANTS}, vocab, TEXT)
    }


NAMES = ("attention",)
MOVES = {
    "attention": dict(
        text="She was born in ??", model="perceiver", training="before", layer=0, head=1, query=3
    )
}


@pytest.fixture(autouse=True)
def _clean():
    before, random = dict(plt.rcParams), torch.get_rng_state()
    yield
    assert plt.get_fignums() == [], "a figure that a later cell would show by itself"
    assert dict(plt.rcParams) == before, "matplotlib's settings were changed for good"
    torch.set_rng_state(random)


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def alert(view) -> str:
    return view.message.value if "role=" in view.message.value else ""


# ---------------------------------------------------------------- what holds for every explorer


@pytest.mark.parametrize(
    ("name", "control"), [(name, control) for name in NAMES for control in MOVES[name]]
)
def test_every_control_draws_another_picture_and_back_again_the_first(make, name, control):
    view = make[name]()
    assert set(MOVES[name]) == set(view.controls)
    before, first = view.state, view.png
    view.controls[control].value = MOVES[name][control]
    assert not alert(view)
    assert view.png != first, f"{control} changes nothing"
    for key, value in before.items():  # one control may have moved others
        view.controls[key].value = value
    assert view.state == before
    assert view.png == first, "the picture depends on what was shown before"
    assert make[name]().png == first, "two explorers with the same arguments differ"


@pytest.mark.parametrize("name", NAMES)
class TestEvery:
    def test_a_saved_notebook_keeps_its_first_picture_beside_the_widget(self, make, name):
        view = make[name]()
        first = view.png
        control, value = next(iter(MOVES[name].items()))
        view.controls[control].value = value
        data, metadata = view._repr_mimebundle_()
        assert metadata["image/png"]["alt"].startswith(view.name)
        assert set(data) == {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"}
        twin = base64.b64decode(data["image/png"])
        assert pixels(twin).shape == pixels(first).shape
        assert np.abs(pixels(twin) - pixels(first)).mean() < 1, (
            "the twin is the picture of the defaults"
        )
        assert "0x" not in data["text/plain"], "an address differs from run to run"
        assert data["text/plain"] == make[name]()._repr_mimebundle_()[0]["text/plain"]
        assert pixels(twin).shape[1] <= 900

    def test_nothing_is_asked_of_the_network(self, make, name):
        view = make[name]()
        assert "http" not in view.picture.value + view.message.value
        assert 'src="data:image/png;base64,' in view.picture.value
        assert "<script" not in view.picture.value

    def test_without_ipywidgets_the_picture_is_shown_with_what_to_install(
        self, make, name, monkeypatch, capsys
    ):
        live = make[name]()
        monkeypatch.setitem(sys.modules, "ipywidgets", None)
        monkeypatch.delitem(sys.modules, "kt_course.explorers.live")
        still = make[name]()
        assert still.twin == live.twin
        assert still.note == live.note
        still._ipython_display_()
        assert "pip install ipywidgets" in capsys.readouterr().out

    def test_a_redraw_is_quick(self, make, name):
        view = make[name]()
        for control, value in MOVES[name].items():
            spent = []
            for one in [value, view.state[control]] * 2:
                began = time.process_time()
                view.controls[control].value = one
                spent.append(time.process_time() - began)
            assert min(spent) < SLOWEST, f"{control} takes {1000 * min(spent):.0f} ms"


def test_the_largest_view_stays_small_even_if_a_notebook_keeps_the_widgets_state(corpus):
    vocab = corpus.vocab
    model = gpt(vocab, block=128, n_layer=4, n_head=8, n_embd=64)
    documents = " ".join(corpus.documents)[:128]
    views = [explore_attention({"big": model}, vocab, documents)]
    for view in views:
        kept = ipywidgets.embed.dependency_state(
            [view]
        )  # of this view alone, not of every widget so far
        state = json.dumps(ipywidgets.embed.embed_data(views=[view], state=kept)["manager_state"])
        output = json.dumps(view._repr_mimebundle_())
        assert len(state) + len(output) < MOST_BYTES, view.name
        assert len(output) < len(state), "the state holds the live picture: it was measured"


def test_importing_them_asks_for_no_widgets_and_importing_the_package_for_no_explorers():
    code = (
        "import sys, kt_core; assert 'kt_course.explorers' not in sys.modules and 'matplotlib' not in sys.modules\n"  # noqa: E501
        "import kt_course.explorers; assert 'ipywidgets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_mistake_in_the_call_is_told_at_once(corpus):
    vocab = corpus.vocab
    with pytest.raises(ValueError, match="at least one model"):
        explore_attention({}, vocab)
    with pytest.raises(ValueError, match="layer must lie"):
        explore_attention({"m": gpt(vocab)}, vocab, layer=9)
    with pytest.raises(ValueError, match="not among"):
        explore_attention({"m": gpt(vocab)}, vocab, "漢")
    with pytest.raises(ValueError, match="belong together"):
        explore_attention({"m": gpt(vocab)}, kt.CharVocab("ab"))


# ---------------------------------------------------------------- attention


@pytest.fixture
def attention(make):
    return make["attention"]()


def test_what_cannot_be_read_is_said_in_the_widget_and_the_last_picture_stays_faint(attention):
    first = attention.png
    for words, said in (("", "text is empty"), ("Ada 漢", "U+6F22"), ("<b>é</b>", "not among")):
        attention.controls["text"].value = words
        assert said in alert(attention)
        assert attention.png == first
        assert "opacity" in attention.picture.value
        assert "<b>" not in attention.message.value, "what was typed is text, not HTML"
    attention.controls["text"].value = "Ada"
    assert not alert(attention)
    assert "opacity" not in attention.picture.value
    assert attention.png != first


def test_a_long_text_is_cut_with_a_note(attention):
    attention.controls["text"].value = "Ada Hall. " * 20
    assert "200 characters, the model reads 64" in alert(attention)
    assert attention.state["query"] == 63
    assert attention.controls["query"].max == 63


@pytest.mark.parametrize("typed", ["born? ??Rome", "born? ⁇Rome"])
def test_two_question_marks_stand_for_the_mask_sign(typed):
    assert reading.typed(typed) == "born? ⁇Rome"
    assert reading.typed("born???") == "born?⁇"


@pytest.mark.parametrize(
    "kind", [*(dict(variant=v) for v in VARIANTS), dict(causal=False)], ids=str
)
def test_the_maps_are_those_of_a_plain_recording_and_grey_is_what_no_weight_may_reach(corpus, kind):
    model, vocab = gpt(corpus.vocab, **kind), corpus.vocab
    with kt.record_attention(model) as maps, torch.no_grad():
        model(torch.tensor([vocab.encode(TEXT)]))
    found = reading.read(model, vocab, TEXT)
    T = len(TEXT)
    for layer, wanted in zip(found.layers, maps, strict=True):
        assert np.array_equal(layer.weights, wanted[0].numpy())
        assert layer.weights.shape[1:] == (len(layer.queries.signs), len(layer.keys.signs))
        assert ((layer.weights > 0) == layer.allowed[None]).all()
        for query in range(len(layer.queries.signs)):
            weights, seen = layer.over_text(layer.weights[0, query], query, T)
            assert not weights[~seen].any(), "weight on a character that the query cannot know"
            on_null = layer.weights[0, query][layer.keys.at < 0].sum()
            assert weights.sum() + on_null == pytest.approx(1, abs=1e-5)
    assert found.layers[-1].writer(T) == T - 1


def test_latents_are_called_by_the_newest_character_that_they_know(corpus):
    model, vocab = gpt(corpus.vocab, "perceiver_ar"), corpus.vocab
    down, middle, up = reading.read(model, vocab, "abcdef").layers
    assert down.queries.signs == ["b", "d", "f"]
    assert down.keys.signs == list("abcdef")
    assert middle.keys.names[1] == "latent 1 (up to “d” at 3)"
    assert up.keys.signs == ["∅", "b", "d", "f"]
    assert up.keys.at.tolist() == [-1, 1, 3, 5]
    weights = np.array([0.5, 0.1, 0.2, 0.2])
    assert up.over_text(weights, 5, 6)[0].tolist() == [0, 0.1, 0, 0.2, 0, 0.2], (
        "the null latent is nowhere"
    )
    blind = reading.read(gpt(vocab, "perceiver"), vocab, "abcdef").layers[0]
    assert blind.queries.signs == list("abcdef")


def test_the_readout_names_the_key_with_the_largest_weight(corpus):
    model, vocab = gpt(corpus.vocab), corpus.vocab
    view = explore_attention({"m": model}, vocab, TEXT)
    view.controls["layer"].value, view.controls["head"].value, view.controls["query"].value = (
        1,
        1,
        20,
    )
    with kt.record_attention(model) as maps, torch.no_grad():
        model(torch.tensor([vocab.encode(TEXT)]))
    weights = maps[1][0, 1, 20]
    at = int(weights.argmax())
    sign = TEXT[at].replace(" ", "␣")
    assert f"“{sign}” at {at} ({100 * float(weights[at]):.0f} %)" in view.note


def test_before_training_means_fresh_weights_that_are_the_same_each_time_and_draw_nothing(corpus):
    views = [
        explore_attention({"m": gpt(corpus.vocab, seed=s)}, corpus.vocab, TEXT) for s in (1, 2)
    ]
    for seed, view in enumerate(views):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        view.controls["training"].value = "before"
        assert torch.equal(torch.get_rng_state(), state)
    assert views[0].png == views[1].png
    views[0].controls["training"].value = "after"
    assert views[0].png != views[1].png


def test_models_of_other_shapes_stand_side_by_side(corpus):
    vocab = corpus.vocab
    models = {
        "deep": gpt(vocab, n_layer=4, n_head=8, n_embd=64),
        "small": gpt(vocab, "perceiver", n_layer=2),
    }
    view = explore_attention(models, vocab, TEXT)
    view.controls["head"].value = 7
    view.controls["model"].value = "small"
    assert (view.state["layer"], view.state["head"]) == (1, 1)
    assert view.controls["head"].max == 1
    view.controls["model"].value = "deep"
    assert view.controls["head"].max == 7


def told(picture, grid=0):
    """What the browser is given about a grid of the picture."""
    raw = picture.value.split('data-grids="')[1].split('"')[0]
    return json.loads(raw.replace("&quot;", '"').replace("&#x27;", "'").replace("&amp;", "&"))[grid]


def test_the_mouse_is_told_the_weights_and_where_the_map_lies(corpus):
    vocab = corpus.vocab
    view = explore_attention({"m": gpt(vocab)}, vocab, TEXT, layer=1)
    grid, T = told(view.picture), len(TEXT)
    steps = np.frombuffer(base64.b64decode(grid["weights"]), np.uint8).reshape(T, T)
    weights = reading.read(gpt(vocab), vocab, TEXT).layers[1].weights[0]
    assert ((steps == 255) == ~np.tri(T, dtype=bool)).all(), "255 is where none may look"
    seen = np.tri(T, dtype=bool)
    assert np.abs((steps[seen] / 254.0) ** 2 - weights[seen]).max() < 0.005
    assert grid["rows"][24] == "“⍰” at 24"
    left, top, width, height = grid["box"]
    drawn = pixels(view.png)
    high, wide = drawn.shape[:2]
    grey = np.array([0xDA] * 3)
    corner = drawn[int((top + 0.02 * height) * high), int((left + 0.98 * width) * wide)]
    assert (corner == grey).all(), "the upper right corner of the box is in the future"
    below = drawn[int((top + 0.9 * height) * high), int((left + 0.02 * width) * wide)]
    assert (below != grey).any()
    tiles = told(view.picture, 1)
    assert len(tiles["texts"]) == 3 * 2
    assert "bits" in tiles["texts"][0]


def test_clicks_choose_queries_and_heads_and_nonsense_does_nothing(attention):
    attention.clicked.value = "0 7 3 1700000000000"
    assert attention.state["query"] == 7
    attention.clicked.value = "1 0 1 1700000000001"
    assert (attention.state["layer"], attention.state["head"]) == (0, 1)
    assert "Layer 0, head 1" in attention.note
    before, first = attention.state, attention.png
    for click in ("", "x", "5 0 0 1", "0 99999 0 2", "0 -1 0 3", "0 1"):
        attention.clicked.value = click
    assert (attention.state, attention.png) == (before, first)


def test_pictures_are_drawn_on_pages_that_pyplot_does_not_know():
    figure, ax = shell.page(3, 2)
    ax.plot([0, 3], [0, 2])
    assert shell.png(figure).startswith(b"\x89PNG")
    assert pixels(shell.png(figure)).shape == (200, 300, 3)
