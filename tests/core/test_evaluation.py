"""Exact match with its interval, the London baseline, prediction files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_core.evaluation import Score, exact_match, london_baseline, wilson_interval

# ---------------------------------------------------------------- the interval


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (25, 500, 0.03409, 0.07277),  # the London row
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_against_known_values(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=6e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5000), st.data())
def test_wilson_ends_are_the_proportions_at_which_the_score_test_just_rejects(total, data):
    """Its definition: |p - p0| = z sqrt(p0 (1 - p0) / n) at both ends p0 (Wilson 1927)."""
    correct = data.draw(st.integers(0, total))
    low, high = wilson_interval(correct, total)
    p, z = correct / total, 1.959963984540054
    assert 0 <= low <= p + 1e-12
    assert p - 1e-12 <= high <= 1
    for end in (low, high):
        assert (p - end) ** 2 == pytest.approx(z * z * end * (1 - end) / total, abs=1e-9)
    mirrored = wilson_interval(total - correct, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_interval_of_nothing_and_of_more():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    widths = [high - low for low, high in (wilson_interval(n // 4, n) for n in (40, 400, 4000))]
    assert widths == sorted(widths, reverse=True)


# ---------------------------------------------------------------- scores


def test_score_prints_the_assignments_line():
    assert str(Score(25, 500)) == "Correct: 25 out of 500: 5.0%"
    assert f"{Score(1, 3)}" == "Correct: 1 out of 3: 33.3%"
    assert str(Score(0, 0)) == "Correct: 0 out of 0: 0.0%"


def test_score_gives_fractions():
    score = Score(25, 500)
    assert (score.correct, score.total, score.accuracy) == (25, 500, 0.05)
    assert (score.low, score.high) == wilson_interval(25, 500)
    assert (Score(0, 0).accuracy, Score(0, 0).low, Score(0, 0).high) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(("correct", "total"), [(-1, 5), (6, 5), (1, 0)])
def test_impossible_scores_are_refused(correct, total):
    with pytest.raises(ValueError, match=f"{correct} correct out of {total}"):
        Score(correct, total)


def test_exact_match_counts_equal_answers_in_order():
    assert exact_match(["London", "Paris", "Rome"], ["London", "Rome", "Paris"]) == Score(1, 3)
    assert exact_match([" London", "Paris \n"], ["London ", "Paris"]) == Score(
        2, 2
    )  # white space around
    assert exact_match(
        ["london", "New  York", "Rome", ""], ["London", "New York", "Rom", "Oslo"]
    ) == Score(0, 4)
    assert exact_match([], []) == Score(0, 0)


@pytest.mark.parametrize(("answers", "gold"), [(["a"], []), ([], ["a"]), (["a", "b"], ["a"])])
def test_exact_match_refuses_different_counts(answers, gold):
    with pytest.raises(ValueError, match=f"{len(answers)} answers .* {len(gold)} gold"):
        exact_match(answers, gold)


def test_exact_match_refuses_missing_gold():
    with pytest.raises(ValueError, match="questions only"):
        exact_match(["London", "Paris"], ["London", None])


def test_london_baseline_answers_london_always():
    pairs = [(f"Where was P{i} born?", "London" if i % 20 == 0 else "Paris") for i in range(500)]
    assert str(london_baseline(pairs)) == "Correct: 25 out of 500: 5.0%"
    assert london_baseline([("Where was A born?", "New London")]) == Score(0, 1)
    with pytest.raises(ValueError, match="questions only"):
        london_baseline([("Where was A born?", None)])
