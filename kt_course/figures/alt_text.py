"""Show a figure with a text alternative, for readers who cannot see it."""

import io

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from kt_core.vocab import MASK
from kt_course.figures.style import MASK_SIGN


def show(figure: Figure, alt: str) -> None:
    """Display a figure as a PNG with alt text, and close it.

    Args:
        figure: Drawn with matplotlib.
        alt: What the picture shows, in one or two sentences, with the numbers that matter.

    Raises:
        ValueError: For an alt text of less than 20 characters.
    """
    if len(alt) < 20:
        raise ValueError(f"alt text has to say what the picture shows, not only {alt!r}")
    replace_mask(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    plt.close(figure)
    data = {"image/png": small_png(png.getvalue()), "text/plain": "<Figure with alt text>"}
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def replace_mask(figure: Figure) -> None:
    """Write the mask in all texts of a figure as a sign that does not look like "??"."""
    for text in figure.findobj(Text):
        text.set_text(text.get_text().replace(MASK, MASK_SIGN))
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        if MASK in "".join(labels):  # ticks write their own texts again
            axis.set_ticklabels([label.replace(MASK, MASK_SIGN) for label in labels])


def small_png(png: bytes) -> bytes:
    """Return a PNG with a palette of 256 colours, about half as large; or `png` if that is smaller.

    Notebooks with pictures are committed, so their size is that of every clone.
    """
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    small = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return min(small.getvalue(), png, key=len)
