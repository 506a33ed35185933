"""One cell of a sweep in a process of its own: a run or a notebook in its folder, the outcome beside it.

python -m kt_course.tools.sweep_cell FOLDER     what that process does: cell.json in, outcome.json out
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kt_core
from kt_core.corpora.files import write_json

GRACE = 30.0  # seconds for a process to put its training away after Ctrl-C
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def outcome_of(folder: Path) -> dict | None:
    """What a cell's process has told, if it has ended."""
    try:
        told = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        return told if {"status", "values", "error", "seconds"} <= told.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def run_cell(
    folder: str, spec: dict[str, Any], threads: int, stopped: Callable[[], bool], every: float = 0.2
) -> dict:
    """Do one cell in a process of its own, in `folder`; returns its outcome, failures included.

    `stopped` is asked every so many seconds; once it says so, the process gets Ctrl-C, and time to save its training.
    """
    place, began = Path(folder), time.perf_counter()
    place.mkdir(parents=True, exist_ok=True)
    (place / "outcome.json").unlink(missing_ok=True)
    write_json(place / "cell.json", spec)
    environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
    if environment.get("KT_PROGRESS") != "off":
        environment["KT_PROGRESS"] = "lines"  # into the log
    root = str(Path(kt_core.__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with (place / "log.txt").open("ab") as log:
        # in a session of its own: Ctrl-C on the terminal reaches it through us alone, once
        process = subprocess.Popen(
            [sys.executable, "-m", "kt_course.tools.sweep_cell", str(place)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        status = None
        while status is None:
            try:
                status = process.wait(every)
            except subprocess.TimeoutExpired:
                if stopped():
                    _stop(process)
                    break
    told = outcome_of(place)
    if told is None:
        error = (
            "stopped"
            if status is None
            else f"its process ended with status {status}; see {place / 'log.txt'}"
        )
        if status is not None and status < 0:
            error = f"its process was killed by signal {-status} (9: perhaps for memory); see {place / 'log.txt'}"
        told = dict(status="stopped" if status is None else "failed", values={}, error=error)
    return {**told, "seconds": round(time.perf_counter() - began, 1)}


def _stop(process: subprocess.Popen) -> None:
    """Ctrl-C for a process, and its end where that does not help."""
    if os.name == "nt":
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def work(folder: str | Path) -> int:
    """What the process of a cell does: the run or the notebook, its outcome beside it; returns the exit status."""
    place, began = Path(folder), time.perf_counter()
    spec = json.loads((place / "cell.json").read_text(encoding="utf-8"))
    told: dict[str, Any] = dict(status="done", values={}, error=None)
    try:
        told["values"] = _run(spec, place) if spec["kind"] == "run" else _notebook(spec, place)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        traceback.print_exc()  # into the log
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        told |= dict(status="failed", error=f"{kind}{error}" or type(error).__name__)
    write_json(place / "outcome.json", {**told, "seconds": round(time.perf_counter() - began, 1)})
    return 0


def _run(spec: dict[str, Any], place: Path) -> dict[str, Any]:
    """`run_experiment` with a cell's settings: its scores and what it cost."""
    from kt_core.evaluation import Score
    from kt_core.runs.experiment import describe, run_experiment
    from kt_core.runs.recipes import Recipe

    told = run_experiment(
        spec["corpus"],
        spec["variant"],
        Recipe(**spec["recipe"]),
        spec["pretrain"],
        spec["seed"],
        place,
        device=spec["device"],
        resume=True,
    ).told
    values = {split: told[split] for split in ("dev", "test") if told[split]}
    if len(values) == 2:
        both = Score(
            *(sum(score[part] for score in values.values()) for part in ("correct", "total"))
        )
        values["held_out"] = describe(both)  # all questions that were not trained on
    phases = [told[phase] for phase in ("pretraining", "finetuning") if told.get(phase)]
    values |= {"london": told["london"]} if told["london"] else {}
    return values | dict(
        kind=told["kind"],
        loss=phases[0]["loss"],
        parameters=told["parameters"],
        characters=sum(phase["characters"] for phase in phases),
        minutes=round(sum(phase["seconds"] for phase in phases) / 60, 3),
    )


def _notebook(spec: dict[str, Any], place: Path) -> dict[str, Any]:
    """A notebook with a cell's parameters: the scores and numbers that it kept by lesson.result(...)."""
    from kt_core.runs.experiment import describe
    from kt_course.tools.sweep_results import numbers
    from kt_course.tools.workbook import execute, find_notebooks, scores

    path = Path(spec["notebook"])
    path = (
        path if path.is_file() else find_notebooks([path.stem])[0]
    )  # a worker elsewhere has its own
    (place / "runs").mkdir(exist_ok=True)
    ran = execute(path, place / path.name, spec["parameters"], place, "lines")
    if ran.error is not None:
        raise ran.error
    kept = place / "runs" / f"{path.stem}.json"
    facts = json.loads(kept.read_text(encoding="utf-8")).get("facts") if kept.is_file() else {}
    return {name: describe(score) for name, score in scores(facts)} | dict(numbers(facts))


if __name__ == "__main__":
    sys.exit(work(sys.argv[1]))
