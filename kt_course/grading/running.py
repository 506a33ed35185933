"""Run a notebook, which is untrusted code, to its end.

A JSON object per line goes to a file descriptor: {"cell": n} when a cell begins, and {"end": …} at
last. Outputs are counted and thrown away. The kernel is a fork of this process, which has imported
PyTorch and the course already; a new Python would import them again, which takes seconds.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
from contextlib import suppress
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


def run_notebook(fd: int, text: str, seconds: int, profile: str | None = None) -> NoReturn:
    """Run a notebook, `seconds` per cell, and report to `fd`."""
    try:
        kernel = ForkedKernel(fd)  # before this process has an event loop and sockets
        asyncio.run(run(fd, text, seconds, profile, kernel))
    except BaseException as error:
        end(fd, end="failed", error=f"{type(error).__name__}: {error}"[:500])
    end(fd, end="finished")


class ForkedKernel:
    """A fork that becomes a Jupyter kernel; as much of Popen as jupyter_client asks for."""

    stdin = stdout = stderr = None

    def __init__(self, fd: int):
        reading, self.writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(fd, reading)
        os.close(reading)

    def _live(self, fd: int, reading: int) -> NoReturn:
        """The child's whole life; without `fd`, and with /proc/self as an ordinary process has."""
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            for descriptor in (fd, self.writing):
                os.close(descriptor)
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # undo what `seal` did to the parent
            os.environ.pop("MPLBACKEND", None)
            path = os.fdopen(reading).read()
            from ipykernel.kernelapp import IPKernelApp

            IPKernelApp.launch_instance(["-f", path])
        finally:
            os._exit(0)

    def launch(self, command: list[str], **_: Any) -> "ForkedKernel":
        """Start it on the connection file that a kernel's command line names."""
        with os.fdopen(self.writing, "w") as file:
            file.write(command[command.index("-f") + 1])
        return self

    def poll(self) -> int | None:
        """Return None while it runs."""
        with suppress(ChildProcessError):
            return None if os.waitpid(self.pid, os.WNOHANG) == (0, 0) else 1
        return 1

    def kill(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    terminate = kill

    def wait(self) -> int | None:
        """Return at once: jupyter_client has polled before."""
        return self.poll()


async def run(fd: int, text: str, seconds: int, profile: str | None, kernel: ForkedKernel) -> None:
    """Run all cells; `profile` replaces the notebook's parameter of that name."""
    from jupyter_client.provisioning import local_provisioner
    from nbclient import exceptions
    from nbclient.client import NotebookClient

    class Client(NotebookClient):
        """Keeps no output."""

        n_characters = 0

        def process_message(self, msg: dict, cell: Any, cell_index: int) -> None:
            if msg["msg_type"] == "status":
                if msg["content"]["execution_state"] == "idle":
                    raise exceptions.CellExecutionComplete()
                return
            self.n_characters += len(json.dumps(msg["content"]))
            if self.n_characters > OUTPUT:
                end(fd, end="failed", error=f"more than {OUTPUT // 2**20} MB of output")

    notebook = read_notebook(text, profile)
    local_provisioner.launch_kernel = kernel.launch
    client = Client(notebook, timeout=seconds, kernel_name="python3")
    number = 0
    async with client.async_setup_kernel():
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            number += "injected-parameters" not in tags_of(cell)
            report(fd, cell=number)
            try:
                await client.async_execute_cell(cell, index)
            except exceptions.CellTimeoutError:
                end(fd, end="timed out", error=f"more than {seconds} s")
            except exceptions.DeadKernelError:
                end(fd, end="failed", error="the kernel died")
            except exceptions.CellExecutionError as error:
                end(fd, end="failed", error=f"{error.ename}: {error.evalue}"[:500])
        end(fd, end="finished")


def read_notebook(text: str, profile: str | None) -> Any:
    """Return a notebook, with a cell that sets `profile` below its parameters."""
    import nbformat

    notebook = nbformat.reads(text, as_version=4)
    if profile:
        tagged = [n for n, c in enumerate(notebook.cells, 1) if "parameters" in tags_of(c)]
        injected = nbformat.v4.new_code_cell(f"profile = {profile!r}")
        injected.metadata["tags"] = ["injected-parameters"]
        notebook.cells.insert(tagged[0] if tagged else 0, injected)
    return notebook


def tags_of(cell: Any) -> list:
    """The tags of a cell, whatever its metadata holds."""
    tags = cell.get("metadata", {}).get("tags")
    return tags if isinstance(tags, list) else []
