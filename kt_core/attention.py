"""Attention: masks, scores, softmax, and the multi-head attention of every model here.

Shapes: B batch, T positions (T_query, T_key if they differ), C channels (`n_embd`), nh heads with
hs = C / nh channels each. Masks are boolean: True allows attention.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from kt_core.positions import rotate


def causal_mask(T: int, device: torch.device | str | None = None):
    """Return the lower triangle: position t may attend to positions 0 ... t."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


def reach_mask(query_reach, key_reach):
    """Allow each query (..., T_query) the keys (..., T_key) whose reach is no larger than its own.

    A vector's reach is the newest input that can influence it: in `causal_mask`, its own position.
    """
    return key_reach.unsqueeze(-2) <= query_reach.unsqueeze(-1)


def padding_mask(idx):
    """Allow text, forbid padding (id 0). Causal attention needs no such mask: text comes first."""
    return (idx != 0)[:, None, None]


def scaled_dot_product_score(query, key):
    """Compute q · k / √d: variance 1 for entries of variance 1 (Vaswani et al. 2017, 3.2.1)."""
    return query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))


def masked_softmax(scores, mask=None):
    """Apply softmax over the keys. Forbidden keys get exactly 0; a row without a key is all 0."""
    if mask is None:
        return scores.softmax(dim=-1)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)  # a row of -inf alone has become NaN.


def attend(query, key, value, mask=None, dropout: nn.Module | None = None):
    """Compute softmax(Q Kᵀ / √d) V (Vaswani et al. 2017, equation 1).

    Args:
        query, key, value: (..., T_query, d), (..., T_key, d), (..., T_key, d_value).
        mask: Boolean, broadcastable to (..., T_query, T_key); None allows everything.
        dropout: Applied to the weights, where given.

    Returns:
        context (..., T_query, d_value) and the weights before dropout (..., T_query, T_key).
    """
    weights = masked_softmax(scaled_dot_product_score(query, key), mask)
    return (weights if dropout is None else dropout(weights)) @ value, weights


class MultiHeadAttention(nn.Module):
    """Several heads of scaled dot-product attention (Vaswani et al. 2017, section 3.2.2).

    Self-attention if `forward` gets `x` alone, cross-attention if it gets a `source` too.
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0, qk_norm: bool = False):
        super().__init__()
        self.n_head, self.qk_norm = n_head, qk_norm
        self.query = nn.Linear(n_embd, n_embd)
        self.key = nn.Linear(n_embd, n_embd)
        self.value = nn.Linear(n_embd, n_embd)
        self.proj = nn.Linear(n_embd, n_embd)
        self.drop = nn.Dropout(dropout)
        self.attend = attend  # exchanged to record the weights, or for a faster kernel.

    def split_heads(self, x):
        """Give each head its own share of the channels."""
        B, T, C = x.shape
        return x.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)

    def forward(self, x, source=None, mask=None, rotation=None, cache=None):
        """Let each position of `x` (B, T_query, C) gather from `source` (B, T_source, C), or x.

        Args:
            mask: Boolean, broadcastable to (B, nh, T_query, T_key); None allows everything.
            rotation: (cos, sin) of the queries and (cos, sin) of the keys, from `Rotary`.
            cache: One layer of a `kv_cache.KVCache`, which adds the keys of earlier steps.
        """
        source = x if source is None else source
        q = self.split_heads(self.query(x))  # (B, nh, T_query, hs)
        k = self.split_heads(self.key(source))  # (B, nh, T_source, hs)
        v = self.split_heads(self.value(source))  # (B, nh, T_source, hs)
        if self.qk_norm:  # scores no longer grow with the weights.
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if rotation is not None:
            q, k = rotate(q, *rotation[0]), rotate(k, *rotation[1])
        if cache is not None:
            k, v = cache.update(k, v)  # (B, nh, T_key, hs)
        context, _ = self.attend(q, k, v, mask, self.drop)  # (B, nh, T_query, hs)
        return self.proj(context.transpose(1, 2).flatten(2))  # heads side by side: (B, T_query, C)
