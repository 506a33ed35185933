"""Questions with explained choices: static text, with buttons below it in a live notebook."""

import functools
import html
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from kt_core._validation import one_of
from kt_course.exercises.progress_store import remember
from kt_course.exercises.registry import CHAPTERS, by_id
from kt_course.exercises.solutions import show

LETTERS = "abcdefgh"


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
        correct = [choice.correct for choice in self.choices]
        if len(correct) < 2 or not any(correct) or all(correct):
            raise ValueError(f"quiz {self.id} needs a correct choice and a wrong one")
        if missing := [choice.text for choice in self.choices if not choice.why]:
            raise ValueError(f"quiz {self.id}: no explanation for {missing[0]!r}")

    @property
    def letters(self) -> str:
        return LETTERS[: len(self.choices)]

    def is_correct(self, letter: str) -> bool:
        """Whether the choice with this letter is correct."""
        return self.choices[self.letters.index(letter)].correct

    def explain(self, letter: str) -> str:
        """Explain one choice: "b is right. ..."."""
        verdict = "right" if self.is_correct(letter) else "wrong"
        return f"{letter} is {verdict}. {self.choices[self.letters.index(letter)].why}"


def read_quizzes(path: Path) -> list[Quiz]:
    """Read the questions of one chapter; ValueError with the file and the question that is wrong.

    Args:
        path: A quiz.toml: `notebook`, and one [[quiz]] per question with `id`, `question`,
            `answer` (the letters of all correct choices) and [[quiz.choices]] with `text`, `why`.
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
    question = quizzes()[one_of("quiz", id, quizzes())]
    if answer is not None:
        print(record_answer(question, answer))
    elif show(as_text(question), "text/html", as_html(question)):
        if os.environ.get("KT_PROGRESS") != "off":
            show_buttons(question)


def record_answer(quiz: Quiz, answer: str) -> str:
    """Record a given answer for `progress()`; return its explanation."""
    letter = str(answer).strip().lower()
    if letter not in list(quiz.letters):
        letters = ", ".join(quiz.letters)
        raise ValueError(f"quiz {quiz.id}: an answer is one of {letters}, not {answer!r}")
    remember(quiz.id, "right" if quiz.is_correct(letter) else "wrong")
    return quiz.explain(letter)


def as_text(quiz: Quiz) -> str:
    """Question and choices without explanations: quiz(id, letter) prints those."""
    pairs = zip(quiz.letters, quiz.choices, strict=True)
    choices = [f"  {letter}) {choice.text}" for letter, choice in pairs]
    return "\n".join([quiz.question, *choices, f'An answer: quiz("{quiz.id}", "a")'])


def as_html(quiz: Quiz) -> str:
    """Question and choices, each with a folded explanation; no script, no style sheet."""
    rows = [f"<p><b>Question.</b> {html.escape(quiz.question)}</p>"]
    for letter, choice in zip(quiz.letters, quiz.choices, strict=True):
        summary = f"<summary>{letter}) {html.escape(choice.text)}</summary>"
        why = f"{'Right' if choice.correct else 'Wrong'}. {html.escape(choice.why)}"
        rows.append(f"<details>{summary}<p>{why}</p></details>")
    return f'<div class="kt-quiz">{"".join(rows)}</div>'


def show_buttons(quiz: Quiz) -> None:
    """Display a row of buttons and a line for the explanation; nothing without ipywidgets."""
    try:
        import ipywidgets as widgets
    except ImportError:
        return
    from IPython.display import display

    explanation = widgets.HTML()
    row = [widgets.Button(description=letter, layout={"width": "3em"}) for letter in quiz.letters]

    def press(button: widgets.Button) -> None:
        letter = button.description
        explanation.value = html.escape(record_answer(quiz, letter))
        button.button_style = "success" if quiz.is_correct(letter) else "warning"

    for button in row:
        button.on_click(press)
    display(widgets.VBox([widgets.HBox(row), explanation]))
