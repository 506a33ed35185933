"""Explorers as widgets in JupyterLab: the kernel sends the weights, the page runs the model."""

from __future__ import annotations

import nbformat
import pytest
from answering import posed, right_cell
from browsing import SCREENSHOTS, Notebook, axe_findings, chromium, jupyterlab, missing, tab
from checking import cells

from kt_course.explorers.living_page import MIME, attach

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

CELL = """import kt_core as kt
from kt_course.explorers.living_page import attach

dev = kt.load_corpus("bios").dev
attach({"rope": "bios-rope-finetuned"}, alt="Attention of a rope model", examples=dev[:3])"""
# anywidget gives up on a script that starts too late; here every script does.
LATE = """AbortSignal.timeout = () => {
  const late = new AbortController();
  setTimeout(() => late.abort());
  return late.signal;
};"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with jupyterlab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with chromium() as running:
        yield running


@pytest.fixture
def opened(lab, browser):
    """A function: a notebook with these cells in JupyterLab, all of them run."""
    with tab(browser, 1300, 1000, lab.address) as page:

        def run(*sources, script=""):
            notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
            notebook.metadata.kernelspec = dict(name="python3", display_name="Python 3")
            nbformat.write(notebook, lab.folder / "living.ipynb")
            page.add_init_script(script)
            opened = Notebook(page, lab, "living")
            opened.run_all()
            page.locator(".kt-live[data-ready]").wait_for()
            return opened

        yield run
        assert not page.strays
    lab.close("living")


def test_the_explorer_lives_in_jupyterlab(opened):
    notebook = opened(CELL)
    page = notebook.page
    assert notebook.trouble() == []
    page.screenshot(path=SCREENSHOTS / "living-lab.png")
    status = page.locator(".kt-live [role=status]")
    before = status.inner_text()
    assert "The model answers: " in before
    page.locator(".kt-tile + .kt-out").nth(0).click()
    page.wait_for_function(
        "document.querySelector('.kt-live [role=status]').textContent.includes('Without')"
    )
    page.get_by_role("button", name="Restore all heads").click()
    page.wait_for_function(
        "text => document.querySelector('.kt-live [role=status]').textContent === text", arg=before
    )
    assert page.evaluate("kt.models()") == ["rope"]
    assert not page.problems


def test_it_lives_even_where_anywidget_gave_up(opened):
    notebook = opened(CELL, script=LATE)
    assert "Failed to initialize model" in str(notebook.page.problems)


def test_a_walk_by_keyboard(opened):
    """An exercise, a question and an explorer of chapter 1: reached, changed, and their results."""
    chapter, id = cells("01_attention_math"), "scaled-score"
    parts = ["imports", f"answer-{id}", "quiz-divide-by-d", "explore"]
    page = opened(*[chapter[part].source for part in parts]).page
    walk_to_cell(page, 1)
    page.keyboard.press("Enter")
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.insert_text(right_cell(id, posed("01_attention_math")[id]))
    page.keyboard.press("Control+Enter")
    page.get_by_text(f"{id}: right. ").wait_for()
    walk_to_cell(page, 2)
    tab_to(page, "e => e.matches('button.jupyter-button')")
    page.keyboard.press("Space")
    page.get_by_text("a is wrong.").or_(page.get_by_text("a is right.")).wait_for()
    tab_to(page, "e => e.matches('.kt-live input')")
    page.keyboard.press("ControlOrMeta+A")
    status = page.locator(".kt-live [role=status]").first
    before = status.inner_text()
    page.keyboard.type("Where was Tara Finch born?")
    page.wait_for_function(
        "([e, before]) => e.innerText !== before", arg=[status.element_handle(), before]
    )
    for area in (".kt-live", ".widget-vbox"):
        assert axe_findings(page, f"'{area}'") == []
    assert not page.problems


def walk_to_cell(page, number: int) -> None:
    """Leave what is being edited, and press the arrow keys until this cell is the active one."""
    page.keyboard.press("Escape")
    active = "[...document.querySelectorAll('.jp-Notebook .jp-Cell')].findIndex(e => e.matches('.jp-mod-active'))"  # noqa: E501
    while (at := page.evaluate(active)) != number:
        page.keyboard.press("ArrowUp" if at > number else "ArrowDown")


def tab_to(page, condition: str, most: int = 60) -> None:
    """Press Tab until the element in focus fulfils the condition; its focus can be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate(f"({condition})(document.activeElement)"):
            break
    else:
        pytest.fail(f"{most} times Tab did not reach {condition}")
    looks = "(({ outlineStyle, boxShadow }) => outlineStyle + boxShadow)"
    assert page.evaluate(f"{looks}(getComputedStyle(document.activeElement))") != "nonenone"


def test_a_saved_notebook_holds_no_weights():
    examples = [("Where was Ada born?", "Rome")]
    data, _ = attach(
        {"rope": "bios-rope-finetuned"}, alt="A", examples=examples
    )._repr_mimebundle_()
    assert sum(len(str(value)) for kind, value in data.items() if kind != "image/png") < 5_000
    assert data[MIME]["weights"].popitem()[1] == {"checkpoint": "bios-rope-finetuned"}
