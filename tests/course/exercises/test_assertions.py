"""What checks assert with, and what they tell about a value."""

import pytest
import torch

from kt_course.exercises.assertions import Wrong, close, describe, fresh_cases


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
