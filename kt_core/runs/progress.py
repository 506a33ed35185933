"""Progress bars, where somebody watches."""

from __future__ import annotations

import os
import sys


def is_watched() -> bool:
    """Is there a terminal or a notebook, and are bars not switched off by KT_PROGRESS=off?"""
    if os.environ.get("KT_PROGRESS", "").lower() == "off":
        return False
    return "ipykernel" in sys.modules or sys.stderr.isatty()


def progress_bar(total: int, title: str, start: int = 0):
    """Return a tqdm bar. KT_PROGRESS=off or TQDM_DISABLE=1 switches it off.

    Elsewhere than in a terminal or a notebook it reports every half minute.
    """
    from tqdm.auto import tqdm

    off = os.environ.get("KT_PROGRESS", "").lower() == "off" or None
    interval = 0.1 if is_watched() else 30.0
    more = dict(disable=True) if off else {}
    return tqdm(total=total, initial=start, desc=title, leave=False, mininterval=interval, **more)
