"""Take code from a page, so that an experiment repeats exactly what the page shows."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def bound_names(statement: ast.stmt) -> set[str]:
    """The names that a function, a class or an assignment binds."""
    if isinstance(statement, ast.Assign):
        nodes = [node for target in statement.targets for node in ast.walk(target)]
        return {node.id for node in nodes if isinstance(node, ast.Name)}
    return {getattr(statement, "name", "")}


def page_code(notebook: str, names: Sequence[str], **given: Any) -> SimpleNamespace:
    """Execute the statements of a page that bind these names, in the order of the page.

    Args:
        notebook: Such as "14_what_does_it_know".
        given: What the statements use.

    Raises:
        ValueError: If the page binds one of the names nowhere.
    """
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    statements = [s for c in cells if c.cell_type == "code" for s in ast.parse(c.source).body]
    chosen = [statement for statement in statements if bound_names(statement) & set(names)]
    exec(compile(ast.Module(chosen, []), notebook, "exec"), given)
    if missing := set(names) - set(given):
        raise ValueError(f"{notebook} does not define {', '.join(sorted(missing))}")
    return SimpleNamespace(**given)
