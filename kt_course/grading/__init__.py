"""Grading what learners hand in: untrusted notebooks, each run and judged in processes of its own.

answers.py   the functions that a notebook's exercise cells define, taken from its source
judging.py   a process that judges them, and never runs them itself: copies of it do
running.py   a process that runs the notebook from its first cell to its last
sandbox.py   the limits around both, and bubblewrap where it is installed
batch.py     one row of a CSV file a submission
"""

from kt_course.grading.batch import Row, grade
from kt_course.grading.sandbox import Limits

__all__ = ["Limits", "Row", "grade"]
