"""Execute the committed notebooks in place, so that their stored outputs fit the code.

    python tools/references.py [NOTEBOOK ...]      default: all of notebooks/
    python tools/references.py --pictures [...]    only make their pictures smaller

A notebook is replaced only after all of its cells ran. What differs between machines (run times,
widget state, the interpreter's version) is taken out.
"""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kt_core.corpora.files import write_atomically  # noqa: E402
from kt_course.figures.alt_text import small_png  # noqa: E402


def strip(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without volatile metadata; cells, outputs, tags and execution counts stay."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {
                "name": "python",
                "file_extension": ".py",
                "pygments_lexer": "ipython3",
            },
        }
    )
    for cell in notebook.cells:
        kept = {
            key: value
            for key, value in cell.metadata.items()
            if key in ("tags", "jupyter") and value
        }
        cell.metadata = nbformat.from_dict(kept)
    return notebook


def shrink(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with pictures of 256 colours."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                small = base64.b64encode(small_png(base64.b64decode(png))).decode()
                output["data"]["image/png"] = small
    return notebook


def refresh(path: Path) -> None:
    """Runs one notebook in its own folder and writes it back, stripped."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / path.name
        papermill.execute_notebook(
            str(path), str(out), cwd=str(path.parent), kernel_name="python3", progress_bar=False
        )
        notebook = strip(nbformat.read(out, as_version=4))
    write(path, notebook)


def write(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Writes a notebook with small pictures."""
    write_atomically(path, nbformat.writes(shrink(notebook)).encode() + b"\n")


def main(names: list[str]) -> None:
    """Refreshes the named notebooks, or all of them."""
    os.environ["KT_PROGRESS"] = "off"  # no bars and no quiz buttons among the outputs
    os.environ["KT_MY_GPT"] = "off"  # a developer's own pieces are not in stored outputs
    action = refresh
    if names[:1] == ["--pictures"]:
        names = names[1:]
        action = lambda path: write(path, nbformat.read(path, as_version=4))  # noqa: E731
    for path in [Path(n).resolve() for n in names] or sorted((ROOT / "notebooks").glob("*.ipynb")):
        print(path.name, flush=True)
        action(path)


if __name__ == "__main__":
    main(sys.argv[1:])
