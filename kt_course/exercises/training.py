"""Train and question the learner's model by the learner's own functions, in one call each."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from kt_core.datasets import batches
from kt_core.runs.progress import track
from kt_core.vocab import CharVocab


def schedule(steps: int, peak: float, warmup: int = 100) -> list[float]:
    """Return one learning rate per step: warm-up, `peak`, then a decay to 0 in the last 40 %."""
    warmup = min(warmup, max(1, steps // 10))
    return [peak * min(1, (n + 1) / warmup, (steps - n) / (0.4 * steps)) for n in range(steps)]


def fit(
    train: Callable,
    model: nn.Module,
    data,
    *,
    epochs: int,
    batch_size: int = 32,
    peak: float = 3e-3,
    seed: int = 0,
) -> list[float]:
    """Train a model by the learner's loop.

    Args:
        train: The learner's `train(model, batches, rates)`.
        model, data: As for `kt_core.Trainer`: any dataset that `kt_core.batches` takes.
        epochs, batch_size: How long, and how many examples per step.
        peak: The highest learning rate of the `schedule`.
        seed: Of the batches' order.

    Returns:
        The loss of every step.
    """
    steps = epochs * -(-len(data) // batch_size)
    device = next(model.parameters()).device
    in_order = (pair for epoch in range(epochs) for pair in batches(data, batch_size, seed, epoch))
    on_device = (tuple(tensor.to(device) for tensor in pair) for pair in in_order)
    return train(model, track(on_device, steps, "training"), schedule(steps, peak))


def answer_questions(
    greedy: Callable, model: nn.Module, vocab: CharVocab, questions: Sequence[str], max_new=30
) -> list[str]:
    """Answer questions one by one with the learner's `greedy`, up to ⁇; see `kt_core.answer`."""
    end = vocab.mask_id
    prompts = [[*vocab.encode(question), end] for question in questions]
    with torch.no_grad():
        return [vocab.decode(greedy(model, prompt, max_new, end)) for prompt in prompts]
