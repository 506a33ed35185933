"""The JavaScript engine against PyTorch, and its explorers in a real browser without a network."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
import torch
from browsing import (
    SCREENSHOTS,
    CpuClock,
    axe_findings,
    chromium,
    cut_off,
    event_to_paint,
    missing,
    tab,
)

import kt_core as kt
from kt_core.blocks import VARIANTS
from kt_core.vocab import MASK
from kt_course.exercises import my_gpt
from kt_course.exercises.solutions import teaching_solution
from kt_course.exercises.training import answer_questions, fit
from kt_course.explorers.beam_search import top_answers
from kt_course.explorers.living_page import MIME, LivingView, attach
from kt_course.explorers.packed_models import pack, unpack
from kt_course.tools.html_export import write_page

DESKTOP, PHONE = (1100, 900), (390, 844)
PLAIN = ("vanilla", "rope")  # those whose residual stream stands for characters
TOLERANCE = 1e-3

needs_browser = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def dev() -> list[tuple[str, str]]:
    return list(kt.load_corpus("bios").dev)


@pytest.fixture(scope="module")
def examples(dev) -> list[tuple[str, str]]:
    """The first question, two of the same length with other answers, and one more."""
    first = dev[0]
    same = [one for one in dev if len(one[0]) == len(first[0]) and one[1][0] != first[1][0]]
    return [first, *same[1:3], dev[1]]


@pytest.fixture(scope="module")
def models() -> dict:
    """The finetuned models with the weights that the page has, by variant: (model, vocab)."""
    return {name: unpack(pack(name, f"bios-{name}-finetuned")) for name in VARIANTS}


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        yield running


@contextmanager
def opened(browser, view: LivingView, folder: Path, screen=DESKTOP, **context):
    """The view in a page of its own; whatever the page complains about fails the test."""
    path = folder / f"{view.view}.html"
    path.write_text(view.to_html(f"Living page: {view.view}"), encoding="utf-8")
    with tab(browser, *screen, path.as_uri(), **context) as page:
        messages = []
        page.on("console", lambda message: messages.append(message.text))
        page.goto(path.as_uri())
        page.locator("[data-ready]").wait_for()
        yield page
        assert not page.strays and not page.problems and not messages


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory, examples):
    """A page with all four variants."""
    sources = {name: f"bios-{name}-finetuned" for name in VARIANTS}
    view = attach(sources, "attention", alt="Attention of four models", examples=examples)
    with opened(browser, view, tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(autouse=True)
def restored(request):
    """All heads are back before each test that shares the page."""
    if "page" in request.fixturenames:
        shared = request.getfixturevalue("page")
        shared.evaluate("kt.models().forEach(name => kt.knockOut(name, []))")


@torch.no_grad()
def logits_of(pair, text: str) -> torch.Tensor:
    model, vocab = pair
    return model(torch.tensor([vocab.encode(text)]))[0][0]


def difference(result, expected: torch.Tensor) -> float:
    return float((torch.tensor(result) - expected).abs().max())


@torch.no_grad()
def states_of(pair, text: str) -> list[torch.Tensor]:
    """The residual stream after the embedding and after each block, n_layer + 1 times (T, C)."""
    states, (model, vocab) = [], pair
    layers = (model.drop, *model.blocks)
    handles = [each.register_forward_hook(lambda _, __, x: states.append(x[0])) for each in layers]
    model(torch.tensor([vocab.encode(text)]))
    for handle in handles:
        handle.remove()
    return states


def patched_logits(pair, text: str, source: str, places: list[tuple[int, int]]) -> torch.Tensor:
    """Logits of `text` where states at some (state, position) are those of `source`."""
    clean, (model, _) = states_of(pair, source), pair
    handles = []
    for state, layer in enumerate((model.drop, *model.blocks)):
        at = [position for row, position in places if row == state]

        def replace(module, inputs, x, state=state, at=at):
            x = x.clone()
            x[0, at] = clean[state][at]
            return x

        handles.append(layer.register_forward_hook(replace))
    logits = logits_of(pair, text)
    for handle in handles:
        handle.remove()
    return logits


@contextmanager
def without(model: kt.GPT, heads: list[tuple[int, int]]):
    """The model with the outputs of some heads set to 0 before they are mixed."""
    hs = model.config.n_embd // model.config.n_head
    handles = []
    for layer, head in heads:

        def silence(module, inputs, head=head):
            context = inputs[0].clone()
            context[..., head * hs : (head + 1) * hs] = 0
            return (context,)

        proj = model.blocks[layer].attn.proj
        handles.append(proj.register_forward_pre_hook(silence))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------- numbers


@needs_browser
class TestTheEngineComputesWhatPyTorchComputes:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_logits_on_50_questions(self, page, models, dev, variant):
        texts = [question + MASK for question, _ in dev[:50]]
        script = "([name, texts]) => JSON.stringify(texts.map(text => kt.logits(name, text)))"
        result = json.loads(page.evaluate(script, [variant, texts]))
        for text, logits in zip(texts, result, strict=True):
            assert difference(logits, logits_of(models[variant], text)) < TOLERANCE

    @pytest.mark.parametrize("variant", ["vanilla", "rope", "perceiver_ar"])
    def test_greedy_answers_to_all_dev_questions(self, page, models, dev, variant):
        questions = [question for question, _ in dev]
        script = "([name, questions]) => questions.map(each => kt.answer(name, each))"
        result = page.evaluate(script, [variant, questions])
        assert len(result) == 250
        assert result == kt.answer(*models[variant], questions)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_attention(self, page, models, dev, variant):
        model, vocab = models[variant]
        text = dev[3][0] + MASK
        with torch.no_grad(), kt.record_attention(model) as maps:
            model(torch.tensor([vocab.encode(text)]))
        result = page.evaluate("([name, text]) => kt.attention(name, text)", [variant, text])
        assert len(result) == len(maps)
        for layer, expected in zip(result, maps, strict=True):
            assert difference(layer, expected[0]) < 1e-4

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_likeliest_answers(self, page, models, dev, variant):
        question = dev[5][0]
        result = page.evaluate("([name, q]) => kt.topAnswers(name, q, 5)", [variant, question])
        expected = top_answers(*models[variant], question, 5)
        assert [one["answer"] for one in result] == [answer for answer, _ in expected]
        probabilities = torch.tensor([p for _, p in expected])
        assert difference([one["probability"] for one in result], probabilities) < 1e-4

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_heads_knocked_out(self, page, models, dev, variant):
        heads, text = [(1, 0), (2, 3), (2, 1)], dev[7][0] + MASK
        page.evaluate("([name, heads]) => kt.knockOut(name, heads)", [variant, heads])
        result = page.evaluate("([name, text]) => kt.logits(name, text)", [variant, text])
        with without(models[variant][0], heads):
            expected = logits_of(models[variant], text)
        assert difference(result, expected) < TOLERANCE
        assert difference(result, logits_of(models[variant], text)) > 0.1

    @pytest.mark.parametrize("variant", PLAIN)
    def test_a_block_knocked_out(self, page, models, dev, variant):
        text = dev[8][0] + MASK
        page.evaluate("name => kt.knockOut(name, [[2]])", variant)
        result = page.evaluate("([name, text]) => kt.logits(name, text)", [variant, text])
        model, _ = models[variant]
        skip = model.blocks[2].register_forward_hook(lambda block, inputs, out: inputs[0])
        expected = logits_of(models[variant], text)
        skip.remove()
        assert difference(result, expected) < TOLERANCE

    @pytest.mark.parametrize("variant", PLAIN)
    def test_logit_lens(self, page, models, dev, variant):
        model, _ = models[variant]
        text = dev[9][0] + MASK
        states = torch.stack(states_of(models[variant], text))
        result = page.evaluate("([name, text]) => kt.lens(name, text)", [variant, text])
        with torch.no_grad():
            expected = model.head(model.ln_f(states)).softmax(-1)
        assert difference(result, expected) < TOLERANCE

    @pytest.mark.parametrize("variant", PLAIN)
    def test_patches(self, page, models, examples, variant):
        text, source = (question + MASK for question, _ in examples[:2])
        places = [(2, 18), (1, 15), (4, 20)]
        expected = patched_logits(models[variant], text, source, places)
        result = page.evaluate("texts => kt.patch(...texts)", [variant, text, source, places])
        assert difference(result, expected) < TOLERANCE
        assert difference(result, logits_of(models[variant], text)) > 0.1

    def test_the_learners_own_model(self, browser, tmp_path, dev):
        """All pieces are the learner's, who trains the model with their own loop."""
        answers = {id: teaching_solution(piece) for id, piece in my_gpt.pieces().items()}
        mine = my_gpt.assemble({"": my_gpt.HEADER} | answers, judged=(), notebook="02_build_a_gpt")
        assert set(mine.pieces.values()) == {""}
        vocab = kt.CharVocab.from_documents([f"{question}{city}" for question, city in dev])
        torch.manual_seed(0)
        model = mine.GPT(kt.GPTConfig(len(vocab), 64, 2, 2, 32, dropout=0.0))
        fit(mine.train, model, kt.NamePlace(dev[:8], vocab, 64), epochs=30)
        model.half().float()  # the page has half precision
        view = attach({"mine": (model, vocab)}, "ask", alt="My own", examples=dev[:2])
        questions = [question for question, _ in dev[:50]]
        with opened(browser, view, tmp_path) as page:
            result = page.evaluate("all => all.map(each => kt.answer('mine', each))", questions)
            assert result == answer_questions(mine.greedy, model, vocab, questions)
            logits = page.evaluate("text => kt.logits('mine', text)", questions[0] + MASK)
            assert difference(logits, logits_of((model, vocab), questions[0] + MASK)) < TOLERANCE

    @pytest.mark.parametrize(
        "options",
        [
            dict(variant="perceiver_ar", bottleneck=5, n_layer=3),  # stride 7: newest inputs added
            dict(variant="rope", n_head=1, rope_base=500.0),
            dict(variant="vanilla", causal=False, qk_norm=True),
        ],
        ids=["perceiver_ar", "rope", "encoder"],
    )
    def test_a_model_of_other_sizes(self, browser, tmp_path, examples, options):
        torch.manual_seed(0)
        vocab = kt.CharVocab.from_documents([question for question, _ in examples])
        config = dict(block_size=33, n_layer=2, n_head=4, n_embd=24, dropout=0.0) | options
        model = kt.GPT(kt.GPTConfig(len(vocab), **config)).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
        view = attach({"mine": (model, vocab)}, alt="A model", examples=examples, picture=empty())
        pair, (text, _) = unpack(view.models[0]), examples[0]
        with opened_without_view(browser, view, tmp_path) as page:
            result = page.evaluate("text => kt.logits('mine', text)", text + MASK)
            assert difference(result, logits_of(pair, text + MASK)) < TOLERANCE
            if model.config.causal:
                answer = page.evaluate("text => kt.answer('mine', text)", text)
                assert [answer] == kt.answer(*pair, [text])
            else:
                self.check_filling(page, pair, f"{text[:12]}{MASK * 3}{text[15:]}")

    def check_filling(self, page, pair, text: str) -> None:
        """An encoder fills masks as Python does, in the page's hook and in its view."""
        (_, vocab), logits = pair, logits_of(pair, text)
        logits[:, :2] = -torch.inf
        at = [position for position, letter in enumerate(text) if letter == MASK]
        expected = vocab.decode(logits[at].argmax(-1).tolist())
        assert page.evaluate("text => kt.fill('mine', text)", text) == expected
        page.locator(".kt-live input").fill(text)
        wait_for_status(page, f"The model fills the masks with: {expected}")

    def test_errors_say_what_is_wrong(self, page):
        def error(call: str) -> str:
            return page.evaluate(f"() => {{ try {{ {call} }} catch (e) {{ return e.message }} }}")

        assert "“ß” (position 1)" in error("kt.answer('rope', 'Gß')")
        assert "reads 128" in error("kt.logits('rope', 'a'.repeat(129))")
        assert "only: vanilla, rope" in error("kt.answer('nobody', 'Who?')")
        assert "layers 0 to 3" in error("kt.knockOut('rope', [[4, 0]])")
        assert "vanilla or rope" in error("kt.lens('perceiver_ar', 'Who?')")


def empty():
    """A picture that costs no time."""
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))


@contextmanager
def opened_without_view(browser, view: LivingView, folder: Path):
    """The page of a view, where only `window.kt` is used: its explorer may refuse the model."""
    path = folder / "page.html"
    path.write_text(view.to_html(), encoding="utf-8")
    with tab(browser, *DESKTOP, path.as_uri()) as page:
        page.goto(path.as_uri())
        page.wait_for_function(  # the weights are unpacked after the page has loaded
            "() => { try { return kt.config(kt.models()[0]) } catch { return false } }"
        )
        yield page
        assert not page.strays


# ---------------------------------------------------------------- explorers


VIEWS = {
    "attention": {"finetuned": "bios-rope-finetuned"},
    "ask": {
        "no pretraining": "bios-vanilla-scratch",
        "pretrained": "bios-vanilla-pretrained",
        "finetuned": "bios-vanilla-finetuned",
    },
    "lens": {"finetuned": "bios-vanilla-finetuned"},
}


@pytest.fixture(scope="module")
def views(examples) -> dict[str, LivingView]:
    return {
        name: attach(models, name, alt=f"Explorer: {name}", examples=examples)
        for name, models in VIEWS.items()
    }


def wait_for_status(page, text: str, number: int = 0) -> None:
    """Wait until a live region says `text`: it changes with the next frame."""
    page.wait_for_function(
        "([text, i]) => document.querySelectorAll('[role=status]')[i].textContent.includes(text)",
        arg=[text, number],
    )


TYPE = """const input = document.querySelector('.kt-live input');
  input.value = 'Where was ' + 'Alina Wallace Nelson'.slice(0, 4 + i % 16) + ' born?';
  input.dispatchEvent(new Event('input', { bubbles: true }));"""
HOVER = """const map = document.querySelector('.kt-map'), box = map.getBoundingClientRect();
  map.dispatchEvent(new MouseEvent('mousemove', { bubbles: true,
    clientX: box.left + 20 + 7 * i % 200, clientY: box.top + 100 + 11 * i % 200 }));"""


@needs_browser
class TestTheExplorersAreQuickAndSelfContained:
    def test_size_and_time_until_ready(self, browser, views, tmp_path):
        path = tmp_path / "page.html"
        path.write_text(views["attention"].to_html(), encoding="utf-8")
        assert path.stat().st_size <= 2_000_000
        with tab(browser, *DESKTOP, path.as_uri()) as page:
            page.goto(path.as_uri())
            page.locator("[data-ready]").wait_for()
            milliseconds = CpuClock(page).milliseconds("ProcessTime")
        print(f"page {path.stat().st_size / 1e6:.2f} MB, ready after {milliseconds:.0f} ms of CPU")
        assert milliseconds < 1500

    @pytest.mark.parametrize("what, script, limit", [("hover", HOVER, 50), ("typing", TYPE, 150)])
    def test_event_to_paint(self, browser, views, tmp_path, what, script, limit):
        with opened(browser, views["attention"], tmp_path) as page:
            milliseconds = event_to_paint(page, script)
        print(f"{what}: p95 {milliseconds:.0f} ms from event to paint")
        assert milliseconds < limit

    def test_an_exported_notebook_lives(self, browser, views, models, dev, tmp_path):
        """Explorers on one page share the engine, and the weights that they have in common."""
        cells = []
        for name in ("attention", "attention", "lens"):
            data, metadata = views[name]._repr_mimebundle_()
            output = nbformat.v4.new_output("display_data", data, metadata=metadata)
            cells.append(nbformat.v4.new_code_cell("attach(...)", outputs=[output]))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "chapter.ipynb")
        target = tmp_path / "chapter.html"
        write_page(tmp_path / "chapter.ipynb", target)
        assert target.stat().st_size < 4_200_000
        with tab(browser, *DESKTOP, target.as_uri()) as page:
            page.goto(target.as_uri())
            for number in range(3):
                page.locator("#kt-living-" + str(number + 1)).scroll_into_view_if_needed()
                page.locator("[data-ready]").nth(number).wait_for()
            assert page.locator(".kt-curious").count() == 1
            assert page.evaluate("kt.models()") == ["finetuned", "finetuned (2)"]
            questions = [question for question, _ in dev[:5]]
            ask = "([name, all]) => all.map(each => kt.answer(name, each))"
            for name, variant in (("finetuned", "rope"), ("finetuned (2)", "vanilla")):
                result = page.evaluate(ask, [name, questions])
                assert result == kt.answer(*models[variant], questions)
            assert not page.strays and not page.problems


@needs_browser
class TestTheExplorersCanBeUsed:
    def test_attention_by_keyboard_alone(self, browser, views, tmp_path, examples):
        with opened(browser, views["attention"], tmp_path) as page:
            page.screenshot(path=SCREENSHOTS / "living-attention.png", full_page=True)
            wait_for_status(page, f"The model answers: {examples[0][1]}")
            focused = "document.activeElement.getAttribute('aria-label')"
            page.keyboard.press("Tab")  # the text
            page.keyboard.press("ControlOrMeta+A")
            page.keyboard.type(examples[3][0])
            wait_for_status(page, examples[3][1])
            page.keyboard.press("Tab")
            while "listbox" != page.evaluate("document.activeElement.parentElement.role"):
                page.keyboard.press("Tab")
            before = page.locator(".kt-readout").inner_text()
            page.keyboard.press("ArrowLeft")
            assert page.locator(".kt-readout").inner_text() != before
            page.keyboard.press("Tab")
            assert page.evaluate(focused).startswith("Show layer 0, head 0")
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("ArrowDown")
            assert page.evaluate(focused).startswith("Skip layer 1")
            page.keyboard.press("Enter")
            wait_for_status(page, "Without block 1 the model answers")
            page.keyboard.press("Enter")
            wait_for_status(page, f"The model answers: {examples[3][1]}")
            page.keyboard.press("Home")
            page.keyboard.press("ArrowUp")
            for _ in range(2):
                page.keyboard.press("ArrowRight")
            page.keyboard.press("Enter")
            assert page.locator(".kt-tile[aria-pressed=true]").get_attribute("aria-label") == (
                "Show layer 0, head 1"
            )
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")
            wait_for_status(page, "Without head 1 of layer 0 the model answers")
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            page.keyboard.press("Enter")
            wait_for_status(page, f"The model answers: {examples[3][1]}")

    def test_every_head_is_tried_in_turn(self, browser, views, tmp_path, examples):
        with opened(browser, views["attention"], tmp_path) as page:
            page.get_by_role("button", name="Try each head in turn").click()
            page.wait_for_function(
                "document.querySelector('.kt-readout').textContent.includes('It falls most')"
            )
            captions = page.locator(".kt-tile + .kt-out").all_inner_texts()
            assert len(captions) == 16 and all("%" in caption for caption in captions)

    def test_the_models_answer_side_by_side(self, browser, views, models, tmp_path, examples):
        with opened(browser, views["ask"], tmp_path) as page:
            done = "document.querySelectorAll('.kt-answers li').length === 15"
            page.wait_for_function(done)
            page.screenshot(path=SCREENSHOTS / "living-ask.png", full_page=True)
            best = page.locator(".kt-cards .kt-answer strong").all_inner_texts()
            assert best[2] == examples[0][1]
            page.get_by_role("button", name=examples[3][0][10:-6]).click()
            wait_for_status(page, examples[3][1])
            page.locator("input").fill("Where was ßßß born?")
            wait_for_status(page, "never seen the character “ß”")

    def test_lens_and_patching_agree_with_python(self, browser, views, models, tmp_path, examples):
        pair, (_, vocab) = models["vanilla"], models["vanilla"]
        (question, _), (other, answer), *_ = examples
        letters, T = torch.tensor(vocab.encode(answer)), len(question) + 1

        def restored(state: int, position: int) -> float:
            near = range(max(position - 3, 0), min(position + 4, T))
            texts = question + MASK + answer, other + MASK + answer
            logits = patched_logits(pair, *texts, [(state, each) for each in near])
            steps = logits[T - 1 : -1].log_softmax(-1)  # (letters, V)
            return float(steps.gather(1, letters[:, None]).sum().exp())

        at = range(10, T)  # before the name both texts are equal
        expected = torch.tensor([[restored(row, each) for each in at] for row in range(5)])
        with opened(browser, views["lens"], tmp_path) as page:
            wait_for_status(page, "Each cell", 1)
            page.screenshot(path=SCREENSHOTS / "living-lens.png", full_page=True)
            rows = page.locator("[role=grid]").nth(1).locator("[role=row]").all()[:0:-1]
            for row, shares in zip(rows, expected.tolist(), strict=True):
                texts = row.locator("[role=gridcell]").all_inner_texts()[10:]
                for text, share in zip(texts, shares, strict=True):
                    assert abs(int(text or 0) - 100 * share) < (1.1 if text else 10.1)
            row, column = divmod(int(expected.argmax()), expected.size(1))
            rows[row].locator("[role=gridcell]").nth(10 + column).click()
            wait_for_status(page, f"the model answers: {answer}", 1)


@needs_browser
class TestTheExplorersAreAccessible:
    @pytest.mark.parametrize("view", VIEWS)
    def test_a_phone_shows_everything(self, browser, views, tmp_path, view):
        with opened(browser, views[view], tmp_path, PHONE, is_mobile=True) as page:
            page.wait_for_timeout(300)
            assert page.evaluate("innerWidth") == PHONE[0]
            page.locator("summary").click()
            assert cut_off(page) == []
            page.screenshot(path=SCREENSHOTS / f"living-{view}-phone.png", full_page=True)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("view", VIEWS)
    def test_axe_finds_nothing_serious(self, browser, views, tmp_path, view, scheme):
        with opened(browser, views[view], tmp_path, color_scheme=scheme) as page:
            assert page.locator(".kt-live").get_attribute("data-theme") == scheme
            page.locator("summary").click()
            page.wait_for_timeout(500)
            page.screenshot(path=SCREENSHOTS / f"living-{view}-{scheme}.png", full_page=True)
            assert axe_findings(page) == []


# ---------------------------------------------------------------- the Python side


class TestAttach:
    def test_bundle_has_picture_description_and_page(self, views):
        data, metadata = views["attention"]._repr_mimebundle_()
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
        assert data["text/plain"] == metadata["image/png"]["alt"] == "Explorer: attention"
        assert len(str(data[MIME])) < 5_000  # names the shipped weights, does not hold them
        assert "application/vnd.jupyter.widget-view+json" in data

    def test_the_picture_has_alt_text_in_the_page(self, views):
        assert 'alt="Explorer: lens"' in views["lens"].to_html()

    def test_a_model_in_memory_is_stored_with_its_weights(self, models, examples):
        sources = {"mine": models["rope"]}
        view = attach(sources, alt="Mine", examples=examples, picture=empty())
        (weights,) = view.stored()["weights"].values()
        assert base64.b64decode(weights["base64"]) == view.models[0].weights
        assert pack("shipped", "bios-rope-finetuned").key == view.models[0].key

    @pytest.mark.parametrize(
        "change, message",
        [
            (dict(view="movie"), "attention, ask, lens"),
            (dict(alt=" "), "alt is empty"),
            (dict(models={}), "0 models"),
            (dict(examples=[]), "0 examples"),
        ],
    )
    def test_mistakes_are_named(self, examples, change, message):
        arguments = dict(
            models={"a": "bios-rope-finetuned"}, view="ask", alt="A", examples=examples
        )
        with pytest.raises(ValueError, match=message):
            attach(**arguments | change)
