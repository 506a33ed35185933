"""Teaching solutions of chapter 9, in the order of the exercises.

Axes: B batch, S source positions, T target positions, C channels (n_embd), V target vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

import kt_core as kt
from kt_core.attention import MultiHeadAttention
from kt_course.chapters.the_whole_transformer.seq2seq import (
    FeedForward,
    Memory,
    final_norm,
    init_weights,
)


# ======== exercise teacher-forcing ========
def teacher_forcing(target, start=1, end=2):
    """Return (inputs, labels), each (B, T + 1), of target ids (B, T) padded with 0."""
    inputs = F.pad(target, (1, 0), value=start)  # a column of ▶ in front
    labels = F.pad(target, (0, 1))  # a column of padding at the end
    lengths = (target != 0).sum(dim=-1, keepdim=True)  # (B, 1): where each row's ■ belongs
    return inputs, labels.scatter(1, lengths, end)


# ======== exercise greedy-decoding ========
@torch.no_grad()
def write(model, source, max_new=64, choose=lambda logits: logits.argmax(dim=-1)):
    """Return one list of ids per row, without ▶ and ■; `choose` maps logits (B, V) to ids (B,)."""
    memory = model.encode(source)  # once
    inputs = torch.ones_like(source[:, :1])  # (B, 1): ▶
    for _ in range(max_new):
        tokens = choose(model.decode(inputs, memory)[:, -1])  # the last position's logits
        inputs = torch.cat([inputs, tokens[:, None]], dim=1)
        if (inputs == 2).any(dim=1).all():  # every row has its ■
            break
    rows = inputs[:, 1:].tolist()
    return [row[: row.index(2)] if 2 in row else row for row in rows]


# ======== exercise encoder-block ========
class EncoderBlock(nn.Module):
    """Self-attention in both directions, then feed-forward: (B, S, C) -> (B, S, C)."""

    def __init__(self, config):
        super().__init__()
        self.norm = config.norm  # "pre" or "post"
        self.attn = MultiHeadAttention(config.n_embd, config.n_head)
        self.ff = FeedForward(config)
        self.ln1, self.ln2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)

    def forward(self, x, mask=None):
        if self.norm == "pre":
            x = x + self.attn(self.ln1(x), mask=mask)  # x itself is never normalised
            return x + self.ff(self.ln2(x))
        x = self.ln1(x + self.attn(x, mask=mask))  # "Add & Norm" in the paper's figure
        return self.ln2(x + self.ff(x))


# ======== exercise decoder-block ========
class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention to the memory, feed-forward: (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        self.norm = config.norm
        self.self_attn = MultiHeadAttention(config.n_embd, config.n_head)
        self.cross_attn = MultiHeadAttention(config.n_embd, config.n_head)
        self.ff = FeedForward(config)
        self.ln1, self.ln2, self.ln3 = (nn.LayerNorm(config.n_embd) for _ in range(3))

    def forward(self, x, memory, memory_mask=None):
        causal = kt.causal_mask(x.size(1), x.device)
        if self.norm == "pre":
            x = x + self.self_attn(self.ln1(x), mask=causal)
            x = x + self.cross_attn(self.ln2(x), memory, mask=memory_mask)
            return x + self.ff(self.ln3(x))
        x = self.ln1(x + self.self_attn(x, mask=causal))
        x = self.ln2(x + self.cross_attn(x, memory, mask=memory_mask))
        return self.ln3(x + self.ff(x))


# ======== exercise whole-transformer ========
class Transformer(nn.Module):
    """An encoder that reads the source, and a decoder that predicts the target's next token."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.source_emb = nn.Embedding(config.source_vocab, config.n_embd)
        self.target_emb = nn.Embedding(config.target_vocab, config.n_embd)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_encoder))
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_decoder))
        self.ln_encoder, self.ln_decoder = final_norm(config), final_norm(config)
        self.head = nn.Linear(config.n_embd, config.target_vocab, bias=False)
        self.apply(init_weights)

    def embed(self, table, ids):
        x = math.sqrt(self.config.n_embd) * table(ids)  # (B, T, C), entries of variance 1
        return x + kt.sinusoidal_positions(ids.size(1), self.config.n_embd).to(x)

    def encode(self, source):
        mask = source != 0  # (B, S): True at tokens, False at padding
        x = self.embed(self.source_emb, source)
        for block in self.encoder:
            x = block(x, mask[:, None, None])  # (B, 1, 1, S), for all heads and queries
        return Memory(self.ln_encoder(x), mask)

    def decode(self, inputs, memory):
        x = self.embed(self.target_emb, inputs)
        for block in self.decoder:
            x = block(x, memory.states, memory.mask[:, None, None])
        return self.head(self.ln_decoder(x))  # (B, T, V): logits of the token after each input


# ======== exercise next-probabilities ========
def next_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """Return the probabilities (B, V) to sample from: logits (B, V) -> rows that sum to 1."""
    p = (logits / temperature).softmax(dim=-1)
    p, order = p.sort(dim=-1, descending=True)  # the most likely token first
    keep = torch.ones_like(p, dtype=torch.bool)
    if top_k is not None:
        keep[:, top_k:] = False
    if top_p is not None:
        before = p.cumsum(dim=-1) - p  # what the more likely tokens have together
        keep = keep & (before < top_p)
    p = (p * keep) / (p * keep).sum(dim=-1, keepdim=True)
    return torch.zeros_like(p).scatter(-1, order, p)  # back to the order of the ids


# ======== exercise beam-step ========
def beam_step(log_probabilities, totals, width):
    """Return (rows, tokens, totals) of the `width` best ways to extend n beginnings by a token."""
    extended = totals[:, None] + log_probabilities  # (n, V): the log-probability of each way
    best, index = extended.flatten().topk(min(width, extended.numel()))
    return index // extended.size(1), index % extended.size(1), best
