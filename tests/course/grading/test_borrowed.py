"""Answers that call what they should write: a grade sees them, however they do it."""

import functools
import sys

import torch
import torch.nn.functional as F
from checking import is_seen_as_borrowed
from small_exercises import COUNTER, DOUBLE, Counter, double

from kt_course.exercises.registry import Exercise
from kt_course.grading.borrowed import judge_strictly


def test_borrowing_is_seen_however_it_is_done():
    def through_another(x):
        return list(map(double, [x]))[0]

    class Callable_:
        def __call__(self, x):
            return double(x)

    for answer in (lambda x: double(x), functools.partial(double), through_another, Callable_()):
        is_seen_as_borrowed(DOUBLE, answer)


def test_what_the_check_itself_calls_is_not_the_answers():
    assert judge_strictly(DOUBLE, lambda x: x + x).status == "right"  # its check calls double
    assert judge_strictly(COUNTER, Mine).status == "right"


class Mine:
    """Counts by adding to what it was given."""

    def __init__(self, start):
        self.start, self.steps = start, 0

    def step(self):
        self.steps += 1
        return self.start + self.steps


def test_classes_that_borrow_are_seen():
    class Inherits(Counter):
        pass

    class Wraps:
        def __init__(self, start):
            self.inner = Counter(start)

        def step(self):
            return self.inner.step()

    for answer in (Inherits, Wraps, lambda start: Counter(start)):
        is_seen_as_borrowed(COUNTER, answer)


def test_a_function_in_c_can_be_forbidden():
    def check(fn):
        fn(torch.ones(1, 2, 2))
        return "done"

    exercise = Exercise(
        "c", "n", "t", 1, 1, double, check, forbidden=(F.scaled_dot_product_attention,)
    )
    verdict = judge_strictly(exercise, lambda x: F.scaled_dot_product_attention(x, x, x))
    assert "this calls PyTorch's own scaled_dot_product_attention: write" in verdict.diagnosis
    assert judge_strictly(exercise, lambda x: x).status == "right"


def test_a_profiler_that_runs_already_goes_on():
    events = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, arg: events.append(event))
    try:
        judge_strictly(DOUBLE, lambda x: x + x)
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(before)
    assert events
