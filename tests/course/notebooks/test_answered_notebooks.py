"""Every notebook reaches its end when all exercises are solved, and when all are answered wrongly
(profile smoke)."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from answering import NOTEBOOKS, posed, right_cell, wrong_cell
from test_notebooks import NAMES

from kt_course.exercises.registry import library
from kt_course.exercises.solutions import split_sections
from kt_course.tools.workbook import execute

pytestmark = pytest.mark.slow


def answered(name: str, cells: dict[str, str], out: Path) -> Path:
    """A copy of the notebook whose exercise cells are `cells`, by the exercises' ids."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    stubs = {stub: id for id, stub in posed(name).items()}
    for cell in notebook.cells:
        if cell.source in stubs:
            cell.source = cells[stubs[cell.source]]
    nbformat.write(notebook, out)
    return out


def verdicts(path: Path) -> dict[str, str]:
    """What the exercise cells of an executed notebook printed, by id."""
    texts = [
        output.get("text", "")
        for cell in nbformat.read(path, as_version=4).cells
        if "exercise" in cell.metadata.get("tags", [])
        for output in cell.outputs
    ]
    return {text.split(":")[0]: text for text in texts}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Where both runs of a notebook keep the models that they train: the second finds those of
    the first."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("status", ["right", "wrong"])
def test_an_answered_notebook_reaches_its_end(name, status, runs, tmp_path, monkeypatch):
    tests = os.pathsep.join(
        str(Path(__file__).parents[2] / part) for part in (".", "course/chapters")
    )
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    )
    monkeypatch.setenv("KT_PROGRESS_FILE", "off")
    monkeypatch.setenv("KT_MY_GPT", str(tmp_path / "my_gpt.py"))
    stubs = posed(name)
    if status == "right":
        cells = {id: right_cell(id, stub) for id, stub in stubs.items()}
        diagnoses = dict.fromkeys(stubs, "")
    else:
        wrong_cells = {id: wrong_cell(id, stub) for id, stub in stubs.items()}
        cells, diagnoses = ({id: part[i] for id, part in wrong_cells.items()} for i in (0, 1))
    notebook = answered(name, cells, tmp_path / f"{name}.ipynb")
    folder = runs / name
    (folder / f"{name}.json").unlink(missing_ok=True)  # the run before left it

    ran = execute(
        notebook, tmp_path / "ran.ipynb", {"profile": "smoke", "runs_dir": str(folder)}, tmp_path
    )

    lines = verdicts(tmp_path / "ran.ipynb")
    for id, diagnosis in diagnoses.items():
        assert re.match(rf"{id}: {status}\. .*{diagnosis}", lines[id], re.IGNORECASE), lines[id]
    assert ran.error is None
    result = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))  # the last cell's
    assert result["notebook"] == name and result["facts"]
    pieces = {id for id in stubs if library()[id].is_piece} if status == "right" else set()
    assert set(saved_pieces(tmp_path / "my_gpt.py")) == pieces
    if name == "02_build_a_gpt":  # the model that was trained and asked is the learner's
        assert result["facts"]["own_pieces"] == len(pieces)


def saved_pieces(path: Path) -> list[str]:
    """The exercises whose answers are in a my_gpt.py."""
    return [id for id in split_sections(path.read_text()) if id] if path.exists() else []
