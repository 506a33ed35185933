"""Explorers over plain data, one call each: span corruption, windows, rotation, reach, tokens.

Each gives the page its data, and draws the state on which the explorer opens as its picture. What
the page computes is in `engine/data_views.js`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from kt_core.attention import reach_mask
from kt_core.models import GPT
from kt_core.positions import rotary_table, rotate
from kt_core.runs.question_windows import QuestionWindows
from kt_core.runs.text_rules import askable_spans, name_prefix_end, salient_spans
from kt_core.vocab import MASK, CharVocab
from kt_course.explorers.living_page import LivingView, attach_data
from kt_course.figures.style import (
    BLUE,
    GREY,
    MASK_SIGN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    in_style,
)
from kt_course.figures.text_plots import coloured_lines

N_DRAWN, N_COUNTED = 7, 200  # windows that are shown, and counted
DROPS = (0.0, 0.5, 1.0)


def explore_spans(rows: Sequence[tuple[str, str, str]], block_size: int = 128) -> LivingView:
    """Truncate and cut lines by hand: when does an example ask for the birthplace?

    Args:
        rows: (line, name at its beginning, birthplace) each.
        block_size: Of the training examples.
    """
    documents = [dict(text=text, name=name, place=place) for text, name, place in rows]
    text, name, place = rows[0]
    keep = min(text.index(place, len(name)), block_size * 7 // 8)
    start = max(0, keep - 12)
    pieces = [(text[:start], "prefix"), (text[start : keep - 4], "masked")]
    pieces += [(text[keep - 4 : keep], "suffix"), (text[keep:], "cut off, never read")]
    kinds = {"prefix": SKY, "masked": ORANGE, "suffix": YELLOW, "cut off, never read": GREY}
    figure = coloured_lines([pieces], kinds, f"This example says nothing about {place}")
    alt = (
        f"A line about {name}, truncated after {keep} of {len(text)} characters, with a gap. "
        f"The birthplace {place} is cut off."
    )
    data = dict(documents=documents, block_size=block_size)
    return attach_data("spans", data, alt=alt, picture=figure)


# ---------------------------------------------------------------- training windows


def explore_windows(documents: Sequence[str], vocab: CharVocab, n_shown: int = 3) -> LivingView:
    """Switch the options of `QuestionWindows` and read the windows of a few documents.

    The explorer shows those whose windows contain most other facts while `plain` is off.
    """

    def n_clues(text: str) -> int:
        data = QuestionWindows([text], vocab, plain=False)
        return _count(data, _describe(text))["clue"] if len(text) <= 200 else -1

    with_facts = [text for text in documents if askable_spans(text)]
    documents = sorted(with_facts, key=n_clues, reverse=True)[:n_shown]
    people, states = [_describe(document) for document in documents], {}
    for k, select, plain in product(range(len(people)), (True, False), (True, False)):
        data = QuestionWindows([documents[k]], vocab, select=select, plain=plain)
        for first, drop in product((True, False), DROPS):
            data.favour_first, data.drop = first, drop
            states[f"{k} {select:d}{plain:d}{first:d} {drop:g}"] = _count(data, people[k])
    data = dict(documents=people, drops=DROPS, states=states)
    opens_on = states["0 101 0.5"]
    kinds = {"context": SKY, "name": YELLOW, MASK_SIGN: VERMILION, "asked for": ORANGE}
    lines = []
    for question, answer in opens_on["windows"]:
        before, name, after = question.partition(people[0]["name"])
        runs = [(before, "context"), (name, "name"), (after, "context"), (MASK, MASK_SIGN)]
        lines.append([*runs, (answer, "asked for"), (MASK, MASK_SIGN)])
    figure = coloured_lines(lines, kinds, f"Windows about {people[0]['name']}, plain off")
    alt = (
        f"Seven training windows about {people[0]['name']} with the option plain off; of "
        f"{N_COUNTED}, {opens_on['clue']} show another fact about the person."
    )
    return attach_data("windows", data, alt=alt, picture=figure)


def _describe(text: str) -> dict:
    """A document, its name, and the names, dates and numbers in the rest of it."""
    start = name_prefix_end(text)
    spans = [text[a:b] for a, b in salient_spans(text) if a >= start]
    return dict(text=text, name=text[:start].removesuffix(". "), clues=spans)


def _count(data: QuestionWindows, person: dict) -> dict:
    """Seven windows of a document, and counts over more of them."""
    windows = [data.window(0, epoch) for epoch in range(N_COUNTED)]
    own = set(person["name"].split())
    clues = {word for clue in person["clues"] for word in clue.split()} - own
    contexts = [set(question.rstrip("?").split()) - own for question, _ in windows]
    return dict(
        windows=windows[:N_DRAWN],
        n=N_COUNTED,
        asked=dict(Counter(answer for _, answer in windows).most_common()),
        clue=sum(not clues.isdisjoint(words) for words in contexts),
    )


# ---------------------------------------------------------------- rotation


@torch.no_grad()
def explore_rotation(
    model: GPT, vocab: CharVocab, query: str, key: str, start: tuple[int, int] = (20, 15)
) -> LivingView:
    """Turn the query and the key of two characters in the first head of a rope model.

    Args:
        model: With `rope` positions.
        vocab: Of the model.
        query, key: One character each.
        start: Their positions at first.
    """
    layer, size = model.blocks[0], model.config.n_embd // model.config.n_head
    vectors = []
    for character, linear in ((query, layer.attn.query), (key, layer.attn.key)):
        x = model.tok_emb.weight[vocab.encode(character)]
        y = linear(layer.ln1(x))[0, :size]
        vectors.append(F.rms_norm(y, (size,)) if layer.attn.qk_norm else y)
    base = model.config.rope_base
    turned = rotate(vectors[0].expand(64, -1), *rotary_table(torch.arange(64), size, base))
    scores = turned @ vectors[1] / size**0.5
    names = f"“{query}” and “{key}”"
    alt = (
        f"The score of {names} in the first head by their distance, from {scores[0]:.2f} at "
        f"distance 0 to {scores[-1]:.2f} at 63."
    )
    rounded = [[round(float(value), 3) for value in vector] for vector in vectors]
    data = dict(query=rounded[0], key=rounded[1], base=base, start=start)
    figure = _draw_scores(scores, f"The score of {names} depends on their distance alone")
    return attach_data("rotation", data, alt=alt, picture=figure)


@in_style
def _draw_scores(scores: torch.Tensor, title: str) -> Any:
    figure, ax = plt.subplots(figsize=(7, 2.8))
    ax.plot(scores.tolist(), color=BLUE)
    ax.set(title=title, xlabel="position of the query − position of the key", ylabel="score")
    plt.close(figure)
    return figure


# ---------------------------------------------------------------- reach


def explore_reach(text: str) -> LivingView:
    """Choose an output of a perceiver, and see which characters of the text it depends on."""
    T, m = len(text), -(-len(text) // 2)
    t = T - 4  # the output on which the explorer opens
    through = reach_mask(torch.tensor([t]), torch.arange(m))[0]  # latent i reads inputs 0 ... i
    is_reached = [*through.tolist(), *[False] * (T - m)]
    kinds = {"through latents": SKY, "directly": ORANGE, "unknown": PURPLE, "later": GREY}
    kind_of = [
        "later" if i > t else "through latents" if is_reached[i] else "unknown" for i in range(T)
    ]
    kind_of[t] = "directly"
    pieces = list(zip(text, kind_of, strict=True))
    figure = coloured_lines([pieces], kinds, f"Output {t} of a perceiver with {m} latents")
    alt = (
        f"A text of {T} characters. Output {t} of a perceiver with {m} latents depends on the "
        f"first {m} characters and on its own; it knows nothing of {kind_of.count('unknown')}."
    )
    return attach_data("reach", dict(text=text), alt=alt, picture=figure)


# ---------------------------------------------------------------- tokens


def explore_tokens(tokenizer: Any, text: str) -> LivingView:
    """Split any text with more or fewer merges of a byte-level tokenizer (`hub.train_bpe`)."""
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    tokens = [token.replace("Ġ", "␣") for token in tokenizer.tokenize(text)]
    pieces = [(token, "even" if i % 2 == 0 else "odd") for i, token in enumerate(tokens)]
    kinds = {"odd": SKY, "even": YELLOW}
    figure = coloured_lines([pieces], kinds, f"{len(text)} characters, {len(tokens)} tokens")
    alt = f"{text!r} takes {len(tokens)} tokens after {len(merges)} merges: {' '.join(tokens)}."
    data = dict(merges="\n".join(map(" ".join, merges)), text=text)
    return attach_data("tokens", data, alt=alt, picture=figure)
