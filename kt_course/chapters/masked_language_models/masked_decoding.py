"""Filling masks: what a masked language model (`kt_course.chapters.masked_language_models.masked`) says, all at once or in rounds.

Sources: Devlin et al. 2019 (BERT), section 3.1 (one pass); Ghazvininejad et al. 2019 (Mask-Predict), section 3 (rounds;
there the least sure places are masked again, here what is fixed stays); Salazar et al. 2020 (pseudo-log-likelihood).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kt_core._typing import Int, Tensor
from kt_core.models import GPT
from kt_core.vocab import MASK, CharVocab
from kt_course.chapters.masked_language_models.masked import END, padded

LENGTHS = range(3, 15)  # letters of an answer, tried where its length is not told


def masked_question(question: str, length: int) -> str:
    """A question with a mask for each letter of its answer."""
    return f"{question} {MASK * length}{END}"


@torch.no_grad()
def fill(model: nn.Module, idx: Int[Tensor, "B T"], rounds: int = 1) -> Int[Tensor, "B T"]:
    """Every ⁇ of `idx` replaced by a character, in `rounds` rounds; all else stays.

    Each round the model reads the text as it is by then, and of a row's n masks the surest are fixed, until
    ceil(n r / rounds) of them are after round r. One round asks for all at once, from each place on its own; as many
    rounds as masks let every character see those before it. □ and ⁇ are never an answer. `model(idx)[0]` are logits.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, not {rounds}")
    idx, open_ = idx.clone(), idx == 1
    n = open_.sum(1, keepdim=True)  # (B, 1)
    for r in range(1, rounds + 1):
        if not open_.any():
            break
        logits = model(idx)[0].float()
        logits[..., :2] = float("-inf")
        sure, best = logits.softmax(-1).max(-1)  # (B, T)
        sure = sure.masked_fill(~open_, -1.0)
        rank = sure.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # 0 is the surest
        now = open_ & (rank < -(-n * r // rounds) - (n - open_.sum(1, keepdim=True)))
        idx = torch.where(now, best, idx)
        open_ = open_ & ~now
    return idx


def fill_texts(
    model: GPT, vocab: CharVocab, texts: Sequence[str], rounds: int = 1, batch_size: int = 64
) -> list[str]:
    """Texts with ⁇ in them, filled: a string each, of the same length."""
    was_training, device = model.training, model.head.weight.device
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    filled = [""] * len(texts)
    model.eval()
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        x = padded([vocab.encode(texts[i]) for i in batch])
        for i, row in zip(batch, fill(model, x.to(device), rounds).cpu(), strict=True):
            filled[i] = vocab.decode(row[: len(texts[i])])
    model.train(was_training)
    return filled


@torch.no_grad()
def surest_lengths(
    model: GPT, vocab: CharVocab, questions: Sequence[str], tried: Sequence[int] = LENGTHS
) -> list[int]:
    """For each question the number of masks, of those `tried`, that the model fills with the highest mean log q.

    All masks at once, each character's probability on its own: a pseudo-likelihood, a pass for each length.
    """
    means = []
    for n in tried:
        x = padded([vocab.encode(masked_question(q, n)) for q in questions]).to(
            model.head.weight.device
        )
        logits = model(x)[0].float()
        logits[..., :2] = float("-inf")
        best = logits.log_softmax(-1).amax(-1)  # (B, T)
        means.append(best.masked_fill(x != 1, 0.0).sum(1) / n)
    return [tried[i] for i in torch.stack(means).argmax(0).tolist()]


def answer_masked(
    model: GPT,
    vocab: CharVocab,
    questions: Sequence[str],
    lengths: Sequence[int] | None = None,
    rounds: int = 1,
) -> list[str]:
    """What an encoder fills in behind each question. `lengths`: letters of each answer, else those it is surest of."""
    known = surest_lengths(model, vocab, questions) if lengths is None else list(lengths)
    texts = [masked_question(q, n) for q, n in zip(questions, known, strict=True)]
    filled = fill_texts(model, vocab, texts, rounds)
    return [text[len(q) + 1 : -1] for text, q in zip(filled, questions, strict=True)]
