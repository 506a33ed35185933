"""Encoder-decoders of recurrent layers: one context vector, or attention over all states of the encoder.

The encoder reads the source one token after the other. Without attention its last state is all that the decoder gets
(Cho et al. 2014, Sutskever et al. 2014). With attention each decoder state looks at all encoder states and mixes what it
finds into its prediction (Bahdanau et al. 2015; here in the order of Luong et al. 2015, section 3: state, then
attention, then prediction, so that training computes all positions' attention at once).
The same interface as `seq2seq.Seq2Seq`: encode, decode, forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kt_core._typing import Float, Int, Tensor
from kt_core.attention import additive_score, masked_softmax, multiplicative_score
from kt_course.chapters.the_whole_transformer.seq2seq import Memory, token_mask

ATTENTIONS = ("none", "additive", "multiplicative")


@dataclass(frozen=True)
class RecurrentConfig:
    """Size of a `Recurrent`; `attention` is "none", "additive" (Bahdanau) or "multiplicative" (Luong's "general").

    Raises ValueError for a value that no model can have, naming the field.
    """

    source_vocab: int
    target_vocab: int
    n_embd: int = 64
    n_hidden: int = 128
    attention: str = "none"

    def __post_init__(self):
        for field in ("source_vocab", "target_vocab", "n_embd", "n_hidden"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"RecurrentConfig.{field} must be a whole number of at least 1, not {value!r}"
                )
        if self.attention not in ATTENTIONS:
            raise ValueError(
                f"RecurrentConfig.attention must be one of {', '.join(ATTENTIONS)}, not {self.attention!r}"
            )


class Recurrent(nn.Module):
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
        """None: all weights are the optimiser's ordinary ones."""
        return nn.ModuleList()

    def n_parameters(self) -> int:
        """Number of trained values."""
        return sum(p.numel() for p in self.parameters())

    def encode(self, source: Int[Tensor, "B S"]) -> Memory:
        """All states, and the one behind each row's last token; padding comes after it and changes nothing."""
        mask = token_mask(source)
        states, _ = self.encoder(self.source_emb(source))  # (B, S, H)
        ends = mask.sum(dim=-1) - 1  # (B,)
        last = states[torch.arange(len(source), device=source.device), ends]
        return Memory(states, mask, last[None])

    def weights(self, states: Float[Tensor, "B T H"], memory: Memory) -> Float[Tensor, "B T S"]:
        """How much each decoder state looks at each encoder state; 0 at padding. ValueError without attention."""
        if self.config.attention == "additive":
            scores = additive_score(states, memory.states, self.w_query, self.w_key, self.v)
        elif self.config.attention == "multiplicative":
            scores = multiplicative_score(states, memory.states, self.w)
        else:
            raise ValueError("this model has no attention: RecurrentConfig.attention is 'none'")
        return masked_softmax(scores, memory.mask[:, None, :])  # (B, T, S)

    def attention_map(
        self, source: Int[Tensor, "B S"], inputs: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T S"]:
        """The weights of a forward pass, detached."""
        memory = self.encode(source)
        states, _ = self.decoder(self.target_emb(inputs), memory.last)
        return self.weights(states, memory).detach()

    def decode(self, inputs: Int[Tensor, "B T"], memory: Memory) -> Float[Tensor, "B T V"]:
        """Logits of the token behind each of `inputs`, which begin with the start token."""
        states, _ = self.decoder(self.target_emb(inputs), memory.last)  # (B, T, H)
        if self.mix is not None:
            context = self.weights(states, memory) @ memory.states  # (B, T, H)
            states = torch.tanh(self.mix(torch.cat([context, states], dim=-1)))
        return self.head(states)

    def forward(
        self, source: Int[Tensor, "B S"], inputs: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """decode(inputs, encode(source))."""
        return self.decode(inputs, self.encode(source))
