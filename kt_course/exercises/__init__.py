"""Exercises with instant checks, and questions with explained choices, for each notebook.

import kt_course
kt_course.exercise_ids("01_attention_math")
kt_course.check("causal-mask", my_function)   # a verdict that says what is wrong, and why
"""

from kt_course.exercises.check import Verdict, check
from kt_course.exercises.decorator import assert_right, exercise
from kt_course.exercises.progress import progress
from kt_course.exercises.quizzes import quiz
from kt_course.exercises.registry import exercise_ids
from kt_course.exercises.solutions import solution

__all__ = [
    "Verdict",
    "assert_right",
    "check",
    "exercise",
    "exercise_ids",
    "progress",
    "quiz",
    "solution",
]
