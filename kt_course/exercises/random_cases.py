"""Random inputs for checks, from generators that nobody can predict: stored outputs do not pass.

A diagnosis must not show a number drawn from them, since the same mistake prints the same line.
"""

from __future__ import annotations

import random
import string

import torch
from torch import Tensor, nn


def fresh_generator() -> torch.Generator:
    """Return a generator with an unpredictable seed."""
    generator = torch.Generator()
    generator.seed()
    return generator


def fresh_random() -> random.Random:
    """Return the same for the `random` module."""
    return random.Random(draw(0, 2**40, 1)[0])


def draw(low: int, high: int, n: int, generator: torch.Generator | None = None) -> list[int]:
    """Return n whole numbers from low to high, both included."""
    generator = generator or fresh_generator()
    return torch.randint(low, high + 1, (n,), generator=generator).tolist()


def letters(n: int, rng: random.Random | None = None) -> str:
    """Return n random letters; the same ones in each run unless an `rng` is given."""
    return "".join((rng or random.Random(n)).choices(string.ascii_lowercase, k=n))


def numbers(*shape: int, seed: int | None = None) -> Tensor:
    """Return normal numbers in float64, (*shape); unpredictable without a seed."""
    generator = fresh_generator() if seed is None else torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def randomise(module: nn.Module, seed: int | None = None) -> nn.Module:
    """Re-initialise every weight with numbers of scale 0.6; in float64 and in eval mode."""
    generator = fresh_generator() if seed is None else torch.Generator().manual_seed(seed)
    for p in module.double().parameters():
        p.data = 0.6 * torch.randn(p.shape, generator=generator, dtype=torch.double)
    return module.eval()
