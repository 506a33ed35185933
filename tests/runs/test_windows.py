"""Span corruption, question pairs, mixtures and batches against the assignment's specification."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kt_core.datasets import SpanCorruption
from kt_core.runs.text_rules import (
    arrange_window,
    askable_spans,
    name_prefix_end,
    plain_words,
    salient_spans,
)
from kt_core.vocab import CharVocab

LINES = [
    "Ada Moor. Ada Moor was born in Tromsø in 1871. She wrote about bridges for the North Sea Company.",
    "Bo Ek. The painter Bo Ek was born on 4 May 1902 in Rio de Janeiro and lived there until 1950.",
    "Çelik Öz. Çelik Öz, a doctor, was born in Łódź. He worked at the harbour for most of his life.",
    "Di Wu. Di Wu was born in Paris. He taught music.",
]
LONG = "Ann Lee. " + " ".join(f"word{i} City{i}" for i in range(60))
VOCAB = CharVocab.from_documents(
    [*LINES, LONG, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "北京"]
)


def spans(documents=None, block=64, **options):
    return SpanCorruption(LINES if documents is None else documents, VOCAB, block, **options)


def drawn(data, epochs):
    """The pieces of every example in each of the epochs."""
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for i in range(len(data)):
            yield i, data.pieces(i)


def check_pair(x, y, block):
    assert x.shape == y.shape == (block,) and x.dtype == y.dtype == torch.int64
    asked = y[:-1] != 0
    assert torch.equal(y[:-1][asked], x[1:][asked])
    assert not y[
        len(x.nonzero()) :
    ].any()  # none behind the text (the last target of a full block excepted)


# ---------------------------------------------------------------- span corruption


@pytest.mark.parametrize("crop", ["prefix", "line", "window"])
@pytest.mark.parametrize("cut", ["random", "salient"])
@pytest.mark.parametrize("end_sentinel", [False, True])
@pytest.mark.parametrize("loss", ["all", "body", "span"])
def test_pairs_are_well_formed_for_every_option(crop, cut, end_sentinel, loss):
    documents = [*LINES, LONG, "a", "abcd", "北京", "Ann Lee. ", "Ann Lee. X", ". "]
    data = spans(documents, 48, crop=crop, spans=cut, end_sentinel=end_sentinel, loss=loss)
    for i, (prefix, masked, suffix) in drawn(data, 8):
        x, y = data[i]
        check_pair(x, y, 48)
        whole = f"{prefix}⁇{suffix}⁇{masked}" + "⁇" * end_sentinel
        ids = VOCAB.encode(whole.replace("⁇", ""))
        assert masked and len(whole) <= 49
        shown = x[x != 0].tolist()
        assert VOCAB.decode(shown) == whole[: len(shown)] and len(shown) == min(len(whole), 48)
        assert y[len(whole) - 2] == (
            1 if end_sentinel else ids[-1]
        )  # the last character is asked for
        if loss == "all":
            assert (y != 0).sum() == len(whole) - 1


@pytest.mark.parametrize("crop", ["prefix", "line"])
def test_pieces_recombine_to_a_prefix_of_the_document(crop):
    for cut in ("random", "salient"):
        data = spans([*LINES, LONG, "a", "北京"], crop=crop, spans=cut)
        for i, pieces in drawn(data, 50):
            text = "".join(pieces)
            assert text and data.documents[i].startswith(text)


def test_the_end_sentinel_is_a_third_mask_and_is_asked_for():
    without, with_end = spans(), spans(end_sentinel=True)
    for i in range(len(LINES)):
        (x, y), (x1, y1) = without[i], with_end[i]
        n = int((x != 0).sum())
        assert torch.equal(x[:n], x1[:n])  # the same draw
        assert (x1 == 1).sum() == 3 and x1[n] == 1 and y1[n - 1] == 1 and y[n - 1] == 0


@pytest.mark.parametrize("end_sentinel", [False, True])
def test_loss_on_the_span_alone(end_sentinel):
    data = spans([*LINES, LONG, "a", "abcd"], loss="span", crop="line", end_sentinel=end_sentinel)
    for i, (_, masked, _) in drawn(data, 20):
        y = data[i][1]
        assert VOCAB.decode(y[y != 0].tolist()) == masked + "⁇" * end_sentinel


def test_loss_on_the_body_leaves_the_head_out():
    data = spans(loss="body", crop="line", spans="salient")
    for i, (prefix, masked, suffix) in drawn(data, 20):
        y = data[i][1]
        head = LINES[i][: name_prefix_end(LINES[i])]
        assert prefix.startswith(head)
        assert VOCAB.decode(y[y != 0].tolist()) == f"{prefix}⁇{suffix}⁇{masked}"[len(head) :]


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


def test_draws_do_not_depend_on_pythonhashseed():
    code = (
        "from kt_core.datasets import *; from kt_core.vocab import CharVocab\n"
        f"lines = {LINES!r}; vocab = CharVocab.from_documents(lines)\n"
        "d = SpanCorruption(lines, vocab, 64, 7, crop='window', spans='salient')\n"
        "told = [d.pieces(i) for i in range(4)], [x.tolist() for x, _ in batches(d, 2, 3, 1)]"
    )
    here: dict = {}
    exec(code, here)
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", code + "\nprint(ascii(told))"],
        env={**os.environ, "PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert there.strip() == ascii(here["told"]) and "Moor" in there


# ---------------------------------------------------------------- crops


def test_line_crop_shows_as_much_as_fits():
    for end in (False, True):
        data = spans([LONG, LINES[3]], crop="line", end_sentinel=end)
        for i, pieces in drawn(data, 10):
            assert "".join(pieces) == data.documents[i][: 63 - end]


@pytest.mark.parametrize("cut", ["random", "salient"])
def test_window_crop_shows_the_head_and_a_few_words_around_the_span(cut):
    data = spans(LINES, 128, crop="window", spans=cut, whole=0.0)
    before, after, starts = set(), set(), set()
    for i, (prefix, masked, suffix) in drawn(data, 150):
        head = LINES[i][: name_prefix_end(LINES[i])]
        assert prefix.startswith(head) and masked
        shown = prefix[len(head) :] + masked + suffix
        rest = LINES[i][len(head) :]
        assert f" {shown} " in f" {rest} "  # one stretch between word boundaries
        starts.add((i, rest.index(shown)))
        if cut == "salient":  # these begin and end with a word
            before.add(len(prefix[len(head) :].split()))
            after.add(len(suffix.strip(" .,").split()))
    assert len(starts) > 20
    if cut == "salient":
        assert before == set(range(5)) and after == set(range(3))


def test_a_share_of_windows_is_the_whole_line():
    for whole, low, high in ((0.0, 0, 12), (0.3, 90, 150), (1.0, 400, 400)):
        data = spans(LINES[:1], 128, crop="window", spans="salient", whole=whole)
        shown = Counter("".join(pieces) for _, pieces in drawn(data, 400))
        assert low <= shown[LINES[0]] <= high


def test_windows_of_lines_with_a_long_head_or_nothing_behind_it_are_their_beginning():
    documents = ["x" * 40 + ". Bo Ek came.", "Ann Lee. ", "no head at all but some words"]
    data = spans(documents, 48, crop="window", whole=0.0)
    for i, pieces in drawn(data, 20):
        if i < 2:
            assert "".join(pieces) == documents[i][:47]
        else:
            assert "".join(pieces) in documents[i]


def test_the_head_ends_with_the_first_full_stop():
    assert name_prefix_end("Ada Moor. She. He") == 10 and name_prefix_end("no head") == 0


def test_head_last_puts_the_head_behind_the_words_some_of_the_time():
    assert {
        prefix
        for _, (prefix, _, _) in drawn(spans(LINES[1:2], 128, crop="window", spans="names"), 60)
    } == {"Bo Ek. " + words for words in ("", "in ", "1902 in ", "May 1902 in ", "4 May 1902 in ")}
    data = spans(LINES[1:2], 128, crop="window", spans="names", head_last=0.5)
    found = Counter((prefix, suffix) for _, (prefix, _, suffix) in drawn(data, 600))
    last = {pair: n for pair, n in found.items() if not pair[0].startswith("Bo Ek. ")}
    assert 240 < sum(last.values()) < 360
    assert ("1902 in ", " and Bo Ek.") in last and ("", " Bo Ek.") in last
    for loss, asked in (("span", {"Rio de Janeiro"}), ("body", None)):
        data = spans(LINES[1:2], 128, crop="window", spans="names", head_last=1.0, loss=loss)
        shown = {
            VOCAB.decode(row[row != 0].tolist()) for row in (data[0][1] for data.epoch in range(20))
        }
        assert shown == asked or all(text.endswith("Bo Ek.⁇Rio de Janeiro") for text in shown)
    assert spans(LINES[:1], 32, crop="window", head_last=1.0)[0][0].shape == (32,)


def test_dropped_words_are_missing_the_head_and_the_order_stay():
    document = "Ada Moor. one two three four Rome five six seven."
    whole = ["one", "two", "three", "four", "five", "six", "seven."]
    for share in (0.5, 1.0):
        data = spans([document], 128, crop="window", spans="names", drop=share)
        seen = []
        for epoch in range(400):
            data.set_epoch(epoch)
            prefix, masked, suffix = data.pieces(0)
            assert masked == "Rome"
            assert prefix.startswith("Ada Moor. ")
            words = prefix.removeprefix("Ada Moor. ").split() + suffix.split()
            assert words == [word for word in whole if word in words]
            seen.append(len(words))
        # 0-4 words before and 0-2 behind (the space beside the span counts for none): 3 on average
        assert sum(seen) / len(seen) == pytest.approx(3 * (1 - share), abs=0.25)
    again = spans([document], 128, crop="window", spans="names", drop=0.5)
    assert [again.pieces(0) for again.epoch in range(9)] == [
        again.pieces(0) for again.epoch in range(9)
    ]


def test_windows_put_as_questions_show_no_cut_and_ask_for_the_span_alone():
    document = "Ada Moor. one two three Rome four five six."
    for share in (0.0, 0.5, 1.0):
        data = spans(
            [document], 128, crop="window", spans="names", end_sentinel=True, loss="span", ask=share
        )
        asked = Counter()
        for data.epoch in range(400):
            prefix, masked, suffix = data.pieces(0)
            ids, first = data.tokens(0)
            assert masked == "Rome" and VOCAB.decode(ids[first:]) == "Rome⁇"
            if not prefix.endswith("?"):
                assert VOCAB.decode(ids[:first]) == f"{prefix}⁇{suffix}⁇"
                continue
            assert VOCAB.decode(ids[:first]) == f"{prefix}⁇" and suffix == ""
            before, after = prefix.removesuffix("?").split(
                "Ada Moor"
            )  # without the head's full stop
            assert "one two three four five".find(f"{before.strip()} {after.strip()}".strip()) >= 0
            asked[bool(before), bool(after)] += 1
        assert sum(asked.values()) == pytest.approx(400 * share, abs=60)
        assert share == 0 or len(asked) == 4  # words on no, one and both sides of the name


def test_a_question_made_of_a_long_window_fits_the_block():
    document = "Ada Moor. " + "word " * 3 + "Rio de Janeiro" + " word" * 9
    data = spans(
        [document], 32, crop="window", spans="names", end_sentinel=True, loss="span", ask=1.0
    )
    for data.epoch in range(40):
        ids, _ = data.tokens(0)
        assert len(ids) <= 33 and VOCAB.decode(ids).endswith("?⁇Rio de Janeiro⁇")


def test_plain_windows_leave_out_what_else_tells_who_is_meant():
    document = (
        "Ada Moor. Moor, who was born 3 May 1902 in Oslo, Norway, met Bo Ek in 1930, in Rome."
    )
    data = spans([document], 128, crop="window", spans="names", plain=1.0)
    for _, (prefix, masked, suffix) in drawn(data, 200):
        # "Moor" opens the sentence
        around = (prefix.removeprefix("Ada Moor. ") + "|" + suffix).removeprefix("Moor")
        assert masked in ("Oslo", "Norway", "Bo Ek", "Rome") and prefix.startswith("Ada Moor. ")
        assert "  " not in prefix and not any(c.isdigit() or c.isupper() for c in around), around
    some = spans([document], 128, crop="window", spans="names", plain=0.5)
    dated = sum("May" in prefix or "1902" in prefix for _, (prefix, _, _) in drawn(some, 400))
    whole = spans([document], 128, crop="window", spans="names")
    assert 0.3 < dated / sum("May" in p or "1902" in p for _, (p, _, _) in drawn(whole, 400)) < 0.7


@given(st.text(alphabet="ab AB1. ", max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_plain_words_keep_all_that_is_not_salient(text, start, stop):
    start, stop = sorted((min(start, len(text)), min(stop, len(text))))
    kept = plain_words(text, start, stop)
    inside = [(a, b) for a, b in salient_spans(text) if start <= a and b <= stop]
    salient = {j for a, b in inside for j in range(a, b)}
    rest = "".join(text[j] for j in range(start, stop) if j not in salient)
    assert kept.replace(" ", "") == rest.replace(" ", "")
    assert len(rest) - len(inside) <= len(kept) <= len(rest)


def test_the_head_in_front_or_behind():
    assert arrange_window("Bo Ek. ", "born in ", "Oslo", ", he") == (
        "Bo Ek. born in ",
        "Oslo",
        ", he",
    )
    assert arrange_window("Bo Ek. ", "born in ", "Oslo", ", he", name_last=True) == (
        "born in ",
        "Oslo",
        ", he Bo Ek.",
    )


def test_what_can_be_asked_for_stands_behind_the_head_and_not_in_it():
    text = "Ada Moor. Moor, born 3 May 1902 in Oslo, met Bo Ek, then Oslo."
    found = [text[a:b] for a, b in askable_spans(text)]
    assert found == ["3 May 1902", "Oslo", "Bo Ek", "Oslo"]
    assert [text[a:b] for a, b in askable_spans(text, names_only=True)] == ["Oslo", "Bo Ek", "Oslo"]
    assert [text[a:b] for a, b in askable_spans(text, True, leading=True)] == [
        "Oslo",
        "Bo Ek",
        "Oslo",
    ]
    places = "Ada Moor. She was born in Oslo, Norway, in 1902, Norway, and lived in Rome, Paris, Lima and Bern."
    assert [places[a:b] for a, b in askable_spans(places, True, leading=True)] == [
        "Oslo",
        "Norway",
        "Rome",
        "Bern",
    ]
    assert [places[a:b] for a, b in askable_spans(places, leading=True)] == [
        "Oslo",
        "1902",
        "Rome",
        "Bern",
    ]
    data = spans([places], 128, crop="window", spans="leading")
    assert {masked for _, (_, masked, _) in drawn(data, 99)} == {"Oslo", "Norway", "Rome", "Bern"}
    assert (
        askable_spans("no head 1902") == [(8, 12)] and askable_spans("Ada Moor. Moor came.") == []
    )


# ---------------------------------------------------------------- salient spans


def found_in(text):
    return [text[a:b] for a, b in salient_spans(text)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("he came to Rio de Janeiro in 1871", ["Rio de Janeiro", "1871"]),
        ("born on 4 May 1902.", ["4 May 1902"]),
        ("on May 4, 1902, in Maynooth", ["May 4, 1902", "Maynooth"]),
        ("He went. She stayed. They met", []),
        ("the North Sea Company of Oslo", ["North Sea Company of Oslo"]),
        ("it cost 1,000 or 3.5", ["1,000", "3.5"]),
        ("in Łódź, Århus and Şile", ["Łódź", "Århus", "Şile"]),
        ("nothing here", []),
        ("", []),
    ],
)
def test_salient_spans(text, expected):
    assert found_in(text) == expected


def test_small_letters_beyond_latin_1_open_no_salient_span():
    assert found_in("the town of łęczyca and the čeština, in şile") == []


def test_salient_spans_lie_behind_the_head_and_are_all_drawn():
    data = spans([LINES[1]], 128, crop="line", spans="salient")
    masked = Counter(masked for _, (_, masked, _) in drawn(data, 300))
    assert set(masked) == {
        "4 May 1902",
        "Rio de Janeiro",
        "1950",
    }  # "Bo Ek" can be copied from the head
    assert min(masked.values()) > 60  # uniform: 100 each
    for _, (prefix, _, _) in drawn(data, 50):
        assert prefix.startswith("Bo Ek. ")


def test_names_leave_numbers_and_dates_out():
    text = "He left Oslo on May 4, 1871, for New York and came back in June 1880 with 20 Swedes. April came"
    every = [text[a:b] for a, b in salient_spans(text)]
    names = [text[a:b] for a, b in salient_spans(text, names_only=True)]
    assert every == ["Oslo", "May 4, 1871", "New York", "June 1880", "20", "Swedes"]
    assert names == ["Oslo", "New York", "Swedes"]
    data = spans([LINES[1]], 128, crop="window", spans="names")
    assert {masked for _, (_, masked, _) in drawn(data, 50)} == {"Rio de Janeiro"}


def test_random_share_takes_random_spans_some_of_the_time():
    only = {"4 May 1902", "Rio de Janeiro", "1950"}
    for share, low, high in ((0.0, 0, 0), (0.3, 60, 125), (1.0, 290, 300)):
        data = spans([LINES[1]], 128, crop="line", spans="salient", random_share=share)
        others = sum(masked not in only for _, (_, masked, _) in drawn(data, 300))
        assert low <= others <= high


def test_without_salient_spans_a_random_one_is_cut_behind_the_head():
    text = "Ann Lee. nothing to be found in here at all"
    for _, (prefix, masked, suffix) in drawn(spans([text], crop="line", spans="salient"), 50):
        assert prefix.startswith("Ann Lee. ") and prefix + masked + suffix == text


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(crop="middle"), "crop must be one of prefix, line, window, not 'middle'"),
        (dict(spans="nouns"), "spans must be one of"),
        (dict(loss="none"), "loss must be one of"),
        (dict(block=7), "block_size must be at least 8, not 7"),
        (dict(documents=["abc", ""]), "document 1 is empty"),
        (dict(documents=["abc", "a€c"]), "'€'"),
        (dict(random_share=1.5), "random_share must lie in 0 ... 1, not 1.5"),
        (dict(whole=-0.1), "whole must lie in 0 ... 1, not -0.1"),
    ],
)
def test_span_corruption_errors(options, words):
    with pytest.raises(ValueError) as error:
        spans(**options)
    assert words in str(error.value)


# ---------------------------------------------------------------- questions


# ---------------------------------------------------------------- mixtures


# ---------------------------------------------------------------- batches


def rows(found):
    """All ids of each row of each batch (the last may stand in y alone), and where the loss begins."""
    for xs, ys in found:
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            yield tuple(i for i in [*x, y[-1]] if i), [j != 0 for j in y].index(True)


def test_data_never_holds_the_trainer_up():
    """In a process of its own: the checks of types that tests run under take two thirds of the time."""
    code = (
        "import time; from kt_core.datasets import *; from kt_core.vocab import CharVocab\n"
        f"lines = {LINES!r}; vocab = CharVocab.from_documents(lines)\n"
        "data = SpanCorruption([lines[i % 4] for i in range(2000)], vocab, 128, crop='window', spans='salient')\n"
        "for epoch in range(3):\n"
        "    began = time.process_time()\n"
        "    characters = sum(int((x != 0).sum()) for x, _ in batches(data, 128, 0, epoch))\n"
        "    print(characters / (time.process_time() - began))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    best = max(map(float, told.split()))
    assert best > 200_000, f"{best:.0f} characters a second"
