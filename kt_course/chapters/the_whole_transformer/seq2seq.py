"""The parts of an encoder-decoder that chapter 9 gives: sizes, feed-forward, norm, weights.

Axes: B batch, S source positions, T target positions, C channels (n_embd), V target vocabulary.
Id 0 is padding, on the right of a row; 1 is the start token ▶, 2 the end token ■.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from kt_core._validation import is_whole, require
from kt_course._typing import Float, Int, Tensor

NORMS = ("pre", "post")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Size of a `Transformer`. Raises ValueError for a bad value, naming the field.

    `norm` "post" is the 2017 paper's x = norm(x + f(x)). "pre" is x + f(norm(x)), with one more
    norm at the end of each stack.
    """

    source_vocab: int
    target_vocab: int
    n_encoder: int = 2
    n_decoder: int = 2
    n_head: int = 2
    n_embd: int = 64
    n_hidden: int = 128
    norm: str = "pre"

    def __post_init__(self):
        sizes = "source_vocab target_vocab n_encoder n_decoder n_head n_embd n_hidden".split()
        for field in sizes:
            require(self, field, is_whole(getattr(self, field)), "a whole number of at least 1")
        require(self, "norm", self.norm in NORMS, f"one of {', '.join(NORMS)}")
        fits = self.n_embd % self.n_head == 0 and self.n_embd % 2 == 0
        require(self, "n_embd", fits, f"even and a multiple of n_head ({self.n_head})")


@dataclass(frozen=True)
class Memory:
    """What an encoder gives to its decoder.

    `states` (B, S, C): one vector per source position. `mask` (B, S): False where the source is
    padding. `last` (1, B, C): a recurrent encoder's summary in one vector, None for others.
    """

    states: Tensor
    mask: Tensor
    last: Tensor | None = None

    def rows(self, index: Int[Tensor, " n"]) -> "Memory":
        """Select rows, each as often as `index` names it: several beams share one source."""
        last = None if self.last is None else self.last[:, index]
        return Memory(self.states[index], self.mask[index], last)


class FeedForward(nn.Module):
    """max(0, x W1 + b1) W2 + b2 at each position alone (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.n_hidden)
        self.proj = nn.Linear(config.n_hidden, config.n_embd)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        return self.proj(F.relu(self.up(x)))


def final_norm(config: Seq2SeqConfig) -> nn.Module:
    """Make the norm at the end of a stack; a post-norm stack already ends in one."""
    return nn.LayerNorm(config.n_embd) if config.norm == "pre" else nn.Identity()


def init_weights(module: nn.Module) -> None:
    """Re-initialise linear layers (Xavier) and embeddings (variance 1 / C)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
