"""The encoder-decoder Transformer of Vaswani et al. 2017, on the attention module that every model here shares.

    memory = model.encode(source)             # all of the source at once, both directions
    logits = model.decode(inputs, memory)     # target position t sees targets 0 ... t and all of the memory

Axes: B batch, S source positions, T target positions, C channels (n_embd), V target vocabulary. Id 0 is padding, on
the right of a row; nobody looks at padded source positions, and nothing before them sees padded targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from kt_core._typing import Bool, Float, Int, Tensor
from kt_core.attention import MultiHeadAttention, sinusoidal_positions

NORMS = ("pre", "post")
POSITIONS = ("sinusoidal", "none")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Size of a `Seq2Seq`; the defaults are the paper's base model (Vaswani et al. 2017, table 3).

    `norm` "post" is the paper's x = norm(x + f(x)), "pre" is x + f(norm(x)) with one more norm at the end of each stack.
    `shared`: one matrix embeds source and target and makes the logits (section 3.4); the vocabularies must be one.
    Raises ValueError for a value that no model can have, naming the field.
    """

    source_vocab: int
    target_vocab: int
    n_encoder: int = 6
    n_decoder: int = 6
    n_head: int = 8
    n_embd: int = 512
    n_hidden: int = 2048
    dropout: float = 0.1
    norm: str = "post"
    positions: str = "sinusoidal"
    shared: bool = False

    def __post_init__(self):
        for field in (
            "source_vocab",
            "target_vocab",
            "n_encoder",
            "n_decoder",
            "n_head",
            "n_embd",
            "n_hidden",
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"Seq2SeqConfig.{field} must be a whole number of at least 1, not {value!r}"
                )
        for field, known in (("norm", NORMS), ("positions", POSITIONS)):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"Seq2SeqConfig.{field} must be one of {', '.join(known)}, not {getattr(self, field)!r}"
                )
        if not isinstance(self.dropout, int | float) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"Seq2SeqConfig.dropout must lie in [0, 1), not {self.dropout!r}")
        if not isinstance(self.shared, bool):
            raise ValueError(f"Seq2SeqConfig.shared must be True or False, not {self.shared!r}")
        if self.n_embd % self.n_head or self.n_embd % 2:
            raise ValueError(
                f"Seq2SeqConfig.n_embd ({self.n_embd}) must be even and a multiple of n_head ({self.n_head})"
            )
        if self.shared and self.source_vocab != self.target_vocab:
            raise ValueError(
                f"Seq2SeqConfig.shared needs one vocabulary, not {self.source_vocab} and {self.target_vocab} tokens"
            )


@dataclass(frozen=True)
class Memory:
    """What an encoder hands to its decoder.

    `states` (B, S, C), a vector a source position; `mask` (B, S), False where the source is padding; `last` (1, B, C),
    the summary in one vector that recurrent encoders make, None for others.
    """

    states: Tensor
    mask: Tensor
    last: Tensor | None = None

    def rows(self, index: Int[Tensor, " n"]) -> Memory:
        """The memory of rows `index`, each as often as it is named: several continuations of one source share it."""
        last = None if self.last is None else self.last[:, index]
        return Memory(self.states[index], self.mask[index], last)


def token_mask(ids: Int[Tensor, "B S"]) -> Bool[Tensor, "B S"]:
    """True where a row holds a token, False at padding (id 0). ValueError for a row without any token."""
    mask = ids != 0
    if not mask.any(dim=-1).all():
        row = int((~mask.any(dim=-1)).nonzero()[0])
        raise ValueError(
            f"row {row} of the source is padding alone: a source has one token or more"
        )
    return mask


def layer_norm(
    x: Float[Tensor, "*B C"],
    gain: Float[Tensor, " C"] | None = None,
    bias: Float[Tensor, " C"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "*B C"]:
    """(x - mean) / sqrt(variance + eps) * gain + bias, over the channels of each position alone.

    The variance is the mean squared deviation (divided by C, not C - 1). Ba et al. 2016, section 3.1.
    """
    mean = x.mean(dim=-1, keepdim=True)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)
    normed = (x - mean) / (variance + eps).sqrt()
    normed = normed if gain is None else normed * gain
    return normed if bias is None else normed + bias


class FeedForward(nn.Module):
    """max(0, x W1 + b1) W2 + b2 at each position alone: C -> n_hidden -> C (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.n_hidden)
        self.proj = nn.Linear(config.n_hidden, config.n_embd)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        return self.proj(F.relu(self.up(x)))


class EncoderBlock(nn.Module):
    """Self-attention in both directions, then feed-forward; each adds to the residual stream."""

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.norm = config.norm
        self.attn = MultiHeadAttention(config.n_embd, config.n_head, config.dropout)
        self.ff = FeedForward(config)
        self.ln1, self.ln2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "B S C"], mask: Bool[Tensor, "B 1 1 S"] | None = None
    ) -> Float[Tensor, "B S C"]:
        """`mask`: True where a key may be looked at; None if no row is padded."""
        if self.norm == "pre":
            x = x + self.drop(self.attn(self.ln1(x), mask=mask))
            return x + self.drop(self.ff(self.ln2(x)))
        x = self.ln1(x + self.drop(self.attn(x, mask=mask)))
        return self.ln2(x + self.drop(self.ff(x)))


class DecoderBlock(nn.Module):
    """Causal self-attention over the target so far, attention over the memory, then feed-forward."""

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.norm = config.norm
        self.self_attn = MultiHeadAttention(config.n_embd, config.n_head, config.dropout)
        self.cross_attn = MultiHeadAttention(config.n_embd, config.n_head, config.dropout)
        self.ff = FeedForward(config)
        self.ln1, self.ln2, self.ln3 = (nn.LayerNorm(config.n_embd) for _ in range(3))
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        memory: Float[Tensor, "B S C"],
        memory_mask: Bool[Tensor, "B 1 1 S"] | None = None,
    ) -> Float[Tensor, "B T C"]:
        """`memory` goes in as the encoder left it; its padded positions are closed by `memory_mask`."""
        if self.norm == "pre":
            x = x + self.drop(self.self_attn(self.ln1(x), is_causal=True))
            x = x + self.drop(self.cross_attn(self.ln2(x), memory, mask=memory_mask))
            return x + self.drop(self.ff(self.ln3(x)))
        x = self.ln1(x + self.drop(self.self_attn(x, is_causal=True)))
        x = self.ln2(x + self.drop(self.cross_attn(x, memory, mask=memory_mask)))
        return self.ln3(x + self.drop(self.ff(x)))


class Seq2Seq(nn.Module):
    """Encoder-decoder Transformer; see `Seq2SeqConfig`.

    `record_attention(model)` gives its maps in the order of `attention_names`.
    """

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.config = config
        self.source_emb = nn.Embedding(config.source_vocab, config.n_embd)
        self.target_emb = (
            self.source_emb if config.shared else nn.Embedding(config.target_vocab, config.n_embd)
        )
        self.drop = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_encoder))
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_decoder))
        pre = config.norm == "pre"  # post-norm stacks end in a norm already
        self.ln_encoder = nn.LayerNorm(config.n_embd) if pre else nn.Identity()
        self.ln_decoder = nn.LayerNorm(config.n_embd) if pre else nn.Identity()
        self.head = nn.Linear(config.n_embd, config.target_vocab, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):  # times sqrt(C) below: entries of variance 1
                nn.init.normal_(module.weight, std=config.n_embd**-0.5)
        if config.shared:
            self.head.weight = self.target_emb.weight

    @property
    def blocks(self) -> nn.ModuleList:
        """All blocks, the encoder's first."""
        return nn.ModuleList([*self.encoder, *self.decoder])

    @property
    def attention_names(self) -> list[str]:
        """What each recorded map is: "encoder 0", ..., "decoder 0 self", "decoder 0 cross", ..."""
        names = [f"encoder {i}" for i in range(self.config.n_encoder)]
        return names + [
            f"decoder {i} {kind}"
            for i in range(self.config.n_decoder)
            for kind in ("self", "cross")
        ]

    def n_parameters(self) -> int:
        """Number of trained values; shared ones count once."""
        return sum(p.numel() for p in self.parameters())

    def embed(self, embedding: nn.Embedding, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """sqrt(C) times the token's vector, plus the position's (sections 3.4 and 3.5)."""
        C = self.config.n_embd
        x = math.sqrt(C) * embedding(ids)
        if self.config.positions == "sinusoidal":
            x = x + sinusoidal_positions(ids.size(1), C).to(x)
        return self.drop(x)

    def encode(self, source: Int[Tensor, "B S"]) -> Memory:
        """Read the sources; ValueError for a row of padding alone."""
        mask = token_mask(source)
        keys = mask[:, None, None, :]  # (B, 1, 1, S), for all heads and queries
        x = self.embed(self.source_emb, source)
        for block in self.encoder:
            x = block(x, keys)
        return Memory(self.ln_encoder(x), mask)

    def decode(self, inputs: Int[Tensor, "B T"], memory: Memory) -> Float[Tensor, "B T V"]:
        """Logits of the token behind each of `inputs`, which begin with the start token."""
        keys = memory.mask[:, None, None, :]
        x = self.embed(self.target_emb, inputs)
        for block in self.decoder:
            x = block(x, memory.states, keys)
        return self.head(self.ln_decoder(x))

    def forward(
        self, source: Int[Tensor, "B S"], inputs: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """decode(inputs, encode(source))."""
        return self.decode(inputs, self.encode(source))
