"""Bubblewrap's command line: what a confined process sees, and which system calls it may make."""

import errno
import functools
import platform
import shutil
import site
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kt_core
from kt_core.corpora.paths import checkout_dir, corpora_dir

SYSTEM = (
    "/usr /bin /sbin /lib /lib32 /lib64 /libx32 /nix/store /etc/alternatives /etc/ld.so.cache "
    "/etc/ld.so.conf /etc/ld.so.conf.d /etc/fonts /etc/localtime"
).split()
# Ways to hold memory that no process maps, so that nobody counts it: the audit number of the
# architecture, then its numbers of memfd_create, memfd_secret, shmget, msgget, mount and fsopen
# (with these two a process makes a tmpfs of its own).
SYSCALLS = {
    "x86_64": (0xC000003E, 319, 447, 29, 68, 165, 430),
    "aarch64": (0xC00000B7, 279, 447, 194, 186, 40, 430),
}


@functools.cache
def bubblewrap_problem() -> str:
    """Why bubblewrap cannot be used here; an empty string if it can."""
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed"
    with file_with(syscall_filter()) as fd:
        command = [*bubblewrap_command(1.0, fd), "true"]
        trial = subprocess.run(command, capture_output=True, text=True, pass_fds=(fd,))
    message = f"bubblewrap does not work here ({trial.stderr.strip()[:200]})"
    return message if trial.returncode else ""


def syscall_filter() -> bytes:
    """Return a seccomp filter for bubblewrap: a program of the kernel's classic BPF.

    It loads a word of the call's description, compares, returns. An instruction is a code, two
    jumps (if true, if false) and a number. A call that is refused fails with ENOSYS, as in a kernel
    that does not have it. So do all calls of another architecture's numbering (32 bits, and x32
    from 2**30 on), which would get around it. On a machine not in SYSCALLS all calls are allowed.

    Source: linux/seccomp.h, linux/filter.h, linux/audit.h.
    """
    load, if_equal, if_at_least, give = 0x20, 0x15, 0x35, 0x06
    refuse, program = (give, 0, 0, 0x50000 | errno.ENOSYS), []
    if platform.machine() in SYSCALLS:
        architecture, *numbers = SYSCALLS[platform.machine()]
        program += [(load, 0, 0, 4), (if_equal, 1, 0, architecture), refuse]
        program += [(load, 0, 0, 0), (if_at_least, 0, 1, 2**30), refuse]
        for number in numbers:
            program += [(if_equal, 0, 1, number), refuse]
    program.append((give, 0, 0, 0x7FFF0000))  # allow
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


@contextmanager
def file_with(data: bytes) -> Iterator[int]:
    """Give a descriptor from which a process reads `data`."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


def bubblewrap_command(disk: float, filter_fd: int) -> list[str]:
    """Return the command in front of the command, with `disk` GB in each folder in memory.

    It reads the `syscall_filter` from `filter_fd`. Mounts happen in the order in which they stand.
    """
    size = ["--size", str(int(disk * 2**30)), "--tmpfs"]
    here, root = Path(kt_core.__file__).resolve().parents[1], checkout_dir()
    data = [root / "data", corpora_dir()] if root else [corpora_dir()]
    # the interpreter may be a link to a link, and lie in a home folder
    python = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]]
    user = [Path(site.getusersitepackages())] if site.ENABLE_USER_SITE else []
    ours = dict.fromkeys([*python, *user, here / "kt_core", here / "kt_course", *data])
    visible = [*SYSTEM, *map(str, ours)]
    return [
        *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"),
        *(*size, "/dev/shm", *size, "/tmp", "--dir", "/tmp/home", "--dir", "/tmp/work"),
        *(word for path in visible if path != "/" for word in ("--ro-bind-try", path, path)),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp/work"),
        *("--seccomp", str(filter_fd)),
    ]
