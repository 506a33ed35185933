"""Show solutions and other text: highlighted in a notebook, plain elsewhere."""

from __future__ import annotations

import inspect
import textwrap

from kt_course.exercises.registry import find_exercise


def solution(id: str) -> None:
    """Show the source of our own answer to an exercise."""
    reference = inspect.unwrap(find_exercise(id).reference)
    source = textwrap.dedent(inspect.getsource(reference)).rstrip()
    show(source, "text/markdown", f"```python\n{source}\n```")


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
