"""Span corruption: cut a document, and see what the model reads and where the loss falls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kt_core.datasets import SpanCorruption
from kt_core.runs.windows import LOSSES, SPANS, KnowledgeWindows
from kt_core.vocab import CharVocab
from kt_course.chapters.span_corruption.exercises import Cut, GivenCuts
from kt_course.explorers.panels import HIGH, LINE, characters, legend
from kt_course.explorers.shell import Choice, Slider, View, explorer, page
from kt_course.figures.style import GREY, ORANGE, SKY, VERMILION, visible

PREFIX, SUFFIX, MASKED = "prefix", "suffix", "masked span"
UNSEEN = "cut off, or □ padding"
COLOURS = {PREFIX: SKY, SUFFIX: "#8FD3B6", MASKED: ORANGE, "⁇": VERMILION, UNSEEN: GREY}
LONGEST = 4 * LINE  # characters of a document that are drawn
SLIDERS = ("truncation", "length", "place")


def explore_corruption(
    documents: Sequence[str], vocab: CharVocab, block_size: int = 128, *, document: int = 0
) -> Any:
    """Cut a document by sliders, or as a seed draws it.

    Another document, seed or kind of span draws a cut; the sliders then change it. The upper part
    shows the cut in the document. The lower part shows x, what the model reads, over y, what it
    has to predict; y is grey where there is no loss.

    Args:
        documents, vocab, block_size: As `SpanCorruption` takes them.
        document: The number of the first document on view.
    """
    documents = list(documents)
    if not 0 <= document < len(documents):
        raise ValueError(f"document must lie in 0 ... {len(documents) - 1}, not {document}")
    options = dict(crop="line", loss="all", end_sentinel=False)
    datasets = {
        spans: SpanCorruption(documents, vocab, block_size)
        if spans == "random"
        else KnowledgeWindows(documents, vocab, block_size, spans=spans, **options)
        for spans in SPANS
    }

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        text, has_end = documents[state["document"]], state["end"] == "yes"
        most = min(len(text), block_size - 1 - has_end)  # two ⁇ fit as well
        if changed in (None, "document", "seed", "spans"):
            data = datasets[state["spans"]]
            data.seed = state["seed"]
            prefix, masked, suffix = data.pieces(state["document"])
            visible_length, length, start = len(prefix + masked + suffix), len(masked), len(prefix)
        else:
            visible_length, length, start = (state[name] for name in SLIDERS)
        visible_length = min(visible_length, most)
        length = min(length, visible_length)
        start = min(start, visible_length - length)
        cut = text[:start], text[start : start + length], text[start + length : visible_length]
        data = GivenCuts([cut], vocab, state["loss"], has_end, block_size)
        x, y = (part.tolist() for part in data[0])
        title = f"Document {state['document']}: what the truncation shows of it, and the cut"
        limits = dict(zip(SLIDERS, (most, visible_length, visible_length - length), strict=True))
        values = dict(zip(SLIDERS, (visible_length, length, start), strict=True))
        read, targets = sum(i != 0 for i in x), sum(i != 0 for i in y)
        note = (
            f"The truncation shows {visible_length} of {len(text)} characters, the span takes "
            f"{length} of them: “{cut[1]}”. The model reads {read} of {block_size} places "
            f"({block_size - read} are □) and is asked for {targets}."
        )
        notice = f"The document has {len(text)} characters: the first {LONGEST} are drawn."
        notice = notice if len(text) > LONGEST else ""
        figure = draw_cut(title, text, cut, vocab, x, y)
        return View(figure, note, notice, limits=limits, values=values)

    controls = dict(
        document=Slider("document", document, len(documents) - 1),
        seed=Slider("seed", 0, 99),
        spans=Choice("a seed draws spans", SPANS),
        truncation=Slider("truncation", block_size, block_size, 1),
        length=Slider("span length", 1, block_size, 1),
        place=Slider("span place", 0, block_size),
        loss=Choice("loss on", LOSSES),
        end=Choice("end sentinel", ("no", "yes")),
    )
    return explorer("span corruption explorer", draw, controls)


def draw_cut(title: str, text: str, cut: Cut, vocab: CharVocab, x: list[int], y: list[int]) -> Any:
    """Draw the cut in the document, then x over y, line by line; return the figure."""
    kinds_of_pieces = zip((PREFIX, MASKED, SUFFIX), cut, strict=True)
    prefix, masked, suffix = ([kind] * len(piece) for kind, piece in kinds_of_pieces)
    letters = visible(text[:LONGEST])
    document_lines, x_lines = -(-len(letters) // LINE), -(-len(x) // LINE)
    figure, ax = page(9, 1.2 + HIGH * document_lines + (2 * HIGH + 0.15) * x_lines)
    ax.text(0.3, 0.3, title, fontsize=11)
    kinds = prefix + masked + suffix + [UNSEEN] * len(letters)
    colours = [COLOURS[kind] for kind in kinds[: len(letters)]]
    top = characters(ax, letters, colours, 0.3, 0.42) + 0.45
    below = "Upper line: the input x. Lower line: the next characters to predict, y, with the loss"
    ax.text(0.3, top - 0.1, below, fontsize=11)
    kinds = prefix + ["⁇"] + suffix + ["⁇"] + masked + ["⁇"] + [UNSEEN] * len(x)
    x_colours, y_colours = (
        [COLOURS[kind if i else UNSEEN] for i, kind in zip(ids, ids_kinds, strict=False)]
        for ids, ids_kinds in ((x, kinds), (y, kinds[1:]))
    )
    for row in range(0, len(x), LINE):
        part = slice(row, row + LINE)
        letters = visible([vocab.decode([i]) for i in x[part]])
        characters(ax, letters, x_colours[part], 0.3, top)
        letters = visible([vocab.decode([i]) if i else "·" for i in y[part]])
        top = characters(ax, letters, y_colours[part], 0.3, top + HIGH) + 0.15
    legend(ax, 0.3, top + 0.05, COLOURS)
    return figure
