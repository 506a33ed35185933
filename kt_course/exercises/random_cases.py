"""Random inputs for checks, from generators that nobody can predict: stored outputs do not pass.

A diagnosis must not show a number drawn from them, since the same mistake prints the same line.
"""

import random
import string
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kt_course.exercises.assertions import Wrong

_seeds: random.Random | None = None  # where seeds come from; None: from the system


def fresh_generator(seed: int | None = None) -> torch.Generator:
    """Return a generator with that seed, or an unpredictable one."""
    if seed is None:
        seed = (_seeds or random.SystemRandom()).getrandbits(60)
    return torch.Generator().manual_seed(seed)


@contextmanager
def repeatable_cases(seed: int) -> Iterator[None]:
    """Make what is fresh in the block depend on `seed`, so that a check can be run once more."""
    global _seeds
    before, _seeds = _seeds, random.Random(seed)
    try:
        yield
    finally:
        _seeds = before


def fresh_random() -> random.Random:
    """Return the same for the `random` module."""
    return random.Random(draw(0, 2**40, 1)[0])


def draw(low: int, high: int, n: int, generator: torch.Generator | None = None) -> list[int]:
    """Return n whole numbers from low to high, both included."""
    generator = generator or fresh_generator()
    return torch.randint(low, high + 1, (n,), generator=generator).tolist()


def integers(low: int, high: int, *shape: int, seed: int) -> Tensor:
    """Return random whole numbers from low to high, both included, (*shape)."""
    return torch.randint(low, high + 1, shape, generator=fresh_generator(seed))


def letters(n: int, rng: random.Random | None = None) -> str:
    """Return n random letters; the same ones in each run unless an `rng` is given."""
    return "".join((rng or random.Random(n)).choices(string.ascii_lowercase, k=n))


def numbers(*shape: int, seed: int | None = None) -> Tensor:
    """Return normal numbers in float64, (*shape); unpredictable without a seed."""
    return torch.randn(*shape, generator=fresh_generator(seed), dtype=torch.double)


def randomise(module: nn.Module, seed: int | None = None) -> nn.Module:
    """Re-initialise every weight with numbers of scale 0.6; in float64 and in eval mode."""
    generator = fresh_generator(seed)
    for p in module.double().parameters():
        p.data = 0.6 * torch.randn(p.shape, generator=generator, dtype=torch.double)
    return module.eval()


def with_weights(module: Any, like: nn.Module, seed: int) -> nn.Module:
    """Give an answer's module random weights; Wrong unless it has the parameters of `like`."""
    have = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    want = {name: tuple(value.shape) for name, value in like.state_dict().items()}
    extra = [name for name in have if name not in want]
    for name, shape in want.items():
        if name not in have:
            near = f", but there is {extra[0]}" if extra else ""
            hint = (
                ": a plain Python list hides its blocks from PyTorch, nn.ModuleList registers them"
            )
            raise Wrong(f"there is no parameter {name}{near}{hint if '.0.' in name else ''}")
        if have[name] != shape:
            raise Wrong(f"{name} has the shape {have[name]} instead of {shape}")
    if extra:
        raise Wrong(f"the parameter {extra[0]} is one too many")
    module.load_state_dict(randomise(like, seed).state_dict())
    return module.double().eval()
