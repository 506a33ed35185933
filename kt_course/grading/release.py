"""`kt release`: clean notebooks for learners, without outputs and answers. All or nothing."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from kt_course.grading.cleaning import clean_notebook
from kt_course.grading.formats import convert, file_for
from kt_course.tools.workbook import find_notebooks, notebooks_dir


def release(
    folder: Path,
    /,
    *,
    source: Annotated[Path | None, Parameter("--from")] = None,
    solutions: Annotated[bool, Parameter(negative="--no-solutions")] = True,
    written: bool = False,
    format: Literal["plain", "nbgrader", "otter"] = "plain",
    force: bool = False,
) -> list[Path]:
    """Write clean notebooks for learners: no outputs, exercises blank. All or nothing.

    Args:
        folder: Where to write them; it must be empty.
        source: Folder of the notebooks to clean; by default the project's.
        solutions: --no-solutions leaves out the solutions and the folded answers. Hints stay.
        written: Add the written questions of each chapter, with cells for the answers.
        format: Of plain notebooks; as source of an nbgrader course; or for `otter assign`.
        force: Replace notebooks of the same name in a folder that is not empty.
    """
    out, source = Path(folder).resolve(), Path(source or notebooks_dir()).resolve()
    is_empty = _is_empty(out, source, force)
    clean = {p.name: clean_notebook(p, solutions, written) for p in find_notebooks(folder=source)}
    files = {file_for(name, format): convert(nb.text, format) for name, nb in clean.items()}
    _write_at_once(files, out, is_empty)
    print(f"{len(clean)} notebooks in {folder}")
    for name, notebook in clean.items():
        if notebook.own_cells:
            numbers = ", ".join(map(str, notebook.own_cells))
            print(f"{name}: the project does not have cells {numbers}; they stay as they are")
    return [out / name for name in files]


def _write_at_once(files: dict[str, str], out: Path, is_empty: bool) -> None:
    """Write all files beside the folder `out`, then move them into it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        fresh = Path(temporary) / out.name
        for name, text in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_text(text, encoding="utf-8", newline="\n")
        if is_empty:
            if out.exists():
                out.rmdir()  # Windows does not replace an empty folder
            shutil.move(fresh, out)
            return
        for name in files:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).replace(out / name)


def _is_empty(out: Path, source: Path, force: bool) -> bool:
    """Is the folder empty or missing? ValueError if nothing may be written there."""
    if out == source:
        raise ValueError(f"{out}: these are the notebooks themselves; name another folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a file, not a folder")
    is_empty = not out.exists() or not any(out.iterdir())
    if not is_empty and not force:
        hint = "name another folder, or replace its notebooks with --force"
        raise ValueError(f"{out}: not empty; {hint}")
    return is_empty
