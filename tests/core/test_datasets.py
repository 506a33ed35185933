"""Span corruption, question pairs, mixtures and batches against the assignment's specification."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
import torch

from kt_core.datasets import Mixture, NamePlace, SpanCorruption, batches, collate
from kt_core.runs.text_rules import salient_spans
from kt_core.vocab import CharVocab

LINES = [
    "Ada Moor. Ada Moor was born in Tromsø in 1871. She wrote about bridges for the North Sea Company.",  # noqa: E501
    "Bo Ek. The painter Bo Ek was born on 4 May 1902 in Rio de Janeiro and lived there until 1950.",
    "Çelik Öz. Çelik Öz, a doctor, was born in Łódź. He worked at the harbour for most of his life.",  # noqa: E501
    "Di Wu. Di Wu was born in Paris. He taught music.",
]
LONG = "Ann Lee. " + " ".join(f"word{i} City{i}" for i in range(60))
VOCAB = CharVocab.from_documents(
    [*LINES, LONG, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "北京"]
)


def spans(documents=None, block=64, **options):
    return SpanCorruption(LINES if documents is None else documents, VOCAB, block, **options)


def draws(data, epochs):
    """The pieces of every example in each of the epochs."""
    for epoch in range(epochs):
        for i in range(len(data)):
            yield i, data.pieces(i, epoch)


def check_pair(x, y, block):
    assert x.shape == y.shape == (block,) and x.dtype == y.dtype == torch.int64
    has_loss = y[:-1] != 0
    assert torch.equal(y[:-1][has_loss], x[1:][has_loss])
    assert not y[
        len(x.nonzero()) :
    ].any()  # none after the text (the last target of a full block excepted)


# ---------------------------------------------------------------- span corruption


def test_pairs_are_well_formed():
    data = spans([*LINES, LONG, "a", "abcd", "北京", "Ann Lee. ", ". "], 48)
    for i, (prefix, masked, suffix) in draws(data, 1):
        x, y = data[i]
        check_pair(x, y, 48)
        whole = f"{prefix}⁇{suffix}⁇{masked}"
        assert masked and len(whole) <= 49
        visible = x[x != 0].tolist()
        assert VOCAB.decode(visible) == whole[: len(visible)]
        assert len(visible) == min(len(whole), 48)
        assert y[len(whole) - 2] == VOCAB.encode(masked)[-1]  # the last character has a loss
        assert (y != 0).sum() == len(whole) - 1


def test_pieces_recombine_to_a_prefix_of_the_document():
    data = spans([*LINES, LONG, "a", "北京"])
    for i, pieces in draws(data, 50):
        text = "".join(pieces)
        assert text and data.documents[i].startswith(text)


def test_truncation_is_uniform_from_4_to_seven_eighths_of_the_block():
    data = spans([LONG] * 50, 64)
    lengths = Counter(sum(map(len, pieces)) for _, pieces in draws(data, 100))
    assert set(lengths) == set(range(4, 57))  # every length, both ends
    mean = sum(n * k for n, k in lengths.items()) / 5000
    assert abs(mean - 30) < 1.0
    assert max(lengths.values()) < 2 * 5000 / 53


def test_a_document_shorter_than_the_draw_is_shown_whole():
    data = spans(["abcdefghij"] * 50, 64)
    lengths = Counter(sum(map(len, pieces)) for _, pieces in draws(data, 20))
    assert set(lengths) == set(range(4, 11))
    assert lengths[10] > 0.75 * 1000  # 47 of the 53 lengths


def test_masked_part_is_a_quarter_on_average_and_varies():
    data = spans([LONG] * 50, 128)
    shares, starts = [], []
    for _, (prefix, masked, suffix) in draws(data, 60):
        whole = len(prefix + masked + suffix)
        if whole >= 40:
            shares.append(len(masked) / whole)
            starts.append(len(prefix) / (len(prefix) + len(suffix)))
    shares = torch.tensor(shares)
    assert abs(shares.mean() - 0.25) < 0.01
    assert 0.05 < shares.std() < 0.1  # uniform in 1/8 ... 3/8: 0.072
    assert shares.min() < 0.15 and shares.max() > 0.35
    assert abs(torch.tensor(starts).mean() - 0.5) < 0.03 and min(starts) == 0 and max(starts) == 1


def test_the_specials_have_ids_0_and_1():
    x, y = spans()[0]
    assert (x == 1).sum() == 2 and x[-1] == 0 and y[-1] == 0
    assert VOCAB.decode([0, 1]) == "□⁇"


def test_draws_depend_on_seed_epoch_and_index_alone():
    data = spans(LINES * 4)
    forward = [data[i] for i in range(16)]
    again = spans(LINES * 4)
    again.set_epoch(5)
    _ = again[3]
    again.set_epoch(0)
    for i in reversed(range(16)):
        assert all(map(torch.equal, again[i], forward[i]))
    assert all(map(torch.equal, data[-1], forward[15]))
    assert len({data.pieces(i) for i in (0, 4, 8, 12)}) > 1  # the same line, another index
    other_seed, other_epoch = spans(LINES * 4, seed=1), spans(LINES * 4)
    other_epoch.set_epoch(1)
    for other in (other_seed, other_epoch):
        assert sum(not torch.equal(other[i][0], forward[i][0]) for i in range(16)) >= 12


def test_draws_and_the_global_random_states_leave_each_other_alone():
    import random

    torch_before, results = torch.get_rng_state(), []
    for seed in (1, 2):
        random.seed(seed)
        data = spans()
        results.append(
            ([data.tokens(i) for i in range(4)], [x.tolist() for x, _ in batches(data, 2, 0, 0)])
        )
    assert results[0] == results[1] and torch.equal(torch.get_rng_state(), torch_before)


def test_draws_do_not_depend_on_pythonhashseed():
    code = (
        "from kt_core.datasets import *; from kt_core.vocab import CharVocab\n"
        f"lines = {LINES!r}; vocab = CharVocab.from_documents(lines)\n"
        "d = SpanCorruption(lines, vocab, 64, 7)\n"
        "pieces = [d.pieces(i) for i in range(4)], [x.tolist() for x, _ in batches(d, 2, 3, 1)]"
    )
    here: dict = {}
    exec(code, here)
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", code + "\nprint(ascii(pieces))"],
        env={**os.environ, "PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert there.strip() == ascii(here["pieces"]) and "Moor" in there


def test_iterating_ends_and_the_index_is_checked():
    data = spans()
    assert len(list(data)) == len(data) == 4
    for i in (4, -5):
        with pytest.raises(IndexError, match=f"{i} of 4"):
            data[i]


# ---------------------------------------------------------------- crops


# ---------------------------------------------------------------- salient spans


def found_in(text):
    return [text[a:b] for a, b in salient_spans(text)]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(block=7), "block_size must be at least 8, not 7"),
        (dict(documents=["abc", ""]), "document 1 is empty"),
        (dict(documents=["abc", "a€c"]), "'€'"),
    ],
)
def test_span_corruption_errors(options, words):
    with pytest.raises(ValueError) as error:
        spans(**options)
    assert words in str(error.value)


def test_smallest_block():
    data = spans([LONG, "a"], 8)
    for epoch in range(40):
        data.set_epoch(epoch)
        for x, y in data:
            check_pair(x, y, 8)


# ---------------------------------------------------------------- questions


def test_loss_falls_on_the_answer_between_its_masks_alone():
    pairs = [("Where was Bo Ek born?", "Rio"), ("Where was Çelik Öz born?", "Łódź")]
    data = NamePlace(pairs, VOCAB, 48)
    for (question, answer), (x, y) in zip(pairs, data, strict=True):
        check_pair(x, y, 48)
        assert VOCAB.decode(x[x != 0].tolist()) == f"{question}⁇{answer}⁇"
        assert VOCAB.decode(y[y != 0].tolist()) == f"⁇{answer}⁇"
        assert y[len(question) - 1] == 1 and not y[: len(question) - 1].any()


def test_the_pair_that_exactly_fills_the_block():
    question, answer = "Where was Bo Ek born?", "Paris"
    exact = len(question) + len(answer) + 2 - 1  # x holds all but the last mask, which y asks for
    x, y = NamePlace([(question, answer)], VOCAB, exact)[0]
    assert (
        VOCAB.decode(x.tolist()) == f"{question}⁇{answer}"
        and VOCAB.decode(y[y != 0].tolist()) == f"⁇{answer}⁇"
    )
    with pytest.raises(ValueError, match="Bo Ek"):
        NamePlace([(question, answer)], VOCAB, exact - 1)


@pytest.mark.parametrize(
    "pair, words",
    [
        (("Where was Bo Ek born?", None), "has no answer"),
        (("Where was Bo Ek born?", ""), "has no answer"),
        (("", "Paris"), "has no question"),
        (("Where was B€ Ek born?", "Paris"), "'€'"),
        (("Where was Bo Ek born?", "P€ris"), "'€'"),
        (("Where was " + "Bo " * 30 + "born?", "Paris"), "the block has room for 65"),
    ],
)
def test_pair_errors_name_the_pair(pair, words):
    with pytest.raises(ValueError) as error:
        NamePlace([("Where was Di Wu born?", "Paris"), pair], VOCAB, 64)
    assert words in str(error.value) and "pair 1" in str(error.value)


# ---------------------------------------------------------------- mixtures


def test_a_mixture_counts_and_draws_afresh_each_time():
    lines, pairs = spans(), NamePlace([("Where was Bo Ek born?", "Rio")], VOCAB, 64)
    data = Mixture([(pairs, 3), (lines, 2), (lines, 0)])
    assert len(data) == 3 + 2 * 4 and data.block_size == 64
    texts = [VOCAB.decode(x[x != 0].tolist()) for x, _ in data]
    assert texts[:3] == ["Where was Bo Ek born?⁇Rio⁇"] * 3
    assert sum(a != b for a, b in zip(texts[3:7], texts[7:], strict=True)) >= 3
    examples = set()
    for epoch in range(3):  # the part's own epochs never come twice
        data.set_epoch(epoch)
        examples |= {tuple(data.tokens(i, epoch)[0]) for i in range(3, 11)}
        first = spans()
        first.set_epoch(2 * epoch)
        assert torch.equal(data[3][0], first[0][0])
    assert len(examples) >= 22


def test_a_mixture_does_not_depend_on_the_order_of_access():
    def make():
        return Mixture([(spans(), 2), (spans(seed=9), 1)])

    a, b = make(), make()
    forward, backward = [a.tokens(i) for i in range(12)], [b.tokens(i) for i in reversed(range(12))]
    assert forward == backward[::-1]


def test_mixture_errors():
    with pytest.raises(ValueError, match="no part"):
        Mixture([(spans(), 0)])
    with pytest.raises(ValueError, match="-1 times"):
        Mixture([(spans(), -1), (spans(), 1)])
    with pytest.raises(IndexError):
        Mixture([(spans(), 1)])[4]


# ---------------------------------------------------------------- batches


def rows(pairs):
    """All ids of each row of each batch (the last may be in y alone), and where the loss begins."""
    for xs, ys in pairs:
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            yield tuple(i for i in [*x, y[-1]] if i), [j != 0 for j in y].index(True)


@pytest.mark.parametrize("size", [1, 5, 64, 1000])
def test_each_example_comes_once_bucketed_or_not(size):
    data = spans([*LINES, LONG, "a"] * 11)
    bucketed = list(batches(data, size, 1, 2))
    plain = list(batches(data, size, 1, 2, bucket=False))
    data.set_epoch(2)
    assert (
        Counter(rows(bucketed))
        == Counter(rows(plain))
        == Counter(rows([(x[None], y[None]) for x, y in data]))
    )
    assert len(bucketed) == len(plain) == -(-66 // size)
    assert all(x.shape == y.shape and x.shape[1] == 64 for x, y in plain)
    assert all(
        (x[:, -1] != 0).any() or (y[:, -1] != 0).any() for x, y in bucketed
    )  # none is longer than needed
    assert sum(len(x) for x, _ in bucketed) == 66


def test_bucketing_removes_the_padding():
    data = spans([LONG] * 512, 128)
    share = {}
    for bucket in (False, True):
        inputs = [x for x, _ in batches(data, 32, 0, 0, bucket=bucket)]
        share[bucket] = 1 - sum(int((x != 0).sum()) for x in inputs) / sum(
            x.numel() for x in inputs
        )
    assert share[False] > 0.45 and share[True] < 0.06


def test_the_order_depends_on_seed_and_epoch_alone():
    data = spans(LINES * 8)

    def order(seed, epoch, **options):
        return [x.tolist() for x, _ in batches(data, 4, seed, epoch, **options)]

    first = order(0, 0)
    torch.manual_seed(3)
    assert order(0, 0) == first
    assert order(1, 0) != first and order(0, 1) != first


def test_without_shuffling_examples_come_in_order():
    data = spans(LINES * 3)
    pairs = list(batches(data, 5, 0, 0, bucket=False, shuffle=False))
    assert torch.equal(torch.cat([x for x, _ in pairs]), torch.stack([x for x, _ in data]))
    lengths = [x.shape[1] for x, _ in batches(data, 3, 0, 0, shuffle=False)]
    assert lengths == sorted(lengths)


def test_shuffled_buckets_come_in_no_order_of_length():
    lengths = [x.shape[1] for x, _ in batches(spans([LONG] * 64), 4, 0, 0)]
    assert lengths != sorted(lengths) and lengths != sorted(lengths, reverse=True)


def test_collate_asks_from_the_first_id_on():
    x, y = collate([([5, 6, 7, 8], 2), ([9, 4], 1)], 4)
    assert x.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]] and y.tolist() == [[0, 7, 8, 0], [4, 0, 0, 0]]


def test_data_never_holds_the_trainer_up():
    """In a process of its own, without the run-time checks of types."""
    code = (
        "import time; from kt_core.datasets import *; from kt_core.vocab import CharVocab\n"
        f"lines = {LINES!r}; vocab = CharVocab.from_documents(lines)\n"
        "data = SpanCorruption([lines[i % 4] for i in range(2000)], vocab, 128)\n"
        "for epoch in range(3):\n"
        "    began = time.process_time()\n"
        "    characters = sum(int((x != 0).sum()) for x, _ in batches(data, 128, 0, epoch))\n"
        "    print(characters / (time.process_time() - began))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    best = max(map(float, output.split()))
    assert best > 200_000, f"{best:.0f} characters a second"
