"""The recipe's windows: what the switches of span corruption make of one line, draw by draw, and what they ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kt_core.datasets import SPANS, SpanCorruption
from kt_core.runs.text_rules import name_prefix_end, salient_spans
from kt_core.vocab import MASK, CharVocab
from kt_course.explorers.panels import HIGH, LINE, characters, legend
from kt_course.explorers.shell import Choice, Slider, View, explorer, page
from kt_course.figures.style import ORANGE, SKY, VERMILION, YELLOW, visible

KINDS = {
    "the name": YELLOW,
    "other words": SKY,
    MASK: VERMILION,
    "asked for: the loss falls here": ORANGE,
}
NAME, WORDS, MARK, ASKED = KINDS.values()
DRAWN, COUNTED = 7, 200  # draws of the document: in the picture, and in the sentence below it
LONGEST = 4 * LINE  # characters of a document that are drawn
SHARES = {
    "whole": "whole line, %",
    "head_last": "name behind, %",
    "plain": "names and dates out, %",
    "drop": "words out, %",
    "ask": "as a question, %",
}


def explore_windows(
    documents: Sequence[str],
    vocab: CharVocab,
    block_size: int = 128,
    *,
    document: int = 0,
    spans: str = "names",
    whole: float = 0.0,
    head_last: float = 0.5,
    plain: float = 0.0,
    drop: float = 0.0,
    ask: float = 0.0,
) -> Any:
    """Move the switches of a recipe's windows (shares in 0 ... 1, see `SpanCorruption`) and see what pretraining reads.

    Above: a document, what may be asked for in orange. Below: windows of it, one an epoch. Every character is the dataset's own.
    """
    documents = list(documents)
    given = dict(whole=whole, head_last=head_last, plain=plain, drop=drop, ask=ask)

    def dataset(text: str, seed: int, spans: str, shares: Mapping[str, float]) -> SpanCorruption:
        return SpanCorruption(
            [text],
            vocab,
            block_size,
            seed,
            crop="window",
            spans=spans,
            loss="span",
            end_sentinel=True,
            **shares,
        )

    if not 0 <= document < len(documents):
        raise ValueError(f"document must lie in 0 ... {len(documents) - 1}, not {document}")
    dataset(
        documents[document], 0, spans, given
    )  # refuses a share or a kind of span that cannot be

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        text = documents[state["document"]]
        data = dataset(
            text, state["seed"], state["spans"], {key: state[key] / 100 for key in SHARES}
        )
        examples = []  # text, and where the loss begins
        for epoch in range(COUNTED):
            data.set_epoch(epoch)
            ids, first = data.tokens(0)
            examples.append((vocab.decode(ids), first))
        name = text[: name_prefix_end(text)].removesuffix(". ")
        asked = Counter(example[first:].removesuffix(MASK) for example, first in examples)
        # by their words: a window may begin inside of a date
        told_by = " ".join(text[a:b] for a, b in salient_spans(text) if a >= len(name))
        clues = {word for word in told_by.split() if not word.islower()}
        others = [example[:first].replace(name, "") for example, first in examples]
        told = sum(any(clue in words for clue in clues) for words in others)
        length = sum(len(example) for example, _ in examples)
        drawn = examples[:DRAWN]

        signs = visible(text[:LONGEST])
        lines = -(-len(signs) // LINE) + sum(-(-len(example) // LINE) for example, _ in drawn)
        figure, ax = page(9, 1.3 + HIGH * lines + 0.12 * DRAWN)
        above = (
            "any span may be asked for"
            if state["spans"] == "random"
            else "in orange what is asked for"
        )
        ax.text(0.3, 0.3, f"Document {state['document']}: {above}", fontsize=11)
        ground = _named(text, name)
        for masked in asked if state["spans"] != "random" else ():  # random spans overlap
            at = text.find(masked, name_prefix_end(text))
            if at >= 0:
                ground[at : at + len(masked)] = [ASKED] * len(masked)
        at = characters(ax, signs, ground[: len(signs)], 0.3, 0.42) + 0.45
        fields = ", ".join(f"{key}={state[key] / 100:g}" for key in SHARES)
        ax.text(
            0.3, at - 0.1, f"The first {DRAWN} windows of it, one an epoch: {fields}", fontsize=11
        )
        for example, first in drawn:
            ground = _named(example, name)
            ground[first:] = [ASKED] * (len(example) - first)
            ground = [
                MARK if sign == MASK else colour
                for sign, colour in zip(example, ground, strict=True)
            ]
            at = characters(ax, visible(example), ground, 0.3, at) + 0.12
        legend(ax, 0.3, at + 0.1, KINDS)
        often = ", ".join(
            f"“{masked}” in {100 * n / COUNTED:.0f} %" for masked, n in asked.most_common(3)
        )
        note = (
            f"Of {COUNTED} windows: asked for {often}. {100 * told / COUNTED:.0f} % show another name, date or number of the line, "
            f"which tells who is meant without the name. A window takes {length / COUNTED:.0f} characters."
        )
        cut = f"The document has {len(text)} characters: the first {LONGEST} are drawn."
        return View(figure, note, cut if len(text) > LONGEST else "")

    kinds = (spans, *(kind for kind in SPANS if kind != spans))
    controls = dict(
        document=Slider("document", document, len(documents) - 1),
        seed=Slider("seed", 0, 99),
        spans=Choice("spans", kinds),
        **{key: Slider(label, round(100 * given[key]), 100) for key, label in SHARES.items()},
    )
    return explorer("windows explorer", draw, controls)


def _named(text: str, name: str) -> list[str]:
    """A colour for each character: the name where it first stands, other words elsewhere."""
    colours, at = [WORDS] * len(text), text.find(name)
    if name and at >= 0:
        colours[at : at + len(name)] = [NAME] * len(name)
    return colours
