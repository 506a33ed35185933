"""Beam search: not the likeliest next character, but the likeliest whole answers, with their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kt_core.decoding import next_logits
from kt_core.kv_cache import KVCache
from kt_core.models import GPT
from kt_core.vocab import CharVocab


@dataclass(frozen=True)
class Beam:
    """A continuation: its ids, its probability, and whether the model ended it (or the block's end cut it off).

    The probability is that of all its characters and, where the model ended it, of the end.
    """

    ids: tuple[int, ...]
    probability: float
    ended: bool


@torch.no_grad()
def beam_search(
    model: GPT,
    prompt: Sequence[int],
    width: int = 5,
    *,
    stop: Sequence[int] = (0, 1),
    max_new: int | None = None,
) -> list[Beam]:
    """The `width` likeliest continuations of `prompt` that were found, best first.

    Each step extends every continuation by every character and keeps the `width` best (Graves 2012, section 2.4.2;
    Sutskever et al. 2014, section 3.2). One place of them always belongs to the greedy continuation, so that the best
    one found is never less likely than what `generate` gives; `width` 1 is greedy. A continuation ends at any of the
    ids in `stop`, whose probabilities count together, at `max_new` new ids or at the block's end, as in `generate`.
    The events are disjoint: the probabilities sum to 1 at most. ValueError for an empty or too long prompt.
    """
    block = model.config.block_size
    if width < 1:
        raise ValueError(f"width must be at least 1, not {width}")
    if not 1 <= len(prompt) <= block:
        raise ValueError(f"the prompt has {len(prompt)} characters; the model reads 1 to {block}")
    most = min(block - len(prompt) + 1, block if max_new is None else max_new)
    if most < 1:
        raise ValueError(f"max_new must be at least 1, not {max_new}")
    device = model.head.weight.device
    stops = torch.tensor(sorted(set(stop)), dtype=torch.long)
    was_training = model.training
    model.eval()
    try:
        cache = KVCache(model, 1)
        logits = next_logits(model, [list(prompt)], cache)  # (n, V), one row a living continuation
        living: list[tuple[tuple[int, ...], float]] = [
            ((), 0.0)
        ]  # ids and log-probability, the greedy one first
        found: list[tuple[tuple[int, ...], float]] = []  # the same, of those that the model ended
        greedy_lives = True
        for n in range(most):
            steps = logits.double().log_softmax(-1).cpu()  # (n, V)
            V, likeliest = steps.size(1), int(steps[0].argmax())  # what greedy decoding takes
            ends = steps[:, stops].logsumexp(-1, keepdim=True)
            steps[:, stops] = float("-inf")
            before = torch.tensor([p for _, p in living], dtype=torch.float64)[:, None]
            choices = before + torch.cat([steps, ends], dim=1)  # (n, V + 1), the last column ends
            chosen = [(0, V if likeliest in stop else likeliest)] if greedy_lives else []
            for i in choices.flatten().topk(min(width, choices.numel())).indices.tolist():
                row, column = divmod(i, V + 1)
                if (
                    len(chosen) < width
                    and (row, column) not in chosen
                    and choices[row, column].isfinite()
                ):
                    chosen.append((row, column))
            greedy_lives = greedy_lives and chosen[0][1] != V
            found += [
                (living[row][0], float(choices[row, V])) for row, column in chosen if column == V
            ]
            found = sorted(found, key=lambda one: -one[1])[:width]
            on = [(row, column) for row, column in chosen if column != V]
            living = [
                ((*living[row][0], column), float(choices[row, column])) for row, column in on
            ]
            if not living or n + 1 == most:
                break
            if (
                len(found) == width
                and not greedy_lives
                and max(p for _, p in living) <= found[-1][1]
            ):
                living = []  # longer can only be less likely
                break
            cache.keep_rows(torch.tensor([row for row, _ in on], device=device))
            logits = next_logits(model, [[*prompt, *ids] for ids, _ in living], cache)
        beams = [Beam(ids, math.exp(p), True) for ids, p in found]
        beams += [Beam(ids, math.exp(p), False) for ids, p in living]
        return sorted(beams, key=lambda beam: -beam.probability)[:width]
    finally:
        model.train(was_training)


def top_answers(
    model: GPT, vocab: CharVocab, question: str, width: int = 5, *, max_new: int | None = 40
) -> list[tuple[str, float]]:
    """The likeliest answers to "question ⁇" with their probabilities, best first; see `beam_search`.

    Raises ValueError for a question that is empty, does not fit the block or has characters that the vocabulary lacks.
    """
    if not question:
        raise ValueError("the question is empty")
    prompt = [*vocab.encode(question), vocab.mask_id]
    if len(prompt) > model.config.block_size:
        raise ValueError(
            f"the question takes {len(prompt)} characters; the model reads {model.config.block_size}"
        )
    return [
        (vocab.decode(beam.ids), beam.probability)
        for beam in beam_search(model, prompt, width, max_new=max_new)
    ]
