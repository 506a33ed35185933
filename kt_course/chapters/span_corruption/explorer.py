"""Span corruption: cut a document by hand or as a seed draws it, and see what is read and where the loss falls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kt_core.datasets import LOSSES, SPANS, SpanCorruption
from kt_core.vocab import CharVocab
from kt_course.explorers.panels import HIGH, LINE, characters, legend
from kt_course.explorers.shell import Choice, Slider, View, explorer, page
from kt_course.figures.style import GREY, ORANGE, SKY, VERMILION, visible

GREENISH = "#8FD3B6"
KINDS = {
    "prefix": SKY,
    "suffix": GREENISH,
    "masked span": ORANGE,
    "⁇": VERMILION,
    "cut off, or □ padding": GREY,
}
LONGEST = 4 * LINE  # characters of a document that are drawn


class _ByHand(SpanCorruption):
    """Span corruption whose cut is chosen, not drawn: everything behind it is the dataset's own code."""

    def __init__(self, document: str, cut: tuple[str, str, str], *given: Any, **options: Any):
        super().__init__([document], *given, **options)
        self.cut = cut

    def pieces(self, i: int) -> tuple[str, str, str]:
        return self.cut


def explore_corruption(
    documents: Sequence[str], vocab: CharVocab, block_size: int = 128, *, document: int = 0
) -> Any:
    """Move truncation, length and place of the span, or let a seed draw them as `SpanCorruption` does (crop="prefix").

    A new document, a new seed or another kind of span draws; the sliders then change what was drawn. Above: what of the
    document is shown. Below: x, what the model reads, over y, what it is asked for; y is grey where no loss falls.
    """
    documents = list(documents)
    if not 0 <= document < len(documents):
        raise ValueError(f"document must lie in 0 ... {len(documents) - 1}, not {document}")

    sets = {spans: SpanCorruption(documents, vocab, block_size, spans=spans) for spans in SPANS}

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        text = documents[state["document"]]
        ends = state["end"] == "yes"
        most = min(
            len(text), block_size - 1 - ends
        )  # two ⁇ belong in, and x holds one less than the text
        if changed in (None, "document", "seed", "spans"):
            data = sets[state["spans"]]
            data.seed = state["seed"]
            prefix, masked, suffix = data.pieces(state["document"])
            shown, length, place = len(prefix + masked + suffix), len(masked), len(prefix)
        else:
            shown, length, place = state["truncation"], state["length"], state["place"]
        shown = min(shown, most)
        length = min(length, shown)
        place = min(place, shown - length)
        cut = text[:place], text[place : place + length], text[place + length : shown]
        example = _ByHand(text, cut, vocab, block_size, loss=state["loss"], end_sentinel=ends)[0]
        x, y = (part.tolist() for part in example)

        kinds = (
            ["prefix"] * place + ["masked span"] * length + ["suffix"] * (shown - place - length)
        )
        told = visible(text[:LONGEST])
        kinds += ["cut off, or □ padding"] * (len(told) - len(kinds))
        lines = -(-len(told) // LINE)
        rows = range(0, block_size, LINE)
        figure, ax = page(9, 1.2 + HIGH * lines + (2 * HIGH + 0.15) * len(rows))
        above = f"Document {state['document']}: what the truncation shows of it, and the cut"
        below = "Upper line: what is read (x). Lower line: what is asked for next (y), the loss falls there"
        ax.text(0.3, 0.3, above, fontsize=11)
        at = characters(ax, told, [KINDS[kind] for kind in kinds[: len(told)]], 0.3, 0.42) + 0.45
        ax.text(0.3, at - 0.1, below, fontsize=11)
        order = ["prefix"] * place + ["⁇"] + ["suffix"] * len(cut[2]) + ["⁇"]
        order += ["masked span"] * length + ["⁇"] * ends
        order += ["cut off, or □ padding"] * (block_size + 1 - len(order))
        for row in rows:
            part = slice(row, row + LINE)
            read = visible([vocab.decode([i]) for i in x[part]])
            asked = visible([vocab.decode([i]) if i else "·" for i in y[part]])
            characters(ax, read, [KINDS[kind] for kind in order[:-1][part]], 0.3, at)
            colours = [
                KINDS[kind] if i else GREY for i, kind in zip(y[part], order[1:][part], strict=True)
            ]
            at = characters(ax, asked, colours, 0.3, at + HIGH) + 0.15
        legend(ax, 0.3, at + 0.05, KINDS)
        n_read, n_asked = sum(i != 0 for i in x), sum(i != 0 for i in y)
        note = (
            f"The truncation shows {shown} of {len(text)} characters, the span takes {length} of them: “{cut[1]}”. "
            f"The model reads {n_read} of {block_size} places ({block_size - n_read} are □) and is asked for {n_asked}."
        )
        notice = (
            f"The document has {len(text)} characters: the first {LONGEST} are drawn."
            if len(text) > LONGEST
            else ""
        )
        limits = dict(truncation=most, length=shown, place=shown - length)
        return View(
            figure,
            note,
            notice,
            limits=limits,
            values=dict(truncation=shown, length=length, place=place),
        )

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
