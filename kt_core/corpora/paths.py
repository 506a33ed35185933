"""Where the project's files are: in a checkout, in an installed wheel, and after a download."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def checkout_dir() -> Path | None:
    """Return the repository's root when the package runs from a checkout, else None."""
    root = _PACKAGE.parent
    return root if (root / "data" / "bios").is_dir() else None


def data_dir() -> Path:
    """Return the folder of the shipped data: `bios` (word lists), `checkpoints`, `results`."""
    root = checkout_dir()
    return root / "data" if root else _PACKAGE / "_data"


def checkpoints_dir() -> Path:
    """Return the folder of the shipped checkpoints."""
    return data_dir() / "checkpoints"


def corpora_dir() -> Path:
    """Return the folder of fetched corpora: $KT_DATA, the checkout's `data`, or a user cache."""
    if chosen := os.environ.get("KT_DATA"):
        return Path(chosen).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return data_dir() if checkout_dir() else cache / "kt-core"
