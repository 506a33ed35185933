"""From an encoder-decoder's probabilities to answers: greedy, sampled, beam search.

The source is encoded once; each step then decodes all of the answer so far. Answers here are short,
so nothing is cached: `kt_core.decoding` shows how a cache of keys and values saves that work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from kt_core.decoding import pick_next
from kt_core.evaluation import Score, exact_match
from kt_course._typing import Float, Int, Tensor
from kt_course.chapters.the_whole_transformer.seq2seq_data import Pair, TokenVocab, Toy, pad_rows

START, END = TokenVocab.start_id, TokenVocab.end_id


@dataclass(frozen=True)
class Beam:
    """An answer that beam search found: ids, probability, and whether it ended before the limit."""

    ids: tuple[int, ...]
    probability: float
    ended: bool


def _check_at_least_1(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


@torch.no_grad()
def generate(
    model: nn.Module,
    source: Int[Tensor, "B S"],
    max_new: int = 64,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Write one answer per row: ids without ▶, up to and without ■, at most `max_new`.

    Greedy at temperature 0. Otherwise tokens are drawn from softmax(logits / temperature) among the
    `top_k` most likely ones. A finished row stays as it is while others continue.
    """
    if temperature < 0:
        raise ValueError(f"temperature must be 0 (greedy) or above, not {temperature}")
    _check_at_least_1(top_k=top_k, max_new=max_new)
    generator = torch.Generator().manual_seed(seed)
    memory = model.encode(source)
    inputs = torch.full((len(source), 1), START, device=source.device)
    active = torch.ones(len(source), dtype=torch.bool, device=source.device)
    for _ in range(max_new):
        logits = model.decode(inputs, memory)[:, -1]  # (B, V)
        tokens = pick_next(logits, temperature, top_k, generator)
        active = active & (tokens != END) & (tokens != 0)
        if not active.any():
            break
        inputs = torch.cat([inputs, torch.where(active, tokens, 0)[:, None]], dim=1)
    return [[i for i in row if i] for row in inputs[:, 1:].tolist()]


def beam_step(
    log_probabilities: Float[Tensor, "n V"], totals: Float[Tensor, " n"], width: int
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """Find the `width` best of all n x V ways to extend n beginnings by one token.

    Args:
        log_probabilities: Of each token, after each beginning.
        totals: Log-probabilities of the beginnings; an extension adds its token's.

    Returns:
        rows, tokens and totals of the extensions, best first; fewer than `width` if n x V is less.

    Source: Graves 2012, section 2.4.2; Sutskever et al. 2014, section 3.2.
    """
    extended = totals[:, None] + log_probabilities  # (n, V)
    best, index = extended.flatten().topk(min(width, extended.numel()))
    return index // extended.size(1), index % extended.size(1), best


@torch.no_grad()
def beam_search(
    model: nn.Module, source: Int[Tensor, " S"], width: int = 4, max_new: int = 64
) -> list[Beam]:
    """Find likely answers to one source, best first, with their probabilities (■ included).

    Each step keeps the `width` best extensions of all beginnings; those that end in ■ are finished.
    Width 1 is greedy. An answer cut off at `max_new` has `ended` False.
    """
    _check_at_least_1(width=width, max_new=max_new)
    memory = model.encode(source[None])
    inputs = torch.full((1, 1), START, device=source.device)
    totals = torch.zeros(1, dtype=torch.float64)
    finished: list[Beam] = []
    for _ in range(max_new):
        shared = memory.rows(torch.zeros(len(inputs), dtype=torch.long, device=source.device))
        logits = model.decode(inputs, shared)[:, -1].double()  # (n, V)
        logits[:, 0] = -math.inf  # padding is no answer
        rows, tokens, totals = beam_step(logits.log_softmax(-1).cpu(), totals, width)
        rows, new = rows.to(inputs.device), tokens[:, None].to(inputs.device)
        inputs = torch.cat([inputs[rows], new], dim=1)
        ends = tokens == END
        finished += _beams(inputs[ends, 1:-1], totals[ends], ended=True)
        inputs, totals = inputs[~ends], totals[~ends]
        finished = sorted(finished, key=lambda beam: -beam.probability)[:width]
        full = len(finished) == width
        if not len(inputs) or full and math.exp(totals.max()) <= finished[-1].probability:
            return finished
    cut_off = _beams(inputs[:, 1:], totals, ended=False)
    return sorted([*finished, *cut_off], key=lambda beam: -beam.probability)[:width]


def _beams(ids: Tensor, totals: Tensor, ended: bool) -> list[Beam]:
    rows = zip(ids.tolist(), totals.tolist(), strict=True)
    return [Beam(tuple(row), math.exp(total), ended) for row, total in rows]


def answers(
    model: nn.Module, toy: Toy, sources: Sequence[Sequence[str]], max_new: int = 64, **options
) -> list[str]:
    """Answer sources of tokens with texts, greedily; `options` go to `generate`."""
    device = next(model.parameters()).device
    ids = pad_rows([toy.source_vocab.encode(source) for source in sources]).to(device)
    rows = generate(model, ids, max_new, **options)
    return [toy.text(toy.target_vocab.decode(row)) for row in rows]


def exact_matches(model: nn.Module, toy: Toy, pairs: Sequence[Pair], max_new: int = 64) -> Score:
    """Count the greedy answers that are correct from the first token to the last."""
    texts = answers(model, toy, [pair.source for pair in pairs], max_new)
    return exact_match(texts, [toy.text(pair.target) for pair in pairs])
