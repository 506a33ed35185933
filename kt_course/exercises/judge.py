"""What happens around a check: blank answers, borrowed ones, errors in the learner's code, limits."""

from __future__ import annotations

import dis
import functools
import inspect
import linecache
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, no_type_check

from torch import Tensor

from kt_course.exercises.core import Exercise, Verdict, Wrong, describe
from kt_course.exercises.guard import (
    MemoryLimit,
    TimeLimit,
    limits,
    out_of_memory,
    random_states_kept,
)

HERE = str(Path(__file__).parent)


class _NotAttempted(BaseException):
    """The first call showed a blank answer. No Exception: a check's own handlers must not catch it."""


def judge(exercise: Exercise, fn: Any, seconds: float = 10.0, gigabytes: float = 1.0) -> Verdict:
    """Run the exercise's check on `fn`, within limits, and tell in one line what came out. Keeps no record."""
    verdict = functools.partial(Verdict, exercise.id)
    stand_in = f"The notebook goes on with kt_core's own {exercise.name}."
    if fn is None or fn is ...:
        return verdict("not attempted", stand_in)
    if not callable(fn):
        raise ValueError(f"exercise {exercise.id} wants a function, not {describe(fn)}")
    answer = Answer(fn)
    watched = () if fn is exercise.reference else (exercise.reference, *exercise.forbidden)
    borrowed = [
        name_of(w)
        for w in watched
        if inspect.isclass(fn) and inspect.isclass(w) and issubclass(fn, w)
    ]
    try:
        with (
            random_states_kept(),
            limits(seconds, gigabytes),
            calls_seen(answer, watched, borrowed),
        ):
            verified = exercise.check(answer.guarded)
    except _NotAttempted as blank:
        return verdict("not attempted", " ".join(filter(None, [str(blank), stand_in])))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if (
            answer.blank_method()
            or isinstance(error, NotImplementedError)
            and raised_by_hand(error)
        ):
            return verdict("not attempted", stand_in)
        diagnosis = diagnose(error, answer, seconds, gigabytes)
    else:
        diagnosis = ""
    if borrowed:
        return verdict("wrong", f"this calls {borrowed[0]}: write the formula yourself")
    if diagnosis:
        return verdict("wrong", one_line(diagnosis))
    if fn is exercise.reference:
        return verdict(
            "right", one_line(f"{verified} (kt_core's own {exercise.name}: now write yours)")
        )
    return verdict("right", one_line(verified))


def one_line(text: str) -> str:
    return " ".join(str(text).split())


def diagnose(error: BaseException, answer: Answer, seconds: float, gigabytes: float) -> str:
    """What an exception during a check tells the learner."""
    if isinstance(error, Wrong):
        return str(error)
    if isinstance(error, TimeLimit):
        return f"stopped after {seconds:g} seconds: does a loop never end?"
    if isinstance(error, MemoryLimit) or out_of_memory(error):
        return f"stopped: it asked for more than {gigabytes:g} GB of memory. Does a list or a tensor grow without end?"
    told = f"{type(error).__name__}: {error}"
    if line := answer.line_of(error):
        return f"your code raised {told}, at {line}"
    if answer.calls:
        return f"it gave back {describe(answer.latest)}, which the check cannot use ({told})"
    return f"the check cannot use it ({told})"


class Answer:
    """A learner's function or class, and what is known about it without a look at its text."""

    def __init__(self, fn: Callable):
        self.fn = fn
        self.calls = 0
        self.latest: Any = None
        self.codes = set(codes_of(fn))
        self.files = {code.co_filename for code in self.codes}
        # a class is handed over as it is: a check may make objects, subclasses, call methods
        self.guarded: Callable = fn if inspect.isclass(fn) else self._wrapped()

    def _wrapped(self) -> Callable:
        @functools.wraps(self.fn)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            given = [
                (name, x, x._version) for name, x in _named(self.fn, args, kwargs) if _counts(x)
            ]
            try:
                self.latest = result = self.fn(*args, **kwargs)
            except NotImplementedError as error:
                if raised_by_hand(error):
                    raise _NotAttempted from error
                raise
            except (TypeError, AttributeError) as error:
                if "ellipsis" in str(error).lower():  # a `...` is left in the middle
                    raise _NotAttempted("A `...` is left in it.") from error
                if error.__traceback__.tb_next is None:  # raised by the call itself
                    raise Wrong(f"it cannot be called as the exercise says: {error}") from error
                raise
            self.calls += 1
            if self.calls == 1 and (result is None or result is ...):
                forgotten = (
                    result is None and not is_blank(self.codes) and not returns_a_value(self.codes)
                )
                raise _NotAttempted(
                    "It gives back None: is the `return` missing?" if forgotten else ""
                )
            for name, x, version in given:
                if x._version != version:
                    raise Wrong(
                        f"it changes its argument {name} in place, which its caller still needs: make a new tensor"
                    )
            return result

        return guarded

    def blank_method(self) -> bool:
        """Whether a class still has a method without a body."""
        return inspect.isclass(self.fn) and any(is_blank([code]) for code in self.codes)

    def line_of(self, error: BaseException) -> str:
        """The last line of the learner's own that the error came through, or ""."""
        own = [step for step in _steps(error) if step.tb_frame.f_code.co_filename in self.files]
        own = [step for step in own if not _in_checks(step.tb_frame)]
        if not own:
            return ""
        line = own[-1].tb_lineno
        source = linecache.getline(own[-1].tb_frame.f_code.co_filename, line).strip()
        return f"line {line}: {source}" if source else f"line {line}"


def codes_of(thing: Any) -> Iterator[CodeType]:
    """Code objects of a function, of a class's own methods, or of a callable object's."""
    if isinstance(thing, functools.partial):
        yield from codes_of(thing.func)
    elif isinstance(thing, (classmethod, staticmethod)):
        yield from codes_of(thing.__func__)
    elif isinstance(thing, property):
        yield from (code for part in (thing.fget, thing.fset) if part for code in codes_of(part))
    elif inspect.isclass(thing):
        for member in vars(thing).values():
            if not inspect.isclass(member):
                yield from codes_of(member)
    elif inspect.isfunction(inner := inspect.unwrap(thing)) or inspect.ismethod(inner):
        yield inner.__code__
    elif inspect.isfunction(call := vars(type(thing)).get("__call__")):
        yield call.__code__


def raised_by_hand(error: BaseException) -> bool:
    """Whether a `raise` statement raised it. PyTorch itself raises NotImplementedError, for types it has no kernel for."""
    *_, last = _steps(error)
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


def _steps(error: BaseException) -> Iterator[TracebackType]:
    step = error.__traceback__
    while step is not None:
        yield step
        step = step.tb_next


def _body(code: CodeType) -> list[tuple[str, Any]]:
    return [
        (i.opname, i.argval)
        for i in dis.get_instructions(code)
        if i.opname not in ("RESUME", "NOP")
    ]


def is_blank(codes: Iterable[CodeType]) -> bool:
    """Whether every body is `...`, `pass`, a docstring, `return None` or raises NotImplementedError at once."""
    returns = ([("LOAD_CONST", None), ("RETURN_VALUE", None)], [("RETURN_CONST", None)])
    raises = ("LOAD_GLOBAL", "NotImplementedError")
    return all((body := _body(code)) in returns or raises in body[:2] for code in codes)


def returns_a_value(codes: Iterable[CodeType]) -> bool:
    """Whether some `return` gives back more than a constant None."""
    for body in map(_body, codes):
        for before, (name, value) in zip([("", None), *body], body, strict=False):
            if name == "RETURN_CONST" and value is not None:
                return True
            if name == "RETURN_VALUE" and before != ("LOAD_CONST", None):
                return True
    return False


def _named(fn: Callable, args: tuple, kwargs: dict) -> list[tuple[str, Any]]:
    """Arguments with their names, for messages."""
    try:
        names = list(inspect.signature(fn).parameters)
    except (TypeError, ValueError):
        names = []
    names += [f"number {i + 1}" for i in range(len(names), len(args))]
    return [*zip(names, args, strict=False), *kwargs.items()]


def _counts(x: Any) -> bool:
    return isinstance(x, Tensor) and not x.is_inference()  # those keep no count of changes


def _in_checks(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(HERE)


@no_type_check  # the tests' shape checks would wrap the profiler's callback, at every call
@contextmanager
def calls_seen(answer: Answer, watched: tuple[Callable, ...], seen: list[str]) -> Iterator[None]:
    """Within the block, names of `watched` functions that the answer calls, itself or through others, go to `seen`.

    Python's profiler tells every call. One that comes from the check itself, to compute what is expected, is none
    of the answer's: going up from the call, the answer's own frame must come before any frame of a check.
    """
    # by id: to hash a code object takes long, and the profiler asks at every call
    python = {id(code): name_of(thing) for thing in watched for code in codes_of(thing)}
    native = {id(thing): name_of(thing) for thing in watched if not list(codes_of(thing))}

    def of_the_answer(frame: FrameType | None) -> bool:
        while frame is not None:
            code = frame.f_code
            if code.co_name == "guarded" and _in_checks(frame):
                return True
            if _in_checks(frame):
                return False
            if code in answer.codes:
                return True
            frame = frame.f_back
        return False

    def look(frame: FrameType, event: str, arg: Any) -> None:
        if seen:
            return
        if event == "call" and id(frame.f_code) in python and of_the_answer(frame.f_back):
            seen.append(python[id(frame.f_code)])
        elif event == "c_call" and id(arg) in native and of_the_answer(frame):
            seen.append(native[id(arg)])

    before = sys.getprofile()
    sys.setprofile(look if watched else before)
    try:
        yield
    finally:
        sys.setprofile(before)


def name_of(thing: Callable) -> str:
    """A function's name as a learner knows it."""
    module = getattr(thing, "__module__", None) or ""
    name = getattr(thing, "__qualname__", getattr(thing, "__name__", type(thing).__name__))
    return f"kt_core's own {name}" if module.startswith("kt_core") else f"PyTorch's own {name}"
