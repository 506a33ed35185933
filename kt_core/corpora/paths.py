"""Where the project's files lie: from a checkout, from an installed wheel, and for what is fetched."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def checkout_dir() -> Path | None:
    """The repository's root when the package runs from a checkout, else None."""
    root = _PACKAGE.parent
    return root if (root / "data" / "bios").is_dir() else None


def data_dir() -> Path:
    """Folder with what ships: `bios` (word lists) and `checkpoints`."""
    root = checkout_dir()
    return root / "data" if root else _PACKAGE / "_data"


def checkpoints_dir() -> Path:
    """Folder with the checkpoints that ship."""
    return data_dir() / "checkpoints"


def corpora_dir() -> Path:
    """Folder for fetched corpora: $KT_DATA if set, else the checkout's `data`, else the user's cache."""
    chosen = os.environ.get("KT_DATA")
    if chosen:
        return Path(chosen).expanduser()
    root = checkout_dir()
    return root / "data" if root else _user_cache() / "kt-core"


def _user_cache() -> Path:
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
