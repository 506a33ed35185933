"""Questions with choices: text that stays in a static page, and buttons where somebody can press them."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from kt_core.runs.progress import progress_mode
from kt_course.exercises.core import in_notebook, look_up, questions
from kt_course.exercises.progress_store import remember


@dataclass(frozen=True)
class Choice:
    """One choice and why it is right or wrong. Plain text: no LaTeX, no HTML."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Quiz:
    """A question with two choices or more, one or several of them right. They are lettered a, b, c ..."""

    id: str
    notebook: str
    question: str
    choices: tuple[Choice, ...]

    def __post_init__(self):
        if len(self.choices) < 2 or not any(choice.right for choice in self.choices):
            raise ValueError(f"quiz {self.id} needs two choices or more, and a right one")
        if all(choice.right for choice in self.choices):
            raise ValueError(f"quiz {self.id} needs a wrong choice")
        if missing := [choice.text for choice in self.choices if not choice.why]:
            raise ValueError(f"quiz {self.id}: no explanation for {missing[0]!r}")

    @property
    def letters(self) -> str:
        return "abcdefgh"[: len(self.choices)]

    def told(self, letter: str) -> str:
        """One choice explained: "b is right. ..."."""
        choice = self.choices[self.letters.index(letter)]
        return f"{letter} is {'right' if choice.right else 'wrong'}. {choice.why}"


def quiz(id: str, answer: str | None = None) -> None:
    """Show a question; or, given an answer such as "b", say whether it is right and why.

    The text with its folded explanations is the same on every machine and stays in a static page. Where somebody
    watches (a notebook without KT_PROGRESS=off, and ipywidgets at hand) buttons come below it.
    """
    asked: Quiz = look_up(questions(), id, "quiz")
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
    right = asked.choices[asked.letters.index(letter)].right
    remember(asked.id, "right" if right else "wrong")
    return asked.told(letter)


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
    """Question, choices, and each choice's explanation folded below it; no script, no style sheet."""
    rows = [f"<p><b>Question.</b> {html.escape(asked.question)}</p>"]
    for letter, choice in zip(asked.letters, asked.choices, strict=True):
        told = html.escape(asked.told(letter).removeprefix(f"{letter} is "))
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
        right = asked.choices[asked.letters.index(button.description)].right
        button.button_style = "success" if right else "warning"

    for button in row:
        button.on_click(pressed)
    return widgets.VBox([widgets.HBox(row), told])
