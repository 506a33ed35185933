"""The parts of a GPT: its configuration, the MLP, the Transformer block and its mask."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from kt_core._validation import is_number, is_whole, require, require_choice
from kt_core.attention import MultiHeadAttention, reach_mask

LARGEST = dict(
    vocab_size=2**21, block_size=2**17, n_layer=1000, n_head=1000, n_embd=2**16, bottleneck=2**17
)
VARIANTS = ("vanilla", "rope", "perceiver", "perceiver_ar")


@dataclass(frozen=True)
class GPTConfig:
    """Size and variant of a `GPT`. The defaults are the assignment's model."""

    vocab_size: int  # number of characters V, with the two special ones
    block_size: int = 128  # the most characters that the model reads at once
    n_layer: int = 4
    n_head: int = 8
    n_embd: int = 256  # channels C
    # "vanilla" (learned positions), "rope" (rotated queries and keys), "perceiver" (the
    # assignment's latents) or "perceiver_ar" (causal and complete latents)
    variant: str = "vanilla"
    bottleneck: int = 64  # latents of a full block; perceiver_ar may use fewer (`n_latents`)
    dropout: float = 0.1  # share of activations dropped in training
    qk_norm: bool = False  # queries and keys of unit root mean square (Henry et al. 2020)
    rope_base: float = 10000.0  # of the rotary frequencies
    causal: bool = True  # False: attend both ways, an encoder for masked language models

    def __post_init__(self):
        for field, most in LARGEST.items():
            fits = is_whole(getattr(self, field), 1, most)
            require(self, field, fits, f"a whole number of at least 1 and at most {most:,}")
        for field in ("qk_norm", "causal"):
            require(self, field, isinstance(getattr(self, field), bool), "True or False")
        require_choice(self, "variant", VARIANTS)
        channels, rest = divmod(self.n_embd, self.n_head)
        require(self, "n_embd", rest == 0, f"a multiple of n_head ({self.n_head})")
        require(self, "dropout", is_number(self.dropout, 0, 1) and self.dropout < 1, "in [0, 1)")
        base = self.rope_base
        require(self, "rope_base", is_number(base, 1, 1e12) and base > 1, "above 1, at most 1e12")
        if self.uses_rotation:  # it rotates pairs
            require(self, "n_embd", channels % 2 == 0, "an even number of channels per head")
        if self.has_latents:
            require(self, "n_layer", self.n_layer >= 2, "2 or more: one block down, one block up")
            fits = self.bottleneck <= self.block_size
            require(self, "bottleneck", fits, f"at most block_size ({self.block_size})")
            require(self, "causal", self.causal, f"True: {self.variant} attends to the past alone")

    @property
    def uses_rotation(self) -> bool:
        """Are queries and keys rotated by their position?"""
        return self.variant in ("rope", "perceiver_ar")

    @property
    def has_latents(self) -> bool:
        """Do the middle layers run on latents instead of on the inputs?"""
        return self.variant in ("perceiver", "perceiver_ar")

    @property
    def stride(self) -> int:
        """Inputs per latent of perceiver_ar, ceil(block_size / bottleneck); 1 for the others."""
        return -(-self.block_size // self.bottleneck) if self.variant == "perceiver_ar" else 1

    @property
    def n_latents(self) -> int:
        """Latents of a full block: ceil(block_size / stride), or the perceiver's bottleneck."""
        if self.variant == "perceiver":
            return self.bottleneck
        return -(-self.block_size // self.stride)


class MLP(nn.Module):
    """Two linear maps with a non-linearity between, at each position alone: C -> 4C -> C."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.drop(self.proj(F.gelu(self.up(x))))


class Block(nn.Module):
    """A pre-norm Transformer block; with `cross`, attention reads another sequence, normed too."""

    def __init__(self, config: GPTConfig, cross: bool = False):
        super().__init__()
        self.ln1 = nn.LayerNorm(config.n_embd)
        self.ln_source = nn.LayerNorm(config.n_embd) if cross else None
        self.attn = MultiHeadAttention(config.n_embd, config.n_head, config.dropout, config.qk_norm)
        self.drop = nn.Dropout(config.dropout)
        self.ln2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x, source=None, mask=None, rotation=None, cache=None):
        """Compute x + attention(norm(x)), then x + MLP(norm(x)); see `MultiHeadAttention`."""
        source = None if source is None else self.ln_source(source)
        x = x + self.drop(self.attn(self.ln1(x), source, mask, rotation, cache))
        return x + self.mlp(self.ln2(x))


def mask_and_rotation(query_reach, key_reach, rotary=None, slots=None, new_slots=None) -> dict:
    """Return the mask and the rotations that follow from the reach, (B or 1, T), of both sides.

    The reach of an input is its own position, so inputs alone get the mask `causal_mask`. With
    `slots`, the `kv_cache.Slots` of a cache, earlier keys are added, and the cache notes the new
    ones at `new_slots`, (B or 1, T_key): once for all layers with these slots, before they run.
    """
    rotation = None if rotary is None else (rotary(query_reach), rotary(key_reach))
    all_reach = key_reach if slots is None else slots.place(new_slots, key_reach)
    return {"mask": reach_mask(query_reach, all_reach).unsqueeze(1), "rotation": rotation}
