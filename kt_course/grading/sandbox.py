"""A process for untrusted code, with limits, and with bubblewrap around it where that works.

With bubblewrap the process sees the system's programs, Python and our packages, all read-only, an
empty /tmp and home of its own, and no network, no other process, no other file. Without bubblewrap
it can read and change what the user can, and use the network; the limits on time, memory, files and
processes still protect against accidents.
"""

import json
import os
import select
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kt_core.corpora.paths import checkout_dir, corpora_dir
from kt_course.grading.isolation import bubblewrap_command, file_with, syscall_filter

try:
    import resource
except ImportError:  # Windows
    resource = None

MAX_REPORT = 2**20  # bytes


@dataclass(frozen=True)
class Limits:
    """What a submission may use.

    Attributes:
        cell, notebook: Seconds of wall-clock time.
        memory, disk: Gigabytes, of all processes together and of one file.
        processes: How many at a time.
    """

    cell: int = 300
    notebook: int = 1200
    memory: float = 4.0
    disk: float = 1.0
    processes: int = 64

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 < value < 1e9:
                raise ValueError(f"the limit {name} must be above 0, below 1e9, not {value}")


@dataclass(frozen=True)
class Outcome:
    """What a confined process reported, one dict per line, and why it was stopped, if it was."""

    facts: list[dict[str, Any]]
    stopped: str = ""


def run_confined(
    arguments: Sequence[str],
    data: bytes,
    limits: Limits,
    seconds: float,
    bubblewrap: bool,
    stop: threading.Event | None = None,
) -> Outcome:
    """Run Python in a process of its own; stop it, and all that it started, beyond the limits.

    Args:
        arguments: Of Python; "FD" is replaced by the descriptor to which it reports.
        data: Its standard input.
        limits: Memory, files and processes.
        seconds: Wall-clock time.
        bubblewrap: Isolate it from files, processes and the network.
        stop: Ends the process early when another thread sets it.
    """
    reading, writing = os.pipe()
    folders = tempfile.TemporaryDirectory(prefix="kt-", ignore_cleanup_errors=True)
    with open(reading, "rb", buffering=0) as report, folders as folder, file_with(data) as stdin:
        command = [sys.executable, *(str(writing) if word == "FD" else word for word in arguments)]
        try:
            options = dict(stdin=stdin, preexec_fn=_limiter(limits, seconds))
            if bubblewrap:
                process = _start_isolated(command, writing, limits.disk, **options)
            else:
                process = _start_in(Path(folder), command, writing, **options)
        finally:
            os.close(writing)
        try:
            lines, stopped = _watch(process, report.fileno(), limits, seconds, stop)
        finally:
            _end(process)
    complete_lines = lines.split(b"\n")[:-1]
    return Outcome([json.loads(line) for line in complete_lines], stopped)


QUIET = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _start_isolated(
    command: Sequence[str], writing: int, disk: float, **options: Any
) -> subprocess.Popen:
    with file_with(syscall_filter()) as filter_fd:
        command = [*bubblewrap_command(disk, filter_fd), *command]
        descriptors, environment = (writing, filter_fd), _environment(Path("/tmp"))
        return subprocess.Popen(command, pass_fds=descriptors, env=environment, **QUIET, **options)


def _start_in(home: Path, command: Sequence[str], writing: int, **options: Any) -> subprocess.Popen:
    for name in ("home", "work"):
        (home / name).mkdir()
    place = dict(cwd=home / "work", env=_environment(home))
    return subprocess.Popen(command, pass_fds=(writing,), **place, **QUIET, **options)


def _watch(
    process: subprocess.Popen, reading: int, limits: Limits, seconds: float, stop: threading.Event
) -> tuple[bytes, str]:
    """Collect the report until the process ends or has to be stopped; say why it has to."""
    data, deadline = b"", time.monotonic() + seconds
    while True:
        if select.select([reading], [], [], 0.1)[0]:
            data += (chunk := os.read(reading, 65536))
            if not chunk:
                return data, ""
            if len(data) > MAX_REPORT:
                return b"", "failed: it reports too much"
        if stop and stop.is_set():
            return data, "stopped"
        processes = _tree(process.pid)
        if time.monotonic() > deadline:
            return data, f"timed out: more than {seconds:g} s in all"
        if len(processes) > limits.processes:
            return data, f"failed: more than {limits.processes} processes"
        if all(_memory(processes, exact) > limits.memory * 2**30 for exact in (False, True)):
            return data, f"out of memory: more than {limits.memory:g} GB"


def _tree(pid: int) -> list[psutil.Process]:
    """The process and those that it started, as far as they are alive."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [one for one in (process, *process.children(recursive=True)) if _is_alive(one)]
    return []


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _memory(processes: Sequence[psutil.Process], exact: bool) -> int:
    """Bytes of memory: a fast upper bound, or with pages of forks counted once where possible."""
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            memory = process.memory_full_info() if exact else process.memory_info()
            total += getattr(memory, "pss", memory.rss)
    return total


def _end(process: subprocess.Popen) -> None:
    """End the process and its descendants: these first, because it inherits their orphans.

    With bubblewrap all of them end at once.
    """
    below = _tree(process.pid)[1:]
    for _ in range(0 if process.args[0] == "bwrap" else 100):
        for one in below:
            with suppress(psutil.Error):
                one.kill()
        if not (below := _tree(process.pid)[1:]):
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(below, timeout=5)


def _limiter(limits: Limits, seconds: float) -> Callable[[], None]:
    """A function that sets hard limits in the new process, for it and all that it starts."""
    kinds = {
        "RLIMIT_AS": psutil.Process().memory_info().vms + int(limits.memory * 2**30),
        "RLIMIT_FSIZE": int(limits.disk * 2**30),
        "RLIMIT_CPU": int(seconds) + 60,
        "RLIMIT_NPROC": _n_threads() + 512,  # counts all of the user's; not enforced for root
        "RLIMIT_CORE": 0,
    }

    def limit() -> None:
        for kind, most in kinds.items():
            with suppress(ValueError, OSError, AttributeError):  # macOS does not know all of them
                resource.setrlimit(getattr(resource, kind), (most, most))

    return limit


def _n_threads() -> int:
    """Threads of this user that can be seen."""
    total = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            total += process.num_threads() if process.uids().real == os.getuid() else 0
    return total


def _environment(home: Path) -> dict[str, str]:
    """What a kernel needs, and nothing else of this process's environment."""
    inherited = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in inherited if name in os.environ}
    environment |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "HOME": str(home / "home"),
        "TMPDIR": str(home),
        "USER": "learner",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "KT_DATA": str(corpora_dir()),
        "KT_PROGRESS": "off",
        "KT_PROGRESS_FILE": "off",
    }
    if root := checkout_dir():
        environment["PYTHONPATH"] = str(root)
    if site.ENABLE_USER_SITE:  # packages of the real home folder
        environment["PYTHONUSERBASE"] = site.getuserbase()
    return environment
