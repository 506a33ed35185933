"""Two texts in one input, as BERT reads them, and the two tasks that this chapter trains on them.

    next sentence    ⁇first line↵second line↵    are both lines about the same person?
    question         ⁇question↵line↵             where in the line is the answer?

The position of ⁇ stands for [CLS], and ↵ for [SEP]. Segment 0 is everything up to the first ↵.

Sources: Devlin et al. 2019 (BERT), sections 3.1 and 4.2; Liu et al. 2019 (RoBERTa), section 4.2.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from kt_core.corpora.loading import question_name
from kt_core.corpora.textfiles import Pair
from kt_core.runs.text_rules import name_prefix_end
from kt_core.vocab import MASK, CharVocab
from kt_course.chapters.masked_language_models.masked_data import END
from kt_course.chapters.masked_language_models.solutions import PairModel, best_span, pad_rows

HALF = 30  # characters of each line in a pair of lines
PersonLines = Sequence[Sequence[str]]  # the lines of each person


def encode_pairs(vocab: CharVocab, pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Return ids and segments of ⁇first↵second↵, (B, T) each; padding is in segment 0."""
    ids, segments = [], []
    for first, second in pairs:
        ids.append(vocab.encode(f"{MASK}{first}{END}{second}{END}"))
        segments.append([0] * (len(first) + 2) + [1] * (len(second) + 1))
    return pad_rows(ids), pad_rows(segments)


# ---------------------------------------------------------------- next sentence


def group_by_person(documents: Sequence[str]) -> list[list[str]]:
    """Group the lines by the name that they open with, in the order of their first lines."""
    groups: dict[str, list[str]] = {}
    for document in documents:
        groups.setdefault(document[: name_prefix_end(document)], []).append(document)
    return list(groups.values())


def draw_line_pair(
    lines: PersonLines, rng: random.Random, *, names: bool = True
) -> tuple[str, str, bool]:
    """Draw two lines, of one person or of two with equal probability.

    Args:
        lines: The lines of each person: two persons or more, two lines or more each.
        rng: The source of all draws.
        names: Keep the name that a line opens with.

    Returns:
        (first line, second line, True if both are about the same person), cut to HALF characters.
    """
    same = rng.random() < 0.5
    own, other = rng.sample(range(len(lines)), 2)
    pair = rng.sample(lines[own], 2)
    if not same:
        pair[1] = rng.choice(lines[other])
    if not names:
        pair = [line[name_prefix_end(line) :] for line in pair]
    return pair[0][:HALF], pair[1][:HALF], same


# ---------------------------------------------------------------- extractive question answering

Passage = tuple[str, str, str]  # question, line, answer


def passages(documents: Sequence[str], pairs: Sequence[Pair], block_size=128) -> list[Passage]:
    """Return (question, line, answer) for each line of a question's person with the answer.

    The line is shown without the name that it opens with; pairs too long for a block are left out.
    """
    answers = {f"{question_name(question)}. ": (question, place) for question, place in pairs}
    rows = []
    for document in documents:
        name = document[: name_prefix_end(document)]
        question, place = answers.get(name, ("", ""))
        line = document[len(name) :]
        if place and place in line and len(question) + len(line) + 3 <= block_size:
            rows.append((question, line, place))
    return rows


def encode_passages(vocab: CharVocab, batch: Sequence[Passage]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, segments, (B, T) each, and the answers' first and last positions, (B, 2)."""
    idx, segments = encode_pairs(vocab, [(question, line) for question, line, _ in batch])
    starts = [len(question) + 2 + line.index(answer) for question, line, answer in batch]
    spans = [[a, a + len(answer) - 1] for a, (*_, answer) in zip(starts, batch, strict=True)]
    return idx, segments, torch.tensor(spans)


@torch.no_grad()
def extract_answers(
    model: PairModel, vocab: CharVocab, batch: Sequence[Passage], find=best_span
) -> list[str]:
    """Return the span of each line that the model points at."""
    device, answers = model.head.weight.device, []
    for first in range(0, len(batch), 64):
        idx, segments, _ = encode_passages(vocab, batch[first : first + 64])
        logits = model(idx.to(device), segments.to(device)).float().cpu()  # (B, T, 2)
        for ids, row, segment in zip(idx, logits, segments, strict=True):
            start, stop = find(row[:, 0], row[:, 1], segment == 1)
            answers.append(vocab.decode(ids[start:stop]).strip())
    return answers
