"""Beam search: the likeliest whole answers, with their probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_core.decoding import eval_mode, next_logits
from kt_core.kv_cache import KVCache
from kt_core.models import GPT
from kt_core.vocab import CharVocab

Text = tuple[tuple[int, ...], float]  # ids and log-probability


@dataclass(frozen=True)
class Beam:
    """A continuation: its ids, its probability, and whether the model ended it.

    The probability is that of all its characters and, where the model ended it, of the end. The
    others were cut off by the end of the block or of the search.
    """

    ids: tuple[int, ...]
    probability: float
    ended: bool


def beam_search(
    model: GPT,
    prompt: Sequence[int],
    width: int = 5,
    *,
    stop: Sequence[int] = (0, 1),
    max_new: int | None = None,
) -> list[Beam]:
    """Find likely continuations of `prompt`, by keeping the `width` best ones at every step.

    One place always belongs to the greedy continuation, so the best one found is never less likely
    than that of `generate`; width 1 is greedy.

    Args:
        stop: Ids that end a continuation; their probabilities count together.
        max_new: How many ids to add at most; the end of the block by default.

    Returns:
        At most `width` beams, the best first. They are different events, so their probabilities add
        up to at most 1.

    Source: Graves 2012, section 2.4.2; Sutskever et al. 2014, section 3.2.
    """
    block = model.config.block_size
    if width < 1:
        raise ValueError(f"width must be at least 1, not {width}")
    if not 1 <= len(prompt) <= block:
        raise ValueError(f"the prompt has {len(prompt)} characters; the model reads 1 to {block}")
    most = min(block - len(prompt) + 1, block if max_new is None else max_new)
    if most < 1:
        raise ValueError(f"max_new must be at least 1, not {max_new}")
    with eval_mode(model):
        ended, living = _search(model, list(prompt), width, sorted(set(stop)), most)
    beams = [Beam(ids, math.exp(p), True) for ids, p in ended]
    beams += [Beam(ids, math.exp(p), False) for ids, p in living]
    return sorted(beams, key=lambda beam: -beam.probability)[:width]


def _search(
    model: GPT, prompt: list[int], width: int, stops: list[int], most: int
) -> tuple[list[Text], list[Text]]:
    """The continuations that the model has ended, and those that still live after `most` steps."""
    cache = KVCache(model, 1)
    living: list[Text] = [((), 0.0)]  # the greedy one first
    ended: list[Text] = []
    greedy_lives = True
    for step in range(most):
        logits = next_logits(model, [[*prompt, *ids] for ids, _ in living], cache)
        choices, greedy = _choices(logits, [p for _, p in living], stops)
        end = choices.size(1) - 1  # the last column ends a continuation
        picks = _pick(choices, width, (0, greedy) if greedy_lives else None)
        greedy_lives = greedy_lives and picks[0][1] != end
        ended += [(living[row][0], float(choices[row, end])) for row, i in picks if i == end]
        ended = sorted(ended, key=lambda text: -text[1])[:width]
        going = [(row, i) for row, i in picks if i != end]
        living = [((*living[row][0], i), float(choices[row, i])) for row, i in going]
        if not living or step + 1 == most:
            break
        if len(ended) == width and not greedy_lives:
            if max(p for _, p in living) <= ended[-1][1]:
                return ended, []  # longer ones can only be less likely
        cache.keep_rows(torch.tensor([row for row, _ in going], device=logits.device))
    return ended, living


def _choices(logits: Tensor, before: list[float], stops: list[int]) -> tuple[Tensor, int]:
    """Log-probabilities (n, V + 1) of all next steps, an end last; and the greedy step."""
    steps = logits.double().log_softmax(-1).cpu()  # (n, V)
    greedy = int(steps[0].argmax())
    ends = steps[:, stops].logsumexp(-1, keepdim=True)
    steps[:, stops] = float("-inf")
    sums = torch.tensor(before, dtype=torch.float64)[:, None]
    return sums + torch.cat([steps, ends], dim=1), steps.size(1) if greedy in stops else greedy


def _pick(choices: Tensor, width: int, first: tuple[int, int] | None) -> list[tuple[int, int]]:
    """The `width` best (row, column) of `choices`, with `first` always among them."""
    picks = [first] if first else []
    for i in choices.flatten().topk(min(width, choices.numel())).indices.tolist():
        pick = divmod(i, choices.size(1))
        if len(picks) < width and pick not in picks and choices[pick].isfinite():
            picks.append(pick)
    return picks


def top_answers(
    model: GPT, vocab: CharVocab, question: str, width: int = 5, *, max_new: int | None = 40
) -> list[tuple[str, float]]:
    """Find the likeliest answers to "question ⁇", best first, with their probabilities.

    Raises:
        ValueError: The question is empty, does not fit the block, or has an unknown character.
    """
    if not question:
        raise ValueError("the question is empty")
    prompt, block = [*vocab.encode(question), vocab.mask_id], model.config.block_size
    if len(prompt) > block:
        raise ValueError(f"the question takes {len(prompt)} characters; the model reads {block}")
    beams = beam_search(model, prompt, width, max_new=max_new)
    return [(vocab.decode(beam.ids), beam.probability) for beam in beams]
