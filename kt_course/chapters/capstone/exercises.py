"""The exercise of the capstone: what an answer is run on. The texts are in exercises.toml."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from kt_course.chapters.capstone import solutions
from kt_course.exercises.assertions import Wrong, describe
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.registry import Exercise

CHAPTER = Comparison(solutions)
ID, REFERENCE = "compare-recipes", solutions.compare_recipes
TEXTS = CHAPTER.texts[ID]


def wins_and_losses(answer: Callable, seed: int) -> Results:
    """Run an answer on two recipes with three seeds and some people."""
    rng, n = Random(seed), 12 + seed % 9
    recipes = [[[rng.random() < p for _ in range(n)] for _ in range(3)] for p in (0.6, 0.4)]
    result = answer(*recipes)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong(TEXTS["not_a_pair"].format(result=describe(result)))
    return {"(wins, losses)": str(tuple(int(count) for count in result))}


CHECK = CHAPTER.check(ID, REFERENCE.__name__, wins_and_losses)
POSED = (TEXTS[key] for key in ("title", "difficulty", "minutes"))
EXERCISES = (Exercise(ID, "15_capstone", *POSED, REFERENCE, CHECK),)
