"""Faster ways to compute the same, within rounding error: attention, dropout, prompts, compiling.

PyTorch's fused attention has no CPU kernel with dropout, and its backward pass in bfloat16 is slow
there. In these cases we use the formula, in fewer passes over memory.
"""

import math
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_core.attention import MultiHeadAttention, attend
from kt_core.blocks import Block
from kt_core.models import BlockStack
from kt_core.trainer import Hook, Trainer


class CPUDropout(nn.Dropout):
    """`nn.Dropout`, on CPUs in a third of its time: 16 random bits decide per activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero activations at random and scale up the others."""
        if not self.training or self.p == 0.0 or x.device.type != "cpu":
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)  # 4 x 16 bits per word
        keep = bits >= min(round(self.p * 2**16), 2**16 - 1) - 2**15
        return x * keep.to(x.dtype).div_(1 - self.p)


def fast_attend(query, key, value, mask=None, dropout: nn.Dropout | None = None):
    """Compute `attention.attend`; the weights are None where a fused kernel is used."""
    p = dropout.p if dropout is not None and dropout.training else 0.0
    if query.device.type != "cpu" or (p == 0.0 and value.dtype != torch.bfloat16):
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=p), None
    sides = (query.size(-2), key.size(-2))
    is_shared = mask is not None and mask.shape[-2:] == sides and mask.numel() == math.prod(sides)
    if not is_shared or not mask.any(-1).all():
        return attend(query, key, value, mask, dropout)
    weights = softmax_of_scores(query, key, mask.view(sides))
    return (weights if dropout is None else dropout(weights)) @ value, weights


def softmax_of_scores(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Compute the weights under one (T_query, T_key) mask, which allows each query a key."""
    *heads, T_query, head_dim = query.shape
    q, k = query.reshape(-1, T_query, head_dim), key.reshape(-1, *key.shape[-2:])
    added = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
    # the matrix product itself adds 0 or -inf
    scores = torch.baddbmm(added.expand(len(q), *mask.shape), q, k.mT, alpha=head_dim**-0.5)
    return scores.softmax(dim=-1).view(*heads, *mask.shape)


class LastBlock(Block):
    """The last block of vanilla or rope: in prompts, its MLP computes the ends alone."""

    def forward(self, x, source=None, mask=None, rotation=None, cache=None):
        """Compute `Block.forward`; in prompts the MLP is left out where no output is read."""
        if cache is None or cache.slots.prompt_ends is None:
            return super().forward(x, source, mask, rotation, cache)
        x = x + self.attn(self.ln1(x), source, mask, rotation, cache)
        ends = torch.arange(len(x), device=x.device), cache.slots.prompt_ends
        return x.index_put(ends, self.mlp(self.ln2(x[ends])), accumulate=True)


def use_fast_paths(model: nn.Module) -> nn.Module:
    """Exchange attention, dropout and the last block of `model`, in place; returns it."""
    for module in list(model.modules()):
        if isinstance(module, BlockStack) and type(module[-1]) is Block:
            module[-1].__class__ = LastBlock
        if isinstance(module, MultiHeadAttention) and module.attend is attend:
            module.attend = fast_attend
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, CPUDropout(child.p).train(child.training))
    return model


class Precision(Hook):
    """Compute forward passes in mixed precision."""

    def __init__(self, precision: str):
        self.precision = precision

    def on_start(self, trainer: Trainer) -> None:
        forward, context = trainer.forward, mixed_precision(self.precision, trainer.device)

        def forward_in_context(*batch):
            with context:
                return forward(*batch)

        trainer.forward = forward_in_context


def mixed_precision(precision: str, device: torch.device):
    """Return the context for forward passes in "fp32", "bf16", "auto" or "native".

    "auto" is bf16 on cuda alone, "native" also on CPUs that multiply it themselves. Others imitate
    it, slowly.
    """
    uses_bf16 = precision == "bf16" or (precision != "fp32" and device.type == "cuda")
    if precision == "native" and device.type == "cpu":
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name
        uses_bf16 = any(getattr(torch.cpu, name, bool)() for name in names)
    return torch.autocast(device.type, torch.bfloat16) if uses_bf16 else nullcontext()


class CompiledBlocks(Hook):
    """Compile each block for training, with lengths that are multiples of 8: there are few shapes.

    Without a C++ compiler on a CPU nothing is compiled.
    """

    def on_start(self, trainer: Trainer) -> None:
        can_compile = trainer.device.type != "cpu" or shutil.which(os.environ.get("CXX", "g++"))
        for block in trainer.model.blocks if can_compile else ():
            block.forward = compile_in_training(block, block.forward)
        forward, most = trainer.forward, trainer.data.block_size

        def forward_padded(x, y):
            pad = (0, min(-x.size(1) % 8, most - x.size(1)))
            return forward(F.pad(x, pad), F.pad(y, pad))

        trainer.forward = forward_padded

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        for block in trainer.model.blocks:
            vars(block).pop("forward", None)


def compile_in_training(block: nn.Module, forward: Callable) -> Callable:
    """Return `forward`, compiled where the block is in train mode."""
    compiled = torch.compile(forward, dynamic=True)
    return lambda *args, **more: (compiled if block.training else forward)(*args, **more)
