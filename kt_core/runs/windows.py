"""Our pretraining data: short windows of each line, around a span that asks for a fact."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kt_core._validation import one_of
from kt_core.datasets import SpanCorruption
from kt_core.runs.text_rules import (
    arrange_window,
    askable_spans,
    name_prefix_end,
    phrase_as_question,
    plain_words,
)
from kt_core.vocab import CharVocab

CROPS = ("window", "line")
SPANS = ("random", "salient", "names", "leading")
LOSSES = ("all", "span")
Pieces = tuple[str, str, "str | None"]


class KnowledgeWindows(SpanCorruption):
    """Documents with one span cut out that asks for a fact: prefix ⁇ suffix ⁇ masked ⁇.

    The assignment's cuts mostly ask for spelling, and many hide the name that the fact belongs to.
    Here the name is always in view, and the few words around the gap change with every draw.

    Args:
        crop: "window" shows the name prefix ("Ada Moor. "), 0 to 4 words before the gap and 0 to 2
            words after it; "line" shows as much of the document as fits the block.
        spans: What is cut out: "salient" spans (names, dates and numbers that the name prefix does
            not contain; Guu et al. 2020, section 3.4), "names" alone, names without those that
            follow another one and a comma ("leading"), or a "random" quarter of the characters.
        loss: On the masked "span" alone, or on "all" characters.
        end_sentinel: Does a ⁇ end the masked span, as in finetuning?
        plain: Share of the windows without the other names, dates and numbers around the gap.
        drop: Share of the words around the gap that are left out at random.
        name_last: Share of the windows with the name after the words.
        ask: Share of the windows phrased as a question, without a gap: "born Ada Moor in?⁇Oslo⁇".

    Raises:
        ValueError: For an unknown option, and for what `SpanCorruption` refuses.
    """

    def __init__(
        self,
        documents: Sequence[str],
        vocab: CharVocab,
        block_size: int = 128,
        seed: int = 0,
        *,
        crop: str = "window",
        spans: str = "names",
        loss: str = "span",
        end_sentinel: bool = True,
        plain: float = 0.0,
        drop: float = 0.0,
        name_last: float = 0.0,
        ask: float = 0.0,
    ):
        super().__init__(documents, vocab, block_size, seed)
        self.crop, self.spans = one_of("crop", crop, CROPS), one_of("kind of spans", spans, SPANS)
        self.loss, self.end_sentinel = one_of("loss", loss, LOSSES), end_sentinel
        for name, share in dict(plain=plain, drop=drop, name_last=name_last, ask=ask).items():
            if not 0 <= share <= 1:
                raise ValueError(f"KnowledgeWindows.{name} must be in 0 ... 1, not {share!r}")
            setattr(self, name, share)
        self.room = block_size + 1 - 2 - end_sentinel  # characters of a document that fit

    def pieces(self, i: int, epoch: int = 0) -> Pieces:
        """Return (prefix, masked, suffix) of document i: the text before, in and after the gap.

        A suffix of None says that the prefix is a question and there is no gap.
        """
        rng = random.Random(f"{self.seed} {epoch} {i}")
        document = self.documents[i]
        fits = name_prefix_end(document) < min(len(document), self.room // 2)
        if self.crop == "window" and fits:
            return self.window(document, *self.choose_span(document, rng), rng)
        text = document[: self.room]
        start, stop = self.choose_span(text, rng)
        return text[:start], text[start:stop], text[stop:]

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        """Return the ids of example i, and the index of the first that has a loss."""
        prefix, masked, suffix = self.pieces(i, epoch)
        mask = [self.vocab.mask_id]
        context = self.vocab.encode(prefix) + mask
        if suffix is not None:
            context += self.vocab.encode(suffix) + mask
        ids = context + self.vocab.encode(masked) + mask * self.end_sentinel
        return ids, len(context) if self.loss == "span" else 1

    def choose_span(self, text: str, rng: random.Random) -> tuple[int, int]:
        """Choose what to cut out of `text`: (start, stop), after the name prefix if it has one."""
        if self.spans != "random":
            leading = self.spans == "leading"
            if spans := askable_spans(text, names_only=self.spans != "salient", leading=leading):
                return rng.choice(spans)
        first = name_prefix_end(text)
        first = first if first < len(text) else 0
        length = max(1, round((len(text) - first) * rng.uniform(1 / 8, 3 / 8)))
        start = rng.randint(first, len(text) - length)
        return start, start + length

    def window(self, document: str, start: int, stop: int, rng: random.Random) -> Pieces:
        """Return (prefix, masked, suffix) of one window of `document` around start ... stop."""
        name = document[: name_prefix_end(document)]
        masked = document[start:stop][: self.room - len(name)]
        before, after = document[len(name) : start], document[stop:]
        if self.plain and rng.random() < self.plain:
            before = plain_words(document, len(name), start).removeprefix(" ")
            after = plain_words(document, stop, len(document))
        # What touches the gap comes last and first: an empty string where that is a space.
        words_before = before.split(" ")[-1 - rng.randint(0, 4) :]
        words_after = after.split(" ")[: 1 + rng.randint(0, 2)]
        if self.drop:
            words_before = self.drop_words(words_before, len(words_before) - 1, rng)
            words_after = self.drop_words(words_after, 0, rng)
        if self.ask and rng.random() < self.ask:
            words = [word for word in words_before + words_after if word]
            question = phrase_as_question(name, words, rng.randint(0, len(words)))
            return question[: self.room - len(masked) - 1] + "?", masked, None
        room = self.room - len(name) - len(masked)
        before = " ".join(words_before)[-room:] if room else ""
        after = " ".join(words_after)[: room - len(before)]
        is_last = bool(self.name_last) and rng.random() < self.name_last
        return arrange_window(name, before, masked, after, is_last)

    def drop_words(self, words: list[str], at_gap: int, rng: random.Random) -> list[str]:
        """Leave out a share of the words; a space stays where the one at the gap was."""
        dropped = [rng.random() < self.drop for _ in words]
        words = ["" if i == at_gap and dropped[i] else word for i, word in enumerate(words)]
        return [word for i, word in enumerate(words) if i == at_gap or not dropped[i]]
