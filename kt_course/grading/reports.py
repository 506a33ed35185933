"""Write a gradebook: points, feedback pages, answers for a person to read, files for an LMS.

canvas      CSV as Canvas imports it: Student, ID, SIS User ID, SIS Login ID, Section, a column per
            notebook, and a second line with the points possible. A column whose second line says
            "(read only)" would be skipped; we write none.
moodle      CSV for Moodle's grade import: ID number, Email address, a column per notebook
gradescope  an autograder that hands out the results.json of each student

Both importers take an empty cell for a change, which can remove a grade given there by hand. So the
files hold only students with points in one of their columns.

The deadline and penalties for late work are left to the LMS.

Sources: github.com/instructure/canvas-lms, lib/gradebook_importer.rb (the program that reads the
file); docs.moodle.org, "Grade import"; gradescope-autograders.readthedocs.io, "Autograder
Specifications" and "Submission Metadata".
"""

import re
from collections.abc import Callable
from pathlib import Path

from kt_core._validation import one_of
from kt_core.corpora.files import keep_previous, write_atomically, write_json
from kt_course.grading.cleaning import ID
from kt_course.grading.gradebook import Gradebook
from kt_course.grading.roster import Student
from kt_course.grading.similarity import similar_pairs
from kt_course.grading.submissions import cells_of
from kt_course.grading.written import marking_page, render, written_answers
from kt_course.tools.tables import printable, write_csv


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


def write_for_reading(book: Gradebook, out: Path) -> list[Path]:
    """Write both beside the table `out`; return the paths."""
    base, marking, sources = out.with_suffix(""), [], {}
    for student in book.students:
        for row in book.rows[student.id].values():
            cells = cells_of(row.file)
            marking += [(student.id, id, text) for id, text in written_answers(cells).items()]
            for cell in cells:
                ids = ID.findall(str(cell.get("source", "")))
                if len(ids) == 1 and row.verdicts.get(ids[0], "not attempted") != "not attempted":
                    sources.setdefault(ids[0], {})[student.id] = str(cell["source"])
            for id, why in row.unconfirmed.items():
                code = sources.get(id, {}).get(student.id, "its cell was not recognised")
                marking.append((student.id, id, f"# unconfirmed: {why}\n{code}"))
    return [*_write_marking(book, base, marking), *_write_similar(base, sources)]


def _write_marking(book: Gradebook, base: Path, answers: list[tuple[str, str, str]]) -> list[Path]:
    if not answers:
        return []
    page, table = (base.with_name(f"{base.name}-written{end}") for end in (".html", ".csv"))
    write_atomically(page, marking_page(answers, book.points.of).encode())
    lines = [[student, id, "", "", text] for student, id, text in answers]
    keep_previous(table)  # somebody may have filled it in
    headers = ["student", "question", "points", "comment", "answer"]
    return [page, write_csv(table, headers, lines)]


def _write_similar(base: Path, sources: dict[str, dict[str, str]]) -> list[Path]:
    headers = "student,other student,exercise,similarity %,median of the class %,same text"
    lines = []
    for pair in similar_pairs(sources):
        typical = None if pair.typical is None else round(100 * pair.typical)
        numbers = round(100 * pair.similarity), typical
        lines.append([*pair.students, pair.exercise, *numbers, "same" if pair.is_copy else ""])
    path = base.with_name(f"{base.name}-similar-answers.csv")
    return [write_csv(path, headers.split(","), lines)] if lines else []


# ---------------------------------------------------------------- learning management systems


def _write_canvas(book: Gradebook, base: Path) -> Path:
    headers = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *book.notebooks]
    possible = ["    Points Possible", *[""] * 4, *(f"{p:g}" for p in book.notebooks.values())]
    lines = [[s.name, s.id, s.sis_id, s.login, s.section, *c] for s, c in _with_points(book)]
    return write_csv(base.with_name(f"{base.name}-canvas.csv"), headers, [possible, *lines])


def _write_moodle(book: Gradebook, base: Path) -> Path:
    headers = ["ID number", "Full name", "Email address", *book.notebooks]
    lines = [[s.id, s.name, s.email, *cells] for s, cells in _with_points(book)]
    return write_csv(base.with_name(f"{base.name}-moodle.csv"), headers, lines)


def _with_points(book: Gradebook) -> list[tuple[Student, list[str]]]:
    """Students who have handed in anything that was graded, and their cells."""
    return [(s, cells) for s in book.students if any(cells := book.cells(s))]


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
