"""Answers written into a notebook's exercise cells: kt_core's own source, and mistakes."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

import nbformat

from kt_course.exercises.registry import library
from kt_course.exercises.solutions import teaching_solution

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
# Where kt_core's own source is no answer: it calls a helper that the exercise asks to write.
OTHERWISE = {
    "calibration-error": """def calibration_error(confidence, right, bins=10):
    where = ((confidence.double() * bins).ceil().long() - 1).clamp(0, bins - 1)
    gap = torch.as_tensor(right).double() - confidence
    gaps = torch.zeros(bins, dtype=torch.double).index_add(0, where, gap)
    return float(gaps.abs().sum() / len(confidence))
""",
    "abstention-threshold": """def lowest_threshold(sure, right, accuracy):
    right = torch.as_tensor(right).double()
    kept = [float(t) for t in sure if right[sure >= t].mean() >= accuracy - 1e-9]
    return min(kept, default=float("inf"))
""",
}
_HEADER = re.compile(r"^(?:def|class) (\w+)", re.MULTILINE)


def posed(notebook: str | Path) -> dict[str, str]:
    """Sources of a notebook's exercise cells by the exercises' ids."""
    path = NOTEBOOKS / f"{notebook}.ipynb" if isinstance(notebook, str) else notebook
    cells = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and (
            match := re.search(r'^@exercise\("(.+)"\)', cell.source, re.M)
        ):
            cells[match[1]] = cell.source
    return cells


def right_cell(id: str, stub: str) -> str:
    """The cell of an exercise, answered with the reference's source and the names that it uses."""
    if id in OTHERWISE:
        return f'@exercise("{id}")\n{OTHERWISE[id]}'
    if solution := teaching_solution(library()[id]):
        return decorated(solution, id)
    reference = inspect.unwrap(library()[id].reference)
    source = textwrap.dedent(inspect.getsource(reference))
    node = ast.parse(source).body[0]
    # from `def` on: decorators such as @property stay behind
    body = "".join(source.splitlines(keepends=True)[node.lineno - 1 :])
    body = _HEADER.sub(lambda old: old[0].replace(old[1], _HEADER.search(stub)[1]), body, count=1)
    namespace = vars(sys.modules[reference.__module__])
    used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {
        *dir(builtins),
        node.name,
    }
    names = sorted(used & namespace.keys())
    imports = f"from {reference.__module__} import {', '.join(names)}\n\n\n" if names else ""
    return f'{imports}@exercise("{id}")\n{body}'.rstrip()


def decorated(solution: str, id: str) -> str:
    """A teaching solution with @exercise above the function or class that is the answer."""
    name = library()[id].name
    node = next(n for n in ast.parse(solution).body if getattr(n, "name", "") == name)
    lines = solution.splitlines()
    first = min([node.lineno, *[decorator.lineno for decorator in node.decorator_list]]) - 1
    return "\n".join([*lines[:first], f'@exercise("{id}")', *lines[first:]])


def wrong_cell(id: str, stub: str) -> tuple[str, str]:
    """Return the first mistake in the checks' own tests: (cell, regular expression of the verdict).

    The kernel imports it from those tests, so that the cell needs no source of its own.
    """
    module, answers = _mistakes(id)
    name, (_, diagnosis) = next(iter(answers.wrong.items()))
    mistake = f'ANSWERS["{id}"].wrong[{name!r}][0]'
    cell = (
        f'from {module} import ANSWERS\n\n{_HEADER.search(stub)[1]} = exercise("{id}")({mistake})'
    )
    return cell, diagnosis


def _mistakes(id: str) -> tuple[str, Any]:
    """The test module that has answers to an exercise, and these."""
    for path in sorted((Path(__file__).parent / "course" / "chapters").glob("test_*.py")):
        if f'"{id}"' in path.read_text(encoding="utf-8"):
            answers = getattr(import_module(path.stem), "ANSWERS", {})
            if id in answers:
                return path.stem, answers[id]
    raise LookupError(f"no test file of a chapter has the exercise {id!r} in its ANSWERS")
