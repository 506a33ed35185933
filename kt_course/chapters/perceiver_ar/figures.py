"""Pictures of chapter 6: the wiring of a model, what outputs depend on, losses by position."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from kt_core.models import GPT
from kt_core.runs.attention_maps import record_attention
from kt_course.figures.panels import picture_row
from kt_course.figures.style import BLUE, GREY, ORANGE, array

LIVE, DEAD = dict(color=BLUE, lw=1.4, zorder=2), dict(color="#d0d0d0", lw=0.6)


def draw_wiring(models: Mapping[str, GPT], text: str, output: int, title: str, alt: str) -> None:
    """Draw a line for each attention weight above 0 in untrained models, one panel per model.

    Blue lines lead to `output`; the dashed orange line is the residual of the last block.
    """
    with picture_row(len(models), 3.4, alt, title) as axes:
        for ax, (name, model) in zip(axes, models.items(), strict=True):
            tables = _tables(model, len(text))
            xs = _columns(model, tables, len(text))
            live, top = {output}, len(tables)
            for layer in reversed(range(top)):
                links = [tuple(pair) for pair in np.argwhere(tables[layer]).tolist()]
                for q, k in links:
                    line = LIVE if q in live else DEAD
                    ax.plot([xs[layer][k], xs[layer + 1][q]], [layer, layer + 1], **line)
                _dots(ax, xs[layer + 1], layer + 1, live)
                live = {k for q, k in links if q in live}
            if model.config.has_latents:
                ax.plot([output, output], [0, top], ls="--", color=ORANGE, lw=1.6)
            _dots(ax, xs[0], 0, live | {output})
            middle = ["latents" if model.config.has_latents else "layer"] * (top - 1)
            ax.set_yticks(range(top + 1), ["inputs", *middle, "outputs"])
            ax.set_xticks(range(len(text)), list(text))
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set(title=name, xlim=(-1.5, len(text) - 0.5))


def _tables(model: GPT, T: int) -> list[np.ndarray]:
    """Where each layer has a weight above 0: (T_query, T_key) booleans, the keys with the ∅."""
    with record_attention(model) as maps, torch.no_grad():
        model(torch.ones(1, T, dtype=torch.long))
    return [array(weights[0].amax(0) > 0) for weights in maps]


def _columns(model: GPT, tables: list[np.ndarray], T: int) -> list[list[int]]:
    """The horizontal position of the points below and above each layer."""
    inputs, s = list(range(T)), model.config.stride
    if not model.config.has_latents:
        return [inputs] * (len(tables) + 1)
    latents = [s * (i + 1) - 1 for i in range(len(tables[0]))]
    xs = [inputs, *[latents] * (len(tables) - 1), inputs]
    if tables[-1].shape[1] > len(latents):  # the null latent: nothing leads to it
        xs[-2] = [-1, *latents]
        tables[-2] = np.pad(tables[-2], ((1, 0), (0, 0)))
    return xs


def _dots(ax: Any, xs: Sequence[int], y: int, live: set[int]) -> None:
    colours = [BLUE if i in live else "#a0a0a0" for i in range(len(xs))]
    ax.scatter(xs, [y] * len(xs), s=28, color=colours, zorder=3)


def draw_sight(tables: Mapping[str, Any], title: str, alt: str) -> None:
    """Draw which inputs each output depends on: (T, T) booleans, outputs by inputs, per panel."""
    with picture_row(len(tables), 3.6, alt, title, sharey=True) as axes:
        colours = {"depends on it": BLUE, "earlier, but does not": ORANGE, "in the future": GREY}
        for ax, (name, table) in zip(axes, tables.items(), strict=True):
            table = array(table)
            earlier = np.tri(len(table), dtype=bool)
            cells = np.where(table, 0, np.where(earlier, 1, 2))
            ax.imshow(cells, cmap=ListedColormap(list(colours.values())), vmin=0, vmax=2)
            ax.set(title=name, xlabel="input (position)")
        axes[0].set_ylabel("output (position)")
        handles = [Patch(color=colour, label=label) for label, colour in colours.items()]
        axes[0].figure.legend(handles=handles, loc="outside lower center", ncols=3)


def draw_losses(
    panels: Mapping[str, Mapping[str, Any]],
    theory: Mapping[str, Any],
    mark: int,
    title: str,
    alt: str,
) -> None:
    """Draw losses by position, means of two neighbours; one panel per comparison.

    Args:
        panels: By the panel's title, losses from position 1 on, (T - 1,), by the line's name.
        theory: The same for dashed lines, in every panel.
        mark: The position at which a dotted line is drawn.
        title, alt: As in the other pictures.
    """
    with picture_row(len(panels), 3.4, alt, title, sharey=True) as axes:
        for ax, (name, lines) in zip(axes, panels.items(), strict=True):
            for label, losses in [*lines.items(), *theory.items()]:
                pairs = array(losses)[: len(losses) // 2 * 2].reshape(-1, 2).mean(1)
                is_dashed = label in theory
                line = dict(ls="--", color="#777777") if is_dashed else dict(marker="o", ms=3)
                ax.plot(1.5 + 2 * np.arange(len(pairs)), pairs, label=label, **line)
            ax.axvline(mark, color="#777777", ls=":", label=f"m = {mark}")
            ax.set(title=name, xlabel="position in the text")
            ax.set_ylim(bottom=0)
            ax.legend(frameon=True, fontsize=8)
        axes[0].set_ylabel("loss (nats per character)")
