"""Prediction files: one answer per line, whatever the answers hold."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kt_core.corpora.textfiles import read_predictions, write_predictions
from kt_core.evaluation import exact_match


def test_predictions_are_one_answer_a_line_in_order(tmp_path):
    path = tmp_path / "new folder" / "vanilla.dev.predictions"
    write_predictions(path, ["London", "Łódź", "", "São Paulo"])
    assert path.read_bytes() == "London\nŁódź\n\nSão Paulo\n".encode()
    assert read_predictions(path) == ["London", "Łódź", "", "São Paulo"]
    write_predictions(str(path), ["Paris"])  # replaces
    assert read_predictions(str(path)) == ["Paris"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file stays


@pytest.mark.parametrize(
    "answer", ["New\nYork", "New\r\nYork", "New\rYork", "New\u2028York", "New\x85York"]
)
def test_a_line_end_inside_an_answer_moves_no_other_answer(tmp_path, answer):
    write_predictions(tmp_path / "p", ["Rome", answer, "Oslo"])
    assert read_predictions(tmp_path / "p") == ["Rome", "New York", "Oslo"]


@pytest.mark.parametrize("answers", [[], [""], ["", ""], ["London", ""]])
def test_empty_answers_keep_their_lines(tmp_path, answers):
    write_predictions(tmp_path / "p", answers)
    assert read_predictions(tmp_path / "p") == answers


def test_a_file_without_a_last_newline_reads_the_same(tmp_path):
    (tmp_path / "p").write_text("London\nParis", encoding="utf-8")
    assert read_predictions(tmp_path / "p") == ["London", "Paris"]


def test_predictions_round_trip_for_any_answers(tmp_path):
    @settings(max_examples=25)
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=6))
    def round_trip(answers):
        write_predictions(tmp_path / "p", answers)
        back = read_predictions(tmp_path / "p")
        assert len(back) == len(answers)
        for before, after in zip(answers, back, strict=True):
            assert after == " ".join(before.splitlines())
        assume(answers)
        assert exact_match(back, [" ".join(a.splitlines()) for a in answers]).accuracy == 1.0

    round_trip()
