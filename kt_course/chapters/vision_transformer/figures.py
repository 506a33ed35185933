"""Pictures of chapter 13: images, patches, attention on an image, positions."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from kt_course._typing import Float, Int, Tensor
from kt_course.figures.gpt_figures import loss_curves
from kt_course.figures.panels import picture, picture_row
from kt_course.figures.style import COLOURS, ORANGE, VERMILION, WIDTH, array, in_style


def draw_image(ax: Axes, image: Float[Tensor, "1 H W"], title: str = "") -> None:
    """Draw a grey image with dark ink on white."""
    ax.imshow(1 - array(image)[0], cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], title=title)


def draw_images(
    images: Float[Tensor, "n 1 H W"], titles: Sequence[str], title: str, alt: str
) -> None:
    """Draw images in a row, each with its title."""
    with picture_row(len(images), 2.3, alt, title) as axes:
        for ax, image, text in zip(axes, images, titles, strict=True):
            draw_image(ax, image, text)


def draw_patches(
    image: Float[Tensor, "1 H W"], patches: Float[Tensor, "N P"], title: str, alt: str
) -> None:
    """Draw an image with the borders of its patches, and the patches as a sequence."""
    p = round(patches.size(1) ** 0.5)
    with picture_row(2, 2.6, alt, title, width_ratios=(1, 3)) as (left, right):
        draw_image(left, image, "the image")
        for line in range(p, image.size(-1), p):
            left.axhline(line - 0.5, color=ORANGE)
            left.axvline(line - 0.5, color=ORANGE)
        for i, patch in enumerate(patches):
            extent = (i, i + 0.9, 0.9, 0)
            right.imshow(1 - array(patch).reshape(p, p), cmap="gray", vmin=0, vmax=1, extent=extent)
            right.add_patch(plt.Rectangle((i, 0), 0.9, 0.9, fill=False, ec=ORANGE))
        right.set(xlim=(-0.1, len(patches)), ylim=(0.95, -0.05), yticks=[])
        right.set(title="the sequence that the model reads", xlabel="patch")
        right.set_xticks([i + 0.45 for i in range(len(patches))], range(len(patches)))
        right.spines[:].set_visible(False)


@in_style
def attention_figure(
    images: Float[Tensor, "n 1 H W"],
    weights: Mapping[str, Float[Tensor, "n N"]],
    marked: Int[Tensor, " n"],
    title: str,
) -> Figure:
    """Draw weights of patches over images: one row per kind of weights, one linear scale for all.

    Args:
        images: The images, one column each.
        weights: The weights of the N patches, by the name of their row.
        marked: The patch of each image to frame.
        title: The figure's title.
    """
    n, side = len(images), images.size(-1)
    top = max(float(rows.max()) for rows in weights.values())
    scale, height = Normalize(0, top), 1.5 * len(weights) + 0.9
    figure, axes = plt.subplots(
        len(weights), n, figsize=(WIDTH, height), squeeze=False, layout="constrained"
    )
    for line, (name, rows) in zip(axes, weights.items(), strict=True):
        line[0].set_ylabel(name)
        for ax, image, row, patch in zip(line, images, rows, marked.tolist(), strict=True):
            grid = round(len(row) ** 0.5)
            extent = (0, side, side, 0)
            squares = array(row).reshape(grid, grid)
            colours = ax.imshow(squares, cmap="Blues", norm=scale, extent=extent)
            ink = np.zeros((side, side, 4))
            ink[..., 3] = array(image)[0]  # black, as opaque as there is ink
            ax.imshow(ink, extent=extent)
            p = side // grid
            corner = patch % grid * p, patch // grid * p
            ax.add_patch(plt.Rectangle(corner, p, p, fill=False, ec=VERMILION, lw=2.5))
            ax.set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0))
    figure.colorbar(colours, ax=axes, shrink=0.7, label="attention weight")
    figure.suptitle(title)
    return figure


def draw_loss(losses: Sequence[float], guessing: float, title: str, alt: str) -> None:
    """Draw the loss of every training step, and the level of a model that guesses."""
    loss_curves({"loss": losses}, {"guessing": guessing}, title, alt, "nats per image")


def draw_curves(
    runs: Mapping[str, Sequence[Sequence[tuple[int, int]]]], n: int, title: str, alt: str
) -> None:
    """Draw the accuracy during training: one line per run, one colour per kind of model.

    Args:
        runs: By the model's name its runs, each a list of (step, correct answers).
        n: Number of questions.
        title: The figure's title.
        alt: The text alternative.
    """
    with picture(3.6, alt) as ax:
        for (name, curves), colour, style in zip(
            runs.items(), COLOURS, ("-", "--", ":", "-."), strict=False
        ):
            for i, curve in enumerate(curves):
                steps, correct = zip(*curve, strict=True)
                label = name if i == 0 else None
                ax.plot(steps, [100 * c / n for c in correct], color=colour, ls=style, label=label)
        ax.axhline(100 / 9, color="#777777", lw=1)
        ax.text(steps[0], 9, "guessing", va="top", fontsize=9)
        ax.set(title=title, xlabel="training step", ylabel="dev accuracy (%)", ylim=(0, 100))
        ax.legend(loc="upper left")
