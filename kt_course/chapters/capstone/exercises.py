"""The exercise of the capstone: what an answer is run on. The texts are in exercises.toml."""

from collections.abc import Callable
from random import Random

from kt_course.chapters.capstone import solutions
from kt_course.exercises.assertions import Wrong, parts
from kt_course.exercises.comparison import Comparison, Results

CHAPTER = Comparison(solutions, "15_capstone")


@CHAPTER.exercise("compare-recipes")
def wins_and_losses(answer: Callable, seed: int) -> Results:
    """Run an answer on two recipes with three seeds and some people, and with one seed."""
    rng, n = Random(seed), 12 + seed % 9
    recipes = [[[rng.random() < p for _ in range(n)] for _ in range(3)] for p in (0.6, 0.4)]
    results: Results = {}
    for name, n_seeds in (("", 3), (" with one seed", 1)):
        result = answer(*(recipe[:n_seeds] for recipe in recipes))
        texts = CHAPTER.texts["compare-recipes"]
        pair = parts(result, 2, texts["not_a_pair"])
        if any(count != int(count) for count in pair):
            raise Wrong(texts["not_counts"])
        results[f"(wins, losses){name}"] = str(tuple(int(count) for count in pair))
    return results


EXERCISES = CHAPTER.exercises()
