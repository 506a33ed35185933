"""How an answer is judged: right, wrong with a diagnosis, or not attempted."""

import pytest
import torch
from checking import blanks, is_not_attempted, is_wrong
from small_exercises import COUNTER, DOUBLE, double

from kt_course.exercises.check import judge
from kt_course.exercises.registry import Exercise


def test_right_wrong_and_the_one_line():
    assert str(judge(DOUBLE, lambda x: x + x)) == "double: right. twice the number"
    assert str(judge(DOUBLE, lambda x: x * 3)) == "double: wrong. 1 becomes 3, not 2"
    stub = "double: not attempted yet. The notebook goes on with the course's own double."
    assert str(judge(DOUBLE, None)) == stub
    assert "the course's own double: now write yours" in judge(DOUBLE, double).diagnosis


def test_blank_answers_of_every_kind():
    for exercise in (DOUBLE, COUNTER):
        for stub in blanks(exercise.reference):
            is_not_attempted(exercise, stub)


def test_a_stub_that_begins_is_blank_until_its_dots_are_gone():
    def dots_in_the_middle(x):
        y = ...
        return y * x

    def no_return(x):
        x * 2

    is_not_attempted(DOUBLE, dots_in_the_middle)
    assert "`...` is left" in judge(DOUBLE, dots_in_the_middle).diagnosis
    is_not_attempted(DOUBLE, no_return)
    assert "`return` missing" in judge(DOUBLE, no_return).diagnosis
    assert "return" not in judge(DOUBLE, lambda x: None).diagnosis


def test_a_class_with_one_method_left_blank_is_not_attempted():
    class Half:
        def __init__(self, start):
            self.at = start

        def step(self): ...

    class Never(Half):
        def step(self):
            return self.at

    is_not_attempted(COUNTER, Half)
    is_wrong(COUNTER, Never, "from 3 it should step to 4")


def test_an_error_names_itself_and_the_learners_line():
    def helper(x):
        return x[7]  # too far

    def answer(x):
        return helper(x)

    is_wrong(
        DOUBLE,
        answer,
        r"your code raised IndexError: .*index 7.*, at line \d+: return x\[7\] # too far",
    )
    is_wrong(DOUBLE, lambda x: exit("bye"), "your code raised SystemExit: bye")


def test_a_type_without_a_kernel_is_an_error_and_no_blank():
    """PyTorch raises NotImplementedError itself."""
    with pytest.raises(NotImplementedError):
        torch.ones(2, dtype=torch.bool).softmax(0)
    is_wrong(
        DOUBLE, lambda x: x.bool().softmax(0), "your code raised NotImplementedError: .*softmax"
    )


def test_a_class_that_misses_a_method_is_told_so():
    is_wrong(
        COUNTER,
        type("Empty", (), {"__init__": lambda self, start: setattr(self, "a", start)}),
        "no attribute 'step'",
    )


def test_a_call_that_does_not_fit_is_told_as_such():
    is_wrong(DOUBLE, lambda x, y: x, "cannot be called as the exercise says: .*missing 1 required")
    with pytest.raises(ValueError, match="exercise double wants a function, not 3"):
        judge(DOUBLE, 3)


def test_a_result_that_cannot_be_used_is_described():
    is_wrong(DOUBLE, lambda x: "four", "the doubled row should be a tensor, not 'four'")
    is_wrong(DOUBLE, lambda x: x[:2], r"the doubled row has the shape \(2,\) instead of \(3,\)")
    exercise = Exercise("odd", "n", "t", 1, 1, double, lambda fn: str(fn(1) + 1))
    lists = eval("lambda x: [x]")  # its code is in another file than the check's, as in a notebook
    is_wrong(exercise, lists, r"it gave back a list of 1, which the check cannot use \(TypeError")


def test_an_argument_changed_in_place_is_seen():
    def answer(x):
        x *= 2
        return x

    is_wrong(DOUBLE, answer, "changes its argument x in place")
