"""`kt sweep`: a grid of settings over `kt run` or a notebook, in parallel, into one table and plot.

    kt sweep run --variant rope --grid people=100,200 --grid seed=0,1,2 --jobs 2 --out runs/sweep
    kt sweep notebook 06_perceiver_ar --grid model.bottleneck=8,16 --profile smoke

Each cell of the grid is a `kt` command in a process and a folder of its own, OUT/cells/NAME_HASH.
Dask hands the cells out, to threads of this process or to the workers of a scheduler. The same
command continues a sweep that was stopped: cells that are done stay, the others are tried again.
Ctrl-C reaches the cells of this machine, which save their training; those that already run on other
machines finish there.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kt_core._validation import one_of
from kt_core.corpora.files import one_writer, read_json, sha256, write_json
from kt_core.corpora.loading import load_corpus
from kt_core.runs.progress import progress_bar
from kt_core.runs.recipes import recipe, recipe_options
from kt_course.tools.cli import make_app
from kt_course.tools.options import Count, parse_settings
from kt_course.tools.parent import as_child
from kt_course.tools.sweep_results import read_values, write_results

COMMANDS = {"run": "run", "notebook": "workbook"}
KNOBS = ("people", "lines", "attributes")  # of the bios corpus


def sweep(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    grid: Annotated[list[str], Parameter("--grid")],
    out: Path = Path("runs/sweep"),
    jobs: Count = 1,
    dask: str | None = None,
    x: str | None = None,
    y: str | None = None,
) -> int:
    """Run a grid of settings in parallel; gather one table and one plot.

    Args:
        command: `run` with options of kt run, or `notebook NAME` with options of kt workbook.
        grid: KEY=VALUE,VALUE: an option of that command, a setting of the recipe, or people, lines,
            attributes of bios. May be repeated: every combination is done.
        out: Folder of the sweep.
        jobs: Cells at a time on this machine, each with its part of the cores.
        dask: Address of a Dask scheduler, tcp://HOST:PORT, whose workers run the cells instead.
        x: Key along the plot's axis.
        y: What is plotted; by default dev, or the first score.

    Returns:
        1 if a cell failed, else 0.
    """
    cells = make_cells(command, grid)
    rows = [_read_row(settings, out / "cells" / name) for name, (settings, _) in cells.items()]
    x = x and one_of("key of the grid", x, rows[0]["settings"])
    todo = [row for row in rows if row["error"] is not None]
    print(f"{len(rows)} cells, {len(rows) - len(todo)} of them done before, into {out}", flush=True)
    with one_writer(out / ".lock", str(out)):
        try:
            for row in _run_all(todo, cells, jobs, dask) if todo else ():
                write_json(Path(row["folder"]) / "cell.json", row)
        finally:
            print(write_results(rows, out, " ".join(command), x, y))
    if n_failed := sum(row["error"] is not None for row in rows):
        message = f"{n_failed} of {len(rows)} cells failed; see {out}/sweep.md and their log.txt"
        print(f"kt sweep: {message}", file=sys.stderr)
    return int(n_failed > 0)


def make_cells(command: Sequence[str], grid: Sequence[str]) -> dict[str, tuple[dict, list]]:
    """Every combination of the grid: its settings and its `kt` command, by the folder's name.

    Raises:
        ValueError: A key is unknown, or a value cannot be read or is out of range.
    """
    from sklearn.model_selection import ParameterGrid

    kind, *options = command or [""]
    tokens = [COMMANDS[one_of("command to sweep", kind, COMMANDS)], *options]
    values = {key: texts.split(",") for key, texts in parse_settings(grid, "--grid").items()}
    cells = {}
    for point in ParameterGrid(values):
        settings = {key: point[key].strip() for key in values}
        line = [*tokens, *_as_options(settings)]
        check_command(line)
        readable = "_".join(f"{key}-{value}" for key, value in settings.items())
        readable = re.sub(r"[^\w.+-]+", "-", readable)[:80]
        cells[f"{readable}_{sha256(json.dumps(line).encode())[:8]}"] = (settings, line)
    return cells


def _as_options(settings: dict[str, str]) -> list[str]:
    """The values of one cell as options of its command."""
    knobs = ",".join(f"{key}={value}" for key, value in settings.items() if key in KNOBS)
    options = [f"--corpus=bios:{knobs}"] if knobs else []
    for key, value in settings.items():
        if key not in KNOBS:
            options.append(f"--{'set=' if key in recipe_options() else ''}{key}={value}")
    return options


def check_command(line: Sequence[str]) -> None:
    """Check a `kt run` or `kt workbook` command as far as possible without running it."""
    _, bound, _ = make_app().parse_args(line)
    options = bound.arguments
    chosen = recipe(options.get("recipe", "quick"), **parse_settings(options.get("settings", ())))
    corpus = load_corpus(options.get("corpus", "bios"), block_size=chosen.model.block_size)
    chosen.model_config(len(corpus.vocab), options.get("variant") or "vanilla")


def _read_row(settings: dict[str, str], folder: Path) -> dict:
    """What the table says of a cell: as its process left it, or "not run"."""
    row = dict(settings=settings, values={}, error="not run", seconds=None)
    with suppress(OSError, ValueError):  # nothing, or what a crash left
        saved = read_json(folder / "cell.json")
        if saved.keys() >= row.keys() and isinstance(saved["values"], dict):
            row = saved
    return row | dict(settings=settings, folder=str(folder))


def run_cell(line: Sequence[str], folder: str, n_threads: int) -> dict:
    """Run one cell in a process of its own; return its values, or its error."""
    place, began = Path(folder).resolve(), time.perf_counter()
    place.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(n_threads)} | as_child()
    command = [sys.executable, "-m", "kt_course.tools.cli", *line, f"--out={place}"]
    command += ["--resume"] if line[0] == "run" else []
    with (place / "log.txt").open("a+", encoding="utf-8") as log:
        ended = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        log.seek(0)
        last_line = (log.read().splitlines() or ["its process ended"])[-1]
    error, values = f"{last_line} (status {ended.returncode})", {}
    if ended.returncode == 0:
        try:
            values, error = read_values(place), None
        except ValueError as problem:
            error = str(problem)
    return dict(values=values, error=error, seconds=round(time.perf_counter() - began, 1))


def _run_all(rows: Sequence[dict], cells: dict, jobs: int, dask: str | None) -> Iterator[dict]:
    """Hand the cells to Dask; give their rows as they end."""
    from dask.distributed import Client, as_completed

    here = dict(n_workers=1, threads_per_worker=jobs, processes=False, dashboard_address=None)
    client = Client(**(dict(address=dask, timeout=10) if dask else here))
    n_threads = 1 if dask else max(1, (os.cpu_count() or 1) // jobs)
    with client, progress_bar(len(rows), "sweep") as bar:
        if not client.scheduler_info()["workers"]:
            raise ValueError(f"the Dask cluster at {dask} has no workers")
        futures = {}
        for row in rows:
            _, line = cells[Path(row["folder"]).name]
            futures[client.submit(run_cell, line, row["folder"], n_threads, pure=False)] = row
        for future in as_completed(futures):
            futures[future] |= future.result()  # the same dict is a row of the table
            yield futures[future]
            bar.update()
