"""Exercises of "Rotary position embedding": what each answer is run on; texts: exercises.toml."""

from collections.abc import Callable

import torch
from torch import nn

from kt_core import attention, positions
from kt_course.chapters.rope import solutions
from kt_course.exercises.assertions import any_tensor, parts
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import numbers, with_weights

CHAPTER = Comparison(solutions, "07_rope")
ATTENTION = (attention.MultiHeadAttention.forward, nn.functional.scaled_dot_product_attention)


@CHAPTER.exercise("rotary-frequencies", forbidden=(positions.rotary_frequencies,), is_piece=True)
def frequencies_of(answer: Callable, seed: int) -> Results:
    d, base = 8 + 2 * (seed % 7), 16.0 + seed % 100
    frequencies = any_tensor(answer(d), "the result")
    return {
        f"the list of {d // 2} frequencies": frequencies,
        "the list of 1 / frequency": 1 / frequencies,  # shows a base that is almost right
        "the list with another base": any_tensor(answer(d, base), "the result"),
        "the list for 2 channels": any_tensor(answer(2), "the result"),
    }


@CHAPTER.exercise("rotary-table", forbidden=(positions.rotary_table,), is_piece=True)
def table_of(answer: Callable, seed: int) -> Results:
    d = 8 + 2 * (seed % 3)
    rows = torch.tensor([0, 1, 2, 5, 9]) + seed % 50
    results = {}
    for name, where in {"5 positions": rows, "a batch": torch.stack([rows[:3], rows[2:]])}.items():
        message = "it should return two tensors, cos and sin, not {result}"
        pair = parts(answer(where, d), 2, message)
        for part, values in zip(("cos", "sin"), pair, strict=True):
            results[f"{part} for {name}"] = any_tensor(values, part)
    results["cos with base 16"] = any_tensor(answer(rows, d, 16.0)[0], "cos")
    return results


@CHAPTER.exercise("rotate", forbidden=(positions.rotate,), is_piece=True)
def rotation_of(answer: Callable, seed: int) -> Results:
    d = 8 + 2 * (seed % 3)
    x, angle = numbers(2, 3, 5, d, seed=seed), numbers(5, d // 2, seed=seed + 1)
    result = any_tensor(answer(x, angle.cos(), angle.sin()), "the result")
    results = {"the result": result}
    angle = numbers(2, 1, 5, d // 2, seed=seed + 2)
    batch = any_tensor(answer(x, angle.cos(), angle.sin()), "the result")
    return results | {"the result for a batch whose rows have their own positions": batch}


@CHAPTER.exercise("rotary-attention", forbidden=ATTENTION, is_piece=True)
def attention_of(answer: Callable, seed: int) -> Results:
    n_head, d, T = 3 + seed % 2, 4 + 2 * (seed % 2), 5 + seed % 3
    results, like = {}, solutions.RotaryAttention(n_head * d, n_head)
    x = 0.3 * numbers(2, T, n_head * d, seed=seed)  # large scores would enlarge rounding errors
    for options in ({}, {"qk_norm": True}):  # False is the default
        layer = with_weights(answer(n_head * d, n_head, **options), like, seed)
        for first in (0, 30):
            name = f"the output with qk_norm={bool(options)} and first={first}"
            results[name] = any_tensor(layer(x, first=first), "the output")
    return results


EXERCISES = CHAPTER.exercises()
