"""From text to (x, y) pairs: span corruption for pretraining, question-answer pairs for finetuning.

x is the text with □ (id 0) behind it up to the block's length, y the same shifted left by one, 0 wherever no loss
falls: y[j] == x[j + 1] wherever y[j] != 0. The format is the assignment's (CS224n, self-attention and pretraining):

    pretraining   prefix ⁇ suffix ⁇ masked □ □ ...        (an end sentinel adds a third ⁇ after the masked span)
    finetuning    question ⁇ answer ⁇ □ □ ...

Every draw depends on (seed, epoch, index) alone: not on workers, the order of access or earlier cells.
"""

from __future__ import annotations

import os.path
import random
from collections.abc import Iterator, Sequence

import torch

from kt_core._typing import Int, Tensor
from kt_core.runs.text_rules import arrange_window, askable_spans, name_prefix_end, plain_words, phrase_as_question
from kt_core.vocab import CharVocab

CROPS = ("prefix", "line", "window")
SPANS = ("random", "salient", "names", "leading")
LOSSES = ("all", "body", "span")


class _TokenDataset:
    """Shared by all datasets: padding of `tokens(i)` to (x, y) tensors of the block's length."""

    block_size: int
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random draws `data[i]` shows; 0 at first."""
        self.epoch = epoch

    def tokens(self, i: int) -> tuple[list[int], int]:
        """Ids of example i without padding, and the index of the first id that the loss asks for (>= 1)."""
        raise NotImplementedError

    def stack(
        self, examples: Sequence[tuple[list[int], int]], length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """(x, y) of several `tokens`, (B, length) each; as long as the longest of them needs if no length is given."""
        return collate(examples, length or max(len(ids) for ids, _ in examples) - 1)

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, i: int) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"]]:
        """(x, y) of example i, (block_size,) int64 each. IndexError past the end, so that iteration stops."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"example {i} of {len(self)}")
        x, y = self.stack([self.tokens(i % len(self))], self.block_size)
        return x[0], y[0]


def collate(examples: Sequence[tuple[list[int], int]], length: int) -> tuple[Tensor, Tensor]:
    """Stack (ids, first asked id) examples into x and y, (B, length) int64 each, padded with 0."""
    x = torch.zeros(len(examples), length + 1, dtype=torch.long)
    y = torch.zeros(len(examples), length, dtype=torch.long)
    for row, (ids, first) in enumerate(examples):
        x[row, : len(ids)] = torch.tensor(ids)
        y[row, first - 1 : len(ids) - 1] = x[row, first : len(ids)]
    return x[:, :-1], y


class SpanCorruption(_TokenDataset):
    """Documents with one span cut out and asked for at the end: prefix ⁇ suffix ⁇ masked.

    crop: what of the document is shown.
        "prefix"  its first n characters, n uniform in 4 ... 7/8 block_size (the assignment).
        "line"    as much of its beginning as fits the block.
        "window"  its head, up to the full stop behind the name that a biography opens with, and behind it only the
                  masked span with 0-4 words before and 0-2 words after it: many short views of every fact, none
                  without its name. A share of `whole` draws shows the whole line instead.
    spans: which span is cut out.
        "random"  a quarter of the characters on average, uniform in 1/8 ... 3/8, anywhere (the assignment).
        "salient" a run of capitalised words, a number or a date behind the document's head, chosen uniformly among
                  those that the head does not hold (Guu et al. 2020, section 3.4, with general rules instead of an
                  entity tagger).
        "names"   the same without numbers and dates.
        "leading" names, but none that another one and a comma lead to: "Cambridge, Ontario" has one place to ask for. Asked
            for Ontario too, a model that sees the name and "born" alone learns to give both.
    loss: "all" characters (the assignment), the "body" behind the head, or the masked "span" alone, with the end
        sentinel if there is one.
    random_share: with salient spans, the share of draws that use a random span all the same.
    whole: with crop "window", the share of draws that show as much of the line as fits.
    plain: of the windows, the share that leaves the other names, dates and numbers out of the words around the span:
        they too tell who is meant, and a question has the name alone.
    drop: of a window's words around the span, the share left out at random. Real lines tell a fact once: without this it
        is bound to the very words that stand beside it.
    head_last: of the windows, the share that puts the head behind the words, as questions may do with a name: what is
        known of a name must be found wherever it stands and whatever stands before it.
    ask: of the windows, the share put as a question is: the words on both sides of the name, a question mark, and no mark
        where the span was cut out ("born Ada Moor in?⁇Oslo⁇").

    Raises ValueError for an empty document, a character outside the vocabulary or an unknown option.
    """

    def __init__(
        self,
        documents: Sequence[str],
        vocab: CharVocab,
        block_size: int = 128,
        seed: int = 0,
        *,
        crop: str = "prefix",
        spans: str = "random",
        end_sentinel: bool = False,
        loss: str = "all",
        random_share: float = 0.0,
        whole: float = 0.0,
        plain: float = 0.0,
        drop: float = 0.0,
        head_last: float = 0.0,
        ask: float = 0.0,
    ):
        for name, value, known in (
            ("crop", crop, CROPS),
            ("spans", spans, SPANS),
            ("loss", loss, LOSSES),
        ):
            if value not in known:
                raise ValueError(
                    f"SpanCorruption: {name} must be one of {', '.join(known)}, not {value!r}"
                )
        shares = dict(
            random_share=random_share,
            whole=whole,
            plain=plain,
            drop=drop,
            head_last=head_last,
            ask=ask,
        )
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"SpanCorruption: {name} must lie in 0 ... 1, not {value!r}")
        if block_size < 8:
            raise ValueError(f"SpanCorruption: block_size must be at least 8, not {block_size}")
        self.documents, self.vocab, self.block_size, self.seed = (
            list(documents),
            vocab,
            block_size,
            seed,
        )
        self.crop, self.spans, self.end_sentinel, self.loss = crop, spans, end_sentinel, loss
        self.random_share, self.whole, self.plain, self.drop = random_share, whole, plain, drop
        self.head_last, self.ask = head_last, ask
        for i, document in enumerate(self.documents):
            if not document:
                raise ValueError(f"SpanCorruption: document {i} is empty")
            vocab.encode(document)  # raises for a character outside the vocabulary

    def __len__(self) -> int:
        return len(self.documents)

    def pieces(self, i: int) -> tuple[str, str, str]:
        """(prefix, masked, suffix) of example i in this epoch: what of the document stands before, in and after the cut.

        A window put as a question (`ask`) is all prefix, up to its question mark.
        """
        rng = random.Random(f"{self.seed} {self.epoch} {i}")
        document = self.documents[i]
        fits = name_prefix_end(document) < min(len(document), self._room // 2)
        if self.crop == "window" and rng.random() >= self.whole and fits:
            return self._window(document, *self._span(document, rng), rng)
        longest = self._room
        if self.crop == "prefix":
            longest = rng.randint(4, min(self.block_size * 7 // 8, longest))
        text = document[:longest]
        start, stop = self._span(text, rng)
        return text[:start], text[start:stop], text[stop:]

    def tokens(self, i: int) -> tuple[list[int], int]:
        pieces = self.pieces(i)
        prefix, masked, suffix = map(self.vocab.encode, pieces)
        cut = [self.vocab.mask_id]
        is_question = self.ask and pieces[0].endswith("?") and not suffix
        shown = prefix + cut if is_question else prefix + cut + suffix + cut
        ids = shown + masked + cut * self.end_sentinel
        asked = 1
        if self.loss == "span":
            asked = len(shown)
        elif self.loss == "body":
            head = self.documents[i][: name_prefix_end(self.documents[i])]
            # a head that stands last is behind the body's beginning: asked for with the rest
            asked = max(1, len(os.path.commonprefix([pieces[0], head])))
        return ids, asked

    @property
    def _room(self) -> int:
        """Characters of a document that fit: x holds one less than the text, since it predicts the last."""
        return self.block_size + 1 - 2 - self.end_sentinel

    def _window(
        self, document: str, start: int, stop: int, rng: random.Random
    ) -> tuple[str, str, str]:
        """Head and a few words, the span, a few words."""
        head = document[: name_prefix_end(document)]
        masked = document[start:stop][: self._room - len(head)]
        before, after = document[len(head) : start], document[stop:]
        if self.plain and rng.random() < self.plain:
            before = plain_words(document, len(head), start).removeprefix(
                " "
            )  # the head ends with one
            after = plain_words(document, stop, len(document))
        before = before.split(" ")[-1 - rng.randint(0, 4) :]
        after = after.split(" ")[: 1 + rng.randint(0, 2)]
        if self.drop:
            before, after = (
                [word for word in words if rng.random() >= self.drop] for words in (before, after)
            )
        if self.ask and rng.random() < self.ask:
            words = [word for word in before + after if word]
            asked = phrase_as_question(head, words, rng.randint(0, len(words)))
            return asked[: self._room - len(masked) - 1] + "?", masked, ""
        room = self._room - len(head) - len(masked)
        before = " ".join(before)[-room:] if room else ""
        after = " ".join(after)[: room - len(before)]
        last = bool(self.head_last) and rng.random() < self.head_last
        return arrange_window(head, before, masked, after, last)

    def _span(self, text: str, rng: random.Random) -> tuple[int, int]:
        first = 0  # where a span may begin
        if self.spans != "random" or self.crop == "window":
            first = name_prefix_end(text)
            if first >= len(text):  # cut right behind the head: nothing else to ask for
                first = 0
        if self.spans != "random":
            found = askable_spans(text, self.spans != "salient", self.spans == "leading")
            if found and rng.random() >= self.random_share:
                return rng.choice(found)
        length = max(1, round((len(text) - first) * rng.uniform(1 / 8, 3 / 8)))
        start = rng.randint(first, len(text) - length)
        return start, start + length


class NamePlace(_TokenDataset):
    """Questions with their answers: question ⁇ answer ⁇, loss on "⁇ answer ⁇" alone (the question is never asked for).

    Raises ValueError, naming the pair, for a missing answer, an unknown character or a pair longer than the block.
    """

    def __init__(
        self, pairs: Sequence[tuple[str, str | None]], vocab: CharVocab, block_size: int = 128
    ):
        self.pairs, self.vocab, self.block_size = list(pairs), vocab, block_size
        self._examples = []
        for i, (question, answer) in enumerate(self.pairs):
            if not question:
                raise ValueError(f"NamePlace: pair {i} (answer {answer!r}) has no question")
            if not answer:
                raise ValueError(
                    f"NamePlace: pair {i} ({question!r}) has no answer; training needs one"
                )
            try:
                asked, told = vocab.encode(question), vocab.encode(answer)
            except ValueError as error:
                raise ValueError(f"NamePlace: pair {i} ({question!r}): {error}") from None
            ids = [*asked, vocab.mask_id, *told, vocab.mask_id]
            if len(ids) > block_size + 1:
                raise ValueError(
                    f"NamePlace: pair {i} ({question!r}) takes {len(ids)} characters, a block of {block_size} holds {block_size + 1}"
                )
            self._examples.append((ids, len(asked)))

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens(self, i: int) -> tuple[list[int], int]:
        return self._examples[i]


class Mixture(_TokenDataset):
    """Several datasets as one, each seen `times` times an epoch, with fresh draws each time: Mixture([(data, times), ...])."""

    def __init__(self, parts: Sequence[tuple[_TokenDataset, int]]):
        for _, times in parts:
            if times < 0:
                raise ValueError(f"Mixture: a part cannot be seen {times} times")
        self.parts = [(data, times) for data, times in parts if times and len(data)]
        if not self.parts:
            raise ValueError("Mixture: no part with examples in it")
        self.block_size = max(data.block_size for data, _ in self.parts)

    def __len__(self) -> int:
        return sum(len(data) * times for data, times in self.parts)

    def tokens(self, i: int) -> tuple[list[int], int]:
        for data, times in self.parts:
            if i < len(data) * times:
                again, i = divmod(i, len(data))
                data.set_epoch(self.epoch * times + again)
                return data.tokens(i)
            i -= len(data) * times
        raise IndexError(i)


def batches(
    data: _TokenDataset,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    bucket: bool = True,
    shuffle: bool = True,
) -> Iterator[tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]]:
    """All of `data` once, as (x, y) batches whose order depends on (seed, epoch) alone.

    bucket: examples of like length share a batch, which is as long as its longest example: no more padding than
    that. Without it every example is padded to the block, as the assignment does. shuffle: in a random order.
    """
    data.set_epoch(epoch)
    rng = random.Random(f"batches {seed} {epoch}")
    order = list(range(len(data)))
    if shuffle:
        rng.shuffle(order)
    examples = [data.tokens(i) for i in order]
    if bucket:
        examples.sort(key=lambda example: len(example[0]))  # stable: ties stay in random order
    groups = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
    if bucket and shuffle:
        rng.shuffle(groups)
    for group in groups:
        yield data.stack(group, None if bucket else data.block_size)
