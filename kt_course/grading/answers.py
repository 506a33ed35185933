"""Find the functions that a notebook's exercise cells define, and the cells that they need.

Nothing is run here. An answer is what `exercise("causal-mask")` is called with, as a decorator or
not, in a branch or not. Tags do not count, because other editors lose them.
"""

import __future__

import ast
import dis
import linecache
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import CodeType
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

from kt_course.exercises.registry import library

READS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
BINDS = {"STORE_NAME", "STORE_GLOBAL"}
RUNS_PYTHON = re.compile(r"\s*%%(time|capture|prun)\b")  # Other cell magics define nothing.
TAKE = "_take_answer_"  # The name that replaces `exercise`.


def parse(source: str) -> ast.Module:
    """Parse a cell as IPython does, with its line numbers; line magics become calls.

    Raises:
        SyntaxError: The source cannot be parsed.
    """
    if source.lstrip().startswith("%%"):
        source = re.sub(r"%%.*", "#", source, count=1) if RUNS_PYTHON.match(source) else ""
    n_blank = re.match(r"(?:[ \t]*\n)*", source).group().count("\n")  # IPython drops blank lines
    try:
        return ast.parse("\n" * n_blank + TransformerManager().transform_cell(source))
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, or nested too deep
        raise SyntaxError(str(error) or "nested too deep") from error


class _Exercises(ast.NodeTransformer):
    """Replace the calls `exercise("id")` in a statement, and keep their ids."""

    def __init__(self):
        self.ids: list[str] = []

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        match node:
            case ast.Call(ast.Name("exercise") | ast.Attribute(attr="exercise"), args, keywords):
                match [*args, *(keyword.value for keyword in keywords)]:
                    case [ast.Constant(str(id)) as constant]:
                        self.ids.append(id)
                        name = ast.copy_location(ast.Name(TAKE, ast.Load()), node.func)
                        return ast.copy_location(ast.Call(name, [constant], []), node)
        return node


@dataclass(frozen=True)
class Statement:
    """A compiled statement of a cell, and the exercises that it answers."""

    code: CodeType
    exercises: tuple[str, ...] = ()

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
    statements: tuple[Statement, ...]

    def define(self, right: Collection[str] = ()) -> Any:
        """Run the statements, which is untrusted code, and return what the last one hands in.

        As in the notebook, kt_core's own function replaces the answer to an earlier exercise unless
        that answer is in `right`.
        """
        functions: dict[str, Any] = {}

        def take(id: str) -> Callable:
            def choose(fn: Any) -> Any:
                functions[id] = fn
                is_kept = id == self.id or id in right or id not in library()
                return fn if is_kept else library()[id].reference

            return choose

        namespace: dict[str, Any] = {"__name__": "__main__", TAKE: take}
        for statement in self.statements[:-1]:
            with suppress(Exception):  # a missing name is reported where it is used
                exec(statement.code, namespace)
        functions.pop(self.id, None)
        exec(self.statements[-1].code, namespace)
        if self.id not in functions:
            raise NameError(f"exercise({self.id!r}) is not reached")
        return functions[self.id]


def answers(sources: Sequence[str]) -> dict[str, Answer | str]:
    """Collect the answers in code cells by exercise id; the last cell of an exercise counts.

    Returns:
        Answers, or a string that says why a cell cannot be read.
    """
    result: dict[str, Answer | str] = {}
    above: list[Statement] = []
    flags = 0  # of the features that `from __future__` switches on for the cells below, too
    for number, source in enumerate(sources, 1):
        try:
            tree = parse(source)
            flags |= _future_flags(tree)
            statements = list(_compile(tree, f"<cell {number}>", source, flags))
        except SyntaxError as error:
            for id in re.findall(r"""@[\w.]*exercise\(\s*["']([\w-]+)["']""", source):
                result[id] = f"the cell cannot be read: {error.msg}, line {error.lineno}"
            continue
        for statement in statements:
            for id in statement.exercises:
                result.pop(id, None)  # later cells go to the end: they may use earlier ones
                result[id] = Answer(id, (*_needed(statement, above), statement))
            above.append(statement)
    return result


def _future_flags(tree: ast.Module) -> int:
    flags = 0
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for feature in {alias.name for alias in node.names} & set(__future__.all_feature_names):
                flags |= getattr(__future__, feature).compiler_flag
    return flags


def _compile(tree: ast.Module, filename: str, source: str, flags: int) -> Iterator[Statement]:
    """Compile each statement by itself; a diagnosis can show its lines."""
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    for node in tree.body:
        exercises = _Exercises()
        try:
            node = exercises.visit(node)
            code = compile(ast.Module([node], []), filename, "exec", flags, dont_inherit=True)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error) or "nested too deep") from error
        yield Statement(code, tuple(exercises.ids))


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
