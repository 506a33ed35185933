"""Windows explorer: which questions the five options make of one document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from kt_core.runs.question_windows import QuestionWindows
from kt_core.runs.text_rules import name_prefix_end
from kt_core.vocab import MASK, CharVocab
from kt_course.chapters.making_knowledge_extractable.window_counts import (
    context_words,
    facts_in_text,
)
from kt_course.explorers.panels import HIGH, LINE, characters, legend
from kt_course.explorers.shell import Choice, Slider, View, explorer, page
from kt_course.figures.style import ORANGE, SKY, VERMILION, YELLOW, visible

KINDS = {"the name": YELLOW, "context words": SKY, MASK: VERMILION, "predicted": ORANGE}
NAME, WORDS, GAP, TARGET = KINDS.values()
N_DRAWN, N_COUNTED = 7, 200  # windows in the picture, and in the sentence below it
LONGEST = 4 * LINE  # characters of a document that are drawn
SWITCHES = ("select", "plain", "favour_first")
Window = tuple[str, str]  # question, answer


def explore_windows(
    documents: Sequence[str],
    vocab: CharVocab,
    block_size: int = 128,
    *,
    document: int = 0,
    drop: float = 0.5,
    min_letters: int = 4,
) -> Any:
    """Change the options of `QuestionWindows` and see what pretraining reads.

    The upper part shows a document and, in orange, its facts. Below it are windows of this
    document, one per epoch.
    """
    documents = list(documents)
    if not 0 <= document < len(documents):
        raise ValueError(f"document must lie in 0 ... {len(documents) - 1}, not {document}")
    start = dict(drop=drop, min_letters=min_letters)
    QuestionWindows([documents[document]], vocab, block_size, **start)  # checks them

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        text, options = documents[state["document"]], {key: state[key] == "on" for key in SWITCHES}
        options |= dict(drop=state["drop"] / 100, min_letters=state["min_letters"])
        data = QuestionWindows([text], vocab, block_size, state["seed"], **options)
        return draw_page(state["document"], text, data)

    controls = dict(
        document=Slider("document", document, len(documents) - 1),
        seed=Slider("seed", 0, 99),
        **{key: Choice(key, ("on", "off")) for key in SWITCHES},
        drop=Slider("drop, %", round(100 * drop), 100),
        min_letters=Slider("min_letters", min_letters, 12),
    )
    return explorer("windows explorer", draw, controls)


def draw_page(number: int, text: str, data: QuestionWindows) -> View:
    """Draw a document and the windows that `data` makes of it, and describe them."""
    windows = [data.window(0, epoch) for epoch in range(N_COUNTED)]
    name, facts = data.documents[0]
    texts = [f"{question}{MASK}{answer}{MASK}" for question, answer in windows[:N_DRAWN]]
    n_lines = sum(-(-len(each) // LINE) for each in (text[:LONGEST], *texts))
    figure, ax = page(9, 1.3 + HIGH * n_lines + 0.12 * N_DRAWN)
    ax.text(0.3, 0.3, f"Document {number}: the orange names are facts", fontsize=11)
    y = draw_document(ax, text, name, [answer for answer, *_ in facts])
    off = [key for key in SWITCHES if not getattr(data, key)]
    title = f"drop {data.drop:g}, min_letters {data.min_letters}"
    title += f"; off: {', '.join(off)}" if off else ""
    ax.text(0.3, y + 0.35, f"Its first {N_DRAWN} windows, one per epoch ({title})", fontsize=11)
    y = draw_windows(ax, windows[:N_DRAWN], name, y + 0.45)
    legend(ax, 0.3, y + 0.1, KINDS)
    cut = f"The document has {len(text)} characters: the first {LONGEST} are drawn."
    return View(figure, describe_windows(text, windows), cut if len(text) > LONGEST else "")


def describe_windows(text: str, windows: Sequence[Window]) -> str:
    """Count what the windows ask for, and how many show another fact, or no word at all."""
    n, title = len(windows), text[: name_prefix_end(text)].removesuffix(". ")
    common = Counter(answer for _, answer in windows).most_common(3)
    asked = ", ".join(f"“{answer}” in {100 * k / n:.0f} %" for answer, k in common)
    words = [context_words(question, title) for question, _ in windows]
    clues = facts_in_text([text])
    n_clues = sum(not clues[title].isdisjoint(each) for each in words)
    n_bare = sum(not each for each in words)
    length = sum(len(question) + len(answer) + 2 for question, answer in windows) / n
    return (
        f"Of {n} windows: predicted {asked}. {100 * n_clues / n:.0f} % show another name, date or "
        f"number of the document, and {100 * n_bare / n:.0f} % show no context word. "
        f"A window has {length:.0f} characters on average."
    )


def draw_document(ax: Axes, text: str, name: str, facts: Sequence[str]) -> float:
    """Draw the document with its facts in orange; return where it ends, in inches."""
    signs, colours = visible(text[:LONGEST]), colours_of(text, name)
    for fact in facts:
        at = text.find(fact, name_prefix_end(text))
        if at >= 0:
            colours[at : at + len(fact)] = [TARGET] * len(fact)
    return characters(ax, signs, colours[: len(signs)], 0.3, 0.42)


def draw_windows(ax: Axes, windows: Sequence[Window], name: str, y: float) -> float:
    """Draw windows below each other from y on; return where they end, in inches."""
    for question, answer in windows:
        end = [GAP, *[TARGET] * len(answer), GAP]
        text, colours = f"{question}{MASK}{answer}{MASK}", colours_of(question, name) + end
        y = characters(ax, visible(text), colours, 0.3, y) + 0.12
    return y


def colours_of(text: str, name: str) -> list[str]:
    """Return a colour per character: the first mention of the name, and other words."""
    colours, at = [WORDS] * len(text), text.find(name)
    if name and at >= 0:
        colours[at : at + len(name)] = [NAME] * len(name)
    return colours
