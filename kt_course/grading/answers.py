"""The functions that a notebook's exercise cells define, and what they need of the cells above; nothing is run here.

An exercise cell is told by its decorator, `@exercise("causal-mask")`, not by its tag: tags get lost on the way
through other editors.
"""

from __future__ import annotations

import ast
import dis
import linecache
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import CodeType
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

from kt_course.exercises.registry import library

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
READS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
BINDS = {"STORE_NAME", "STORE_GLOBAL"}


def parse(source: str) -> ast.Module:
    """The statements of a cell as IPython takes them, line numbers kept; SyntaxError where there is no sense in it.

    A cell magic in the first line, such as %%time, is left out; line magics become calls.
    """
    if source.lstrip().startswith("%%"):
        source = re.sub(r"%%.*", "#", source, count=1)
    above = (
        re.match(r"(?:[ \t]*\n)*", source).group().count("\n")
    )  # blank lines, which IPython takes away
    try:
        return ast.parse("\n" * above + TransformerManager().transform_cell(source))
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, or nested too deep
        raise SyntaxError(str(error) or "nested too deep") from error


def exercise_id(node: ast.AST) -> str | None:
    """The id in the decorator `@exercise("id")` of a function or class; None for anything else."""
    if not isinstance(node, Definition):
        return None
    return next(filter(None, map(_named, node.decorator_list)), None)


def _named(decorator: ast.expr) -> str | None:
    match decorator:
        case ast.Call(
            func=ast.Name("exercise") | ast.Attribute(attr="exercise"), args=[ast.Constant(str(id))]
        ):
            return id
    return None


@dataclass(frozen=True)
class Statement:
    """A statement at the top of a cell, compiled; `exercise` is the id that decorates it, the decorator taken off."""

    code: CodeType
    exercise: str | None = None

    @cached_property
    def binds(self) -> set[str]:
        """Names that it gives a value."""
        return {
            i.argval
            for code in _codes(self.code)
            for i in dis.get_instructions(code)
            if i.opname in BINDS
        }

    @cached_property
    def reads(self) -> set[str]:
        """Names that it, or a function in it, takes from the notebook."""
        return {
            i.argval
            for code in _codes(self.code)
            for i in dis.get_instructions(code)
            if i.opname in READS
        }


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


@dataclass(frozen=True)
class Answer:
    """What has to run for one exercise: its own statement last, before it those whose names it needs."""

    id: str
    name: str
    statements: tuple[Statement, ...]

    def define(self, right: Collection[str] = ()) -> Any:
        """Run the statements, untrusted code; gives what the last one defines.

        As in the notebook, an earlier exercise stands for kt_core's own function unless its answer is in `right`.
        """
        namespace: dict[str, Any] = {"__name__": "__main__"}
        for statement in self.statements[:-1]:
            if statement.exercise in library() and statement.exercise not in right:
                namespace |= dict.fromkeys(statement.binds, library()[statement.exercise].reference)
                continue
            try:
                exec(statement.code, namespace)
            except Exception:  # a name that is then missing is told where it is used
                continue
        exec(self.statements[-1].code, namespace)
        return namespace[self.name]


def answers(sources: Sequence[str]) -> dict[str, Answer | str]:
    """Answers by exercise id, from the sources of a notebook's code cells, in their order.

    The last cell of an exercise counts. A cell that cannot be read gives a string that says why.
    """
    found: dict[str, Answer | str] = {}
    above: list[Statement] = []
    for number, source in enumerate(sources, 1):
        try:
            tree = parse(source)
            statements = list(_compiled(tree, f"<cell {number}>", source))
        except SyntaxError as error:
            for id in re.findall(r"""@[\w.]*exercise\(\s*["']([\w-]+)["']""", source):
                found[id] = f"the cell cannot be read: {error.msg}, line {error.lineno}"
            continue
        for node, statement in zip(tree.body, statements, strict=True):
            if statement.exercise:
                needed = (*_needed(statement, above), statement)
                found.pop(
                    statement.exercise, None
                )  # later ones go to the end: they may use earlier ones
                found[statement.exercise] = Answer(statement.exercise, node.name, needed)
            above.append(statement)
    return found


def _compiled(tree: ast.Module, filename: str, source: str) -> Iterator[Statement]:
    """Each statement by itself; its lines can be shown in a diagnosis."""
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    for node in tree.body:
        if id := exercise_id(node):
            node.decorator_list = [d for d in node.decorator_list if not _named(d)]
        try:
            code = compile(ast.Module([node], []), filename, "exec", dont_inherit=True)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error) or "nested too deep") from error
        yield Statement(code, id)


def _needed(last: Statement, above: Iterable[Statement]) -> list[Statement]:
    """Those of the statements above that bind what `last` reads, and what these read in turn."""
    names, kept = set(last.reads), []
    for statement in reversed(list(above)):
        if statement.binds & names or _imports_all(statement.code):
            names |= statement.reads
            kept.append(statement)
    return kept[::-1]


def _imports_all(code: CodeType) -> bool:
    """Whether it is `from x import *`, as Python 3.11 and later ones compile it."""
    return any(
        i.opname == "IMPORT_STAR" or i.argrepr == "INTRINSIC_IMPORT_STAR"
        for i in dis.get_instructions(code)
    )
