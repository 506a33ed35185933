"""From text to (x, y): span corruption for pretraining, question–answer pairs for finetuning.

x is the text, padded with □ (id 0). y is the same, shifted left by one, and 0 wherever there is no
loss: y[j] == x[j + 1] where y[j] != 0. The assignment's format (CS224n):

    pretraining   prefix ⁇ suffix ⁇ masked □ □ ...
    finetuning    question ⁇ answer ⁇ □ □ ...

Every draw depends on (seed, epoch, index) alone: not on workers or on the order of access.
"""

import random
from collections.abc import Iterator, Sequence

import torch

from kt_core.vocab import CharVocab


class TokenDataset:
    """What all datasets share. A subclass has `__len__` and `tokens`."""

    vocab: CharVocab
    block_size: int
    epoch = 0

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        """Return the ids of example i, unpadded, and `first` (>= 1): before it there is no loss."""
        raise NotImplementedError

    def check_documents(self, documents: Sequence[str]) -> None:
        """Raise ValueError for an empty document, or a character outside the vocabulary."""
        for i, document in enumerate(documents):
            if not document:
                raise ValueError(f"{type(self).__name__}: document {i} is empty")
            self.vocab.encode(document)

    def stack(self, examples: Sequence, length: int | None = None) -> tuple:
        """Stack what `tokens` returned into a batch, as long as its longest example by default."""
        return collate(examples, length or max(len(ids) for ids, _ in examples) - 1)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random draws `data[i]` shows; 0 at first."""
        self.epoch = epoch

    def __getitem__(self, i: int) -> tuple:
        """Return example i as (x, y), each (block_size,) int64."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"example {i} of {len(self)}")
        example = self.tokens(i % len(self), self.epoch)
        return tuple(column[0] for column in self.stack([example], self.block_size))


def collate(examples: Sequence[tuple[list[int], int]], length: int) -> tuple:
    """Stack (ids, first) into x and y, (B, length) int64: y is x one later, 0 before `first`."""
    x = torch.zeros(len(examples), length + 1, dtype=torch.long)
    y = torch.zeros(len(examples), length, dtype=torch.long)
    for row, (ids, first) in enumerate(examples):
        x[row, : len(ids)] = torch.tensor(ids)
        y[row, first - 1 : len(ids) - 1] = x[row, first : len(ids)]
    return x[:, :-1], y


class SpanCorruption(TokenDataset):
    """The assignment's pretraining data: cut a span out of each document and ask for it at the end.

    A document is truncated to a random length of 4 ... 7/8 block_size characters. The masked span
    has a quarter of them on average (1/8 ... 3/8) and lies anywhere. The loss is on all characters.
    """

    def __init__(self, documents: Sequence[str], vocab: CharVocab, block_size=128, seed: int = 0):
        if block_size < 8:
            raise ValueError(f"SpanCorruption: block_size must be at least 8, not {block_size}")
        self.documents, self.vocab = list(documents), vocab
        self.block_size, self.seed = block_size, seed
        self.check_documents(self.documents)

    def __len__(self) -> int:
        return len(self.documents)

    def pieces(self, i: int, epoch: int = 0) -> tuple[str, str, str]:
        """Return (prefix, masked, suffix) of document i: the text before, in and after the cut."""
        rng = random.Random(f"{self.seed} {epoch} {i}")
        most = self.block_size * 7 // 8  # so that both ⁇ fit as well
        text = self.documents[i][: rng.randint(4, most)]
        length = max(1, round(len(text) * rng.uniform(1 / 8, 3 / 8)))
        start = rng.randint(0, len(text) - length)
        return text[:start], text[start : start + length], text[start + length :]

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        """Return the ids of prefix ⁇ suffix ⁇ masked; all but the first have a loss."""
        prefix, masked, suffix = map(self.vocab.encode, self.pieces(i, epoch))
        mask = [self.vocab.mask_id]
        return prefix + mask + suffix + mask + masked, 1


class NamePlace(TokenDataset):
    """The assignment's finetuning data: question ⁇ answer ⁇, with the loss on "⁇ answer ⁇"."""

    def __init__(self, pairs: Sequence[tuple[str, str | None]], vocab: CharVocab, block_size=128):
        self.pairs, self.vocab, self.block_size = list(pairs), vocab, block_size
        self.examples = [self._encode(i, *pair) for i, pair in enumerate(self.pairs)]

    def _encode(self, i: int, question: str, answer: str | None) -> tuple[list[int], int]:
        label, mask = f"NamePlace: pair {i} ({question!r})", [self.vocab.mask_id]
        if not question:
            raise ValueError(f"NamePlace: pair {i} (answer {answer!r}) has no question")
        if not answer:
            raise ValueError(f"{label} has no answer; training needs one")
        try:
            ids = self.vocab.encode(question) + mask + self.vocab.encode(answer) + mask
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None
        if len(ids) > (most := self.block_size + 1):
            raise ValueError(f"{label} has {len(ids)} characters, the block has room for {most}")
        return ids, len(question)

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        """Return the ids of pair i, the same in every epoch, and where its loss begins."""
        return self.examples[i]


class Mixture(TokenDataset):
    """Several datasets as one: each (data, times) comes `times` times per epoch, drawn afresh."""

    def __init__(self, parts: Sequence[tuple[TokenDataset, int]]):
        for _, times in parts:
            if times < 0:
                raise ValueError(f"Mixture: a part cannot be shown {times} times")
        self.parts = [(data, times) for data, times in parts if times and len(data)]
        if not self.parts:
            raise ValueError("Mixture: no part with examples in it")
        self.block_size = max(data.block_size for data, _ in self.parts)
        self.stack = self.parts[0][0].stack  # the parts have examples of one kind

    def __len__(self) -> int:
        return sum(len(data) * times for data, times in self.parts)

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        """Return example i of the parts in a row."""
        for data, times in self.parts:
            if i < len(data) * times:
                repeat, i = divmod(i, len(data))
                return data.tokens(i, epoch * times + repeat)
            i -= len(data) * times
        raise IndexError(i)


def batches(
    data, batch_size: int, seed: int, epoch: int, bucket: bool = True, shuffle: bool = True
) -> Iterator[tuple]:
    """Yield all of `data`, a `TokenDataset`, once, in an order that depends on (seed, epoch) alone.

    With `bucket`, examples of similar length come together, padded to their longest; otherwise
    every example is padded to the block.
    """
    rng = random.Random(f"batches {seed} {epoch}")
    order = list(range(len(data)))
    if shuffle:
        rng.shuffle(order)
    examples = [data.tokens(i, epoch) for i in order]
    if bucket:
        examples.sort(key=lambda example: len(example[0]))  # stable: ties stay in random order
    groups = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
    if bucket and shuffle:
        rng.shuffle(groups)
    for group in groups:
        yield data.stack(group, None if bucket else data.block_size)
