"""Takes the README's picture of each chapter out of its executed notebook: docs/chapter-NN.png.

It is the picture of the cell tagged `cover`, as on the site's front page.

python tools/chapters.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kt_core.corpora.files import write_atomically  # noqa: E402
from kt_course.tools.site import cover, small_picture  # noqa: E402
from kt_course.tools.workbook import find_notebooks  # noqa: E402

WIDTH = 800  # pixels at most


def main() -> None:
    """Write all of them."""
    for path in find_notebooks():
        png = cover(nbformat.read(path, as_version=4))
        if png is None:
            raise ValueError(f"{path.name}: no picture; execute it first: make references")
        target = ROOT / "docs" / f"chapter-{path.stem[:2]}.png"
        write_atomically(target, small_picture(png, WIDTH))


if __name__ == "__main__":
    main()
