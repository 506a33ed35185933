"""From questions to answers: many at once, each character's keys and values computed once."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.utils.rnn import pad_sequence

from kt_core.kv_cache import KVCache
from kt_core.models import GPT
from kt_core.vocab import CharVocab


def pick_next(logits, temperature: float = 0.0, top_k: int | None = None, generator=None):
    """Pick the next character of each row of the logits (B, V); returns ids, (B,).

    At temperature 0 it is the likeliest one. Otherwise it is drawn from softmax(logits /
    temperature), among the `top_k` likeliest where given (Fan et al. 2018, section 5.4).
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    if top_k is not None:
        smallest = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    probabilities = (logits.float() / temperature).softmax(dim=-1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)


def next_logits(model: GPT, texts: Sequence[Sequence[int]], cache: KVCache | None = None):
    """Compute the logits of the character after each text (a list of ids), (B, V).

    With a cache that has read the prompts, only the last character of each text is read.
    """
    device = next(model.parameters()).device
    last = torch.tensor([len(text) - 1 for text in texts], device=device)
    if cache is not None and cache.prompts_are_read:
        idx = torch.tensor([text[-1:] for text in texts], device=device)  # (B, 1)
        return model.head(model.hidden(idx, last[:, None], cache)[:, 0])
    idx = pad_sequence([torch.tensor(text, device=device) for text in texts], batch_first=True)
    rows = torch.arange(len(texts), device=device)
    if cache is None:  # works for any model that returns (logits, loss)
        return model(idx)[0][rows, last]
    start = read_shared_start(model, idx[:, : last.min()], cache)
    positions = torch.arange(start, idx.size(1), device=device)[None]  # (1, T - start)
    cache.inputs.prompt_ends = ends = last - start  # for `runs.fast_paths`; blocks ignore it
    hidden = model.hidden(idx[:, start:], positions, cache)  # (B, T - start, C)
    cache.inputs.prompt_ends, cache.prompts_are_read = None, True
    return model.head(hidden[rows, ends])


def read_shared_start(model: GPT, idx, cache: KVCache) -> int:
    """Read the characters with which all rows of `idx` begin once for all; return how many."""
    n = int((idx == idx[0]).all(dim=0).cumprod(dim=0).sum())
    if not n or len(idx) == 1 or model.config.has_latents:  # latents are computed all at once
        return 0
    cache.keep_rows([0])
    model.hidden(idx[:1, :n], cache=cache)
    cache.keep_rows([0] * len(idx))
    return n


@contextmanager
def eval_mode(model: GPT) -> Iterator[torch.device]:
    """Switch dropout and gradients off within the block; yields the model's device."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        model.train(was_training)


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Sequence[int] = (0, 1),
    max_new: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int | Sequence[int] = 0,
    use_cache: bool = True,
) -> list[list[int]]:
    """Continue each prompt until an id in `stop`, `max_new` new ids or the end of the block.

    Args:
        model: A causal GPT, or a model with the same `config` and call, then without a cache.
        prompts: Lists of ids, each of a length of its own.
        temperature, top_k: See `pick_next`.
        seed: Of the draws, or one seed per prompt.
        use_cache: False computes everything again in each step.

    Returns:
        The new ids of each row, without the one that stopped it.
    """
    check_request(model, prompts, temperature, top_k)
    seeds = row_seeds(seed, range(len(prompts))) if isinstance(seed, int) else seed
    generators = [torch.Generator().manual_seed(s) for s in seeds] if temperature else []

    def pick(logits, batch: list[int]) -> list[int]:
        if not temperature:
            return pick_next(logits).tolist()
        rows = zip(logits.split(1), batch, strict=True)  # each text has its own draws
        return [int(pick_next(row, temperature, top_k, generators[i])) for row, i in rows]

    cache = KVCache(model, len(prompts)) if use_cache and isinstance(model, GPT) else None
    max_new = model.config.block_size if max_new is None else max_new
    with eval_mode(model):
        return continue_texts(model, prompts, pick, set(stop), max_new, cache)


def row_seeds(seed: int, rows: Sequence[int]) -> list[int]:
    """Derive a seed for each row, so that what is drawn does not depend on the batch."""
    return [random.Random(f"{seed} {row}").getrandbits(63) for row in rows]


def check_request(model: GPT, prompts: Sequence, temperature: float, top_k: int | None) -> None:
    """Raise ValueError for what cannot be generated, naming the prompt or the setting."""
    if not model.config.causal:
        raise ValueError("an encoder (causal=False) predicts masked characters, not the next one")
    if temperature < 0:
        raise ValueError(f"temperature must be 0 (greedy) or above, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    for i, n in enumerate(map(len, prompts)):
        if not 1 <= n <= (most := model.config.block_size):
            raise ValueError(f"prompt {i} has {n} characters; the model reads 1 to {most}")


def continue_texts(model: GPT, prompts: Sequence, pick, stop: set[int], max_new: int, cache):
    """Add the character that `pick(logits, batch)` returns to each text until all have ended."""
    block, texts = model.config.block_size, [list(prompt) for prompt in prompts]
    running = set(range(len(texts)))
    batch = list(running)  # the texts that are computed; some of them may have ended already
    for _ in range(max_new):
        if not running:
            break
        # a text may have block + 1 characters: the last one is predicted, but never read
        logits = next_logits(model, [texts[i][:block] for i in batch], cache)
        for i, next_id in zip(batch, pick(logits, batch), strict=True):
            if i in running and next_id not in stop:
                texts[i].append(next_id)
            if next_id in stop or len(texts[i]) > block:
                running.discard(i)
        if 4 * len(running) <= 3 * len(batch):  # few enough to be worth a smaller batch
            rows = [row for row, i in enumerate(batch) if i in running]
            batch = [batch[row] for row in rows]
            if cache is not None:
                cache.keep_rows(rows)
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def answer(
    model: GPT,
    vocab: CharVocab,
    questions: Sequence[str],
    *,
    batch_size: int = 96,
    seed: int = 0,
    **settings,
) -> list[str]:
    """Answer questions: what the model generates after "question ⁇", up to ⁇, □ or the block's end.

    Answers do not depend on the batch size. `settings` are those of `generate`. ValueError names a
    question that does not fit the block.
    """
    prompts = [[*vocab.encode(question), vocab.mask_id] for question in questions]
    for question, prompt in zip(questions, prompts, strict=True):
        if len(prompt) > (most := model.config.block_size):
            problem = f"has {len(prompt)} characters; the model reads {most}"
            raise ValueError(f"the question {question!r} {problem}")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # so that padding is small
    answers = [""] * len(prompts)
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        seeds = row_seeds(seed, batch)
        new_ids = generate(model, [prompts[i] for i in batch], seed=seeds, **settings)
        for i, ids in zip(batch, new_ids, strict=True):
            answers[i] = vocab.decode(ids)
    return answers
