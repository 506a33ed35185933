"""Pictures of chapter 1: what heads fetch, and tables of positions."""

from collections.abc import Mapping, Sequence

import torch

from kt_course.figures.panels import picture_row
from kt_course.figures.style import BLUE, VERMILION, array


def shares_of_two_values(cases: Mapping[str, torch.Tensor], title: str, alt: str) -> None:
    """Draw one dot per sample: its weights on two values, (samples, 2), for each case.

    Dots are moved a little at random, so that they do not hide each other.
    """
    with picture_row(len(cases), 3.9, alt, title, sharex=True, sharey=True) as axes:
        for ax, (name, weights) in zip(axes, cases.items(), strict=True):
            rng = torch.Generator().manual_seed(0)
            x, y = (weights + 0.015 * torch.randn(weights.shape, generator=rng)).T.numpy()
            ax.plot(x, y, ".", ms=2, alpha=0.4, color=BLUE)
            ax.plot(0.5, 0.5, "+", ms=15, mew=2.5, color=VERMILION)
            ax.set(title=name, xlabel="weight on value a", aspect="equal")
        axes[0].set_ylabel("weight on value b")


def position_vectors(table: torch.Tensor, queries: Sequence[int], alt: str) -> None:
    """Draw a table of positions, (T, C), and the dot products of some rows with rows near them."""
    with picture_row(2, 3.6, alt) as (left, right):
        image = left.imshow(array(table), cmap="RdBu", aspect="auto", vmin=-1, vmax=1)
        left.set(title="Low channels change fast, high ones slowly", xlabel="channel")
        left.set_ylabel("position")
        left.figure.colorbar(image, ax=left, label="value")
        reach, products = min(queries), table @ table.T
        for t, line in zip(queries, ("-", "--"), strict=False):
            near = array(products[t, t - reach : t + reach + 1])
            right.plot(range(-reach, reach + 1), near, line, label=f"from position {t}")
        right.set(xlabel="distance in positions", ylabel="dot product")
        right.set_title("Only the distance matters")
        right.legend()
