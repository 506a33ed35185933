"""The teaching solutions of chapter 7, in its order.

Shapes: B texts, T positions, C channels (`n_embd`), d = C / n_head channels per head.
In my_gpt.py `Attention` is the learner's own; here it is kt_core's.
"""

import math

import torch
import torch.nn.functional as F

from kt_core.attention import MultiHeadAttention as Attention


# ======== exercise rotary-frequencies ========
def frequencies(head_dim, base=10000.0):
    """Return base^(-2i/d) for i = 0 ... d/2 - 1, in radians per position: (d/2,)."""
    two_i = torch.arange(0, head_dim, 2)  # 2i = 0, 2, 4 ... d - 2
    return base ** (-two_i / head_dim)  # theta_i = base^(-2i / d)


# ======== exercise rotary-table ========
def angles(positions, head_dim, base=10000.0):
    """Return cos and sin of position x frequency, each (..., T, d/2), for positions (..., T)."""
    angle = positions.unsqueeze(-1) * frequencies(head_dim, base)  # t theta_i: a column times a row
    return angle.cos(), angle.sin()


# ======== exercise rotate ========
def rotate(x, cos, sin):
    """Rotate the pairs (x[i], x[i + d/2]) of x (..., T, d); cos and sin are (..., T, d/2)."""
    a, b = x.chunk(2, dim=-1)  # the first and the second half of the channels
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)  # all a', then all b'


# ======== exercise rotary-attention ========
class RotaryAttention(Attention):
    """Causal self-attention with rotated queries and keys: (B, T, C) -> (B, T, C)."""

    def __init__(self, n_embd, n_head, qk_norm=False):
        super().__init__(n_embd, n_head, qk_norm=qk_norm)  # query, key, value and proj
        self.n_head, self.qk_norm = n_head, qk_norm

    def forward(self, x, first=0):
        B, T, C = x.shape
        q, k, v = (
            layer(x).view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, n_head, T, d)
            for layer in (self.query, self.key, self.value)  # W x + b of each
        )
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        positions = torch.arange(first, first + T)
        cos, sin = (table.to(x.device) for table in angles(positions, q.size(-1)))  # of t theta_i
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)  # the values stay as they are
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # depend on distances alone
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, T, C))
