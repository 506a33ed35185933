"""Scores, paired tests and variation between seeds, against published values and by simulation."""

from __future__ import annotations

import math
import random

import pytest

import kt_core as kt
from kt_course.statistics import (
    SeedSummary,
    compare_answers,
    compare_correct,
    score_table,
    seed_table,
    sign_test,
)


def test_score_table_shows_n_and_interval():
    table = score_table({"always London": kt.Score(13, 250), "nobody asked": kt.Score(0, 0)})
    lines = str(table).splitlines()
    assert lines[0].split() == ["correct", "n", "accuracy", "95", "%", "interval"]
    assert lines[2].split() == "always London 13 250 5.2 % 3.1 to 8.7 %".split()
    assert lines[3].endswith("0.0 to 100.0 %")
    changes = score_table({"first name": kt.Score(83, 100)}, counted="changed")
    assert str(changes).split()[:3] == ["changed", "n", "share"]
    assert repr(table) == str(table)
    assert table._repr_html_().startswith("<table>") and "5.2 %" in table._repr_html_()


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (6, 0, 2 / 64), (0, 6, 2 / 64), (9, 1, 22 / 1024), (1, 0, 1.0)],
)
def test_sign_test_by_hand(wins, losses, p):
    assert sign_test(wins, losses) == pytest.approx(p)


def test_sign_test_agrees_with_scipy():
    from scipy.stats import binomtest

    for wins, losses in [(3, 11), (40, 22), (100, 101), (600, 700)]:
        assert sign_test(wins, losses) == pytest.approx(binomtest(wins, wins + losses).pvalue)


def test_sign_test_rejects_at_most_5_percent_of_equal_models():
    rng, n = random.Random(0), 400
    wins = [sum(rng.random() < 0.5 for _ in range(30)) for _ in range(n)]
    assert sum(sign_test(w, 30 - w) < 0.05 for w in wins) / n < 0.08


def test_compare_answers_counts_each_question():
    gold = ["Oslo", "Rome", "Paris", "London", "Bonn"]
    answers = {"A": ["Oslo", " Rome", "Paris", "X", "X"], "B": ["Oslo", "X", "X", "London", "Y"]}
    result = compare_answers(answers, gold)
    assert (result.both, result.wins, result.losses, result.neither) == (1, 2, 1, 1)
    assert result.total == 5 and result.p == 1.0
    header, _, row = str(result).splitlines()
    assert "only A" in header and "only B" in header
    assert row.split() == "people 1 2 1 1 5 1.00".split()


def test_compare_correct_takes_the_same_people():
    result = compare_correct({"A": [True] * 12, "B": [False] * 12})
    assert (result.wins, result.losses) == (12, 0) and str(result).endswith("below 0.001")
    with pytest.raises(ValueError, match="two models, not 1"):
        compare_correct({"A": [True]})
    with pytest.raises(ValueError, match="argument 2 is"):
        compare_correct({"A": [True], "B": [True, False]})
    with pytest.raises(ValueError, match="argument 2 is"):
        compare_answers({"A": ["x"], "B": ["x", "y"]}, ["x", "y"])


def test_seed_summary_is_the_t_interval():
    summary = SeedSummary((1.0, 2.0, 3.0))
    assert summary.mean == 2.0
    assert summary.half_width == pytest.approx(4.302653 / math.sqrt(3))  # t(2), s = 1
    assert (summary.low, summary.high) == pytest.approx((-0.4841, 4.4841), abs=1e-4)
    assert SeedSummary((1.0,)).half_width == math.inf


def test_seed_table():
    table = seed_table({"pure": [0.53, 0.27, 0.70], "one": [0.5]})
    _, _, pure, one = str(table).splitlines()
    assert pure.split()[:8] == "pure 3 50.0 % 27.0 % 70.0 %".split()
    assert pure.endswith("-3.8 to 103.8 %") and one.endswith("unknown")
    assert "2.00" in str(seed_table({"loss": [1.5, 2.5]}, is_percent=False))
    with pytest.raises(ValueError, match="'none' has no value"):
        seed_table({"none": []})
