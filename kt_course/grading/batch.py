"""`kt grade`: a folder of submissions into one CSV file, one row each, whatever they do."""

from __future__ import annotations

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
from kt_course.grading.sandbox import Limits, Outcome, bubblewrap_problem, run_confined
from kt_course.tools import options as opt
from kt_course.tools.tables import csv_text, printable

MAX_BYTES = 50 * 2**20  # of a submission
OUT_OF_MEMORY = ("MemoryError", "allocate memory", "not enough memory", "out of memory")
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
        """Number of right answers, those that are unconfirmed left out."""
        return sum(verdict == "right" for verdict in self.verdicts.values())

    @property
    def unconfirmed(self) -> int:
        """Number of right answers that could not be confirmed where they cannot reach the check."""
        return sum(verdict.startswith("right, ") for verdict in self.verdicts.values())

    def __str__(self) -> str:
        unconfirmed = f", {self.unconfirmed} unconfirmed" if self.unconfirmed else ""
        count = f", {self.right} of {len(self.verdicts)} right" if self.verdicts else ""
        count += unconfirmed
        return f"{self.file}: {self.status}{count}, {self.seconds:.0f} s"


def grade_command(
    notebooks: list[Path],
    /,
    *,
    out: Path,
    profile: opt.Profile | None = None,
    cell_seconds: int = 300,
    seconds: int = 1200,
    memory: float = 4.0,
) -> None:
    """Run and judge learners' notebooks, which are not trusted, into a CSV file.

    Args:
        notebooks: Submissions, or folders of them.
        out: The CSV file, one row per submission.
        profile: Run them all in this profile instead of their own.
        cell_seconds: Time for one cell.
        seconds: Time for one notebook.
        memory: GB for one submission.
    """
    limits = Limits(cell=cell_seconds, notebook=seconds, memory=memory)
    rows = grade(notebooks, out, limits, profile)
    print(f"{len(rows)} submissions in {out}")


def grade(
    submissions: Sequence[str | Path],
    out: str | Path,
    limits: Limits | None = None,
    profile: str | None = None,
    bubblewrap: bool | None = None,
    log: Callable[[str], None] = print,
) -> list[Row]:
    """Grade notebooks, and those in folders, into a CSV file that is complete after every row.

    Args:
        submissions: Notebooks, or folders of them.
        out: The CSV file.
        limits: What a submission may use.
        profile: A value for the notebooks' parameter of that name, instead of their own.
        bubblewrap: Use it or not; by default where it works.
        log: Gets a line of text per submission.

    Raises:
        ValueError: There is nothing to grade, or this system cannot.
    """
    if not hasattr(os, "fork"):
        hint = "on Windows use the Windows Subsystem for Linux"
        raise ValueError(f"grading needs Linux or macOS; {hint}")
    if Path(out).suffix != ".csv":
        raise ValueError(f"{out}: the table is written there, so its name must end in .csv")
    paths, limits = find_submissions(submissions), limits or Limits()
    bubblewrap = not bubblewrap_problem() if bubblewrap is None else bubblewrap
    log(describe_isolation(bubblewrap))
    rows: list[Row] = []
    for path in paths:
        rows.append(grade_one(path, limits, profile, bubblewrap))
        write_atomically(out, table(rows).encode())
        log(printable(str(rows[-1])))
    return rows


def find_submissions(submissions: Sequence[str | Path]) -> list[Path]:
    """Files as they are named; of a folder all notebooks in it, at any depth, sorted."""
    paths: list[Path] = []
    for path in map(Path, submissions):
        inside = path.rglob("*.ipynb") if path.is_dir() else [path]
        paths += sorted(one for one in inside if ".ipynb_checkpoints" not in one.parts)
    if not paths:
        raise ValueError(f"no notebook in {', '.join(map(str, submissions)) or 'nothing'}")
    return list(dict.fromkeys(paths))


def describe_isolation(bubblewrap: bool) -> str:
    """One line that says what protects this machine from a submission."""
    root = "; as root, the number of processes is watched but not limited"
    root = root if os.getuid() == 0 else ""
    if bubblewrap:
        return (
            "isolated by bubblewrap: submissions see no file but the system's, Python's and "
            f"kt_core's, and no network{root}"
        )
    problem = bubblewrap_problem() or "bubblewrap is turned off"
    return (
        f"NOT ISOLATED, {problem}: submissions can read and change your files and use the "
        f"network; see docs/instructor.md{root}"
    )


def grade_one(path: Path, limits: Limits, profile: str | None, bubblewrap: bool) -> Row:
    """Judge a submission's answers, then run it; whatever goes wrong is in the row."""
    began = time.monotonic()

    def row(status: str, **known) -> Row:
        return Row(str(path), one_line(status)[:300], round(time.monotonic() - began, 1), **known)

    def confined(*arguments: str) -> Outcome:
        # -P: imports nothing from the current folder, where answers can write
        return run_confined(["-P", *arguments], data, limits, limits.notebook, bubblewrap)

    try:
        data = read_submission(path)
    except (OSError, ValueError) as error:
        return row(f"not a notebook: {getattr(error, 'strerror', None) or error}")
    try:
        judged = confined("-m", "kt_course.grading.judging", "FD")
        if not judged.facts:
            return row(judged.stopped or "failed: it ended the process that judges it")
        facts = judged.facts[0]
        if problem := facts.get("problem"):
            return row(problem)
        options = [str(limits.cell), *([profile] if profile else [])]
        status = describe_run(confined(running.__file__, "FD", *options))
        return row(status, notebook=facts["notebook"], verdicts=facts["verdicts"])
    except Exception as error:  # one submission must not stop the others
        return row(f"failed: {type(error).__name__}: {error}")


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


def describe_run(outcome: Outcome) -> str:
    """How a run ended, and in which code cell (counted from 1)."""
    cells = [fact["cell"] for fact in outcome.facts if "cell" in fact]
    ends = [fact for fact in outcome.facts if "end" in fact]
    where = f" at cell {cells[-1]}" if cells else ""
    if outcome.stopped:
        kind, _, why = outcome.stopped.partition(": ")
    elif ends:
        kind, why = str(ends[-1]["end"]), str(ends[-1].get("error", ""))
        if any(text in why for text in OUT_OF_MEMORY):
            kind = "out of memory"
    else:
        kind, why = "failed", "it ended the process that runs it"
    return kind if kind == "finished" else f"{kind}{where}: {why}"


def table(rows: Sequence[Row]) -> str:
    """CSV with a row per submission and a column per exercise that occurs."""
    occurring = {id for row in rows for id in row.verdicts}
    columns = [id for id in exercise_ids() if id in occurring]
    lines = []
    for row in rows:
        counts = (row.right, len(row.verdicts), row.unconfirmed, row.seconds)
        verdicts = (row.verdicts.get(id, "") for id in columns)
        lines.append([row.file, row.notebook, row.status, *counts, *verdicts])
    return csv_text([*FIELDS, *columns], lines)
