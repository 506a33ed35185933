"""Written questions: put into released notebooks, their answers collected for marking by hand."""

import functools
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from nbformat import NotebookNode, from_dict

from kt_course.exercises.registry import find_exercise
from kt_course.exercises.solutions import teaching_solution
from kt_course.tools.tables import printable

MARK = re.compile(r"\s*<!-- answer to ([\w-]+) -->")
BLANK = "*Write your answer here.*"
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("pages")),
    **dict(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True),
)
TEMPLATES.filters["printable"] = printable


@dataclass(frozen=True)
class Question:
    """A written question; answer and rubric are for the person who marks it."""

    id: str
    notebook: str
    title: str
    editions: str  # of the assignment, in which it is asked
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
    metadata = {"tags": ["written"]}
    return [
        from_dict(dict(cell_type="markdown", id=f"written-{n}", source=text, metadata=metadata))
        for n, text in enumerate(texts if posed else [])
    ]


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


def question_about(id: str, points: float) -> Question:
    """Return what a person needs to mark an answer to an exercise that could not be confirmed."""
    exercise = find_exercise(id)
    text = "The answer passed its check, but nothing confirmed it: its first line says why."
    rubric = ("Read the code, or grade it again on a machine at rest.",)
    header = id, exercise.notebook, f"{exercise.title} ({id})", "exercise", points
    return Question(*header, text, teaching_solution(exercise), rubric)


def marking_page(answers: Sequence[tuple[str, str, str]], points_of: Callable[[str], float]) -> str:
    """Return an HTML page for marking answers, (student, question or exercise id, text)."""
    questions, written = [], written_questions()
    exercises = dict.fromkeys(id for _, id, _ in answers if id not in written)
    for q in [*written.values(), *(question_about(id, points_of(id)) for id in exercises)]:
        if texts := [(student, text) for student, id, text in answers if id == q.id]:
            questions.append((q, texts))
    return render("marking.html.j2", questions=questions)


def render(template: str, **values: Any) -> str:
    """Return an HTML page made from a template in `pages`; text in `values` is escaped."""
    return TEMPLATES.get_template(template).render(**values)
