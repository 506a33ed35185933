"""The decorator of a notebook's exercise cells."""

from __future__ import annotations

from collections.abc import Callable

from kt_course.exercises import my_gpt
from kt_course.exercises.check import check
from kt_course.exercises.registry import find_exercise


def exercise(id: str) -> Callable[[Callable], Callable]:
    """Decorate an answer in a notebook: print the verdict, and return the answer if it is right.

    Otherwise return our own function, so that the notebook always runs to its end. A right answer
    that is a piece of the model is saved in my_gpt.py.
    """
    problem = find_exercise(id)

    def check_answer(fn: Callable) -> Callable:
        verdict = check(id, fn)
        print(verdict)
        if verdict.status != "right":
            return problem.reference
        if problem.is_piece and fn is not problem.reference:
            print(my_gpt.save(problem, fn), end="")
        return fn

    return check_answer
