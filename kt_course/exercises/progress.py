"""The table of what a learner has done so far."""

from kt_course.exercises.progress_store import read_statuses
from kt_course.exercises.quizzes import quizzes
from kt_course.exercises.registry import library


def progress() -> None:
    """Print how many exercises and questions of each notebook are done, wrong and open.

    Answers are recorded in $KT_PROGRESS_FILE, or else in kt-core/progress.json in the user's data
    folder (~/.local/share on Linux). KT_PROGRESS_FILE=off records nothing.
    """
    statuses = read_statuses()
    print(f"{'notebook':32s}{'done':>6s}{'wrong':>7s}{'open':>6s}   next")
    for notebook, (ids, done) in count_statuses().items():
        todo = [id for id in ids if id not in done]
        wrong = sum(statuses.get(id) == "wrong" for id in ids)
        following = todo[0] if todo else "all done"
        print(f"{notebook:32s}{len(done):6d}{wrong:7d}{len(todo) - wrong:6d}   {following}")


def count_statuses() -> dict[str, tuple[list[str], list[str]]]:
    """Return, by notebook, the ids of its exercises and questions, and those that are done."""
    statuses, notebooks = read_statuses(), {}
    for item in (*library().values(), *quizzes().values()):
        ids, done = notebooks.setdefault(item.notebook, ([], []))
        ids.append(item.id)
        done += [item.id] if statuses.get(item.id) == "right" else []
    return dict(sorted(notebooks.items()))
