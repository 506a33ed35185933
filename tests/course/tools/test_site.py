"""The workbook's site: what it knows about chapters, and its pages in a real browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
import zlib
from itertools import accumulate

import nbformat
import pytest
from browsing import SCREENSHOTS, axe_findings, chromium, cut_off, missing, tab
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from kt_core.evaluation import Score
from kt_course.tools.front_page import chart_alt, chart_note, headline, write_front_page
from kt_course.tools.html_export import write_page
from kt_course.tools.site import cover, read_chapter, read_site, write_appendices
from kt_course.tools.workbook import find_notebooks

DESKTOP, PHONE = (1280, 900), (390, 844)
PROSE = r"""# 7. Rotary & positions

Queries turn. More text.

## 7.1 Why $\sqrt{d}$

The dot product grows. See [chapter 2](02_two.ipynb#Loss).

### Exercise 1

Write it.
"""


def write(folder, name, *cells):
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def png(colour) -> str:
    file = io.BytesIO()
    Image.new("RGB", (900, 300), colour).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


class TestChapters:
    def test_title_sections_exercises_and_words(self, tmp_path):
        exercise = new_code_cell("...", metadata={"tags": ["exercise"]})
        chapter = read_chapter(write(tmp_path, "07_mine", new_markdown_cell(PROSE), exercise))
        assert chapter.title == "7. Rotary & positions"
        assert chapter.sentence == "Queries turn."
        assert chapter.exercises == 1
        assert [one.title for one in chapter.sections[1:]] == ["7.1 Why √d", "Exercise 1"]
        assert "dot product" in chapter.sections[1].text
        assert "Write it" not in chapter.sections[1].text
        assert chapter.minutes(seconds=600) == 20

    def test_search_index_and_neighbours(self, tmp_path):
        names = ("01_one", "02_two", "03_three")
        site = read_site([write(tmp_path, name, new_markdown_cell(PROSE)) for name in names])
        before, after = site.neighbours("02_two")
        assert (before.name, after.name) == ("01_one", "03_three")
        assert site.neighbours("01_one")[0] is None
        index = json.loads(zlib.decompress(base64.b64decode(site.search_index)))
        headings, words, steps = index
        page, _, anchor, title = next(row for row in headings if row[3] == "7.1 Why √d")
        assert (page, anchor.startswith("7.1-Why")) == ("01_one", True)
        places = dict(zip(words, map(list, map(accumulate, steps)), strict=True))
        assert [headings[i][0] for i in places["product"]][:3] == list(names)

    def test_links_between_notebooks_lead_to_pages(self, tmp_path):
        first = write(tmp_path, "01_one", new_markdown_cell(PROSE))
        second = write(tmp_path, "02_two", new_markdown_cell("# Two"))
        write_page(first, tmp_path / "01_one.html", read_site([first, second]))
        assert 'href="02_two.html#Loss"' in (tmp_path / "01_one.html").read_text(encoding="utf-8")

    def test_cover_is_the_picture_of_the_marked_cell(self):
        def cell(colour, *tags):
            output = new_output("display_data", {"image/png": png(colour)})
            return new_code_cell("1", outputs=[output], metadata={"tags": list(tags)})

        red, blue = cell("red"), cell("blue", "cover")
        assert cover(new_notebook(cells=[red, blue])) == base64.b64decode(png("blue"))
        assert cover(new_notebook(cells=[red])) == base64.b64decode(png("red"))
        assert cover(new_notebook(cells=[new_code_cell("1")])) is None


@pytest.mark.parametrize("corpus", ["bios", "wiki"])
def test_the_chart_has_london_no_pretraining_and_each_variant(corpus):
    bars = headline(corpus)
    assert [bar.kind for bar in bars[:2]] == ["london", "scratch"]
    finetuned = [bar.model for bar in bars if bar.kind == "finetuned"]
    assert {"vanilla", "rope"} <= set(finetuned)
    assert all(isinstance(bar.score, Score) for bar in bars)
    assert all(f"{100 * bar.score.accuracy:.1f} %" in chart_alt(bars) for bar in bars)
    assert f"{bars[0].score.total} held-out people" in chart_note(corpus, bars)


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder as `kt workbook` leaves it, with three of the committed notebooks."""
    folder = tmp_path_factory.mktemp("site")
    paths = find_notebooks(["1", "2", "4"])
    site, facts = read_site(paths), dict(seconds=60, page=True, error=None, facts=None)
    for path in paths:
        shutil.copy(path, folder)
        scores = [("dev always London", Score(13, 250))]
        write_page(folder / path.name, folder / f"{path.stem}.html", site, scores)
    write_appendices(site, folder)
    broken = facts | {"error": "cell [3]: ValueError: " + "what went wrong " * 9}
    results = dict(
        parameters=dict(profile="quick", corpus="bios", seed=0),
        seconds=180.0,
        notebooks={path.stem: facts for path in paths} | {paths[-1].stem: broken},
    )
    write_front_page(folder, site, results, None)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
class TestPages:
    @pytest.mark.parametrize("screen, scheme", [(DESKTOP, "dark"), (PHONE, "light")])
    def test_fit_the_screen_are_accessible_and_ask_for_nothing(self, browser, site, screen, scheme):
        for path in sorted(site.glob("*.html")):
            more = dict(color_scheme=scheme, is_mobile=screen == PHONE)
            with tab(browser, *screen, site.as_uri(), **more) as page:
                messages = []
                page.on("console", lambda message, messages=messages: messages.append(message.text))
                page.goto(path.as_uri())
                page.screenshot(path=SCREENSHOTS / f"site-{path.stem}-{screen[0]}-{scheme}.png")
                assert page.evaluate("innerWidth") == screen[0]
                assert cut_off(page) == [], path.name
                assert axe_findings(page) == [], path.name
                assert not page.strays and not page.problems and not messages, path.name

    def test_a_walk_by_keyboard(self, browser, site):
        """Skip link, search, a chapter, the next chapter, the colours."""
        with tab(browser, *DESKTOP, site.as_uri(), color_scheme="light") as page:
            page.goto((site / "index.html").as_uri())
            focused = "document.activeElement.textContent.trim()"
            page.keyboard.press("Tab")
            assert page.evaluate(focused) == "Skip to the text"
            outline = "getComputedStyle(document.activeElement).outlineStyle"
            assert page.evaluate(outline) == "solid"
            page.keyboard.press("/")
            page.keyboard.type("training loop")
            page.locator("#found a").first.wait_for()
            assert "sections found" in page.locator("#found-status").inner_text()
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            page.wait_for_url("**/02_build_a_gpt.html#*")
            assert page.locator("#contents [aria-current=page]").inner_text().startswith("2.")
            page.locator("a[rel=next]").press("Enter")
            page.wait_for_url("**/04_no_pretrain_baseline.html")
            before = page.evaluate("getComputedStyle(document.body).backgroundColor")
            page.locator("#theme").press("Enter")
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
            assert page.locator("#theme").get_attribute("aria-pressed") == "true"

    def test_explorer_exercise_and_quiz_by_keyboard_alone(self, browser, site):
        """From the front page's model to a chapter, its hints, its quiz and its explorer."""
        with tab(browser, *DESKTOP, site.as_uri()) as page:
            page.goto((site / "index.html").as_uri())
            self.ask_by_keyboard(page)
            self.tab_to(page, "e => e.href?.endsWith('01_attention_math.html')")
            page.keyboard.press("Enter")
            page.wait_for_url("**/01_attention_math.html*")
            for start in ("Hint 1", "a) "):
                self.tab_to(
                    page, f"e => e.localName === 'summary' && e.innerText.startsWith('{start}')"
                )
                page.keyboard.press("Enter")
                assert page.evaluate("document.activeElement.parentElement.open")
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline in ("solid", "auto")
            assert page.evaluate("document.activeElement.parentElement.innerText").count(". ") > 0
            self.ask_by_keyboard(page)

    def tab_to(self, page, condition: str, most: int = 400) -> None:
        """Press Tab until the element in focus fulfils the condition."""
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate(f"({condition})(document.activeElement)"):
                return
        pytest.fail(f"{most} times Tab did not reach {condition}")

    def ask_by_keyboard(self, page) -> None:
        """Reach the explorer, type a question, and wait until its answer is another one."""
        self.tab_to(page, "e => e.matches('.kt-live input')")
        regions = "[...document.querySelectorAll('.kt-live [role=status]')]"
        said = f"{regions}.map(each => each.textContent).join()"
        page.wait_for_function(f"{said}.length > 5")
        before = page.evaluate(said)
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.type("Where was Tara Finch born?")
        page.wait_for_function(f"before => {said} !== before", arg=before)

    def test_pages_lead_to_glossary_and_bibliography_and_can_be_printed(self, browser, site):
        for page_name in ("index", "glossary", "01_attention_math"):
            with tab(browser, *DESKTOP, site.as_uri(), color_scheme="light") as page:
                page.goto((site / f"{page_name}.html").as_uri())
                page.locator("#theme").click()  # dark: paper is light all the same
                for name in ("glossary", "bibliography"):
                    assert page.locator(f"#contents a[href='{name}.html']").is_visible()
                page.emulate_media(media="print")
                assert all(page.locator(each).is_hidden() for each in ("header.bar", "#contents"))
                paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert paper == "rgb(255, 255, 255)" and page.locator("h1").first.is_visible()

    def test_a_page_with_one_small_model_is_small(self, site):
        assert (site / "01_attention_math.html").stat().st_size <= 2_500_000

    def test_search_says_when_nothing_is_found(self, browser, site):
        with tab(browser, *PHONE, site.as_uri(), is_mobile=True) as page:
            page.goto((site / "01_attention_math.html").as_uri())
            page.locator("#search").fill("xylophone")
            page.get_by_text("no sections found").wait_for()
            page.locator("#search").press("Escape")
            assert page.locator("#found").is_hidden()

    def test_the_model_on_the_front_page_answers(self, browser, site):
        with tab(browser, *DESKTOP, site.as_uri()) as page:
            page.goto((site / "index.html").as_uri())
            page.locator("#ask").scroll_into_view_if_needed()
            page.locator(".kt-live[data-ready]").wait_for()
            page.wait_for_function("document.querySelectorAll('.kt-answers li').length === 10")
            assert page.evaluate("kt.models()") == ["no pretraining", "pretrained + finetuned"]
            page.screenshot(path=SCREENSHOTS / "site-index-1280-light.png", full_page=True)
            assert axe_findings(page) == []
            assert not page.strays and not page.problems
