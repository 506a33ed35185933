"""Exported pages: every picture of a chapter has its text alternative there."""

from __future__ import annotations

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook, new_output

from kt_course.tools.html_export import write_page
from kt_course.tools.site import read_site
from kt_course.tools.workbook import find_notebooks

PICTURE = "iVBORw0KGgo="


def alts(path) -> list[str | None]:
    """The alt text of each picture in a notebook's outputs; None where there is none."""
    outputs = [
        output
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    return [output.metadata.get("image/png", {}).get("alt") for output in outputs]


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_every_picture_of_a_notebook_has_alt_text(path):
    texts = alts(path)
    if not any(texts):
        pytest.skip("this notebook does not use `show` yet")
    assert all(texts), (
        f"pictures without alt text: {[i for i, alt in enumerate(texts, 1) if not alt]}"
    )


def test_a_page_has_the_alt_text_of_the_notebook(tmp_path):
    alt = 'Bars: "rope" 97 %, <London> 5 %'
    output = new_output(
        "display_data", {"image/png": PICTURE}, metadata={"image/png": {"alt": alt}}
    )
    notebook = new_notebook(cells=[new_code_cell("show(figure, alt)", outputs=[output])])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    write_page(tmp_path / "a.ipynb", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert BeautifulSoup(page, "html.parser").img["alt"] == alt
    assert "No description has been provided" not in page


@pytest.mark.parametrize("chapter", ["01", "03", "06", "14"])
def test_a_page_with_one_small_model_is_small(chapter, tmp_path):
    (path,) = (path for path in find_notebooks() if path.stem.startswith(chapter))
    write_page(path, tmp_path / "page.html", read_site(find_notebooks()))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('id="kt-weights-') == 1
    assert len(page.encode()) <= 2_500_000
