"""Written questions: put into released notebooks, their answers collected for marking by hand."""

from __future__ import annotations

import functools
import html
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

MARK = re.compile(r"\s*<!-- answer to ([\w-]+) -->")
BLANK = "*Write your answer here.*"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46em;margin:2em auto;padding:0 1em}"
    "pre{white-space:pre-wrap;background:#f4f4f4;padding:.8em}table{border-collapse:collapse}"
    "td,th{border:1px solid #999;padding:.3em .6em;text-align:left;vertical-align:top}"
)


@dataclass(frozen=True)
class Question:
    """A written question.

    Attributes:
        editions: Where the assignment asks it.
        answer, rubric: For the person who marks it.
    """

    id: str
    notebook: str
    title: str
    editions: str
    points: float
    question: str
    answer: str
    rubric: tuple[str, ...]


@functools.cache
def written_questions() -> dict[str, Question]:
    """Return all written questions by id."""
    text = Path(__file__).with_name("written.toml").read_text(encoding="utf-8")
    return {
        id: Question(id, **entry | {"rubric": tuple(entry["rubric"])})
        for id, entry in tomllib.loads(text).items()
    }


def question_cells(notebook: str) -> list[NotebookNode]:
    """Return Markdown cells that pose the questions of a notebook, each with one for the answer."""
    posed = [q for q in written_questions().values() if q.notebook == notebook]
    texts = ["## Written questions\n\nWrite a few sentences each, with the formulas you need."]
    for number, q in enumerate(posed, 1):
        points = f"{q.points:g} point{'s' * (q.points != 1)}"
        texts.append(f"### W{number} · {q.title} ({points})\n\n{q.question.strip()}")
        texts.append(f"<!-- answer to {q.id} -->\n{BLANK}")
    cells = []
    for number, text in enumerate(texts if posed else []):
        cell = NotebookNode(cell_type="markdown", id=f"written-{number}", source=text)
        cell.metadata = NotebookNode(tags=["written"])
        cells.append(cell)
    return cells


def written_answers(cells: Iterable[Mapping]) -> dict[str, str]:
    """Return the answers to written questions by id; "" where the answer cell is blank or empty.

    An answer may go on in the cells below, up to the next heading.
    """
    answers: dict[str, str] = {}
    current = ""
    for cell in cells:
        source = str(cell.get("source", ""))
        if match := MARK.match(source):
            current, source = match[1], source[match.end() :]
            answers[current] = source.replace(BLANK, "").strip()
        elif source.startswith("#") and cell.get("cell_type") == "markdown":
            current = ""
        elif current:
            answers[current] = f"{answers[current]}\n\n{source}".strip()
    return {id: text for id, text in answers.items() if id in written_questions()}


def marking_page(answers: Sequence[tuple[str, str, str]]) -> str:
    """Return an HTML page for marking: per question the rubric, then all answers.

    Args:
        answers: (student, question id, text).
    """
    parts = []
    for q in written_questions().values():
        given = [(student, text) for student, id, text in answers if id == q.id]
        if not given:
            continue
        rubric = "".join(f"<li>{html.escape(line)}</li>" for line in q.rubric)
        title = f"{html.escape(q.title)} ({q.points:g} points; {html.escape(q.editions)})"
        parts += [f"<h2>{title}</h2><p>{html.escape(q.question.strip())}</p>"]
        parts += [f"<p><b>Rubric</b></p><ul>{rubric}</ul>"]
        parts += [f"<details><summary>Answer</summary><pre>{html.escape(q.answer)}</pre></details>"]
        for student, text in given:
            shown = html.escape(text) or "<i>no answer</i>"
            parts.append(f"<h3>{html.escape(student)}</h3><pre>{shown}</pre>")
    return page("Written answers", "\n".join(parts))


def page(title: str, body: str) -> str:
    """Return an HTML page that needs no network; `body` is HTML already."""
    title = html.escape(title)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>\n{body}\n</html>\n"
    )
