"""Released notebooks through the real nbgrader and otter-grader: release, answers, grades."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from kt_course.grading.cleaning import project_cells
from kt_course.grading.formats import convert
from kt_course.grading.release import release
from kt_course.grading.written import question_cells, written_questions

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / "build" / "lms" / "bin" / "python"  # `make lms` puts the two graders there
NAME = "01_attention_math"
IDS = ("causal-mask", "scaled-score")
RIGHT = {
    "causal-mask": "return torch.ones(T, T).bool().tril()",
    "scaled-score": "return query @ key.mT / key.shape[-1] ** 0.5",
}
STUDENTS = {"ada": RIGHT, "bo": RIGHT | {"causal-mask": "return torch.ones(T, T).bool()"}, "cy": {}}
needs_graders = pytest.mark.skipif(
    not PYTHON.exists() and "CI" not in os.environ, reason="make lms installs nbgrader and otter"
)


def run(*arguments, cwd):
    environment = os.environ | {
        "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "KT_PROGRESS_FILE": "off",
    }
    done = subprocess.run(
        [str(PYTHON), "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def handed_in(path, answers, blank):
    """A student's copy of a released notebook."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for id, body in answers.items():
            if f'@exercise("{id}")' in cell.source:
                assert blank in cell.source
                cell.source = cell.source.replace(blank, body)
    return nbformat.writes(notebook)


@pytest.fixture
def source(tmp_path):
    """A folder with a notebook of two exercises, which runs in seconds."""
    cells = [new_code_cell("import torch\nfrom kt_course.exercises import exercise")]
    tags = {"tags": ["exercise"]}
    cells += [new_code_cell(project_cells()["posed"][id], metadata=tags) for id in IDS]
    (tmp_path / "source").mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / "source" / f"{NAME}.ipynb")
    return tmp_path / "source"


@needs_graders
@pytest.mark.slow
def test_nbgrader_gives_the_points(source, tmp_path):
    course = tmp_path / "course"
    release(course, source=source, format="nbgrader")
    run("nbgrader", "generate_assignment", NAME, cwd=course)
    for student, answers in STUDENTS.items():
        released = course / "release" / NAME / f"{NAME}.ipynb"
        target = course / "submitted" / student / NAME
        target.mkdir(parents=True)
        text = handed_in(released, answers, "# YOUR CODE HERE\n    raise NotImplementedError()")
        (target / released.name).write_text(text, encoding="utf-8")
    patient = [f"--ExecutePreprocessor.{name}=300" for name in ("timeout", "startup_timeout")]
    run("nbgrader", "autograde", NAME, *patient, cwd=course)
    run("nbgrader", "export", "--to", "grades.csv", cwd=course)
    with (course / "grades.csv").open(newline="", encoding="utf-8") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores == {"ada": 2, "bo": 1, "cy": 0}


@needs_graders
@pytest.mark.slow
def test_otter_gives_the_points(source, tmp_path):
    release(tmp_path / "masters", source=source, format="otter")
    run("otter", "assign", f"masters/{NAME}.ipynb", "dist", cwd=tmp_path)
    (autograder,) = (tmp_path / "dist" / "autograder").glob("*.zip")
    text = handed_in(tmp_path / "dist" / "student" / f"{NAME}.ipynb", STUDENTS["bo"], "...")
    (tmp_path / "bo").mkdir()
    (tmp_path / "bo" / f"{NAME}.ipynb").write_text(text, encoding="utf-8")
    run("otter", "run", "-a", str(autograder), "-o", ".", f"{NAME}.ipynb", cwd=tmp_path / "bo")
    tests = json.loads((tmp_path / "bo" / "results.json").read_text(encoding="utf-8"))["tests"]
    scores = {test["name"]: test.get("score") for test in tests[1:]}
    assert scores == {"causal_mask": 0, "scaled_score": 1}


@pytest.mark.parametrize("format", ["nbgrader", "otter"])
def test_classes_and_written_questions_are_marked_too(format):
    posed = project_cells()["posed"]["mlp"]
    cells = [new_code_cell(posed, metadata={"tags": ["exercise"]}), *question_cells("07_rope")]
    notebook = nbformat.reads(convert(nbformat.writes(new_notebook(cells=cells)), format), 4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert 'assert_right("mlp")' in text
    if format == "otter":
        assert text.count("# BEGIN QUESTION") == text.count("# END QUESTION") == 3
        assert text.count("manual: true") == 2 and "name: rope_is_relative" in text
        return
    marks = [cell.metadata.nbgrader for cell in notebook.cells if "nbgrader" in cell.metadata]
    points = sum(q.points for q in written_questions().values() if q.notebook == "07_rope")
    assert sum(mark.get("points", 0) for mark in marks if mark.solution) == points
    assert text.count("### BEGIN SOLUTION") == 2  # both methods of the class
    compile(notebook.cells[0].source, "cell", "exec")
