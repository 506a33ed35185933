"""Pictures of chapter 9: curves, the architecture, alignments, a translation, a beam."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from kt_course._typing import Bool, Float, Tensor
from kt_course.explorers.living_page import LivingView, attach_data
from kt_course.figures import plots
from kt_course.figures.alt_text import show
from kt_course.figures.panels import picture, picture_row
from kt_course.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    WIDTH,
    array,
    in_style,
)

# title, weights, target tokens, source tokens
Aligned = tuple[str, Float[Tensor, "T S"], Sequence[str], Sequence[str]]


def curve_panels(alt: str, *panels: Mapping[str, Any], ylim: tuple | None = None) -> None:
    """Draw panels side by side; each gives the arguments of `plots.curves`.

    Values of shape (seeds, points) are drawn as their mean, with a band from lowest to highest.
    """
    with picture_row(len(panels), 3.6, alt) as axes:
        for ax, panel in zip(axes, panels, strict=True):
            values = {name: np.atleast_2d(array(y)) for name, y in panel["ys"].items()}
            means = {name: y.mean(0) for name, y in values.items()}
            plots.curves(**{"marker": "o"} | dict(panel) | dict(ys=means, ax=ax))
            for line, y in zip(ax.get_lines(), values.values(), strict=True):
                if len(y) > 1:
                    ax.fill_between(line.get_xdata(), y.min(0), y.max(0), alpha=0.25, lw=0)
            if len(panel["xs"]) < 10:
                ax.set_xticks(panel["xs"], panel["xs"])
                ax.minorticks_off()
            if ylim:
                ax.set_ylim(ylim)


# ---------------------------------------------------------------- the architecture


def _box(ax: Axes, x: float, y: float, text: str, colour: str, width: float = 2.3) -> None:
    box = dict(fc=colour, ec=BLACK, lw=0.8, zorder=3)
    ax.add_patch(plt.Rectangle((x - width / 2, y - 0.21), width, 0.42, **box))
    ax.text(x, y, text, ha="center", va="center", fontsize=9, zorder=4)


def _arrow(ax: Axes, *points: tuple[float, float], **style: Any) -> None:
    """Draw a line through the points, with an arrow head at the last one."""
    style = dict(color=BLACK, lw=1.3) | style
    ax.plot(*zip(*points, strict=True), zorder=1, solid_capstyle="butt", **style)
    ax.annotate("", points[-1], points[-2], arrowprops=dict(arrowstyle="-|>", **style), zorder=1)


def _sublayer(ax: Axes, x: float, y: float, text: str, colour: str, norm: str, side: int) -> None:
    """Draw a sublayer on the stream at x, its residual connection, the sum and the norm."""
    branch = x + 1.6 * side
    plus = y + 1.0
    _arrow(ax, (x, y - 0.45), (x, plus - 0.17), color=BLUE, lw=3)  # the residual connection
    start = y - 0.3
    if norm == "pre":
        _arrow(ax, (x, start), (branch, start), (branch, y - 0.06))
        _box(ax, branch, y + 0.15, "Norm", GREY, 1.9)
        _arrow(ax, (branch, y + 0.36), (branch, y + 0.49))
        _box(ax, branch, y + 0.7, text, colour, 1.9)
        _arrow(ax, (branch, y + 0.91), (branch, plus), (x + 0.17 * side, plus))
    else:
        _arrow(ax, (x, start), (branch, start), (branch, y + 0.14))
        _box(ax, branch, y + 0.35, text, colour, 1.9)
        _arrow(ax, (branch, y + 0.56), (branch, plus), (x + 0.17 * side, plus))
        _arrow(ax, (x, plus + 0.17), (x, plus + 0.3), color=BLUE, lw=3)
        _box(ax, x, plus + 0.5, "Norm", GREY, 1.3)
    circle = dict(boxstyle="circle,pad=0.1", fc="white", ec=BLUE, lw=2)
    ax.text(x, plus, "+", ha="center", va="center", fontsize=12, color=BLUE, bbox=circle, zorder=5)


ENCODER = (("self-attention", ORANGE), ("feed-forward", "#8FD3B6"))
DECODER = (("causal self-attention", ORANGE), ("cross-attention", "#F3A683"), ENCODER[1])
STEP = dict(pre=1.75, post=2.1)  # the height of a sublayer


def _stack(
    ax: Axes, x: float, below: str, sublayers: Sequence[tuple], norm: str, side: int
) -> float:
    """Draw the input and one block, framed, on the stream at x; return where the block ends."""
    step = STEP[norm]
    end = 1.5 + step * len(sublayers)
    _box(ax, x, 0, below, "white")
    _arrow(ax, (x, 0.21), (x, 0.49))
    _box(ax, x, 0.7, "embedding · √C + positions", SKY, 2.9)
    _arrow(ax, (x, 0.91), (x, 1.6), color=BLUE, lw=3)
    for i, (text, colour) in enumerate(sublayers):
        _sublayer(ax, x, 1.9 + step * i, text, colour, norm, side)
        if i + 1 < len(sublayers):
            _arrow(ax, (x, 2.9 + step * i), (x, 1.6 + step * (i + 1)), color=BLUE, lw=3)
    corner = min(x - 0.5, x + side * 2.75), 1.35
    frame = dict(fill=False, ls="--", ec="#777777")
    ax.add_patch(plt.Rectangle(corner, 3.25, end - 1.2, **frame))
    ax.text(x + side * 2.85, end / 2 + 0.7, "N×", ha="center", color="#555555", rotation=90)
    _arrow(ax, (x, end - 0.1), (x, end + 0.29), color=BLUE, lw=3)
    return end


@in_style
def architecture(norm: str, alt: str) -> None:
    """Draw encoder and decoder with every residual connection, sum and norm ("pre" or "post")."""
    is_pre, left, right = norm == "pre", 1.2, 6.0
    figure = plt.figure(figsize=(WIDTH, 6.6 if is_pre else 7.6))
    ax = figure.add_subplot()
    memory = _stack(ax, left, "source tokens", ENCODER, norm, -1) + 0.5
    out = _stack(ax, right, "▶ and the target so far", DECODER, norm, 1) + 0.5
    _box(ax, left, memory, "Norm → memory" if is_pre else "memory", GREY)
    cross = 1.9 + STEP[norm] + (0.7 if is_pre else 0.35)
    _arrow(ax, (left + 1.15, memory), (4.3, memory), (4.3, cross), (right + 0.65, cross))
    ax.text(4.2, memory + 0.1, "keys and values", ha="right", fontsize=9)
    if is_pre:
        _box(ax, right, out, "Norm", GREY)
        _arrow(ax, (right, out + 0.21), (right, out + 0.49))
    logits = out + 0.7 * is_pre
    _box(ax, right, logits, "linear layer, softmax", "white")
    ax.text(right, logits + 0.35, "next token", ha="center", fontsize=9)
    ax.text(left + 0.12, 1.12, "residual stream", color=BLUE, fontsize=9, va="center")
    ax.set(xlim=(-2.1, 9.1), ylim=(-0.3, out + 1.5))
    ax.axis("off")
    ax.set_title("Pre-norm: the norm is in the branch" if is_pre else "2017: Add, then Norm")
    show(figure, alt)


# ---------------------------------------------------------------- attention


@in_style
def alignments(rows: Sequence[Sequence[Aligned]], alt: str, height: float = 3.6) -> None:
    """Draw attention maps on a linear scale, one row of panels after the other."""
    n = max(map(len, rows))
    size = (WIDTH, height * len(rows))
    figure, axes = plt.subplots(len(rows), n, figsize=size, squeeze=False)
    for ax, (title, weights, row_tokens, column_tokens) in zip(
        axes.flat, [panel for row in rows for panel in row], strict=True
    ):
        image = ax.imshow(array(weights), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        longest = max(map(len, column_tokens))
        ax.set_xticks(range(len(column_tokens)), column_tokens, rotation=90 * (longest > 1))
        ax.set_yticks(range(len(row_tokens)), row_tokens)
        ax.tick_params(length=0, labelsize=8)
        ax.set(title=title, xlabel="source", ylabel="target")
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.8)
    show(figure, alt)


def explore_translation(translations: Sequence[dict], alt: str) -> LivingView:
    """Step through translations; the picture shows all steps of the first one.

    Each is dict(source=tokens, steps=[dict(weights=over the source, choices=[(token, p), ...])]).
    """
    figure = draw_translation(**translations[0])
    return attach_data("translation", dict(translations=translations), alt=alt, picture=figure)


@in_style
def draw_translation(source: Sequence[str], steps: Sequence[dict]) -> Figure:
    """Draw one row per written token: what the decoder attends to, and its likeliest tokens."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.42 * len(steps) + 1.1))
    maps = np.array([step["weights"] for step in steps])
    image = ax.imshow(maps, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for t, choices in enumerate(step["choices"] for step in steps):
        for s, weight in enumerate(maps[t]):
            colour = "white" if weight > 0.6 else BLACK
            ax.text(s, t, source[s], ha="center", va="center", fontsize=9, color=colour)
        others = ",  ".join(f"{token} {100 * p:.0f} %" for token, p in choices)
        ax.text(len(source) - 0.4, t, others, va="center", fontsize=9)
    written = [step["choices"][0][0] for step in steps]
    ax.set_yticks(range(len(steps)), [f"{t + 1}. {token}" for t, token in enumerate(written)])
    ax.set(xticks=[], xlim=(-0.5, 1.7 * len(source)), ylabel="token written")
    ax.set_title(
        "Each row: source words by attention weight, then the likeliest tokens", loc="left"
    )
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, label="attention weight", shrink=0.9, aspect=12)
    plt.close(figure)
    return figure


def dependences(
    panels: Mapping[str, tuple[Bool[Tensor, "T S"], Sequence[str]]], split: int, alt: str
) -> None:
    """Draw which inputs (columns) each output (row) depends on; `split` tokens are the source."""
    widths = [len(tokens) for _, tokens in panels.values()]
    title = "Blue: self-attention. Orange: cross-attention. Green: the target's past."
    with picture_row(len(panels), 3.9, alt, title, width_ratios=widths) as axes:
        for ax, (name, (table, tokens)) in zip(axes, panels.items(), strict=True):
            colours = table.float()
            colours[split:, :split] *= 2
            colours[split:, split:] *= 3
            ax.imshow(colours, cmap=ListedColormap([GREY, BLUE, ORANGE, GREEN]), vmin=0, vmax=3)
            for set_ticks in (ax.set_xticks, ax.set_yticks):
                set_ticks(range(len(tokens)), tokens, fontsize=8)
                set_ticks(np.arange(len(tokens) - 1) + 0.5, minor=True)
            ax.tick_params(axis="x", labelrotation=90)
            ax.grid(which="minor", color="white", lw=1)
            ax.tick_params(which="both", length=0)
            ax.set(title=name, xlabel="input")
        axes[0].set_ylabel("output")


# ---------------------------------------------------------------- decoding


def word_tree(
    table: Mapping[tuple[str, ...], Mapping[str, float]],
    paths: Mapping[str, tuple[str, ...]],
    title: str,
    alt: str,
) -> None:
    """Draw a language of two-word texts as a tree; `paths` are drawn in red and blue."""
    with picture(3.4, alt) as ax:
        leaves = [(first, second) for first in table[()] for second in table[(first,)]]
        height = {leaf: -float(i) for i, leaf in enumerate(leaves)}
        for first in table[()]:
            height[(first,)] = float(np.mean([height[leaf] for leaf in leaves if leaf[0] == first]))
        height[()] = float(np.mean([height[(first,)] for first in table[()]]))
        colours = dict(zip(paths.values(), (VERMILION, BLUE), strict=True))
        for words, y in height.items():
            n = len(words)
            whole = float(np.prod([table[words[:i]][w] for i, w in enumerate(words)]))
            if words:
                p, below = table[words[:-1]][words[-1]], height[words[:-1]]
                on_path = [colour for path, colour in colours.items() if path[:n] == words]
                ax.plot([n - 1, n], [below, y], color=(*on_path, "#BBBBBB")[0], lw=1 + 5 * p)
                at = n - 0.42, 0.58 * y + 0.42 * below + 0.14
                ax.text(*at, f"{p:.1f}", ha="center", fontsize=9)
            label = ("▶", *words)[-1] + (f"   {whole:.2f}" if n == 2 else "")
            box = dict(facecolor="white", edgecolor="none", pad=1)
            ax.text(n + 0.03, y, label, va="center", bbox=box)
        ax.set(xlim=(-0.1, 2.6), xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(False)
