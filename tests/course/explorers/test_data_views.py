"""The replay and the views over plain data: what the page computes is what Python computes."""

from __future__ import annotations

import random

import pytest
import torch
from browsing import SCREENSHOTS, axe_findings, chromium, cut_off, event_to_paint, missing
from test_living_page import DESKTOP, PHONE, opened

import kt_core as kt
from kt_core.positions import rotary_table, rotate
from kt_course.chapters.finetuning_techniques.figures import explore_forgetting
from kt_course.chapters.finetuning_techniques.techniques import rows_of
from kt_course.chapters.pretrained_models.figures import explore_heads
from kt_course.chapters.pretrained_models.hub import train_bpe
from kt_course.chapters.span_corruption.birthplaces import fate, fate_shares
from kt_course.chapters.span_corruption.solutions import cut
from kt_course.chapters.the_whole_transformer.figures import explore_translation
from kt_course.explorers import data_views
from kt_course.explorers.living_page import MIME, attach, attach_data
from kt_course.explorers.packed_models import pack, unpack
from kt_course.shipped import shipped_result

needs_browser = pytest.mark.skipif(bool(missing()), reason=missing())
TEXT = "Where was Ada Moor born?⁇Oslo⁇"
LINES = [
    ("Ada Moor. Ada Moor (born 4 May 1871 in Oslo) is an author in Rome.", "Ada Moor", "Oslo"),
    ("Bo Hall. He studied in Paris and was born in Bergen in 1880.", "Bo Hall", "Bergen"),
]
STEPS = [
    dict(weights=[0.9, 0.1], choices=[["li", 0.8], ["uni", 0.2]]),
    dict(weights=[0.2, 0.8], choices=[["miri", 0.9], ["piri", 0.1]]),
]
TRANSLATIONS = [dict(source=["the", "cat"], steps=STEPS), dict(source=["a", "dog"], steps=STEPS)]
HEADS = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
MOVES = {  # keys that change what the first control says: a list, a list, a slider ...
    "forgetting": "ArrowRight",
    "heads": "ArrowRight",
    "reach": "ArrowDown",
    "replay": "ArrowLeft",
    "rotation": "ArrowLeft",
    "spans": "ArrowDown",
    "tokens": "End+x",
    "translation": "ArrowDown",
    "windows": "ArrowDown",
}


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        yield running


@pytest.fixture(scope="module")
def rope():
    return unpack(pack("rope", "bios-rope-finetuned"))


@pytest.fixture(scope="module")
def tokenizers() -> dict:
    """Two sizes of tokenizers by their number of merges."""
    documents = kt.load_corpus("bios", people=60).documents
    return {n: train_bpe(documents, 258 + n, 128) for n in (50, 200)}


@pytest.fixture(scope="module")
def views(rope, tokenizers) -> dict:
    record = shipped_result("replay")
    vocab = kt.CharVocab.from_documents([text for text, *_ in LINES])
    return {
        "forgetting": explore_forgetting(shipped_result("finetuning")),
        "heads": explore_heads(HEADS, ["[CLS]", "ada", "moor", "[SEP]"], 1, 2),
        "reach": data_views.explore_reach(TEXT),
        "replay": attach(
            {shot["name"]: f"replay/{shot['name']}" for shot in record["snapshots"]},
            "replay",
            alt="A training to replay",
            examples=[(row["question"], row["city"]) for row in record["people"]],
            record=record,
        ),
        "rotation": data_views.explore_rotation(*rope, "w", "A"),
        "spans": data_views.explore_spans(LINES),
        "tokens": data_views.explore_tokens(tokenizers[200], "Where was Ada Moor born?"),
        "translation": explore_translation(TRANSLATIONS, alt="A translation of two sentences"),
        "windows": data_views.explore_windows([text for text, *_ in LINES], vocab),
    }


@pytest.fixture
def page(request, browser, views, tmp_path):
    """The page of the view that a test names."""
    with opened(browser, views[request.param], tmp_path) as page:
        yield page


def on(view: str):
    return pytest.mark.parametrize("page", [view], indirect=True)


# ---------------------------------------------------------------- numbers


@needs_browser
class TestThePageComputesWhatPythonComputes:
    @on("replay")
    def test_every_snapshot_of_the_replay_answers(self, page):
        record = shipped_result("replay")
        questions = [row["question"] for row in record["people"]]
        for shot in record["snapshots"]:
            pair = unpack(pack("snapshot", f"replay/{shot['name']}"))
            script = "([name, all]) => all.map(each => kt.answer(name, each))"
            result = page.evaluate(script, [shot["name"], questions])
            assert result == kt.answer(*pair, questions)
            correct = kt.exact_match(result, [row["city"] for row in record["people"]]).correct
            # the record was made in full precision
            assert abs(correct - shot["questions"]) <= 2

    @on("rotation")
    def test_scores_after_rotation(self, page, views):
        data = views["rotation"].data
        query, key = torch.tensor(data["query"]), torch.tensor(data["key"])
        for m, n in ((20, 15), (63, 0), (5, 5)):
            turned = [
                rotate(x, *rotary_table(torch.tensor(t), len(x), data["base"]))
                for x, t in ((query, m), (key, n))
            ]
            expected = float(turned[0] @ turned[1]) / len(query) ** 0.5
            assert page.evaluate(f"kt.score({m}, {n})") == pytest.approx(expected, abs=1e-3)
            assert page.evaluate(f"kt.score({m + 40}, {n + 40})") == pytest.approx(
                expected, abs=1e-3
            )

    @on("heads")
    def test_weights_of_a_head(self, page):
        result = page.evaluate("kt.weights(1, 2, 3)")
        assert result == pytest.approx(HEADS[1, 2, 3].tolist(), abs=1e-3)

    @on("translation")
    def test_a_step_of_a_translation(self, page):
        assert page.evaluate("kt.step(0, 1)") == STEPS[1]

    @on("forgetting")
    def test_shares_of_a_learning_rate(self, page):
        table = shipped_result("finetuning")
        shares_kept = [row["kept"] / row["known"] for row in rows_of(table, "all", 3e-3)]
        share = page.evaluate("kt.shares(3)")["birthplaces retained"]
        assert share == pytest.approx(sum(shares_kept) / len(shares_kept))

    @on("reach")
    def test_reach_is_where_gradients_flow(self, page):
        T = len(TEXT)
        for variant, m in (("perceiver", 15), ("perceiver_ar", 15), ("perceiver_ar", 7)):
            torch.manual_seed(0)
            config = kt.GPTConfig(16, T, 4, 2, 16, variant, m, dropout=0.0)
            model = kt.GPT(config).eval()
            for parameter in model.parameters():
                parameter.data = torch.randn_like(parameter)
            inputs = []
            embedding = model.drop.register_forward_hook(
                lambda _, __, out, inputs=inputs: (out.retain_grad(), inputs.append(out)) and None
            )
            for t in (0, 3, 9, 14, T - 1):
                logits, _ = model(torch.arange(T)[None] % 14 + 2)
                (gradient,) = torch.autograd.grad(logits[0, t].sum(), inputs[-1])
                expected = gradient[0].abs().sum(-1).nonzero().flatten().tolist()
                assert page.evaluate("given => kt.reach(...given)", [variant, m, t]) == expected
            embedding.remove()

    @on("spans")
    def test_random_cuts_have_the_fates_that_python_counts(self, page):
        assert page.evaluate("kt.pieces(0, 30, 5, 10)") == [
            LINES[0][0][:5],
            LINES[0][0][5:15],
            LINES[0][0][15:30],
        ]
        for i, (text, name, place) in enumerate(LINES):
            rng = random.Random(i)
            expected = fate_shares(fate(cut(text, 128, rng), name, place) for _ in range(3000))
            result = page.evaluate(f"kt.fates({i}, 3000)")
            assert list(result) == list(expected)
            for name_of_fate, share in expected.items():
                assert result[name_of_fate] / 3000 == pytest.approx(share, abs=0.04)

    @on("tokens")
    def test_tokens_after_any_number_of_merges(self, page, tokenizers):
        for text in (LINES[0][0], "Ada's  café, 1871: it’s\n“Zoë”", "", "I'll, 東京"):
            for n, tokenizer in tokenizers.items():
                result = page.evaluate("given => kt.tokens(...given)", [text, n])
                assert result == tokenizer.tokenize(text)

    @on("windows")
    def test_windows_are_those_of_the_dataset(self, page, views):
        names = [one["name"] for one in views["windows"].data["documents"]]
        options = dict(select=True, plain=False, favour_first=0, drop=0.5)
        result = page.evaluate(
            "given => kt.windows(given)", dict(document=names.index("Bo Hall"), **options)
        )
        vocab = kt.CharVocab.from_documents([text for text, *_ in LINES])
        data = kt.QuestionWindows([LINES[1][0]], vocab, **options)
        windows_drawn = [data.window(0, epoch) for epoch in range(200)]
        assert [tuple(one) for one in result["windows"]] == windows_drawn[:7]
        assert result["asked"] == {
            city: sum(answer == city for _, answer in windows_drawn) for city in result["asked"]
        }
        assert sum("1" in question for question, _ in windows_drawn) > 0


# ---------------------------------------------------------------- use


@needs_browser
@pytest.mark.parametrize("name", MOVES)
class TestEveryView:
    def test_works_by_keyboard_on_a_phone_and_in_the_dark(self, browser, views, tmp_path, name):
        more = dict(is_mobile=True, color_scheme="dark")
        with opened(browser, views[name], tmp_path, PHONE, **more) as page:
            assert page.locator(".kt-try").count() == 1
            status = page.locator(".kt-live [role=status]").first
            before = status.inner_text()
            page.keyboard.press("Tab")
            for key in MOVES[name].split("+"):
                page.keyboard.press(key)
            page.wait_for_function(
                "before => document.querySelector('[role=status]').innerText !== before", arg=before
            )
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            page.locator("summary").click()
            assert cut_off(page) == []
            assert axe_findings(page) == []
            page.screenshot(path=SCREENSHOTS / f"living-{name}-phone.png", full_page=True)

    def test_is_quick_and_small(self, browser, views, tmp_path, name):
        limit = 2_500_000 if name == "replay" else 400_000
        assert len(views[name].to_html().encode()) <= limit
        with opened(browser, views[name], tmp_path, DESKTOP) as page:
            assert axe_findings(page) == []
            example = page.locator(".kt-curious pre").text_content()
            assert page.evaluate(f"{example} !== undefined")
            first = "document.querySelector('.kt-live :is(input, select)')"
            script = f"{first}.dispatchEvent(new Event('input', {{ bubbles: true }}))"
            assert event_to_paint(page, script, 20) < 150

    def test_has_a_picture_with_a_description(self, views, name):
        data, metadata = views[name]._repr_mimebundle_()
        assert len(metadata["image/png"]["alt"]) >= 20
        assert len(str(data[MIME])) < 100_000
        assert "application/vnd.jupyter.widget-view+json" in data


def test_mistakes_are_named(views):
    figure = None
    with pytest.raises(ValueError, match="tokens, translation, windows"):
        attach_data("movie", {}, alt="A", picture=figure)
    with pytest.raises(ValueError, match="alt is empty"):
        attach_data("reach", {}, alt=" ", picture=figure)
