"""Texts of different lengths in one batch, padded on either side: move the padding to the right."""

from kt_course._typing import Int, Tensor


def left_aligned(
    idx: Int[Tensor, "B T"], mask: Int[Tensor, "B T"]
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Put each row's tokens first, in their order, and its padding after them.

    `generate` pads on the left, so that the last column is every row's newest token. A model that
    counts positions from the row's beginning needs the tokens there. Being causal, it reads nothing
    of what follows.

    Args:
        mask: 1 at a token, 0 at padding.

    Returns:
        packed and back. Token t of `idx` is at `back[b, t]` of `packed`: `packed.gather(1, back)`
        is `idx` again, and the same gather moves logits back.
    """
    order = (mask == 0).long().argsort(dim=1, stable=True)  # (B, T): tokens, then padding
    return idx.gather(1, order), order.argsort(dim=1)
