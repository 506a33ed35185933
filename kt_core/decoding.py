"""Questions to answers: all of them at once, each character's keys and values computed once (KV cache)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kt_core._typing import Float, Int, Tensor
from kt_core.models import GPT
from kt_core.vocab import CharVocab


def pick(
    logits: Float[Tensor, "B V"],
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
) -> Int[Tensor, " B"]:
    """Next character a row: the likeliest at temperature 0, else drawn from softmax(logits / temperature).

    `top_k` keeps the k likeliest before drawing (Fan et al. 2018, section 5.4).
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    if top_k is not None:
        smallest = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    probabilities = (logits.float() / temperature).softmax(dim=-1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)


@torch.no_grad()
def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Sequence[int] = (0, 1),
    max_new: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    use_cache: bool = True,
) -> list[list[int]]:
    """Continue each prompt (a list of ids) until an id in `stop`, `max_new` new ids or the block's end.

    Prompts of different lengths share one batch: they are padded on the right, and every row writes its next
    character at its own position. Returns the new ids a row, without the one that stopped it. Raises ValueError
    for an empty prompt or one longer than the block. `use_cache=False` recomputes everything each step.
    """
    if not model.config.causal:
        raise ValueError(
            "an encoder (causal=False) foretells no next character: kt_course.chapters.masked_language_models.masked.fill fills its masks"
        )
    if temperature < 0:
        raise ValueError(f"temperature must be 0 (greedy) or above, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if not prompts:
        return []
    block = model.config.block_size
    lengths = [len(p) for p in prompts]
    for i, n in enumerate(lengths):
        if not 1 <= n <= block:
            raise ValueError(f"prompt {i} has {n} characters; the model reads 1 to {block}")
    device = model.head.weight.device
    generator = torch.Generator().manual_seed(seed)
    limit = block if max_new is None else max_new
    was_training = model.training
    model.eval()
    try:
        idx = torch.zeros(len(prompts), max(lengths), dtype=torch.long, device=device)
        for row, prompt in enumerate(prompts):
            idx[row, : len(prompt)] = torch.tensor(prompt)
        end = torch.tensor(lengths, device=device)  # (B,) where each row's next character goes
        rows = torch.arange(len(prompts), device=device)
        kept = (
            rows  # rows that the model still computes: those that go on, and some that ended lately
        )
        if use_cache:
            logits, cache = model.start_cache(idx)
            logits = logits[rows, end - 1]  # (B, V)
        else:
            logits = model(idx)[0][rows, end - 1]
        stops = torch.tensor(list(stop), dtype=torch.long, device=device)
        going = torch.ones(len(prompts), dtype=torch.bool, device=device)
        new: list[list[int]] = [[] for _ in prompts]
        for n in range(limit):
            chosen = pick(logits, temperature, top_k, generator)
            going = going & ~torch.isin(chosen, stops)
            for row in going.nonzero()[:, 0].tolist():
                new[row].append(int(chosen[row]))
            going = going & (end < block)  # a full row keeps its last character and stops
            if n + 1 == limit or not going.any():
                break
            at = end.clamp(max=block - 1)
            if use_cache:
                on = going[kept]
                if 4 * int(on.sum()) <= 3 * len(kept):
                    kept = kept[on]
                    cache.keep(on.nonzero()[:, 0])
                logits[kept] = model.step(chosen[kept], at[kept], cache)
            else:
                if int(at.max()) >= idx.size(1):
                    idx = torch.nn.functional.pad(idx, (0, 1))
                idx[rows, at] = chosen
                logits = model(idx)[0][rows, at]
            end = end + 1
        return new
    finally:
        model.train(was_training)


def answer(
    model: GPT,
    vocab: CharVocab,
    questions: Sequence[str],
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    max_new: int | None = None,
    batch_size: int = 128,
    use_cache: bool = True,
) -> list[str]:
    """What the model says after "question ⁇", a string each; greedy at temperature 0, else sampled.

    An answer ends at ⁇, at □ or at the block's end. The assignment's format opens the answer with ⁇, so the prompt
    holds it already. Raises ValueError, naming the question, for one that does not fit the block.
    """
    prompts = [[*vocab.encode(q), vocab.mask_id] for q in questions]
    for question, prompt in zip(questions, prompts, strict=True):
        if len(prompt) > model.config.block_size:
            raise ValueError(
                f"the question {question!r} takes {len(prompt)} characters; the model reads {model.config.block_size}"
            )
    # prompts of like length share a batch: little padding
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        new = generate(
            model,
            [prompts[i] for i in batch],
            temperature=temperature,
            top_k=top_k,
            seed=seed + first,
            max_new=max_new,
            use_cache=use_cache,
        )
        for i, ids in zip(batch, new, strict=True):
            answers[i] = vocab.decode(ids)
    return answers
