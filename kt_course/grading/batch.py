"""`kt grade`: a folder of submissions into one CSV file, one row each, whatever they do."""

import csv
import io
import os
import platform
import stat
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import nbformat
import psutil
from cyclopts import Parameter

from kt_core.corpora.files import keep_previous, read_plain_file, write_atomically
from kt_course.exercises import exercise_ids
from kt_course.exercises.check import one_line
from kt_course.exercises.registry import library
from kt_course.grading import gradebook
from kt_course.grading.cleaning import ID
from kt_course.grading.sandbox import SYSCALLS, Limits, Outcome, bubblewrap_problem, run_confined
from kt_course.grading.similarity import similar_pairs
from kt_course.grading.written import marking_page, written_answers
from kt_course.tools import options as opt
from kt_course.tools.tables import csv_text, printable, write_csv

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
        """Number of correct answers, those that are unconfirmed left out."""
        return sum(verdict == "right" for verdict in self.verdicts.values())

    @property
    def unconfirmed(self) -> int:
        """Number of correct answers that could not be confirmed out of reach of the check."""
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

    With a roster: also points, a feedback page per student, written answers for marking, and files
    for a learning management system, all beside the CSV file.

    Args:
        notebooks: Submissions, or folders of them; or the CSV file of an earlier call, which is
            read instead of grading again.
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
    needing = {"--points": points, "--marks": marks, "--for": lms}
    if not roster and (option := next((name for name, value in needing.items() if value), None)):
        raise ValueError(f"{option} needs --roster")
    students = gradebook.read_roster(roster) if roster else []
    values = gradebook.read_points(points)
    by_hand = gradebook.read_marks(marks, students) if marks else {}
    earlier = [path for path in notebooks if path.suffix == ".csv"]
    rows = [row for path in earlier for row in read_rows(path)]
    refuse_output(out, roster, points, marks)
    if rest := [path for path in notebooks if path not in earlier]:
        find_submissions(rest)  # refuses nothing to grade
    if previous := keep_previous(out):
        print(f"the {out.name} that was there is now {previous.name}")
    if rest:
        jobs = jobs or psutil.cpu_count(logical=False) or 1
        rows += grade(rest, out, limits, profile, jobs=jobs)
    write_atomically(out, table(rows).encode())
    print(f"{len(rows)} submissions in {out}")
    if students:
        book = gradebook.Gradebook.of(rows, students, values, by_hand)
        reading = [] if marks else write_for_reading(book, out)
        for path in [*gradebook.write_gradebook(book, out, lms), *reading]:
            print(f"written: {path}")
        for file in book.unmatched:
            print(printable(f"nobody on the roster: {file}"))


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


def refuse_output(out: Path, *reads: Path | None) -> None:
    """Raise ValueError, before anything is graded, for a table that cannot be written."""
    if os.getuid() == 0 and (problem := bubblewrap_problem()):
        raise ValueError(f"root grades with bubblewrap alone ({problem}): be another user")
    if os.path.realpath(out) in [os.path.realpath(path) for path in reads if path]:
        raise ValueError(f"--out {out} is read and would be overwritten: name another file")
    if out.suffix != ".csv":
        raise ValueError(f"{out}: the table is written there, so its name must end in .csv")
    opt.check_output(out)


def write_for_reading(book: gradebook.Gradebook, out: Path) -> list[Path]:
    """Write what a person reads: the written answers with rubrics, answers that are alike."""
    base, marking, sources = out.with_suffix(""), [], {}
    for student in book.students:
        for row in book.rows[student.id].values():
            cells = cells_of(row.file)
            marking += [(student.id, id, text) for id, text in written_answers(cells).items()]
            for cell in cells:
                ids = ID.findall(str(cell.get("source", "")))
                if len(ids) == 1 and row.verdicts.get(ids[0], "not attempted") != "not attempted":
                    sources.setdefault(ids[0], {})[student.id] = str(cell["source"])
    paths = []
    if marking:
        path = base.with_name(f"{base.name}-written")
        write_atomically(path.with_suffix(".html"), marking_page(marking).encode())
        lines = [[student, id, "", "", text] for student, id, text in marking]
        headers = ["student", "question", "points", "comment", "answer"]
        keep_previous(path.with_suffix(".csv"))  # somebody may have filled it in
        paths += [path.with_suffix(".html"), write_csv(path.with_suffix(".csv"), headers, lines)]
    if pairs := similar_pairs(sources):
        headers = "student,other student,exercise,similarity %,median of the class %,same text"
        lines = []
        for pair in pairs:
            typical = "" if pair.typical is None else round(100 * pair.typical)
            copy = "same" if pair.is_copy else ""
            similarity = round(100 * pair.similarity)
            lines.append([*pair.students, pair.exercise, similarity, typical, copy])
        path = base.with_name(f"{base.name}-similar-answers.csv")
        paths.append(write_csv(path, headers.split(","), lines))
    return paths


def cells_of(file: str) -> list[dict]:
    """The cells of a submission; none if it cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return list(nbformat.reads(read_submission(Path(file)).decode(), as_version=4).cells)
    except Exception:  # its row says what is wrong with it
        return []


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
    if not hasattr(os, "fork"):
        hint = "on Windows use the Windows Subsystem for Linux"
        raise ValueError(f"grading needs Linux or macOS; {hint}")
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
