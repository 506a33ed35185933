"""Attention explorer: any text, any model, layer, head and query."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from kt_core.models import GPT
from kt_core.vocab import CharVocab
from kt_course.explorers.panels import HIGH, LINE, gallery, head_map, on_text, role, scale
from kt_course.explorers.reading import Layer, Reading, read
from kt_course.explorers.shell import Choice, Slider, View, Words, explorer, page

STAGES = ("after", "before")


def untrained(model: GPT) -> GPT:
    """A model of the same shape with fresh weights, the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT(model.config).to(model.head.weight.device).eval()


def largest_weights(layer: Layer, head: int, query: int, n: int = 3) -> str:
    """Name the keys with the largest weights: "“b” at 47 (23 %), ..."."""
    weights = layer.weights[head, query]
    best = np.argsort(-weights, kind="stable")[:n]
    return ", ".join(
        f"{layer.keys.names[k]} ({100 * weights[k]:.0f} %)" for k in best if weights[k] > 0
    )


def explore_attention(
    models: Mapping[str, GPT],
    vocab: CharVocab,
    text: str = "Where was Ada Hall born?⁇",
    *,
    layer: int | None = None,
) -> Any:
    """Type a text, pick a model (before or after training), layer, head and query.

    The map has queries as rows and keys as columns. All heads are beside it, and the chosen
    query's weights are on the text below. The mouse shows a cell's value; a click on the map
    chooses a query, and a click on a tile a head. In a perceiver a row or a column may be a
    latent, drawn as the newest character that it knows.

    Args:
        models: Trained models by name, all on `vocab`.
        vocab, text: The vocabulary, and the first text.
        layer: The first layer on view; the last one if None.
    """
    if not models:
        raise ValueError("explore_attention needs at least one model: {'rope': model}")

    @lru_cache(maxsize=2 * len(models))
    def model_of(name: str, stage: str) -> GPT:
        return models[name] if stage == "after" else untrained(models[name])

    @lru_cache(maxsize=16)
    def reading_of(name: str, stage: str, words: str) -> Reading:
        return read(model_of(name, stage), vocab, words)

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        reading = reading_of(state["model"], state["training"], state["text"])
        i = min(state["layer"], len(reading.layers) - 1)
        chosen = reading.layers[i]
        head = min(state["head"], len(chosen.weights) - 1)
        last = (
            len(chosen.queries.signs) - 1
        )  # the query that writes on: where a new text is begun with
        query = last if changed in (None, "text") else min(state["query"], last)
        figure, ax = page(9, 5.6 + HIGH * -(-len(reading.text) // LINE))
        title = f"{state['model']}, {state['training']} training: layer {i}, head {head}"
        ax.text(0.8, 0.32, title, fontsize=11)
        grids = [
            head_map(ax, chosen, head, query, 0.8, 0.45, 4.1),
            gallery(ax, reading, i, head, 5.5, 0.45, 3.4, 3.6),
        ]
        _, top, _, height = grids[1].box
        scale(ax, 5.5, top + height + 0.3, 3.2)
        weights, known = chosen.over_text(chosen.weights[head, query], query, len(reading.text))
        at = int(chosen.queries.at[query])
        on_text(ax, reading.signs, weights, known, at, 0.3, 5.4)
        note = (
            f"Layer {i}, head {head} ({role(chosen, head)}). {chosen.queries.names[query]} "
            f"looks at: {largest_weights(chosen, head, query)}."
        )
        limits = dict(layer=len(reading.layers) - 1, head=len(chosen.weights) - 1, query=last)
        return View(
            figure, note, reading.notice, grids, limits, dict(layer=i, head=head, query=query)
        )

    first = next(iter(models.values())).config
    start = first.n_layer - 1 if layer is None else layer
    if not 0 <= start < first.n_layer:
        raise ValueError(f"layer must lie in 0 ... {first.n_layer - 1}, not {layer}")
    controls = dict(
        text=Words("text (write ?? for the mask sign)", text),
        model=Choice("model", list(models)),
        training=Choice("training", STAGES),
        layer=Slider("layer", start, first.n_layer - 1),
        head=Slider("head", 0, first.n_head - 1),
        query=Slider("query", 0, first.block_size - 1),
    )
    return explorer("attention explorer", draw, controls)
