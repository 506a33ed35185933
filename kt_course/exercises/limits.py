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


def is_ours(frame: FrameType | None, caller: FrameType) -> bool:
    """Whether a module is being imported, or a check compares an answer with typical mistakes."""
    while frame and frame is not caller:
        code, frame = frame.f_code, frame.f_back
        if code.co_filename.startswith("<frozen imp") or code.co_qualname == "Comparison.explain":
            return True
    return False


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimit in the block after `seconds`.

    The signal comes again and again, should a bare `except:` catch the first one. It needs the
    main thread of Linux or macOS, where notebooks run; elsewhere there is no limit. A call inside
    a compiled library is stopped only when it returns to Python. After work that is not the
    learner's, such as a long import, the time starts again.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or not hasattr(signal, "setitimer"):
        yield
        return

    caller = sys._getframe(2)  # of the `with` statement

    def stop(number, frame):
        if is_ours(frame, caller):  # an import that stops halfway fails for the rest of the session
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
