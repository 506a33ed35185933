"""Teaching solutions of chapter 1, in the chapter's order.

Shapes: T positions, d channels; T_query and T_key where the two sides differ. "..." stands for any
axes in front, such as a batch. A mask is boolean: True where attention is allowed.
"""

import math

import torch


def attend(query, key, value, mask=None):  # given on the page
    """Return the context, softmax(q . k / sqrt(d)) v, and the weights."""
    weights = masked_softmax(scaled_dot_product_score(query, key), mask)  # (..., T_query, T_key)
    return weights @ value, weights  # (..., T_query, d_value)


# ======== exercise scaled-score ========
def scaled_dot_product_score(query, key):
    """Return q . k / sqrt(d): (..., T_query, d), (..., T_key, d) -> (..., T_query, T_key)."""
    products = query @ key.transpose(-2, -1)  # q . k for each pair of query and key
    return products / math.sqrt(query.size(-1))  # / sqrt(d) keeps the variance at 1


# ======== exercise causal-mask ========
def causal_mask(T):
    """Return (T, T) booleans: True where query t (row) may attend to key j (column), j <= t."""
    positions = torch.arange(T)  # 0 ... T - 1
    return positions[None, :] <= positions[:, None]  # key j (along a row) <= query t (down)


# ======== exercise masked-softmax ========
def masked_softmax(scores, mask=None):
    """Return softmax over the keys; forbidden keys get 0, and a row without any key is all 0."""
    if mask is None:
        return scores.softmax(dim=-1)  # e^s / (sum of e^s over the keys)
    allowed = scores.masked_fill(~mask, float("-inf"))  # exp(-inf) = 0
    weights = allowed.softmax(dim=-1)  # NaN in a row of -inf alone
    return weights.masked_fill(~mask, 0.0)  # replaces these NaN


# ======== exercise one-head ========
def one_head(x, w_query, w_key, w_value, mask=None):
    """Return self-attention of x (..., T, C) by the matrices (C, d), and its weights."""
    query, key, value = x @ w_query, x @ w_key, x @ w_value  # Q = X W_Q, K = X W_K, V = X W_V
    return attend(query, key, value, mask)  # softmax(Q K^T / sqrt(d)) V, and the weights


# ======== exercise average-of-two ========
def average_query(keys, a, b):
    """Return a query (d,) whose weights, softmax(K q), are one half on keys[a] and keys[b]."""
    return 20.0 * (keys[a] + keys[b])  # scores: 20 for both keys, 0 for all others


# ======== exercise sinusoidal-positions ========
def sinusoidal_positions(T, n_embd):
    """Return (T, n_embd): sin and cos of t / 10000^(2i / n_embd) in channels 2i and 2i + 1."""
    i = torch.arange(n_embd // 2)  # the pairs of channels
    angle = torch.arange(T)[:, None] / 10000 ** (2 * i / n_embd)  # t / 10000^(2i / d)
    pairs = torch.stack([angle.sin(), angle.cos()], dim=-1)  # channels 2i and 2i + 1
    return pairs.flatten(1)  # (T, n_embd): sin and cos take turns


# ======== exercise leak-detector ========
def sees_future(layer, T, d):
    """Return True if some output of `layer`, (T, d) -> (T, d), depends on a later input."""
    x, other = torch.randn(2, T, d, generator=torch.Generator().manual_seed(0))
    before = layer(x)  # the outputs without a change
    for t in range(1, T):
        changed = x.clone()
        changed[t] = other[t]  # one input differs; no output before it may
        if not torch.allclose(layer(changed)[:t], before[:t], atol=1e-6):
            return True
    return False
