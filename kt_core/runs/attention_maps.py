"""Record the attention weights of a model's forward passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn

from kt_core.attention import MultiHeadAttention, attend


@contextmanager
def record_attention(model: nn.Module) -> Iterator[list]:
    """Yield a list that receives each layer's attention weights, (B, n_head, T_query, T_key).

    They are those of the latest forward pass in the block, before dropout and detached, and stay
    in the list afterwards. ValueError for a model without `MultiHeadAttention`.
    """
    layers = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    if not layers:
        name = type(model).__name__
        raise ValueError(f"{name} has no MultiHeadAttention: load its weights into a kt_core.GPT")
    maps, originals = [None] * len(layers), [layer.attend for layer in layers]

    def attend_and_record(i: int, *inputs):
        context, weights = attend(*inputs)
        maps[i] = weights.detach()
        return context, weights

    for i, layer in enumerate(layers):
        layer.attend = partial(attend_and_record, i)
    try:
        yield maps
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.attend = original
