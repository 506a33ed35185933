"""What was handed in, files of strangers, which may be anything; and the table of their rows."""

import csv
import io
import os
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from kt_core.corpora.files import read_plain_file
from kt_course.exercises import exercise_ids
from kt_course.grading.judging import UNCONFIRMED
from kt_course.tools.tables import csv_text

MAX_BYTES = 50 * 2**20  # of a submission
FIELDS = ("file", "notebook", "status", "right", "of", "unconfirmed", "seconds")


@dataclass(frozen=True)
class Row:
    """The outcome of one submission."""

    file: str
    status: str
    seconds: float
    notebook: str = ""
    verdicts: dict[str, str] = field(default_factory=dict)

    @property
    def right(self) -> int:
        """Number of correct answers, those that are unconfirmed left out."""
        return sum(verdict == "right" for verdict in self.verdicts.values())

    @property
    def unconfirmed(self) -> dict[str, str]:
        """Why correct answers could not be confirmed out of reach of the check, by exercise."""
        return {
            id: verdict.removeprefix(f"{UNCONFIRMED}: ")
            for id, verdict in self.verdicts.items()
            if verdict.startswith(UNCONFIRMED)
        }

    def __str__(self) -> str:
        count = f", {self.right} of {len(self.verdicts)} right" if self.verdicts else ""
        count += f", {len(self.unconfirmed)} unconfirmed" if self.unconfirmed else ""
        return f"{self.file}: {self.status}{count}, {self.seconds:.0f} s"


def table(rows: Sequence[Row]) -> str:
    """CSV with a row per submission and a column per exercise that occurs."""
    occurring = {id for row in rows for id in row.verdicts}
    columns = [id for id in exercise_ids() if id in occurring]
    lines = []
    for row in rows:
        counts = (row.right, len(row.verdicts), len(row.unconfirmed), row.seconds)
        verdicts = (row.verdicts.get(id, "") for id in columns)
        lines.append([row.file, row.notebook, row.status, *counts, *verdicts])
    return csv_text([*FIELDS, *columns], lines)


def read_rows(path: Path) -> list[Row]:
    """Read the table of an earlier call; ValueError if it is another one."""
    lines = csv.DictReader(io.StringIO(read_plain_file(path).decode("utf-8-sig", "replace")))
    if list(lines.fieldnames or ())[: len(FIELDS)] != list(FIELDS):
        raise ValueError(f"{path}: no table of kt grade, its columns begin with {FIELDS[0]!r}")
    rows = []
    for line in lines:
        file = line["file"].removeprefix("'")
        verdicts = {id: text for id in lines.fieldnames[len(FIELDS) :] if (text := line[id])}
        seconds = float(line["seconds"])
        rows.append(Row(file, line["status"], seconds, line["notebook"], verdicts))
    return rows


def find_submissions(submissions: Sequence[str | Path]) -> list[Path]:
    """Files as they are named; of a folder all notebooks in it, at any depth, sorted."""
    paths: list[Path] = []
    for path in map(Path, submissions):
        if path.suffix != ".ipynb" and not os.path.lexists(path):
            raise ValueError(f"{path}: no such file or folder")
        inside = path.rglob("*.ipynb") if path.is_dir() else [path]
        paths += sorted(one for one in inside if ".ipynb_checkpoints" not in one.parts)
    if not paths:
        raise ValueError(f"no notebook in {', '.join(map(str, submissions)) or 'nothing'}")
    return list(dict.fromkeys(paths))


def read_submission(path: Path) -> bytes:
    """The bytes of a plain file; OSError for a symbolic link, ValueError for anything else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe must not make us wait
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("no plain file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES // 2**20} MB")
    return data


def cells_of(file: str) -> list[dict]:
    """The cells of a submission; none if it cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return list(nbformat.reads(read_submission(Path(file)).decode(), as_version=4).cells)
    except Exception:  # its row says what is wrong with it
        return []
