"""Exercises with instant checks, and questions with explained choices, for each notebook.

import kt_course
kt_course.exercise_ids("01_attention_math")
kt_course.check("causal-mask", my_function)   # a verdict that says what is wrong, and why
"""

from kt_course.exercises.core import (
    Exercise,
    Verdict,
    Wrong,
    check,
    exercise,
    exercise_ids,
    solution,
)
from kt_course.exercises.progress_store import progress
from kt_course.exercises.quizzes import Choice, Quiz, quiz

__all__ = [
    "Choice",
    "Exercise",
    "Quiz",
    "Verdict",
    "Wrong",
    "check",
    "exercise",
    "exercise_ids",
    "progress",
    "quiz",
    "solution",
]
