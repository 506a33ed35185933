"""Multi-head attention with one mistake built in, for the checks of several chapters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kt_core.attention import MultiHeadAttention

MULTI_HEAD = {
    "heads": "heads and time are swapped: view as (B, T, nh, hs), then transpose(1, 2); "
    "view(B, nh, T, hs) mixes",
    "merge": "the heads are merged wrongly: transpose (B, nh, T, hs) back to (B, T, nh, hs) "
    "before flattening",
    "one head": "it works as one head of C channels: split them into layer.n_head heads",
    "no scale": "missing 1/sqrt(hs): the scores are not divided by the root of ONE head's size",
    "scale C": "the scores are divided by the root of n_embd: it is the root of ONE head's size, "
    "hs",
    "axis": "softmax over the wrong axis: the weights of one query, a row, have to sum to 1 "
    "(dim=-1)",
    "proj": "the last linear map, layer.proj, is missing",
}


def attention_with_mistake(
    layer: MultiHeadAttention,
    x: Tensor,
    source: Tensor,
    mask: Tensor | None = None,
    mistake: str = "",
    transform: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Tensor:
    """Compute multi-head attention by the formula, with one mistake built in.

    Args:
        layer: Supplies the weights and n_head.
        x, source: Queries come from x, (B, T, C), keys and values from source, (B, S, C).
        mask: True where attention is allowed.
        mistake: A key of MULTI_HEAD; "swapped", "keys", "values" or "self" (x and source are
            mixed up); or "" for none.
        transform: Applied to queries, keys and values, (B, nh, T, hs) each, before the scores.

    Returns:
        The output, (B, T, C).
    """
    (B, T, C), n_head = x.shape, 1 if mistake == "one head" else layer.n_head
    head_dim = C // n_head

    def split_heads(y: Tensor) -> Tensor:
        if mistake == "heads":
            return y.reshape(B, n_head, -1, head_dim)
        return y.unflatten(-1, (n_head, head_dim)).transpose(1, 2)  # (B, nh, T, hs)

    q = split_heads(layer.query(source if mistake == "swapped" else x))
    k = split_heads(layer.key(x if mistake in ("swapped", "keys", "self") else source))
    v = split_heads(layer.value(x if mistake in ("swapped", "values", "self") else source))
    q, k, v = transform(q, k, v) if transform else (q, k, v)
    scores = q @ k.mT / {"no scale": 1.0, "scale C": C**0.5}.get(mistake, head_dim**0.5)
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    scores = scores.masked_fill(~allowed, float("-inf"))
    weights = scores.softmax(-2 if mistake == "axis" else -1)
    y = weights.masked_fill(~allowed, 0.0) @ v  # (B, nh, T, hs)
    y = y.reshape(B, T, C) if mistake == "merge" else y.transpose(1, 2).flatten(2)
    return y if mistake == "proj" else layer.proj(y)
