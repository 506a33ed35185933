"""Run a notebook, untrusted code, from its first cell to its last: `python -P running.py FD SECONDS [PROFILE]`.

The notebook comes by standard input. What happens goes to the file descriptor FD, a JSON object a line: {"cell": n}
as a cell begins, at last {"end": ...}. Outputs are counted and thrown away. This file is run by its path and imports
nothing of kt_core, which would take seconds and memory.
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
    """On Linux: other processes of this user may not look into this one, and orphans below it stay below it."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no ptrace, no /proc/PID/mem, no /proc/PID/fd
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def end(fd: int, **fact: Any) -> NoReturn:
    """Tell the last fact, close `fd`, and wait for the end, which comes from outside.

    Without that, whatever still runs below this process would lose it and run on.
    """
    tell(fd, **fact)
    os.close(fd)
    while True:
        signal.pause()


def tell(fd: int, **fact: Any) -> None:
    os.write(fd, (json.dumps(fact) + "\n").encode())


def main(fd: int, seconds: int, profile: str | None = None) -> None:
    seal()
    os.set_inheritable(fd, False)
    try:
        asyncio.run(run(fd, sys.stdin.buffer.read().decode(), seconds, profile))
    except BaseException as error:
        end(fd, end="failed", error=f"{type(error).__name__}: {error}"[:500])


async def run(fd: int, text: str, seconds: int, profile: str | None) -> None:
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

        given = 0

        def process_message(self, msg: dict, cell: Any, cell_index: int) -> None:
            if msg["msg_type"] == "status":
                if msg["content"]["execution_state"] == "idle":
                    raise CellExecutionComplete()
                return
            self.given += len(json.dumps(msg["content"]))
            if self.given > OUTPUT:
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
            tell(fd, cell=number)
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
