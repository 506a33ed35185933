"""The pictures of chapter 11. Each function draws one and shows it with its alt text."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt

from kt_core.evaluation import Score
from kt_course.explorers.living_page import LivingView, attach_data
from kt_course.figures import plots
from kt_course.figures.alt_text import show
from kt_course.figures.gpt_figures import attention_head
from kt_course.figures.panels import picture, picture_row
from kt_course.figures.plots import whiskers
from kt_course.figures.style import BLACK, GREY, SKY, WIDTH, array, in_style, write_numbers


def parameter_shares(table: Mapping[str, Mapping[str, int]], title: str, alt: str) -> None:
    """Draw which share of each model's parameters its parts take, as stacked bars."""
    with picture(2.9, alt) as ax:
        left = dict.fromkeys(table, 0.0)
        for part in next(iter(table.values())):
            share = {name: 100 * row[part] / sum(row.values()) for name, row in table.items()}
            bars = ax.barh(list(share), list(share.values()), left=list(left.values()), label=part)
            for bar, value in zip(bars, share.values(), strict=True):
                if value >= 6:
                    middle = bar.get_x() + value / 2, bar.get_y() + 0.4
                    ax.text(*middle, f"{value:.0f}", ha="center", va="center", fontsize=9)
            left = {name: left[name] + share[name] for name in left}
        ax.invert_yaxis()
        ax.set(xlabel="share of the parameters (%)", title=title, xlim=(0, 100))
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def fill_bars(answers: Mapping[str, Sequence[tuple[str, float]]], title: str, alt: str) -> None:
    """Draw the likeliest fillings of each gap, as (token, probability) pairs."""
    with picture_row(len(answers), 2.7, alt, title, sharex=True) as axes:
        for ax, (text, pairs) in zip(axes, answers.items(), strict=True):
            tokens, values = zip(*pairs, strict=True)
            ax.barh(range(len(pairs)), [100 * v for v in values], color=SKY)
            ax.set_yticks(range(len(pairs)), tokens)
            ax.invert_yaxis()
            ax.set_title(text, fontsize=9.5)
            ax.set_xlabel("probability (%)")


def token_strips(rows: Mapping[str, Sequence[tuple[int, int]]], text: str, title: str, alt: str):
    """Draw a text once per tokenizer, its tokens on alternating grounds.

    Args:
        rows: Each tokenizer's (start, end) of every token.
    """
    with picture(0.42 * len(rows) + 0.7, alt) as ax:
        letters = dict(ha="center", va="center", family="DejaVu Sans Mono", fontsize=8)
        for row, (name, spans) in enumerate(rows.items()):
            for i, (start, end) in enumerate(spans):
                ground = ("#BFD7EA", "#F6D6AD")[i % 2]
                ax.barh(row, end - start, left=start, height=0.8, color=ground)
            for k, letter in enumerate(text):
                ax.text(k + 0.5, row, letter, **letters)
            ax.text(-0.8, row, f"{name}: {len(spans)}", ha="right", va="center", fontsize=9)
        ax.set(xlim=(0, len(text)), ylim=(len(rows) - 0.5, -0.5), xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(False)


def square_map(
    values: Any, rows: Sequence[str], columns: Sequence[str], unit: str, title: str, alt: str
) -> None:
    """Draw a matrix of numbers between 0 and 1 on a linear scale; with numbers if it is small."""
    values = array(values)
    size = max(values.shape)
    with picture(4.6, alt) as ax:
        image = ax.imshow(values, cmap="Blues", vmin=0, vmax=1)
        if size <= 8:
            write_numbers(ax, values, 2, 1.0)
        ax.set_xticks(range(len(columns)), columns, rotation=60, ha="right")
        ax.set_yticks(range(len(rows)), rows)
        ax.figure.colorbar(image, ax=ax, label=unit, shrink=0.8)
        ax.set_title(title)


def explore_heads(maps: Any, tokens: Sequence[str], layer: int, head: int) -> LivingView:
    """Look at every head of a model: `maps` is (n_layer, n_head, T, T).

    The picture shows one head. The page gets weights in thousandths, one string per head.
    """
    weight = float(maps[layer, head].diagonal(1).mean())
    title = f"Layer {layer}, head {head}: {100 * weight:.0f} % of the weight is on the next token"
    data = dict(tokens=list(tokens), layer=layer, head=head)
    rows = (1000 * maps).round().int().flatten(2).tolist()
    data["maps"] = [[",".join(map(str, head)) for head in layer] for layer in rows]
    figure = attention_head(maps[layer, head], tokens, tokens, title)
    figure.axes[0].tick_params("x", rotation=90)
    alt = f"Attention over {len(tokens)} tokens. {title}, averaged over tokens."
    return attach_data("heads", data, alt=alt, picture=figure)


@in_style
def cost_curves(
    x: Sequence[float], curves: Mapping[str, Sequence[float]], title: str, alt: str
) -> None:
    """Draw what unseen lines cost against the text read."""
    labels = "text read (million characters)", "bits per character"
    show(plots.curves(x, curves, *labels, title, marker="o"), alt)


def mistake_bars(added: Mapping[str, float], correct: float, title: str, alt: str) -> None:
    """Draw what each silent mistake adds to the cost of the text; negative values as well."""
    with picture(3.2, alt) as ax:
        bars = ax.barh(list(added), list(added.values()), color=SKY)
        for bar, value in zip(bars, added.values(), strict=True):
            at = max(value, 0) + 0.04, bar.get_y() + 0.4
            ax.text(*at, f"{value:+.4f}", va="center", fontsize=9)
        ax.invert_yaxis()
        ax.axvline(0, color=BLACK, lw=0.8)
        ax.margins(x=0.15)
        ax.set(title=title, xlabel=f"bits per character in addition to the correct {correct:.2f}")


@in_style
def padded_rows(panels: Mapping[str, tuple[Any, Sequence[str]]], alt: str) -> None:
    """Draw batches as rows of characters; padding (id 0) is grey."""
    figure, axes = plt.subplots(len(panels), 1, figsize=(WIDTH, 2.8))
    letters = dict(ha="center", va="center", family="DejaVu Sans Mono", fontsize=9)
    for ax, (title, (ids, texts)) in zip(axes, panels.items(), strict=True):
        ax.imshow(array(ids) == 0, cmap="Greys", vmin=0, vmax=4, aspect="auto")
        for row, text in enumerate(texts):
            for column, letter in enumerate(text):
                ax.text(column, row, letter, **letters)
        ax.set(yticks=[], title=title)
    axes[-1].set_xlabel("position in the row")
    show(figure, alt)


def score_bars(groups: Mapping[str, Mapping[str, Score]], title: str, alt: str) -> None:
    """Draw accuracies by group with their 95 % intervals, side by side."""
    with picture(3.2, alt) as ax:
        kinds = list(next(iter(groups.values())))
        for k, kind in enumerate(kinds):
            scores = [group[kind] for group in groups.values()]
            at = [i + 0.27 * (k - (len(kinds) - 1) / 2) for i in range(len(groups))]
            heights = [100 * s.accuracy for s in scores]
            ax.bar(at, heights, 0.25, yerr=whiskers(scores), ecolor=GREY, capsize=2, label=kind)
        ax.set_xticks(range(len(groups)), list(groups))
        ax.set(ylabel="correct answers (%)", ylim=(0, 105), title=title)
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
