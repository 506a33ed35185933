"""The learner's own model: passing answers are saved in my_gpt.py, and later chapters train it.

    mine = my_gpt.load()            # Prints in one line which pieces are the learner's.
    model = mine.GPT(config)        # Missing or failing pieces are the course's own.
    losses = mine.fit(model, data, epochs=10)           # By the learner's `train`.
    answers = mine.answer(model, vocab, questions)      # By the learner's `greedy`.
    my_gpt.replace("block")         # Put the newest passing answer in place of the saved one.

The model has the weights of a `kt_core.GPT` under the same names, so kt.answer, kt.save_checkpoint,
kt.Trainer and living pages take it. `my_gpt.twin(model)` is the same model in kt_core's code, for
kt.record_attention and the KV cache.

my_gpt.py is an ordinary Python file: imports, then one section per exercise, each under a line
`# ======== exercise ID ========`. A chapter's solutions.py has the same form: missing pieces come
from there. $KT_MY_GPT names another file; "off" keeps the pieces in memory only.
"""

from __future__ import annotations  # for the learner's code, too: `execute` hands it on

import ast
import functools
import linecache
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from kt_core._validation import one_of
from kt_core.corpora.files import write_atomically
from kt_core.models import GPT
from kt_course.exercises.check import codes_of, judge
from kt_course.exercises.registry import Exercise, library
from kt_course.exercises.solutions import solutions_file, split_sections, teaching_solution
from kt_course.exercises.training import answer_questions, fit

HEADER = '''"""My GPT. The course saves each answer here once it passes its check.

This file is yours: read it, edit it, import it. The course never changes a section that exists.
"""

import math
import random

import torch
import torch.nn.functional as F
from torch import nn

import kt_core as kt
from kt_course.exercises.training import schedule
'''
NOT_SAVED = "not saved yet"
_memory = {"text": ""}  # in place of the file with KT_MY_GPT=off
_offers: dict[str, str] = {}  # newest passing answers that differ from the saved ones


def my_gpt_file() -> Path | None:
    """Return $KT_MY_GPT, else my_gpt.py in the current folder; None if it is "off"."""
    name = os.environ.get("KT_MY_GPT") or "my_gpt.py"
    return None if name == "off" else Path(name).expanduser()


def file_name() -> str:
    """Return the file's name, for messages."""
    return (my_gpt_file() or Path("my_gpt.py")).name


def pieces() -> dict[str, Exercise]:
    """Return the exercises whose answers are pieces of the model, by id, in the course's order."""
    return {id: exercise for id, exercise in library().items() if exercise.is_piece}


# ---------------------------------------------------------------- saving


def save(exercise: Exercise, answer: Callable) -> str:
    """Save a passing answer as a section of my_gpt.py, unless the file has that section already.

    Returns:
        What happened, as a line; "" if the same code is saved already.
    """
    source, sections = answer_source(answer), read_sections()
    if sections.get(exercise.id) == source:
        return ""
    if exercise.id in sections:
        _offers[exercise.id] = source
        return (
            f"{file_name()} has another {exercise.name} and keeps it. "
            f'To put this one in its place: my_gpt.replace("{exercise.id}")\n'
        )
    module = assemble(sections | {exercise.id: source}, judged=[exercise.id])
    if error := module.pieces[exercise.name]:
        return (
            f"Not saved in {file_name()}, where it does not work: {error}. "
            f"Define everything that {exercise.name} uses in this cell, then run it again.\n"
        )
    write_sections(sections | {exercise.id: source})
    return f"Saved as {exercise.name} in {file_name()}.\n"


def replace(id: str) -> None:
    """Put the newest passing answer to exercise `id` in place of the saved section."""
    id = one_of("exercise with a new answer", id, _offers)
    write_sections(read_sections() | {id: _offers.pop(id)})
    print(f"Saved as {pieces()[id].name} in {file_name()}.")


def read_sections() -> dict[str, str]:
    """Return the file's sections by exercise id; under "" what comes before the first."""
    if (path := my_gpt_file()) is None:
        return split_sections(_memory["text"] or HEADER)
    return split_sections(path.read_text(encoding="utf-8") if path.exists() else HEADER)


def write_sections(sections: dict[str, str]) -> None:
    """Write the file with its sections in the course's order, those of the learner's own last."""
    order = [id for id in library() if id in sections]
    order += [id for id in sections if id and id not in order]
    blocks = [f"# ======== exercise {id} ========\n{sections[id]}" for id in order]
    text = "\n\n".join([sections[""], *blocks])
    if (path := my_gpt_file()) is None:
        _memory["text"] = text
    else:
        write_atomically(path, text.encode())


def answer_source(answer: Callable) -> str:
    """Return an answer's source without its @exercise line.

    From a notebook cell this includes the cell's imports, functions, classes and constants, which
    the answer may use. Other statements, such as prints, are left out.
    """
    filename = next(iter(codes_of(answer))).co_filename
    lines = linecache.getlines(filename)
    is_cell = not Path(filename).exists()
    parts = []
    for node in ast.parse("".join(lines)).body:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *[d.lineno for d in decorators]]) - 1
        while first > 0 and lines[first - 1].startswith("#"):  # the comment above it
            first -= 1
        hidden = {d.lineno - 1 for d in decorators if ast.unparse(d).startswith("exercise(")}
        is_constant = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        is_part = is_cell and (isinstance(node, kinds) or is_constant)
        if is_part or getattr(node, "name", "") == answer.__name__:
            numbers = [n for n in range(first, node.end_lineno) if n not in hidden]
            parts.append("".join(lines[n] for n in numbers).rstrip())
    return "\n\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- loading


def load(notebook: str = "02_build_a_gpt") -> ModuleType:
    """Assemble the learner's model, and print in one line which pieces are the learner's.

    Each saved section has to pass its exercise's check again, since it may have been edited. In
    place of a missing or failing one comes the course's own, built on the learner's other pieces.

    Args:
        notebook: The notebook that adds the last pieces; those of later ones are left out.

    Returns:
        A module with `GPT`, `Block`, `Attention`, `train`, `greedy` ...; with `fit` (see
        `training.fit`) and `answer`, which call the learner's `train` and `greedy`; and with
        `pieces`: by name, "" for the learner's own, else why the course's is used.
    """
    module = assemble(read_sections(), judged=pieces(), notebook=notebook)
    print(describe_pieces(module.pieces))
    module.fit = functools.partial(fit, module.train)
    module.answer = functools.partial(answer_questions, module.greedy)
    return module


def describe_pieces(reasons: dict[str, str]) -> str:
    """Say in one line which pieces are the learner's, from the reasons of those that are not."""
    names: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items(), key=lambda item: item[1] == NOT_SAVED):
        names.setdefault(reason, []).append(name)
    n_own = len(names.pop("", []))
    line = f"{file_name()}: {n_own} of {len(reasons)} pieces are yours."
    by_course = [f"{', '.join(names)} ({reason})" for reason, names in names.items()]
    return f"{line} From the course: {'; '.join(by_course)}." if by_course else line


def twin(model: Any) -> GPT:
    """Return a `kt_core.GPT` with the weights of the learner's model, in evaluation mode.

    Both give the same logits. kt.record_attention and the KV cache need the code of kt_core.
    """
    copy = GPT(model.config).to(model.head.weight.device)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def assemble(sections: dict[str, str], judged: Any, notebook: str = "99") -> ModuleType:
    """Execute the pieces up to `notebook` in one namespace; those in `judged` are checked."""
    module = ModuleType("my_gpt")
    path = my_gpt_file() or Path("my_gpt.py")
    if error := execute(sections[""], path, module):
        print(f"The imports of {path.name} fail ({error}). The course's own are used.")
        execute(HEADER, path, module)
    module.pieces = {}
    for id, exercise in pieces().items():
        if exercise.notebook > notebook:
            continue
        reason = NOT_SAVED
        if id in sections:
            reason = execute(sections[id], path, module)
            if not reason and not hasattr(module, exercise.name):
                reason = f"its section defines no {exercise.name}"
            if not reason and id in judged:
                verdict = judge(exercise, getattr(module, exercise.name))
                reason = "" if verdict.status == "right" else verdict.diagnosis
        if reason:
            execute(teaching_solution(exercise), solutions_file(exercise), module)
        module.pieces[exercise.name] = reason
    for id in sections.keys() - pieces().keys() - {""}:  # sections of the learner's own
        execute(sections[id], path, module)
    return module


def execute(source: str, path: Path, module: ModuleType) -> str:
    """Execute source code in the module's namespace; return "" or the error in one line."""
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
