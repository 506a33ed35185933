"""Show solutions and other text: highlighted in a notebook, plain elsewhere."""

import inspect
import re
import textwrap
from pathlib import Path

from kt_course.exercises.registry import CHAPTERS, Exercise, find_exercise

_SECTION = re.compile(r"^# =+ exercise ([\w-]+) =+\n", re.MULTILINE)


def solution(id: str) -> None:
    """Show our own answer to an exercise: the teaching solution, else the reference's source."""
    exercise = find_exercise(id)
    reference = inspect.unwrap(exercise.reference)
    source = teaching_solution(exercise) or textwrap.dedent(inspect.getsource(reference))
    source = source.rstrip()
    show(source, "text/markdown", f"```python\n{source}\n```")


def split_sections(text: str) -> dict[str, str]:
    """Split Python code at its lines `# ======== exercise ID ========`.

    Returns:
        The sections by exercise id, and under "" what comes before the first of them.
    """
    first, *rest = _SECTION.split(text)
    sections = zip(rest[::2], rest[1::2], strict=True)
    return {"": first.rstrip() + "\n"} | {id: body.strip() + "\n" for id, body in sections}


def solutions_file(exercise: Exercise) -> Path:
    """Return the chapter's `solutions.py`, which need not exist."""
    chapter = exercise.notebook.split("_", 1)[1]  # 02_build_a_gpt -> build_a_gpt
    return CHAPTERS / chapter / "solutions.py"


def teaching_solution(exercise: Exercise) -> str:
    """Return the exercise's section of its chapter's `solutions.py`; "" if there is none."""
    path = solutions_file(exercise)
    return split_sections(path.read_text("utf-8")).get(exercise.id, "") if path.exists() else ""


def show(text: str, kind: str, markup: str) -> bool:
    """Display `markup` of a MIME type in a notebook and return True; elsewhere print `text`."""
    if not in_notebook():
        print(text)
        return False
    from IPython.display import display

    display({"text/plain": text, kind: markup}, raw=True)
    return True


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return type(get_ipython()).__name__ == "ZMQInteractiveShell"
