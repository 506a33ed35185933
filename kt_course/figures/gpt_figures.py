"""Pictures of a GPT: its shapes, small attention maps, losses, and predicted characters."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kt_core.models import GPTConfig
from kt_course.figures import style
from kt_course.figures.alt_text import show
from kt_course.figures.panels import picture, picture_row
from kt_course.figures.style import array, in_style, visible, write_numbers

STREAM = 3.0  # where the residual stream is in `gpt_shapes`
THIN = dict(arrowstyle="-|>", color=style.BLACK)


def gpt_shapes(config: GPTConfig, alt: str) -> None:
    """Draw the model from characters (bottom) to logits (top), with the shape after each step."""
    C, V = config.n_embd, config.vocab_size
    with picture(7.2, alt) as ax:
        ax.set(xlim=(0, 9), ylim=(-0.2, 8.6))
        ax.axis("off")
        for low, high in ((0.41, 0.89), (6.71, 7.09), (7.51, 7.99)):
            ax.annotate("", (STREAM, high), (STREAM, low), arrowprops=THIN)
        thick = dict(arrowstyle="-|>", color=style.BLUE, lw=3)
        ax.annotate("", (STREAM, 6.29), (STREAM, 1.31), arrowprops=thick)
        for y, text, width in (
            (0.2, "characters as ids: idx", 2.6),
            (1.1, "token vector + position vector", 3.0),
            (6.5, "final LayerNorm: ln_f", 2.6),
            (7.3, "head: C → V", 2.6),
            (8.2, "logits of the next character", 2.8),
        ):
            _box(ax, STREAM, y, text, width)
        ax.add_patch(plt.Rectangle((1.6, 1.75), 6.0, 4.15, fill=False, ls="--", ec="#777777"))
        blocks = f"one block;\nthe model has\n{config.n_layer} of them"
        ax.text(7.75, 3.8, blocks, va="center", color="#555555")
        _branch(ax, 2.3, "ln1", "attention", "gathers from\nearlier positions")
        _branch(ax, 4.4, "ln2", "MLP", "computes at\neach position")
        shapes = {0.65: "(B, T)", 7.75: f"(B, T, {V})"}
        shapes |= dict.fromkeys((1.5, 3.55, 5.65, 6.9), f"(B, T, {C})")
        for y, text in shapes.items():
            ax.text(STREAM - 0.15, y, text, ha="right", va="center", fontsize=9)
        ax.text(1.65, 6.02, "residual stream", color=style.BLUE, fontsize=9)
        ax.set_title("Every block reads the residual stream and adds to it")


def _branch(ax: Axes, y: float, norm: str, part: str, note: str) -> None:
    """Draw what a part of a block reads from the stream, and adds to it."""
    top = y + 0.75
    _box(ax, 5.4, y, f"LayerNorm: {norm}", 1.7)
    _box(ax, 5.4, top, part, 1.7, style.ORANGE)
    for start, end in (
        ((STREAM, y), (4.52, y)),
        ((5.4, y + 0.2), (5.4, y + 0.53)),
        ((4.52, top), (STREAM + 0.2, top)),
    ):
        ax.annotate("", end, start, arrowprops=THIN)
    plus = dict(boxstyle="circle,pad=0.15", fc="white", ec=style.BLUE, lw=2)
    middle = dict(ha="center", va="center")
    ax.text(STREAM, top, "+", fontsize=14, color=style.BLUE, bbox=plus, **middle)
    ax.text(6.35, top, note, va="center", fontsize=8, color="#555555")


def _box(ax: Axes, x: float, y: float, text: str, width: float, colour: str = style.SKY) -> None:
    ax.text(x, y, text, ha="center", va="center", fontsize=9.5, zorder=3)
    corner = x - width / 2, y - 0.21
    ax.add_patch(plt.Rectangle(corner, width, 0.42, fc=colour, ec=style.BLACK, zorder=2))


@in_style
def attention_weights(
    weights, text: Sequence[str], title: str, alt: str, note: tuple[int, int, str] | None = None
) -> None:
    """Draw one head's weights, (T, T), on a linear scale; with numbers if there are at most 8 rows.

    The positions after the query are grey: the causal mask forbids them. A note (query, key, text)
    is written there, with an arrow to its cell.
    """
    weights, T = array(weights), len(text)
    cell = 0.75 if T <= 8 else 0.19
    figure, ax = plt.subplots(figsize=(min(style.WIDTH, cell * T + 2.6), cell * T + 1.3))
    future = np.triu(np.ones((T, T), dtype=bool), 1)
    ax.set_facecolor(style.GREY)
    image = ax.imshow(np.ma.masked_array(weights, future), cmap="Blues", vmin=0, vmax=1)
    labels = visible(text)
    ax.set_xticks(range(T), labels)
    ax.set_yticks(range(T), labels)
    ax.tick_params(length=0, labelsize=9 if T <= 40 else 7)
    if T <= 8:
        write_numbers(ax, np.where(future, np.nan, weights), 2, 1.0)
    if note is not None:
        query, key, words = note
        arrow = dict(arrowstyle="->", color=style.BLACK, connectionstyle="arc3,rad=0.2")
        corner = (T - 0.7, 0.0)
        ax.annotate(words, (key, query), corner, ha="right", va="center", arrowprops=arrow)
    figure.colorbar(image, ax=ax, label="attention weight (each row sums to 1)", shrink=0.8)
    ax.set(title=title, xlabel="key: position attended to", ylabel="query: position that reads")
    show(figure, alt)


@in_style
def attention_head(
    weights,
    queries: Sequence[str],
    keys: Sequence[str],
    title: str,
    note: tuple[int, int, str] | None = None,
) -> Figure:
    """Return a figure of one head's weights, (T_query, T_key), on a linear scale from 0 to 1.

    A note (query, key, text) is written beside the map, with an arrow to its cell.
    """
    width, height = min(style.WIDTH, 0.2 * len(keys) + 3.2), 0.2 * len(queries) + 1.4
    figure, ax = plt.subplots(figsize=(width, height))
    image = ax.imshow(array(weights), cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(len(keys)), visible(keys))
    ax.set_yticks(range(len(queries)), visible(queries))
    ax.tick_params(length=0, labelsize=8)
    if note is not None:
        query, key, words = note
        arrow = dict(arrowstyle="->", color=style.BLACK)
        place = (len(keys) - 0.8, 0.0)
        ax.annotate(words, (key, query), place, ha="right", va="top", arrowprops=arrow)
    figure.colorbar(image, ax=ax, label="attention weight", shrink=0.8)
    ax.set(title=title, xlabel="key: what is attended to", ylabel="query: what attends")
    plt.close(figure)
    return figure


def loss_curves(
    curves: Mapping[str, Sequence[float]],
    levels: Mapping[str, float],
    title: str,
    alt: str,
    unit: str = "nats per character",
) -> None:
    """Draw losses by training step, with dashed levels to compare them with."""
    with picture(3.6, alt) as ax:
        for name, losses in curves.items():
            ax.plot(range(1, len(losses) + 1), losses, label=name)
        last = max(map(len, curves.values()))
        for name, level in levels.items():
            ax.axhline(level, color="#777777", lw=1, ls="--")
            ax.text(last, level, f"{name}: {level:.2f} ", ha="right", va="bottom", fontsize=9)
        ax.set(title=title, xlabel="training step", ylabel=f"loss ({unit})")
        ax.set_ylim(bottom=0)
        if len(curves) > 1:
            ax.legend(loc="upper right", bbox_to_anchor=(1, 0.92))


def next_characters(
    prompts: Sequence[str], choices: Sequence[Sequence[tuple[str, float]]], title: str, alt: str
) -> None:
    """Draw the most likely next characters after each prompt, as (character, probability) pairs."""
    with picture_row(len(prompts), 2.8, alt, title, sharex=True) as axes:
        for ax, prompt, pairs in zip(axes, prompts, choices, strict=True):
            labels, values = zip(*pairs, strict=True)
            places = range(len(pairs))
            ax.barh(places, [100 * value for value in values], color=style.SKY)
            for place, value in zip(places, values, strict=True):
                ax.text(100 * value + 2, place, f"{100 * value:.0f} %", va="center", fontsize=9)
            ax.set_yticks(places, visible(labels))
            ax.invert_yaxis()
            ax.set(xlim=(0, 118), xticks=[0, 50, 100], xlabel="probability (%)")
            ax.set_title(f"… {prompt[-22:]}", fontsize=10)
