"""The roster of a course, and whose submission a file is."""

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kt_core.corpora.textfiles import read_numbered_lines

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


def read_roster(path: str | Path) -> list[Student]:
    """Read a CSV with the columns id and name, perhaps email, login, sis_id and section."""
    lines = csv.DictReader(io.StringIO(read_text(path)), strict=True)
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


def read_text(path: str | Path) -> str:
    """Return a file of text with plain line ends; ValueError names the line of what is none."""
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
