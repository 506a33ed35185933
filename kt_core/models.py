"""A character-level GPT, after minGPT and the CS224n assignment on pretraining."""

import torch
import torch.nn.functional as F
from torch import nn

from kt_core.attention import padding_mask
from kt_core.blocks import Block, GPTConfig, mask_and_rotation
from kt_core.perceiver import PerceiverARStack, PerceiverStack
from kt_core.positions import Rotary


class BlockStack(nn.ModuleList):
    """The blocks of vanilla and rope, one after the other."""

    def __init__(self, config: GPTConfig):
        super().__init__(Block(config) for _ in range(config.n_layer))

    def forward(self, x, positions, rotary=None, cache=None, mask=None):
        """Run all blocks over the embedded inputs `x`; causal, unless a `mask` says otherwise."""
        layers = [None] * len(self) if cache is None else cache.layers
        args = mask_and_rotation(positions, positions, rotary, cache and cache.inputs, positions)
        if mask is not None:
            args["mask"] = mask
        for block, layer in zip(self, layers, strict=True):
            x = block(x, **args, cache=layer)
        return x


STACKS = {"perceiver": PerceiverStack, "perceiver_ar": PerceiverARStack}


class GPT(nn.Module):
    """Decoder-only Transformer over characters; `GPTConfig` describes the variants."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.rotary = self.pos_emb = None
        if config.uses_rotation:
            most = config.block_size + config.stride  # the last latent may reach past a block
            self.rotary = Rotary(config.n_embd // config.n_head, most, config.rope_base)
        else:
            self.pos_emb = nn.Parameter(torch.zeros(1, config.block_size, config.n_embd))
        self.drop = nn.Dropout(config.dropout)
        self.blocks = STACKS.get(config.variant, BlockStack)(config)
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.apply(self.init_weights)

    @staticmethod
    def init_weights(module: nn.Module) -> None:
        """Draw the weights of linear layers and embeddings from N(0, 0.02²); biases start at 0."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def n_parameters(self) -> int:
        """Count the trained parameters."""
        return sum(p.numel() for p in self.parameters())

    def embed(self, idx, positions):
        """Embed the characters and, unless attention rotates, their positions: (B, T, C)."""
        x = self.tok_emb(idx)
        return x if self.pos_emb is None else x + self.pos_emb[0, positions]

    def hidden(self, idx, positions=None, cache=None):
        """Compute what the head reads, (B, T, C): the residual stream after all blocks, normed.

        Args:
            idx: Characters, (B, T) int64.
            positions: Where they stand, (1, T), or (B, T) if rows differ; 0 ... T - 1 if None.
            cache: A `kv_cache.KVCache` with the characters before them, which is updated.
        """
        T, most = idx.size(1), self.config.block_size
        if T > most:
            hint = "shorten the text or raise block_size"
            raise ValueError(f"{T} characters do not fit a block of {most}: {hint}")
        if positions is None:
            positions = torch.arange(T, device=idx.device)[None]  # (1, T)
        x = self.drop(self.embed(idx, positions))  # (B, T, C)
        mask = {} if self.config.causal else {"mask": padding_mask(idx)}
        return self.ln_f(self.blocks(x, positions, self.rotary, cache, **mask))

    def forward(self, idx, targets=None):
        """Predict the next character at each position.

        Args:
            idx: Characters, (B, T) int64 with T <= block_size.
            targets: The characters that should follow, (B, T); 0 (padding) is not scored.

        Returns:
            logits (B, T, V), and the mean cross-entropy in nats (None without targets).
        """
        logits = self.head(self.hidden(idx))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
