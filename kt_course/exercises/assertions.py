"""What checks assert: shapes, values, errors, and known mistakes recognised by their results.

A check begins with a fixed case, whose diagnosis may show numbers. Random cases follow inside
`fresh_cases`, so that a table of stored answers fails:

    def check_causal_mask(fn: Callable) -> str:
        mask = tensor(fn(5), (5, 5), "the mask for T = 5")
        if close(mask, ~causal_mask(5)):
            raise Wrong("True and False are swapped")
        with fresh_cases("right for T = 5, wrong for another T"):
            for T in draw(1, 9, 3):
                assert close(fn(T), causal_mask(T))
        return "lower triangle for every T"
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CUT_OFF = (
    "its values are right, but it is cut off from the graph, so nothing before it can learn: no "
    "detach(), .data, .item(), numpy or torch.no_grad() on the way"
)


class Wrong(Exception):
    """Raised by a check: one line on which property fails, with numbers, and the likely cause."""


@contextmanager
def fresh_cases(message: str) -> Iterator[None]:
    """Turn any failure inside into Wrong(message): random sizes must not show in a diagnosis."""
    try:
        yield
    except Exception as error:
        raise Wrong(message) from error


def any_tensor(result: Any, what: str) -> Tensor:
    """Return `result` if it is a tensor; Wrong otherwise."""
    if not isinstance(result, Tensor):
        raise Wrong(f"{what} should be a tensor, not {describe(result)}")
    return result


def parts(result: Any, n: int, message: str) -> tuple | list:
    """Return `result` if it is a tuple or list of n; else Wrong with its description filled in."""
    if not isinstance(result, tuple | list) or len(result) != n:
        raise Wrong(message.format(result=describe(result)))
    return result


def tensor(result: Any, shape: Sequence[int], what: str) -> Tensor:
    """Return `result`, detached, if it is a tensor of that shape; Wrong otherwise."""
    if tuple(any_tensor(result, what).shape) != tuple(shape):
        raise Wrong(f"{what} has the shape {tuple(result.shape)} instead of {tuple(shape)}")
    return result.detach()


def number_of(result: Any, what: str) -> Tensor:
    """Return one number, plain or in a tensor, as a tensor without axes; Wrong otherwise."""
    if isinstance(result, int | float) and not isinstance(result, bool):
        return torch.tensor(float(result), dtype=torch.double)
    if not isinstance(result, Tensor) or result.numel() != 1:
        raise Wrong(f"{what} should be one number, not {describe(result)}")
    return result.double().reshape(())


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Compare shapes and values in float64; `tolerance` is absolute and relative to b. NaN fails.

    The default suits answers in float32.
    """
    a, b = a.double(), b.double()
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def flows(results: Any) -> bool:
    """Whether gradients flow through a tensor, or one of several in lists, tuples or dicts."""
    if isinstance(results, Tensor):
        return results.requires_grad
    if isinstance(results, Mapping):
        results = results.values()
    return (
        isinstance(results, Iterable) and not isinstance(results, str) and any(map(flows, results))
    )


def expect_gradients(result: Tensor, expected: Tensor, module: nn.Module) -> None:
    """Wrong if the values are right, but no gradient reaches one of the module's parameters."""
    gradients: Sequence[Tensor | None] = [None]
    if result.requires_grad:
        values = tuple(module.parameters())
        gradients = torch.autograd.grad(result.sum(), values, retain_graph=True, allow_unused=True)
    if close(result, expected) and any(gradient is None for gradient in gradients):
        raise Wrong(CUT_OFF)


def describe(value: Any) -> str:
    """Describe a value in a few words: shape and type of a tensor, or a short value itself."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if value is None or isinstance(value, (bool, int, float, str)) and len(repr(value)) < 40:
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
