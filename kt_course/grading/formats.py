"""Clean notebooks in the form that other graders read: nbgrader and otter-grader.

Each exercise cell becomes their solution cell; a locked cell below it asks for the verdict. They
run it beside the answer, so an answer can deceive it. `kt grade` prevents that.
"""

import re
import textwrap
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_raw_cell

from kt_course.exercises.registry import library
from kt_course.grading.cleaning import ID
from kt_course.grading.written import MARK, written_questions

STUB = re.compile(r"^( *)(def .*:) \.\.\.$|^( +)\.\.\.$", re.MULTILINE)
TEST = 'from kt_course.exercises import assert_right\n\nassert_right("{id}")'
ASSIGNMENT = (
    "# ASSIGNMENT CONFIG\ncheck_all_cell: false\nexport_cell: true\nrun_tests: false\n"
    "generate: true\ntests:\n    ok_format: true\n"
)


def file_for(name: str, format: str) -> Path:
    """Where a notebook is written, in the folder of the release."""
    stem = name.removesuffix(".ipynb")
    return Path("source", stem, name) if format == "nbgrader" else Path(name)


def convert(text: str, format: str) -> str:
    """Return a clean notebook's text as it is (plain), for nbgrader or for otter."""
    if format == "plain":
        return text
    notebook = nbformat.reads(text, as_version=4)
    change = _nbgrader_cells if format == "nbgrader" else _otter_cells
    cells = [new for cell in notebook.cells for new in change(cell)]
    if format == "otter":
        cells.insert(0, new_raw_cell(ASSIGNMENT))
    for number, cell in enumerate(cells):
        cell.setdefault("id", f"added-{number}")
    notebook.cells, notebook.nbformat_minor = cells, 5
    return nbformat.writes(notebook) + "\n"


def _exercise_of(cell: NotebookNode) -> str:
    tagged = "exercise" in cell.metadata.get("tags", [])
    match = ID.search(cell.source) if tagged else None
    return match[1] if match else ""


def _with_region(stub: re.Match) -> str:
    """A blank body, marked as the part that a learner writes."""
    header, indent = (f"{stub[1]}{stub[2]}\n", f"{stub[1]}    ") if stub[2] else ("", stub[3])
    return header + textwrap.indent("### BEGIN SOLUTION\n...\n### END SOLUTION", indent)


def _nbgrader_cells(cell: NotebookNode) -> list[NotebookNode]:
    def mark(cell: NotebookNode, id: str, **settings) -> NotebookNode:
        plain = dict(grade=False, locked=False, solution=False, task=False, schema_version=3)
        cell.metadata["nbgrader"] = {**plain, "grade_id": id, **settings}
        return cell

    if id := _exercise_of(cell):
        cell.source = STUB.sub(_with_region, cell.source)
        test = new_code_cell(TEST.format(id=id))
        points = library()[id].difficulty
        test = mark(test, f"test-{id}", grade=True, locked=True, points=points)
        return [mark(cell, id, solution=True), test]
    if match := MARK.match(cell.source):
        points = written_questions()[match[1]].points
        return [mark(cell, match[1], grade=True, solution=True, points=points)]
    return [cell]


def _otter_cells(cell: NotebookNode) -> list[NotebookNode]:
    def question(id: str, points: float, *between: NotebookNode | str) -> list[NotebookNode]:
        manual = "" if len(between) > 3 else "\nmanual: true"
        begin = f"# BEGIN QUESTION\nname: {id.replace('-', '_')}\npoints: {points:g}{manual}"
        parts = [begin, "# BEGIN SOLUTION", *between, "# END QUESTION"]
        return [new_raw_cell(part) if isinstance(part, str) else part for part in parts]

    if id := _exercise_of(cell):
        tests = "# BEGIN TESTS", new_code_cell(TEST.format(id=id)), "# END TESTS"
        return question(id, library()[id].difficulty, cell, "# END SOLUTION", *tests)
    if match := MARK.match(cell.source):
        return question(match[1], written_questions()[match[1]].points, cell, "# END SOLUTION")
    return [cell]
