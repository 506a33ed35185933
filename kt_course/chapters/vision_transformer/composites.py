"""Images that ask for a comparison: nine handwritten digits, of which one is the odd one out.

The digits are the 1,797 of scikit-learn, 8 x 8 pixels with ink from 0 to 1. Train, dev and test
images are made of different digits.
"""

from dataclasses import dataclass

import numpy as np
import torch

from kt_course._typing import Int, Tensor

ROWS = 3  # rows and columns of cells
CELL = 10  # pixels per side of a cell
SIDE = ROWS * CELL  # pixels per side of an image
DIGIT = 8  # pixels per side of a digit
N_CELLS = ROWS * ROWS
PARTS = {"train": slice(0, 1077), "dev": slice(1077, 1437), "test": slice(1437, None)}


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: images (n, 8, 8), sorted by class; `first[k]` is the first digit k."""

    images: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    def of(cls, images: Tensor, classes: Tensor) -> "Digits":
        """Sort images by their class."""
        count = classes.bincount(minlength=10)
        return cls(images[classes.argsort(stable=True)], count.cumsum(0) - count, count)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Composites:
    """Images of nine digits.

    Attributes:
        images: (n, 1, 30, 30).
        classes: The digit in each cell, row by row, (n, 9).
        answer: The cell of the odd one out, (n,); -1 where there is none.
    """

    images: Tensor
    classes: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return len(self.images)


def load_digits() -> dict[str, Digits]:
    """Load the digits from scikit-learn: 1,077 for train, 360 for dev and 360 for test.

    The three parts share their writers: other people's digits are harder.

    Raises:
        ValueError: Without scikit-learn.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise ValueError("the digits come with scikit-learn: pip install scikit-learn") from None
    digits = datasets.load_digits()
    # RandomState: numpy keeps its stream as it is
    order = np.random.RandomState(2021).permutation(len(digits.target))
    images = torch.tensor(digits.images[order] / 16, dtype=torch.float32)
    classes = torch.tensor(digits.target[order], dtype=torch.long)
    return {name: Digits.of(images[rows], classes[rows]) for name, rows in PARTS.items()}


def draw_cells(digits: Digits, classes: Int[Tensor, "n 9"], generator: torch.Generator) -> Tensor:
    """Draw images with these classes in their cells, (n, 1, 30, 30).

    Each cell gets another example of its digit, at a random place within the cell.
    """
    n = len(classes)
    which = (torch.rand(n, N_CELLS, generator=generator) * digits.count[classes]).long()
    chosen = digits.images[digits.first[classes] + which]  # (n, 9, 8, 8)
    free = CELL - DIGIT + 1
    down, right = torch.randint(free, (2, n, N_CELLS, 1), generator=generator)
    cell = torch.arange(N_CELLS)[:, None]
    rows = cell // ROWS * CELL + down + torch.arange(DIGIT)  # (n, 9, 8)
    columns = cell % ROWS * CELL + right + torch.arange(DIGIT)
    images = torch.zeros(n, SIDE, SIDE)
    at = torch.arange(n)[:, None, None, None]
    images[at, rows[:, :, :, None], columns[:, :, None, :]] = chosen
    return images[:, None]


def random_digits(digits: Digits, n: int, generator: torch.Generator) -> Composites:
    """Make images of nine independent random digits."""
    classes = torch.randint(10, (n, N_CELLS), generator=generator)
    return Composites(draw_cells(digits, classes, generator), classes, torch.full((n,), -1))


def odd_one_out(digits: Digits, n: int, generator: torch.Generator) -> Composites:
    """Make images with eight examples of one digit and one example of another."""
    pair = torch.rand(n, 10, generator=generator).argsort(1)[:, :2]  # two different digits
    answer = torch.randint(N_CELLS, (n,), generator=generator)
    is_odd = torch.arange(N_CELLS) == answer[:, None]
    classes = torch.where(is_odd, pair[:, 1:], pair[:, :1])
    return Composites(draw_cells(digits, classes, generator), classes, answer)
