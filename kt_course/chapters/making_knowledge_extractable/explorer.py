"""Windows explorer: which training windows the recipe's settings make of one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from kt_core.runs.text_rules import name_prefix_end, salient_spans
from kt_core.runs.windows import SPANS, KnowledgeWindows
from kt_core.vocab import MASK, CharVocab
from kt_course.explorers.panels import HIGH, LINE, characters, legend
from kt_course.explorers.shell import Choice, Slider, View, explorer, page
from kt_course.figures.style import ORANGE, SKY, VERMILION, YELLOW, visible

KINDS = {"the name": YELLOW, "other words": SKY, MASK: VERMILION, "predicted": ORANGE}
NAME, WORDS, GAP, TARGET = KINDS.values()
N_DRAWN, N_COUNTED = 7, 200  # windows in the picture, and in the sentence below it
LONGEST = 4 * LINE  # characters of a document that are drawn
SHARES = {
    "name_last": "name last, %",
    "plain": "names and dates out, %",
    "drop": "words out, %",
    "ask": "as a question, %",
}
Window = tuple[str, int]  # its text, and where its loss begins


def explore_windows(
    documents: Sequence[str],
    vocab: CharVocab,
    block_size: int = 128,
    *,
    document: int = 0,
    spans: str = "names",
    name_last: float = 0.5,
    plain: float = 0.0,
    drop: float = 0.0,
    ask: float = 0.0,
) -> Any:
    """Change the settings of `KnowledgeWindows` and see what pretraining reads.

    The upper part shows a document and, in orange, what may be predicted. Below it are windows of
    this document, one per epoch. The shares are in 0 ... 1.
    """
    documents = list(documents)
    shares = dict(name_last=name_last, plain=plain, drop=drop, ask=ask)
    if not 0 <= document < len(documents):
        raise ValueError(f"document must lie in 0 ... {len(documents) - 1}, not {document}")
    KnowledgeWindows([documents[document]], vocab, block_size, spans=spans, **shares)  # checks them

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        text, shares = documents[state["document"]], {key: state[key] / 100 for key in SHARES}
        options = dict(spans=state["spans"], **shares)
        data = KnowledgeWindows([text], vocab, block_size, state["seed"], **options)
        windows = list(draw_windows(data, vocab))
        n_lines = sum(-(-len(shown) // LINE) for shown in (text[:LONGEST], *_texts(windows)))
        figure, ax = page(9, 1.3 + HIGH * n_lines + 0.12 * N_DRAWN)
        targets = Counter(window[first:].removesuffix(MASK) for window, first in windows)
        label = "any span" if data.spans == "random" else "the orange spans"
        ax.text(0.3, 0.3, f"Document {state['document']}: {label} may be predicted", fontsize=11)
        y = draw_document(ax, text, () if data.spans == "random" else targets)
        fields = ", ".join(f"{key}={share:g}" for key, share in shares.items())
        title = f"Its first {N_DRAWN} windows, one per epoch: {fields}"
        ax.text(0.3, y + 0.35, title, fontsize=11)
        y = draw_texts(ax, windows[:N_DRAWN], name_of(text), y + 0.45)
        legend(ax, 0.3, y + 0.1, KINDS)
        cut = f"The document has {len(text)} characters: the first {LONGEST} are drawn."
        return View(figure, describe_windows(text, windows), cut if len(text) > LONGEST else "")

    controls = dict(
        document=Slider("document", document, len(documents) - 1),
        seed=Slider("seed", 0, 99),
        spans=Choice("spans", (spans, *(kind for kind in SPANS if kind != spans))),
        **{key: Slider(label, round(100 * shares[key]), 100) for key, label in SHARES.items()},
    )
    return explorer("windows explorer", draw, controls)


def draw_windows(data: KnowledgeWindows, vocab: CharVocab) -> Iterator[Window]:
    """Yield the windows of `data`'s only document, one per epoch."""
    for epoch in range(N_COUNTED):
        ids, first = data.tokens(0, epoch)
        yield vocab.decode(ids), first


def _texts(windows: Sequence[Window]) -> list[str]:
    return [text for text, _ in windows[:N_DRAWN]]


def name_of(text: str) -> str:
    """Return the name that a line opens with, or an empty string."""
    return text[: name_prefix_end(text)].removesuffix(". ")


def describe_windows(text: str, windows: Sequence[Window]) -> str:
    """Count what the windows predict, and how many identify the person without the name."""
    n, name = len(windows), name_of(text)
    targets = Counter(window[first:].removesuffix(MASK) for window, first in windows)
    common = ", ".join(f"“{span}” in {100 * k / n:.0f} %" for span, k in targets.most_common(3))
    # word by word, since a window may begin inside a date
    salient = " ".join(text[a:b] for a, b in salient_spans(text) if a >= len(name))
    clues = {word for word in salient.split() if not word.islower()}
    others = [window[:first].replace(name, "") for window, first in windows]
    n_clues = sum(any(clue in words for clue in clues) for words in others)
    length = sum(len(window) for window, _ in windows) / n
    return (
        f"Of {n} windows: predicted {common}. {100 * n_clues / n:.0f} % show another name, date or "
        "number of the line, which identifies the person without the name. "
        f"A window has {length:.0f} characters on average."
    )


def draw_document(ax: Axes, text: str, targets: Sequence[str] | Counter) -> float:
    """Draw the document with its targets in orange; return where it ends, in inches."""
    signs, colours = visible(text[:LONGEST]), colours_of(text, name_of(text))
    for target in targets:
        at = text.find(target, name_prefix_end(text))
        if at >= 0:
            colours[at : at + len(target)] = [TARGET] * len(target)
    return characters(ax, signs, colours[: len(signs)], 0.3, 0.42)


def draw_texts(ax: Axes, windows: Sequence[Window], name: str, y: float) -> float:
    """Draw windows below each other from y on; return where they end, in inches."""
    for text, first in windows:
        colours = colours_of(text[:first], name) + [TARGET] * (len(text) - first)
        colours = [GAP if c == MASK else colours[i] for i, c in enumerate(text)]
        y = characters(ax, visible(text), colours, 0.3, y) + 0.12
    return y


def colours_of(text: str, name: str) -> list[str]:
    """Return a colour per character: the first mention of the name, and other words."""
    colours, at = [WORDS] * len(text), text.find(name)
    if name and at >= 0:
        colours[at : at + len(name)] = [NAME] * len(name)
    return colours
