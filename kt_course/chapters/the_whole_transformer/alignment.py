"""Hold cross-attention against the alignment that a toy task knows."""

from collections.abc import Sequence

import torch
from torch import nn

from kt_core.attention import MultiHeadAttention
from kt_core.evaluation import Score
from kt_core.runs.attention_maps import record_attention
from kt_course._typing import Float, Tensor
from kt_course.chapters.the_whole_transformer.seq2seq_data import Pair, Toy
from kt_course.chapters.the_whole_transformer.solutions import teacher_forcing


def known_alignment(pair: Pair) -> Float[Tensor, "T S"]:
    """Share each row's weight among the source positions that the target token is made of."""
    table = torch.zeros(len(pair.target), len(pair.source))
    for row, positions in zip(table, pair.alignment, strict=True):
        row[list(positions)] = 1 / max(len(positions), 1)
    return table


@torch.no_grad()
def cross_maps(model: nn.Module, toy: Toy, pairs: Sequence[Pair]) -> list[Float[Tensor, "B T S"]]:
    """Record each decoder block's cross-attention under teacher forcing, mean over the heads."""
    device = next(model.parameters()).device
    source, target = (ids.to(device) for ids in toy.tensors(pairs))
    with record_attention(model) as maps:
        model.decode(teacher_forcing(target)[0], model.encode(source))
    layers = [n for n, module in model.named_modules() if isinstance(module, MultiHeadAttention)]
    cross = [maps[i] for i, name in enumerate(layers) if name.endswith("cross_attn")]
    return [weights.mean(dim=1).cpu() for weights in cross]


def pointing_score(weights: Float[Tensor, "B T S"], pairs: Sequence[Pair]) -> Score:
    """Count target tokens whose largest weight is on a source token that they are made of.

    Tokens that are made of no source token, such as the dashes of a date, are left out.
    """
    matches = [
        int(weights[b, t].argmax()) in positions
        for b, pair in enumerate(pairs)
        for t, positions in enumerate(pair.alignment)
        if positions
    ]
    return Score(sum(matches), len(matches))
