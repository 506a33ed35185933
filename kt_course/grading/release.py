"""`kt release`: clean notebooks for learners, without outputs, with exercises as stubs."""

from __future__ import annotations

import ast
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import nbformat
from cyclopts import Parameter
from nbformat import NotebookNode

from kt_course.grading.answers import Definition, exercise_id, parse
from kt_course.tools.workbook import find_notebooks, notebooks_dir

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = ("file_extension", "name", "pygments_lexer")  # the rest depends on the last machine
CELL = ("deletable", "editable", "jupyter", "slideshow", "tags")  # the rest is made by editors
Function = ast.FunctionDef | ast.AsyncFunctionDef


def release(
    folder: Path,
    /,
    *,
    source: Annotated[Path | None, Parameter("--from")] = None,
    force: bool = False,
) -> list[Path]:
    """Write clean notebooks for learners: no outputs, exercises as stubs. All or nothing.

    Args:
        folder: Where to write them; it must be empty.
        source: Folder of the notebooks to clean; by default the project's.
        force: Replace notebooks of the same name in a folder that is not empty.
    """
    out, source = Path(folder).resolve(), Path(source or notebooks_dir()).resolve()
    if out == source:
        raise ValueError(f"{out}: these are the notebooks themselves; name another folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a file, not a folder")
    is_empty = not out.exists() or not any(out.iterdir())
    if not is_empty and not force:
        hint = "name another folder, or replace its notebooks with --force"
        raise ValueError(f"{out}: not empty; {hint}")
    texts = {path.name: clean_notebook(path) for path in find_notebooks(folder=source)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        fresh = Path(temporary) / out.name
        fresh.mkdir()
        for name, text in texts.items():
            (fresh / name).write_text(text, encoding="utf-8", newline="\n")
        if is_empty:
            if out.exists():
                out.rmdir()  # Windows does not replace an empty folder
            shutil.move(fresh, out)
        else:
            for name in texts:
                (fresh / name).replace(out / name)
    print(f"{len(texts)} notebooks in {folder}")
    return [out / name for name in texts]


def clean_notebook(path: Path) -> str:
    """A notebook's file as a learner gets it; ValueError, with the cell, if it cannot be read."""
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except Exception as error:  # JSON of any other shape
        raise ValueError(f"{path}: not a notebook ({type(error).__name__}: {error})") from error
    language = notebook.metadata.get("language_info", {"name": "python"})
    language = {key: language[key] for key in LANGUAGE if key in language}
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info=language)
    for number, cell in enumerate(notebook.cells, 1):
        metadata = {key: cell.metadata[key] for key in CELL if key in cell.metadata}
        cell.metadata = NotebookNode(metadata)
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = [], None
        try:
            cell.source = make_stub(cell.source)
        except SyntaxError as error:
            raise ValueError(f"{path}, cell {number}: {error.msg}, line {error.lineno}") from error
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def make_stub(source: str) -> str:
    """An exercise cell without its answer: signatures and docstrings, `...` for the bodies.

    A cell without an exercise, or with a blank one, stays as it is. Of an answered one nothing but
    the exercise itself remains, because imports and helpers belong to the answer.

    Raises:
        SyntaxError: An exercise cell cannot be read.
    """
    if not re.search(r"@[\w.]*exercise\s*\(", source):
        return source
    nodes = [node for node in parse(source).body if exercise_id(node)]
    functions = [inner for node in nodes for inner in _functions(node)]
    if all(map(_is_unanswered, nodes)):
        return source
    lines: list[str | None] = [*source.split("\n")]
    for function in functions:
        _cut_body(function, lines)
    parts = (lines[node.decorator_list[0].lineno - 1 : node.end_lineno] for node in nodes)
    return "\n\n\n".join("\n".join(line for line in part if line is not None) for part in parts)


def _functions(node: Definition) -> list[Function]:
    """The function itself, or a class's methods."""
    members = node.body if isinstance(node, ast.ClassDef) else [node]
    return [member for member in members if isinstance(member, Function)]


def _body(function: Function) -> list[ast.stmt]:
    """What comes after the docstring."""
    return function.body[ast.get_docstring(function, clean=False) is not None :]


def _is_unanswered(node: Definition) -> bool:
    """Is nothing written yet? The `__init__` of a class may be given with the exercise."""
    members = _functions(node)
    return all(map(_is_blank, [m for m in members if m.name != "__init__"] or members))


def _is_blank(function: Function) -> bool:
    """Is the body `...`, `pass`, `raise NotImplementedError`, or `x = ...` and `return x`?"""
    body = [ast.unparse(statement) for statement in _body(function)]
    blank = r"(\w+ = )?\.\.\.|pass|raise NotImplementedError.*"
    n_blank = sum(bool(re.fullmatch(blank, line)) for line in body)
    n_returns = sum(bool(re.fullmatch(r"return( \w+)?", line)) for line in body)
    return not body or n_blank > 0 and n_blank + n_returns == len(body)


def _cut_body(function: Function, lines: list[str | None]) -> None:
    """Replace the body by `...` in the cell's lines; lines that disappear become None."""
    body = _body(function)
    if not body:
        return
    first, last, column = body[0].lineno - 1, function.end_lineno, body[0].col_offset
    head = lines[first].encode()[:column].decode()
    has_docstring = body[0] is not function.body[0]
    top = function.body[0].end_lineno if has_docstring else function.lineno
    while not head.strip() and first > top and lines[first - 1].strip()[:1] in ("", "#"):
        first -= 1  # comments on the answer
    lines[first:last] = [f"{head}...", *[None] * (last - first - 1)]
