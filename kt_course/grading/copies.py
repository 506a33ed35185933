"""Run untrusted code in copies (forks) of this process, and get plain data back, no objects."""

import io
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from kt_core.evaluation import Score

MAX_RESULT = 256 * 2**20  # bytes


class Lost(BaseException):
    """A copy gave nothing back. Not an Exception, because checks catch those."""


class Late(Lost):
    """What a copy gives back comes too late, or is too much."""


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
            outcome = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise Lost("gives back something that is no plain data") from error
    return value_of(outcome)


def outcome_of(work: Callable[[], Any]) -> tuple[str, Any]:
    """Return ("result", work()), or the kind and text of the exception that it raised."""
    try:
        return "result", plain(work())
    except ValueError as error:
        return "ValueError", str(error)
    except BaseException as error:
        return "error", f"{type(error).__name__}: {error}"


def value_of(outcome: Any) -> Any:
    """Return the result in an outcome, which may come from a copy, or raise its exception."""
    if not isinstance(outcome, tuple) or len(outcome) != 2:
        raise Lost("gives back something else than results")
    if outcome[0] == "result":
        return outcome[1]
    raise (ValueError if outcome[0] == "ValueError" else RuntimeError)(str(outcome[1]))


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
        outcome, data = outcome_of(work), io.BytesIO()
        try:
            torch.save(outcome, data)
        except Exception:  # a result of a class of its own
            data = io.BytesIO(b"no data")
        with os.fdopen(writing, "wb") as file:
            file.write(len(data.getbuffer()).to_bytes(8, "big") + data.getvalue())
    finally:
        os._exit(0)


def plain(value: Any) -> Any:
    """A copy of the data without numpy's scalars and subclasses of str, list, tuple and dict."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
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
