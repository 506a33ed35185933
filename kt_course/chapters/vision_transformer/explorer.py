"""Vision explorer: what a Vision Transformer attends to, drawn on the image, live or as a figure.

A patch has the colour of its weight, on one scale for all images. The ink of the digit is drawn on
it as squares, larger for darker pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kt_core.attention import record_attention
from kt_course._typing import Float, Tensor
from kt_course.chapters.vision_transformer.vision import ViT, attention_rollout
from kt_course.explorers.panels import frame, picture, scale
from kt_course.explorers.shell import Choice, Grid, Slider, View, explorer, page
from kt_course.figures.style import WIDTH, array, in_style, weight_colours, weight_scale
from kt_course.figures.text_plots import ink

ONE_HEAD, MEAN, ROLLOUT = "one head", "mean of the layer's heads", "rollout of all layers"
SUMMARIES = (ONE_HEAD, MEAN, ROLLOUT)
ANSWER, PATCH = "the answer", "one patch"
MOST = 16  # images in the strip
CELL, STRIP_Y = 8.4 / MOST, 0.42  # inches: an image of the strip
LARGE_X, LARGE_Y, LARGE = 0.3, 1.5, 3.4  # the large image
TILES_X, TILES_Y, GAP = 4.75, 1.7, 0.06  # the table of heads


def draw_weights(
    ax: Axes,
    image: Float[np.ndarray, "H W"],
    weights: Float[np.ndarray, " N"],
    x: float = 0.0,
    y: float = 0.0,
    size: float = 1.0,
    draws_ink: bool = True,
) -> None:
    """Draw the weights of an image's patches in a square, y downwards, and its ink on them."""
    grid, H = math.isqrt(len(weights)), len(image)
    colours = weight_colours(weights.reshape(grid, grid), np.ones((grid, grid), dtype=bool))
    picture(ax, colours, x, y, size, size)
    if not draws_ink:
        return
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
    """Draw images with the weights of their patches, each with a caption, on one common scale.

    Args:
        columns: Images per row.
        marked: For each image the patch that attends, framed, or None.

    Raises:
        ValueError: If the counts differ.
    """
    if not len(images) == len(weights) == len(captions):
        counts = f"{len(images)} images, {len(weights)} rows of weights, {len(captions)} captions"
        raise ValueError(f"{counts}: one of each per image")
    n_rows, side = -(-len(images) // columns), min(1.75, WIDTH / columns)
    size = (max(side * columns, 5.0), (side + 0.2) * n_rows + 0.6 + 0.3 * bool(title))
    figure, axes = plt.subplots(n_rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.canvas.draw()  # fixes where the axes are, which the size of the ink depends on
    for ax in axes.flat:
        ax.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
        ax.set_axis_off()
    panels = zip(axes.flat, images, weights, captions, strict=False)
    for i, (ax, image, row, caption) in enumerate(panels):
        draw_weights(ax, array(image)[0], array(row))
        ax.set(xlim=(0, 1), ylim=(1, 0))
        ax.set_title(caption, fontsize=9)
        if i < len(marked) and marked[i] is not None:
            grid = math.isqrt(len(row))
            frame(ax, marked[i] % grid / grid, marked[i] // grid / grid, 1 / grid, 1 / grid)
    if title:
        figure.suptitle(title, fontsize=11)
    weight_scale(figure, axes, orientation="horizontal", shrink=0.5, aspect=40, pad=0.02)
    return figure


@dataclass(frozen=True)
class Selection:
    """The explorer's state, brought into the range of the chosen model."""

    image: int
    layer: int
    head: int
    row: int
    column: int
    query: str  # ANSWER or PATCH
    summary: str  # one of SUMMARIES

    @classmethod
    def of(cls, state: Mapping[str, Any], changed: str | None, model: ViT) -> Selection:
        """Read the state; whoever moves a slider wants to see what it chooses."""
        c, summary = model.config, state["shown"]
        if changed == "head":
            summary = ONE_HEAD
        elif changed == "layer" and summary == ROLLOUT:
            summary = MEAN
        return cls(
            image=state["image"],
            layer=min(state["layer"], c.n_layer - 1),
            head=min(state["head"], c.n_head - 1),
            row=min(state["row"], c.grid - 1),
            column=min(state["column"], c.grid - 1),
            query=PATCH if changed in ("row", "column") else state["asks"],
            summary=summary,
        )


class VisionExplorer:
    """What `explore_vision` draws: a strip of images, a large one, and a tile per head."""

    def __init__(self, models: Mapping[str, ViT], images: Tensor, labels: Sequence[int] | Tensor):
        self.models, self.images = models, images
        self.ink = array(images)[:, 0]  # (n, H, W), 1 is ink
        self.classes = [int(label) for label in labels]
        self.read = lru_cache(maxsize=len(models))(self._read)

    def _read(self, name: str) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Maps of all layers (n, nh, T, T), the rollout (n, T, T), the classes' probabilities."""
        model = self.models[name].eval()
        with record_attention(model) as maps, torch.no_grad():
            logits, _ = model(self.images.to(model.head.weight.device))
        maps = [m.cpu() for m in maps]
        rollout = attention_rollout(maps).numpy()
        return [m.numpy() for m in maps], rollout, logits.softmax(-1).cpu().numpy()

    def draw(self, state: Mapping[str, Any], changed: str | None) -> View:
        """Draw the state; `changed` names the control that was moved."""
        model = self.models[state["model"]]
        c, s = model.config, Selection.of(state, changed, model)
        maps, rollout, probabilities = self.read(state["model"])
        n_front = c.n_tokens - c.n_patches  # 1 with a class token

        def query_row(weights: np.ndarray) -> np.ndarray:
            """(T, T) -> (T,): the row of the chosen query."""
            if s.query == PATCH:
                return weights[n_front + s.row * c.grid + s.column]
            return weights[0] if n_front else weights.mean(0)

        layer = maps[s.layer][s.image]
        summaries = {ONE_HEAD: layer[s.head], MEAN: layer.mean(0), ROLLOUT: rollout[s.image]}
        weights = query_row(summaries[s.summary])
        heads = [[query_row(head)[n_front:] for head in m[s.image]] for m in maps]
        figure, ax = page(9, 5.55)
        strip = self._draw_strip(ax, s)
        large = self._draw_large(ax, s, c.grid, weights, n_front)
        grids = [large, strip, self._draw_tiles(ax, s, heads)]
        note = self._note(s, c.grid, weights, n_front, probabilities[s.image])
        limits = dict(layer=c.n_layer - 1, head=c.n_head - 1, row=c.grid - 1, column=c.grid - 1)
        values = dict(layer=s.layer, head=s.head, row=s.row, column=s.column)
        values |= dict(asks=s.query, shown=s.summary)
        return View(figure, note, "", grids, limits, values)

    def _draw_strip(self, ax: Axes, s: Selection) -> Grid:
        n, size = len(self.ink), CELL - GAP
        ax.text(LARGE_X, 0.28, "pictures", fontsize=9)
        for i in range(n):
            grey = np.repeat(1 - self.ink[i][..., None], 3, -1)
            picture(ax, grey, LARGE_X + i * CELL, STRIP_Y, size, size)
        frame(ax, LARGE_X + s.image * CELL, STRIP_Y, size, size)
        texts = np.array([[f"a {k}" for k in self.classes]])
        box, columns = (LARGE_X, STRIP_Y, n * CELL, size), [str(i) for i in range(n)]
        return Grid(box, ["picture"], columns, texts, click=(None, "image"))

    def _draw_large(
        self, ax: Axes, s: Selection, G: int, weights: np.ndarray, n_front: int
    ) -> Grid:
        x, y, size = LARGE_X, LARGE_Y, LARGE
        detail = {ONE_HEAD: f": layer {s.layer}, head {s.head}", MEAN: f": layer {s.layer}"}
        ax.text(x, 1.33, s.summary + detail.get(s.summary, ""), fontsize=11)
        draw_weights(ax, self.ink[s.image], weights[n_front:], x, y, size)
        if s.query == PATCH:
            frame(ax, x + s.column * size / G, y + s.row * size / G, size / G, size / G)
        if n_front:
            colour, below = weight_colours(weights[None, :1], np.ones((1, 1), bool)), y + size
            picture(ax, colour, x, below + 0.12, 0.26, 0.26)
            text = f"on the class token {100 * weights[0]:.0f} %"
            ax.text(x + 0.36, below + 0.25, text, va="center", fontsize=9)
        rows, columns = [f"row {i}" for i in range(G)], [f"column {i}" for i in range(G)]
        values = weights[n_front:].reshape(G, G)
        return Grid((x, y, size, size), rows, columns, values, click=("row", "column"))

    def _draw_tiles(self, ax: Axes, s: Selection, heads: list[list[np.ndarray]]) -> Grid:
        n_layer, n_head, x, y = len(heads), len(heads[0]), TILES_X, TILES_Y
        tile = min(1.0, 3.0 / n_layer, 4.0 / n_head)
        for a, layer in enumerate(heads):
            middle = y + (a + 0.5) * tile
            ax.text(x - 0.08, middle, f"layer {a}", ha="right", va="center", fontsize=8)
            for h, weights in enumerate(layer):
                at = (x + h * tile, y + a * tile, tile - GAP)
                draw_weights(ax, self.ink[s.image], weights, *at, draws_ink=False)
        for h in range(n_head):
            middle = x + (h + 0.5) * tile - 0.03
            ax.text(middle, y - 0.04, f"head {h}", ha="center", va="bottom", fontsize=8)
        if s.summary == ONE_HEAD:
            frame(ax, x + s.head * tile, y + s.layer * tile, tile - GAP, tile - GAP)
        elif s.summary == MEAN:
            frame(ax, x, y + s.layer * tile, n_head * tile - GAP, tile - GAP)
        scale(ax, x, y + n_layer * tile + 0.12, 3.4)
        texts = np.array([[f"{100 * w.max():.0f} % at most" for w in layer] for layer in heads])
        rows, columns = [f"layer {a}" for a in range(n_layer)], [f"head {h}" for h in range(n_head)]
        box = (x, y, n_head * tile, n_layer * tile)
        return Grid(box, rows, columns, texts, click=("layer", "head"))

    def _note(
        self, s: Selection, G: int, weights: np.ndarray, n_front: int, probabilities: np.ndarray
    ) -> str:
        """Say in words what the picture shows."""
        patches, guess = weights[n_front:], int(probabilities.argmax())
        answer = "The class token" if n_front else "The mean of all tokens"
        query = f"Patch {s.row}, {s.column}" if s.query == PATCH else answer
        best = np.argsort(-patches, kind="stable")[:3]
        shares = ", ".join(f"{k // G}, {k % G} ({100 * patches[k]:.0f} %)" for k in best)
        label = f"A {self.classes[s.image]}, read as {guess} ({100 * probabilities[guess]:.0f} %)"
        return f"{label}. {query} attends to the patches (row, column): {shares}."


def explore_vision(
    models: Mapping[str, ViT], images: Float[Tensor, "n 1 H W"], labels: Sequence[int] | Tensor
) -> Any:
    """Choose an image, a model, layer, head and query; see what it attends to, on the image.

    A click on the large image lets a patch be the query, one on a tile chooses its head, one on the
    strip an image.

    Args:
        models: Trained ViTs by name, all for images of this size. For the query "the answer" it is
            the class token, or the mean of all tokens for a model that pools them.
    """
    if not models:
        raise ValueError("explore_vision needs at least one model: {'class token': model}")
    if not 1 <= len(images) <= MOST or len(labels) != len(images):
        counts = f"{len(images)} with {len(labels)}"
        raise ValueError(f"1 to {MOST} pictures with a label each, not {counts}")
    for name, model in models.items():
        if (model.config.channels, model.config.image_size) != (1, images.size(-1)):
            size = f"{images.size(-1)} pixels per side"
            raise ValueError(f"{name!r} reads other pictures than these grey ones of {size}")
    first = next(iter(models.values())).config
    controls = dict(
        model=Choice("model", list(models)),
        image=Slider("picture", 0, len(images) - 1),
        shown=Choice("weights of", SUMMARIES),
        layer=Slider("layer", first.n_layer - 1, first.n_layer - 1),
        head=Slider("head", 0, first.n_head - 1),
        row=Slider("patch: row", 0, first.grid - 1),
        column=Slider("patch: column", 0, first.grid - 1),
        asks=Choice("who asks", (ANSWER, PATCH)),
    )
    return explorer("vision explorer", VisionExplorer(models, images, labels).draw, controls)
