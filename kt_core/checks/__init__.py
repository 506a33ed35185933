"""Exercises with instant checks, and questions with explained choices, for each notebook.

import kt_core as kt
kt.checks.exercises("01_attention_math")      # their ids
kt.checks.check("causal-mask", my_function)   # a verdict that says what is wrong, and why
"""

from kt_core.checks.core import Exercise, Verdict, Wrong, check, exercise, exercises, solution
from kt_core.checks.quizzes import Choice, Quiz, quiz
from kt_core.checks.record import progress

__all__ = [
    "Choice",
    "Exercise",
    "Quiz",
    "Verdict",
    "Wrong",
    "check",
    "exercise",
    "exercises",
    "progress",
    "quiz",
    "solution",
]
