"""`kt grade`: a folder of submissions into one CSV file, one row each, whatever they do."""

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import psutil
from cyclopts import Parameter

from kt_core.corpora.files import keep_previous, write_atomically
from kt_course.exercises.check import one_line
from kt_course.exercises.registry import library
from kt_course.grading.gradebook import Gradebook, Marks, Points, read_marks, read_points
from kt_course.grading.isolation import SYSCALLS, bubblewrap_problem
from kt_course.grading.reports import write_for_reading, write_gradebook
from kt_course.grading.roster import Student, read_roster
from kt_course.grading.sandbox import Limits, Outcome, run_confined
from kt_course.grading.submissions import Row, find_submissions, read_rows, read_submission, table
from kt_course.tools import options as opt
from kt_course.tools.tables import printable

OUT_OF_MEMORY = ("MemoryError", "allocate memory", "not enough memory", "out of memory")


def grade_command(
    notebooks: list[Path],
    /,
    *,
    out: Path,
    profile: opt.Profile | None = None,
    cell_seconds: opt.Count = 300,
    seconds: opt.Count = 1200,
    memory: float = 4.0,
    jobs: int | None = None,
    roster: Path | None = None,
    points: Path | None = None,
    marks: Path | None = None,
    lms: Annotated[Literal["canvas", "moodle", "gradescope"] | None, Parameter("--for")] = None,
) -> None:
    """Run and judge learners' notebooks, which are not trusted, into a CSV file.

    With a roster: also points, feedback pages, answers to mark, and files for an LMS, beside it.

    Args:
        notebooks: Submissions, or folders of them; or the table of an earlier call, to reuse it.
        out: The CSV file, one row per submission.
        profile: Run them all in this profile instead of their own.
        cell_seconds: Time for one cell.
        seconds: Time for one notebook.
        memory: GB for one submission.
        jobs: How many submissions at a time; by default one per core.
        roster: CSV with id and name, or first and last name; perhaps email, login, sis_id, section.
        points: TOML with the points of exercises; by default an exercise gives its difficulty.
        marks: The CSV file of the written answers, with your points and comments in it.
        lms: Write the points as this system imports them; needs --roster.
    """
    limits = Limits(cell=cell_seconds, notebook=seconds, memory=memory)
    course = read_course(roster, points, marks, lms)
    refuse_output(out, roster, points, marks)
    rows = write_table(notebooks, out, limits, profile, jobs)
    if not marks:
        print_unconfirmed(rows)
    if course:
        write_course_files(Gradebook.of(rows, *course), out, lms, is_marked=bool(marks))


def read_course(
    roster: Path | None, points: Path | None, marks: Path | None, lms: str | None
) -> tuple[list[Student], Points, Marks] | None:
    """Read what a gradebook is made of, beside the rows; None without a roster."""
    if roster:
        students, values = read_roster(roster), read_points(points)
        return students, values, read_marks(marks, students, values) if marks else {}
    needing = {"--points": points, "--marks": marks, "--for": lms}
    if option := next((name for name, value in needing.items() if value), None):
        raise ValueError(f"{option} needs --roster")
    return None


def write_table(
    notebooks: list[Path], out: Path, limits: Limits, profile: str | None, jobs: int | None
) -> list[Row]:
    """Write the rows of earlier calls' tables, and of submissions, which are graded now."""
    rows = [row for path in notebooks if path.suffix == ".csv" for row in read_rows(path)]
    rest = [path for path in notebooks if path.suffix != ".csv"]
    if rest:
        find_submissions(rest)  # refuses nothing to grade
    if previous := keep_previous(out):
        print(f"the {out.name} that was there is now {previous.name}")
    if rest:
        n_cores = psutil.cpu_count(logical=False)
        rows += grade(rest, out, limits, profile, jobs=jobs or n_cores or 1)
    write_atomically(out, table(rows).encode())
    print(f"{len(rows)} submissions in {out}")
    return rows


def print_unconfirmed(rows: Sequence[Row]) -> None:
    """Print a line per correct answer that a person has to mark."""
    for row in rows:
        for id, why in row.unconfirmed.items():
            print(printable(f"no points until you mark it by hand: {row.file}, {id}: {why}"))


def write_course_files(book: Gradebook, out: Path, lms: str | None, is_marked: bool) -> None:
    """Write points, feedback and, unless answers are marked already, what a person reads."""
    paths = write_gradebook(book, out, lms)
    paths += [] if is_marked else write_for_reading(book, out)
    print("\n".join(f"written: {path}" for path in paths))
    for file in book.unmatched:
        print(printable(f"nobody on the roster: {file}"))


def refuse_output(out: Path, *reads: Path | None) -> None:
    """Raise ValueError, before anything is graded, for a table that cannot be written."""
    if os.getuid() == 0 and (problem := bubblewrap_problem()):
        raise ValueError(f"root grades with bubblewrap alone ({problem}): be another user")
    if os.path.realpath(out) in [os.path.realpath(path) for path in reads if path]:
        raise ValueError(f"--out {out} is read and would be overwritten: name another file")
    if out.suffix != ".csv":
        raise ValueError(f"{out}: the table is written there, so its name must end in .csv")
    opt.check_output(out)


def grade(
    submissions: Sequence[str | Path],
    out: str | Path,
    limits: Limits | None = None,
    profile: str | None = None,
    bubblewrap: bool | None = None,
    log: Callable[[str], None] = print,
    jobs: int = 1,
) -> list[Row]:
    """Grade notebooks, and those in folders, into a CSV file that is complete after every row.

    Args:
        submissions, out: Notebooks, or folders of them, and the CSV file.
        limits, jobs: What a submission may use, and how many run at a time.
        profile: A value for the notebooks' parameter of that name, instead of their own.
        bubblewrap: Use it or not; by default where it works.
        log: Gets a line of text per submission.

    Raises:
        ValueError: There is nothing to grade, or this system cannot.
    """
    require_fork()
    paths, limits = find_submissions(submissions), limits or Limits()
    bubblewrap = not bubblewrap_problem() if bubblewrap is None else bubblewrap
    log(describe_isolation(bubblewrap))
    rows: list[Row] = []
    stop = threading.Event()
    library()  # all threads share what it reads
    with ThreadPoolExecutor(jobs) as pool:
        try:
            judge = lambda path: grade_one(path, limits, profile, bubblewrap, stop)  # noqa: E731
            for row in pool.map(judge, paths):
                rows.append(row)
                write_atomically(out, table(rows).encode())
                log(printable(str(row)))
        except BaseException:  # such as Ctrl-C: do not wait for those that run
            pool.shutdown(wait=False, cancel_futures=True)
            stop.set()
            raise
    return rows


def require_fork() -> None:
    """Raise ValueError on a system without fork, which grading needs."""
    if not hasattr(os, "fork"):
        hint = "on Windows use the Windows Subsystem for Linux"
        raise ValueError(f"grading needs Linux or macOS; {hint}")


def describe_isolation(bubblewrap: bool) -> str:
    """One line that says what protects this machine from a submission."""
    if bubblewrap:
        text = "isolated by bubblewrap: submissions see no file but the system's, Python's and "
        text += "kt_core's, and no network"
        if (machine := platform.machine()) not in SYSCALLS:
            text += f"; system calls are not filtered on {machine}"
    else:
        text = f"NOT ISOLATED, {bubblewrap_problem() or 'bubblewrap is turned off'}: submissions "
        text += "can read and change your files and use the network; see docs/instructor.md"
    if os.getuid() == 0:
        text += "; as root, the number of processes is watched but not limited"
    return text


def grade_one(
    path: Path, limits: Limits, profile: str | None, bubblewrap: bool, stop: threading.Event
) -> Row:
    """Judge a submission's answers, then run it; whatever goes wrong is in the row."""
    began = time.monotonic()

    def row(status: str, **judgement) -> Row:
        return Row(
            str(path), one_line(status)[:300], round(time.monotonic() - began, 1), **judgement
        )

    try:
        data = read_submission(path)
    except (OSError, ValueError) as error:
        return row(f"not a notebook: {getattr(error, 'strerror', None) or error}")
    try:
        # -P: imports nothing from the current folder, where answers can write
        options = [str(limits.cell), *([profile] if profile else [])]
        command = ["-P", "-m", "kt_course.grading.judging", "FD", *options]
        outcome = run_confined(command, data, limits, limits.notebook, bubblewrap, stop)
        if not outcome.facts:
            return row(outcome.stopped or "failed: it ended the process that judges it")
        facts = outcome.facts[0]
        if problem := facts.get("problem"):
            return row(problem)
        status = describe_run(outcome)
        return row(status, notebook=facts["notebook"], verdicts=facts["verdicts"])
    except Exception as error:  # one submission must not stop the others
        return row(f"failed: {type(error).__name__}: {error}")


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
