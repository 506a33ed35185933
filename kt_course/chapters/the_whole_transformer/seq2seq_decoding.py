"""From an encoder-decoder's probabilities to answers: greedy, sampled, beam search. For both kinds of model.

The source is read once; each step then gives the decoder all of the answer so far. Answers here are short: keys and
values of earlier steps are computed anew, which `decoding.generate` shows how to save.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from kt_core._typing import Float, Int, Tensor
from kt_core.decoding import pick
from kt_core.evaluation import Score, exact_match
from kt_core.runs.beam import Beam
from kt_course.chapters.the_whole_transformer.seq2seq_data import Pair, TokenVocab, Toy, padded

START, END = TokenVocab.start_id, TokenVocab.end_id


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
    """One answer a row: ids without ▶, up to and without ■ (or padding), `max_new` at most.

    Greedy at temperature 0, else drawn from softmax(logits / temperature) among the `top_k` likeliest; see
    `decoding.pick`. A row that has ended is left alone while others go on.
    """
    if temperature < 0:
        raise ValueError(f"temperature must be 0 (greedy) or above, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if max_new < 1:
        raise ValueError(f"max_new must be at least 1, not {max_new}")
    generator = torch.Generator().manual_seed(seed)
    memory = model.encode(source)
    inputs = torch.full((len(source), 1), START, device=source.device)
    going = torch.ones(len(source), dtype=torch.bool, device=source.device)
    for _ in range(max_new):
        logits = model.decode(inputs, memory)[:, -1]  # (B, V)
        chosen = pick(logits, temperature, top_k, generator)
        going = going & (chosen != END) & (chosen != 0)
        if not going.any():
            break
        inputs = torch.cat([inputs, torch.where(going, chosen, 0)[:, None]], dim=1)
    return [[i for i in row if i] for row in inputs[:, 1:].tolist()]


def beam_step(
    log_probabilities: Float[Tensor, "n V"], totals: Float[Tensor, " n"], width: int
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """The `width` best of all n x V ways to extend n beginnings by one token: (rows, tokens, totals), best first.

    `totals` are the beginnings' log-probabilities; an extension's is total + log-probability of its token. Fewer than
    `width` come out where there are fewer ways (Graves 2012, section 2.4.2; Sutskever et al. 2014, section 3.2).
    """
    every = totals[:, None] + log_probabilities  # (n, V)
    best, at = every.flatten().topk(min(width, every.numel()))
    return at // every.size(1), at % every.size(1), best


@torch.no_grad()
def beam_search(
    model: nn.Module, source: Int[Tensor, " S"], width: int = 4, max_new: int = 64
) -> list[Beam]:
    """The likeliest answers to one source that were found, best first, with their probabilities (■ included).

    Each step keeps the `width` best extensions of all beginnings; those that end in ■ are finished. Width 1 is
    greedy. An answer cut off at `max_new` has `ended` False. At most `width` are returned.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, not {width}")
    if max_new < 1:
        raise ValueError(f"max_new must be at least 1, not {max_new}")
    one = model.encode(source[None])
    inputs = torch.full((1, 1), START, device=source.device)
    totals = torch.zeros(1, dtype=torch.float64)
    found: list[Beam] = []
    for _ in range(max_new):
        memory = one.rows(torch.zeros(len(inputs), dtype=torch.long, device=source.device))
        logits = model.decode(inputs, memory)[:, -1].double()  # (n, V)
        logits[:, 0] = -math.inf  # padding is no answer
        rows, tokens, totals = beam_step(logits.log_softmax(-1).cpu(), totals, width)
        inputs = torch.cat(
            [inputs[rows.to(inputs.device)], tokens[:, None].to(inputs.device)], dim=1
        )
        ends = tokens == END
        for row, total in zip(inputs[ends].tolist(), totals[ends].tolist(), strict=True):
            found.append(Beam(tuple(row[1:-1]), math.exp(total), True))
        inputs, totals = inputs[~ends], totals[~ends]
        found = sorted(found, key=lambda beam: -beam.probability)[:width]
        if not len(inputs) or (
            len(found) == width and math.exp(totals.max()) <= found[-1].probability
        ):
            return found
    cut = [
        Beam(tuple(row[1:]), math.exp(total), False)
        for row, total in zip(inputs.tolist(), totals.tolist(), strict=True)
    ]
    return sorted([*found, *cut], key=lambda beam: -beam.probability)[:width]


def answers(
    model: nn.Module, toy: Toy, sources: Sequence[Sequence[str]], max_new: int = 64, **how
) -> list[str]:
    """Greedy answers to sources of tokens, as texts; `how` goes to `generate`."""
    device = next(model.parameters()).device
    ids = padded([toy.source_vocab.encode(source) for source in sources]).to(device)
    return [toy.text(toy.target_vocab.decode(row)) for row in generate(model, ids, max_new, **how)]


def exact_matches(model: nn.Module, toy: Toy, pairs: Sequence[Pair], max_new: int = 64) -> Score:
    """How many greedy answers are right from the first token to the last."""
    given = answers(model, toy, [pair.source for pair in pairs], max_new)
    return exact_match(given, [toy.text(pair.target) for pair in pairs])
