"""Mutants of the solutions: one small mistake each, which the exercise's check has to reject.

    python tests/mutants.py [ID ...]      # prints the mutants that a check accepts, and their share

A mutant ignores an argument, detaches, casts or mixes up the rows of a result, is off by one, takes
another axis, operator or comparison, or lacks a statement. Those that are no mistakes are listed
with the reason in equivalent_mutants.toml, and do not count.

On 2026-11-30 the checks of all exercises rejected 1,697 of 1,697.
"""

from __future__ import annotations

import ast
import copy
import inspect
import random
import sys
import textwrap
import tomllib
import warnings
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kt_course.exercises.check import judge
from kt_course.exercises.registry import DIFFERENTIABLE, Exercise, library
from kt_course.exercises.solutions import teaching_solution
from kt_course.grading import borrowed

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


EQUIVALENT = tomllib.loads(Path(__file__).with_name("equivalent_mutants.toml").read_text("utf-8"))
EFFECTS: list[bool] = []  # did the mutant's change make a difference while the check ran?


def over_tensors(change):
    """A function that changes all tensors of a result, in lists, tuples and dicts too."""

    def apply(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(apply, value))
        if isinstance(value, dict):
            return {key: apply(one) for key, one in value.items()}
        if not isinstance(value, Tensor):
            return value
        changed = change(value)
        EFFECTS.append(changed.dtype != value.dtype or not torch.equal(changed, value))
        return changed

    return apply


def detach(t: Tensor) -> Tensor:
    EFFECTS.append(t.is_floating_point())
    return t.detach().clone()


def roll(t: Tensor) -> Tensor:
    return t.roll(1, 0) if t.dim() and t.size(0) > 1 else t


def cast(t: Tensor) -> Tensor:
    return t.round() if t.is_floating_point() else t.float()


def ignore(value: Any) -> Any:
    """Something of the same kind that says nothing."""
    if isinstance(value, Tensor):
        EFFECTS.append(bool(value.any()))
        return torch.zeros_like(value)
    if isinstance(value, bool | int | float | str | list | dict):
        EFFECTS.append(bool(value))
        return type(value)()
    return value


WRAPPERS = {
    "_detach": over_tensors(detach),
    "_cast": over_tensors(cast),
    "_roll": over_tensors(roll),
    "_ignore": ignore,
}


def source_of(exercise: Exercise) -> tuple[str, dict[str, Any], str]:
    """The solution's source, the names that it uses, and its own name."""
    reference = inspect.unwrap(exercise.reference)
    solution = teaching_solution(exercise)
    module = sys.modules[reference.__module__]
    if solution:
        chapter = inspect.unwrap(exercise.check).__globals__
        module = chapter.get("solutions", module)
        name = exercise.notebook.split("_", 1)[1]
        module = sys.modules.get(f"kt_course.chapters.{name}.solutions", module)
    source = solution or textwrap.dedent(inspect.getsource(reference))
    return source, dict(vars(module)), exercise.name


def changes_of(node: ast.AST) -> Iterator[tuple[str, Any]]:  # noqa: C901
    """(what, a function that changes such a node in place) for each mistake at a node."""

    def put(**values):
        return lambda target: [setattr(target, key, value) for key, value in values.items()]

    match node:
        case ast.Constant(bool(value)):
            yield "flip", put(value=not value)
        case ast.Constant(int(value) | float(value)):
            for other in (value + 1, value - 1):
                yield f"{value} is {other}", put(value=other)
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in OPERATORS:
            yield f"{OPERATORS[type(op)].__name__}", put(op=OPERATORS[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in OPERATORS:
            yield f"{OPERATORS[type(op)].__name__}", put(ops=[OPERATORS[type(op)]()])
        case ast.If(test=test) | ast.IfExp(test=test):
            yield "other branch", put(test=ast.UnaryOp(ast.Not(), test))
        case ast.UnaryOp(op=ast.Invert() | ast.Not(), operand=operand):
            yield "not negated", put(op=ast.Not(), operand=ast.UnaryOp(ast.Not(), operand))
        case ast.Return(value=value) if value is not None:
            for name in ("_detach", "_cast", "_roll"):
                call = ast.Call(ast.Name(name, ast.Load()), [value], [])
                yield name[1:], put(value=call)
        case ast.FunctionDef(body=body, args=args):
            for what, new in bodies(body, [a.arg for a in args.args + args.kwonlyargs]):
                yield what, put(body=new)


def bodies(body: list[ast.stmt], names: list[str]) -> Iterator[tuple[str, list[ast.stmt]]]:
    """The body of a function with an argument ignored, or a statement left out."""
    for name in names:
        if name != "self":
            ignored = ast.parse(f"{name} = _ignore({name})").body
            yield f"ignores {name}", [*ignored, *body]
    start = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    for i, statement in enumerate(body[start:], start):
        if not isinstance(statement, ast.Return | ast.FunctionDef) and len(body) > 1:
            first_line = ast.unparse(statement).split("\n")[0]
            yield f"without {first_line}", [*body[:i], ast.Pass(), *body[i + 1 :]]


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """(description, source) of all mutants of a solution."""
    tree = ast.parse(source)
    original = ast.unparse(tree)
    texts = {original}
    skipped = {
        id(part)
        for node in ast.walk(tree)
        for field in ("annotation", "returns")
        if isinstance(getattr(node, field, None), ast.AST)
        for part in ast.walk(getattr(node, field))
    }
    for i, node in enumerate(ast.walk(tree)):
        if id(node) in skipped:
            continue
        for n, (what, _) in enumerate(changes_of(node)):
            changed = copy.deepcopy(tree)
            target = next(x for j, x in enumerate(ast.walk(changed)) if j == i)
            list(changes_of(target))[n][1](target)
            text = ast.unparse(ast.fix_missing_locations(changed))
            if text not in texts:
                texts.add(text)
                yield f"{changed_line(original, text)}  [{what}]", text


def changed_line(original: str, text: str) -> str:
    """The first line of a mutant that differs from the solution's, after that of the solution."""
    pairs = zip_longest(original.split("\n"), text.split("\n"), fillvalue="")
    before, after = next(pair for pair in pairs if pair[0] != pair[1])
    return f"{before.strip()} -> {after.strip()}"


def is_accepted(exercise: Exercise, text: str) -> bool | None:
    """Does the check take a mutant for right? None for a mutant that cannot be one.

    It cannot even be defined, or what it changes was never different.
    """
    _, namespace, name = source_of(exercise)
    namespace |= WRAPPERS
    try:
        exec(compile(text, "<mutant>", "exec"), namespace)
    except Exception:
        return None
    function = namespace[name.rpartition(".")[2]]
    function = getattr(function, "fget", None) or function  # of a property
    if "_detach(" in text and exercise.id not in DIFFERENTIABLE:
        return None  # a measurement: nobody trains through it
    EFFECTS.clear()
    with warnings.catch_warnings(action="ignore"):
        judged = judge(exercise, function, 3.0)
        if judged.status == "right" and exercise.forbidden:
            judged = borrowed.judge_strictly(exercise, function)
    if judged.status == "right" and any(f"{wrapper}(" in text for wrapper in WRAPPERS):
        return True if any(EFFECTS) else None
    return judged.status == "right"


def is_equivalent(id: str, what: str) -> bool:
    """Is a mutant listed as one that is no mistake?"""
    return any(part in what.partition(" -> ")[2] for part in EQUIVALENT.get(id, ()))


def accepted(id: str, most: int | None = None) -> tuple[int, list[str]]:
    """(number of mutants tried, descriptions of those that the check accepts)."""
    exercise = library()[id]
    every = [pair for pair in mutants(source_of(exercise)[0]) if not is_equivalent(id, pair[0])]
    if most is not None and len(every) > most:
        every = random.Random(id).sample(every, most)
    verdicts = [(what, is_accepted(exercise, text)) for what, text in every]
    verdicts = [(what, verdict) for what, verdict in verdicts if verdict is not None]
    return len(verdicts), [what for what, verdict in verdicts if verdict]


def main(ids: list[str]) -> None:
    """Print the accepted mutants of some exercises, or of all."""
    total, wrong = 0, 0
    for exercise in ids or library():
        number, passed = accepted(exercise)
        total, wrong = total + number, wrong + len(passed)
        print(f"{exercise}: {number} tried, {len(passed)} accepted", flush=True)
        for what in passed:
            print("   ", what)
    print(f"{total - wrong} of {total} rejected ({100 * (total - wrong) / total:.1f} %)")


if __name__ == "__main__":
    main(sys.argv[1:])
