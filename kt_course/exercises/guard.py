"""Limits around a learner's code: time, memory, and random states that stay as they were.

What is covered. Time: Python code that never ends, on every platform; in the main thread of Linux and macOS by a
timer's signal, elsewhere by an exception that a watching thread raises in the running one. Memory: on Linux the
system refuses what goes beyond the headroom; on macOS the watching thread looks at the peak every 50 ms.

What is not. One call inside a compiled library (a huge matrix product) is stopped only when it comes back to Python;
so memory that one such call takes is limited on Linux alone, and on Windows memory is not limited at all. Memory of
a GPU, and other processes that the code starts, are not seen. This catches accidents, it is no sandbox.
"""

from __future__ import annotations

import ctypes
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


class TimeLimit(BaseException):
    """The time is over. No Exception, so that `except Exception` in a loop does not swallow it."""


class MemoryLimit(BaseException):
    """More memory than allowed is in use."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception is a refused allocation: Python's or PyTorch's."""
    refused = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
        "Cannot allocate memory",
    )
    return isinstance(error, MemoryError) or any(text in str(error) for text in refused)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """The global random states of torch (CPU), numpy and random are after the block what they were before."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


@contextmanager
def limits(seconds: float, gigabytes: float) -> Iterator[None]:
    """Stop the block with TimeLimit, MemoryLimit or a MemoryError when it takes more. See the module's docstring."""
    main = threading.current_thread() is threading.main_thread()
    timer = _timer if main and hasattr(signal, "setitimer") else None
    headroom = _headroom if sys.platform == "linux" else None
    with _watched(None if timer else seconds, None if headroom else gigabytes):
        with headroom(gigabytes) if headroom else _nothing():
            with timer(seconds) if timer else _nothing():
                yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _timer(seconds: float) -> Iterator[None]:
    """SIGALRM after `seconds`, and again and again, should a bare `except:` swallow the first."""

    def over(number, frame):
        raise TimeLimit

    before, began = signal.signal(signal.SIGALRM, over), time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # another timer was running: it goes on
            rest = max(left - (time.monotonic() - began), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)


@contextmanager
def _headroom(gigabytes: float) -> Iterator[None]:
    """Linux: the address space may grow by `gigabytes` and what PyTorch's threads reserve when they start."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    more = int((gigabytes + 0.15 * torch.get_num_threads()) * 2**30)
    limit = pages * resource.getpagesize() + more
    try:
        if before[0] == resource.RLIM_INFINITY or limit < before[0]:
            resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    except (OSError, ValueError):  # a system that does not let us: then without
        pass
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _watched(seconds: float | None, gigabytes: float | None) -> Iterator[None]:
    """A thread that looks every 50 ms and raises in this one what is over. None: no such limit."""
    if seconds is None and (gigabytes is None or resource is None):
        yield
        return
    me, done, began, at_first = threading.get_ident(), threading.Event(), time.monotonic(), _peak()

    def watch() -> None:
        while not done.wait(0.05):
            if seconds is not None and time.monotonic() - began > seconds:
                _raise_in(me, TimeLimit)
            elif gigabytes is not None and _peak() - at_first > gigabytes * 2**30:
                _raise_in(me, MemoryLimit)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        while watcher.is_alive():
            try:
                done.set()
                watcher.join()
            except (TimeLimit, MemoryLimit):  # it came just now
                continue
        try:
            for _ in range(100):  # one that is still on its way arrives here
                pass
        except (TimeLimit, MemoryLimit):
            pass


def _raise_in(thread: int, kind: type[BaseException]) -> None:
    """Raise `kind` in a thread at its next step of Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _peak() -> float:
    """Peak memory of this process in bytes, or 0 where that is not told."""
    if resource is None:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS tells bytes, Linux kilobytes
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
