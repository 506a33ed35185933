"""Grading of submissions: untrusted notebooks, each judged and run in processes of its own.

- answers.py: the functions that a notebook's exercise cells define, taken from its source.
- judging.py: a process that judges them, and never runs them itself: copies.py does, in forks.
- borrowed.py: answers that call the function they should write.
- running.py: a process that runs the notebook from its first cell to its last.
- sandbox.py: the limits around both; isolation.py: bubblewrap, where it is installed.
- batch.py: the command `kt grade`; submissions.py: what was handed in, and the table.
- gradebook.py, roster.py, written.py: points, students, written questions.
- reports.py: what a person reads, and what a learning management system imports.
- release.py, cleaning.py, formats.py: clean notebooks for learners; learner_copies.py: `kt lab`.

This file imports nothing: every confined process imports it, and should start fast.
"""
