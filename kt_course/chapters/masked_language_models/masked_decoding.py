"""Fill masks: what a masked language model predicts, for a known or an unknown length.

Sources: Devlin et al. 2019 (BERT), section 3.1; Salazar et al. 2020 (pseudo-log-likelihood).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kt_core.decoding import eval_mode
from kt_core.models import GPT
from kt_core.vocab import MASK, CharVocab
from kt_course.chapters.masked_language_models.masked_data import END
from kt_course.chapters.masked_language_models.solutions import pad_rows

LENGTHS = range(3, 15)  # letters of an answer, tried where its length is unknown


def masked_question(question: str, length: int) -> str:
    """Return a question with one mask per letter of its answer."""
    return f"{question} {MASK * length}{END}"


def map_texts(
    model: GPT, vocab: CharVocab, texts: Sequence[str], compute: Callable, batch_size: int = 64
) -> list[Tensor]:
    """Apply `compute` to batches of texts, (B, T) ids; return one row of its results per text."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
    results = [torch.empty(0)] * len(texts)
    with eval_mode(model) as device:
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            x = pad_rows([vocab.encode(texts[i]) for i in batch]).to(device)
            for i, row in zip(batch, compute(x).cpu(), strict=True):
                results[i] = row
    return results


def fill_texts(model: GPT, vocab: CharVocab, texts: Sequence[str]) -> list[str]:
    """Replace each ⁇ of the texts by its most probable character, all at once."""

    def fill(x: Tensor) -> Tensor:
        best = model(x)[0][..., 2:].argmax(-1) + 2  # neither □ nor ⁇
        return torch.where(x == 1, best, x)

    rows = map_texts(model, vocab, texts, fill)
    return [vocab.decode(row[: len(text)]) for row, text in zip(rows, texts, strict=True)]


def infer_lengths(
    model: GPT, vocab: CharVocab, questions: Sequence[str], lengths: Sequence[int] = LENGTHS
) -> list[int]:
    """Return for each question the number of masks that the model fills most confidently.

    Confidence is the mean log q of the predicted characters, all predicted at once: a
    pseudo-log-likelihood.
    """

    def confidence(x: Tensor) -> Tensor:
        best = model(x)[0].float().log_softmax(-1)[..., 2:].amax(-1)  # (B, T); neither □ nor ⁇
        return best.masked_fill(x != 1, 0.0).sum(1) / (x == 1).sum(1)  # (B,)

    means = []
    for n in lengths:
        texts = [masked_question(question, n) for question in questions]
        means.append(torch.stack(map_texts(model, vocab, texts, confidence)))
    return [lengths[i] for i in torch.stack(means).argmax(0).tolist()]


def answer_masked(
    model: GPT, vocab: CharVocab, questions: Sequence[str], lengths: Sequence[int] | None = None
) -> list[str]:
    """Fill in the answers of questions. `lengths`: letters per answer, inferred if None."""
    lengths = infer_lengths(model, vocab, questions) if lengths is None else lengths
    texts = [masked_question(q, n) for q, n in zip(questions, lengths, strict=True)]
    filled = fill_texts(model, vocab, texts)
    return [text[len(q) + 1 : -1] for text, q in zip(filled, questions, strict=True)]
