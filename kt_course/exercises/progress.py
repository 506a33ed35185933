"""The table of what a learner has done so far."""

from __future__ import annotations

from kt_course.exercises.progress_store import read_statuses
from kt_course.exercises.quizzes import quizzes
from kt_course.exercises.registry import library


def progress() -> None:
    """Print how many exercises and questions of each notebook are done, wrong and open.

    Answers are recorded in $KT_PROGRESS_FILE, or else in kt-core/progress.json in the user's data
    folder (~/.local/share on Linux). KT_PROGRESS_FILE=off records nothing.
    """
    statuses = read_statuses()
    notebooks: dict[str, list[str]] = {}
    for item in (*library().values(), *quizzes().values()):
        notebooks.setdefault(item.notebook, []).append(item.id)
    print(f"{'notebook':24s}{'done':>6s}{'wrong':>7s}{'open':>6s}   next")
    for notebook, ids in sorted(notebooks.items()):
        todo = [id for id in ids if statuses.get(id) != "right"]
        done, wrong = len(ids) - len(todo), sum(statuses.get(id) == "wrong" for id in ids)
        following = todo[0] if todo else "all done"
        print(f"{notebook:24s}{done:6d}{wrong:7d}{len(todo) - wrong:6d}   {following}")
