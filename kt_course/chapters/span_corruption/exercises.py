"""Exercises and questions of notebook 3: characters, the shift, the cut, the format, salient spans."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from numbers import Integral
from statistics import fmean, pstdev
from string import ascii_lowercase
from typing import Any

import torch

from kt_core.datasets import SpanCorruption, collate
from kt_core.runs.text_rules import salient_spans
from kt_core.vocab import MASK, PAD, CharVocab
from kt_course.exercises.assertions import Wrong, describe, expect_value_error, tensor
from kt_course.exercises.random_cases import fresh_random, letters
from kt_course.exercises.registry import Exercise

NOTEBOOK = "03_span_corruption"


def whole(result: Any, what: str) -> list[int]:
    """A list, tuple or 1-d tensor of whole numbers as a list; else Wrong."""
    values = result.tolist() if isinstance(result, torch.Tensor) else result
    if not isinstance(values, (list, tuple)) or not all(
        isinstance(value, Integral) for value in values
    ):
        raise Wrong(f"{what} should be a list of whole numbers, not {describe(result)}")
    return list(values)


# ---------------------------------------------------------------- encode


def check_encode(fn: Callable[[CharVocab, str], list[int]]) -> str:
    vocab = CharVocab.from_documents(["Ada Moor. She was born in Oslo."])
    text, right = "born", [vocab.chars.index(ch) for ch in "born"]
    ids = whole(fn(vocab, text), f"what {text!r} becomes")
    if len(ids) != len(text):
        raise Wrong(
            f"{text!r} becomes {len(ids)} ids; it has {len(text)} characters, and each has one id"
        )
    if ids == [ord(ch) for ch in text]:
        raise Wrong(
            f"{ids} are Unicode's numbers (ord); the id is the place in vocab.chars, {right} here"
        )
    if len(off := {a - b for a, b in zip(right, ids, strict=True)}) == 1 and off != {0}:
        raise Wrong(
            f"each id is {-off.pop():+d} off: ids 0 and 1 belong to {PAD} and {MASK}, the other characters follow from 2 on"
        )
    if ids != right:
        raise Wrong(
            f"{text!r} becomes {ids}; the places of its characters in vocab.chars are {right}"
        )
    if (found := whole(fn(vocab, f"n{MASK}o{PAD}"), "ids of a text with ⁇ and □"))[1::2] != [1, 0]:
        raise Wrong(f"{MASK} and {PAD} become {found[1::2]}; their ids are 1 and 0")
    told = expect_value_error(
        "a character that the vocabulary does not hold, '李' at position 3,", fn, vocab, "in 李"
    )
    if "李" not in told or "3" not in told:
        raise Wrong(
            f"the error for '李' at position 3 says {told!r}: it should name the character and its position"
        )
    if list(fn(vocab, "")):
        raise Wrong("an empty text has no ids, but something comes back")
    rng = fresh_random()
    for _ in range(5):
        vocab = CharVocab.from_documents([text := letters(30, rng) + " ÁŁöß"])
        if whole(fn(vocab, text), "the result") != [vocab.chars.index(ch) for ch in text]:
            raise Wrong("right for one vocabulary, wrong for others: take the ids from vocab.chars")
    return "one id a character, 0 and 1 for the specials, unknown characters refused by name and position"


# ---------------------------------------------------------------- x and y


def check_collate(fn: Callable) -> str:
    def both(examples: Sequence[tuple[list[int], int]], length: int) -> tuple[list, list]:
        result = fn(examples, length)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise Wrong(f"needed are two tensors, (x, y), not {describe(result)}")
        for name, value in zip("xy", result, strict=True):
            tensor(
                value,
                (len(examples), length),
                f"{name} for {len(examples)} examples and length {length}",
            )
            if value.dtype != torch.int64:
                raise Wrong(
                    f"{name} is {str(value.dtype).removeprefix('torch.')}: ids are int64 (torch.long)"
                )
        return result[0].tolist(), result[1].tolist()

    ids = [5, 6, 7, 8]  # asked for from the id at index 2 on: the 7
    (x,), (y,) = both([(ids, 2)], 6)
    if x in ([0, 0, *ids], [0, 0, 0, *ids[:-1]]):
        raise Wrong("the padding stands on the left; x is the text first, then zeros")
    if x == [5, 6, 7, 0, 0, 0]:
        raise Wrong(
            "x lacks the last id although there is room for it: only a text of length + 1 ids loses its last"
        )
    if x != [*ids, 0, 0]:
        raise Wrong(f"for ids {ids} and length 6 x is {x} instead of {[*ids, 0, 0]}")
    right = [0, 7, 8, 0, 0, 0]
    if y[4:] != [0, 0] or y[3] not in (0, 8):
        raise Wrong(
            f"the loss falls on padding: y is {y}. Targets of 0 are left out of the loss, no other number is"
        )
    if y[2:4] == [7, 8]:
        raise Wrong(
            f"y is not shifted: y[2] = 7 = x[2]. At x[j] the model has to say x[j + 1], so y is {right}"
        )
    if y == [6, 7, 8, 0, 0, 0]:
        raise Wrong(
            f"the loss falls on all characters: the first one asked for is at index 2 of ids, so y is {right}"
        )
    if y in ([0, 0, 8, 0, 0, 0], [6, 0, 0, 0, 0, 0]):
        raise Wrong(
            f"y is {y}: one off. The id at index 2 is asked for at x[1], so y[1] is the first target"
        )
    if y != right:
        raise Wrong(f"for ids {ids}, asked for from index 2 on, y is {y} instead of {right}")
    (x,), (y,) = both([([5, 6, 7, 8, 9], 1)], 4)
    if y == [6, 7, 8, 0]:
        raise Wrong(
            "a text of length + 1 ids loses its last target: shift first, cut to the length afterwards"
        )
    if (x, y) != ([5, 6, 7, 8], [6, 7, 8, 9]):
        raise Wrong(
            f"for ids [5, 6, 7, 8, 9] and length 4 x is {x} and y {y} instead of [5, 6, 7, 8] and [6, 7, 8, 9]"
        )
    rng = fresh_random()
    for _ in range(20):
        length = rng.randint(3, 12)
        examples = []
        for _ in range(rng.randint(1, 4)):
            ids = [rng.randint(1, 90) for _ in range(rng.randint(2, length + 1))]
            examples.append((ids, rng.randint(1, len(ids) - 1)))
        for row, (x, y) in enumerate(zip(*both(examples, length), strict=True)):
            ids, first = examples[row]
            padded = ids + [0] * (length + 1 - len(ids))
            if x != padded[:-1] or y != [0] * (first - 1) + padded[first:]:
                raise Wrong(
                    "right for one example, wrong for a batch of several texts of different lengths"
                )
    return "x padded with 0, y one ahead, loss from the first asked id to the last"


# ---------------------------------------------------------------- the cut


def check_pieces(fn: Callable[[SpanCorruption, int], tuple[str, str, str]]) -> str:
    block, longest, document = 128, 112, letters(300)

    def dataset(documents: Sequence[str], seed: int = 1, size: int = block) -> SpanCorruption:
        return SpanCorruption(documents, CharVocab(ascii_lowercase), size, seed)

    def cuts(
        data: SpanCorruption, epoch: int = 0, n: int | None = None
    ) -> list[tuple[str, str, str]]:
        data.set_epoch(epoch)
        try:
            return [whole_cut(fn(data, i), data.documents[i]) for i in range(n or len(data))]
        except ValueError as error:  # of random or numpy
            if "empty range" not in str(error) and "low >" not in str(error):
                raise
            raise Wrong(
                "there is no place for the masked piece in a short crop (an empty range to draw from): its length"
                " comes from the block or the whole document, not from what truncation left"
            ) from error

    data = dataset([document] * 90)
    state, drawn = random.getstate(), cuts(data, 0, 10)
    if random.getstate() != state:
        raise Wrong(
            "it draws from or reseeds the global `random`: make a generator of your own, random.Random(...)"
        )
    if cuts(data, 0, 10) != drawn:
        raise Wrong(
            "two calls for the same (seed, epoch, i) differ: all draws have to follow from these three"
        )
    later = cuts(data, 1, 10)
    if later == drawn and len(set(drawn)) == 1:
        raise Wrong("each cut is the same: nothing is drawn at random")
    if len(set(drawn)) == 1:
        raise Wrong(
            "all documents are cut at the same places in one epoch: i is missing from the generator's seed"
        )
    if later == drawn:
        raise Wrong(
            "each epoch cuts at the same places: data.epoch is missing from the generator's seed"
        )
    if later[:-1] == drawn[1:]:
        raise Wrong(
            "epoch 1 repeats epoch 0, one document further: a sum like epoch + i is the same for (0, 1) and (1, 0)"
        )
    if cuts(dataset([document] * 10, seed=2)) == drawn:
        raise Wrong(
            "another seed cuts at the same places: data.seed is missing from the generator's seed"
        )
    many = [cut for epoch in range(3) for cut in cuts(data, epoch)]
    check_truncation([sum(map(len, cut)) for cut in many], longest)
    check_span(many, block, len(document))
    if (most := max(sum(map(len, cut)) for cut in cuts(dataset([document] * 25, size=64)))) > 56:
        raise Wrong(
            f"in a block of 64 a crop has {most} characters: at most 7/8 of data.block_size, 56, not a fixed number"
        )
    cuts(dataset([letters(n) for n in (1, 2, 3, 4, 7, 10) * 3]))
    rng = fresh_random()
    try:
        cuts(
            dataset(
                [letters(rng.randint(1, 200), rng) for _ in range(10)], seed=rng.randint(3, 10**9)
            )
        )
    except Wrong:  # its numbers differ from run to run
        raise Wrong(
            "right for the fixed documents, not for all others: does each piece come from the document itself?"
        ) from None
    return "crops of 4 to 7/8 of the block, a quarter masked on average, anywhere, the same for the same (seed, epoch, i)"


def whole_cut(result: Any, document: str) -> tuple[str, str, str]:
    """`result` if it is (prefix, masked, suffix) and the three make up the document's beginning; else Wrong."""
    if not isinstance(result, (tuple, list)) or [type(part) for part in result] != [str] * 3:
        raise Wrong(f"needed are three strings, (prefix, masked, suffix), not {describe(result)}")
    prefix, masked, suffix = result
    if MASK in "".join(result):
        raise Wrong(
            f"the pieces hold {MASK}: here the document is only cut, the format comes later"
        )
    if not masked:
        raise Wrong(
            f"the masked piece of a document of {len(document)} characters is empty: take its length from what is left"
            " of the document after truncation, and at least 1"
        )
    if document.startswith(prefix + masked + suffix):
        return prefix, masked, suffix
    if document.startswith(prefix + suffix + masked):
        raise Wrong(
            "the order is (prefix, masked, suffix), as in the document; this is (prefix, suffix, masked)"
        )
    if prefix + masked + suffix in document:
        raise Wrong(
            "the crop begins in the middle of the document: its first characters, the name, have to stay"
        )
    raise Wrong(
        f"prefix + masked + suffix ({len(prefix)} + {len(masked)} + {len(suffix)} characters) is not the document's"
        " beginning: a character is lost or doubled where the pieces meet"
    )


def check_truncation(lengths: list[int], longest: int) -> None:
    """Crops of a long document, some 270: uniform in 4 ... longest. The bounds are 5 standard deviations wide."""
    if len(set(lengths)) == 1:
        raise Wrong(
            f"truncation never varies: each crop has {lengths[0]} characters. Draw n anew, uniform in 4 ... {longest}"
        )
    if max(lengths) > longest:
        raise Wrong(
            f"a crop has {max(lengths)} characters: at most 7/8 of the block, {longest}, so that two ⁇ fit too"
        )
    if min(lengths) < 4:
        raise Wrong(f"a crop has {min(lengths)} characters of a document of 300: at least 4")
    if min(lengths) > 8 or max(lengths) < longest - 4:
        raise Wrong(
            f"crops have {min(lengths)} to {max(lengths)} characters instead of 4 to {longest}"
        )
    short = fmean(n <= 30 for n in lengths)
    if abs(fmean(lengths) - (4 + longest) / 2) > 10 or abs(short - 27 / 109) > 0.13:
        raise Wrong(
            f"crops are not uniform in 4 ... {longest}: mean {fmean(lengths):.0f} instead of {(4 + longest) / 2:.0f},"
            f" {100 * short:.0f} % of at most 30 characters instead of 25 %"
        )


def check_span(cuts: list[tuple[str, str, str]], block: int, document: int) -> None:
    """Masked pieces of such crops: a quarter on average, of varying length, anywhere. Bounds as there."""
    cuts = [
        cut for cut in cuts if sum(map(len, cut)) >= 40
    ]  # in short crops a rounded quarter is coarse
    sizes = [sum(map(len, cut)) for cut in cuts]
    share = [len(cut[1]) / n for cut, n in zip(cuts, sizes, strict=True)]
    short = fmean(len(cut[1]) for cut, n in zip(cuts, sizes, strict=True) if n < 60)
    long = fmean(len(cut[1]) for cut, n in zip(cuts, sizes, strict=True) if n >= 90)
    if long < 1.3 * short or abs(fmean(share) - 0.25) > 0.05:
        likely = ""
        for quarter, of in ((block / 4, "the block"), (document / 4, "the whole document")):
            if abs(long - quarter) < 5:
                likely = (
                    f": that is a quarter of {of} ({quarter:.0f}), not of the truncated document"
                )
        raise Wrong(
            f"masked are {short:.0f} characters of crops of 40 to 59 and {long:.0f} of 90 to 112 on average,"
            f" {100 * fmean(share):.0f} % of a crop instead of 25 %{likely}"
        )
    if pstdev(share) < 0.02:
        raise Wrong(
            "the masked length is always a quarter of the crop: it should vary, a quarter on average (1/8 to 3/8)"
        )
    place = [
        len(cut[0]) / (n - len(cut[1]))
        for cut, n in zip(cuts, sizes, strict=True)
        if len(cut[1]) < n
    ]
    if pstdev(place) < 0.1:
        where = {0: "at the start", 1: "in the middle", 2: "at the end"}[round(2 * fmean(place))]
        raise Wrong(
            f"the masked piece is always {where} of the crop: its start is uniform in 0 ... n - length"
        )
    if abs(fmean(place) - 0.5) > 0.11:
        raise Wrong(
            f"masked pieces lean to one side (mean place {fmean(place):.2f}, 0.50 is even): the start is uniform in"
            " 0 ... n - length"
        )


# ---------------------------------------------------------------- the format


class Given(SpanCorruption):
    """A dataset whose cuts are given: (prefix, masked, suffix) each."""

    def __init__(self, cuts: Sequence[tuple[str, str, str]], vocab: CharVocab, **options: Any):
        super().__init__(["".join(cut) for cut in cuts], vocab, **options)
        self.cuts = cuts

    def pieces(self, i: int) -> tuple[str, str, str]:
        return self.cuts[i]


def check_tokens(fn: Callable[[SpanCorruption, int], tuple[list[int], int]]) -> str:
    cut = prefix, masked, suffix = "Ada Moor. She ", "was born", " in Oslo."
    vocab = CharVocab.from_documents(["".join(cut), ascii_lowercase])

    def shown(data: Given, i: int = 0) -> tuple[str, int]:
        result = fn(data, i)
        if (
            not isinstance(result, (tuple, list))
            or len(result) != 2
            or not isinstance(result[1], Integral)
        ):
            raise Wrong(
                f"needed are the ids and the index of the first one asked for, not {describe(result)}"
            )
        if isinstance(result[0], str):
            raise Wrong("the first result is text; ids are needed: data.vocab.encode")
        return vocab.decode(whole(result[0], "the ids")), result[1]

    text, first = shown(Given([cut], vocab))
    right, mistakes = (
        f"{prefix}⁇{suffix}⁇{masked}",
        {
            f"{prefix}⁇{suffix}{masked}": "the second ⁇ is missing: nothing says where the masked piece begins",
            f"{prefix}{suffix}⁇{masked}": "the first ⁇ is missing: nothing shows where the gap is",
            f"{prefix}⁇{masked}⁇{suffix}": "the masked piece stands in its own gap, so nothing is hidden: the suffix comes first",
            f"{prefix}⁇{suffix}⁇{masked}⁇": "a third ⁇ stands at the end although data.end_sentinel is False",
        },
    )
    if text != right and text.rstrip(PAD) == right:
        raise Wrong(
            f"padding is appended: leave {PAD} to collate, which knows how long the batch is"
        )
    if text != right:
        raise Wrong(mistakes.get(text, f"the text is {text!r} instead of {right!r}"))
    if first != 1:
        raise Wrong(
            f'with loss="all" the first id asked for is {first} instead of 1: all but id 0, which nothing stands before'
        )
    text, first = shown(Given([cut], vocab, end_sentinel=True, loss="span"))
    if text == right:
        raise Wrong("data.end_sentinel is True, but no third ⁇ stands behind the masked piece")
    if text != right + MASK:
        raise Wrong(f"with the end sentinel the text is {text!r} instead of {right + MASK!r}")
    start = len(prefix) + len(suffix) + 2
    if first != start:
        likely = {
            1: 'data.loss is "span", not "all"',
            start
            - 1: "that is the second ⁇; asked for is the letter behind it (indices count ids, not targets)",
            start - 2: "count both ⁇",
            len(prefix): "that is the first ⁇: the masked piece stands at the end",
        }
        raise Wrong(
            f'with loss="span" the first id asked for is {first} instead of {start}'
            + (f": {likely[first]}" if first in likely else f", where {masked!r} begins")
        )
    rng = fresh_random()
    some = [tuple(letters(rng.randint(least, 9), rng) for least in (0, 1, 0)) for _ in range(20)]
    for ends in (False, True):
        for loss in ("all", "span"):
            data = Given(some, vocab, end_sentinel=ends, loss=loss)
            for i, (prefix, masked, suffix) in enumerate(some):
                asked = 1 if loss == "all" else len(prefix) + len(suffix) + 2
                if shown(data, i) != (f"{prefix}⁇{suffix}⁇{masked}{'⁇' * ends}", asked):
                    raise Wrong(
                        f'right for one cut, wrong for others (end_sentinel={ends}, loss="{loss}")'
                    )
    return (
        'prefix ⁇ suffix ⁇ masked, the end sentinel where asked for, loss on "all" or on the "span"'
    )


# ---------------------------------------------------------------- salient spans


def check_salient(fn: Callable[..., list[tuple[int, int]]]) -> str:
    def found(text: str, **options: Any) -> list[str]:
        result = list(fn(text, **options))
        if any(isinstance(span, str) for span in result):
            raise Wrong(
                "the result holds strings; needed are the places, (start, stop), with text[start:stop] the span"
            )
        if any(not isinstance(span, (tuple, list)) or len(span) != 2 for span in result):
            raise Wrong(
                f"needed is a list of (start, stop), not {describe(result)} of {describe(result[0])}"
            )
        return [text[start:stop] for start, stop in result]

    def need(
        text: str, right: list[str], likely: dict[tuple[str, ...], str], **options: Any
    ) -> None:
        got = found(text, **options)
        if got != right and sorted(got) == sorted(right):
            raise Wrong(
                f"in {text!r} the spans {got} come out of order: in the order of the text, please"
            )
        if got and got != right and [span[:-1] for span in right] == got:
            raise Wrong(
                f"in {text!r} each span lacks its last character: stop is the place behind the span"
            )
        if got != right:
            raise Wrong(
                f"in {text!r} it finds {got} instead of {right}" + likely.get(tuple(got), "")
            )

    need(
        "he moved to New York in 1871",
        ["New York", "1871"],
        {
            ("New", "York", "1871"): ": capitalised words in a row are one span",
            ("New York",): ": numbers count too",
        },
    )
    need(
        "He went to Oslo. She stayed in Rome",
        ["Oslo", "Rome"],
        {
            (
                "He",
                "Oslo",
                "She",
                "Rome",
            ): ": a single capitalised word that opens a sentence tells nothing"
        },
    )
    need(
        "Ada Moor wrote",
        ["Ada Moor"],
        {(): ": only a single word that opens a sentence is left out"},
    )
    need(
        "in Łódź and Århus",
        ["Łódź", "Århus"],
        {(): ": A-Z is not all of the capitals, Ł and Å are some too"},
    )
    need("nothing here", [], {})
    need(
        "to Rome in 1871",
        ["Rome"],
        {("Rome", "1871"): ": names_only leaves numbers out"},
        names_only=True,
    )
    rng = fresh_random()
    for _ in range(30):
        words, right = [], []
        for _ in range(rng.randint(1, 4)):
            words.append(
                letters(rng.randint(4, 8), rng)
            )  # longer than "of" and "the", which may join names
            name = " ".join(letters(5, rng).capitalize() for _ in range(rng.randint(1, 3)))
            right.append(rng.choice([name, str(rng.randint(10, 1999))]))
            words.append(right[-1])
        if found(" ".join(words)) != right:
            raise Wrong(
                "right for the examples, wrong for other texts: find runs of capitalised words and digits anywhere"
            )
    return "numbers and runs of capitalised words, without single words that open a sentence"


EXERCISES = (
    Exercise("encode", NOTEBOOK, "From characters to ids", 1, 5, CharVocab.encode, check_encode),
    Exercise("shift-and-pad", NOTEBOOK, "x, y and the padding", 2, 10, collate, check_collate),
    Exercise(
        "cut-a-span", NOTEBOOK, "Truncate and cut", 3, 20, SpanCorruption.pieces, check_pieces
    ),
    Exercise(
        "corrupted-ids",
        NOTEBOOK,
        "The format and the loss",
        2,
        10,
        SpanCorruption.tokens,
        check_tokens,
    ),
    Exercise("salient-spans", NOTEBOOK, "Salient spans", 3, 15, salient_spans, check_salient),
)
