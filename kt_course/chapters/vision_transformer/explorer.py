"""Vision explorer: where a Vision Transformer looks, drawn on the picture; and the same as a still figure.

A patch takes the colour of its weight, on the one scale of all pictures; the ink of the digit lies on it as squares,
the darker a pixel the larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kt_core._typing import Float, Tensor
from kt_core.attention import record_attention
from kt_course.chapters.vision_transformer.vision import ViT, attention_rollout
from kt_course.explorers.panels import frame, picture, scale
from kt_course.explorers.shell import Choice, Grid, Slider, View, explorer, page
from kt_course.figures.style import WIDTH, array, in_style, weight_colours, weight_scale
from kt_course.figures.text_plots import ink

SHOWN = ("one head", "mean of the layer's heads", "rollout of all layers")
ASKS = ("the answer", "one patch")
MOST = 16  # pictures in the strip


def on_picture(
    ax: Axes,
    image: Float[np.ndarray, "H W"],
    weights: Float[np.ndarray, " N"],
    x: float = 0.0,
    y: float = 0.0,
    size: float = 1.0,
    dots: bool = True,
) -> None:
    """The weights (N,) of a picture's patches in a square of `size`, y downwards, and its ink (H, W) in 0 ... 1 on them."""
    grid, H = math.isqrt(len(weights)), len(image)
    colours = weight_colours(weights.reshape(grid, grid), np.ones((grid, grid), dtype=bool))
    picture(ax, colours, x, y, size, size)
    if dots:
        rows, columns = np.nonzero(image > 0.15)
        ground = colours[rows * grid // H, columns * grid // H]
        inches = np.diff(ax.transData.transform([(0, 0), (size / H, 0)])[:, 0])[0] / ax.figure.dpi
        area = (0.72 * 72 * inches) ** 2 * image[rows, columns]
        at = (x + (columns + 0.5) * size / H, y + (rows + 0.5) * size / H)
        ax.scatter(*at, s=area, c=ink(ground), marker="s", lw=0, zorder=3)


@in_style
def attention_pictures(
    images: Sequence[Float[Tensor, "1 H W"]],
    weights: Sequence[Float[Tensor, " N"]],
    captions: Sequence[str],
    columns: int,
    title: str = "",
    marked: Sequence[int | None] = (),
) -> Figure:
    """Pictures with the weights of their patches, `columns` a row, each with a caption above it and one common scale.

    `marked`: for each picture the patch that asks, framed, or None. ValueError if the counts differ.
    """
    if not len(images) == len(weights) == len(captions):
        raise ValueError(
            f"{len(images)} pictures, {len(weights)} rows of weights, {len(captions)} captions: one of each a picture"
        )
    lines = -(-len(images) // columns)
    wide = min(1.75, WIDTH / columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(max(wide * columns, 5.0), (wide + 0.2) * lines + 0.6 + 0.3 * bool(title)),
        squeeze=False,
        layout="constrained",
    )
    figure.canvas.draw()  # sets where the axes stand, which the size of the ink follows
    for ax in axes.flat:
        ax.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
        ax.set_axis_off()
    for i, (ax, image, row, caption) in enumerate(
        zip(axes.flat, images, weights, captions, strict=False)
    ):
        row = array(row)
        on_picture(ax, array(image)[0], row)
        ax.set(xlim=(0, 1), ylim=(1, 0), title=caption)
        ax.title.set_fontsize(9)
        if i < len(marked) and marked[i] is not None:
            grid = math.isqrt(len(row))
            frame(ax, marked[i] % grid / grid, marked[i] // grid / grid, 1 / grid, 1 / grid)
    if title:
        figure.suptitle(title, fontsize=11)
    weight_scale(figure, axes, orientation="horizontal", shrink=0.5, aspect=40, pad=0.02)
    return figure


def explore_vision(
    models: Mapping[str, ViT], images: Float[Tensor, "n 1 H W"], labels: Sequence[int] | Tensor
) -> Any:
    """Choose a picture, a model, layer, head and who asks; see where it looks, on the picture.

    `models`: name -> trained ViT, all for pictures of this size. "The answer" is the class token, or the mean of all tokens
    for a model that pools them. A click on the large picture lets a patch ask, one on a tile chooses its head, one on
    the strip a picture.
    """
    if not models:
        raise ValueError("explore_vision needs at least one model: {'class token': model}")
    if not 1 <= len(images) <= MOST or len(labels) != len(images):
        raise ValueError(
            f"1 to {MOST} pictures with a label each, not {len(images)} with {len(labels)}"
        )
    for name, model in models.items():
        if (model.config.channels, model.config.image_size) != (1, images.size(-1)):
            raise ValueError(
                f"{name!r} reads other pictures than these grey ones of {images.size(-1)} pixels a side"
            )
    classes = [int(label) for label in labels]
    grey = 1 - array(images)[:, 0]  # (n, H, W), ink dark

    @lru_cache(maxsize=len(models))
    def reading(name: str) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Maps of all layers and the rollout, (n, nh, T, T) each, and the classes' probabilities (n, n_class)."""
        model = models[name].eval()
        device = model.head.weight.device
        with record_attention(model) as maps, torch.no_grad():
            logits, _ = model(images.to(device))
        found = [m.cpu() for m in maps]
        return (
            [m.numpy() for m in found],
            attention_rollout(found).numpy(),
            logits.softmax(-1).cpu().numpy(),
        )

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        config = models[state["model"]].config
        maps, rolled, chances = reading(state["model"])
        G, front = config.grid, config.n_tokens - config.n_patches
        i, layer = state["image"], min(state["layer"], config.n_layer - 1)
        head = min(state["head"], config.n_head - 1)
        row, column = min(state["row"], G - 1), min(state["column"], G - 1)
        asks = ASKS[1] if changed in ("row", "column") else state["asks"]
        shown = state["shown"]  # who moves a slider wants to see what it chooses
        if changed == "head":
            shown = SHOWN[0]
        elif changed == "layer" and shown == SHOWN[2]:
            shown = SHOWN[1]
        query = row * G + column

        def of_the_query(weights: np.ndarray) -> np.ndarray:
            """(T, T) -> (T,): the row of who asks."""
            if asks == ASKS[1]:
                return weights[front + query]
            return weights[0] if front else weights.mean(0)

        found = {
            SHOWN[0]: maps[layer][i, head],
            SHOWN[1]: maps[layer][i].mean(0),
            SHOWN[2]: rolled[i],
        }[shown]
        weights = of_the_query(found)
        figure, ax = page(9, 5.55)
        cell = 8.4 / MOST
        for n in range(len(images)):
            picture(
                ax,
                np.repeat(grey[n][..., None], 3, -1),
                0.3 + n * cell,
                0.42,
                cell - 0.06,
                cell - 0.06,
            )
        frame(ax, 0.3 + i * cell, 0.42, cell - 0.06, cell - 0.06)
        ax.text(0.3, 0.28, "pictures", fontsize=9)
        x, y, size = 0.3, 1.5, 3.4
        told = shown + {
            SHOWN[0]: f": layer {layer}, head {head}",
            SHOWN[1]: f": layer {layer}",
        }.get(shown, "")
        ax.text(x, 1.33, told, fontsize=11)
        on_picture(ax, array(images[i])[0], weights[front:], x, y, size)
        if asks == ASKS[1]:
            frame(ax, x + column * size / G, y + row * size / G, size / G, size / G)
        if front:
            picture(
                ax,
                weight_colours(weights[None, :1], np.ones((1, 1), bool)),
                x,
                y + size + 0.12,
                0.26,
                0.26,
            )
            ax.text(
                x + 0.36,
                y + size + 0.25,
                f"on the class token {100 * weights[0]:.0f} %",
                va="center",
                fontsize=9,
            )
        grids = [
            Grid(
                (x, y, size, size),
                [f"row {r}" for r in range(G)],
                [f"column {c}" for c in range(G)],
                weights[front:].reshape(G, G),
                click=("row", "column"),
            ),
            Grid(
                (0.3, 0.42, len(images) * cell, cell - 0.06),
                ["picture"],
                [str(n) for n in range(len(images))],
                np.array([[f"a {k}" for k in classes]]),
                click=(None, "image"),
            ),
        ]

        tile = min(1.0, 3.0 / config.n_layer, 4.0 / config.n_head)
        left, top = 4.75, 1.7
        names = [
            [
                f"{100 * of_the_query(m[i, h])[front:].max():.0f} % at most"
                for h in range(config.n_head)
            ]
            for m in maps
        ]
        for a, m in enumerate(maps):
            ax.text(
                left - 0.08,
                top + (a + 0.5) * tile,
                f"layer {a}",
                ha="right",
                va="center",
                fontsize=8,
            )
            for h in range(config.n_head):
                patches = of_the_query(m[i, h])[front:]
                on_picture(
                    ax,
                    array(images[i])[0],
                    patches,
                    left + h * tile,
                    top + a * tile,
                    tile - 0.06,
                    dots=False,
                )
        for h in range(config.n_head):
            ax.text(
                left + (h + 0.5) * tile - 0.03,
                top - 0.04,
                f"head {h}",
                ha="center",
                va="bottom",
                fontsize=8,
            )
        if shown == SHOWN[0]:
            frame(ax, left + head * tile, top + layer * tile, tile - 0.06, tile - 0.06)
        elif shown == SHOWN[1]:
            frame(ax, left, top + layer * tile, config.n_head * tile - 0.06, tile - 0.06)
        grids.append(
            Grid(
                (left, top, config.n_head * tile, config.n_layer * tile),
                [f"layer {a}" for a in range(config.n_layer)],
                [f"head {h}" for h in range(config.n_head)],
                np.array(names),
                click=("layer", "head"),
            )
        )
        scale(ax, left, top + config.n_layer * tile + 0.12, 3.4)

        guess = int(chances[i].argmax())
        who = (
            f"Patch {row}, {column}"
            if asks == ASKS[1]
            else "The class token"
            if front
            else "The mean of all tokens"
        )
        best = np.argsort(-weights[front:], kind="stable")[:3]
        looks = ", ".join(f"{k // G}, {k % G} ({100 * weights[front + k]:.0f} %)" for k in best)
        note = (
            f"A {classes[i]}, read as {guess} ({100 * chances[i, guess]:.0f} %). {who} looks at the patches (row, column): "
            f"{looks}."
        )
        limits = dict(layer=config.n_layer - 1, head=config.n_head - 1, row=G - 1, column=G - 1)
        chosen = dict(layer=layer, head=head, row=row, column=column, asks=asks, shown=shown)
        return View(figure, note, "", grids, limits, chosen)

    first = next(iter(models.values())).config
    controls = dict(
        model=Choice("model", list(models)),
        image=Slider("picture", 0, len(images) - 1),
        shown=Choice("weights of", SHOWN),
        layer=Slider("layer", first.n_layer - 1, first.n_layer - 1),
        head=Slider("head", 0, first.n_head - 1),
        row=Slider("patch: row", 0, first.grid - 1),
        column=Slider("patch: column", 0, first.grid - 1),
        asks=Choice("who asks", ASKS),
    )
    return explorer("vision explorer", draw, controls)
