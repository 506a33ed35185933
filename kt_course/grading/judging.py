"""Judge a notebook's answers: `python -m kt_course.grading.judging FD`, the notebook by standard input.

Nothing of the notebook runs in this process. What runs it are copies of the process (fork), from which one thing
comes back: data, read by PyTorch's loader of plain data, which runs no code.

1. A copy judges the answer as a notebook would. If it says "wrong" or "not attempted", so it is.
2. If it says "right", that is not believed yet, since the answer ran beside the check and may have changed it. The
   check runs again, in this process, and every call of the answer goes to a fresh copy that gives back its result.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import nbformat
import torch

from kt_core.evaluation import Score
from kt_course.exercises.assertions import Wrong
from kt_course.exercises.check import STATUSES, one_line
from kt_course.exercises.registry import Exercise, exercise_ids, library
from kt_course.grading.answers import Answer, answers
from kt_course.grading.borrowed import judge_strictly
from kt_course.grading.running import end, seal

# Their checks look at what a call does to its arguments, or at gradients through it: a copy cannot hand that back.
BY_EFFECT = (
    "finetuning-loop",
    "through-latents",
    "one-hot-kl",
    "line-pairs",
    "train-top",
    "layer-rates",
)
UNCONFIRMED = "right, unconfirmed"
RESULT = 256 * 2**20  # bytes of a result


class Lost(BaseException):
    """A copy gave nothing back. No Exception, as checks catch these."""


class Unreadable(Lost):
    """What a copy gives back is more than data, or is not there in time."""


def main(fd: int) -> None:
    seal()
    os.set_inheritable(fd, False)
    torch.set_num_threads(1)
    end(fd, **judge_notebook(sys.stdin.buffer.read()))


def judge_notebook(data: bytes) -> dict[str, Any]:
    """{"problem": why it cannot be graded}, or {"notebook": its name, "verdicts": {id: "right", "wrong: ...", ...}}."""
    try:
        sources = read_sources(data)
    except ValueError as error:
        return {"problem": f"not a notebook: {one_line(str(error))[:200]}"}
    found = {id: answer for id, answer in answers(sources).items() if id in library()}
    if not found:
        return {"problem": "nothing to grade: no exercise of this workbook is in it"}
    notebook = Counter(library()[id].notebook for id in found).most_common(1)[0][0]
    verdicts = dict.fromkeys(exercise_ids(notebook), "not attempted: its cell is missing")
    right: set[str] = set()
    for id, answer in found.items():
        if id in verdicts:
            verdicts[id] = verdict(library()[id], answer, right)
            right |= {id} if verdicts[id].startswith("right") else set()
    return {"notebook": notebook, "verdicts": verdicts}


def read_sources(data: bytes) -> list[str]:
    """Sources of the code cells that are not blank. ValueError for what is no Python notebook."""
    try:
        with warnings.catch_warnings(action="ignore"):
            notebook = nbformat.reads(data.decode(), as_version=4)
        kernel, language = (
            notebook.metadata.get("kernelspec", {}),
            notebook.metadata.get("language_info", {}),
        )
        language = str(kernel.get("language") or language.get("name") or "python")
        sources = [str(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    except Exception as error:  # JSON of any other shape
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if "python" not in language.lower():
        raise ValueError(f"its language is {language}")
    return [source for source in sources if source.strip()]


def verdict(
    exercise: Exercise, answer: Answer | str, right: Collection[str], seconds: float = 60.0
) -> str:
    """One line: "right", "right, unconfirmed: why", "wrong: why" or "not attempted"."""
    if isinstance(answer, str):
        return f"wrong: {one_line(answer)}"
    try:
        status, diagnosis = _as_a_notebook(exercise, answer, right, seconds)
    except Lost as lost:
        return f"wrong: it {lost}"
    if status != "right":
        return status if status == "not attempted" else f"wrong: {diagnosis}"
    if exercise.id in BY_EFFECT:
        return f"{UNCONFIRMED}: its check looks at more than results"
    try:
        exercise.check(_elsewhere(answer, right, time.monotonic() + seconds))
    except Unreadable as lost:
        return f"{UNCONFIRMED}: it {lost}"
    except Lost as lost:
        return f"wrong: where the check is out of its reach it {lost}"
    except Exception as error:
        told = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
        return f"wrong: it passes only where it can reach the check: {one_line(told)[:300]}"
    return "right"


def _as_a_notebook(
    exercise: Exercise, answer: Answer, right: Collection[str], seconds: float
) -> tuple[str, str]:
    """(status, diagnosis) as the copy tells them."""

    def judged() -> tuple[str, str]:
        try:
            fn = answer.define(right)
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename.startswith("<cell ")]
            where = f", at line {lines[-1]}" if lines else ""
            return "wrong", f"its cell raised {type(error).__name__}: {error}{where}"
        found = judge_strictly(exercise, fn)
        return found.status, found.diagnosis

    try:
        told = in_a_copy(judged, seconds)
    except Exception as error:
        return "wrong", one_line(str(error))[:300]
    match told:
        case (str(status), str(diagnosis)) if status in STATUSES:
            return status, one_line(diagnosis)[:300]
    raise Lost("told something else than a verdict")


def _elsewhere(answer: Answer, right: Collection[str], over: float) -> Callable:
    """The answer, each call of it in a copy of this process; `over` is when the time for all of them ends."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return in_a_copy(lambda: answer.define(right)(*args, **kwargs), over - time.monotonic())

    return call


# ---------------------------------------------------------------- copies of this process


def in_a_copy(work: Callable[[], Any], seconds: float) -> Any:
    """work(), run in a fork of this process; what it changes stays there.

    ValueError: it raised one; RuntimeError: it raised something else. Lost: nothing came back. Unreadable: too late,
    too much, or more than tensors, numbers, strings, scores, and lists, tuples and dicts of them.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        pid = (
            os.fork()
        )  # Python 3.12 warns of other threads; the copy calls PyTorch with one thread alone
    if pid == 0:
        _copy(work, writing)
    os.close(writing)
    try:
        data = _read(reading, time.monotonic() + seconds)
    finally:
        os.close(reading)
        for kill in (os.killpg, os.kill):  # whatever it started in its session; itself
            with suppress(OSError):
                kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if not data:
        raise Lost("died")
    try:
        with torch.serialization.safe_globals([Score]):
            kind, told = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise Unreadable("gives back something that is no plain data") from error
    if kind == "result":
        return told
    raise (ValueError if kind == "ValueError" else RuntimeError)(str(told))


def _copy(work: Callable[[], Any], writing: int) -> None:
    """The child's whole life. Untrusted code runs here, so every way to the parent but `writing` is closed first."""
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        sys.stdout = sys.stderr = open(1, "w", closefd=False)
        os.closerange(3, writing)
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        torch.set_num_threads(1)
        try:
            told = ("result", work())
        except ValueError as error:
            told = ("ValueError", str(error))
        except BaseException as error:
            told = ("error", f"{type(error).__name__}: {error}")
        data = io.BytesIO()
        try:
            torch.save(told, data)
        except Exception:  # a result of a class of its own
            data = io.BytesIO(b"no data")
        with os.fdopen(writing, "wb") as file:
            file.write(data.getbuffer())
    finally:
        os._exit(0)


def _read(reading: int, over: float) -> bytes:
    """All that comes; Lost if it takes too long or is too much."""
    data = bytearray()
    while (left := over - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            chunk = os.read(reading, 2**20)
            if not chunk:
                return bytes(data)
            data += chunk
            if len(data) > RESULT:
                raise Unreadable("gives back too much")
    raise Unreadable("takes too long")


if __name__ == "__main__":
    main(int(sys.argv[1]))
