"""The figures of this chapter: each option on and off, and stored beside retrieved facts."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kt_course.figures.alt_text import show
from kt_course.figures.style import BLUE, ORANGE, WIDTH, in_style

Counts = Mapping[str, Mapping[str, float]]  # "all on" and each option -> what was counted


def show_option(
    corpora: Mapping[str, Counts], option: str, key: str, title: str, what: str
) -> None:
    """Show what was counted with an option on and off, one pair of bars per corpus.

    Args:
        corpora: The counts of each corpus (`count_options`).
        option: The option that is switched off.
        key: Which count, a share of the windows.
        title: The point of the picture.
        what: The windows that are counted: "windows that ...".
    """
    pairs = {
        name: (100 * counts["all on"][key], 100 * counts[option][key])
        for name, counts in corpora.items()
    }
    figure = draw_option(pairs, option, title, what)
    texts = [f"{name}: {on:.0f} % on, {off:.0f} % off" for name, (on, off) in pairs.items()]
    show(figure, alt=f"Share of {what}, with {option} on and off. {'; '.join(texts)}.")


@in_style
def draw_option(
    pairs: Mapping[str, tuple[float, float]], option: str, title: str, what: str
) -> Figure:
    """Draw one pair of bars, option on and off, per corpus."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.75 * len(pairs) + 1.2))
    for y, values in enumerate(pairs.values()):
        for offset, value, colour in zip((-0.2, 0.2), values, (BLUE, ORANGE), strict=True):
            ax.barh(y + offset, value, 0.38, color=colour)
            ax.text(value, y + offset, f" {value:.1f} %", va="center", fontsize=9)
    for colour, label in ((BLUE, f"{option} on"), (ORANGE, f"{option} off")):
        ax.barh(0, 0, color=colour, label=label)
    ax.set_yticks(range(len(pairs)), list(pairs))
    ax.invert_yaxis()
    ax.set(xlabel=f"{what} (% of all windows)", xlim=(0, 100), title=title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure
