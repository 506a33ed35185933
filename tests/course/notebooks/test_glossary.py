"""docs/glossary.md: each term once, in order, and linked to a chapter that uses it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (.+?) \| (.+) \| \[(\d+)\]\((.+?)\) \|$", re.M)
TERMS, NOTATION = (ROW.findall(part) for part in PAGE.split("## Notation"))


def text_of(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(cell.source for cell in cells).lower()


@pytest.fixture(scope="module")
def chapters() -> dict[str, str]:
    return {path.stem: text_of(path) for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_every_row_is_read():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(TERMS) + len(NOTATION) == len(rows) - 2 > 100  # without the two headers


def test_every_link_leads_to_the_chapter_it_names(chapters):
    for term, _, number, target in TERMS + NOTATION:
        path = (ROOT / "docs" / target).resolve()
        assert path.stem in chapters and path.stem.startswith(f"{int(number):02d}_"), term


def test_terms_occur_once_and_in_order():
    terms = [term.strip("*").lower() for term, *_ in TERMS]
    assert terms == sorted(set(terms))


def test_a_term_is_used_in_its_chapter(chapters):
    missing = []
    for term, _, _, target in TERMS:
        words = term.strip("*").lower()
        spellings = {words, words.replace("-", " "), words.replace(" ", "-")}
        if not any(spelling in chapters[Path(target).stem] for spelling in spellings):
            missing.append((words, target))
    assert not missing


def test_related_terms_exist():
    terms = {term.strip("*") for term, *_ in TERMS}
    assert set(re.findall(r"[Ss]ee \*(.+?)\*", PAGE)) <= terms
