"""From graded submissions to points, by student and notebook.

Marks for written answers are one more column per notebook. A mark for an exercise replaces its
verdict: so answers that are right but unconfirmed, which give no points, are marked by hand.
"""

import csv
import io
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kt_core._validation import one_of
from kt_course.exercises.registry import library
from kt_course.grading.judging import UNCONFIRMED
from kt_course.grading.roster import Student, find_student, read_text
from kt_course.grading.written import Question, written_questions


@dataclass(frozen=True)
class Points:
    """How many points an exercise gives: its own number, or its difficulty, or the same for all."""

    exercises: Mapping[str, float] = field(default_factory=dict)
    default: float | None = None

    def of(self, id: str) -> float:
        """Return the points for an exercise."""
        fallback = library()[id].difficulty if self.default is None else self.default
        return self.exercises.get(id, fallback)

    def earned(self, id: str, verdict: str) -> float:
        """Return the points for a verdict of `kt grade`."""
        return self.of(id) if verdict == "right" else 0.0


def read_points(path: str | Path | None) -> Points:
    """Read points.toml: `default`, and [exercises] with points by id."""
    if path is None:
        return Points()
    text = read_text(path)
    try:
        content = tomllib.loads(text)
        for key in content:
            one_of("entry of a points file", key, ("default", "exercises"))
        exercises = content.get("exercises", {})
        if not isinstance(exercises, dict):
            raise ValueError("exercises must be a table: [exercises], and a line for each")
        for id in exercises:
            one_of("exercise", id, library())
        for key, value in [*exercises.items(), ("default", content.get("default", 1))]:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 <= value < 1e6:
                raise ValueError(f"{key} must be a number of 0 or more, not {value!r}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    return Points(**content)


Marks = Mapping[tuple[str, str], tuple[float, str]]  # (student, question): points, comment


def read_marks(path: str | Path, students: Sequence[Student], points: Points) -> Marks:
    """Read the table of answers to mark after a person filled in its points and comments."""
    marks, ids = {}, [student.id for student in students]
    possible = {id: points.of(id) for id in library()}
    possible |= {id: question.points for id, question in written_questions().items()}
    lines = csv.DictReader(io.StringIO(read_text(path)))
    if missing := {"student", "question", "points"} - {*(lines.fieldnames or ())}:
        raise ValueError(f"{path}, line 1: no column {min(missing)!r}")
    for line in lines:
        try:
            if not (mark := (line["points"] or "").strip()):
                continue
            student = one_of("student", (line["student"] or "").removeprefix("'"), ids)
            id = one_of("question", line["question"], possible)
            if not 0 <= (number := float(mark.replace(",", "."))) <= possible[id]:
                raise ValueError(f"{id} has 0 to {possible[id]:g} points")
        except ValueError as error:
            raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
        marks[student, id] = number, line.get("comment") or ""
    return marks


@dataclass(frozen=True)
class Item:
    """An exercise or a written question of one student, with its points."""

    title: str
    earned: float
    possible: float
    verdict: str
    step: str = ""


@dataclass
class Gradebook:
    """Points by student and column: a notebook, or the written questions of one."""

    students: Sequence[Student]
    points: Points
    rows: dict[str, dict[str, Any]]  # the best graded submission (`batch.Row`), by id and notebook
    unmatched: list[str]  # files of nobody on the roster
    notebooks: dict[str, float]  # the columns, with the points possible
    marks: Marks = field(default_factory=dict)
    questions: dict[str, list[Question]] = field(default_factory=dict)  # of a column

    @classmethod
    def of(
        cls, rows: Iterable, students: Sequence[Student], points: Points, marks: Marks | None = None
    ) -> "Gradebook":
        """Make it from the rows of `kt grade`, and the marks for written answers."""
        by_student: dict[str, dict[str, Any]] = {student.id: {} for student in students}
        book = cls(students, points, by_student, [], {}, marks or {})
        for row in rows:
            student = find_student(row.file, students)
            if student is None:
                book.unmatched.append(row.file)
                continue
            before = by_student[student.id].get(row.notebook)
            if before is None or book.score(row) > book.score(before):
                by_student[student.id][row.notebook] = row
            if row.verdicts:
                book.notebooks[row.notebook] = sum(map(points.of, row.verdicts))
        marked = {question for _, question in book.marks}
        for q in written_questions().values():
            if q.id in marked:
                column = f"{q.notebook} written"
                book.questions.setdefault(column, []).append(q)
                book.notebooks[column] = book.notebooks.get(column, 0) + q.points
        book.notebooks = dict(sorted(book.notebooks.items()))
        return book

    def score(self, row: Any) -> float:
        """Return the points of one submission."""
        return sum(self.points.earned(id, verdict) for id, verdict in row.verdicts.items())

    def items(self, student: Student, column: str) -> list[Item]:
        """Return what a student's points in a column are made of."""
        if column in self.questions:
            marks = [(q, self.marks.get((student.id, q.id))) for q in self.questions[column]]
            return [Item(q.title, m[0], q.points, "marked", m[1]) for q, m in marks if m]
        row = self.rows[student.id].get(column)
        verdicts = row.verdicts if row else {}
        return [self._item(student, id, verdict) for id, verdict in verdicts.items()]

    def _item(self, student: Student, id: str, verdict: str) -> Item:
        kind, _, why = verdict.partition(": ")
        title = f"{library()[id].title} ({id})"
        if mark := self.marks.get((student.id, id)):
            return Item(title, mark[0], self.points.of(id), "marked by hand", mark[1])
        step = {
            "right": "",
            UNCONFIRMED: "Your instructor marks it by hand.",
            "not attempted": f"Start with the first hint; about {library()[id].minutes} minutes.",
        }.get(kind, "Read the diagnosis, then the hints, and run the cell again.")
        text = kind if not why or kind.startswith("right") else f"{kind}: {why}"
        return Item(title, self.points.earned(id, verdict), self.points.of(id), text, step)

    def cells(self, student: Student) -> list[str]:
        """Return the points of a student in all columns."""
        return [self.cell(student, column) for column in self.notebooks]

    def cell(self, student: Student, column: str) -> str:
        """Return the points of a student in a column; "" if nothing was handed in or marked."""
        items = self.items(student, column)
        is_there = items or column in self.rows[student.id]
        return f"{sum(item.earned for item in items):g}" if is_there else ""
