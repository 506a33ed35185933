"""`kt lab`: JupyterLab on clean copies of the notebooks, which belong to the learner.

A copy that the learner changed is never written again. When the project has a newer version of its
notebook, that is laid beside it: `02_build_a_gpt (new version).ipynb`.
"""

import importlib.util
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from filelock import FileLock

from kt_core.corpora.files import read_json, sha256, write_atomically, write_json
from kt_course.grading.cleaning import clean_notebook
from kt_course.tools.workbook import find_notebooks

RECORD = ".copies.json"


def lab(
    *,
    folder: Path = Path("my_notebooks"),
    open_lab: Annotated[bool, Parameter(negative="--no-open-lab")] = True,
) -> None:
    """Open JupyterLab on clean copies of the notebooks, which are yours to work in.

    A later call adds what is new and never replaces a file that you changed.

    Args:
        folder: Where your copies are.
        open_lab: --no-open-lab makes the copies only.
    """
    for line in update_copies(folder):
        print(line)
    if not open_lab:
        return
    if importlib.util.find_spec("jupyterlab") is None:
        raise ModuleNotFoundError(name="jupyterlab")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}"]
    with suppress(KeyboardInterrupt):  # JupyterLab has asked already
        subprocess.run(command)


def update_copies(folder: str | Path) -> list[str]:
    """Write the copies that are missing or untouched; lay new versions beside changed ones.

    Returns:
        Lines that say what was written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file, not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".copies.lock"):
        record, lines = _read_record(folder / RECORD), []
        for source in find_notebooks():
            text = clean_notebook(source).text
            lines += _update_copy(folder, source.stem, text.encode(), record)
        write_json(folder / RECORD, record)
    n_new = sum(line.startswith("new: ") for line in lines)
    lines = [line for line in lines if not line.startswith("new: ")]
    return [f"{n_new} notebooks in {folder}, yours to work in", *lines] if n_new else lines


def _update_copy(folder: Path, stem: str, data: bytes, record: dict[str, str]) -> list[str]:
    """Write one notebook where no work of the learner is; record the digest of what was written."""
    digest, first = sha256(data), folder / f"{stem}.ipynb"
    is_offered = digest in (record.get(first.name), record.get(f"{stem} offered"))
    is_same = first.is_file() and sha256(first.read_bytes()) == digest
    if is_same or first.exists() and is_offered:
        return []
    names = [f"{stem}.ipynb", f"{stem} (new version).ipynb"]
    names += [f"{stem} (new version {n}).ipynb" for n in range(2, 1000)]
    path = next(folder / name for name in names if _is_free(folder / name, record))
    was_there = path.exists()
    write_atomically(path, data)
    record |= {path.name: digest, f"{stem} offered": digest}
    if path != first:
        return [f"{first.name} has changes of yours and stays; the new version is {path.name!r}"]
    return [f"{path.name}: updated, you had not changed it" if was_there else f"new: {path.name}"]


def _is_free(path: Path, record: dict[str, str]) -> bool:
    """Is nothing there, or a plain file that is as we wrote it?"""
    if not path.is_symlink() and not path.exists():
        return True
    is_plain = path.is_file() and not path.is_symlink()
    return is_plain and record.get(path.name) == sha256(path.read_bytes())


def _read_record(path: Path) -> dict[str, str]:
    """What was written before. If it cannot be read, all copies count as changed."""
    with suppress(OSError, ValueError):
        return {str(name): str(digest) for name, digest in read_json(path).items()}
    return {}
