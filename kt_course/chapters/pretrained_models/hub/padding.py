"""Texts of different lengths in one batch, padded on either side: put them where a model trained from the left finds them."""

from __future__ import annotations

from kt_core._typing import Int, Tensor


def left_aligned(
    idx: Int[Tensor, "B T"], mask: Int[Tensor, "B T"]
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """(packed, back): each row's real tokens first, in their order, its padding behind them.

    `mask` is 1 at a token, 0 at padding. `generate` pads on the left, so that the last column is every row's newest
    token; a model that counts positions from the row's beginning needs them on the right. Being causal, it reads
    nothing of what stands behind. Token t of `idx` is at `back[b, t]` of `packed`, so that
    `packed.gather(1, back)` is `idx` again, and the same gather brings back the logits.
    """
    order = (
        (mask == 0).long().argsort(dim=1, stable=True)
    )  # (B, T): tokens, then padding, each in their order
    return idx.gather(1, order), order.argsort(dim=1)
