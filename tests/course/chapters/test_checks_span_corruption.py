"""The exercises of notebook 3: correct answers pass, each classic mistake is named."""

from __future__ import annotations

import hashlib
import random
import re

import numpy as np
import torch
from checking import Answers, notebook_suite, quiz_suite, suite

from kt_core.datasets import SpanCorruption, collate
from kt_core.runs.text_rules import salient_spans
from kt_core.runs.windows import KnowledgeWindows
from kt_core.vocab import MASK, CharVocab

# ---------------------------------------------------------------- encode


def encode_stub(vocab, text):
    """One id a character."""
    ...


def encode_by_index(vocab, text):
    ids = []
    for at, ch in enumerate(text):
        if ch not in vocab.chars:
            raise ValueError(f"no id for {ch} at {at}")
        ids.append(vocab.chars.index(ch))
    return ids


def encode_to_tensor(vocab, text):
    return torch.tensor(encode_by_index(vocab, text), dtype=torch.long)


def without_specials(vocab, text):
    return [vocab.chars[2:].index(ch) for ch in text]


def one_special(vocab, text):
    return [vocab.chars[1:].index(ch) for ch in text]


def unicode_numbers(vocab, text):
    return [ord(ch) for ch in text]


def each_character_once(vocab, text):
    return [vocab.chars.index(ch) for ch in dict.fromkeys(text + text[0]) if ch != text[0]]


def drops_unknown(vocab, text):
    return [vocab.chars.index(ch) for ch in text if ch in vocab.chars]


def unknown_to_pad(vocab, text):
    return [vocab.chars.index(ch) if ch in vocab.chars else 0 for ch in text]


def key_error(vocab, text):
    ids = {ch: i for i, ch in enumerate(vocab.chars)}
    return [ids[ch] for ch in text]


def unnamed_error(vocab, text):
    return [vocab.chars.index(ch) for ch in text]  # list.index names the character, not its place


def sorted_text(vocab, text):
    return sorted(encode_by_index(vocab, text))


def specials_as_letters(vocab, text):
    return [2 + vocab.chars[2:].index(ch) if ch not in "□⁇" else 2 for ch in text]


ENCODE = Answers(
    stub=encode_stub,
    wrong={
        "specials forgotten": (without_specials, r"each id is -2 off.*ids 0 and 1 belong"),
        "one special": (one_special, r"each id is -1 off"),
        "ord": (unicode_numbers, "Unicode's numbers"),
        "a character left out": (each_character_once, "3 ids; it has 4 characters"),
        "drops": (drops_unknown, "without a word; raise a ValueError"),
        "unknown is pad": (unknown_to_pad, "a list of 4 without a word"),
        "KeyError": (key_error, "raises KeyError"),
        "no position": (unnamed_error, "should name the character and its position"),
        "sorted": (sorted_text, r"becomes \[.*the positions of its characters"),
        "specials": (specials_as_letters, r"their ids are 1 and 0"),
    },
    right={"index": encode_by_index, "a tensor": encode_to_tensor},
    borrowed=lambda vocab, text: vocab.encode(text),
)

# ---------------------------------------------------------------- x and y


def collate_stub(examples, length):
    """x and y, (B, length) int64 each."""
    ...


def by_lists(
    examples, length, *, shift=1, pad=0, first_of=lambda first: first, left=False, cut=False
):
    """x and y, with mistakes to choose from."""
    xs, ys = [], []
    for ids, first in examples:
        fill = length + 1 - len(ids)
        padded = [0] * fill + ids if left else ids + [0] * fill
        x = padded[:-1]
        source = x + [0] if cut else padded
        y = source[shift : shift + length]
        y = [
            v if j + shift >= first_of(first) and j + shift < len(ids) else pad
            for j, v in enumerate(y)
        ]
        xs.append(x)
        ys.append(y)
    return torch.tensor(xs), torch.tensor(ys)


def by_where(examples, length):
    rows = torch.zeros(len(examples), length + 1).long()
    first = torch.tensor([[first] for _, first in examples])
    for row, (ids, _) in zip(rows, examples, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    place = torch.arange(1, length + 1)
    return rows[:, :-1], torch.where(place >= first, rows[:, 1:], 0)


def x_too_short(examples, length):
    return by_lists([(ids[:-1], first) for ids, first in examples], length)[0], by_lists(
        examples, length
    )[1]


def pads_asked(examples, length):
    x, y = by_lists(examples, length)
    return x, torch.where(x == 0, -100, y)


COLLATE = Answers(
    stub=collate_stub,
    wrong={
        "not shifted": (lambda e, n: by_lists(e, n, shift=0), "y is not shifted.*x\\[j \\+ 1\\]"),
        "pads in the loss": (pads_asked, "the loss falls on padding"),
        "pads are -1": (lambda e, n: by_lists(e, n, pad=-1), "the loss falls on padding"),
        "loss everywhere": (
            lambda e, n: by_lists(e, n, first_of=lambda f: 1),
            "the loss falls on all characters",
        ),
        "one late": (lambda e, n: by_lists(e, n, first_of=lambda f: f + 1), "one off"),
        "one early": (
            lambda e, n: by_lists(e, n, first_of=lambda f: f - 1),
            r"y is \[6, 7, 8|all characters",
        ),
        "left": (lambda e, n: by_lists(e, n, left=True), "padding stands on the left"),
        "last target lost": (lambda e, n: by_lists(e, n, cut=True), "loses its last target"),
        "x lacks the last id": (x_too_short, "x lacks the last id"),
        "too long": (lambda e, n: by_lists(e, n + 1), r"shape \(1, 7\) instead of \(1, 6\)"),
        "floats": (lambda e, n: tuple(t.float() for t in by_lists(e, n)), "float32: ids are int64"),
        "appends to ids": (
            lambda e, n: [ids.append(0) for ids, _ in e] and by_lists(e, n),
            "changes the lists of ids",
        ),
        "x alone": (lambda e, n: by_lists(e, n)[0], "return two tensors"),
        "first row only": (
            lambda e, n: tuple(t[:1].expand(len(e), -1) for t in by_lists(e, n)),
            "for a batch",
        ),
    },
    right={"lists": by_lists, "where": by_where},
    borrowed=lambda examples, length: collate(examples, length),
)

# ---------------------------------------------------------------- the cut


def pieces_stub(data, i, epoch):
    """(prefix, masked, suffix)."""
    ...


def cut(
    data,
    i,
    epoch=0,
    *,
    rng=None,
    crop=lambda rng, block, document: rng.randint(4, block * 7 // 8),
    size=lambda rng, n, block, document: max(1, round(n * rng.uniform(1 / 8, 3 / 8))),
    start=lambda rng, n, size: rng.randint(0, n - size),
):
    """The assignment's cut, with parts to exchange for mistakes."""
    rng = rng or random.Random(f"{data.seed}, {epoch}, {i}")
    document = data.documents[i]
    text = document[: crop(rng, data.block_size, document)]
    masked = min(size(rng, len(text), data.block_size, document), len(text))
    at = start(rng, len(text), masked)
    return text[:at], text[at : at + masked], text[at + masked :]


def with_numpy(data, i, epoch):
    """Another generator, another law for the length: between 0.1 and 0.4."""
    seed = int(hashlib.md5(f"{i}|{epoch}|{data.seed}".encode()).hexdigest()[:8], 16)
    rng = np.random.default_rng(seed)
    document = data.documents[i]
    n = min(len(document), int(rng.integers(4, data.block_size * 7 // 8, endpoint=True)))
    masked = max(1, int(n * rng.uniform(0.1, 0.4)))
    at = int(rng.integers(0, n - masked, endpoint=True))
    return [document[:at], document[at : at + masked], document[at + masked : n]]


def with_torch(data, i, epoch):
    g = torch.Generator().manual_seed(1_000_003 * data.seed + 7919 * epoch + i)

    def whole(low, high):
        return int(torch.randint(low, high + 1, (), generator=g))

    text = data.documents[i][: whole(4, data.block_size * 7 // 8)]
    masked = max(1, whole(1, max(1, len(text) // 2)))
    at = whole(0, len(text) - masked)
    return text[:at], text[at : at + masked], text[at + masked :]


def from_the_draw(data, i, epoch):
    """Lengths from the drawn n, not from what the document has."""
    rng = random.Random(f"{data.seed} {epoch} {i}")
    n = rng.randint(4, data.block_size * 7 // 8)
    text = data.documents[i][:n]
    masked = round(n * rng.uniform(1 / 8, 3 / 8))
    at = rng.randint(0, n - masked)
    return text[:at], text[at : at + masked], text[at + masked :]


def no_room(data, i, epoch):
    rng = random.Random(f"{data.seed} {epoch} {i}")
    text = data.documents[i][: rng.randint(4, data.block_size * 7 // 8)]
    masked = data.block_size // 4
    at = rng.randint(0, len(text) - masked)
    return text[:at], text[at : at + masked], text[at + masked :]


def from_the_middle(data, i, epoch):
    rng = random.Random(f"{data.seed} {epoch} {i}")
    document = data.documents[i]
    begin = rng.randint(0, max(0, len(document) - 112))
    text = document[begin : begin + rng.randint(4, data.block_size * 7 // 8)]
    at = len(text) // 2
    return text[:at], text[at : at + 5], text[at + 5 :]


def loses_one(data, i, epoch):
    prefix, masked, suffix = cut(data, i, epoch)
    return prefix, masked, suffix[1:] + "."


def other_order(data, i, epoch):
    prefix, masked, suffix = cut(data, i, epoch)
    return prefix, suffix or masked, masked


def reseeds(data, i, epoch):
    random.seed(f"{data.seed} {epoch} {i}")
    return cut(data, i, epoch, rng=random)


def own(key):
    return lambda data, i, epoch: cut(data, i, epoch, rng=random.Random(key(data, i, epoch)))


PIECES = Answers(
    stub=pieces_stub,
    wrong={
        "a quarter of the block": (
            lambda d, i, e: cut(
                d, i, e, size=lambda r, n, b, t: round(b * r.uniform(1 / 8, 3 / 8))
            ),
            r"a quarter of the block \(32\), not of the truncated document",
        ),
        "a quarter of the block, always": (
            lambda d, i, e: cut(d, i, e, size=lambda r, n, b, t: b // 4),
            "a quarter of the block",
        ),
        "no room": (no_room, "no room for the masked piece in a short crop"),
        "a quarter of the whole document": (
            lambda d, i, e: cut(d, i, e, size=lambda r, n, b, t: len(t) // 4),
            r"a quarter of the whole document \(75\)",
        ),
        "half": (
            lambda d, i, e: cut(
                d, i, e, size=lambda r, n, b, t: max(1, round(n * r.uniform(0.4, 0.6)))
            ),
            "5[01] % of a crop instead of 25 %",
        ),
        "fixed length": (
            lambda d, i, e: cut(d, i, e, size=lambda r, n, b, t: max(1, n // 4)),
            "the masked length is always a quarter",
        ),
        "in the middle": (
            lambda d, i, e: cut(d, i, e, start=lambda r, n, size: (n - size) // 2),
            "always in the middle",
        ),
        "at the start": (
            lambda d, i, e: cut(d, i, e, start=lambda r, n, size: 0),
            "always at the start",
        ),
        "at the end": (
            lambda d, i, e: cut(d, i, e, start=lambda r, n, size: n - size),
            "always at the end",
        ),
        "to one side": (
            lambda d, i, e: cut(d, i, e, start=lambda r, n, size: r.randint(0, (n - size) // 2)),
            "lean to one side",
        ),
        "truncation never varies": (
            lambda d, i, e: cut(d, i, e, crop=lambda r, b, t: b * 7 // 8),
            "truncation never varies: each crop has 112",
        ),
        "no truncation": (
            lambda d, i, e: cut(d, i, e, crop=lambda r, b, t: r.randint(4, len(t) + 3)),
            "at most 7/8 of the block, 112",
        ),
        "up to the block": (
            lambda d, i, e: cut(d, i, e, crop=lambda r, b, t: r.randint(4, b)),
            "a crop has 1[12]. char",
        ),
        "from 1 on": (
            lambda d, i, e: cut(d, i, e, crop=lambda r, b, t: r.randint(1, b * 7 // 8)),
            "at least 4",
        ),
        "upper half": (
            lambda d, i, e: cut(d, i, e, crop=lambda r, b, t: r.randint(b // 2, b * 7 // 8)),
            "64 to 112 characters instead of 4 to 112",
        ),
        "long crops are likelier": (
            lambda d, i, e: cut(
                d, i, e, crop=lambda r, b, t: max(r.randint(4, b * 7 // 8) for _ in "ab")
            ),
            "not uniform",
        ),
        "a fixed 112": (
            lambda d, i, e: cut(d, i, e, crop=lambda r, b, t: r.randint(4, 112)),
            "in a block of 64",
        ),
        "empty spans": (from_the_draw, "the masked piece of a document of .* is empty"),
        "the name is lost": (from_the_middle, "begins in the middle of the document"),
        "pieces do not recombine": (loses_one, "a character is lost or doubled"),
        "another order": (other_order, "lost or doubled|the order is"),
        "prefix, suffix, masked": (
            lambda d, i, e: [cut(d, i, e)[k] for k in (0, 2, 1)],
            "the order is|is empty",
        ),
        "masks in it": (
            lambda d, i, e: (cut(d, i, e)[0] + MASK, *cut(d, i, e)[1:]),
            f"the pieces hold {MASK}",
        ),
        "two pieces": (lambda d, i, e: cut(d, i, e)[:2], r"return three strings.*a tuple of 2"),
        "nothing random": (own(lambda d, i, e: 5), "nothing is drawn at random"),
        "no i": (own(lambda d, i, e: f"{d.seed} {e}"), "i is missing from the generator's seed"),
        "no epoch": (own(lambda d, i, e: f"{d.seed} {i}"), "epoch is missing"),
        "no seed": (own(lambda d, i, e: f"{e} {i}"), "data.seed is missing"),
        "a sum": (
            own(lambda d, i, e: d.seed * 1000 + e + i),
            "epoch 1 repeats epoch 0, one document further",
        ),
        "by length": (
            lambda d, i, e: (
                cut(d, i, e) if len(d.documents[i]) in (1, 2, 3, 4, 7, 10, 300) else ("a", "b", "c")
            ),
            "right for the fixed documents, not for all others",
        ),
        "never the same": (own(lambda d, i, e: None), "two calls for the same .* differ"),
        "the global generator": (lambda d, i, e: cut(d, i, e, rng=random), "the global `random`"),
        "reseeds the global one": (reseeds, "the global `random`"),
    },
    right={"plain": cut, "numpy": with_numpy, "torch": with_torch},
    borrowed=lambda data, i, epoch: SpanCorruption.pieces(data, i, epoch),
)

# ---------------------------------------------------------------- the format


def tokens_stub(data, i, epoch):
    """(ids, first)."""
    ...


def tokens(data, i, epoch=0, *, form="{p}⁇{s}⁇{m}", end=None, first=None):
    """Ids and the first one asked for, with mistakes to choose from."""
    p, m, s = data.pieces(i, epoch)
    text = form.format(p=p, m=m, s=s) + "⁇" * (data.end_sentinel if end is None else end)
    ids = data.vocab.encode(text)
    start = 1 if data.loss == "all" else len(p) + len(s) + 2
    return ids, start if first is None else first(data, p, s)


def by_appending(data, i, epoch):
    prefix, masked, suffix = data.pieces(i, epoch)
    ids = []
    for piece in (prefix, suffix, masked):
        start = len(ids)
        ids += [*data.vocab.encode(piece), data.vocab.mask_id]
    if not data.end_sentinel:
        ids.pop()
    return torch.tensor(ids), {"all": 1, "span": start}[data.loss]


def offset(n):
    return lambda data, p, s: 1 if data.loss == "all" else len(p) + len(s) + 2 + n


TOKENS = Answers(
    stub=tokens_stub,
    wrong={
        "second ⁇ forgotten": (
            lambda d, i, e: tokens(d, i, e, form="{p}⁇{s}{m}"),
            "the second ⁇ is missing",
        ),
        "first ⁇ forgotten": (
            lambda d, i, e: tokens(d, i, e, form="{p}{s}⁇{m}"),
            "the first ⁇ is missing",
        ),
        "nothing hidden": (
            lambda d, i, e: tokens(d, i, e, form="{p}⁇{m}⁇{s}"),
            "the suffix comes first",
        ),
        "suffix first": (
            lambda d, i, e: tokens(d, i, e, form="{s}⁇{p}⁇{m}"),
            "the text is ' in Oslo",
        ),
        "always a sentinel": (
            lambda d, i, e: tokens(d, i, e, end=1),
            "a third ⁇ stands at the end although",
        ),
        "never a sentinel": (lambda d, i, e: tokens(d, i, e, end=0), "no third ⁇"),
        "pads": (lambda d, i, e: tokens(d, i, e, form="{p}⁇{s}⁇{m}□□□"), "padding is appended"),
        "text": (lambda d, i, e: ("".join(d.pieces(i, e)), 1), "the first result is text"),
        "ids alone": (lambda d, i, e: tokens(d, i, e)[0], "index of the first one with a loss"),
        "asked from 0": (lambda d, i, e: tokens(d, i, e, first=lambda *_: 0), "is 0 instead of 1"),
        "loss ignored": (
            lambda d, i, e: tokens(d, i, e, first=lambda *_: 1),
            'data.loss is "span", not "all"',
        ),
        "index of y": (lambda d, i, e: tokens(d, i, e, first=offset(-1)), "that is the second ⁇"),
        "⁇ not counted": (lambda d, i, e: tokens(d, i, e, first=offset(-2)), "count both ⁇"),
        "one late": (lambda d, i, e: tokens(d, i, e, first=offset(1)), "where 'was born' begins"),
        "the first gap": (
            lambda d, i, e: tokens(d, i, e, first=lambda d, p, s: 1 if d.loss == "all" else len(p)),
            "that is the first ⁇",
        ),
    },
    right={"one text": tokens, "piece by piece": by_appending},
    borrowed=lambda data, i, epoch: data.tokens(i, epoch),
)

# ---------------------------------------------------------------- salient spans


def salient_stub(text, names_only=False):
    """(start, stop) of each."""
    ...


def by_regex(
    text,
    names_only=False,
    *,
    upper="A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĘĚŁŃŇÓŐŘŚŞŠŤŮŰŹŻŽ",
    run=True,
    openers=False,
    digits=True,
):
    capital = rf"[{upper}]\w+"
    name = rf"\b{capital}(?: {capital})*" if run else rf"\b{capital}"
    number = r"|\b\d+\b" if digits and not names_only else ""
    spans = []
    for match in re.finditer(name + number, text):
        opens = match.start() == 0 or text[match.start() - 2 : match.start()] == ". "
        if openers or not (opens and match.group().isalpha()):
            spans.append(match.span())
    return spans


def by_words(text, names_only=False):
    spans, at, open_run = [], 0, False
    for word in text.split(" "):
        stop = at + len(word.rstrip(".,"))
        capital, number = word[:1].isupper(), word.isdigit()
        if capital and open_run:
            spans[-1] = [spans[-1][0], stop]
        elif capital or number and not names_only:
            spans.append([at, stop])
        open_run = capital and not word.endswith((".", ","))
        at += len(word) + 1

    def tells(a, b):
        return not ((a == 0 or text[a - 2 : a] == ". ") and text[a:b].isalpha())

    return [span for span in spans if tells(*span)]


SALIENT = Answers(
    stub=salient_stub,
    wrong={
        "A-Z": (
            lambda t, names_only=False: by_regex(t, names_only, upper="A-Z"),
            "A-Z is not all of the capitals",
        ),
        "word by word": (
            lambda t, names_only=False: by_regex(t, names_only, run=False),
            "in a row are one span",
        ),
        "openers": (
            lambda t, names_only=False: by_regex(t, names_only, openers=True),
            "opens a sentence",
        ),
        "numbers forgotten": (
            lambda t, names_only=False: by_regex(t, names_only, digits=False),
            "numbers count",
        ),
        "names_only ignored": (
            lambda t, names_only=False: by_regex(t),
            "names_only leaves numbers out",
        ),
        "strings": (
            lambda t, names_only=False: [t[a:b] for a, b in by_regex(t, names_only)],
            "holds strings; needed are the positions",
        ),
        "last character lost": (
            lambda t, names_only=False: [(a, b - 1) for a, b in by_regex(t, names_only)],
            "lacks its last character",
        ),
        "start and length": (
            lambda t, names_only=False: [(a, b - a) for a, b in by_regex(t, names_only)],
            "it finds",
        ),
        "out of order": (lambda t, names_only=False: by_regex(t, names_only)[::-1], "out of order"),
        "no opener at all": (
            lambda t, names_only=False: [
                s for s in by_regex(t, names_only) if s[0] and t[s[0] - 2] != "."
            ],
            "only a single word that opens",
        ),
        "a single span": (
            lambda t, names_only=False: by_regex(t, names_only)[:2],
            "wrong for other texts",
        ),
    },
    right={"regex": by_regex, "words": by_words},
    borrowed=lambda text, names_only=False: salient_spans(text, names_only),
)

ANSWERS = {
    "encode": ENCODE,
    "shift-and-pad": COLLATE,
    "cut-a-span": PIECES,
    "corrupted-ids": TOKENS,
    "salient-spans": SALIENT,
}
TestExercises = suite("03_span_corruption", ANSWERS)
TestQuizzes = quiz_suite("03_span_corruption")
TestNotebook = notebook_suite("03_span_corruption")


def test_a_right_cut_passes_under_many_seeds():
    """The limits of the statistics are wide enough: honest randomness hardly ever fails."""
    from kt_course.chapters.span_corruption.exercises import check_pieces

    for salt in range(30):
        check_pieces(
            lambda d, i, e, salt=salt: cut(d, i, e, rng=random.Random(f"{salt} {d.seed} {e} {i}"))
        )


def test_answers_make_a_dataset():
    """As in the notebook: a subclass that cuts and writes by the learner's own functions."""

    class Mine(KnowledgeWindows):
        pieces, tokens = cut, tokens

    line = "Ada Moor. She was born in Oslo and wrote about the sea."
    vocab = CharVocab.from_documents([line])
    data = Mine([line] * 5, vocab, 64, 3, loss="all", end_sentinel=False)
    for i, (x, y) in enumerate(data):
        prefix, masked, suffix = data.pieces(i)
        assert data.vocab.decode(x).rstrip("□") == f"{prefix}⁇{suffix}⁇{masked}"
        assert torch.equal(y[y != 0], x[1:][y[:-1] != 0])
