"""Limits around a learner's code: a time limit, and global random states that stay as they were."""

import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
import torch


class TimeLimit(BaseException):
    """The time is over. Not an Exception, so `except Exception` in a loop does not catch it."""


@contextmanager
def preserve_random_states() -> Iterator[None]:
    """Restore the global random states of torch (CPU), numpy and random after the block."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def is_importing(frame: FrameType | None, caller: FrameType) -> bool:
    """Whether a module is being imported between the frames."""
    while frame and frame is not caller:
        if frame.f_code.co_filename.startswith("<frozen imp"):
            return True
        frame = frame.f_back
    return False


def can_limit_time() -> bool:
    """Whether there are time limits here: in the main thread of Linux or macOS."""
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")


@contextmanager
def not_timed() -> Iterator[None]:
    """Stop the clock of a `time_limit` around the block: work that is not the learner's."""
    if not can_limit_time():
        yield
        return
    left = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimit in the block after `seconds`.

    The signal comes again and again, should a bare `except:` catch the first one. It needs the
    main thread of Linux or macOS, where notebooks run; elsewhere there is no limit. A call inside
    a compiled library is stopped only when it returns to Python. After a long import the time
    starts again.
    """
    if not can_limit_time():
        yield
        return

    caller = sys._getframe(2)  # of the `with` statement

    def stop(number, frame):
        if is_importing(frame, caller):  # stopped halfway, it would fail for the whole session
            signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
        else:
            raise TimeLimit

    handler, start = signal.signal(signal.SIGALRM, stop), time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # another timer was running: it goes on
            rest = max(left - (time.monotonic() - start), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)
