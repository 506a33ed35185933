"""Exercises of "Rotary position embedding": what each answer is run on; texts: exercises.toml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kt_core import attention, positions
from kt_course.chapters.rope import solutions
from kt_course.exercises.assertions import Wrong, describe
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import numbers, randomise
from kt_course.exercises.registry import Exercise

CHAPTER = Comparison(solutions)
TEXTS = CHAPTER.texts


def tensor_of(result: Any, what: str) -> Tensor:
    """Return an answer's tensor; Wrong if it is none."""
    if not isinstance(result, Tensor):
        raise Wrong(f"{what} should be a tensor, not {describe(result)}")
    return result


def frequencies_of(answer: Callable, seed: int) -> Results:
    d, base = 8 + 2 * (seed % 7), 16.0 + seed % 100
    return {
        f"the list of {d // 2} frequencies": tensor_of(answer(d), "the result"),
        "the list with another base": tensor_of(answer(d, base), "the result"),
        "the list for 2 channels": tensor_of(answer(2), "the result"),
    }


def table_of(answer: Callable, seed: int) -> Results:
    d = 8 + 2 * (seed % 3)
    rows = torch.tensor([0, 1, 2, 5, 9]) + seed % 50
    results = {}
    for name, where in {"5 positions": rows, "a batch": torch.stack([rows[:3], rows[2:]])}.items():
        pair = answer(where, d)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise Wrong(f"it should return two tensors, cos and sin, not {describe(pair)}")
        for part, values in zip(("cos", "sin"), pair, strict=True):
            results[f"{part} for {name}"] = tensor_of(values, part)
    results["cos with base 16"] = tensor_of(answer(rows, d, 16.0)[0], "cos")
    return results


def rotation_of(answer: Callable, seed: int) -> Results:
    d = 8 + 2 * (seed % 3)
    x, angle = numbers(2, 3, 5, d, seed=seed), numbers(5, d // 2, seed=seed + 1)
    result = tensor_of(answer(x, angle.cos(), angle.sin()), "the result")
    results = {"the result": result}
    angle = numbers(2, 1, 5, d // 2, seed=seed + 2)
    batch = tensor_of(answer(x, angle.cos(), angle.sin()), "the result")
    return results | {"the result for a batch whose rows have their own positions": batch}


def attention_of(answer: Callable, seed: int) -> Results:
    n_head, d, T = 3 + seed % 2, 4 + 2 * (seed % 2), 5 + seed % 3
    x, like = numbers(2, T, n_head * d, seed=seed), solutions.RotaryAttention(n_head * d, n_head)
    results = {}
    for qk_norm in (False, True):
        layer = with_weights(answer(n_head * d, n_head, qk_norm=qk_norm), like, seed)
        for first in (0, 30):
            output = tensor_of(layer(x, first=first), "the output")
            if not output.requires_grad:
                raise Wrong(TEXTS["rotary-attention"]["detached"])
            name = f"the output with qk_norm={qk_norm} and first={first}"
            results[name] = output.detach()
    return results


def with_weights(module: Any, like: nn.Module, seed: int) -> nn.Module:
    """Give an answer's module random weights; Wrong unless it has the parameters of `like`."""
    have, want = set(module.state_dict()), set(like.state_dict())
    if have != want:
        names = ", ".join(sorted(have ^ want))
        raise Wrong(f"its parameters should be those of your Attention; check {names}")
    module.load_state_dict(randomise(like, seed).state_dict())
    return module.double().eval()


ATTENTION = (attention.MultiHeadAttention.forward, nn.functional.scaled_dot_product_attention)
# exercise: teaching solution, what it is compared on, what grading does not let an answer call
ANSWERS: dict[str, tuple[Any, Callable, tuple]] = {
    "rotary-frequencies": (solutions.frequencies, frequencies_of, (positions.rotary_frequencies,)),
    "rotary-table": (solutions.angles, table_of, (positions.rotary_table,)),
    "rotate": (solutions.rotate, rotation_of, (positions.rotate,)),
    "rotary-attention": (solutions.RotaryAttention, attention_of, ATTENTION),
}
EXERCISES = tuple(
    Exercise(
        id,
        "07_rope",
        *(TEXTS[id][key] for key in ("title", "difficulty", "minutes")),
        reference,
        CHAPTER.check(id, reference.__name__, compute),
        forbidden,
        is_piece=True,
    )
    for id, (reference, compute, forbidden) in ANSWERS.items()
)
