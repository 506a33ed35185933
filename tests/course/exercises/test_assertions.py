"""What checks assert with, and what they tell about a value."""

import re

import pytest
import torch

from kt_course.exercises.assertions import Wrong, close, describe, fresh_cases
from kt_course.exercises.check import judge
from kt_course.exercises.comparison import difference
from kt_course.exercises.registry import find_exercise


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (torch.zeros(2, 3), "a tensor of shape (2, 3), float32"),
        (None, "None"),
        (7, "7"),
        ("x" * 50, "a str"),
        ((1, 2), "a tuple of 2"),
        (object(), "a object"),
    ],
)
def test_values_in_a_few_words(value, description):
    assert describe(value) == description


def test_close_takes_any_float_type_and_no_nan():
    a = torch.tensor([1.0, 2.0])
    assert close(a, a.double() + 1e-7) and not close(a, a + 1e-3) and not close(a, a[:1])
    assert not close(torch.tensor([torch.nan]), torch.tensor([torch.nan]))


def test_fresh_cases_tell_no_numbers():
    with (
        pytest.raises(Wrong, match="^wrong for other sizes$"),
        fresh_cases("wrong for other sizes"),
    ):
        raise RuntimeError("size 17")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: -x, "differs, by its sign: one number is"),
        (lambda x: 2 * x, "differs, by a factor of 2: "),
        (lambda x: x + 3, "differs, by an equal amount everywhere: "),
        (lambda x: x.index_fill(1, torch.tensor([0, 2]), 0.0), "only at 0, 2 of the last axis: "),
        (lambda x: x.index_fill(0, torch.tensor([1]), 0.0), "only at 1 of the last but one axis: "),
        (lambda x: x.square() + x, "the table differs: one number is 42, "),
        (lambda x: x.T, r"has the shape \(3, 2\) instead of \(2, 3\)"),
    ],
)
def test_a_difference_says_how_or_where(change, words):
    expected = torch.arange(1.0, 7).view(2, 3)
    assert re.search(words, difference("the table", change(expected), expected))


def test_an_answer_that_gives_another_result_each_time_is_told_so():
    calls = []

    def embed(idx, token_table, position_table):
        calls.append(1)
        return token_table[idx] * (0.3 + len(calls))

    assert "another result the second time" in judge(find_exercise("embedding"), embed).diagnosis


def test_the_error_of_a_typical_mistake_is_explained():
    verdict = judge(find_exercise("scaled-score"), lambda query, key: query @ key)
    assert verdict.diagnosis.startswith("key is not transposed: ")
    assert "your code raised RuntimeError: mat1 and mat2 shapes cannot be" in verdict.diagnosis
