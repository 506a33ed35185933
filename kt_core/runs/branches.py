"""Train the last part several times, average the weights (Gupta et al. 2020, arXiv 2001.02312)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from kt_core.runs.resume import StateFile
from kt_core.trainer import Hook, Trainer

FORK_AT = 0.6  # the share of the steps that all branches have in common


class Fork(Hook):
    """Where a training forks: the first branch saves its state there, the others begin with it."""

    def __init__(self, path: Path, is_first: bool):
        self.file, self.is_first = StateFile(path, True, 0, "", {}), is_first
        self.file.key = None  # a branch has other draws, so the keys would differ

    def on_start(self, trainer: Trainer) -> None:
        if self.is_first:
            self.on_step(trainer)  # if it was stopped at the fork, before this hook
        elif trainer.step == 0:  # otherwise the branch has been resumed
            self.file.load(trainer)
            trainer.history, trainer.characters, trainer.seconds = [], 0, 0.0

    def on_step(self, trainer: Trainer) -> None:
        total = trainer.total_steps
        if self.is_first and trainer.step == min(round(FORK_AT * total), total - 1):
            self.file.save(trainer)


def train_branches(
    model: nn.Module, n: int, path: Path, train: Callable[[int, Sequence[Hook]], dict]
) -> list[dict]:
    """Train n branches of one training, and give `model` the mean of their weights.

    Args:
        path: File for the state at the fork.
        train: Trains `model`, given the branch's number and more hooks; returns its last row.
    """
    if n == 1:
        return [train(0, [])]
    rows, weights = [], []
    for branch in range(n):
        rows.append(train(branch, [Fork(path, branch == 0)]))
        weights.append({name: t.clone() for name, t in model.state_dict().items()})
    model.load_state_dict({k: torch.stack([w[k] for w in weights]).mean(0) for k in weights[0]})
    return rows
