"""Exercises in the notebooks: titles as in the registry, and names that no other cell rebinds."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from kt_course.exercises.registry import library

NOTEBOOKS = sorted({exercise.notebook for exercise in library().values()})


def cells(name):
    path = Path(__file__).resolve().parents[3] / "notebooks" / f"{name}.ipynb"
    return nbformat.read(path, as_version=4).cells


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_title_difficulty_and_minutes_are_the_librarys(name):
    posed = []
    for before, cell in zip(cells(name), cells(name)[1:], strict=False):
        if "exercise" in cell.metadata.get("tags", []):
            id = re.search(r'@exercise\("([\w-]+)"\)', cell.source)[1]
            match = re.search(
                r"### Exercise \d+ · (.+)\n+difficulty (●+)○* · about (\d+) minutes", before.source
            )
            posed.append((id, match[1], len(match[2]), int(match[3])))
    expected = [
        (e.id, e.title, e.difficulty, e.minutes) for e in library().values() if e.notebook == name
    ]
    assert posed == expected


def rebound(statement):
    """Yield the names that a statement of a cell binds, outside functions and comprehensions."""
    inside = (
        ast.FunctionDef,
        ast.ClassDef,
        ast.Lambda,
        ast.ListComp,
        ast.SetComp,
        ast.DictComp,
        ast.GeneratorExp,
    )
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Name) and isinstance(statement.ctx, ast.Store):
        yield statement.id
    elif not isinstance(statement, inside):
        for part in ast.iter_child_nodes(statement):
            yield from rebound(part)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_other_cell_gives_an_answers_name_to_something_else(name):
    names = {True: [], False: []}
    for cell in cells(name):
        if cell.cell_type == "code":
            answer = "exercise" in cell.metadata.get("tags", [])
            names[answer] += [
                match for part in ast.parse(cell.source).body for match in rebound(part)
            ]
    assert len(set(names[True])) == len(names[True])
    assert not set(names[True]) & set(names[False]), (
        "a later cell could not use the answer any more"
    )
