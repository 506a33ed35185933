"""Where answers are recorded: one small JSON file, outside the repository."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from kt_core.corpora.files import write_json


def progress_file() -> Path | None:
    """Return the file of recorded answers; None if $KT_PROGRESS_FILE is "off"."""
    path = os.environ.get("KT_PROGRESS_FILE")
    if path:
        return None if path == "off" else Path(path).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "kt-core" / "progress.json"


def read_statuses() -> dict[str, str]:
    """Return the recorded status of each id; empty if there is no readable file.

    A damaged file is renamed, so that the next answer does not overwrite it.
    """
    try:
        path = progress_file()
        text = path.read_text(encoding="utf-8-sig") if path and path.exists() else "{}"
        return {str(id): str(status) for id, status in json.loads(text).items()}
    except (ValueError, AttributeError):
        with suppress(OSError):
            path.replace(path.with_suffix(".damaged.json"))
        return {}
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return {}


def remember(id: str, status: str) -> None:
    """Record the latest answer; nothing if it is blank, so untouched notebooks write nothing.

    A file that cannot be written is ignored: a lesson goes on without its record.
    """
    if status == "not attempted":
        return
    try:
        path, statuses = progress_file(), read_statuses()
        if path and statuses.get(id) != status:
            write_json(path, {**statuses, id: status})
    except (OSError, RuntimeError):
        return
