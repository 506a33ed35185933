"""Measure what a masked model, or a causal one, has stored and what it can be asked for."""

import random
from collections.abc import Sequence

from kt_core.corpora.loading import question_name
from kt_core.corpora.textfiles import Pair
from kt_core.decoding import answer
from kt_core.evaluation import Score, exact_match
from kt_core.models import GPT
from kt_core.vocab import MASK, CharVocab
from kt_course.chapters.masked_language_models.masked_decoding import answer_masked, fill_texts

Window = tuple[str, str, str, str]  # name prefix, words before the place, the place, words after


def place_windows(lines: Sequence[str], pairs: Sequence[Pair]) -> list[Window]:
    """Cut a window around the birthplace out of the first line of each person that has it."""
    windows = []
    for question, place in pairs:
        name = f"{question_name(question)}. "
        line = next(line for line in lines if line.startswith(name) and place in line[len(name) :])
        start = line.index(place, len(name))
        before = line[len(name) : start].split(" ")[-3:]
        after = line[start + len(place) :].split(" ")[:2]
        windows.append((name, " ".join(before), place, " ".join(after)))
    return windows


def score_letters(
    model: GPT, vocab: CharVocab, windows: Sequence[Window], share: float, is_stranger: bool
) -> Score:
    """Score single letters: hide a share of each place's letters, one at least, and fill them.

    Args:
        is_stranger: Put another person's name in front of each window.
    """
    rng, texts, hidden = random.Random(0), [], []
    for i, (name, before, place, after) in enumerate(windows):
        chosen = rng.sample(range(len(place)), max(1, round(share * len(place))))
        name = windows[(i + len(windows) // 2) % len(windows)][0] if is_stranger else name
        letters = [MASK if j in chosen else letter for j, letter in enumerate(place)]
        texts.append("".join([name, before, *letters, after]))
        hidden.append([(len(name + before) + j, place[j]) for j in chosen])
    filled = fill_texts(model, vocab, texts)
    hits = [text[at] == ch for text, row in zip(filled, hidden, strict=True) for at, ch in row]
    return Score(sum(hits), len(hits))


def score_windows(model: GPT, vocab: CharVocab, windows: Sequence[Window]) -> Score:
    """Score whole places, all letters hidden; an encoder gets one mask per letter."""
    gold = [place for *_, place, _ in windows]
    if model.config.causal:
        texts = [name + before + MASK + after for name, before, _, after in windows]
        return exact_match(answer(model, vocab, texts, max_new=20), gold)
    texts = [n + before + MASK * len(place) + after for n, before, place, after in windows]
    starts = [len(name + before) for name, before, *_ in windows]
    filled = fill_texts(model, vocab, texts)
    rows = zip(filled, starts, gold, strict=True)
    return exact_match([text[at : at + len(place)] for text, at, place in rows], gold)


def score_questions(
    model: GPT, vocab: CharVocab, pairs: Sequence[Pair], has_length: bool = True
) -> Score:
    """Score answers to questions. `has_length`: an encoder is given one mask per letter."""
    questions, gold = [question for question, _ in pairs], [place for _, place in pairs]
    if model.config.causal:
        return exact_match(answer(model, vocab, questions, max_new=20), gold)
    lengths = [len(place) for place in gold] if has_length else None
    return exact_match(answer_masked(model, vocab, questions, lengths), gold)
