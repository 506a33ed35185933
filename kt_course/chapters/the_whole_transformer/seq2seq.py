"""The encoder-decoder Transformer of Vaswani et al. 2017, built on the core's attention.

    memory = model.encode(source)             # the whole source at once, in both directions
    logits = model.decode(inputs, memory)     # position t reads inputs 0 ... t and all of memory
    logits, loss = model(source, target)      # both, with teacher forcing

Axes: B batch, S source positions, T target positions, C channels (n_embd), V target vocabulary.
Id 0 is padding, on the right of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from kt_core._validation import is_whole, require
from kt_core.attention import MultiHeadAttention, causal_mask
from kt_core.positions import sinusoidal_positions
from kt_course._typing import Bool, Float, Int, Tensor
from kt_course.chapters.the_whole_transformer.seq2seq_data import TokenVocab

NORMS = ("pre", "post")
POSITIONS = ("sinusoidal", "none")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Size of a `Seq2Seq`; the defaults are the paper's base model (Vaswani et al. 2017, table 3).

    `norm` "post" is the paper's x = norm(x + f(x)). "pre" is x + f(norm(x)), with one more norm at
    the end of each stack. `shared`: one matrix embeds source and target and makes the logits
    (section 3.4). Raises ValueError for a bad value, naming the field.
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
        sizes = "source_vocab target_vocab n_encoder n_decoder n_head n_embd n_hidden".split()
        for field in sizes:
            require(self, field, is_whole(getattr(self, field)), "a whole number of at least 1")
        require(self, "norm", self.norm in NORMS, f"one of {', '.join(NORMS)}")
        require(self, "positions", self.positions in POSITIONS, f"one of {', '.join(POSITIONS)}")
        require(self, "dropout", 0.0 <= self.dropout < 1.0, "in [0, 1)")
        require(self, "shared", isinstance(self.shared, bool), "True or False")
        fits = self.n_embd % self.n_head == 0 and self.n_embd % 2 == 0
        require(self, "n_embd", fits, f"even and a multiple of n_head ({self.n_head})")
        same = self.source_vocab == self.target_vocab
        sizes = f"{self.source_vocab} and {self.target_vocab} tokens"
        require(self, "shared", same or not self.shared, f"False for two vocabularies, of {sizes}")


@dataclass(frozen=True)
class Memory:
    """What an encoder gives to its decoder.

    `states` (B, S, C): one vector per source position. `mask` (B, S): False where the source is
    padding. `last` (1, B, C): a recurrent encoder's summary in one vector, None for others.
    """

    states: Tensor
    mask: Tensor
    last: Tensor | None = None

    def rows(self, index: Int[Tensor, " n"]) -> Memory:
        """Select rows, each as often as `index` names it: several beams share one source."""
        last = None if self.last is None else self.last[:, index]
        return Memory(self.states[index], self.mask[index], last)


def token_mask(ids: Int[Tensor, "B S"]) -> Bool[Tensor, "B S"]:
    """True at tokens, False at padding (id 0). ValueError for a row of padding alone."""
    mask = ids != 0
    empty = ~mask.any(dim=-1)
    if empty.any():
        row = int(empty.nonzero()[0])
        raise ValueError(f"row {row} of the source is padding alone: it needs at least one token")
    return mask


def teacher_forcing(
    target: Int[Tensor, "B T"], start: int = TokenVocab.start_id, end: int = TokenVocab.end_id
) -> tuple[Int[Tensor, "B T1"], Int[Tensor, "B T1"]]:
    """Make the decoder's inputs and labels: it reads ▶ and the correct answer, and predicts ahead.

    Args:
        target: Ids, padded with 0 on the right.

    Returns:
        inputs, the target after `start`, and labels, the target with `end` right after its last
        token. Both are (B, T + 1) and padded with 0; labels[b, t] is the token after inputs[b, t].
    """
    inputs = F.pad(target, (1, 0), value=start)
    labels = F.pad(target, (0, 1))
    lengths = (target != 0).sum(dim=-1, keepdim=True)  # (B, 1)
    return inputs, labels.scatter(1, lengths, end)


class EncoderDecoder(nn.Module):
    """What every encoder-decoder shares; a subclass defines `encode` and `decode`."""

    def n_parameters(self) -> int:
        """Count the trained numbers; shared ones count once."""
        return sum(p.numel() for p in self.parameters())

    def forward(
        self, source: Int[Tensor, "B S"], target: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T1 V"], Float[Tensor, ""]]:
        """Compute logits with teacher forcing, and the mean cross-entropy per token (nats).

        The end token counts, padding does not.
        """
        inputs, labels = teacher_forcing(target)
        logits = self.decode(inputs, self.encode(source))
        return logits, F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0)


def layer_norm(
    x: Float[Tensor, "*B C"],
    gain: Float[Tensor, " C"] | None = None,
    bias: Float[Tensor, " C"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "*B C"]:
    """Compute (x - mean) / sqrt(variance + eps) * gain + bias over the channels of each position.

    The variance is the mean squared deviation: divided by C, not by C - 1.

    Source: Ba et al. 2016, section 3.1.
    """
    mean = x.mean(dim=-1, keepdim=True)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)
    y = (x - mean) / (variance + eps).sqrt()
    y = y if gain is None else y * gain
    return y if bias is None else y + bias


class FeedForward(nn.Module):
    """max(0, x W1 + b1) W2 + b2 at each position alone (Vaswani et al. 2017, section 3.3)."""

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
        """`mask`: True at keys that may be attended to; None if no row is padded."""
        if self.norm == "pre":
            x = x + self.drop(self.attn(self.ln1(x), mask=mask))
            return x + self.drop(self.ff(self.ln2(x)))
        x = self.ln1(x + self.drop(self.attn(x, mask=mask)))
        return self.ln2(x + self.drop(self.ff(x)))


class DecoderBlock(nn.Module):
    """Causal self-attention over the target so far, cross-attention to memory, feed-forward."""

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
        """`memory` is the encoder's output; `memory_mask` is False at its padded positions."""
        causal = causal_mask(x.size(1), x.device)
        if self.norm == "pre":
            x = x + self.drop(self.self_attn(self.ln1(x), mask=causal))
            x = x + self.drop(self.cross_attn(self.ln2(x), memory, mask=memory_mask))
            return x + self.drop(self.ff(self.ln3(x)))
        x = self.ln1(x + self.drop(self.self_attn(x, mask=causal)))
        x = self.ln2(x + self.drop(self.cross_attn(x, memory, mask=memory_mask)))
        return self.ln3(x + self.drop(self.ff(x)))


class Seq2Seq(EncoderDecoder):
    """Encoder-decoder Transformer; see `Seq2SeqConfig`.

    `record_attention(model)` gives its maps in the order of `attention_names`.
    """

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.config, c = config, config
        self.source_emb = nn.Embedding(c.source_vocab, c.n_embd)
        self.target_emb = self.source_emb if c.shared else nn.Embedding(c.target_vocab, c.n_embd)
        self.drop = nn.Dropout(c.dropout)
        self.encoder = nn.ModuleList(EncoderBlock(c) for _ in range(c.n_encoder))
        self.decoder = nn.ModuleList(DecoderBlock(c) for _ in range(c.n_decoder))
        # A post-norm stack already ends in a norm.
        self.ln_encoder = nn.LayerNorm(c.n_embd) if c.norm == "pre" else nn.Identity()
        self.ln_decoder = nn.LayerNorm(c.n_embd) if c.norm == "pre" else nn.Identity()
        self.head = nn.Linear(c.n_embd, c.target_vocab, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):  # variance 1 after the factor sqrt(C) in embed
                nn.init.normal_(module.weight, std=c.n_embd**-0.5)
        if c.shared:
            self.head.weight = self.target_emb.weight

    @property
    def blocks(self) -> nn.ModuleList:
        """All blocks, the encoder's first."""
        return nn.ModuleList([*self.encoder, *self.decoder])

    @property
    def attention_names(self) -> list[str]:
        """Name each recorded map: "encoder 0", ..., "decoder 0 self", "decoder 0 cross", ..."""
        encoder = [f"encoder {i}" for i in range(self.config.n_encoder)]
        kinds = ("self", "cross")
        return encoder + [f"decoder {i} {k}" for i in range(self.config.n_decoder) for k in kinds]

    def embed(self, embedding: nn.Embedding, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Add sqrt(C) times the token's vector and the position's (sections 3.4 and 3.5)."""
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
        """Compute the logits of the token after each of `inputs`, which begin with ▶."""
        keys = memory.mask[:, None, None, :]
        x = self.embed(self.target_emb, inputs)
        for block in self.decoder:
            x = block(x, memory.states, keys)
        return self.head(self.ln_decoder(x))
