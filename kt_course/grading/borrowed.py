"""Find answers that call the function they should write, for grading.

In a notebook a learner who calls kt_core's own function knows it. A grade should not depend on
that.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, no_type_check

from kt_course import exercises
from kt_course.exercises.check import Verdict, codes_of, judge
from kt_course.exercises.registry import Exercise

FRAMEWORK = str(Path(exercises.__file__).parent)
SECONDS = 30.0  # three times as long as in a notebook: several submissions run at a time


def judge_strictly(exercise: Exercise, fn: Any) -> Verdict:
    """Judge an answer; wrong if it calls or inherits the reference, or calls what is forbidden."""
    if fn is exercise.reference:
        return judge(exercise, fn, SECONDS)
    watched = (exercise.reference, *exercise.forbidden)
    names = [
        name_of(thing)
        for thing in watched
        if inspect.isclass(fn) and inspect.isclass(thing) and issubclass(fn, thing)
    ]
    with record_calls(exercise, fn, watched, names):
        verdict = judge(exercise, fn, SECONDS)
    if names and verdict.status != "not attempted":
        return Verdict(exercise.id, "wrong", f"this calls {names[0]}: write the formula yourself")
    return verdict


@no_type_check  # the tests' shape checks would wrap the profiler's callback, at every call
@contextmanager
def record_calls(
    exercise: Exercise, fn: Any, watched: tuple[Callable, ...], names: list[str]
) -> Iterator[None]:
    """Append to `names` the `watched` functions that the answer calls, itself or through others.

    Python's profiler sees every call. The check also calls the reference, to know what to expect.
    So going up the stack from a call, the answer's frame must come before a frame of the check.
    """
    # by id: hashing a code object takes long, and the profiler asks at every call
    python = {id(code): name_of(thing) for thing in watched for code in codes_of(thing)}
    native = {id(thing): name_of(thing) for thing in watched if not codes_of(thing)}
    own_codes = {id(code) for code in codes_of(fn)}
    check_file = inspect.unwrap(exercise.check).__code__.co_filename

    def is_the_answers(frame: FrameType | None) -> bool:
        while frame is not None:
            code = frame.f_code
            in_framework = code.co_filename.startswith(FRAMEWORK)
            if id(code) in own_codes or in_framework and code.co_qualname == "Answer.call":
                return True
            if in_framework or code.co_filename == check_file:
                return False
            frame = frame.f_back
        return False

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if names:
            return
        if event == "call" and id(frame.f_code) in python and is_the_answers(frame.f_back):
            names.append(python[id(frame.f_code)])
        elif event == "c_call" and id(argument) in native and is_the_answers(frame):
            names.append(native[id(argument)])

    profiler = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(profiler)


def name_of(thing: Callable) -> str:
    """Return a function's name as a learner knows it."""
    module = getattr(thing, "__module__", None) or ""
    name = getattr(thing, "__qualname__", type(thing).__name__)
    return f"kt_core's own {name}" if module.startswith("kt_co") else f"PyTorch's own {name}"
