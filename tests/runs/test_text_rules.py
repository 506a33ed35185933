"""Rules on strings: names, dates and numbers, the name prefix, what is worth asking for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_core.runs.text_rules import askable_spans, name_prefix_end, plain_words, salient_spans


def cut(text, spans):
    return [text[a:b] for a, b in spans]


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
        ("the town of łęczyca and the čeština, in şile", []),
        ("nothing here", []),
        ("", []),
    ],
)
def test_salient_spans(text, expected):
    assert cut(text, salient_spans(text)) == expected


def test_names_alone_leave_out_numbers_and_dates():
    text = "He left Oslo on May 4, 1871, for New York and came back in June 1880 with 20 Swedes."
    every = ["Oslo", "May 4, 1871", "New York", "June 1880", "20", "Swedes"]
    assert cut(text, salient_spans(text)) == every
    assert cut(text, salient_spans(text, names_only=True)) == ["Oslo", "New York", "Swedes"]


@pytest.mark.parametrize(
    "text, prefix",
    [
        ("Ada Moor. She came.", "Ada Moor. "),
        ("John D. Smith. He came.", "John D. Smith. "),
        ("Sam Low Jr. He came. She went.", "Sam Low Jr. He came. "),
        ("John St. Clair. He came.", "John St. Clair. "),
        ("no prefix at all", ""),
    ],
)
def test_the_name_prefix_ends_at_a_full_stop_that_is_no_abbreviation(text, prefix):
    assert text[: name_prefix_end(text)] == prefix


def test_askable_spans_come_after_the_name_prefix_and_are_not_part_of_it():
    text = "Ada Moor. Moor, born 3 May 1902 in Oslo, met Bo Ek, then Oslo."
    assert cut(text, askable_spans(text)) == ["3 May 1902", "Oslo", "Bo Ek", "Oslo"]
    assert cut(text, askable_spans(text, names_only=True)) == ["Oslo", "Bo Ek", "Oslo"]
    assert cut("Ada Moor. Moor came.", askable_spans("Ada Moor. Moor came.")) == []
    assert askable_spans("no prefix 1902") == [(10, 14)]


def test_leading_spans_leave_out_what_follows_a_span_and_a_comma():
    text = "Ada Moor. She was born in Oslo, Norway, in 1902, Norway, and came to Rome, Lima."
    names = cut(text, askable_spans(text, names_only=True, leading=True))
    assert names == ["Oslo", "Norway", "Rome"]  # the second Norway follows a number
    assert cut(text, askable_spans(text, leading=True)) == ["Oslo", "1902", "Rome"]


@given(st.text(alphabet="ab AB1. ", max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_plain_words_keep_all_that_is_not_salient(text, start, stop):
    start, stop = sorted((min(start, len(text)), min(stop, len(text))))
    plain = plain_words(text, start, stop)
    inside = [(a, b) for a, b in salient_spans(text) if start <= a and b <= stop]
    salient = {j for a, b in inside for j in range(a, b)}
    rest = "".join(text[j] for j in range(start, stop) if j not in salient)
    assert plain.replace(" ", "") == rest.replace(" ", "")
    assert len(rest) - len(inside) <= len(plain) <= len(rest)
