"""Clean notebooks for learners: no outputs, no traces of a run, exercises as stubs; all other text as it is."""

from __future__ import annotations

import ast
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from kt_core.corpora.files import interrupts_held
from kt_course.grading.answers import Definition, exercise_id, parse
from kt_course.tools.workbook import find_notebooks, notebooks_dir

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = ("file_extension", "name", "pygments_lexer")  # the rest tells the version that ran last
Function = ast.FunctionDef | ast.AsyncFunctionDef
CELL = (
    "deletable",
    "editable",
    "jupyter",
    "slideshow",
    "tags",
)  # the rest is made by runs and editors


def release(out: str | Path, source: str | Path | None = None, force: bool = False) -> list[Path]:
    """Write learners' notebooks into the folder `out`; returns their paths.

    source: the folder of the notebooks, the project's own if None. ValueError if `out` is not empty, unless `force`:
    then notebooks of the same name are replaced, and other files stay. Nothing is written unless all can be.
    """
    out, source = Path(out).resolve(), Path(source or notebooks_dir()).resolve()
    if out == source:
        raise ValueError(f"{out}: the notebooks themselves lie there; name another folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a file, not a folder")
    there = any(out.iterdir()) if out.exists() else False
    if there and not force:
        raise ValueError(
            f"{out}: not empty; name another folder, or replace its notebooks with --force"
        )
    texts = {path.name: cleaned(path) for path in find_notebooks(folder=source)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as made:
        fresh = Path(made) / out.name
        fresh.mkdir()
        for name, text in texts.items():
            (fresh / name).write_text(text, encoding="utf-8", newline="\n")
        with interrupts_held():
            if there:
                for name in texts:
                    (fresh / name).replace(out / name)
            else:
                if out.exists():
                    out.rmdir()  # Windows does not replace an empty folder
                shutil.move(fresh, out)
    return [out / name for name in texts]


def cleaned(path: Path) -> str:
    """A notebook's file as a learner gets it. ValueError, with file and cell, for one that cannot be read."""
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except Exception as error:  # JSON of any other shape
        raise ValueError(f"{path}: not a notebook ({type(error).__name__}: {error})") from error
    language = notebook.metadata.get("language_info", {"name": "python"})
    notebook.metadata = NotebookNode(
        kernelspec=KERNEL, language_info={key: language[key] for key in LANGUAGE if key in language}
    )
    for number, cell in enumerate(notebook.cells, 1):
        cell.metadata = NotebookNode(
            {key: cell.metadata[key] for key in CELL if key in cell.metadata}
        )
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = [], None
        try:
            cell.source = stub(cell.source)
        except SyntaxError as error:
            raise ValueError(f"{path}, cell {number}: {error.msg}, line {error.lineno}") from error
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def stub(source: str) -> str:
    """An exercise cell without its answer: signatures and docstrings, `...` for what was written.

    A blank cell stays as it is, and so does one that is no exercise. Of an answered one nothing but the exercise
    itself is left: imports and helpers belong to the answer. SyntaxError for an exercise cell that cannot be read.
    """
    if not re.search(r"@[\w.]*exercise\s*\(", source):
        return source
    nodes = [node for node in parse(source).body if exercise_id(node)]
    functions = [inner for node in nodes for inner in _functions(node)]
    if all(map(_blank, functions)):
        return source
    lines: list[str | None] = [*source.split("\n")]
    for function in functions:
        _cut(function, lines)
    kept = (lines[node.decorator_list[0].lineno - 1 : node.end_lineno] for node in nodes)
    return "\n\n\n".join("\n".join(line for line in part if line is not None) for part in kept)


def _functions(node: Definition) -> list[Function]:
    """The function itself, or a class's methods."""
    members = node.body if isinstance(node, ast.ClassDef) else [node]
    return [member for member in members if isinstance(member, Function)]


def _body(function: Function) -> list[ast.stmt]:
    """What comes after the docstring."""
    return function.body[ast.get_docstring(function, clean=False) is not None :]


def _blank(function: Function) -> bool:
    """Whether the body says nothing yet: `...`, `pass`, `raise NotImplementedError`, or `x = ...` and `return x`."""
    body = [ast.unparse(statement) for statement in _body(function)]
    nothing = [
        line
        for line in body
        if re.fullmatch(r"(\w+ = )?\.\.\.|pass|raise NotImplementedError.*", line)
    ]
    returned = [line for line in body if re.fullmatch(r"return( \w+)?", line)]
    return not body or bool(nothing) and len(nothing) + len(returned) == len(body)


def _cut(function: Function, lines: list[str | None]) -> None:
    """Put `...` for the body into `lines`, those of the cell; lines that go become None."""
    body = _body(function)
    if not body:
        return
    first, last, column = body[0].lineno - 1, function.end_lineno, body[0].col_offset
    head = lines[first].encode()[:column].decode()
    if head.strip():  # def f(x): return x
        lines[first:last] = [f"{head}...", *[None] * (last - first - 1)]
        return
    documented = function.body[0].end_lineno if body[0] is not function.body[0] else function.lineno
    while first > documented and lines[first - 1].strip()[:1] in ("", "#"):  # notes on the answer
        first -= 1
    lines[first:last] = [f"{head}...", *[None] * (last - first - 1)]
