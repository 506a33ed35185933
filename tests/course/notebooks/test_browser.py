"""The workbook in a real browser: notebooks in JupyterLab as a learner uses them, and the pages
of `kt workbook`.

Needs Chromium and Playwright; without them all tests here are skipped, and with
KT_BROWSER=required they fail.
Screenshots are kept in runs/browser.
"""

from __future__ import annotations

import os
import re
import shutil

import nbformat
import pytest
from answering import posed, right_cell
from browsing import (
    ROOT,
    SCREENSHOTS,
    Notebook,
    axe_findings,
    chromium,
    cut_off,
    jupyterlab,
    missing,
    move,
    tab,
)
from test_notebooks import NAMES, PATHS

from kt_course.exercises.quizzes import quizzes
from kt_course.tools.html_export import write_page

pytestmark = pytest.mark.slow

if missing() and os.environ.get("KT_BROWSER") != "required":
    pytest.skip(missing(), allow_module_level=True)

DESKTOP, PHONE = (1280, 1000), (390, 844)

# Mistakes as a learner types them: a body for the exercise's function, and what the verdict must
# match.
# A notebook without one of these gets NONSENSE for its first exercise.
MISTAKES = {
    "causal-mask": ("return torch.ones(T, T, dtype=torch.bool).triu()", "leak from the future"),
    "shift-and-pad": ("return torch.zeros(2, len(examples), length)", "two tensors"),
    "sign-test": ("return 0.5", "9 wins and 1 losses"),
    "learning-rate": (
        "return min(1.0, (step + 1) / max(1, config.warmup_steps))",
        "it never falls",
    ),
    "reach-mask": (
        "return key_reach.unsqueeze(-2) >= query_reach.unsqueeze(-1)",
        "the wrong way round",
    ),
    "rotary-frequencies": (
        "return base ** (2 * torch.arange(head_dim // 2) / head_dim)",
        "sign of the exponent",
    ),
}
NONSENSE = ("return 'London'", "")


@pytest.fixture(scope="module")
def browser():
    if missing():
        pytest.fail(missing(), pytrace=False)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with chromium() as running:
        yield running


# ---------------------------------------------------------------- notebooks in JupyterLab


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with jupyterlab(
        tmp_path_factory.mktemp("lab"), os.environ.get("KT_BROWSER_PROFILE", "smoke")
    ) as running:
        yield running


@pytest.fixture(scope="module")
def page(lab, browser):
    """One page, in which one notebook is opened after the other."""
    with tab(browser, *DESKTOP, lab.address) as page:
        yield page


@pytest.fixture(scope="module", params=NAMES)
def notebook(request, lab, page):
    """The notebook after Run All Cells."""
    page.strays.clear()
    page.problems.clear()
    opened = Notebook(page, lab, request.param)
    opened.run_all()
    yield opened
    page.screenshot(path=SCREENSHOTS / f"{request.param}.png")
    lab.close(request.param)


def test_every_cell_runs_without_error_and_nothing_is_asked_of_the_network(notebook):
    assert not notebook.trouble()
    assert not notebook.open_cells()
    assert not notebook.page.strays and not notebook.page.problems


def test_a_committed_notebook_shows_its_pictures_before_anything_runs(lab, browser):
    """Also those of its explorers: JupyterLab runs no saved widget of a notebook that comes from
    elsewhere."""
    name = next(path.stem for path in PATHS if b"widget-view+json" in path.read_bytes())
    committed = lab.folder / "committed" / f"{name}.ipynb"
    committed.parent.mkdir()
    shutil.copy(ROOT / "notebooks" / committed.name, committed)
    outputs = [
        o for c in nbformat.read(committed, as_version=4).cells for o in c.get("outputs", [])
    ]
    with tab(browser, *DESKTOP, lab.address) as page:
        Notebook(page, lab, f"committed/{name}")
        images = page.locator(".jp-Notebook .jp-OutputArea-output img")
        assert images.count() == sum("image/png" in output.get("data", {}) for output in outputs)
        assert images.evaluate_all(
            "all => all.every(each => each.complete && each.naturalWidth > 100)"
        )
    lab.close(f"committed/{name}")


def test_every_living_page_runs_its_model_anew(notebook):
    """Its first control is moved, and what it says changes."""
    pattern = r"^(?:\w+ = )?(?:\w+\.)?(?:attach|explore_\w+)\("
    called = re.findall(pattern, "\n".join(notebook.sources), re.MULTILINE)
    ready = notebook.page.locator(".jp-Notebook .kt-live[data-ready]")
    if called:
        ready.nth(len(called) - 1).wait_for(state="attached", timeout=60_000)
    views = ready.all()
    assert len(views) == len(called)
    for number, view in enumerate(views, 1):
        before = view.inner_text()
        move(view.locator("input:not([type=checkbox]), select").first)
        notebook.page.wait_for_function(
            "([view, before]) => view.innerText !== before", arg=[view.element_handle(), before]
        )
        view.screenshot(path=SCREENSHOTS / f"{notebook.name}-living-{number}.png")


def test_an_exercise_is_judged_where_it_is_typed(notebook):
    stubs = posed(notebook.name)
    if not stubs:
        pytest.skip("this notebook has no exercises")
    id = next((id for id in stubs if id in MISTAKES), next(iter(stubs)))
    body, diagnosis = MISTAKES.get(id, NONSENSE)
    assert stubs[id].rstrip().endswith("...")
    verdict = notebook.answer(id, stubs[id].rstrip().removesuffix("...") + body)
    assert re.match(rf"{id}: wrong\. .*{diagnosis}", verdict)
    notebook.cell(f'exercise("{id}")').screenshot(path=SCREENSHOTS / f"{notebook.name}-wrong.png")
    assert notebook.answer(id, right_cell(id, stubs[id])).startswith(f"{id}: right. ")
    notebook.cell(f'exercise("{id}")').screenshot(path=SCREENSHOTS / f"{notebook.name}-right.png")


def test_a_question_is_answered_by_its_buttons(notebook):
    questions = [quiz for quiz in quizzes().values() if quiz.notebook == notebook.name]
    if not questions:
        pytest.skip("this notebook asks no questions")
    quiz = questions[0]
    letter, choice = next(
        each for each in zip(quiz.letters, quiz.choices, strict=True) if each[1].correct
    )
    cell = notebook.cell(f'quiz("{quiz.id}")')
    cell.get_by_role("button", name=letter, exact=True).click()
    cell.get_by_text(f"{letter} is right. {choice.why}", exact=True).wait_for()


# ---------------------------------------------------------------- pages


FLAT = """all => all.filter(
  m => !getComputedStyle(m).display.includes('math') || m.clientHeight < 4
).length"""
SMALL = "all => all.filter(each => !each.complete || each.naturalWidth < 100)"
FOLD = "open => document.querySelectorAll('main details').forEach(each => each.open = open)"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_everything_without_a_network(browser, name, tmp_path):
    notebook = ROOT / "notebooks" / f"{name}.ipynb"
    write_page(notebook, tmp_path / f"{name}.html")
    with tab(browser, *DESKTOP, tmp_path.as_uri(), has_touch=True) as page:
        page.goto((tmp_path / f"{name}.html").as_uri())
        page.screenshot(path=SCREENSHOTS / f"page-{name}-{DESKTOP[0]}.png")
        assert cut_off(page) == []
        folds = page.locator("main details")
        assert folds.count() and not page.locator("main details[open]").count()
        folds.first.locator("summary").first.click()
        assert page.locator("main details[open]").count() == 1
        page.evaluate(FOLD, True)
        assert cut_off(page) == []
        assert axe_findings(page) == []
        cells = nbformat.read(notebook, as_version=4).cells
        written = any("$" in cell.source for cell in cells if cell.cell_type == "markdown")
        assert bool(page.locator("math").count()) == written
        assert page.locator("math").evaluate_all(FLAT) == 0
        pictures = page.locator(".jp-RenderedImage img")
        assert pictures.count() >= 2 and pictures.evaluate_all(SMALL) == []
        shows_everything_on_a_phone(page, name)
        assert not page.strays and not page.problems


def shows_everything_on_a_phone(page, name: str) -> None:
    """Nothing is cut off, folded or not, and a picture that is tapped becomes larger."""
    page.set_viewport_size(dict(zip(("width", "height"), PHONE, strict=True)))
    assert cut_off(page) == []
    page.evaluate(FOLD, False)
    page.screenshot(path=SCREENSHOTS / f"page-{name}-{PHONE[0]}.png")
    assert cut_off(page) == []
    pictures = page.locator(".jp-RenderedImage img")
    pictures.first.tap()
    assert pictures.first.bounding_box()["width"] > PHONE[0]
    assert cut_off(page) == []
