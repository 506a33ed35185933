"""The rehearsal of a course: what each kind of student gets, and every file at the end."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from kt_course.grading import isolation
from kt_course.grading.cleaning import project_cells

pytestmark = pytest.mark.slow
KINDS = ["right", "wrong", "blank", "cheats", "right", "broken", "kills", "unreadable", "spies"]


@pytest.mark.skipif(bool(isolation.bubblewrap_problem()), reason="needs bubblewrap")
def test_release_to_lms_files_without_a_surprise(tmp_path):
    from rehearsal import rehearse

    code = "import torch\nfrom kt_course.exercises import exercise"
    cells = [new_code_cell(code)]
    for id in ("causal-mask", "masked-softmax"):
        posed = project_cells()["posed"][id]
        cells.append(new_code_cell(posed, metadata={"tags": ["exercise"]}))
    (tmp_path / "source").mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / "source" / "01_attention_math.ipynb")
    figures = rehearse(tmp_path / "course", KINDS, source=tmp_path / "source", jobs=2)
    assert figures["surprises"] == [] and figures["students"] == len(KINDS)
    expected = {"grades-canvas.csv", "final-moodle.csv", "final-gradescope", "final-feedback"}
    assert expected <= set(figures["files"])
