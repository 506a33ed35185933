"""Judge a notebook's answers, then run it: `python -m … FD SECONDS [PROFILE]`.

The notebook is the standard input. The verdicts are the first fact reported to the descriptor FD.

Nothing of the notebook runs in this process. Copies of the process (forks) run it, and one thing
comes back from them: data, read by PyTorch's loader of plain data, which runs no code.

1. A copy judges the answer as a notebook would. "Wrong" and "not attempted" are final.
2. "Right" is not believed yet, because the answer ran beside the check and may have changed it. It
   is confirmed by numbers: for inputs that nobody can foresee, copies give back what the answer
   computes, and this process compares it with what the course's own answer computes.
"""

import inspect
import os
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import torch

from kt_course.exercises.assertions import Wrong
from kt_course.exercises.check import STATUSES, one_line
from kt_course.exercises.comparison import Results, detached, difference, same
from kt_course.exercises.random_cases import draw, repeatable_cases
from kt_course.exercises.registry import Exercise, exercise_ids, library
from kt_course.grading.answers import Answer, answers
from kt_course.grading.borrowed import judge_strictly
from kt_course.grading.copies import Late, Lost, outcome_of, run_in_copy, value_of
from kt_course.grading.running import end, report, run_notebook, seal

# Functions whose checks look at what a call does to its arguments, or at modules that it gets or
# makes. A copy cannot give those back, nor the modules of exercises that ask for a class.
BY_EFFECT = (
    "batches cut-a-span finetune finetune-groups greedy-continuation layer-rates masked-training "
    "one-hot-kl pretrain-finetune run-with-edits through-latents train-top training-loop"
).split()
UNCONFIRMED = "right, unconfirmed"


def main(fd: int, seconds: int, profile: str | None = None) -> None:
    """Judge the notebook on standard input, then run it; report to the file descriptor `fd`."""
    seal()
    os.set_inheritable(fd, False)
    sys.modules["rfc3987_syntax"] = None  # jsonschema's check of web addresses, slow
    torch.set_num_threads(1)
    data = sys.stdin.buffer.read()
    facts = judge_notebook(data)
    if "problem" in facts:
        end(fd, **facts)
    report(fd, **facts)
    run_notebook(fd, data.decode(), seconds, profile)


def judge_notebook(data: bytes) -> dict[str, Any]:
    """Judge all exercises of a notebook.

    Returns:
        {"problem": why it cannot be graded}, or {"notebook": its name, "verdicts": {id: "right",
        "wrong: …", …}}.
    """
    try:
        sources = read_sources(data)
    except ValueError as error:
        return {"problem": f"not a notebook: {one_line(str(error))[:200]}"}
    posed = {id: answer for id, answer in answers(sources).items() if id in library()}
    if not posed:
        return {"problem": "nothing to grade: no exercise of this workbook is in it"}
    notebook = Counter(library()[id].notebook for id in posed).most_common(1)[0][0]
    verdicts = dict.fromkeys(exercise_ids(notebook), "not attempted: its cell is missing")
    right: set[str] = set()
    for id, answer in posed.items():
        if id in verdicts:
            verdicts[id] = verdict(library()[id], answer, right)
            right |= {id} if verdicts[id].startswith("right") else set()
    return {"notebook": notebook, "verdicts": verdicts}


def read_sources(data: bytes) -> list[str]:
    """The sources of the code cells that are not blank; ValueError if it is no Python notebook."""
    import nbformat

    try:
        with warnings.catch_warnings(action="ignore"):
            notebook = nbformat.reads(data.decode(), as_version=4)
        kernel = notebook.metadata.get("kernelspec", {}).get("language")
        language = kernel or notebook.metadata.get("language_info", {}).get("name") or "python"
        sources = [str(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    except Exception as error:  # JSON of any other shape.
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if "python" not in str(language).lower():
        raise ValueError(f"its language is {language}")
    return [source for source in sources if source.strip()]


def verdict(
    exercise: Exercise, answer: Answer | str, right: Collection[str], seconds: float = 60.0
) -> str:
    """One line: "right", "right, unconfirmed: why", "wrong: why" or "not attempted"."""
    if isinstance(answer, str):
        return f"wrong: {one_line(answer)}"
    try:
        status, diagnosis = judge_in_copy(exercise, answer, right, seconds)
    except Lost as lost:
        return f"wrong: it {lost}"
    if status != "right":
        return status if status == "not attempted" else f"wrong: {diagnosis}"
    try:
        confirm(exercise, answer, right, seconds)
    except Late as lost:
        return f"{UNCONFIRMED}: it {lost}"
    except Lost as lost:
        return f"wrong: where the check is out of its reach it {lost}"
    except Exception as error:
        why = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
        return f"wrong: it passes only where it can reach the check: {one_line(why)[:300]}"
    return "right"


def judge_in_copy(
    exercise: Exercise, answer: Answer, right: Collection[str], seconds: float
) -> tuple[str, str]:
    """(status, diagnosis) of an answer that is judged as in a notebook."""

    def judge() -> tuple[str, str]:
        try:
            fn = answer.define(right)
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename.startswith("<cell ")]
            where = f", at line {lines[-1]}" if lines else ""
            return "wrong", f"its cell raised {type(error).__name__}: {error}{where}"
        result = judge_strictly(exercise, fn)
        return result.status, result.diagnosis

    try:
        reported = run_in_copy(judge, seconds)
    except Exception as error:
        return "wrong", one_line(str(error))[:300]
    match reported:
        case (str(status), str(diagnosis)) if status in STATUSES:
            return status, one_line(diagnosis)[:300]
    raise Lost("told something else than a verdict")


def confirm(exercise: Exercise, answer: Answer, right: Collection[str], seconds: float) -> None:
    """Raise an exception unless the answer gives right results out of reach of all checks.

    A copy runs the check for inputs that nobody can foresee, and gives back what each call of the
    answer returns. With these results the check runs again here. Modules, and what a call changes,
    cannot be given back: there the copy gives back the numbers and texts of whole cases.
    """
    seed, *seeds = draw(1, 10**6, 4)
    check, compute = exercise.check, exercise.compute
    is_whole = exercise.id in BY_EFFECT or inspect.isclass(exercise.reference)

    def work() -> list[Any]:
        fn = answer.define(right)
        if is_whole:
            return [detached(compute(fn, one)) for one in (0, *seeds)]
        return results_of_calls(check, fn, seed)

    results = run_in_copy(work, seconds)
    left = iter(results)

    def replay(*args: Any, **kwargs: Any) -> Any:
        return value_of(next(left, None))

    if is_whole:
        for case, one in zip(results, (0, *seeds), strict=True):
            expect_same(case, detached(compute(exercise.reference, one)))
    else:
        with repeatable_cases(seed):
            check(replay)


def results_of_calls(check: Callable, fn: Callable, seed: int) -> list[tuple[str, Any]]:
    """Run a check, and return the outcome of every call of the answer."""
    outcomes = []

    def call(*args: Any, **kwargs: Any) -> Any:
        outcomes.append(outcome_of(lambda: fn(*args, **kwargs)))
        return value_of(outcomes[-1])

    with repeatable_cases(seed), suppress(Exception):
        check(call)
    return outcomes


def expect_same(results: Any, expected: Results) -> None:
    """Raise Wrong unless the results of a case are the expected ones."""
    if not isinstance(results, dict) or results.keys() != expected.keys():
        raise Wrong("its results are others than those that the exercise asks for")
    for name, value in expected.items():
        if not same(results[name], value):
            raise Wrong(difference(name, results[name], value))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
