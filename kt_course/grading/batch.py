"""A folder of submissions to one CSV file: a row each, whatever a submission does."""

from __future__ import annotations

import csv
import io
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kt_core.corpora.files import write_atomically
from kt_course.exercises import exercise_ids
from kt_course.exercises.check import one_line
from kt_course.grading import running
from kt_course.grading.sandbox import Ended, Limits, confined, missing

LARGEST = 50 * 2**20  # bytes of a submission
OUT_OF_MEMORY = ("MemoryError", "allocate memory", "not enough memory", "out of memory")
FIELDS = ("file", "notebook", "status", "right", "of", "unconfirmed", "seconds")


@dataclass(frozen=True)
class Row:
    """What came out for one submission."""

    file: str
    status: str
    seconds: float
    notebook: str = ""
    verdicts: dict[str, str] = field(default_factory=dict)

    @property
    def right(self) -> int:
        return sum(verdict.startswith("right") for verdict in self.verdicts.values())

    @property
    def unconfirmed(self) -> int:
        return sum(verdict.startswith("right, ") for verdict in self.verdicts.values())

    def __str__(self) -> str:
        count = f", {self.right} of {len(self.verdicts)} right" if self.verdicts else ""
        return f"{self.file}: {self.status}{count}, {self.seconds:.0f} s"


def grade(
    submissions: Sequence[str | Path],
    out: str | Path,
    limits: Limits | None = None,
    profile: str | None = None,
    bubblewrap: bool | None = None,
    tell: Callable[[str], None] = print,
) -> list[Row]:
    """Grade notebooks, and those in folders, into the CSV file `out`, which is complete after every row.

    profile: the notebooks' parameter of that name, if it should be another one. bubblewrap: use it, or not (default:
    where it works). ValueError where there is nothing to grade.
    """
    if not hasattr(os, "fork"):
        raise ValueError(
            "grading needs Linux or macOS; on Windows use the Windows Subsystem for Linux"
        )
    if Path(out).suffix != ".csv":
        raise ValueError(f"{out}: the table is written there, so its name must end in .csv")
    paths, limits = find(submissions), limits or Limits()
    bubblewrap = not missing() if bubblewrap is None else bubblewrap
    tell(protection(bubblewrap))
    rows: list[Row] = []
    for path in paths:
        rows.append(grade_one(path, limits, profile, bubblewrap))
        write_atomically(out, table(rows).encode())
        tell(printable(str(rows[-1])))
    return rows


def find(submissions: Sequence[str | Path]) -> list[Path]:
    """Files as they are named; of a folder all notebooks in it, at any depth, sorted."""
    found: list[Path] = []
    for path in map(Path, submissions):
        inside = path.rglob("*.ipynb") if path.is_dir() else [path]
        found += sorted(one for one in inside if ".ipynb_checkpoints" not in one.parts)
    if not found:
        raise ValueError(f"no notebook in {', '.join(map(str, submissions)) or 'nothing'}")
    return list(dict.fromkeys(found))


def protection(bubblewrap: bool) -> str:
    """One line: what stands between a submission and this machine."""
    if bubblewrap:
        told = "isolated by bubblewrap: submissions see no file but the system's, Python's and kt_core's, and no network"
    else:
        told = (
            f"NOT ISOLATED, {missing() or 'bubblewrap is turned off'}: submissions can read and change your files and use the "
            "network; see docs/instructor.md"
        )
    root = "; as root, the number of processes is watched but not limited"
    return told + (root if os.getuid() == 0 else "")


def grade_one(path: Path, limits: Limits, profile: str | None, bubblewrap: bool) -> Row:
    """Judge its answers, then run it. Whatever goes wrong is told in the row."""
    began = time.monotonic()

    def row(status: str, **known) -> Row:
        return Row(str(path), one_line(status)[:300], round(time.monotonic() - began, 1), **known)

    try:
        data = read(path)
    except (OSError, ValueError) as error:
        return row(f"not a notebook: {getattr(error, 'strerror', None) or error}")
    try:
        judging = [
            "-P",
            "-m",
            "kt_course.grading.judging",
            "FD",
        ]  # -P: imports nothing from where answers write
        judged = confined(judging, data, limits, limits.notebook, bubblewrap)
        if not judged.told:
            return row(judged.stopped or "failed: it ended the process that judges it")
        if problem := judged.told[0].get("problem"):
            return row(problem)
        run = ["-P", running.__file__, "FD", str(limits.cell), *([profile] if profile else [])]
        ran = confined(run, data, limits, limits.notebook, bubblewrap)
        return row(
            status(ran), notebook=judged.told[0]["notebook"], verdicts=judged.told[0]["verdicts"]
        )
    except Exception as error:  # one submission must not stop the others
        return row(f"failed: {type(error).__name__}: {error}")


def read(path: Path) -> bytes:
    """The bytes of a plain file; OSError for a symbolic link, ValueError for other things and large files."""
    handle = os.open(
        path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    )  # a pipe must not make us wait
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("no plain file")
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"larger than {LARGEST // 2**20} MB")
    return data


def status(ran: Ended) -> str:
    """How the run ended, and in which cell (counted from 1, code cells alone)."""
    cells = [fact["cell"] for fact in ran.told if "cell" in fact]
    ends = [fact for fact in ran.told if "end" in fact]
    where = f" at cell {cells[-1]}" if cells else ""
    if ran.stopped:
        kind, _, why = ran.stopped.partition(": ")
    elif ends:
        kind, why = str(ends[-1]["end"]), str(ends[-1].get("error", ""))
        if any(text in why for text in OUT_OF_MEMORY):
            kind = "out of memory"
    else:
        kind, why = "failed", "it ended the process that runs it"
    return kind if kind == "finished" else f"{kind}{where}: {why}"


def table(rows: Sequence[Row]) -> str:
    """CSV: a row a submission, a column an exercise that occurs."""
    used = {id for row in rows for id in row.verdicts}
    columns = [id for id in exercise_ids() if id in used]
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n")
    write.writerow([*FIELDS, *columns])
    for row in rows:
        count = (row.right, len(row.verdicts), row.unconfirmed)
        facts = (row.file, row.notebook, row.status, *count, row.seconds)
        write.writerow(
            [*map(harmless, facts), *(harmless(row.verdicts.get(id, "")) for id in columns)]
        )
    return text.getvalue()


def harmless(value: object) -> str:
    """As text that a spreadsheet takes for no formula, without control characters."""
    text = printable(str(value))
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def printable(text: str) -> str:
    return "".join(ch if ch.isprintable() else "�" for ch in text)
