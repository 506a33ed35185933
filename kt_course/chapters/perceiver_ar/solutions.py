"""The teaching solutions of chapter 6, in its order.

Shapes: B texts, T positions, n latents, C channels (`n_embd`), d = C / n_head channels per head.
In my_gpt.py the names below stand for the learner's own pieces; here kt_core's do.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import LayerNorm

from kt_core.attention import MultiHeadAttention as Attention
from kt_core.blocks import Block


# ======== exercise cross-attention ========
class CrossAttention(Attention):
    """Let x (B, T_query, C) gather from source (B, T_key, C) -> (B, T_query, C)."""

    def __init__(self, n_embd, n_head, qk_norm=False):
        super().__init__(n_embd, n_head, qk_norm=qk_norm)  # query, key, value and proj
        self.n_head, self.qk_norm = n_head, qk_norm

    def split_heads(self, y):
        B, T, C = y.shape
        return y.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, n_head, T, d)

    def forward(self, x, source, mask):
        q = self.split_heads(self.query(x))  # Q = x W_Q, (B, n_head, T_query, d)
        k = self.split_heads(self.key(source))  # K = source W_K, (B, n_head, T_key, d)
        v = self.split_heads(self.value(source))  # V = source W_V
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # Q K^T / sqrt(d)
        weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)  # (..., T_query, T_key)
        context = weights @ v  # softmax(...) V
        return self.proj(context.transpose(1, 2).flatten(2))  # heads side by side


# ======== exercise reach-mask ========
def reach_mask(query_reach, key_reach):
    """Return (..., T_query, T_key), True where the key's reach is at most the query's."""
    return key_reach.unsqueeze(-2) <= query_reach.unsqueeze(-1)  # a row against a column


# ======== exercise down-project ========
class DownProjectBlock(Block):
    """Read T inputs into n = min(m, T) latents: x (B, T, C) -> z (B, n, C)."""

    def __init__(self, config):
        super().__init__(config)
        self.ln_source = LayerNorm(config.n_embd)
        self.attn = CrossAttention(config.n_embd, config.n_head, config.qk_norm)
        self.latents = nn.Parameter(torch.empty(1, config.bottleneck, config.n_embd))
        nn.init.xavier_uniform_(self.latents)

    def forward(self, x):
        reach = torch.arange(x.size(1), device=x.device)  # of input j: j
        z = self.latents[:, : x.size(1)].expand(len(x), -1, -1)  # the same start for every text
        mask = reach_mask(reach[: z.size(1)], reach)  # (n, T): latent i reads inputs 0 ... i
        z = z + self.attn(self.ln1(z), self.ln_source(x), mask)  # step 2
        return z + self.mlp(self.ln2(z))  # step 3


# ======== exercise up-project ========
class UpProjectBlock(Block):
    """Let T outputs read n latents: x (B, T, C), z (B, n, C) -> (B, T, C)."""

    def __init__(self, config):
        super().__init__(config)
        self.ln_source = LayerNorm(config.n_embd)
        self.attn = CrossAttention(config.n_embd, config.n_head, config.qk_norm)

    def forward(self, x, z):
        reach = torch.arange(x.size(1), device=x.device)  # of output t: t; of latent i: i
        mask = reach_mask(reach, reach[: z.size(1)])  # (T, n): output t reads latents 0 ... t
        x = x + self.attn(self.ln1(x), self.ln_source(z), mask)  # queries: outputs; keys: latents
        return x + self.mlp(self.ln2(x))


# ======== exercise newest-inputs ========
def newest_inputs(local, x):
    """Sum local[k - 1] * x[t - k] over k = 1 ... n: local (n, C), x (B, T, C) -> (B, T, C)."""
    total = torch.zeros_like(x)
    for k in range(1, len(local) + 1):
        earlier = F.pad(x, (0, 0, k, 0))[:, : x.size(1)]  # earlier[t] = x[t - k], zeros before x[0]
        total = total + local[k - 1] * earlier  # + w_k ⊙ x[t - k]
    return total


# ======== exercise through-latents ========
def through_latents(blocks, x, connect):
    """Run the blocks of a perceiver_ar over the embedded text: x (B, T, C) -> (B, T, C)."""
    down, *middle, up = blocks
    s, T = blocks.config.stride, x.size(1)
    positions = torch.arange(T)[None]  # (1, T): the reach of each input
    reach = s * torch.arange(1, math.ceil(T / s) + 1)[None] - 1  # (1, n): s (i + 1) - 1
    z = x[:, reach[0].clamp(max=T - 1)]  # a latent starts as the newest input that it reads
    z = down(z, x, **connect(reach, positions))  # latents read inputs
    for block in middle:
        z = block(z, **connect(reach, reach))  # latents read latents
    z = torch.cat([up.null.expand(len(x), -1, -1), z], dim=1)  # the null latent comes first
    reach = F.pad(reach, (1, 0), value=-1)  # it contains no input, so every output may read it
    x = x + newest_inputs(up.local, x)  # x_t + sum of w_k ⊙ x[t - k]
    return up(x, z, **connect(positions, reach))  # outputs read latents
