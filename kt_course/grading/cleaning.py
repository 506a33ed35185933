"""Clean copies of notebooks, built from what may stay rather than from what must go.

A cell may stay if it is a cell of the project's notebooks. A cell with an answer is replaced by the
project's own cell of that exercise, so nothing of the answer can remain. Other cells are the
instructor's own: they stay, and are listed.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode, from_dict

from kt_core.corpora.files import read_plain_file
from kt_course.exercises.registry import library
from kt_course.grading.running import tags_of
from kt_course.grading.written import question_cells
from kt_course.tools.workbook import find_notebooks

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"}
TAGS = "cover exercise nbval-ignore-output parameters raises-exception solution written".split()
FOLD = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>\n*", re.DOTALL)
HELP = re.compile(r"Hint \d|It does not work\?|Note\b|An? example\b")  # folds for every learner
ANSWER = re.compile(r"Answer|Solution|One possible ")
ID = re.compile(r"""exercise\s*\(\s*(?:id\s*=\s*)?["']([\w-]+)["']""")
STRING = re.compile(r"""["']([a-z][\w-]+)["']""")
DEFINES = re.compile(r"^\s*(?:def|class|async def) |\blambda\b", re.MULTILINE)


@dataclass(frozen=True)
class CleanNotebook:
    """A notebook's text as a learner gets it."""

    text: str
    own_cells: tuple[int, ...]  # numbers of the cells that are not the project's; they stay


def clean_notebook(
    path: Path, with_solutions: bool = True, with_questions: bool = False
) -> CleanNotebook:
    """Remove outputs and answers; without solutions also folded answers and tagged cells.

    With questions the chapter's written questions come at the end.

    Raises:
        ValueError: The file is no notebook, or the exercise of a cell cannot be recognised.
    """
    try:
        notebook = nbformat.reads(read_plain_file(path).decode(), as_version=4)
    except Exception as error:  # JSON of any other shape
        raise ValueError(f"{path}: not a notebook ({type(error).__name__}: {error})") from error
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info=LANGUAGE)
    project, cells, own = project_cells(), [], []
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "raw" or not with_solutions and "solution" in tags_of(cell):
            continue
        if ids := _exercises_of(cell, project, f"{path}, cell {number}"):
            source = "\n\n\n".join(project["posed"][id] for id in ids)
            cell = dict(cell_type="code", id=cell.get("id"), source=source)
            cell = from_dict(cell | {"metadata": {"tags": ["exercise"]}})
        elif cell.source not in project["sources"]:
            own.append(number)
        cells.append(_strip(cell, with_solutions))
    notebook.cells = cells + (question_cells(path.stem) if with_questions else [])
    return CleanNotebook(nbformat.writes(notebook).rstrip("\n") + "\n", tuple(own))


@functools.cache
def project_cells() -> dict[str, Any]:
    """Return the project's own cells.

    Returns:
        "sources": the sources of all cells; "posed": the cells of the exercises by their ids;
        "by_cell": the exercises' ids by the ids of their cells.
    """
    sources, posed, by_cell = set(), {}, {}
    for path in find_notebooks():
        for cell in nbformat.read(path, as_version=4).cells:
            sources.add(cell.source)
            if "exercise" in tags_of(cell) and (match := ID.search(cell.source)):
                posed[match[1]] = cell.source
                by_cell[path.name, cell.id] = match[1]
    return dict(sources=sources, posed=posed, by_cell=by_cell)


def _exercises_of(cell: NotebookNode, project: dict[str, Any], where: str) -> list[str]:
    """The ids of the exercises that a cell poses or answers; [] for any other cell."""
    if cell.cell_type != "code":
        return []
    source, posed = cell.source, project["posed"]
    is_tagged, calls = "exercise" in tags_of(cell), re.search(r"\bexercise\s*\(", source)
    ids = [id for id in ID.findall(source) if id in posed]
    if not ids and (is_tagged or calls) or not calls and DEFINES.search(source):
        name = Path(where.rpartition(", cell ")[0]).name
        at_home = project["by_cell"].get((name, cell.get("id")))
        ids = [at_home] if at_home else []
        if not ids and source not in project["sources"]:
            ids = [id for id in STRING.findall(source) if id in posed and "-" in id]
    if not ids and (is_tagged or calls and source not in project["sources"]):
        unknown = [id for id in ID.findall(source) if id not in library()]
        what = f"no exercise {unknown[0]!r}" if unknown else "its exercise cannot be recognised"
        raise ValueError(f'{where}: {what}; write @exercise("the-id") above the function')
    return list(dict.fromkeys(ids))


def _strip(cell: NotebookNode, with_solutions: bool) -> NotebookNode:
    """The cell with its source, its known tags, and the attachments that its text shows."""
    clean = NotebookNode(cell_type=cell.cell_type, metadata=NotebookNode(), source=cell.source)
    if cell.get("id"):
        clean.id = cell.id
    if tags := [tag for tag in TAGS if tag in tags_of(cell)]:
        clean.metadata.tags = tags
    if cell.cell_type == "code":
        clean.outputs, clean.execution_count = [], None
        return clean
    if not with_solutions:
        clean.source = fold_away_answers(cell.source)
    attachments = cell.get("attachments", {})
    if images := {n: a for n, a in attachments.items() if f"attachment:{n}" in clean.source}:
        clean.attachments = NotebookNode(images)
    return clean


def fold_away_answers(text: str) -> str:
    """Remove folded answers from Markdown. Hints stay; of a folded answer's question the text."""

    def shorten(fold: re.Match) -> str:
        summary = fold[1].strip()
        if HELP.match(summary):
            return fold[0]
        return "" if ANSWER.match(summary) else f"{summary}\n\n"

    return FOLD.sub(shorten, text).rstrip("\n")
