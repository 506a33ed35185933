"""Our windows: what they show, how they are drawn, and where their loss is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kt_core.runs.text_rules import (
    arrange_window,
    askable_spans,
    name_prefix_end,
    plain_words,
    salient_spans,
)
from kt_core.runs.windows import KnowledgeWindows
from kt_core.vocab import CharVocab

LINES = [
    "Ada Moor. Ada Moor was born in Tromsø in 1871. She wrote about bridges for the North Sea "
    "Company.",
    "Bo Ek. The painter Bo Ek was born on 4 May 1902 in Rio de Janeiro and lived there until 1950.",
    "Çelik Öz. Çelik Öz, a doctor, was born in Łódź. He worked at the harbour for most of his "
    "life.",
    "Di Wu. Di Wu was born in Paris. He taught music.",
]
LONG = "Ann Lee. " + " ".join(f"word{i} City{i}" for i in range(60))
VOCAB = CharVocab.from_documents(
    [*LINES, LONG, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "北京"]
)


def windows(documents=None, block=64, **options):
    return KnowledgeWindows(LINES if documents is None else documents, VOCAB, block, **options)


def draws(data, epochs):
    """The pieces of every example in each of the epochs."""
    for epoch in range(epochs):
        for i in range(len(data)):
            yield i, data.pieces(i, epoch)


def check_pair(x, y, block):
    assert x.shape == y.shape == (block,) and x.dtype == y.dtype == torch.int64
    scored = y[:-1] != 0
    assert torch.equal(y[:-1][scored], x[1:][scored])
    assert not y[len(x.nonzero()) :].any()  # none after the text, but for a full block's last


# ---------------------------------------------------------------- ids and loss


@pytest.mark.parametrize("crop", ["line", "window"])
@pytest.mark.parametrize("cut", ["random", "salient"])
@pytest.mark.parametrize("end_sentinel", [False, True])
@pytest.mark.parametrize("loss", ["all", "span"])
def test_pairs_are_well_formed_for_every_option(crop, cut, end_sentinel, loss):
    documents = [*LINES, LONG, "a", "abcd", "北京", "Ann Lee. ", "Ann Lee. X", ". "]
    data = windows(documents, 48, crop=crop, spans=cut, end_sentinel=end_sentinel, loss=loss)
    for epoch in range(8):
        data.set_epoch(epoch)
        for i in range(len(documents)):
            prefix, masked, suffix = data.pieces(i, epoch)
            x, y = data[i]
            check_pair(x, y, 48)
            text = f"{prefix}⁇{suffix}⁇{masked}" + "⁇" * end_sentinel
            assert masked and len(text) <= 49
            visible = x[x != 0].tolist()
            assert VOCAB.decode(visible) == text[: len(visible)]
            assert len(visible) == min(len(text), 48)
            last = 1 if end_sentinel else VOCAB.encode(masked)[-1]
            assert y[len(text) - 2] == last  # the last character has a loss
            if loss == "all":
                assert (y != 0).sum() == len(text) - 1
            else:
                assert VOCAB.decode(y[y != 0].tolist()) == masked + "⁇" * end_sentinel


def test_draws_depend_on_seed_epoch_and_index_alone():
    data, again = windows(LINES * 4), windows(LINES * 4)
    forward = [data.tokens(i, 0) for i in range(16)]
    again.tokens(3, 5)
    assert [again.tokens(i, 0) for i in reversed(range(16))] == forward[::-1]
    assert len({data.pieces(i, 0) for i in (0, 4, 8, 12)}) > 1  # the same line, another index
    others = [windows(LINES * 4, seed=1).tokens(i, 0) for i in range(16)]
    for other in (others, [data.tokens(i, 1) for i in range(16)]):
        assert sum(a != b for a, b in zip(other, forward, strict=True)) >= 12


def test_draws_do_not_depend_on_pythonhashseed():
    code = (
        "from kt_core.runs.windows import *; from kt_core.datasets import batches\n"
        f"lines = {LINES!r}; vocab = CharVocab.from_documents(lines)\n"
        "d = KnowledgeWindows(lines, vocab, 64, 7, drop=0.3, ask=0.3)\n"
        "draws = [d.pieces(i, 1) for i in range(4)], [x.tolist() for x, _ in batches(d, 2, 3, 1)]"
    )
    here: dict = {}
    exec(code, here)
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", code + "\nprint(ascii(draws))"],
        env={**os.environ, "PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert there.strip() == ascii(here["draws"]) and "Moor" in there


# ---------------------------------------------------------------- what is shown


def test_lines_show_as_much_as_fits():
    for end in (False, True):
        data = windows([LONG, LINES[3]], crop="line", end_sentinel=end)
        for i, pieces in draws(data, 10):
            assert "".join(pieces) == data.documents[i][: 63 - end]


@pytest.mark.parametrize("cut", ["random", "salient"])
def test_windows_show_the_name_and_a_few_words_around_the_span(cut):
    before, after, starts = set(), set(), set()
    for i, (prefix, masked, suffix) in draws(windows(LINES, 128, spans=cut), 150):
        name = LINES[i][: name_prefix_end(LINES[i])]
        assert prefix.startswith(name) and masked
        visible = prefix[len(name) :] + masked + suffix
        rest = LINES[i][len(name) :]
        assert f" {visible} " in f" {rest} "  # one stretch between word boundaries
        starts.add((i, rest.index(visible)))
        if cut == "salient":  # these begin and end with a word
            before.add(len(prefix[len(name) :].split()))
            after.add(len(suffix.strip(" .,").split()))
    assert len(starts) > 20
    if cut == "salient":
        assert before == set(range(5)) and after == set(range(3))


def test_a_line_with_a_long_name_or_without_one_or_nothing_after_it():
    documents = ["x" * 40 + ". Bo Ek came.", "Ann Lee. ", "no name at all but some words"]
    data = windows(documents, 48, spans="random", end_sentinel=False)
    for i, pieces in draws(data, 20):
        if i < 2:
            assert "".join(pieces) == documents[i][:47]
        else:
            assert "".join(pieces) in documents[i]


def test_name_last_puts_the_name_after_the_words_some_of_the_time():
    line = LINES[1:2]
    prefixes = {prefix for _, (prefix, _, _) in draws(windows(line, 128), 60)}
    words = ("", "in ", "1902 in ", "May 1902 in ", "4 May 1902 in ")
    assert prefixes == {"Bo Ek. " + text for text in words}
    data = windows(line, 128, name_last=0.5)
    counts = Counter((prefix, suffix) for _, (prefix, _, suffix) in draws(data, 600))
    last = {pair: n for pair, n in counts.items() if not pair[0].startswith("Bo Ek. ")}
    assert 240 < sum(last.values()) < 360
    assert ("1902 in ", " and Bo Ek.") in last and ("", " Bo Ek.") in last
    assert windows(LINES[:1], 32, name_last=1.0)[0][0].shape == (32,)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_dropped_words_are_missing_and_name_and_order_stay(share):
    document = "Ada Moor. one two three four Rome five six seven."
    words = ["one", "two", "three", "four", "five", "six", "seven."]
    lengths = []
    for _, (prefix, masked, suffix) in draws(windows([document], 128, drop=share), 400):
        assert masked == "Rome" and prefix.startswith("Ada Moor. ")
        visible = prefix.removeprefix("Ada Moor. ").split() + suffix.split()
        assert visible == [word for word in words if word in visible]
        lengths.append(len(visible))
    # 0 to 4 words before and 0 to 2 after it: 3 on average
    assert sum(lengths) / len(lengths) == pytest.approx(3 * (1 - share), abs=0.25)


def test_dropping_words_loses_neither_a_gap_nor_a_space():
    """Before, 1,180 of these windows lacked the gap's mark and 4,359 were glued to the gap."""
    document = "Ada Moor. Born where? Oslo it was, she said."
    data, counts = windows([document], 128, drop=0.5, ask=0.5), Counter()
    for epoch in range(20_000):
        prefix, _, suffix = data.pieces(0, epoch)
        text = VOCAB.decode(data.tokens(0, epoch)[0])
        counts[suffix is None] += 1
        assert text.count("⁇") == (2 if suffix is None else 3), text
        if suffix is not None:
            assert prefix.endswith(" ") and (not suffix or suffix.startswith(" ")), text
            counts["ends in ?"] += prefix.rstrip().endswith("?")
    assert 9_500 < counts[False] < 10_500 and counts["ends in ?"] > 1_000


def test_a_dropped_comma_at_the_gap_leaves_a_space():
    data = windows(["Ada Moor. She left Oslo, went home."], 128, drop=0.5)
    suffixes = {suffix for _, (_, _, suffix) in draws(data, 400)}
    assert suffixes == {
        "",
        ",",
        " went",
        ", went",
        " home.",
        ", home.",
        " went home.",
        ", went home.",
    }


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_questions_show_no_gap_and_ask_for_the_span_alone(share):
    document = "Ada Moor. one two three Rome four five six."
    data, sides = windows([document], 128, ask=share), Counter()
    for epoch in range(400):
        prefix, masked, suffix = data.pieces(0, epoch)
        ids, first = data.tokens(0, epoch)
        assert masked == "Rome" and VOCAB.decode(ids[first:]) == "Rome⁇"
        if suffix is not None:
            assert VOCAB.decode(ids[:first]) == f"{prefix}⁇{suffix}⁇"
            continue
        assert VOCAB.decode(ids[:first]) == f"{prefix}⁇"
        before, after = prefix.removesuffix("?").split("Ada Moor")  # without its full stop
        assert f"{before.strip()} {after.strip()}".strip() in "one two three four five"
        sides[bool(before), bool(after)] += 1
    assert sum(sides.values()) == pytest.approx(400 * share, abs=60)
    assert share == 0 or len(sides) == 4  # words on no, one and both sides of the name


def test_a_question_made_of_a_long_window_fits_the_block():
    document = "Ada Moor. " + "word " * 3 + "Rio de Janeiro" + " word" * 9
    data = windows([document], 32, ask=1.0)
    for epoch in range(40):
        ids, _ = data.tokens(0, epoch)
        assert len(ids) <= 33 and VOCAB.decode(ids).endswith("?⁇Rio de Janeiro⁇")


def test_plain_windows_leave_out_what_else_identifies_the_person():
    document = (
        "Ada Moor. Moor, who was born 3 May 1902 in Oslo, Norway, met Bo Ek in 1930, in Rome."
    )

    def share_with_date(**options):
        pieces = [p for _, p in draws(windows([document], 128, **options), 400)]
        return sum("May" in p[0] or "1902" in p[0] for p in pieces) / len(pieces)

    for _, (prefix, masked, suffix) in draws(windows([document], 128, plain=1.0), 200):
        # "Moor" opens the sentence
        around = (prefix.removeprefix("Ada Moor. ") + "|" + suffix).removeprefix("Moor")
        assert masked in ("Oslo", "Norway", "Bo Ek", "Rome") and prefix.startswith("Ada Moor. ")
        assert "  " not in prefix and not any(c.isdigit() or c.isupper() for c in around), around
    assert 0.3 < share_with_date(plain=0.5) / share_with_date() < 0.7


# ---------------------------------------------------------------- rules on text


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
    places = (
        "Ada Moor. She was born in Oslo, Norway, in 1902, Norway, "
        "and lived in Rome, Paris, Lima and Bern."
    )
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
    data = windows([places], 128, spans="leading")
    assert {masked for _, (_, masked, _) in draws(data, 99)} == {"Oslo", "Norway", "Rome", "Bern"}
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


def test_salient_spans_lie_behind_the_head_and_are_all_draws():
    data = windows([LINES[1]], 128, crop="line", spans="salient")
    masked = Counter(masked for _, (_, masked, _) in draws(data, 300))
    assert set(masked) == {
        "4 May 1902",
        "Rio de Janeiro",
        "1950",
    }  # "Bo Ek" can be copied from the head
    assert min(masked.values()) > 60  # uniform: 100 each
    for _, (prefix, _, _) in draws(data, 50):
        assert prefix.startswith("Bo Ek. ")


def test_names_leave_numbers_and_dates_out():
    text = (
        "He left Oslo on May 4, 1871, for New York and came back in June 1880 "
        "with 20 Swedes. April came"
    )
    every = [text[a:b] for a, b in salient_spans(text)]
    names = [text[a:b] for a, b in salient_spans(text, names_only=True)]
    assert every == ["Oslo", "May 4, 1871", "New York", "June 1880", "20", "Swedes"]
    assert names == ["Oslo", "New York", "Swedes"]
    data = windows([LINES[1]], 128, spans="names")
    assert {masked for _, (_, masked, _) in draws(data, 50)} == {"Rio de Janeiro"}


def test_without_salient_spans_a_random_one_is_cut_after_the_name():
    text = "Ann Lee. nothing to be found in here at all"
    for _, (prefix, masked, suffix) in draws(windows([text], crop="line", spans="salient"), 50):
        assert prefix.startswith("Ann Lee. ") and prefix + masked + suffix == text


# ---------------------------------------------------------------- errors and speed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(crop="lines"), "no crop 'lines', did you mean 'line'?"),
        (dict(spans="nouns"), "no kind of spans 'nouns'"),
        (dict(loss="none"), "no loss 'none'; known: all, span"),
        (dict(block=7), "block_size must be at least 8, not 7"),
        (dict(documents=["abc", ""]), "document 1 is empty"),
        (dict(documents=["abc", "a€c"]), "'€'"),
        (dict(ask=1.5), "ask must be in 0 ... 1, not 1.5"),
        (dict(drop=-0.1), "drop must be in 0 ... 1, not -0.1"),
    ],
)
def test_errors(options, words):
    with pytest.raises(ValueError) as error:
        windows(**options)
    assert words in str(error.value)


def test_smallest_block():
    for end in (False, True):
        data = windows([LONG, "a"], 8, end_sentinel=end)
        for epoch in range(40):
            data.set_epoch(epoch)
            for x, y in data:
                check_pair(x, y, 8)


def test_data_never_holds_the_trainer_up():
    """In a process of its own: checks of types slow the tests down."""
    code = (
        "import time; from kt_core.runs.windows import *; from kt_core.datasets import batches\n"
        f"lines = {LINES!r}; vocab = CharVocab.from_documents(lines)\n"
        "data = KnowledgeWindows([lines[i % 4] for i in range(2000)], vocab, spans='salient')\n"
        "for epoch in range(3):\n"
        "    start = time.process_time()\n"
        "    characters = sum(int((x != 0).sum()) for x, _ in batches(data, 128, 0, epoch))\n"
        "    print(characters / (time.process_time() - start))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    best = max(map(float, run.stdout.split()))
    assert best > 200_000, f"{best:.0f} characters per second"
