"""Which exercises there are, their order, and how a missing one is reported."""

import subprocess
import sys

import pytest
from small_exercises import DOUBLE, double

from kt_course import exercises
from kt_course.exercises.quizzes import quizzes
from kt_course.exercises.registry import Exercise, by_id, library


def test_chapters_are_imported_only_when_exercises_are_asked_for():
    code = "import sys, kt_course; name = 'kt_course.chapters.attention_math.exercises'; "
    code += "print(name in sys.modules, kt_course.exercise_ids()[:1], name in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False ['scaled-score'] True\n", done.stderr


def test_every_notebook_has_exercises_in_order():
    notebooks = [library()[id].notebook for id in exercises.exercise_ids()]
    assert notebooks == sorted(notebooks)
    assert (
        exercises.exercise_ids("01_attention_math")
        == exercises.exercise_ids()[: notebooks.count("01_attention_math")]
    )
    with pytest.raises(ValueError, match="no notebook with exercises '01'.*01_attention_math"):
        exercises.exercise_ids("01")


def test_an_unknown_id_names_the_nearest():
    for use in (lambda id: exercises.check(id, double), exercises.exercise, exercises.solution):
        with pytest.raises(
            ValueError, match="no exercise 'casual-mask', did you mean 'causal-mask'"
        ):
            use("casual-mask")


def test_ids_are_given_once_and_difficulty_has_five_steps():
    with pytest.raises(ValueError, match="two have the id 'double'"):
        by_id([DOUBLE, DOUBLE])
    with pytest.raises(ValueError, match="difficulty is 1 ... 5, not 6"):
        Exercise("x", "n", "t", 6, 1, double, str)
    assert not set(library()) & set(quizzes())
