"""From graded submissions to a gradebook: students, points, feedback pages, files for an LMS.

canvas      CSV as Canvas imports it: Student, ID, SIS User ID, SIS Login ID, Section, a column per
            notebook, and a second line with the points possible. A column whose second line says
            "(read only)" would be skipped; we write none.
moodle      CSV for Moodle's grade import: ID number, Email address, a column per notebook
gradescope  an autograder that hands out the results.json of each student

Both importers take an empty cell for a change, which can remove a grade given there by hand. So the
files hold only students with points in one of their columns.

Marks for written answers are one more column per notebook.

The deadline and penalties for late work are left to the LMS.

Sources: github.com/instructure/canvas-lms, lib/gradebook_importer.rb (the program that reads the
file); docs.moodle.org, "Grade import"; gradescope-autograders.readthedocs.io, "Autograder
Specifications" and "Submission Metadata".
"""

import csv
import io
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kt_core._validation import one_of
from kt_core.corpora.files import write_atomically, write_json
from kt_core.corpora.textfiles import read_numbered_lines
from kt_course.exercises.registry import library
from kt_course.grading.written import Question, render, written_questions
from kt_course.tools.tables import printable, write_csv

NOTEBOOK = re.compile(r"\b\d\d_[a-z]+(_[a-z]+)*")  # a notebook's name, which is nobody's
# Names that the columns of a roster may have, in other systems' exports too
COLUMNS = {
    "id": ("id", "student id", "student_id", "sid", "id number"),
    "name": ("name", "student", "full name"),
    "first": ("first name", "firstname"),
    "last": ("last name", "lastname", "surname"),
    "email": ("email", "email address", "e-mail"),
    "login": ("login", "sis login id", "username"),
    "sis_id": ("sis_id", "sis user id"),
    "section": ("section",),
}


@dataclass(frozen=True)
class Student:
    """A line of the roster."""

    id: str
    name: str
    email: str = ""
    login: str = ""
    sis_id: str = ""
    section: str = ""

    @property
    def keys(self) -> set[str]:
        """What tells in a path whose file it is."""
        words = (self.id, self.login, self.sis_id, self.email, self.email.partition("@")[0])
        return {plain(word) for word in (*words, self.name) if word.strip()}


@dataclass(frozen=True)
class Points:
    """How many points an exercise gives: its own number, or its difficulty, or the same for all."""

    exercises: Mapping[str, float] = field(default_factory=dict)
    default: float | None = None
    unconfirmed: bool = True

    def of(self, id: str) -> float:
        """Return the points for an exercise."""
        fallback = library()[id].difficulty if self.default is None else self.default
        return self.exercises.get(id, fallback)

    def earned(self, id: str, verdict: str) -> float:
        """Return the points for a verdict of `kt grade`."""
        is_right = verdict == "right" or self.unconfirmed and verdict.startswith("right, ")
        return self.of(id) if is_right else 0.0


def read_roster(path: str | Path) -> list[Student]:
    """Read a CSV with the columns id and name, perhaps email, login, sis_id and section."""
    lines = csv.DictReader(io.StringIO(_read_text(path)), strict=True)
    try:
        return list(_students(path, lines).values())
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from None


def _students(path: str | Path, lines: csv.DictReader) -> dict[str, Student]:
    names = {spelling: name for name, spellings in COLUMNS.items() for spelling in spellings}
    texts = {h: " ".join((h or "").lower().split()) for h in lines.fieldnames or ()}
    headers = {h: names[text] for h, text in texts.items() if text in names}
    columns = {*headers.values()}
    columns |= {"name"} if {"first", "last"} <= columns else set()
    if missing := [name for name in ("id", "name") if name not in columns]:
        present = ", ".join(map(str, lines.fieldnames or ["nothing"]))
        raise ValueError(f"{path}, line 1: no column {missing[0]!r}; there are {present}")
    students: dict[str, Student] = {}
    for line in lines:
        if None in line:
            raise ValueError(f"{path}, line {lines.line_num}: more cells than columns")
        values = {headers[h]: (line[h] or "").strip() for h in headers}
        full_name = f"{values.pop('first', '')} {values.pop('last', '')}".strip()
        values.setdefault("name", full_name)
        if not values["id"] and plain(values["name"]) in ("", "points possible"):
            continue  # the second line of Canvas' export
        if not values["id"] or values["id"] in students:
            problem = "twice" if values["id"] else "missing"
            raise ValueError(f"{path}, line {lines.line_num}: id {values['id']!r} is {problem}")
        students[values["id"]] = Student(**values)
    if not students:
        raise ValueError(f"{path}: no student in it")
    return students


def read_points(path: str | Path | None) -> Points:
    """Read points.toml: `default`, `unconfirmed`, and [exercises] with points by id."""
    if path is None:
        return Points()
    text = _read_text(path)
    try:
        content = tomllib.loads(text)
        for key in content:
            one_of("entry of a points file", key, ("default", "unconfirmed", "exercises"))
        exercises = content.get("exercises", {})
        if not isinstance(exercises, dict):
            raise ValueError("exercises must be a table: [exercises], and a line for each")
        for id in exercises:
            one_of("exercise", id, library())
        for key, value in [*exercises.items(), ("default", content.get("default", 1))]:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 <= value < 1e6:
                raise ValueError(f"{key} must be a number of 0 or more, not {value!r}")
        if not isinstance(content.get("unconfirmed", True), bool):
            raise ValueError("unconfirmed must be true or false")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    return Points(**content)


def _read_text(path: str | Path) -> str:
    return "\n".join(line for _, line in read_numbered_lines(path))


def plain(text: str) -> str:
    """A name in small letters without accents and punctuation, to compare it."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(c for c in letters if c.isascii() or c.isalpha())
    return " ".join(re.findall(r"[^\W_]+", letters))


def find_student(file: str, students: Sequence[Student]) -> Student | None:
    """Return the student whose id, login, address or name is a part of a path; None if unclear."""
    for part in reversed(Path(file).parts):
        stem = NOTEBOOK.sub("", part.removesuffix(".ipynb"))
        words = {plain(word) for word in re.split(r"[_\s]+", stem)} | {plain(stem)}
        words |= {plain(word) for word in stem.split("_")}
        matches = [student for student in students if student.keys & words]
        if len(matches) == 1:
            return matches[0]
    return None


Marks = Mapping[tuple[str, str], tuple[float, str]]  # (student, question): points, comment


def read_marks(path: str | Path, students: Sequence[Student]) -> Marks:
    """Read the table of written answers after a person filled in its points and comments."""
    marks, ids, questions = {}, [student.id for student in students], written_questions()
    lines = csv.DictReader(io.StringIO(_read_text(path)))
    if missing := {"student", "question", "points"} - {*(lines.fieldnames or ())}:
        raise ValueError(f"{path}, line 1: no column {min(missing)!r}")
    for line in lines:
        try:
            if not (points := (line["points"] or "").strip()):
                continue
            student = one_of("student", (line["student"] or "").removeprefix("'"), ids)
            id = one_of("question", line["question"], questions)
            if not 0 <= (number := float(points.replace(",", "."))) <= questions[id].points:
                raise ValueError(f"{id} has 0 to {questions[id].points:g} points")
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
        cls,
        rows: Iterable[Any],
        students: Sequence[Student],
        points: Points,
        marks: Marks | None = None,
    ) -> "Gradebook":
        """Make it from the rows of `kt grade`, and the marks for written answers."""
        by_student: dict[str, dict[str, Any]] = {student.id: {} for student in students}
        book = cls(students, points, by_student, [], {})
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
        book.marks = marks or {}
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
        return [self._item(id, verdict) for id, verdict in row.verdicts.items()] if row else []

    def _item(self, id: str, verdict: str) -> Item:
        kind, _, why = verdict.partition(": ")
        step = {
            "right": "",
            "not attempted": f"Start with the first hint; about {library()[id].minutes} minutes.",
        }.get(kind.partition(",")[0], "Read the diagnosis, then the hints, and run the cell again.")
        text = kind if not why or kind.startswith("right") else f"{kind}: {why}"
        title = f"{library()[id].title} ({id})"
        return Item(title, self.points.earned(id, verdict), self.points.of(id), text, step)

    def cells(self, student: Student) -> list[str]:
        """Return the points of a student in all columns."""
        return [self.cell(student, column) for column in self.notebooks]

    def has_points(self, student: Student) -> bool:
        """Has the student handed in anything that was graded?"""
        return any(self.cells(student))

    def cell(self, student: Student, column: str) -> str:
        """Return the points of a student in a column; "" if nothing was handed in or marked."""
        items = self.items(student, column)
        is_there = items or column in self.rows[student.id]
        return f"{sum(item.earned for item in items):g}" if is_there else ""


def write_gradebook(book: Gradebook, out: Path, lms: str | None) -> list[Path]:
    """Write all points, a feedback page per student, and the files for an LMS; return the paths."""
    base = out.with_suffix("")
    headers = ["id", "name", *(f"{name} ({most:g})" for name, most in book.notebooks.items())]
    lines = [[s.id, s.name, *book.cells(s)] for s in book.students]
    paths = [write_csv(base.with_name(f"{base.name}-points.csv"), headers, lines)]
    feedback = base.with_name(f"{base.name}-feedback")
    for student in book.students:
        target = feedback / f"{_file_name(student.id)}.html"
        write_atomically(target, feedback_page(book, student).encode())
    paths.append(feedback)
    if lms:
        paths.append(WRITERS[one_of("learning management system", lms, WRITERS)](book, base))
    return paths


def _file_name(text: str) -> str:
    """A name that stays in its folder on every system."""
    return re.sub(r"[^\w.-]", "_", text).lstrip(".")[:80] or "_"


def feedback_page(book: Gradebook, student: Student) -> str:
    """Return a student's page: points, and for each exercise the verdict and what to do next."""
    rows = book.rows[student.id]
    columns = sorted(column for column in {**book.notebooks, **rows} if book.cell(student, column))
    values = dict(book=book, student=student, rows=rows, columns=columns)
    return render("feedback.html.j2", **values)


# ---------------------------------------------------------------- learning management systems


def _write_canvas(book: Gradebook, base: Path) -> Path:
    headers = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *book.notebooks]
    possible = ["    Points Possible", *[""] * 4, *(f"{p:g}" for p in book.notebooks.values())]
    lines: list[list[str]] = [possible]
    for s in filter(book.has_points, book.students):
        lines.append([s.name, s.id, s.sis_id, s.login, s.section, *book.cells(s)])
    return write_csv(base.with_name(f"{base.name}-canvas.csv"), headers, lines)


def _write_moodle(book: Gradebook, base: Path) -> Path:
    headers = ["ID number", "Full name", "Email address", *book.notebooks]
    students = filter(book.has_points, book.students)
    lines = [[s.id, s.name, s.email, *book.cells(s)] for s in students]
    return write_csv(base.with_name(f"{base.name}-moodle.csv"), headers, lines)


def _write_gradescope(book: Gradebook, base: Path) -> Path:
    folder = base.with_name(f"{base.name}-gradescope")
    for student in book.students:
        for column in book.notebooks:
            if not book.cell(student, column):
                continue
            tests = []
            for item in book.items(student, column):
                text = printable(f"{item.verdict} {item.step}")
                status = "passed" if item.earned else "failed"
                test = dict(name=item.title, score=item.earned, max_score=item.possible)
                tests.append(test | dict(status=status, output=text))
            target = folder / "results" / _file_name(student.email or student.id)
            score = sum(test["score"] for test in tests)
            write_json(target / f"{_file_name(column)}.json", dict(score=score, tests=tests))
    script = Path(__file__).with_name("run_autograder").read_bytes()
    write_atomically(folder / "run_autograder", script)
    write_atomically(folder / "setup.sh", b"#!/usr/bin/env bash\napt-get install -y python3\n")
    return folder


WRITERS: dict[str, Callable[[Gradebook, Path], Path]] = {
    "canvas": _write_canvas,
    "moodle": _write_moodle,
    "gradescope": _write_gradescope,
}
