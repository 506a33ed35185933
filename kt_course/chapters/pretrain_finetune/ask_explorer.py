"""Ask the model: a name, and what several models answer, how surely, and where they look as they begin."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from kt_core.corpora.loading import SPLITS, Corpus, question, question_name
from kt_core.models import GPT
from kt_core.vocab import MASK, CharVocab
from kt_course.explorers.beam_search import top_answers
from kt_course.explorers.panels import HIGH, LINE, answer_bars, on_text, scale
from kt_course.explorers.reading import Reading, read
from kt_course.explorers.shell import Choice, Slider, View, Words, explorer, page
from kt_course.figures.style import visible

ALL_HEADS = "mean of all"


def name_in(asked: str) -> str:
    """The name in "Where was NAME born?"; a question of another form as it is."""
    try:
        return question_name(asked)
    except ValueError:
        return asked


def person_facts(corpus: Corpus, asked: str) -> tuple[str, str | None]:
    """What training could know of the person asked for, in words, and the right answer (None where it is not known)."""
    name = name_in(asked)
    lines = sum(document.startswith(f"{name}. ") for document in corpus.documents)
    text = f"{lines or 'No'} line{'s' * (lines != 1)} of the pretraining text {'is' if lines == 1 else 'are'} about {name}"
    found = {split: told for split in SPLITS for q, told in getattr(corpus, split) if q == asked}
    if not found:
        return (
            f"{text}, and no split asks for {name}.{'' if lines else ' Every answer is made up.'}",
            None,
        )
    split, told = next(iter(found.items()))
    seen = (
        "no training saw the question"
        if split != "train"
        else (
            "finetuning saw the question with its answer (pretraining did too, if it is of the mixed kind)"
        )
    )
    gold = f"The right answer: {told}." if told else "The right answer is not given."
    return f"{text}; the question is in {split}: {seen}. {gold}", told


def _first_look(reading: Reading, layer: int, head: str | int) -> tuple[np.ndarray, np.ndarray]:
    """(T,) weights of the query that writes the answer's first character, put on the text, and what it may know."""
    chosen = reading.layers[min(layer, len(reading.layers) - 1)]
    query = chosen.writer(len(reading.text))
    weights = chosen.weights[:, query]
    weights = weights.mean(0) if head == ALL_HEADS else weights[min(int(head), len(weights) - 1)]
    return chosen.over_text(weights, query, len(reading.text))


def explore_answers(
    models: Mapping[str, GPT],
    vocab: CharVocab,
    corpus: Corpus,
    name: str | None = None,
    *,
    width: int = 5,
) -> Any:
    """Type a name: the likeliest answers of each model (beam search), who was in which data, and where they look.

    A whole question does as well. `models`: up to four, name -> model, e.g. {"no pretraining": ..., "pretrained": ..., "finetuned": ...}, all on `vocab`.
    `name`: the first one asked for, a person of dev if None. `width`: answers a model.
    """
    if not 1 <= len(models) <= 4:
        raise ValueError(f"explore_answers compares one to four models, not {len(models)}")
    known = [name_in(q) for split in SPLITS for q, _ in getattr(corpus, split)[:12]]
    if name is None:
        name = next((name_in(q) for q, _ in corpus.dev), known[0] if known else "Ada Hall")
    room = min(model.config.block_size for model in models.values()) - len(question("") + MASK) - 1

    @lru_cache(maxsize=64)
    def answers_of(label: str, asked: str) -> list[tuple[str, float]]:
        return top_answers(models[label], vocab, asked, width)

    @lru_cache(maxsize=64)
    def reading_of(label: str, asked: str) -> Reading:
        return read(models[label], vocab, asked + MASK)

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        typed, notice = state["name"].strip(), ""
        if not typed:
            raise ValueError(f"Type a name and press Enter, for example {name}.")
        person = name_in(typed)
        if person != typed or not typed.endswith("?"):  # else a question of another form
            if len(person) > room:
                notice = f"The name has {len(person)} characters, a question has room for {room}: the rest is cut off."
            typed = question(person[:room])
        asked = typed
        facts, right = person_facts(corpus, asked)
        lines = -(-(len(asked) + 1) // LINE)
        block = 0.42 + HIGH * lines
        top = 0.75 + 0.27 * width
        figure, ax = page(9, top + 0.5 + block * len(models) + 0.6)
        column = 8.6 / len(models)
        best = []
        for i, label in enumerate(models):
            found, reading = answers_of(label, asked), reading_of(label, asked)
            ax.text(0.3 + column * i, 0.3, label, fontsize=11)
            answer_bars(ax, found, right, 0.2 + column * i, 0.48, column)
            y = top + 0.55 + block * i
            begins = (
                f"writes “{visible(found[0][0][:1])[0]}” first" if found[0][0] else "ends at once"
            )
            ax.text(0.3, y - 0.06, f"{label}: {begins}", fontsize=9)
            on_text(
                ax,
                reading.signs,
                *_first_look(reading, state["layer"], state["head"]),
                None,
                0.3,
                y,
            )
            best.append(f"{label}: {found[0][0] or '(nothing)'} {100 * found[0][1]:.0f} %")
        head = "mean of all heads" if state["head"] == ALL_HEADS else f"head {state['head']}"
        told = f"Where ⁇ looks when it writes the answer's first character (layer {state['layer']}, {head})"
        ax.text(0.3, top + 0.2, told)
        scale(ax, 0.35, top + 0.42 + block * len(models), 3.0)
        return View(figure, f"{facts} {'; '.join(best)}.", notice)

    config = next(iter(models.values())).config
    controls = dict(
        name=Words("Where was … born? Name:", name, tuple(dict.fromkeys(known))),
        layer=Slider("layer", config.n_layer - 1, config.n_layer - 1),
        head=Choice("head", [ALL_HEADS, *range(config.n_head)]),
    )
    return explorer("ask the model", draw, controls)
