"""The living page as a widget: JupyterLab gets the weights from the kernel and runs the model."""

from __future__ import annotations

import browsing
import nbformat
import pytest
from browsing import SCREENSHOTS, Notebook, chromium, jupyterlab, missing, tab

from kt_course.explorers.living_page import MIME, attach

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

CELL = """import kt_core as kt
from kt_course.explorers.living_page import attach

dev = kt.load_corpus("bios").dev
attach({"rope": "bios-rope-finetuned"}, alt="Attention of a rope model", examples=dev[:3])"""


@pytest.fixture
def one_notebook(monkeypatch):
    """JupyterLab's folder holds a single notebook with one explorer."""

    def write(folder):
        folder.mkdir(parents=True)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
        notebook.metadata.kernelspec = dict(name="python3", display_name="Python 3")
        nbformat.write(notebook, folder / "living.ipynb")
        return [folder / "living.ipynb"]

    monkeypatch.setattr(browsing, "release", write)


def test_the_explorer_lives_in_jupyterlab(one_notebook, tmp_path):
    with (
        jupyterlab(tmp_path) as lab,
        chromium() as browser,
        tab(browser, 1300, 1000, lab.address) as page,
    ):
        notebook = Notebook(page, lab, "living")
        notebook.run_all()
        assert notebook.trouble() == []
        page.locator(".kt-live[data-ready]").wait_for()
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
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
            "text => document.querySelector('.kt-live [role=status]').textContent === text",
            arg=before,
        )
        assert page.evaluate("kt.models()") == ["rope"]
        assert not page.strays and not page.problems


def test_a_saved_notebook_holds_no_weights():
    examples = [("Where was Ada born?", "Rome")]
    data, _ = attach(
        {"rope": "bios-rope-finetuned"}, alt="A", examples=examples
    )._repr_mimebundle_()
    assert sum(len(str(value)) for kind, value in data.items() if kind != "image/png") < 5_000
    assert data[MIME]["weights"].popitem()[1] == {"checkpoint": "bios-rope-finetuned"}
