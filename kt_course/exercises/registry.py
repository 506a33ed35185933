"""What an exercise is, and how the exercises of all chapters are collected.

The module `exercises.py` in a chapter's folder makes them with a `Comparison` and holds them in
EXERCISES, in the chapter's order.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_core._validation import one_of

# Parts of models that are trained: gradients have to flow through their results.
DIFFERENTIABLE = frozenset(
    "scaled-score masked-softmax one-head cross-entropy embedding attention-module mlp block gpt "
    "layer-norm-module cross-attention down-project up-project through-latents rotate "
    "rotary-attention encoder-block decoder-block one-hot-kl full-attention "
    "vision-transformer".split()
)
CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"


@dataclass(frozen=True)
class Exercise:
    """A function or class for the learner to write.

    Attributes:
        id: The name in `@exercise("causal-mask")`.
        notebook, title: Where the exercise is posed, and under which heading.
        difficulty: 1 (easy) to 5.
        minutes: How long a learner takes.
        reference: Our own function or class, which the notebook uses until the learner's is right.
        check: Gets the learner's function. Raises Wrong with a diagnosis, or returns one short line
            that says what it verified.
        forbidden: What an answer may not call besides the reference, such as PyTorch's fused
            attention where the formula is the exercise. Grading enforces it.
        is_piece: Whether a right answer is saved in the learner's my_gpt.py.
        compute: `compute(answer, seed)` gives what is compared with the reference's, if anything.
    """

    id: str
    notebook: str
    title: str
    difficulty: int
    minutes: int
    reference: Callable
    check: Callable[[Callable], str]
    forbidden: tuple[Callable, ...] = ()
    is_piece: bool = False
    compute: Callable[[Any, int], dict[str, Any]] | None = None

    def __post_init__(self):
        if not 1 <= self.difficulty <= 5:
            raise ValueError(f"exercise {self.id}: difficulty is 1 ... 5, not {self.difficulty}")

    @property
    def name(self) -> str:
        """The reference's qualified name."""
        return self.reference.__qualname__

    @property
    def our_own(self) -> str:
        """The reference, in a sentence to the learner."""
        is_core = inspect.unwrap(self.reference).__module__.startswith("kt_core.")
        return f"{'kt_core' if is_core else 'the course'}'s own {self.name}"


@functools.cache
def library() -> dict[str, Exercise]:
    """Return all exercises by id, in the order of the notebooks."""
    names = sorted(path.parent.name for path in CHAPTERS.glob("*/exercises.py"))
    modules = [importlib.import_module(f"kt_course.chapters.{name}.exercises") for name in names]
    modules.sort(key=lambda module: module.EXERCISES[0].notebook)
    return by_id(exercise for module in modules for exercise in module.EXERCISES)


def by_id(things: Iterable[Any]) -> dict[str, Any]:
    """Return exercises or quizzes by id; ValueError if two share one."""
    result: dict[str, Any] = {}
    for thing in things:
        if thing.id in result:
            raise ValueError(f"two have the id {thing.id!r}")
        result[thing.id] = thing
    return result


def find_exercise(id: str) -> Exercise:
    """Return an exercise by its id; ValueError with the nearest id if there is none."""
    return library()[one_of("exercise", id, library())]


def reference_of(id: str) -> Callable:
    """Return the course's own answer to an exercise of another chapter, looked up when called.

    Teaching solutions build on those of earlier chapters, and chapters do not import each other.
    """
    return lambda *args, **kwargs: find_exercise(id).reference(*args, **kwargs)


def exercise_ids(notebook: str | None = None) -> list[str]:
    """Return the ids of all exercises, or of one notebook's, in their order."""
    if notebook is not None:
        one_of("notebook with exercises", notebook, {e.notebook: 0 for e in library().values()})
    return [e.id for e in library().values() if notebook in (None, e.notebook)]
