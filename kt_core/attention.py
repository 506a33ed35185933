"""Attention: who may look where, how alike two vectors are, and one multi-head attention for every block.

Axes: B batch, T time, C channels (n_embd), nh heads, hs = C / nh channels of a head, T_query and T_key where
the two sides differ. Boolean masks are True where a query may look.
Sources: Bahdanau et al. 2015 (additive score), Luong et al. 2015 (multiplicative score), Vaswani et al. 2017
section 3.2 (scaled dot product, several heads), Su et al. 2021 sections 3.2-3.4 (rotary embedding).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from kt_core._typing import Bool, Float, Int, Tensor

# ---------------------------------------------------------------- masks


def causal_mask(T: int, device: torch.device | str | None = None) -> Bool[Tensor, "T T"]:
    """Lower triangle: position t may look at positions 0 ... t. (T, T), True where looking is allowed."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


def reach_mask(
    query_reach: Int[Tensor, "... T_query"], key_reach: Int[Tensor, "... T_key"]
) -> Bool[Tensor, "..."]:
    """The one rule behind every mask here: a query may look at a key that knows nothing newer than it may.

    `query_reach` is the last input position that the query may know of, `key_reach` the last one that went into
    the key. Plain causal attention has both equal to the position. Returns (..., T_query, T_key).
    """
    return key_reach.unsqueeze(-2) <= query_reach.unsqueeze(-1)


def padding_mask(idx: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 1 T"]:
    """For attention that looks both ways: True at keys that hold text, False at padding (id 0). (B, 1, 1, T_key).

    Causal attention needs none of it: padding stands behind the text, where nothing may look.
    """
    return (idx != 0)[:, None, None]


# ---------------------------------------------------------------- scores and softmax


def additive_score(
    query: Float[Tensor, "... T_query d_query"],
    key: Float[Tensor, "... T_key d_key"],
    w_query: Float[Tensor, "d_query d_hidden"],
    w_key: Float[Tensor, "d_key d_hidden"],
    v: Float[Tensor, " d_hidden"],
) -> Float[Tensor, "... T_query T_key"]:
    """v . tanh(W_q q + W_k k), a small network that compares (Bahdanau et al. 2015, appendix A.1.2)."""
    hidden = (query @ w_query).unsqueeze(-2) + (key @ w_key).unsqueeze(
        -3
    )  # (..., T_query, T_key, d_hidden)
    return torch.tanh(hidden) @ v


def multiplicative_score(
    query: Float[Tensor, "... T_query d_query"],
    key: Float[Tensor, "... T_key d_key"],
    w: Float[Tensor, "d_query d_key"] | None = None,
) -> Float[Tensor, "... T_query T_key"]:
    """q . W k, or the plain dot product without W (Luong et al. 2015, section 3.1, "general" and "dot")."""
    return (query if w is None else query @ w) @ key.transpose(-2, -1)


def scaled_dot_product_score(
    query: Float[Tensor, "... T_query d"], key: Float[Tensor, "... T_key d"]
) -> Float[Tensor, "... T_query T_key"]:
    """q . k / sqrt(d): independent unit-variance entries give scores of variance 1 (Vaswani et al. 2017, 3.2.1)."""
    return query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))


def masked_softmax(
    scores: Float[Tensor, "... T_query T_key"], mask: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "... T_query T_key"]:
    """Softmax over the keys (last axis). Forbidden keys get exactly 0; a row with no allowed key is all 0.

    Filling with a large negative number instead would turn such a row into an average over forbidden keys: a leak.
    """
    if mask is None:
        return scores.softmax(dim=-1)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)  # an all-forbidden row is 0/0 = NaN before this


def causal_softmax(
    query: Float[Tensor, "B nh T hs"], key: Float[Tensor, "B nh T hs"]
) -> Float[Tensor, "B nh T T"]:
    """`masked_softmax` of the scaled scores under a causal mask, in fewer passes over them: the product adds -inf where
    nobody may look, and no row is without an allowed key."""
    B, nh, T, hs = query.shape
    never = torch.full((T, T), float("-inf"), dtype=query.dtype, device=query.device).triu(1)
    q, k = query.reshape(B * nh, T, hs), key.reshape(B * nh, T, hs)
    scores = torch.baddbmm(never.expand(B * nh, T, T), q, k.mT, alpha=1 / math.sqrt(hs))
    return scores.softmax(dim=-1).view(B, nh, T, T)


def attend(
    query: Float[Tensor, "... T_query d"],
    key: Float[Tensor, "... T_key d"],
    value: Float[Tensor, "... T_key d_value"],
    mask: Bool[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "... T_query d_value"], Float[Tensor, "... T_query T_key"]]:
    """softmax(Q K^T / sqrt(d)) V by the formula (Vaswani et al. 2017, equation 1): (context, weights)."""
    weights = masked_softmax(scaled_dot_product_score(query, key), mask)
    return weights @ value, weights


class Dropout(nn.Module):
    """`nn.Dropout`, on CPUs in a third of its time: 16 random bits an activation decide, so p is rounded to 1 / 65,536."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if not self.training or self.p == 0.0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(
            -(2**63), None
        )  # 4 x 16 bits each
        keep = drawn.view(torch.int16)[: x.numel()].view(x.shape) >= round(self.p * 2**16) - 2**15
        return x * keep.to(x.dtype).div_(1 - self.p)


# ---------------------------------------------------------------- positions


def sinusoidal_positions(T: int, n_embd: int, base: float = 10000.0) -> Float[Tensor, "T C"]:
    """sin and cos of t / base^(2i/C), interleaved over the channels (Vaswani et al. 2017, section 3.5)."""
    angle = torch.arange(T)[:, None] * rotary_frequencies(n_embd, base)  # (T, C/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (T, C)


def rotary_frequencies(head_dim: int, base: float = 10000.0) -> Float[Tensor, " half"]:
    """theta_i = base^(-2i/d) for i = 0 ... d/2 - 1, in radians a position; d is the size of ONE head.

    Su et al. 2021, section 3.2.2 (there i starts at 1). Falls from 1 to base^(-(d-2)/d).
    """
    if head_dim < 2 or head_dim % 2:
        raise ValueError(
            f"rotary embedding turns pairs of channels: head_dim must be even, not {head_dim}"
        )
    return base ** (-torch.arange(0, head_dim, 2).float() / head_dim)


def rotary_table(
    positions: Int[Tensor, "*T"], head_dim: int, base: float = 10000.0
) -> tuple[Float[Tensor, "*T half"], Float[Tensor, "*T half"]]:
    """cos and sin of position x theta_i, each (..., T, hs/2), in float32."""
    angle = positions.unsqueeze(-1) * rotary_frequencies(head_dim, base).to(positions.device)
    return angle.cos(), angle.sin()


def rotate(
    x: Float[Tensor, "... hs"],
    cos: Float[Tensor, "..."],
    sin: Float[Tensor, "..."],
    layout: str = "half",
) -> Float[Tensor, "... hs"]:
    """Turn each pair of channels by its angle: (a + ib) e^(i t theta), written without complex numbers.

    `layout` says which channels form a pair: "half" pairs x[i] with x[i + hs/2] (contiguous halves, the model's
    own choice because it is faster), "interleaved" pairs x[2i] with x[2i + 1] (the paper's picture). They are the
    same map up to a fixed reordering of channels, harmless as long as queries and keys agree.
    """
    if layout == "half":
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(x)
    if layout == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)
    raise ValueError(f"layout must be 'half' or 'interleaved', not {layout!r}")


# ---------------------------------------------------------------- multi-head attention

Rotation = tuple[
    Tensor, Tensor
]  # cos, sin: (T, hs/2), or (B, 1, T, hs/2) where rows stand at different positions


class KeyValueCache:
    """Keys and values of one layer, a slot a position, so that decoding computes each of them once.

    Rows of a batch may stand at different positions: `write` puts each row's keys into that row's own slots.
    """

    def __init__(self, batch: int, n_head: int, slots: int, head_dim: int, like: Tensor):
        self.key = like.new_zeros(batch, n_head, slots, head_dim)
        self.value = torch.zeros_like(self.key)

    def write(
        self, key: Tensor, value: Tensor, slots: Int[Tensor, "B T_new"]
    ) -> tuple[Tensor, Tensor]:
        """Store (B, nh, T_new, hs) keys and values at `slots`; returns all slots, (B, nh, slots, hs) each."""
        index = slots[:, None, :, None].expand_as(key)
        self.key.scatter_(2, index, key.to(self.key.dtype))  # autocast computes them in bfloat16
        self.value.scatter_(2, index, value.to(self.value.dtype))
        return self.key, self.value

    def keep(self, rows: Int[Tensor, " B_kept"]) -> None:
        """Forget all rows of the batch but these."""
        self.key, self.value = self.key[rows], self.value[rows]


class MultiHeadAttention(nn.Module):
    """Several heads of scaled dot-product attention: of x to itself, or of x to another sequence.

    Without recording it runs PyTorch's fused kernel, which never holds the T x T weights. Under
    `record_attention` it computes the same thing by the formula and hands out the weights (before dropout,
    detached). The CPU's fused kernel exists for dropout 0 alone: with dropout PyTorch falls back to a slower
    composite, and in bfloat16 its backward pass takes several times as long as the formula's. There the formula is
    used as well.
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0, qk_norm: bool = False):
        super().__init__()
        self.n_head, self.qk_norm = n_head, qk_norm
        self.drop = Dropout(dropout)
        self.query = nn.Linear(n_embd, n_embd)
        self.key = nn.Linear(n_embd, n_embd)
        self.value = nn.Linear(n_embd, n_embd)
        self.proj = nn.Linear(n_embd, n_embd)
        self.recorder = None  # called with the weights (B, nh, T_query, T_key) while recording

    def _heads(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B nh T hs"]:
        B, T, C = x.shape
        return x.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, nh, T, hs)

    def forward(
        self,
        x: Float[Tensor, "B T_query C"],
        source: Float[Tensor, "B T_source C"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        is_causal: bool = False,
        query_rotation: Rotation | None = None,
        key_rotation: Rotation | None = None,
        cache: KeyValueCache | None = None,
        slots: Int[Tensor, "B T_source"] | None = None,
        n_slots: int = 0,
    ) -> Float[Tensor, "B T_query C"]:
        """Each position of `x` gathers from `source` (x itself if None) what its heads find relevant.

        `mask` broadcasts to (B, nh, T_query, T_key), True = may look; `is_causal` stands for the lower triangle.
        With a `cache`, the keys of `source` are written to `slots`; attention then runs over the first `n_slots` of
        its slots, or over `source` alone if that is 0.
        """
        source = x if source is None else source
        q, k, v = (
            self._heads(self.query(x)),
            self._heads(self.key(source)),
            self._heads(self.value(source)),
        )
        if self.qk_norm:  # unit root mean square: the scores' size no longer grows with the weights
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if query_rotation is not None:
            q = rotate(q, *query_rotation)
        if key_rotation is not None:
            k = rotate(k, *key_rotation)
        if cache is not None:
            kept = cache.write(k, v, slots)
            k, v = (each[:, :, :n_slots] for each in kept) if n_slots else (k, v)
        dropout = self.drop.p if self.training else 0.0
        slow = x.device.type == "cpu" and (dropout > 0.0 or v.dtype == torch.bfloat16)
        if self.recorder is None and not slow:
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal
            )
        else:
            if is_causal and self.recorder is None:
                weights = causal_softmax(q, k)
            else:
                mask = causal_mask(q.size(2), q.device) if is_causal else mask
                weights = masked_softmax(scaled_dot_product_score(q, k), mask)
            if self.recorder is not None:
                self.recorder(weights.detach())
            y = self.drop(weights) @ v  # (B, nh, T_query, T_key) x (B, nh, T_key, hs)
        y = y.transpose(1, 2).flatten(2)  # (B, nh, T_query, hs) -> (B, T_query, C)
        return self.proj(y)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[list[Tensor | None]]:
    """Record the attention weights of every layer during the forward passes inside the block.

    Gives a list, one entry a layer in the order of the layers: (B, n_head, T_query, T_key) of the latest forward
    pass, from that very pass, before dropout, detached. The list stays filled after the block.
    """
    layers = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    maps: list[Tensor | None] = [None] * len(layers)
    before = [layer.recorder for layer in layers]
    for i, layer in enumerate(layers):
        layer.recorder = lambda weights, i=i: maps.__setitem__(i, weights)
    try:
        yield maps
    finally:
        for layer, recorder in zip(layers, before, strict=True):
            layer.recorder = recorder
