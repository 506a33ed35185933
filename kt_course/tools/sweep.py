"""A grid of settings over `kt run` or a notebook: each cell a process and a folder of its own, one table of all.

    kt sweep run --variant rope --grid people=100,200 --grid seed=0,1,2 --set pretrain_epochs=20 --jobs 2 --out runs/sweep
    kt sweep notebook 06_perceiver_ar --grid variant=perceiver,perceiver_ar --profile smoke --out runs/sweep

OUT/cells/NAME_HASH/   cell.json (its settings), outcome.json (written last), log.txt, and what the run or notebook leaves
OUT/sweep.md .csv .json .png     the table, and the plot of it (`kt_course.tools.sweep_results`)

What is done is not done again: a sweep that was stopped goes on, and a larger grid takes over the cells of a smaller one.
A cell that fails leaves the others alone; its error stands in the table, and it is tried again the next time.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import kt_core
from kt_core.corpora.files import interrupts_held, write_json
from kt_core.runs import distributed
from kt_course.tools.grid import Cell
from kt_course.tools.sweep_cell import GRACE, outcome_of, run_cell


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sweep(
    cells: Sequence[Cell],
    out: str | Path,
    *,
    jobs: int = 1,
    threads: int | None = None,
    dask: str | None = None,
    x: str | None = None,
    y: str | None = None,
    about: str = "",
) -> dict:
    """Do the cells that are not done yet, and write the table and the plot of all; returns what sweep.json holds.

    jobs: cells at a time on this machine, each with `threads` threads (its part of the cores if None). dask: the
    address of a scheduler whose workers do them instead, as many at a time as the workers have threads, with one thread
    each if `threads` is None; kt_core must be importable there, and only on a disk that they share with this machine
    do the folders of runs come back, and a stopped cell goes on amid its training. x, y, about: see `sweep_results`.
    On KeyboardInterrupt the cells that run save their training, and the table is written before it is raised again.
    """
    from kt_course.tools.sweep_results import check_axes, write_results

    if distributed.launched():
        raise ValueError("kt sweep starts its processes itself: start it without torchrun")
    for name, value in (("jobs", jobs), ("threads", 1 if threads is None else threads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    check_axes(cells, x, y)
    out = Path(out).resolve()
    outcomes = {cell.folder: outcome_of(out / "cells" / cell.folder) for cell in cells}
    todo = [cell for cell in cells if (outcomes[cell.folder] or {}).get("status") != "done"]
    threads = threads or (1 if dask else max(1, cores() // jobs))
    where = f"on {dask}" if dask else f"{min(jobs, max(len(todo), 1))} at a time"
    print(
        f"{len(cells)} cells, {len(cells) - len(todo)} of them done before, {where}, into {out}",
        flush=True,
    )
    workers = _on_dask(dask) if dask else _on_this_machine(jobs)
    began, told_of = time.perf_counter(), set()
    with ExitStack() as stack:
        each = stack.enter_context(workers) if todo else lambda *_: ()
        try:
            for cell, outcome in each(out, todo, threads):
                outcomes[cell.folder] = outcome
                told_of.add(cell.folder)
                write_json(out / "cells" / cell.folder / "outcome.json", outcome)
                left = (
                    (time.perf_counter() - began) / len(told_of) * (len(todo) - len(told_of)) / 60
                )
                print(
                    f"[{len(told_of)}/{len(todo)}] {_told(cell, outcome)}; about {left:.0f} min left",
                    flush=True,
                )
        finally:
            with interrupts_held():
                stack.close()  # cells that run are stopped
                for cell in todo:
                    if cell.folder not in told_of:
                        outcomes[cell.folder] = outcome_of(out / "cells" / cell.folder)
                told = write_results(cells, outcomes, out, x=x, y=y, about=about)
    return told


def _told(cell: Cell, outcome: dict) -> str:
    """A line about a cell that has ended."""
    from kt_course.tools.sweep_results import per_cent

    what = ", ".join(f"{key}={value}" for key, value in cell.settings.items())
    if outcome["status"] != "done":
        return f"{what}: {outcome['error']}"
    score = next(((k, v) for k, v in outcome["values"].items() if isinstance(v, dict)), None)
    found = (
        f"{score[0]} {per_cent(score[1]['accuracy'], score[1]['low'], score[1]['high'])} %, "
        if score
        else ""
    )
    return f"{what}: {found}{outcome['seconds']:.0f} s"


# ---------------------------------------------------------------- many cells


@contextmanager
def _on_this_machine(jobs: int) -> Iterator[Callable]:
    """Gives a function (out, cells, threads) -> iterator of (cell, outcome), `jobs` at a time."""
    stopped = threading.Event()
    pool = ThreadPoolExecutor(jobs)

    def each(out: Path, cells: Sequence[Cell], threads: int) -> Iterator[tuple[Cell, dict]]:
        running = {
            pool.submit(
                run_cell, str(out / "cells" / cell.folder), cell.spec, threads, stopped.is_set
            ): cell
            for cell in cells
        }
        while running:
            for future in wait(running, 1.0, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()

    try:
        yield each
    finally:
        with interrupts_held():
            stopped.set()
            pool.shutdown(cancel_futures=True)


def _asked_to_stop(name: str) -> bool:
    from dask.distributed import Event

    return Event(name).is_set()


def _worker_cell(folder: str, spec: dict[str, Any], threads: int, name: str) -> dict:
    """`run_cell` on a worker, which learns from an event on the scheduler that it shall stop."""
    return run_cell(folder, spec, threads, lambda: _asked_to_stop(name), every=1.0)


@contextmanager
def _on_dask(address: str) -> Iterator[Callable]:
    """As `_on_this_machine`, on the workers of a Dask cluster; ValueError where it cannot serve."""
    try:
        from dask.distributed import Client, Event, as_completed
    except ImportError:
        raise ValueError(
            "dask is not installed: pip install 'kt-core[dask]', or leave --dask out"
        ) from None
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler at {address} ({error})") from None
    name = f"kt-sweep-{uuid.uuid4().hex}"
    stop, running = Event(name, client=client), {}

    def each(out: Path, cells: Sequence[Cell], threads: int) -> Iterator[tuple[Cell, dict]]:
        for cell in cells:
            given = (str(out / "cells" / cell.folder), cell.spec, threads, name)
            running[
                client.submit(_worker_cell, *given, key=f"{name}-{cell.folder}", pure=False)
            ] = cell
        for future in as_completed(list(running), loop=client.loop):
            error = future.exception()
            told = future.result() if error is None else None
            failed = dict(
                status="failed", values={}, error=f"{type(error).__name__}: {error}", seconds=0.0
            )
            yield running.pop(future), told or failed

    try:
        _check_workers(client)
        yield each
    finally:
        with interrupts_held():
            if running:
                stop.set()
                begun = {key for keys in client.processing().values() for key in keys}
                client.cancel([future for future in running if future.key not in begun])
                wait_for = [future for future in running if future.key in begun]
                until = time.monotonic() + GRACE + 5
                while time.monotonic() < until and not all(future.done() for future in wait_for):
                    time.sleep(0.2)
            client.close()


def _check_workers(client) -> None:
    """ValueError for a cluster without workers, and for workers that lack this kt_core."""
    # an expression, not a function of ours: that would have to be imported there to be looked at
    found = client.run(eval, "__import__('kt_core').__version__", on_error="return")
    if not found:
        raise ValueError(f"the Dask cluster at {client.scheduler.address} has no workers")
    for worker, version in found.items():
        if version != kt_core.__version__:
            raise ValueError(
                f"Dask worker {worker} has kt_core {version!r}, not {kt_core.__version__}: install it there"
            )
