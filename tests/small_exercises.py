"""Two small exercises, on a function and on a class, for the tests of how answers are judged."""

import torch

from kt_course.exercises.assertions import Wrong, close, tensor
from kt_course.exercises.registry import Exercise


def double(x):
    """The reference of the exercise below."""
    return x * 2


def check_double(fn):
    x = torch.arange(3.0)
    result = tensor(fn(x), (3,), "the doubled row")
    if not close(result, double(x)):
        raise Wrong(f"1 becomes {result[1]:g},\n   not 2")
    return "twice the\n number"


DOUBLE = Exercise("double", "01_attention_math", "Doubling", 1, 1, double, check_double)


class Counter:
    """The reference of the exercise on classes."""

    def __init__(self, start):
        self.at = start

    def step(self):
        self.at += 1
        return self.at


def check_counter(make):
    counter = make(3)
    if counter.step() != 4 or Counter(0).step() != 1:
        raise Wrong("from 3 it should step to 4")
    return "counts by one"


COUNTER = Exercise("counter", "01_attention_math", "Counting", 1, 1, Counter, check_counter)
