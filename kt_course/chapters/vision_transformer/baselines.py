"""What chapter 13 compares its Vision Transformer with, on the same images."""

import torch
from torch import nn

from kt_course._typing import Float, Int, Tensor
from kt_course.chapters.vision_transformer.composites import N_CELLS, ROWS, Composites
from kt_course.chapters.vision_transformer.solutions import FullAttention


class CNN(nn.Module):
    """Three convolutions, one vector per cell, and two linear layers over all cells."""

    def __init__(self, n_class: int, n_embd: int = 64):
        super().__init__()
        self.cells = nn.Sequential(
            nn.Conv2d(1, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, n_embd, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(ROWS),  # (B, n_embd, 3, 3)
        )
        self.head = nn.Sequential(
            nn.Linear(N_CELLS * n_embd, 128), nn.ReLU(), nn.Linear(128, n_class)
        )

    def encode(self, images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 9 C"]:
        """Compute one vector per cell."""
        return self.cells(images).flatten(2).mT

    def forward(self, images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B n_class"]:
        """Compute the logits of the classes."""
        return self.head(self.encode(images).flatten(1))


class UniformAttention(FullAttention):
    """Attention whose weights are all equal: every token gets the mean of the values."""

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Give every token the same mean."""
        return self.proj(self.value(x).mean(1, keepdim=True).expand_as(x))


def name_and_count(logits: Float[Tensor, "B 9 10"]) -> Int[Tensor, " B"]:
    """Find the odd one out by a rule, from the logits of the digit in each cell.

    The most frequent digit is the one with the highest probability over all cells. The odd one out
    is the cell where this digit is least likely.
    """
    log_shares = logits.log_softmax(-1)
    common = log_shares.sum(1).argmax(-1)  # (B,)
    return log_shares[torch.arange(len(logits)), :, common].argmin(-1)


def classical_answers(train: Composites, test: Composites) -> dict[str, Int[Tensor, " n"]]:
    """Fit scikit-learn's linear classifier and SVM to the pixels; return their answers."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    kinds = {"logistic regression": LogisticRegression(max_iter=200), "SVM": SVC()}
    return {
        name: torch.as_tensor(
            kind.fit(train.images.flatten(1).numpy(), train.answer.numpy()).predict(
                test.images.flatten(1).numpy()
            )
        )
        for name, kind in kinds.items()
    }
