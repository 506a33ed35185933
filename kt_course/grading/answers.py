"""Find the functions that a notebook's exercise cells define, and the cells that they need.

Nothing is run here. An exercise cell is recognised by its decorator, `@exercise("causal-mask")`,
and not by its tag, because other editors lose tags.
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
    """Parse a cell as IPython does, with its line numbers.

    A cell magic in the first line, such as %%time, is left out; line magics become calls.

    Raises:
        SyntaxError: The source cannot be parsed.
    """
    if source.lstrip().startswith("%%"):
        source = re.sub(r"%%.*", "#", source, count=1)
    n_blank = re.match(r"(?:[ \t]*\n)*", source).group().count("\n")  # IPython drops blank lines
    try:
        return ast.parse("\n" * n_blank + TransformerManager().transform_cell(source))
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, or nested too deep
        raise SyntaxError(str(error) or "nested too deep") from error


def exercise_id(node: ast.AST) -> str | None:
    """The id in the decorator `@exercise("id")` of a function or class; None for anything else."""
    if not isinstance(node, Definition):
        return None
    return next(filter(None, map(_decorator_id, node.decorator_list)), None)


def _decorator_id(decorator: ast.expr) -> str | None:
    match decorator:
        case ast.Call(ast.Name("exercise") | ast.Attribute(attr="exercise"), args, keywords):
            match [*args, *(keyword.value for keyword in keywords)]:
                case [ast.Constant(str(id))]:
                    return id
    return None


@dataclass(frozen=True)
class Statement:
    """A compiled statement of a cell.

    Attributes:
        exercise: The id that decorates it; the decorator itself is removed.
    """

    code: CodeType
    exercise: str | None = None

    @cached_property
    def binds(self) -> set[str]:
        """Names that it gives a value."""
        return self._names(BINDS)

    @cached_property
    def reads(self) -> set[str]:
        """Names that it, or a function in it, takes from the notebook."""
        return self._names(READS)

    def _names(self, operations: set[str]) -> set[str]:
        instructions = (i for code in _codes(self.code) for i in dis.get_instructions(code))
        return {i.argval for i in instructions if i.opname in operations}


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


@dataclass(frozen=True)
class Answer:
    """What has to run for one exercise: its own statement last, before it those that it needs."""

    id: str
    name: str
    statements: tuple[Statement, ...]

    def define(self, right: Collection[str] = ()) -> Any:
        """Run the statements, which is untrusted code, and return what the last one defines.

        As in the notebook, kt_core's own function stands in for the answer to an earlier exercise
        unless that answer is in `right`.
        """
        namespace: dict[str, Any] = {"__name__": "__main__"}
        for statement in self.statements[:-1]:
            if statement.exercise in library() and statement.exercise not in right:
                reference = library()[statement.exercise].reference
                namespace |= dict.fromkeys(statement.binds, reference)
                continue
            try:
                exec(statement.code, namespace)
            except Exception:  # a missing name is reported where it is used
                continue
        exec(self.statements[-1].code, namespace)
        return namespace[self.name]


def answers(sources: Sequence[str]) -> dict[str, Answer | str]:
    """Collect the answers of a notebook by exercise id; the last cell of an exercise counts.

    Args:
        sources: The sources of the code cells, in their order.

    Returns:
        Answers, or a string that says why a cell cannot be read.
    """
    result: dict[str, Answer | str] = {}
    above: list[Statement] = []
    for number, source in enumerate(sources, 1):
        try:
            tree = parse(source)
            statements = list(_compile(tree, f"<cell {number}>", source))
        except SyntaxError as error:
            for id in re.findall(r"""@[\w.]*exercise\(\s*["']([\w-]+)["']""", source):
                result[id] = f"the cell cannot be read: {error.msg}, line {error.lineno}"
            continue
        for node, statement in zip(tree.body, statements, strict=True):
            if id := statement.exercise:
                result.pop(id, None)  # later cells go to the end: they may use earlier ones
                result[id] = Answer(id, node.name, (*_needed(statement, above), statement))
            above.append(statement)
    return result


def _compile(tree: ast.Module, filename: str, source: str) -> Iterator[Statement]:
    """Compile each statement by itself; a diagnosis can show its lines."""
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    for node in tree.body:
        if id := exercise_id(node):
            node.decorator_list = [d for d in node.decorator_list if not _decorator_id(d)]
        try:
            code = compile(ast.Module([node], []), filename, "exec", dont_inherit=True)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error) or "nested too deep") from error
        yield Statement(code, id)


def _needed(last: Statement, above: Iterable[Statement]) -> list[Statement]:
    """Those of the statements above that bind what `last` reads, and what these read in turn."""
    names, needed = set(last.reads), []
    for statement in reversed(list(above)):
        if statement.binds & names or _imports_all(statement.code):
            names |= statement.reads
            needed.append(statement)
    return needed[::-1]


def _imports_all(code: CodeType) -> bool:
    """Is it `from x import *`, as Python 3.11 and later compile it?"""
    instructions = list(dis.get_instructions(code))
    names = {i.opname for i in instructions} | {i.argrepr for i in instructions}
    return bool(names & {"IMPORT_STAR", "INTRINSIC_IMPORT_STAR"})
