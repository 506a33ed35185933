"""Every notebook reaches its end when all exercises are solved, and when all are answered wrongly
(profile smoke). The solved ones run as `kt workbook` runs them."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from answering import NOTEBOOKS, posed, right_cell, wrong_cell
from test_notebooks import NAMES

from kt_course.exercises.registry import library
from kt_course.exercises.solutions import split_sections
from kt_course.tools.workbook import WorkbookError, execute, run_workbook

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


def saved_pieces(path: Path) -> set[str]:
    """The exercises whose answers are in a my_gpt.py."""
    return {id for id in split_sections(path.read_text()) if id} if path.exists() else set()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What kernels need to import mistakes, a my_gpt.py of their own, and no progress file."""
    tests = [str(Path(__file__).parents[2] / part) for part in (".", "course/chapters")]
    path = os.pathsep.join([*tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("KT_PROGRESS", "off")
        patch.setenv("KT_PROGRESS_FILE", "off")
        yield patch


@pytest.fixture(scope="module")
def solved(request, environment, tmp_path_factory):
    """The workbook of the chapters to test, exercises solved and all pieces in one my_gpt.py."""
    tests = {item.name for item in request.session.items}
    folder = tmp_path_factory.mktemp("solved")
    environment.setenv("KT_MY_GPT", str(folder / "my_gpt.py"))
    for name in [name for name in NAMES if any(f"[{name}]" in test for test in tests)]:
        cells = {id: right_cell(id, stub) for id, stub in posed(name).items()}
        answered(name, cells, folder / f"{name}.ipynb")
    with suppress(WorkbookError):  # its chapter's test says so
        run_workbook(profile="smoke", source=folder, out=folder / "out")
    return folder / "out"


@pytest.mark.parametrize("name", NAMES)
def test_a_solved_notebook_reaches_its_end(name, solved):
    results = json.loads((solved / "results.json").read_text(encoding="utf-8"))["notebooks"]
    assert name in results, f"the workbook stopped after {list(results)[-1]}"
    assert results[name]["error"] is None and results[name]["facts"]
    lines, ids = verdicts(solved / f"{name}.ipynb"), posed(name)
    assert not [lines[id] for id in ids if not lines[id].startswith(f"{id}: right. ")]
    pieces = {id for id in ids if library()[id].is_piece}
    assert pieces <= saved_pieces(solved.parent / "my_gpt.py")
    if name == "02_build_a_gpt":  # the model that was trained and asked is the learner's
        assert results[name]["facts"]["own_pieces"] == len(pieces)
    assert (solved / f"{name}.html").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_with_wrong_answers_reaches_its_end(name, solved, tmp_path, monkeypatch):
    my_gpt = tmp_path / "my_gpt.py"
    monkeypatch.setenv("KT_MY_GPT", str(my_gpt))
    wrong_cells = {id: wrong_cell(id, stub) for id, stub in posed(name).items()}
    cells = {id: cell for id, (cell, _) in wrong_cells.items()}
    notebook = answered(name, cells, tmp_path / f"{name}.ipynb")
    runs = solved / "runs"  # the models that the solved notebook trained are there
    (runs / f"{name}.json").unlink(missing_ok=True)

    ran = execute(
        notebook, tmp_path / "ran.ipynb", {"profile": "smoke", "runs_dir": str(runs)}, tmp_path
    )

    lines = verdicts(tmp_path / "ran.ipynb")
    for id, (_, diagnosis) in wrong_cells.items():
        assert re.match(rf"{id}: wrong\. .*{diagnosis}", lines[id], re.IGNORECASE), lines[id]
    assert ran.error is None
    result = json.loads((runs / f"{name}.json").read_text(encoding="utf-8"))  # the last cell's
    assert result["notebook"] == name and result["facts"]
    assert not saved_pieces(my_gpt)
