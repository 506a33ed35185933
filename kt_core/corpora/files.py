"""Files: read only if they are plain files; written in one step, so the old or the new is there."""

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_BYTES = 2 * 2**30  # of a text file, card or table that is read as a whole


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_plain_file(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file; OSError, with the path, for a pipe, a device or a huge file."""
    now = getattr(os, "O_NONBLOCK", 0)  # without waiting for a writer, where it is a pipe
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | now)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"larger than {max_bytes / 2**30:g} GiB", str(path))
        return file.read()


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in a file; ValueError, with the path, if it holds anything else."""
    try:
        value = json.loads(read_plain_file(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is not JSON ({reason})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}; an object is needed")
    return value


@contextmanager
def one_writer(lock: str | Path, what: str) -> Iterator[None]:
    """Hold a lock file; ValueError at once if another process holds it. A crash releases it."""
    from filelock import FileLock, Timeout

    Path(lock).parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(lock).acquire(timeout=0)
    except Timeout:
        hint = "wait until it ends, or name another place"
        raise ValueError(f"{what} is in use by another process: {hint}") from None
    with held:
        yield


def keep_previous(path: str | Path) -> Path | None:
    """Rename a file that is about to be replaced to NAME~1, NAME~2 ...; None if there is none."""
    path = Path(path)
    if not path.is_file():
        return None
    names = (path.with_name(f"{path.name}~{n}") for n in range(1, 10_000))
    return path.rename(next(name for name in names if not name.exists()))


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` to a file beside `path`, then rename it to `path`; makes missing folders.

    A link keeps pointing to its file, a new file gets the permissions that the umask leaves, and an
    old one keeps its own. OSError, with the path, for anything but a plain file.
    """
    path = Path(os.path.realpath(path))
    if os.path.lexists(path) and not path.is_file():  # a link in a loop exists, and is no file
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # not the temporary one
        raise


def write_json(path: str | Path, value) -> None:
    """Write `value` as indented JSON with a last newline, as `write_atomically` does."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
