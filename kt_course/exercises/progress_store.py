"""What a learner has done so far: one small JSON file, outside the repository."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from kt_core.corpora.files import write_json
from kt_course.exercises.core import library


def progress_file() -> Path | None:
    """Where answers are noted, or None for nowhere: $KT_PROGRESS_FILE ("off": nowhere), else the user's data folder."""
    chosen = os.environ.get("KT_PROGRESS_FILE")
    if chosen:
        return None if chosen == "off" else Path(chosen).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "kt-core" / "progress.json"


def remembered() -> dict[str, str]:
    """Statuses by id, as noted; {} where there is no file or none that can be read."""
    try:
        path = progress_file()
        kept = json.loads(path.read_text(encoding="utf-8")) if path else {}
        return {str(key): str(value) for key, value in kept.items()}
    except (OSError, ValueError, AttributeError, RuntimeError):
        return {}


def remember(id: str, status: str) -> None:
    """Note the latest answer. A blank one is no answer: runs of untouched notebooks (CI, papermill) write nothing.

    A file that cannot be written is passed over: a lesson goes on without its record.
    """
    if status == "not attempted":
        return
    try:
        path = progress_file()
        kept = remembered()
        if path and kept.get(id) != status:
            write_json(path, {**kept, id: status})
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return


def progress() -> None:
    """Print a table: exercises and questions of each notebook, done, wrong at the last try, open, and what is next.

    Only answers that were given are kept: in $KT_PROGRESS_FILE, else in progress.json in a folder kt-core of the
    user's data folder (~/.local/share on Linux). KT_PROGRESS_FILE=off keeps nothing: set it where tests run.
    """
    from kt_course.exercises.quizzes import quizzes

    kept = remembered()
    rows: dict[str, list[str]] = {}
    for thing in (*library().values(), *quizzes().values()):
        rows.setdefault(thing.notebook, []).append(thing.id)
    print(f"{'notebook':24s}{'done':>6s}{'wrong':>7s}{'open':>6s}   next")
    for notebook, ids in sorted(rows.items()):
        done, wrong = (
            [id for id in ids if kept.get(id) == status] for status in ("right", "wrong")
        )
        left = [id for id in ids if id not in done]
        told = f"{len(done):6d}{len(wrong):7d}{len(ids) - len(done) - len(wrong):6d}"
        print(f"{notebook:24s}{told}   {left[0] if left else 'all done'}")
