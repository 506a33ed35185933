"""Exercises of notebook 3: characters, the shift, the cut, the format, salient spans."""

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
from kt_core.runs.windows import KnowledgeWindows
from kt_core.vocab import MASK, PAD, CharVocab
from kt_course.exercises.assertions import Wrong, describe, expect_value_error, tensor
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.random_cases import fresh_random, letters
from kt_course.exercises.registry import Exercise

NOTEBOOK = "03_span_corruption"
Cut = tuple[str, str, str]  # prefix, masked, suffix


def whole_numbers(result: Any, what: str) -> list[int]:
    """Return a list, tuple or 1-d tensor of whole numbers as a list; Wrong for anything else."""
    values = result.tolist() if isinstance(result, torch.Tensor) else result
    if not isinstance(values, list | tuple) or not all(isinstance(v, Integral) for v in values):
        raise Wrong(f"{what} should be a list of whole numbers, not {describe(result)}")
    return list(values)


# ---------------------------------------------------------------- encode


def check_encode(fn: Callable[[CharVocab, str], list[int]]) -> str:
    wrong = diagnoses(__file__, "encode")
    vocab = CharVocab.from_documents(["Ada Moor. She was born in Oslo."])
    text, expected = "born", [vocab.chars.index(char) for char in "born"]
    ids = whole_numbers(fn(vocab, text), f"what {text!r} becomes")
    if len(ids) != len(text):
        raise wrong("length", text=text, n=len(ids), length=len(text))
    if ids == [ord(char) for char in text]:
        raise wrong("unicode", ids=ids, expected=expected)
    offsets = {a - b for a, b in zip(ids, expected, strict=True)}
    if len(offsets) == 1 and offsets != {0}:
        raise wrong("offset", offset=offsets.pop())
    if ids != expected:
        raise wrong("value", text=text, ids=ids, expected=expected)
    specials = whole_numbers(fn(vocab, f"n{MASK}o{PAD}"), "ids of a text with ⁇ and □")[1::2]
    if specials != [1, 0]:
        raise wrong("specials", ids=specials)
    what = "a character that the vocabulary does not hold, '李' at position 3,"
    message = expect_value_error(what, fn, vocab, "in 李")
    if "李" not in message or "3" not in message:
        raise wrong("message", message=message)
    if list(fn(vocab, "")):
        raise wrong("empty")
    rng = fresh_random()
    for _ in range(5):
        vocab = CharVocab.from_documents([text := letters(30, rng) + " ÁŁöß"])
        if whole_numbers(fn(vocab, text), "the result") != [vocab.chars.index(c) for c in text]:
            raise wrong("other")
    return (
        "one id per character, 0 and 1 for the specials, "
        "unknown characters refused by name and position"
    )


# ---------------------------------------------------------------- x and y


def check_collate(fn: Callable) -> str:
    wrong = diagnoses(__file__, "shift-and-pad")

    def x_and_y(examples: Sequence[tuple[list[int], int]], length: int) -> tuple[list, list]:
        inputs = [(list(ids), first) for ids, first in examples]
        result, shape = fn(inputs, length), (len(examples), length)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise wrong("not a pair", result=describe(result))
        for name, value in zip("xy", result, strict=True):
            tensor(value, shape, f"{name} for {len(examples)} examples and length {length}")
            if value.dtype != torch.int64:
                raise wrong("dtype", name=name, dtype=str(value.dtype).removeprefix("torch."))
        if inputs != list(examples):
            raise wrong("changed")
        return result[0].tolist(), result[1].tolist()

    ids = [5, 6, 7, 8]  # the loss begins with the id at index 2: the 7
    (x,), (y,) = x_and_y([(ids, 2)], 6)
    expect_x(x, ids)
    expect_y(y, ids)
    (x,), (y,) = x_and_y([([5, 6, 7, 8, 9], 1)], 4)
    if (x, y) != ([5, 6, 7, 8], [6, 7, 8, 9]):
        raise wrong("cut first" if y == [6, 7, 8, 0] else "full", x=x, y=y)
    rng = fresh_random()
    for _ in range(20):
        length, examples = rng.randint(3, 12), []
        for _ in range(rng.randint(1, 4)):
            ids = [rng.randint(1, 90) for _ in range(rng.randint(2, length + 1))]
            examples.append((ids, rng.randint(1, len(ids) - 1)))
        for (ids, first), x, y in zip(examples, *x_and_y(examples, length), strict=True):
            padded = ids + [0] * (length + 1 - len(ids))
            if x != padded[:-1] or y != [0] * (first - 1) + padded[first:]:
                raise wrong("batch")
    return "x padded with 0, y one ahead, loss from the first asked id to the last"


def expect_x(x: list[int], ids: list[int]) -> None:
    """Wrong unless x holds the ids [5, 6, 7, 8] in a length of 6."""
    wrong = diagnoses(__file__, "shift-and-pad")
    if x in ([0, 0, *ids], [0, 0, 0, *ids[:-1]]):
        raise wrong("left")
    if x == [5, 6, 7, 0, 0, 0]:
        raise wrong("x short")
    if x != [*ids, 0, 0]:
        raise wrong("x", ids=ids, x=x, expected=[*ids, 0, 0])


def expect_y(y: list[int], ids: list[int]) -> None:
    """Wrong unless y asks for these ids from index 2 on."""
    wrong = diagnoses(__file__, "shift-and-pad")
    expected = [0, 7, 8, 0, 0, 0]
    if y == expected:
        return
    if y[4:] != [0, 0] or y[3] not in (0, 8):
        raise wrong("padding", y=y)
    if y[2:4] == [7, 8]:
        raise wrong("not shifted", expected=expected)
    if y == [6, 7, 8, 0, 0, 0]:
        raise wrong("everything", expected=expected)
    is_one_off = y in ([0, 0, 8, 0, 0, 0], [6, 0, 0, 0, 0, 0])
    raise wrong("one off" if is_one_off else "y", ids=ids, y=y, expected=expected)


# ---------------------------------------------------------------- the cut


def check_pieces(fn: Callable[[SpanCorruption, int, int], Cut]) -> str:
    wrong = diagnoses(__file__, "cut-a-span")
    document = letters(300)

    def dataset(documents: Sequence[str], seed: int = 1, block_size: int = 128) -> SpanCorruption:
        return SpanCorruption(documents, CharVocab(ascii_lowercase), block_size, seed)

    def cuts(data: SpanCorruption, epoch: int = 0, n: int | None = None) -> list[Cut]:
        try:
            return [
                expect_cut(fn(data, i, epoch), data.documents[i]) for i in range(n or len(data))
            ]
        except ValueError as error:  # of random or numpy
            if "empty range" not in str(error) and "low >" not in str(error):
                raise
            raise wrong("no room") from error

    data = dataset([document] * 90)
    state, first = random.getstate(), cuts(data, 0, 10)
    if random.getstate() != state:
        raise wrong("global")
    if cuts(data, 0, 10) != first:
        raise wrong("unstable")
    second = cuts(data, 1, 10)
    if len(set(first)) == 1:
        raise wrong("constant" if second == first else "no i")
    if second == first:
        raise wrong("no epoch")
    if second[:-1] == first[1:]:
        raise wrong("sum")
    if cuts(dataset([document] * 10, seed=2)) == first:
        raise wrong("no seed")
    many = [cut for epoch in range(3) for cut in cuts(data, epoch)]
    check_truncation([sum(map(len, cut)) for cut in many])
    check_spans(many)
    most = max(sum(map(len, cut)) for cut in cuts(dataset([document] * 25, block_size=64)))
    if most > 56:
        raise wrong("fixed", most=most)
    cuts(dataset([letters(n) for n in (1, 2, 3, 4, 7, 10) * 3]))
    rng = fresh_random()
    documents = [letters(rng.randint(1, 200), rng) for _ in range(10)]
    with wrong.fresh_cases("other"):
        cuts(dataset(documents, seed=rng.randint(3, 10**9)))
    return (
        "crops of 4 to 7/8 of the block, a quarter masked on average, anywhere, "
        "the same for the same (seed, epoch, i)"
    )


def expect_cut(result: Any, document: str) -> Cut:
    """Return `result` if its three pieces make up the document's beginning; Wrong otherwise."""
    wrong = diagnoses(__file__, "cut-a-span")
    if not isinstance(result, tuple | list) or [type(part) for part in result] != [str] * 3:
        raise wrong("not three", result=describe(result))
    prefix, masked, suffix = result
    if MASK in "".join(result):
        raise wrong("masks")
    if not masked:
        raise wrong("empty", n=len(document))
    if document.startswith(prefix + masked + suffix):
        return prefix, masked, suffix
    if document.startswith(prefix + suffix + masked):
        raise wrong("order")
    if prefix + masked + suffix in document:
        raise wrong("middle")
    raise wrong("recombine", lengths=" + ".join(str(len(part)) for part in result))


def check_truncation(lengths: list[int]) -> None:
    """Check 270 crops of a long document: uniform in 4 ... 112.

    All bounds here and below are 5 standard deviations wide.
    """
    wrong = diagnoses(__file__, "cut-a-span")
    least, most, mean = min(lengths), max(lengths), fmean(lengths)
    if least == most:
        raise wrong("same crop", n=most)
    if most > 112:
        raise wrong("long crop", n=most)
    if least < 4:
        raise wrong("short crop", n=least)
    if least > 8 or most < 108:
        raise wrong("crop range", least=least, most=most)
    short = fmean(n <= 30 for n in lengths)
    if abs(mean - 58) > 10 or abs(short - 27 / 109) > 0.13:
        raise wrong("crop skewed", mean=mean, short=100 * short)


def check_spans(cuts: list[Cut]) -> None:
    """Check the masked pieces of such crops: a quarter on average, of varying length, anywhere."""
    wrong = diagnoses(__file__, "cut-a-span")
    cuts = [cut for cut in cuts if len("".join(cut)) >= 40]  # a rounded quarter of few is coarse
    sizes = [(len("".join(cut)), len(cut[1]), len(cut[0])) for cut in cuts]
    shares = [masked / n for n, masked, _ in sizes]
    short = fmean(masked for n, masked, _ in sizes if n < 60)
    long = fmean(masked for n, masked, _ in sizes if n >= 90)
    if long < 1.3 * short or abs(fmean(shares) - 0.25) > 0.05:
        wholes = {32: "the block (32)", 75: "the whole document (75)"}
        likely = [whole for quarter, whole in wholes.items() if abs(long - quarter) < 5]
        cause = str(wrong("quarter", whole=likely[-1])) if likely else ""
        raise wrong("share", short=short, long=long, share=100 * fmean(shares), cause=cause)
    if pstdev(shares) < 0.02:
        raise wrong("same share")
    starts = [start / (n - masked) for n, masked, start in sizes if masked < n]
    if pstdev(starts) < 0.1:
        where = ("at the start", "in the middle", "at the end")[round(2 * fmean(starts))]
        raise wrong("same start", where=where)
    if abs(fmean(starts) - 0.5) > 0.11:
        raise wrong("skewed start", mean=fmean(starts))


# ---------------------------------------------------------------- the format


class GivenCuts(KnowledgeWindows):
    """A dataset with given cuts instead of random ones."""

    def __init__(
        self, cuts: Sequence[Cut], vocab: CharVocab, loss: str, end_sentinel: bool, block_size=128
    ):
        documents = ["".join(cut) for cut in cuts]
        super().__init__(documents, vocab, block_size, loss=loss, end_sentinel=end_sentinel)
        self.cuts = cuts

    def pieces(self, i: int, epoch: int = 0) -> Cut:
        return self.cuts[i]


def check_tokens(fn: Callable[[KnowledgeWindows, int, int], tuple[list[int], int]]) -> str:
    wrong = diagnoses(__file__, "corrupted-ids")
    cut = prefix, masked, suffix = "Ada Moor. She ", "was born", " in Oslo."
    vocab = CharVocab.from_documents(["".join(cut), ascii_lowercase])

    def text_and_first(cuts: Sequence[Cut], loss: str, end_sentinel: bool, i: int = 0):
        result = fn(GivenCuts(cuts, vocab, loss, end_sentinel), i, 0)
        is_pair = isinstance(result, tuple | list) and len(result) == 2
        if not is_pair or not isinstance(result[1], Integral):
            raise wrong("not a pair", result=describe(result))
        if isinstance(result[0], str):
            raise wrong("text")
        return vocab.decode(whole_numbers(result[0], "the ids")), result[1]

    text, first = text_and_first([cut], "all", False)
    expected = f"{prefix}⁇{suffix}⁇{masked}"
    mistakes = {
        f"{prefix}⁇{suffix}{masked}": "no second",
        f"{prefix}{suffix}⁇{masked}": "no first",
        f"{prefix}⁇{masked}⁇{suffix}": "in place",
        f"{expected}⁇": "third",
    }
    if text in mistakes:
        raise wrong.mistake(mistakes[text])
    if text != expected:
        is_padded = text.rstrip(PAD) == expected
        raise wrong("padding" if is_padded else "value", text=text, expected=expected)
    if first != 1:
        raise wrong("loss all", first=first)
    text, first = text_and_first([cut], "span", True)
    if text != expected + MASK:
        raise wrong("no end" if text == expected else "end", text=text, expected=expected + MASK)
    start = len(prefix) + len(suffix) + 2
    if first != start:
        causes = {1: "loss", start - 1: "second", start - 2: "masks", len(prefix): "first"}
        cause = wrong.texts("causes")[causes.get(first, "other")]
        raise wrong("loss span", first=first, expected=start, cause=cause)
    rng = fresh_random()
    cuts = [tuple(letters(rng.randint(least, 9), rng) for least in (0, 1, 0)) for _ in range(20)]
    for options in ({"loss": a, "end_sentinel": b} for a in ("all", "span") for b in (False, True)):
        for i, (prefix, masked, suffix) in enumerate(cuts):
            expected = f"{prefix}⁇{suffix}⁇{masked}{'⁇' * options['end_sentinel']}"
            start = 1 if options["loss"] == "all" else len(prefix) + len(suffix) + 2
            if text_and_first(cuts, **options, i=i) != (expected, start):
                raise wrong("other", **options)
    return (
        'prefix ⁇ suffix ⁇ masked, the end sentinel where asked for, loss on "all" or on the "span"'
    )


# ---------------------------------------------------------------- salient spans


def check_salient(fn: Callable[..., list[tuple[int, int]]]) -> str:
    wrong = diagnoses(__file__, "salient-spans")

    def find(text: str, **options: Any) -> list[str]:
        result = list(fn(text, **options))
        if any(isinstance(span, str) for span in result):
            raise wrong("strings")
        if any(not isinstance(span, tuple | list) or len(span) != 2 for span in result):
            raise wrong("not pairs", result=describe(result), first=describe(result[0]))
        return [text[start:stop] for start, stop in result]

    def expect(text: str, expected: list[str], causes: dict[tuple[str, ...], str], **options):
        spans = find(text, **options)
        if spans == expected:
            return
        if sorted(spans) == sorted(expected):
            raise wrong("order", text=text, spans=spans)
        if spans and [span[:-1] for span in expected] == spans:
            raise wrong("stop", text=text)
        cause = wrong.texts("causes").get(causes.get(tuple(spans)), "")
        raise wrong("spans", text=text, spans=spans, expected=expected, cause=cause)

    causes = {("New", "York", "1871"): "words", ("New York",): "numbers"}
    expect("he moved to New York in 1871", ["New York", "1871"], causes)
    causes = {("He", "Oslo", "She", "Rome"): "openers"}
    expect("He went to Oslo. She stayed in Rome", ["Oslo", "Rome"], causes)
    expect("Ada Moor wrote", ["Ada Moor"], {(): "names"})
    expect("in Łódź and Århus", ["Łódź", "Århus"], {(): "letters"})
    expect("nothing here", [], {})
    expect("to Rome in 1871", ["Rome"], {("Rome", "1871"): "names_only"}, names_only=True)
    rng = fresh_random()
    for _ in range(30):
        words, expected = [], []
        for _ in range(rng.randint(1, 4)):
            words.append(letters(rng.randint(4, 8), rng))  # "of" and "the" may join names
            name = " ".join(letters(5, rng).capitalize() for _ in range(rng.randint(1, 3)))
            expected.append(rng.choice([name, str(rng.randint(10, 1999))]))
            words.append(expected[-1])
        if find(" ".join(words)) != expected:
            raise wrong("other")
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
        KnowledgeWindows.tokens,
        check_tokens,
    ),
    Exercise("salient-spans", NOTEBOOK, "Salient spans", 3, 15, salient_spans, check_salient),
)
