"""Data for masked language models: some characters are hidden, and the model predicts them.

x is the text with its hidden characters. y has the original character at each chosen position and
0 (no loss) elsewhere. Nothing is shifted: output j predicts position j, where a causal model's
output j predicts position j + 1. The model is a `GPT` with `causal=False`: the same blocks and the
same attention without the triangular mask.

    documents        Name. words ⁇⁇⁇⁇⁇ words          predict the chosen characters
    questions        Where was NAME born? ⁇⁇⁇⁇⁇↵      one mask per letter of the answer

Sources: Devlin et al. 2019 (BERT), section 3.1 and appendix A; Joshi et al. 2020 (SpanBERT),
section 3; Guu et al. 2020 (REALM), section 3.4.
"""

import random
import re
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kt_core._validation import require
from kt_core.corpora.textfiles import Pair
from kt_core.datasets import SpanCorruption, TokenDataset
from kt_core.runs.text_rules import askable_spans, name_prefix_end
from kt_core.vocab import CharVocab
from kt_course.chapters.masked_language_models.solutions import hide_units, pad_rows

UNITS = ("chars", "words", "spans")
SHARE = 0.15  # share of a text's characters that is chosen
RULE = (0.8, 0.1)  # shares of the chosen units that are hidden and made random; the rest stays
HIDE_ALL = (1.0, 0.0)
END = "\n"  # ends an answer, and each line of a pair
WORD = re.compile(r"[\w'’-]+")


def choose_units(
    text: str, units: str, rng: random.Random, share: float = SHARE
) -> list[tuple[int, int]]:
    """Choose random "chars" or "words", (start, stop) each, until they are `share` of `text`."""
    if units == "chars":
        candidates = [(j, j + 1) for j in range(len(text))]
    elif units == "words":
        candidates = [match.span() for match in WORD.finditer(text)]
    else:
        raise ValueError(f"units must be chars or words, not {units!r}")
    rng.shuffle(candidates)
    chosen, n = [], 0
    for start, stop in candidates:
        if chosen and n >= share * len(text):
            break
        chosen.append((start, stop))
        n += stop - start
    return chosen


class MaskedDataset(TokenDataset):
    """A dataset whose `tokens(i, epoch)` are (x, y), two lists of one length, y not shifted."""

    def __init__(self, vocab: CharVocab, block_size: int, seed: int):
        self.vocab, self.block_size, self.seed = vocab, block_size, seed

    def stack(self, examples: Sequence, length: int | None = None) -> tuple[Tensor, ...]:
        """Stack what `tokens` returned into x and y, (B, T) each."""
        columns = [pad_rows(rows) for rows in zip(*examples, strict=True)]  # (B, T) each
        missing = 0 if length is None else length - columns[0].size(1)
        return tuple(F.pad(column, (0, missing)) for column in columns)

    def generator(self, i: int, epoch: int) -> random.Random:
        """Return the source of all draws for example i."""
        return random.Random(f"masks {self.seed} {epoch} {i}")


class SpanWindows(SpanCorruption):
    """Short windows of documents, with one name, date or number cut out: prefix ⁇ suffix ⁇ span ⁇.

    A window shows the name prefix ("Ada Moor. "), 0 to 4 words before the span and 0 to 2 after it.
    The loss falls on "span ⁇". A document without such a span hides one of its words.

    Raises:
        ValueError: For what `SpanCorruption` refuses, and a document without a span that fits.
    """

    def __init__(self, documents: Sequence[str], vocab: CharVocab, block_size=128, seed: int = 0):
        super().__init__(documents, vocab, block_size, seed)
        self.spans = []
        for i, document in enumerate(self.documents):
            first = name_prefix_end(document)
            words = [match.span() for match in WORD.finditer(document, first)]
            spans, most = askable_spans(document) or words, block_size - 3 - first
            self.spans.append([(start, stop) for start, stop in spans if stop - start <= most])
            if not self.spans[i]:
                raise ValueError(f"SpanWindows: document {i} has no span that fits the block")

    def pieces(self, i: int, epoch: int = 0) -> tuple[str, str, str]:
        """Return (prefix, span, suffix) of document i: the text before, in and after the gap."""
        rng = random.Random(f"{self.seed} {epoch} {i}")
        document, (start, stop) = self.documents[i], rng.choice(self.spans[i])
        name, span = document[: min(name_prefix_end(document), start)], document[start:stop]
        before = " ".join(document[len(name) : start].split(" ")[-1 - rng.randint(0, 4) :])
        after = " ".join(document[stop:].split(" ")[: 1 + rng.randint(0, 2)])
        room = self.block_size - 2 - len(name) - len(span)
        before = before[-room:]
        return name + before, span, after[: room - len(before)]

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        """Return the ids of window i, and the index of the first that has a loss."""
        prefix, span, suffix = map(self.vocab.encode, self.pieces(i, epoch))
        mask = [self.vocab.mask_id]
        return [*prefix, *mask, *suffix, *mask, *span, *mask], len(prefix) + len(suffix) + 2


class MaskedText(MaskedDataset):
    """Windows of documents with hidden characters.

    Args:
        documents, vocab, block_size, seed: As for `SpanWindows`, which cuts the windows.
        units: "chars" or "words" are chosen at random and follow BERT's rule; "spans" always hides
            the window's name, date or number.
        share: Share of the text that is chosen.
    """

    def __init__(
        self,
        documents: Sequence[str],
        vocab: CharVocab,
        block_size: int = 128,
        seed: int = 0,
        *,
        units: str = "chars",
        share: float = SHARE,
    ):
        super().__init__(vocab, block_size, seed)
        self.units, self.share = units, share
        require(self, "units", units in UNITS, f"one of {', '.join(UNITS)}")
        require(self, "share", 0 < share <= 1, "above 0 and at most 1")
        self.windows = SpanWindows(documents, vocab, block_size, seed)

    def __len__(self) -> int:
        return len(self.windows)

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], list[int]]:
        """Return (x, y) of document i."""
        before, span, after = self.windows.pieces(i, epoch)
        text, rng = before + span + after, self.generator(i, epoch)
        if self.units == "spans":
            rule, units = HIDE_ALL, [(len(before), len(before + span))]
        else:
            rule, units = RULE, choose_units(text, self.units, rng, self.share)
        return hide_units(self.vocab.encode(text), units, len(self.vocab), rng, rule)


class MaskedPairs(MaskedDataset):
    """Questions whose answer is hidden, one mask per letter."""

    def __init__(self, pairs: Sequence[Pair], vocab: CharVocab, block_size=128, seed=0):
        super().__init__(vocab, block_size, seed)
        self.pairs = list(pairs)
        for i, (question, answer) in enumerate(self.pairs):
            if not answer or len(question) + 2 + len(answer) > block_size:
                raise ValueError(
                    f"MaskedPairs: pair {i} ({question!r}, {answer!r}) needs an answer, "
                    f"and both must fit a block of {block_size}"
                )

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], list[int]]:
        """Return (x, y) of pair i."""
        question, answer = self.pairs[i]
        rng, start = self.generator(i, epoch), len(question) + 1
        units = [(start, start + len(answer))]
        ids = self.vocab.encode(f"{question} {answer}{END}")
        return hide_units(ids, units, len(self.vocab), rng, HIDE_ALL)
