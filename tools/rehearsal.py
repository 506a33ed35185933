"""Rehearse a course before it begins: release, hand in, grade and export, in one command.

    python tools/rehearsal.py                     # 30 students on chapter 1, both cores
    python tools/rehearsal.py --students 6 --jobs 1

The students are synthetic: correct, half wrong, blank, broken and hostile. Two of them copied. What
each one should get is known, so a row that differs ends the command with status 1. Figures
go to data/results/rehearsal.json with --record.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from answering import right_cell  # noqa: E402

from kt_core.corpora.files import write_json  # noqa: E402
from kt_core.runs.checkpoints import hardware  # noqa: E402
from kt_course.exercises.registry import library  # noqa: E402
from kt_course.grading.cleaning import ID  # noqa: E402
from kt_course.grading.isolation import bubblewrap_problem  # noqa: E402
from kt_course.grading.release import release  # noqa: E402
from kt_course.tools.cli import main as kt  # noqa: E402

CHEAT = """from kt_course.exercises import check as module
from kt_course.exercises import registry
for posed in registry.library().values():  # the name `exercise` stays the decorator
    object.__setattr__(posed, "check", lambda fn: "fine")
"""
# kind: (a cell put in front of the answers, how its status begins)
ATTACKS = {
    "kills": ("import os\nos.kill(os.getppid(), 9)\nos._exit(1)", "failed"),
    "forks": (
        "import subprocess\nfor _ in range(200): subprocess.Popen(['sleep', '60'])\n"
        "import time; time.sleep(30)",
        "failed",
    ),
    "eats": ("data = [bytearray(2**30) for _ in range(64)]", "out of memory"),
    "waits": ("while True: pass", "timed out"),
    "cheats": (CHEAT, ""),
    "spies": ("open('CANARY', 'w').write('x')", "failed"),
}
ORDER = ["right", "wrong", "blank", "cheats", "right", "broken", "wrong", "right", "kills", "blank"]
ORDER += ["right", "wrong", "forks", "right", "unreadable", "wrong", "right", "eats", "blank"]
ORDER += ["right", "wrong", "waits", "right", "broken", "blank", "right", "spies", "wrong", "blank"]
ORDER += ["right"]


def answer(notebook, change: Callable[[str, str, int], str]) -> None:
    """Replace the exercise cells: change(id, source, number) returns the learner's."""
    number = 0
    for cell in notebook.cells:
        if "exercise" in cell.metadata.get("tags", []):
            cell.source = change(ID.search(cell.source)[1], cell.source, number)
            number += 1


def wrong_answer(id: str) -> str:
    """An answer that gives back 0."""
    kind = "class" if isinstance(library()[id].reference, type) else "def"
    body = "pass" if kind == "class" else "return 0"
    head = f"{kind} {library()[id].name}" + ("(*given, **options)" if kind == "def" else "")
    return f'@exercise("{id}")\n{head}:\n    {body}'


def hand_in(text: str, kind: str, student: str, canary: Path) -> str:
    """A student's notebook, made of the released one."""
    notebook = nbformat.reads(text, as_version=4)
    mine = "" if student in ("1000", "1004") else f"  # {student}"  # these two are one text
    if kind == "right":
        answer(notebook, lambda id, stub, n: f"{right_cell(id, stub)}{mine}")
    elif kind in ("wrong", "cheats"):
        share = 2 if kind == "wrong" else 1
        correct = lambda id, stub: f"{right_cell(id, stub)}{mine}"  # noqa: E731
        answer(notebook, lambda id, s, n: correct(id, s) if n % share else wrong_answer(id))
    elif kind == "broken":
        answer(notebook, lambda id, stub, n: f"{stub}\n  return (" if n == 0 else stub)
    if kind in ATTACKS:
        cell = new_code_cell(ATTACKS[kind][0].replace("CANARY", str(canary)))
        is_exercise = ["exercise" in c.metadata.get("tags", []) for c in notebook.cells]
        first = is_exercise.index(True)
        notebook.cells.insert(first, cell)
    for cell in notebook.cells:
        if cell.source.startswith("<!-- answer to "):
            cell.source = f"{cell.source.splitlines()[0]}\nBecause of this: {student}."
    text = nbformat.writes(notebook)
    return text[: len(text) // 2] if kind == "unreadable" else text


def expected(kind: str, n_exercises: int) -> tuple[int, str]:
    """How many correct answers a kind has, and how its status begins."""
    if kind == "right":
        return n_exercises, "finished"
    if kind == "wrong":
        return n_exercises // 2, "finished"
    if kind == "broken":
        return 0, "failed"
    if kind == "unreadable":
        return 0, "not a notebook"
    return 0, ATTACKS.get(kind, ("", "finished"))[1]


def rehearse(
    out: Path,
    kinds: list[str],
    source: Path | None = None,
    notebook: str = "01_attention_math",
    jobs: int | None = None,
    cell_seconds: int = 60,
) -> dict:
    """Go the whole way in the folder `out`; returns the figures, with "surprises" at best empty."""
    out.mkdir(parents=True)
    release(out / "handout", source=source, solutions=False, written=True)
    text = (out / "handout" / f"{notebook}.ipynb").read_text(encoding="utf-8")
    hand_in_all(out, kinds, text, notebook)
    jobs = jobs or os.cpu_count()
    status, seconds, cpu = grade_and_export(out, jobs, cell_seconds)
    rows = read(out / "grades.csv")
    surprises = [f"status {status}"] if status else []
    surprises += ["a submission wrote outside its sandbox"] if (out / "canary").exists() else []
    surprises += find_surprises(rows, kinds, text) + find_copies(out, kinds)
    timing = sorted(float(row["seconds"]) for row in rows)
    return dict(
        students=len(kinds),
        jobs=jobs,
        notebook=notebook,
        isolated=not bubblewrap_problem(),
        seconds=round(seconds, 1),
        seconds_per_submission=round(seconds / len(kinds), 1),
        cpu_seconds_per_submission=round(cpu / len(kinds), 1),
        median_seconds=timing[len(timing) // 2],
        longest_seconds=timing[-1],
        load_average=round(os.getloadavg()[0], 1),
        files=sorted(path.name for path in out.iterdir()),
        surprises=surprises,
        hardware=hardware(),
    )


def hand_in_all(out: Path, kinds: list[str], text: str, notebook: str) -> None:
    """Write a submission of each kind, made of the released notebook `text`, and the roster."""
    lines = ["id,name,email"]
    for number, kind in enumerate(kinds):
        student = str(1000 + number)
        lines.append(f"{student},Student {number},s{number}@example.edu")
        target = out / "submissions" / student / f"{notebook}.ipynb"
        target.parent.mkdir(parents=True)
        target.write_text(hand_in(text, kind, student, out / "canary"), encoding="utf-8")
    (out / "roster.csv").write_text("\n".join(lines), encoding="utf-8")


def grade_and_export(out: Path, jobs: int, cell_seconds: int) -> tuple[int, float, float]:
    """Grade, mark and export; return the status, and wall-clock and CPU seconds of grading."""
    processor, began, table = ProcessorTime(), time.monotonic(), out / "grades.csv"
    limits = ["--profile", "smoke", "--cell-seconds", str(cell_seconds), "--jobs", str(jobs)]
    ask = ["grade", "--roster", str(out / "roster.csv"), "--out"]
    status = kt([*ask, str(table), str(out / "submissions"), "--for", "canvas", *limits])
    seconds, cpu = time.monotonic() - began, sum(processor.used.values())
    marks = fill_in(out / "grades-written.csv")
    for lms in ("moodle", "gradescope"):
        final = [*ask, str(out / "final.csv"), str(table), "--for", lms, "--marks", str(marks)]
        status = status or kt(final)
    return status, seconds, cpu


def find_surprises(rows: list[dict[str, str]], kinds: list[str], text: str) -> list[str]:
    """Lines about the submissions whose row differs from what their kind should get."""
    tags = (cell.metadata.get("tags", []) for cell in nbformat.reads(text, as_version=4).cells)
    n_exercises, surprises = sum("exercise" in one for one in tags), []
    for row in rows:
        kind = kinds[int(Path(row["file"]).parent.name) - 1000]
        n_right, begins = expected(kind, n_exercises)
        given, status = int(row["right"]), row["status"]
        if given != n_right or int(row["unconfirmed"]) or not status.startswith(begins):
            surprises.append(f"{kind}: {given} right, {status}; expected {n_right}, {begins}")
    return surprises


def find_copies(out: Path, kinds: list[str]) -> list[str]:
    """A line if others than 1000 and 1004, who are one text, are listed as the same."""
    similar = read(out / "grades-similar-answers.csv")
    copies = {(row["student"], row["other student"]) for row in similar if row["same text"]}
    if kinds[0:5:4] == ["right", "right"] and copies != {("1000", "1004")}:
        return [f"same answers: {sorted(copies)}; expected those of 1000 and 1004"]
    return []


class ProcessorTime(threading.Thread):
    """Adds up the processor time of all that this process starts, twice per second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.used: dict[tuple, float] = {}
        self.start()

    def run(self) -> None:
        me = psutil.Process()
        while True:
            for process in me.children(recursive=True):
                try:
                    times = process.cpu_times()
                    self.used[process.pid, process.create_time()] = times.user + times.system
                except psutil.Error:
                    continue
            time.sleep(0.5)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill_in(path: Path) -> Path:
    """Mark all written answers with one point, as a person would in a spreadsheet."""
    rows, target = read(path), path.with_name("marks.csv")
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "points": "1", "comment": "See the rubric."} for row in rows)
    return target


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=30)
    parser.add_argument("--notebook", default="01_attention_math")
    parser.add_argument("--jobs", type=int, default=None, help="default: one per core")
    parser.add_argument("--cell-seconds", type=int, default=60, help="more on a busy machine")
    parser.add_argument("--out", type=Path, default=Path("build/rehearsal"))
    parser.add_argument("--record", action="store_true", help="write data/results/rehearsal.json")
    given = parser.parse_args()
    kinds = [ORDER[n % len(ORDER)] for n in range(given.students)]
    options = dict(jobs=given.jobs, cell_seconds=given.cell_seconds)
    figures = rehearse(given.out, kinds, notebook=given.notebook, **options)
    print(json.dumps(figures, indent=2))
    if given.record:
        write_json(ROOT / "data" / "results" / "rehearsal.json", figures)
    return bool(figures["surprises"])


if __name__ == "__main__":
    sys.exit(main())
