"""Exercises of "Ways of finetuning": what each answer is run on. The texts: exercises.toml."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_core.models import GPT, GPTConfig
from kt_course.chapters.finetuning_techniques import solutions
from kt_course.exercises.assertions import Wrong, any_tensor, describe
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import integers, numbers, randomise

CHAPTER = Comparison(solutions, "12_finetuning_techniques")


def small_body(seed: int, n_layer: int = 3) -> GPT:
    """Return a body with random weights, in float64: 2 heads, 8 channels, 11 characters."""
    config = GPTConfig(11, 9, n_layer, 2, 8, "rope", dropout=0.0)
    return randomise(GPT(config), seed).double()


def padded_ids(seed: int) -> Tensor:
    """Return ids (3, 6) of texts of different lengths, padded with 0."""
    ids = integers(1, 10, 3, 6, seed=seed)
    for row, n in enumerate((4 if seed == 0 else 1 + seed % 5, 6, 2)):
        ids[row, n:] = 0
    return ids


# ---------------------------------------------------------------- heads


def head_results(model: Any, ids: Tensor, targets: Tensor, size: int, seed: int) -> Results:
    """Run a head with and without targets; Wrong unless it has `body` and `head`."""
    if not isinstance(getattr(model, "body", None), GPT):
        raise Wrong("keep the body as self.body")
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Linear) or head.weight.shape != (size, 8):
        raise Wrong(f"self.head should be nn.Linear(8, {size}) here, not {describe(head)}")
    randomise(head, seed + 5)
    model.body.zero_grad()
    outputs = model(ids, targets), model(ids)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in outputs):
        raise Wrong("forward should return two things: (logits, loss)")
    (logits, loss), (alone, nothing) = outputs
    results = {
        "logits": any_tensor(logits, "logits").clamp(min=-1e4),
        "the loss": any_tensor(loss, "the loss"),
        "logits without targets": any_tensor(alone, "logits").clamp(min=-1e4),
        "the loss without targets": str(nothing),
    }
    if loss.requires_grad:
        loss.backward()
    grad = model.body.tok_emb.weight.grad
    return results | {"the body's gradient": torch.zeros(11, 8) if grad is None else grad}


@CHAPTER.exercise("classifier")
def classifier_of(answer: Callable, seed: int) -> Results:
    targets = torch.tensor([2, 0, 1])
    return head_results(answer(small_body(seed), 3), padded_ids(seed), targets, 3, seed)


@CHAPTER.exercise("tagger")
def tagger_of(answer: Callable, seed: int) -> Results:
    ids = padded_ids(seed)
    targets = torch.where((ids == 0) | (ids % 4 == 1), -1, ids % 3)
    targets[1, :2] = torch.tensor([0, 2])
    return head_results(answer(small_body(seed), 3), ids, targets, 3, seed)


@CHAPTER.exercise("span-finder")
def span_finder_of(answer: Callable, seed: int) -> Results:
    targets = torch.tensor([[0, 0], [2, 5], [0, 1]])
    return head_results(answer(small_body(seed)), padded_ids(seed), targets, 2, seed)


# ---------------------------------------------------------------- training


class Toy(nn.Module):
    """Two weight matrices, to see what a training loop does to each."""

    def __init__(self, seed: int):
        super().__init__()
        self.first, self.second = (nn.Parameter(numbers(4, 4, seed=seed + i)) for i in (1, 2))

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        output = ids @ self.first @ self.second
        return output, F.mse_loss(output, targets)


@CHAPTER.exercise("finetune-groups")
def finetune_of(answer: Callable, seed: int) -> Results:
    model, n = Toy(seed), 24 if seed == 0 else 9 + seed % 19
    sizes = [(0.3, 1.0)[i % 2] for i in range(n)]  # small ones have gradients below 1
    batches = [
        (size * numbers(5, 4, seed=seed + 2 * i), size * numbers(5, 4, seed=seed - i))
        for i, size in enumerate(sizes)
    ]
    groups = [{"params": [model.first], "lr": 0.1}, {"params": [model.second], "lr": 0.01}]
    with torch.enable_grad():
        losses = answer(model, batches, groups)
    if not isinstance(losses, list) or not all(isinstance(loss, float) for loss in losses):
        raise Wrong(f"it should return a list of floats, loss.item(), not {describe(losses)}")
    return {
        "the list of losses": torch.tensor(losses, dtype=torch.double),
        "a weight of the first group": model.first.detach(),
        "a weight of the second group": model.second.detach(),
    }


@CHAPTER.exercise("train-top")
def train_top_of(answer: Callable, seed: int) -> Results:
    L = 3 if seed == 0 else 1 + seed % 4
    results: Results = {}
    model = solutions.Classifier(small_body(seed, L), 3)
    for n in (L + 1, 0, 1, min(2, L), L):
        count = answer(model, n)
        flags = {name: p.requires_grad for name, p in model.named_parameters()}
        for name, flag in flags.items():
            results[f"n = {n} of {L} blocks: {name}"] = "trained" if flag else "frozen"
        results[f"the number for n = {n}"] = str(count)
    for n in (-1, L + 2):
        try:
            answer(model, n)
            results[f"n = {n}"] = "accepted"
        except ValueError:
            results[f"n = {n}"] = "ValueError"
    return results


@CHAPTER.exercise("layer-rates")
def layer_rates_of(answer: Callable, seed: int) -> Results:
    L = 3 if seed == 0 else 1 + seed % 4
    peak, factor = (0.8, 2.0) if seed == 0 else (0.1, 1.5 + seed % 3)
    results: Results = {}
    for n in (L + 1, 1):
        model = solutions.Classifier(small_body(seed, L), 3)
        solutions.train_top(model, n)
        groups = answer(model, peak, factor)
        is_list = isinstance(groups, list) and all(isinstance(g, dict) for g in groups)
        if not is_list or not all({"params", "lr"} <= set(g) for g in groups):
            raise Wrong('it should return a list of dicts with "params" and "lr"')
        lr = {id(p): float(g["lr"]) for g in groups for p in g["params"]}
        for name, p in model.named_parameters():
            results[f"top {n} of {L} blocks: the rate of {name}"] = torch.tensor(lr.get(id(p), 0.0))
        results[f"top {n} of {L} blocks: the number of groups"] = str(len(groups))
    return results


@CHAPTER.exercise("lora")
def lora_of(answer: Callable, seed: int) -> Results:
    rank, alpha = (2, 6.0) if seed == 0 else (1 + seed % 4, 1.0 + seed % 9)
    linear, x = randomise(nn.Linear(5, 4), seed), numbers(2, 3, 5, seed=seed)
    expected, lora = linear(x).detach(), answer(linear, rank, alpha)
    for name, shape in (("down", (rank, 5)), ("up", (4, rank))):
        if not isinstance(p := getattr(lora, name, None), nn.Parameter) or p.shape != shape:
            raise Wrong(f"self.{name} should be a parameter of shape {shape}, not {describe(p)}")
    torch.manual_seed(seed)
    spread = answer(nn.Linear(64, 4), 8, 1.0).down.detach().std()  # 1 / sqrt(64) = 0.125
    lora = lora.double()
    results: Results = {
        "whether up starts at 0": str(bool((lora.up == 0).all())),
        "the standard deviation of down at the start, for n_in = 64,": (
            "about 0.125" if 0.04 < spread < 0.4 else f"{spread:.3g}"
        ),
        "the number of trained parameters": str(
            sum(p.numel() for p in lora.parameters() if p.requires_grad)
        ),
    }
    lora.down.data, lora.up.data = numbers(rank, 5, seed=seed), numbers(4, rank, seed=seed)
    results["the output"] = any_tensor(lora(x), "the output")
    lora.is_on = False
    results["the output, switched off, minus that of linear"] = lora(x).detach() - expected
    lora.is_on = True
    merged = lora.merge()
    if not isinstance(merged, nn.Linear):
        raise Wrong(f"merge should return a linear layer, not {describe(merged)}")
    results["the output of merge()"] = merged(x).detach()
    return results | {"the output after merge() was called": lora(x).detach()}


EXERCISES = CHAPTER.exercises()
