"""Judge an answer: run an exercise's check on it, and say in one line what came out.

Around every check there are a time limit, preserved random states, and a wrapper that recognises
blank answers and arguments changed in place.
"""

import dis
import functools
import inspect
import linecache
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from kt_course.exercises.assertions import CUT_OFF, Wrong, describe, flows
from kt_course.exercises.limits import TimeLimit, preserve_random_states, time_limit
from kt_course.exercises.progress_store import remember
from kt_course.exercises.registry import DIFFERENTIABLE, Exercise, find_exercise

STATUSES = ("not attempted", "wrong", "right")
HINTS = {  # a part of an error's message, and what is behind it
    "NoneType": "something is None: is a `return` missing?",
    "same dtype": "numbers may come in float64: give your own tensors the dtype of the arguments",
}


@dataclass(frozen=True)
class Verdict:
    """How an answer was judged. str(verdict) is one line, the same on every machine."""

    id: str
    status: str
    diagnosis: str

    def __str__(self) -> str:
        status = "not attempted yet" if self.status == "not attempted" else self.status
        return f"{self.id}: {status}. {self.diagnosis}"


class NotAttempted(BaseException):
    """The first call showed a blank answer. Not an Exception: checks must not catch it."""


def check(id: str, fn: Callable) -> Verdict:
    """Judge `fn` as an answer to the exercise `id`, and record the verdict for `progress()`."""
    exercise = find_exercise(id)
    verdict = judge(exercise, fn)
    if fn is not exercise.reference:
        remember(verdict.id, verdict.status)
    return verdict


def judge(exercise: Exercise, fn: Any, seconds: float = 10.0) -> Verdict:
    """Run the exercise's check on `fn` within a time limit; records nothing."""
    verdict = functools.partial(Verdict, exercise.id)
    stand_in = f"The notebook goes on with {exercise.our_own}."
    if fn is None or fn is ...:
        return verdict("not attempted", stand_in)
    if not callable(fn):
        raise ValueError(f"exercise {exercise.id} wants a function, not {describe(fn)}")
    answer = Answer(fn)
    try:
        with preserve_random_states(), time_limit(seconds):
            result = exercise.check(answer.guarded)
            if exercise.id in DIFFERENTIABLE and answer.is_cut_off(exercise.reference):
                raise Wrong(CUT_OFF)
    except NotAttempted as blank:
        return verdict("not attempted", f"{blank} {stand_in}".strip())
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if answer.has_blank_method() or is_stub_error(error):
            return verdict("not attempted", stand_in)
        return verdict("wrong", one_line(diagnose(error, answer, seconds)))
    if fn is exercise.reference:
        result = f"{result} ({exercise.our_own}: now write yours)"
    return verdict("right", one_line(result))


def diagnose(error: BaseException, answer: "Answer", seconds: float) -> str:
    """Explain an exception during a check to the learner."""
    if isinstance(error, TimeLimit):
        return f"stopped after {seconds:g} seconds: does a loop never end?"
    message = str(error)
    if not isinstance(error, Wrong):
        message = f"{type(error).__name__}: {message}"
        message += "".join(f" ({hint})" for part, hint in HINTS.items() if part in message)
        if line := answer.line_of(error):
            message = f"your code raised {message}, at {line}"
        elif answer.calls:
            message = (
                f"it gave back {describe(answer.latest)}, which the check cannot use ({message})"
            )
        else:
            message = f"the check cannot use it ({message})"
    cause = getattr(error, "__notes__", [])
    return f"{cause[0]} ({message})" if cause else message


class Answer:
    """A learner's function or class, with a wrapper around its calls.

    A class is not wrapped: a check may make objects and subclasses, and call methods.
    """

    def __init__(self, fn: Callable):
        self.fn = fn
        self.calls = 0
        self.latest: Any = None
        self.arguments: list[tuple[tuple, dict]] = []  # arguments of the first calls
        self.codes = set(codes_of(fn))
        self.guarded = fn
        if not inspect.isclass(fn):
            self.guarded = functools.wraps(fn)(lambda *args, **kwargs: self.call(*args, **kwargs))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; NotAttempted if it is a stub, Wrong if it misuses its arguments."""
        tensors = [
            (name, value, value.detach().clone())
            for name, value in named_arguments(self.fn, args, kwargs)
            if isinstance(value, Tensor)
        ]
        try:
            self.latest = self.fn(*args, **kwargs)
        except (NotImplementedError, TypeError, AttributeError) as error:
            if is_stub_error(error):
                raise NotAttempted from error
            if "ellipsis" in str(error).lower():
                raise NotAttempted("A `...` is left in it.") from error
            if isinstance(error, TypeError) and error.__traceback__.tb_next is None:
                raise Wrong(f"it cannot be called as the exercise says: {error}") from error
            raise
        self.calls += 1
        self.arguments += [(args, kwargs)] if self.calls <= 6 else []
        if self.calls == 1 and (self.latest is None or self.latest is ...):
            is_stub = self.latest is ... or all(map(is_blank, self.codes))
            raise NotAttempted("" if is_stub else "It gives back None: is the `return` missing?")
        for name, value, before in tensors:
            if ((value != before) & ~(value.isnan() & before.isnan())).any():
                raise Wrong(
                    f"it changes its argument {name} in place, which its caller still needs: "
                    "make a new tensor"
                )
        return self.latest

    def is_cut_off(self, reference: Callable) -> bool:
        """Whether gradients flow through the reference, but not here, for the same arguments."""

        def flows_through(fn: Callable, args: tuple, kwargs: dict) -> bool:
            with torch.enable_grad():
                options = {key: tracked(value) for key, value in kwargs.items()}
                return flows(fn(*map(tracked, args), **options))

        return any(
            flows_through(reference, *arguments) and not flows_through(self.fn, *arguments)
            for arguments in self.arguments
        )

    def has_blank_method(self) -> bool:
        """Whether a class still has a method without a body."""
        return inspect.isclass(self.fn) and any(map(is_blank, self.codes))

    def line_of(self, error: BaseException) -> str:
        """Return the learner's last line that the error came through, or an empty string."""
        files = {code.co_filename for code in self.codes} - {__file__}
        steps = [s for s in traceback.extract_tb(error.__traceback__) if s.filename in files]
        if not steps:
            return ""
        source = linecache.getline(steps[-1].filename, steps[-1].lineno).strip()
        return f"line {steps[-1].lineno}: {source}".removesuffix(": ")


def tracked(value: Any) -> Any:
    """A copy of a tensor of floats, for which gradients are computed; anything else as it is."""
    if isinstance(value, dict):
        return {key: tracked(one) for key, one in value.items()}
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().clone().requires_grad_() if is_float else value


def codes_of(thing: Any) -> list[CodeType]:
    """Return the code of a function or callable object, or of a class's own methods."""
    codes = []
    for member in vars(thing).values() if inspect.isclass(thing) else [thing]:
        for name in ("func", "__func__", "fget"):  # of a partial, a classmethod, a property
            member = getattr(member, name, member)
        code = getattr(inspect.unwrap(member), "__code__", None)
        codes.append(code or getattr(type(member).__call__, "__code__", None))
    return [code for code in codes if code is not None]


def is_blank(code: CodeType) -> bool:
    """Whether a body is `...`, `pass`, a docstring, `return None` or a bare NotImplementedError."""
    body = [i for i in dis.get_instructions(code) if i.opname not in ("RESUME", "NOP")]
    returns_none = ("LOAD_CONST", "RETURN_CONST", "RETURN_VALUE")
    return any(i.argval == "NotImplementedError" for i in body[:2]) or all(
        i.argval is None and i.opname in returns_none for i in body
    )


def is_stub_error(error: BaseException) -> bool:
    """Whether a `raise NotImplementedError` raised it; PyTorch has other reasons to."""
    if not isinstance(error, NotImplementedError):
        return False
    step = error.__traceback__
    while step.tb_next is not None:
        step = step.tb_next
    return dis.opname[step.tb_frame.f_code.co_code[step.tb_lasti]] == "RAISE_VARARGS"


def named_arguments(fn: Callable, args: tuple, kwargs: dict) -> list[tuple[str, Any]]:
    """Return arguments with their names, for messages."""
    try:
        names = list(inspect.signature(fn).parameters)
    except (TypeError, ValueError):
        names = []
    names += [f"number {i + 1}" for i in range(len(names), len(args))]
    return [*zip(names, args, strict=False), *kwargs.items()]


def one_line(text: str) -> str:
    """Join lines and repeated spaces."""
    return " ".join(str(text).split())
