"""Judge a notebook's answers, then run it: `python -m … FD SECONDS [PROFILE]`.

The notebook is the standard input. The verdicts are the first fact reported to the descriptor FD.

Nothing of the notebook runs in this process. Copies of the process (forks) run it, and one thing
comes back from them: data, read by PyTorch's loader of plain data, which runs no code.

1. A copy judges the answer as a notebook would. "Wrong" and "not attempted" are final.
2. "Right" is not believed yet, because the answer ran beside the check and may have changed it. The
   check runs again, in this process, and every call of the answer goes to a new copy that gives
   back its result.
"""

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

import numpy as np
import torch

from kt_core.evaluation import Score
from kt_course.exercises.assertions import Wrong
from kt_course.exercises.check import STATUSES, one_line
from kt_course.exercises.registry import Exercise, exercise_ids, library
from kt_course.grading.answers import Answer, answers
from kt_course.grading.borrowed import judge_strictly
from kt_course.grading.running import end, report, run_notebook, seal

# Checks of effects: what a call does to its arguments, gradients through it, or modules and models
# that it makes or gets. A copy cannot give those back.
BY_EFFECT = (
    "pretrain-finetune cross-attention down-project up-project rotary-attention run-with-edits "
    "cut-a-span span-corruption batches finetune through-latents one-hot-kl masked-training "
    "pair-model line-pairs classifier finetune-groups train-top layer-rates lora tagger "
    "span-finder layer-norm-module mlp attention-module block gpt training-loop "
    "greedy-continuation full-attention vision-transformer encoder-block decoder-block "
    "whole-transformer"
).split()
UNCONFIRMED = "right, unconfirmed"
MAX_RESULT = 256 * 2**20  # bytes


class Lost(BaseException):
    """A copy gave nothing back. Not an Exception, because checks catch those."""


class Late(Lost):
    """What a copy gives back comes too late, or is too much."""


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
    if exercise.id in BY_EFFECT:
        return f"{UNCONFIRMED}: its check looks at more than results"
    try:
        exercise.check(call_in_copies(answer, right, time.monotonic() + seconds))
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


def call_in_copies(answer: Answer, right: Collection[str], deadline: float) -> Callable:
    """The answer as a function, each call in a copy of this process; all end at the deadline."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return run_in_copy(
            lambda: answer.define(right)(*args, **kwargs), deadline - time.monotonic()
        )

    return call


# ---------------------------------------------------------------- copies of this process


def run_in_copy(work: Callable[[], Any], seconds: float) -> Any:
    """Return work(), run in a fork of this process; what it changes stays there.

    Raises:
        ValueError: It raised one.
        RuntimeError: It raised something else.
        Late: Its result is too late or too large.
        Lost: Nothing came back, or more than tensors, numbers, strings, scores, and lists, tuples
            and dicts of them.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        # Python 3.12 warns of other threads; the copy calls PyTorch with one thread alone
        pid = os.fork()
    if pid == 0:
        _live_as_copy(work, writing)
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
            kind, value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise Lost("gives back something that is no plain data") from error
    if kind == "result":
        return value
    raise (ValueError if kind == "ValueError" else RuntimeError)(str(value))


def _live_as_copy(work: Callable[[], Any], writing: int) -> None:
    """The child's whole life. Untrusted code runs here: every way out but `writing` is closed."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        sys.stdout = sys.stderr = open(1, "w", closefd=False)
        os.closerange(3, writing)
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        torch.set_num_threads(1)
        try:
            report = ("result", plain(work()))
        except ValueError as error:
            report = ("ValueError", str(error))
        except BaseException as error:
            report = ("error", f"{type(error).__name__}: {error}")
        data = io.BytesIO()
        try:
            torch.save(report, data)
        except Exception:  # a result of a class of its own
            data = io.BytesIO(b"no data")
        with os.fdopen(writing, "wb") as file:
            file.write(len(data.getbuffer()).to_bytes(8, "big") + data.getvalue())
    finally:
        os._exit(0)


def plain(value: Any) -> Any:
    """The same data without numpy's scalars and subclasses of str, list, tuple and dict."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {plain(key): plain(one) for key, one in value.items()}
    for kind in (list, tuple):
        if isinstance(value, kind):
            return kind(map(plain, value))
    return str(value) if isinstance(value, str) else value


def _read(reading: int, deadline: float) -> bytes:
    """Read a result; Late if it takes too long or is too much.

    Its length comes first: something that the answer started may keep the pipe open.
    """
    data = bytearray()
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            chunk = os.read(reading, 2**20)
            data += chunk
            if not chunk or len(data) >= 8 + int.from_bytes(data[:8], "big"):
                return bytes(data[8:])
            if len(data) > MAX_RESULT:
                raise Late("gives back too much")
    raise Late("takes too long")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
