"""Filling masks: what a masked language model predicts, all at once or in rounds.

Sources: Devlin et al. 2019 (BERT), section 3.1 (one pass); Ghazvininejad et al. 2019
(Mask-Predict), section 3 (rounds; theirs mask the least confident positions again, ours never
change a filled one); Salazar et al. 2020 (pseudo-log-likelihood).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kt_core.models import GPT
from kt_core.vocab import MASK, CharVocab
from kt_course.chapters.masked_language_models.masked_data import END, pad_rows

LENGTHS = range(3, 15)  # letters of an answer, tried where its length is unknown


def masked_question(question: str, length: int) -> str:
    """Return a question with one mask per letter of its answer."""
    return f"{question} {MASK * length}{END}"


def character_logits(model: nn.Module, idx: Tensor) -> Tensor:
    """Return the logits (B, T, V), with -inf for □ and ⁇, which are never an answer."""
    logits = model(idx)[0].float()
    logits[..., :2] = float("-inf")
    return logits


@torch.no_grad()
def fill_masks(model: nn.Module, idx: Tensor, rounds: int = 1) -> Tensor:
    """Replace every ⁇ by a predicted character, the most confident predictions first.

    In each round the model reads the text as filled so far. After round r, ceil(n r / rounds) of a
    row's n masks are filled. One round predicts all masks independently; as many rounds as masks
    let every character depend on those filled before it.

    Args:
        model: `model(idx)[0]` are logits (B, T, V).
        idx: Texts with masks (id 1), (B, T) int64.
        rounds: 1 or more.

    Returns:
        The filled texts, (B, T).
    """
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, not {rounds}")
    is_open = idx == 1
    n = is_open.sum(1, keepdim=True)  # (B, 1)
    for r in range(1, rounds + 1):
        if not is_open.any():
            break
        confidence, best = character_logits(model, idx).softmax(-1).max(-1)  # (B, T)
        confidence = confidence.masked_fill(~is_open, -1.0)
        rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        n_filled = n - is_open.sum(1, keepdim=True)
        is_next = is_open & (rank < -(-n * r // rounds) - n_filled)
        idx = torch.where(is_next, best, idx)
        is_open = is_open & ~is_next
    return idx


@torch.no_grad()
def map_texts(
    model: GPT, vocab: CharVocab, texts: Sequence[str], compute: Callable, batch_size: int = 64
) -> list[Tensor]:
    """Apply `compute` to batches of texts, (B, T) ids; return one row of its results per text."""
    was_training, device = model.training, model.head.weight.device
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
    results = [torch.empty(0)] * len(texts)
    model.eval()
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        x = pad_rows([vocab.encode(texts[i]) for i in batch]).to(device)
        for i, row in zip(batch, compute(x).cpu(), strict=True):
            results[i] = row
    model.train(was_training)
    return results


def fill_texts(model: GPT, vocab: CharVocab, texts: Sequence[str], rounds: int = 1) -> list[str]:
    """Fill the masks of each text; its length stays the same."""
    rows = map_texts(model, vocab, texts, lambda x: fill_masks(model, x, rounds))
    return [vocab.decode(row[: len(text)]) for row, text in zip(rows, texts, strict=True)]


def infer_lengths(
    model: GPT, vocab: CharVocab, questions: Sequence[str], lengths: Sequence[int] = LENGTHS
) -> list[int]:
    """Return for each question the number of masks that the model fills most confidently.

    Confidence is the mean log q of the predicted characters, all predicted at once: a
    pseudo-log-likelihood.
    """

    def confidence(x: Tensor) -> Tensor:
        best = character_logits(model, x).log_softmax(-1).amax(-1)  # (B, T)
        return best.masked_fill(x != 1, 0.0).sum(1) / (x == 1).sum(1)  # (B,)

    means = []
    for n in lengths:
        texts = [masked_question(question, n) for question in questions]
        means.append(torch.stack(map_texts(model, vocab, texts, confidence)))
    return [lengths[i] for i in torch.stack(means).argmax(0).tolist()]


def answer_masked(
    model: GPT,
    vocab: CharVocab,
    questions: Sequence[str],
    lengths: Sequence[int] | None = None,
    rounds: int = 1,
) -> list[str]:
    """Fill in the answers of questions. `lengths`: letters per answer, inferred if None."""
    lengths = infer_lengths(model, vocab, questions) if lengths is None else lengths
    texts = [masked_question(q, n) for q, n in zip(questions, lengths, strict=True)]
    filled = fill_texts(model, vocab, texts, rounds)
    return [text[len(q) + 1 : -1] for text, q in zip(filled, questions, strict=True)]
