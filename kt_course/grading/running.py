"""Run a notebook, which is untrusted code, to its end: `python -P running.py FD SECONDS [PROFILE]`.

The notebook is the standard input. A JSON object per line goes to the file descriptor FD: {"cell":
n} when a cell begins, and {"end": …} at last. Outputs are counted and thrown away. This file is run
by its path and imports nothing of ours, which would take seconds and memory.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from typing import Any, NoReturn

OUTPUT = 50 * 2**20  # characters of output that a notebook may give


def seal() -> None:
    """On Linux: hide this process from the user's others, and keep orphans below it."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no ptrace, no /proc/PID/mem or fd
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def end(fd: int, **fact: Any) -> NoReturn:
    """Report the last fact, close `fd`, and wait to be ended from outside.

    Processes that it started could outlive it otherwise.
    """
    report(fd, **fact)
    os.close(fd)
    while True:
        signal.pause()


def report(fd: int, **fact: Any) -> None:
    """Write one fact."""
    os.write(fd, (json.dumps(fact) + "\n").encode())


def main(fd: int, seconds: int, profile: str | None = None) -> None:
    """Run the notebook on standard input, `seconds` per cell."""
    seal()
    os.set_inheritable(fd, False)
    try:
        asyncio.run(run(fd, sys.stdin.buffer.read().decode(), seconds, profile))
    except BaseException as error:
        end(fd, end="failed", error=f"{type(error).__name__}: {error}"[:500])


async def run(fd: int, text: str, seconds: int, profile: str | None) -> None:
    """Run all cells; `profile` replaces the notebook's parameter of that name."""
    import nbformat
    from nbclient.client import NotebookClient
    from nbclient.exceptions import (
        CellExecutionComplete,
        CellExecutionError,
        CellTimeoutError,
        DeadKernelError,
    )

    class Client(NotebookClient):
        """Keeps no output."""

        n_characters = 0

        def process_message(self, msg: dict, cell: Any, cell_index: int) -> None:
            if msg["msg_type"] == "status":
                if msg["content"]["execution_state"] == "idle":
                    raise CellExecutionComplete()
                return
            self.n_characters += len(json.dumps(msg["content"]))
            if self.n_characters > OUTPUT:
                end(fd, end="failed", error=f"more than {OUTPUT // 2**20} MB of output")

    notebook = nbformat.reads(text, as_version=4)
    if profile:
        from papermill.parameterize import parameterize_notebook

        notebook.metadata["papermill"] = {}
        for cell in notebook.cells:
            cell.metadata.setdefault("tags", [])
        given = {"profile": profile}
        notebook = parameterize_notebook(notebook, given, kernel_name="python3", language="python")
    client = Client(notebook, timeout=seconds, kernel_name="python3")
    number = 0
    async with client.async_setup_kernel():
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            number += "injected-parameters" not in cell.metadata.get("tags", [])
            report(fd, cell=number)
            try:
                await client.async_execute_cell(cell, index)
            except CellTimeoutError:
                end(fd, end="timed out", error=f"more than {seconds} s")
            except DeadKernelError:
                end(fd, end="failed", error="the kernel died")
            except CellExecutionError as error:
                end(fd, end="failed", error=f"{error.ename}: {error.evalue}"[:500])
        end(fd, end="finished")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
