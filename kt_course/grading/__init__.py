"""Grading of submissions: untrusted notebooks, each judged and run in processes of its own.

- answers.py: the functions that a notebook's exercise cells define, taken from its source.
- judging.py: a process that judges them, and never runs them itself: copies of it do.
- borrowed.py: answers that call the function they should write.
- running.py: a process that runs the notebook from its first cell to its last.
- sandbox.py: the limits around both, and bubblewrap where it is installed.
- batch.py: one row of a CSV file per submission.
- release.py: clean notebooks for learners.

This file imports nothing: every confined process imports it, and should start fast.
"""
