"""Progress with time left: a bar on a terminal or in a notebook, plain lines elsewhere, so that logs stay readable."""

from __future__ import annotations

import os
import sys


def progress_mode() -> str:
    """ "bar", "lines" or "off": $KT_PROGRESS if set, else a bar where somebody watches."""
    chosen = os.environ.get("KT_PROGRESS", "")
    if chosen in ("bar", "lines", "off"):
        return chosen
    if chosen:
        raise ValueError(f"KT_PROGRESS must be bar, lines or off, not {chosen!r}")
    in_notebook = "ipykernel" in sys.modules
    return "bar" if in_notebook or sys.stderr.isatty() else "lines"


class Progress:
    """`update(n)` moves a bar of `total` steps; `note(text)` shows text on the bar, or as a line with the time left."""

    def __init__(self, total: int, title: str, start: int = 0):
        self.total, self.title, self.done = total, title, start
        self.mode = progress_mode()
        self.bar = None
        if self.mode == "bar":
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, initial=start, desc=title, leave=False, dynamic_ncols=True)

    def update(self, n: int = 1) -> None:
        self.done += n
        if self.bar is not None:
            self.bar.update(n)

    def note(self, text: str, seconds: float) -> None:
        """`seconds`: time spent on all steps done, those before a resume too; the time left is told from it."""
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        elif self.mode == "lines":
            left = seconds / max(self.done, 1) * (self.total - self.done)
            times = f"{_clock(seconds)} so far, {_clock(left)} left"
            print(f"{self.title}: step {self.done}/{self.total}, {text}, {times}", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
