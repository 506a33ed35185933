"""Recognising a mistake by its result: formulas with one mistake built in, for the checks of several notebooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from kt_core.attention import MultiHeadAttention
from kt_course.exercises.core import Wrong, close, fresh

MULTI_HEAD = {
    "heads": "heads and time are swapped: view as (B, T, nh, hs), then transpose(1, 2); view(B, nh, T, hs) mixes",
    "merge": "the heads are merged wrongly: transpose (B, nh, T, hs) back to (B, T, nh, hs) before flattening",
    "one head": "it works as one head of C channels: split them into layer.n_head heads",
    "no scale": "missing 1/sqrt(hs): the scores are not divided by the root of ONE head's size",
    "scale C": "the scores are divided by the root of n_embd: it is the root of ONE head's size, hs",
    "axis": "softmax over the wrong axis: the weights of one query, a row, have to sum to 1 (dim=-1)",
    "proj": "the last linear map, layer.proj, is missing",
}


def numbers(*shape: int, seed: int | None = None) -> Tensor:
    """Normal numbers in float64, from a fresh generator if there is no seed."""
    generator = fresh() if seed is None else torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def randomised(module: nn.Module, seed: int | None = None) -> nn.Module:
    """`module` in eval mode and float64, every weight drawn anew, from a fresh generator if there is no seed."""
    generator = fresh() if seed is None else torch.Generator().manual_seed(seed)
    for p in module.double().parameters():
        p.data = 0.6 * torch.randn(p.shape, generator=generator, dtype=torch.double)
    return module.eval()


def recognise(
    got: Tensor,
    expected: Tensor,
    slipped: Callable[[str], Tensor],
    slips: Mapping[str, str],
    what: str,
) -> None:
    """Nothing if `got` is as expected. Else Wrong: slips[s] if it is what slipped(s) gives, or how far off it is."""
    if close(got, expected):
        return
    for slip, told in slips.items():
        other = slipped(slip)
        if other.shape == got.shape and close(got, other):
            raise Wrong(told)
    if not got.isfinite().all():
        raise Wrong(f"{what} holds entries that are no numbers: a softmax row of -inf alone is 0/0")
    raise Wrong(f"{what} differs from the formula's by up to {(got - expected).abs().max():.2g}")


def attention_with(
    layer: MultiHeadAttention,
    x: Tensor,
    source: Tensor,
    mask: Tensor | None = None,
    slip: str = "",
    turn: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Tensor:
    """Multi-head attention by the formula, with a mistake of MULTI_HEAD built in, or with a side mixed up.

    `turn`: what is done to queries, keys and values, (B, nh, T, hs) each, before the scores.
    """
    (B, T, C), nh = x.shape, 1 if slip == "one head" else layer.n_head
    hs = C // nh

    def heads(y: Tensor) -> Tensor:
        if slip == "heads":
            return y.reshape(B, nh, -1, hs)
        return y.unflatten(-1, (nh, hs)).transpose(1, 2)  # (B, nh, T, hs)

    q = heads(layer.query(source if slip == "swapped" else x))
    k = heads(layer.key(x if slip in ("swapped", "keys", "self") else source))
    v = heads(layer.value(x if slip in ("swapped", "values", "self") else source))
    q, k, v = turn(q, k, v) if turn else (q, k, v)
    scores = q @ k.mT / {"no scale": 1.0, "scale C": C**0.5}.get(slip, hs**0.5)
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-2 if slip == "axis" else -1)
    y = weights.masked_fill(~allowed, 0.0) @ v  # (B, nh, T, hs)
    y = y.reshape(B, T, C) if slip == "merge" else y.transpose(1, 2).flatten(2)
    return y if slip == "proj" else layer.proj(y)
