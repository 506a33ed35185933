"""The decorator of a notebook's exercise cells."""

from collections.abc import Callable

from kt_course.exercises import my_gpt
from kt_course.exercises.check import Verdict, check
from kt_course.exercises.registry import find_exercise

_verdicts: dict[str, Verdict] = {}  # the latest of this process


def assert_right(id: str) -> None:
    """Raise AssertionError unless the latest answer to an exercise is right; for graders."""
    verdict = _verdicts.get(find_exercise(id).id)
    assert verdict and verdict.status == "right", str(verdict or f"{id}: its cell did not run")


def exercise(id: str) -> Callable[[Callable], Callable]:
    """Decorate an answer in a notebook: print the verdict, and return the answer if it is right.

    Otherwise return our own function, so that the notebook always runs to its end. A right answer
    that is a piece of the model is saved in my_gpt.py.
    """
    problem = find_exercise(id)

    def check_answer(fn: Callable) -> Callable:
        verdict = _verdicts[id] = check(id, fn)
        print(verdict)
        if verdict.status != "right":
            return problem.reference
        if problem.is_piece and fn is not problem.reference:
            print(my_gpt.save(problem, fn), end="")
        return fn

    return check_answer
