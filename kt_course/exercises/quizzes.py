"""Questions with explained choices: static text, with buttons below it in a live notebook."""

from __future__ import annotations

import functools
import html
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_core.runs.progress import progress_mode
from kt_course import chapters
from kt_course.exercises.core import by_id, in_notebook, look_up
from kt_course.exercises.progress_store import remember

LETTERS = "abcdefgh"
CHAPTERS = Path(chapters.__file__).parent


@dataclass(frozen=True)
class Choice:
    """One choice and why it is correct or wrong. Plain text: no LaTeX, no HTML."""

    text: str
    why: str
    correct: bool = False


@dataclass(frozen=True)
class Quiz:
    """A question with at least two choices, one or several of them correct, lettered a, b, c ..."""

    id: str
    notebook: str
    question: str
    choices: tuple[Choice, ...]

    def __post_init__(self):
        if len(self.choices) < 2 or not any(choice.correct for choice in self.choices):
            raise ValueError(f"quiz {self.id} needs at least two choices, and a correct one")
        if all(choice.correct for choice in self.choices):
            raise ValueError(f"quiz {self.id} needs a wrong choice")
        if missing := [choice.text for choice in self.choices if not choice.why]:
            raise ValueError(f"quiz {self.id}: no explanation for {missing[0]!r}")

    @property
    def letters(self) -> str:
        return LETTERS[: len(self.choices)]

    def explain(self, letter: str) -> str:
        """One choice explained: "b is right. ..."."""
        choice = self.choices[self.letters.index(letter)]
        return f"{letter} is {'right' if choice.correct else 'wrong'}. {choice.why}"


def read_quizzes(path: Path) -> list[Quiz]:
    """Read the questions of one chapter.

    Args:
        path: A quiz.toml: `notebook`, and one [[quiz]] per question with `id`, `question`,
            `answer` (the letters of all correct choices) and [[quiz.choices]] with `text`, `why`.

    Returns:
        The questions in the file's order.

    Raises:
        ValueError: Naming the file and the question with a missing, unknown or unfitting entry.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return [_parse(content.get("notebook"), **entry) for entry in content["quiz"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _parse(notebook: str, *, id: str, question: str, answer: str, choices: list[dict]) -> Quiz:
    if not notebook:
        raise ValueError("no entry `notebook`")
    if unknown := set(answer) - set(LETTERS[: len(choices)]):
        raise ValueError(f"quiz {id} has no choice {min(unknown)!r}")
    pairs = zip(LETTERS, choices, strict=False)
    parsed = tuple(Choice(**choice, correct=letter in answer) for letter, choice in pairs)
    return Quiz(id, notebook, question, parsed)


@functools.cache
def quizzes() -> dict[str, Quiz]:
    """All questions by id, in the order of the notebooks."""
    files = [read_quizzes(path) for path in CHAPTERS.glob("*/quiz.toml")]
    ordered = sorted(files, key=lambda questions: questions[0].notebook)
    return by_id(quiz for questions in ordered for quiz in questions)


def quiz(id: str, answer: str | None = None) -> None:
    """Show a question; or, given an answer such as "b", say whether it is right and why.

    The text with its folded explanations is the same on every machine, so a static page keeps it.
    In a live notebook (without KT_PROGRESS=off, with ipywidgets installed) buttons come below it.
    """
    asked: Quiz = look_up(quizzes(), id, "quiz")
    if answer is not None:
        print(settle(asked, answer))
        return
    if not in_notebook():
        print(as_text(asked))
        return
    from IPython.display import display

    display({"text/plain": as_text(asked), "text/html": as_html(asked)}, raw=True)
    if progress_mode() == "bar" and (box := buttons(asked)) is not None:
        display(box)


def settle(asked: Quiz, answer: str) -> str:
    """What a given answer is worth, noted for `progress()`."""
    letter = str(answer).strip().lower()
    if letter not in asked.letters or len(letter) != 1:
        raise ValueError(
            f"quiz {asked.id}: an answer is one of {', '.join(asked.letters)}, not {answer!r}"
        )
    right = asked.choices[asked.letters.index(letter)].correct
    remember(asked.id, "right" if right else "wrong")
    return asked.explain(letter)


def as_text(asked: Quiz) -> str:
    """Question and choices; the answers are had by quiz(id, letter)."""
    choices = [
        f"  {letter}) {choice.text}"
        for letter, choice in zip(asked.letters, asked.choices, strict=True)
    ]
    return "\n".join(
        [asked.question, *choices, f'An answer: quiz("{asked.id}", "{asked.letters[0]}")']
    )


def as_html(asked: Quiz) -> str:
    """Question and choices, each with a folded explanation; no script, no style sheet."""
    rows = [f"<p><b>Question.</b> {html.escape(asked.question)}</p>"]
    for letter, choice in zip(asked.letters, asked.choices, strict=True):
        told = html.escape(asked.explain(letter).removeprefix(f"{letter} is "))
        rows.append(
            f"<details><summary>{letter}) {html.escape(choice.text)}</summary>"
            f"<p>{told[0].upper()}{told[1:]}</p></details>"
        )
    return f'<div class="kt-quiz">{"".join(rows)}</div>'


def buttons(asked: Quiz) -> Any:
    """A row of buttons and a line for the explanation, or None without ipywidgets."""
    try:
        import ipywidgets as widgets
    except ImportError:
        return None
    told = widgets.HTML()
    row = [widgets.Button(description=letter, layout={"width": "3em"}) for letter in asked.letters]

    def pressed(button: Any) -> None:
        told.value = html.escape(settle(asked, button.description))
        right = asked.choices[asked.letters.index(button.description)].correct
        button.button_style = "success" if right else "warning"

    for button in row:
        button.on_click(pressed)
    return widgets.VBox([widgets.HBox(row), told])
