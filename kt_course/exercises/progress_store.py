"""Where answers are recorded: one small JSON file, outside the repository."""

import os
import sys
from pathlib import Path

from filelock import FileLock

from kt_core.corpora.files import keep_previous, read_json, write_json


def progress_file() -> Path | None:
    """Return the file of recorded answers; None if $KT_PROGRESS_FILE is "off"."""
    path = os.environ.get("KT_PROGRESS_FILE")
    if path:
        return None if path == "off" else Path(path).expanduser()
    home, environment = Path.home(), os.environ
    base = {
        "win32": environment.get("LOCALAPPDATA") or home / "AppData" / "Local",
        "darwin": home / "Library" / "Application Support",
    }.get(sys.platform, environment.get("XDG_DATA_HOME") or home / ".local" / "share")
    return Path(base, "kt-core", "progress.json")


def read_statuses() -> dict[str, str]:
    """Return the recorded status of each id; empty if there is no readable file.

    A damaged file is renamed, and the backup of the record before its last change is used.
    """
    try:
        path = progress_file()
        if path is None or not path.exists():
            return {}
        if (statuses := _parse(path)) is not None:
            return statuses
        keep_previous(path)
        if backup := _parse(Path(f"{path}.backup")):
            write_json(path, backup)
        return backup or {}
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return {}


def _parse(path: Path) -> dict[str, str] | None:
    """The statuses in a file; None if it holds no JSON object."""
    try:
        return {str(id): str(status) for id, status in read_json(path).items()}
    except (OSError, ValueError):
        return None


def remember(id: str, status: str) -> None:
    """Record the latest answer; nothing if it is blank, so untouched notebooks write nothing.

    Several notebooks may do so at a time. A file that cannot be written is ignored: a lesson goes
    on without its record.
    """
    if status == "not attempted":
        return
    try:
        if (path := progress_file()) is None or read_statuses().get(id) == status:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=20):
            statuses = read_statuses()
            if statuses:
                write_json(Path(f"{path}.backup"), statuses)
            write_json(path, {**statuses, id: status})
    except (OSError, RuntimeError):  # a lock that is never free is an OSError too
        return
