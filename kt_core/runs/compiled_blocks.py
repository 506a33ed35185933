"""Compile the blocks of a model for training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from kt_core.trainer import Hook, Trainer


class CompiledBlocks(Hook):
    """Compile each block for training; batches get a length that is a multiple of 8.

    So there are few shapes to compile for, which also keeps the memory small. Evaluations run the
    blocks as they are. Without a C++ compiler on a CPU nothing is compiled.
    """

    def on_start(self, trainer: Trainer) -> None:
        self.blocks = list(trainer.model.blocks)
        if trainer.device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
            self.blocks = []
        for block in self.blocks:
            block.forward = _compiled_in_training(block, block.forward)
        forward, most = trainer.forward, trainer.data.block_size

        def forward_padded(x, y):
            pad = (0, min(-x.size(1) % 8, most - x.size(1)))
            return forward(F.pad(x, pad), F.pad(y, pad))

        trainer.forward = forward_padded

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        for block in self.blocks:
            vars(block).pop("forward", None)


def _compiled_in_training(block: nn.Module, forward: Callable) -> Callable:
    compiled = torch.compile(forward, dynamic=True)
    return lambda *args, **more: (compiled if block.training else forward)(*args, **more)
