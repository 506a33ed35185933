"""A process for untrusted code: limits on time, memory, files and processes; bubblewrap around it where it works.

With bubblewrap it sees the system's programs, Python and kt_core, all read-only, an empty /tmp and home of its own,
and no network, no other process, no other file. Without, it can read and change what the user can, and use the
network: the limits still hold, against accidents.
"""

from __future__ import annotations

import functools
import json
import os
import select
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # comes with ipykernel

import kt_core
from kt_core.corpora.paths import checkout_dir, corpora_dir

try:
    import resource
except ImportError:  # Windows
    resource = None

SYSTEM = (
    *(
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/nix/store",
        "/etc/alternatives",
    ),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/fonts", "/etc/localtime"),
)
REPORT = 2**20  # bytes that a process may tell


@dataclass(frozen=True)
class Limits:
    """What a submission may use: seconds of wall time, gigabytes of memory and files, processes at a time."""

    cell: int = 300
    notebook: int = 1200
    memory: float = 4.0
    disk: float = 1.0
    processes: int = 64

    def __post_init__(self):
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"the limit {name} must be above 0, not {value}")


@dataclass(frozen=True)
class Ended:
    """What a confined process told, one dict a line, and why it was stopped: "" if it ended by itself."""

    told: list[dict[str, Any]]
    stopped: str = ""


@functools.cache
def missing() -> str:
    """Why bubblewrap cannot be used here; "" if it can."""
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed"
    tried = subprocess.run([*_bubblewrap(Limits()), "true"], capture_output=True, text=True)
    return (
        ""
        if tried.returncode == 0
        else f"bubblewrap does not work here ({tried.stderr.strip()[:200]})"
    )


def confined(
    arguments: Sequence[str], given: bytes, limits: Limits, seconds: float, bubblewrap: bool
) -> Ended:
    """Run Python with `arguments` in a process of its own; FD among them stands for where it tells.

    `given` comes by its standard input. When the time is over, or memory or processes are too many, it is ended with
    all that it started.
    """
    reading, writing = os.pipe()
    with (
        open(reading, "rb", buffering=0) as report,
        tempfile.TemporaryDirectory(prefix="kt-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as copy,
    ):
        copy.write(given)
        copy.seek(0)
        home = Path("/tmp" if bubblewrap else folder)
        if not bubblewrap:
            for name in ("home", "work"):
                (home / name).mkdir()
        command = [sys.executable, *(str(writing) if word == "FD" else word for word in arguments)]
        try:
            process = subprocess.Popen(
                [*_bubblewrap(limits), *command] if bubblewrap else command,
                stdin=copy,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(writing,),
                cwd=None if bubblewrap else home / "work",
                env=_environment(home),
                start_new_session=True,
                preexec_fn=_limiter(limits, seconds),
            )
        finally:
            os.close(writing)
        try:
            told, stopped = _watch(process, report.fileno(), limits, seconds)
        finally:
            _end(process)
    return Ended(_read(told), stopped)


def _read(told: bytes) -> list[dict[str, Any]]:
    """The complete lines."""
    return [json.loads(line) for line in told.split(b"\n")[:-1]]


def _watch(
    process: subprocess.Popen, reading: int, limits: Limits, seconds: float
) -> tuple[bytes, str]:
    """What comes from `reading` until the process ends or has to be stopped; and why it has to."""
    told, over = b"", time.monotonic() + seconds
    while True:
        if select.select([reading], [], [], 0.1)[0]:
            told += (chunk := os.read(reading, 65536))
            if not chunk:
                return told, ""
            if len(told) > REPORT:
                return b"", "failed: it tells too much"
        tree = _tree(process.pid)
        if time.monotonic() > over:
            return told, f"timed out: more than {seconds:g} s in all"
        if len(tree) > limits.processes:
            return told, f"failed: more than {limits.processes} processes"
        if sum(map(_resident, tree)) > limits.memory * 2**30:
            return told, f"out of memory: more than {limits.memory:g} GB"


def _tree(pid: int) -> list[psutil.Process]:
    """The process and those below it that still live."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [one for one in (process, *process.children(recursive=True)) if _lives(one)]
    return []


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def _end(process: subprocess.Popen) -> None:
    """End the process and all below it: these first, as their orphans come to it. With bubblewrap all go at once."""
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
    """What sets the system's own limits in the new process, hard ones, for it and all that it starts."""
    kinds = {
        "RLIMIT_AS": _address_space() + int(limits.memory * 2**30),
        "RLIMIT_FSIZE": int(limits.disk * 2**30),
        "RLIMIT_CPU": int(seconds) + 60,
        "RLIMIT_NPROC": _threads() + 512,  # counts all of the user's; not enforced for root
        "RLIMIT_CORE": 0,
    }

    def limit() -> None:
        for kind, most in kinds.items():
            with suppress(ValueError, OSError, AttributeError):  # macOS does not know all of them
                resource.setrlimit(getattr(resource, kind), (most, most))

    return limit


def _address_space() -> int:
    """Bytes of address space of this process, with PyTorch in it: much more than it uses."""
    return psutil.Process().memory_info().vms


def _threads() -> int:
    """Threads of this user that can be seen."""
    found = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found += process.num_threads() if process.uids().real == os.getuid() else 0
    return found


def _environment(home: Path) -> dict[str, str]:
    """All that a kernel needs, and nothing else of this process's environment."""
    kept = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    made = {
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
        made["PYTHONPATH"] = str(root)
    if site.ENABLE_USER_SITE:  # packages of the real home folder
        made["PYTHONUSERBASE"] = site.getuserbase()
    return {name: os.environ[name] for name in kept if name in os.environ} | made


def _bubblewrap(limits: Limits) -> list[str]:
    """The command before the command. Mounts come in the order in which they are named."""
    size = ["--size", str(int(limits.disk * 2**30)), "--tmpfs"]
    here, root = Path(kt_core.__file__).resolve().parents[1], checkout_dir()
    data = [root / "data", corpora_dir()] if root else [corpora_dir()]
    # the interpreter may be a link to a link, and lie in a home folder
    python = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]]
    user = [Path(site.getusersitepackages())] if site.ENABLE_USER_SITE else []
    seen = [
        *SYSTEM,
        *map(str, dict.fromkeys([*python, *user, here / "kt_core", here / "kt_course", *data])),
    ]
    return [
        *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--proc", "/proc", "--dev", "/dev", *size, "/dev/shm", *size, "/tmp"),
        *("--dir", "/tmp/home", "--dir", "/tmp/work"),
        *(word for path in seen if path != "/" for word in ("--ro-bind-try", path, path)),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp/work"),
    ]
