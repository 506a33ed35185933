"""Exercises: what one is, how an answer is judged, and the one line that says so.

A module of this package lists its notebook's exercises as `EXERCISES`. A check gets
the learner's function alone. It raises `Wrong` with the diagnosis, or returns what it verified in one short line:

    def check_causal_mask(fn: Callable) -> str:
        mask = tensor(fn(5), (5, 5), "the mask for T = 5")
        if mask[3, 4]:
            raise Wrong("position 3 may look at position 4: a leak from the future; tril, not triu")
        with unforeseen("right for T = 5, wrong for another T"):
            for T in draw(1, 9, 3): ...                    # fresh cases, so that a table of answers fails
        return "lower triangle for every T"

    EXERCISES = (Exercise("causal-mask", "01_attention_math", "The causal mask", 1, 5, causal_mask, check_causal_mask),)

Around every check: a limit on time and memory, the global random states kept, the first call looked at for a blank
answer, and calls of the reference counted.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import random
import string
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MODULES = (
    "attention_math",
    "span_corruption",
    "no_pretrain_baseline",
    "pretrain_finetune",
    "perceiver_ar",
    "rope",
    "making_knowledge_extractable",
    "the_whole_transformer",
    "masked_language_models",
    "pretrained_models",
    "finetuning_techniques",
    "vision_transformer",
    "what_does_it_know",
)
STATUSES = ("not attempted", "wrong", "right")


class Wrong(Exception):
    """Raised by a check: which property fails, with numbers, and the likely cause. One line."""


@dataclass(frozen=True)
class Exercise:
    """One thing to write. `reference` is kt_core's own function or class, `check` judges another one.

    `forbidden`: what an answer may not call besides the reference, such as PyTorch's fused attention where the
    formula is asked for.
    """

    id: str
    notebook: str
    title: str
    difficulty: int
    minutes: int
    reference: Callable
    check: Callable[[Callable], str]
    forbidden: tuple[Callable, ...] = ()

    def __post_init__(self):
        if not 1 <= self.difficulty <= 5:
            raise ValueError(f"exercise {self.id}: difficulty is 1 ... 5, not {self.difficulty}")

    @property
    def name(self) -> str:
        """The reference's name, as kt_core has it."""
        return self.reference.__qualname__


@dataclass(frozen=True)
class Verdict:
    """How an answer was judged. str(verdict) is one line, the same on every machine."""

    id: str
    status: str
    diagnosis: str

    def __str__(self) -> str:
        told = "not attempted yet" if self.status == "not attempted" else self.status
        return f"{self.id}: {told}. {self.diagnosis}"


# ---------------------------------------------------------------- the library of exercises


@functools.cache
def _modules() -> tuple[Any, ...]:
    return tuple(
        importlib.import_module(f"kt_course.chapters.{name}.exercises") for name in MODULES
    )


@functools.cache
def library() -> dict[str, Exercise]:
    """All exercises by id, in the order of the notebooks."""
    return by_id(exercise for module in _modules() for exercise in module.EXERCISES)


def by_id(things: Iterable[Any]) -> dict[str, Any]:
    """Exercises or quizzes by their id; ValueError where two share one."""
    found: dict[str, Any] = {}
    for thing in things:
        if thing.id in found:
            raise ValueError(f"two have the id {thing.id!r}")
        found[thing.id] = thing
    return found


def look_up(known: dict[str, Any], id: str, kind: str) -> Any:
    """known[id], or a ValueError that names the nearest id."""
    if id not in known:
        near = difflib.get_close_matches(str(id), known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
        raise ValueError(f"no {kind} {id!r}{hint}")
    return known[id]


def exercise_ids(notebook: str | None = None) -> list[str]:
    """Ids of all exercises, or of one notebook's, in the order in which they come."""
    notebooks = list(dict.fromkeys(exercise.notebook for exercise in library().values()))
    if notebook is not None and notebook not in notebooks:
        raise ValueError(
            f"no notebook {notebook!r} with exercises; there are {', '.join(notebooks)}"
        )
    return [e.id for e in library().values() if notebook in (None, e.notebook)]


# ---------------------------------------------------------------- judging


def check(id: str, fn: Callable) -> Verdict:
    """Judge `fn` as an answer to the exercise `id`, for scripts; it is kept for `progress()`."""
    from kt_course.exercises.judge import judge
    from kt_course.exercises.progress_store import remember

    wanted = look_up(library(), id, "exercise")
    verdict = judge(wanted, fn)
    if fn is not wanted.reference:
        remember(verdict.id, verdict.status)
    return verdict


def exercise(id: str) -> Callable[[Callable], Callable]:
    """Decorator for an answer in a notebook: prints the verdict, and gives back the answer if it is right.

    Else it gives back kt_core's own, so that the notebook runs to its end. The cell can be run again and again.
    """
    wanted = look_up(library(), id, "exercise")

    def judged(fn: Callable) -> Callable:
        verdict = check(id, fn)
        print(verdict)
        return fn if verdict.status == "right" else wanted.reference

    return judged


def solution(id: str) -> None:
    """Show the source of kt_core's own answer, with colours in a notebook."""
    reference = look_up(library(), id, "exercise").reference
    show_source(textwrap.dedent(inspect.getsource(inspect.unwrap(reference))))


def show_source(source: str) -> None:
    """Python source: highlighted in a notebook, plain elsewhere."""
    if in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(f"```python\n{source}```"))
    else:
        print(source, end="")


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


# ---------------------------------------------------------------- what checks share


def fresh() -> torch.Generator:
    """A generator that nobody can foresee, so that memorised outputs fail. Print no number drawn from it."""
    generator = torch.Generator()
    generator.seed()
    return generator


def fresh_random() -> random.Random:
    """The same as a generator of Python's own."""
    return random.Random(draw(0, 2**40, 1)[0])


def letters(n: int, rng: random.Random | None = None) -> str:
    """n letters at random; the same ones each time unless an `rng` is given."""
    return "".join((rng or random.Random(n)).choices(string.ascii_lowercase, k=n))


def draw(low: int, high: int, n: int, generator: torch.Generator | None = None) -> list[int]:
    """n whole numbers from low ... high, both included; from a fresh generator unless one is given."""
    return torch.randint(low, high + 1, (n,), generator=generator or fresh()).tolist()


@contextmanager
def unforeseen(told: str) -> Iterator[None]:
    """For fresh cases, after a fixed one: whatever fails inside is told as `told`.

    Their numbers and sizes differ from run to run, and the printed line must not.
    """
    try:
        yield
    except Exception as error:
        raise Wrong(told) from error


def refused(what: str, fn: Callable, *args: Any) -> str:
    """The message of the ValueError that fn(*args) raises; Wrong if it raises something else, or nothing."""
    try:
        result = fn(*args)
    except Wrong:
        raise
    except ValueError as error:
        return str(error)
    except Exception as error:
        raise Wrong(
            f"{what} raises {type(error).__name__}; raise a ValueError that says what is wrong"
        ) from error
    raise Wrong(
        f"{what} gives back {describe(result)} without a word; raise a ValueError that says what is wrong"
    )


def tensor(result: Any, shape: Sequence[int], what: str) -> Tensor:
    """`result` if it is a tensor of that shape; else Wrong, naming `what` and what it is instead."""
    if not isinstance(result, Tensor):
        raise Wrong(f"{what} should be a tensor, not {describe(result)}")
    if tuple(result.shape) != tuple(shape):
        raise Wrong(f"{what} has the shape {tuple(result.shape)} instead of {tuple(shape)}")
    return result.detach()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal shapes and equal up to `tolerance` (absolute, and relative to b); NaN is close to nothing.

    Compares in float64 whatever the float types are; the tolerance suits answers in float32.
    """
    return a.shape == b.shape and torch.allclose(
        a.double(), b.double(), rtol=tolerance, atol=tolerance
    )


def describe(value: Any) -> str:
    """A value in a few words: a tensor by its shape, others by type, with the value where it is short."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if value is None or isinstance(value, (bool, int, float, str)) and len(repr(value)) < 40:
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
