"""Recurrent encoder-decoders: one context vector, or attention over all states of the encoder.

The encoder reads the source one token after the other. Without attention, its last state is all
that the decoder gets (Cho et al. 2014, Sutskever et al. 2014). With attention, each decoder state
attends to all encoder states (Bahdanau et al. 2015). The order here is that of Luong et al. 2015,
section 3: state, attention, prediction. It lets training compute all positions at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kt_core._validation import is_whole, require
from kt_core.attention import additive_score, masked_softmax, multiplicative_score
from kt_course._typing import Float, Int, Tensor
from kt_course.chapters.the_whole_transformer.seq2seq import (
    EncoderDecoder,
    Memory,
    teacher_forcing,
    token_mask,
)

ATTENTIONS = ("none", "additive", "multiplicative")


@dataclass(frozen=True)
class RecurrentConfig:
    """Size of a `Recurrent`. ValueError for a bad value, naming the field.

    `attention`: "none", "additive" (Bahdanau) or "multiplicative" (Luong's "general").
    """

    source_vocab: int
    target_vocab: int
    n_embd: int = 64
    n_hidden: int = 128
    attention: str = "none"

    def __post_init__(self):
        for field in ("source_vocab", "target_vocab", "n_embd", "n_hidden"):
            require(self, field, is_whole(getattr(self, field)), "a whole number of at least 1")
        known = f"one of {', '.join(ATTENTIONS)}"
        require(self, "attention", self.attention in ATTENTIONS, known)


class Recurrent(EncoderDecoder):
    """A GRU that reads and a GRU that writes; see `RecurrentConfig`."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.config, H = config, config.n_hidden
        self.source_emb = nn.Embedding(config.source_vocab, config.n_embd)
        self.target_emb = nn.Embedding(config.target_vocab, config.n_embd)
        self.encoder = nn.GRU(config.n_embd, H, batch_first=True)
        self.decoder = nn.GRU(config.n_embd, H, batch_first=True)
        if config.attention == "additive":
            self.w_query, self.w_key = (nn.Parameter(torch.randn(H, H) / H**0.5) for _ in range(2))
            self.v = nn.Parameter(torch.randn(H) / H**0.5)
        if config.attention == "multiplicative":
            self.w = nn.Parameter(torch.randn(H, H) / H)
        self.mix = nn.Linear(2 * H, H) if config.attention != "none" else None
        self.head = nn.Linear(H, config.target_vocab, bias=False)

    @property
    def blocks(self) -> nn.ModuleList:
        """Empty: AdamW trains all weights."""
        return nn.ModuleList()

    def encode(self, source: Int[Tensor, "B S"]) -> Memory:
        """Compute all states, and the one after each row's last token, before its padding."""
        mask = token_mask(source)
        states, _ = self.encoder(self.source_emb(source))  # (B, S, H)
        ends = mask.sum(dim=-1) - 1  # (B,)
        last = states[torch.arange(len(source), device=source.device), ends]
        return Memory(states, mask, last[None])

    def weights(self, states: Float[Tensor, "B T H"], memory: Memory) -> Float[Tensor, "B T S"]:
        """Compute the attention of decoder to encoder states; ValueError without attention."""
        if self.config.attention == "additive":
            scores = additive_score(states, memory.states, self.w_query, self.w_key, self.v)
        elif self.config.attention == "multiplicative":
            scores = multiplicative_score(states, memory.states, self.w)
        else:
            raise ValueError("this model has no attention: RecurrentConfig.attention is 'none'")
        return masked_softmax(scores, memory.mask[:, None, :])  # (B, T, S)

    def attention_map(
        self, source: Int[Tensor, "B S"], target: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T1 S"]:
        """Compute the attention weights of a forward pass, detached."""
        memory = self.encode(source)
        inputs, _ = teacher_forcing(target)
        states, _ = self.decoder(self.target_emb(inputs), memory.last)
        return self.weights(states, memory).detach()

    def decode(self, inputs: Int[Tensor, "B T"], memory: Memory) -> Float[Tensor, "B T V"]:
        """Compute the logits of the token after each of `inputs`, which begin with ▶."""
        states, _ = self.decoder(self.target_emb(inputs), memory.last)  # (B, T, H)
        if self.mix is not None:
            context = self.weights(states, memory) @ memory.states  # (B, T, H)
            states = torch.tanh(self.mix(torch.cat([context, states], dim=-1)))
        return self.head(states)
