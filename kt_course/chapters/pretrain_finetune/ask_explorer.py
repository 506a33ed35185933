"""Ask several models where somebody was born: their answers, probabilities and attention."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kt_core.corpora.loading import SPLITS, Corpus, question, question_name
from kt_core.models import GPT
from kt_core.vocab import MASK, CharVocab
from kt_course.explorers.beam_search import top_answers
from kt_course.explorers.panels import HIGH, LINE, answer_bars, on_text, scale
from kt_course.explorers.reading import Reading, read
from kt_course.explorers.shell import Choice, Slider, View, Words, explorer, page
from kt_course.figures.style import visible

ALL_HEADS = "mean of all"


def name_in(text: str) -> str:
    """Return the name in "Where was NAME born?"; another text as it is."""
    try:
        return question_name(text)
    except ValueError:
        return text


def person_facts(corpus: Corpus, text: str) -> tuple[str, str | None]:
    """Describe what training could know of the person in a question.

    Returns:
        Sentences, and the correct answer (None if it is unknown).
    """
    name = name_in(text)
    lines = sum(document.startswith(f"{name}. ") for document in corpus.documents)
    plural, verb = ("", "is") if lines == 1 else ("s", "are")
    facts = f"{lines or 'No'} line{plural} of the pretraining text {verb} about {name}"
    answers = {split: a for split in SPLITS for q, a in getattr(corpus, split) if q == text}
    if not answers:
        made_up = "" if lines else " Every answer is made up."
        return f"{facts}, and no split asks for {name}.{made_up}", None
    split, answer = next(iter(answers.items()))
    training = "no training saw the question"
    if split == "train":
        training = (
            "finetuning saw the question with its answer "
            "(pretraining did too, if it is of the mixed kind)"
        )
    gold = f"The right answer: {answer}." if answer else "The right answer is not given."
    return f"{facts}; the question is in {split}: {training}. {gold}", answer


def first_attention(reading: Reading, layer: int, head: str | int) -> tuple[np.ndarray, np.ndarray]:
    """Return what the query attends to that writes the answer's first character.

    Returns:
        Its weights on the text, (T,), and which characters it may know, (T,).
    """
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
    """Type a name (or a question): what each model answers, and what it attends to.

    Args:
        models: Up to four models by name, all on `vocab`.
        vocab, corpus: The corpus says in which split a person is.
        name: The first one to ask for; a person of dev if None.
        width: Answers per model, found by beam search.
    """
    if not 1 <= len(models) <= 4:
        raise ValueError(f"explore_answers compares one to four models, not {len(models)}")
    known = [name_in(q) for split in SPLITS for q, _ in getattr(corpus, split)[:12]]
    if name is None:
        name = next((name_in(q) for q, _ in corpus.dev), known[0] if known else "Ada Hall")
    room = min(model.config.block_size for model in models.values()) - len(question("") + MASK) - 1

    @lru_cache(maxsize=64)
    def answers_of(label: str, text: str) -> list[tuple[str, float]]:
        return top_answers(models[label], vocab, text, width)

    @lru_cache(maxsize=64)
    def reading_of(label: str, text: str) -> Reading:
        return read(models[label], vocab, text + MASK)

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        text, notice = state["name"].strip(), ""
        if not text:
            raise ValueError(f"Type a name and press Enter, for example {name}.")
        person = name_in(text)
        if person != text or not text.endswith("?"):  # else a question of another form
            if len(person) > room:
                notice = f"The name has {len(person)} characters, a question has room for {room}: "
                notice += "the rest is cut off."
            text = question(person[:room])
        facts, right = person_facts(corpus, text)
        top, height = 0.75 + 0.27 * width, 0.42 + HIGH * -(-(len(text) + 1) // LINE)
        figure, ax = page(9, top + 0.5 + height * len(models) + 0.6)
        best = []
        for i, label in enumerate(models):
            answers, reading = answers_of(label, text), reading_of(label, text)
            left, column = 0.3 + 8.6 / len(models) * i, 8.6 / len(models)
            ax.text(left, 0.3, label, fontsize=11)
            answer_bars(ax, answers, right, left - 0.1, 0.48, column)
            attention = first_attention(reading, state["layer"], state["head"])
            draw_attention(ax, label, answers[0][0], reading, attention, top + 0.55 + height * i)
            best.append(f"{label}: {answers[0][0] or '(nothing)'} {100 * answers[0][1]:.0f} %")
        head = "mean of all heads" if state["head"] == ALL_HEADS else f"head {state['head']}"
        title = "What ⁇ attends to when it writes the answer's first character"
        ax.text(0.3, top + 0.2, f"{title} (layer {state['layer']}, {head})")
        scale(ax, 0.35, top + 0.42 + height * len(models), 3.0)
        return View(figure, f"{facts} {'; '.join(best)}.", notice)

    config = next(iter(models.values())).config
    controls = dict(
        name=Words("Where was … born? Name:", name, tuple(dict.fromkeys(known))),
        layer=Slider("layer", config.n_layer - 1, config.n_layer - 1),
        head=Choice("head", [ALL_HEADS, *range(config.n_head)]),
    )
    return explorer("ask the model", draw, controls)


def draw_attention(
    ax: Axes, label: str, answer: str, reading: Reading, attention: tuple, y: float
) -> None:
    """Draw one model's attention over the question, under a line about its first character."""
    begins = f"writes “{visible(answer[:1])[0]}” first" if answer else "ends at once"
    ax.text(0.3, y - 0.06, f"{label}: {begins}", fontsize=9)
    on_text(ax, reading.signs, *attention, None, 0.3, y)
