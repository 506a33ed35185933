"""Progress bars."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any


def progress_bar(total: int, title: str, start: int = 0):
    """Return a tqdm bar on standard error. KT_PROGRESS=off or TQDM_DISABLE=1 switches it off.

    Without a terminal or a notebook it reports every half minute.
    """
    from tqdm.auto import tqdm

    options = dict(total=total, initial=start, desc=title, leave=False)
    if os.environ.get("KT_PROGRESS") == "off":
        options["disable"] = True
    if not ("ipykernel" in sys.modules or sys.stderr.isatty()):
        options["mininterval"] = 30.0
    return tqdm(**options)


def track(items: Iterable, total: int, title: str) -> Iterator[Any]:
    """Yield the items, and move a bar with each."""
    with progress_bar(total, title) as bar:
        for item in items:
            yield item
            bar.update()
