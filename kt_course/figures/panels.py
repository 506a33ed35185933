"""Pictures that are shown as soon as they are drawn: one axes, or several in a row."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from kt_course.figures.alt_text import show
from kt_course.figures.style import STYLE, WIDTH


@contextmanager
def picture_row(
    n: int, height: float, alt: str, title: str = "", **options: Any
) -> Iterator[Sequence[Axes]]:
    """Yield n axes in a row; after the block, show the figure, 9 inches wide, with its alt text.

    Args:
        height: In inches.
        title: Of the whole figure.
        options: Of `plt.subplots`.
    """
    with plt.rc_context(STYLE):
        size = (WIDTH, height)
        figure, axes = plt.subplots(1, n, figsize=size, squeeze=False, **options)
        yield axes[0]
        if title:
            figure.suptitle(title)
        show(figure, alt)


@contextmanager
def picture(height: float, alt: str) -> Iterator[Axes]:
    """Yield one axes, as `picture_row` does."""
    with picture_row(1, height, alt) as (ax,):
        yield ax
