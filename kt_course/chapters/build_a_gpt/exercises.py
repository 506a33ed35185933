"""Exercises of "Build a GPT": what each answer is run on. The texts are in exercises.toml."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_core import attention, blocks, models
from kt_core.decoding import generate
from kt_core.models import GPTConfig
from kt_core.trainer import Trainer
from kt_course.chapters.build_a_gpt import solutions
from kt_course.exercises.assertions import Wrong, any_tensor, describe
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import integers, numbers, with_weights

CHAPTER = Comparison(solutions, "02_build_a_gpt")
TEXTS = CHAPTER.texts
ATTENTION = (attention.MultiHeadAttention, nn.MultiheadAttention, F.scaled_dot_product_attention)


def size(seed: int, fixed: int, low: int, high: int) -> int:
    """Return `fixed` for seed 0, otherwise a size from `low` to `high`."""
    return low + (7 * seed + fixed) % (high - low + 1) if seed else fixed


# ---------------------------------------------------------------- functions


@CHAPTER.exercise("cross-entropy", forbidden=(F.cross_entropy, F.nll_loss), is_piece=True)
def loss_of(answer: Callable, seed: int) -> Results:
    B, T, V = size(seed, 2, 1, 4), size(seed, 4, 2, 6), size(seed, 5, 3, 9)
    logits, targets = numbers(B, T, V, seed=seed), integers(1, V - 1, B, T, seed=seed)
    targets[0, T // 2 :] = targets[1:, :1] = 0  # texts with different amounts of padding
    return {
        "the loss": any_tensor(answer(logits, targets), "the loss"),
        "the loss of logits in the thousands": any_tensor(
            answer(1000 * logits, targets), "the loss"
        ),
    }


@CHAPTER.exercise("embedding", is_piece=True)
def embedding_of(answer: Callable, seed: int) -> Results:
    idx = integers(0, 5, 2, size(seed, 3, 1, 6), seed=seed)
    tables = numbers(6, 4, seed=seed), numbers(6, 4, seed=seed + 1)
    return {"the embedding": any_tensor(answer(idx, *tables), "the embedding")}


# ---------------------------------------------------------------- layers


def output_of(module: nn.Module, x: Tensor) -> Tensor:
    return any_tensor(module(x), "the output")


@CHAPTER.exercise("attention-module", forbidden=ATTENTION, is_piece=True)
def attention_of(answer: Callable, seed: int) -> Results:
    n_head, d, T = size(seed, 3, 1, 4), size(seed, 4, 2, 5), size(seed, 5, 1, 7)
    x, like = numbers(2, T, n_head * d, seed=seed), solutions.Attention(n_head * d, n_head)
    plain, normed = answer(n_head * d, n_head), answer(n_head * d, n_head, qk_norm=True)
    return {
        "the output": output_of(with_weights(plain, like, seed), x),
        "the output with qk_norm=True": output_of(with_weights(normed, like, seed), x),
    }


def config(seed: int, **options: bool) -> GPTConfig:
    n_head = size(seed, 2, 1, 3)
    sizes = dict(block_size=9, n_layer=3, n_head=n_head, n_embd=4 * n_head, dropout=0.0)
    return GPTConfig(11, **sizes, **options)


def layer_output(answer: Callable, like: Callable, seed: int, **options: bool) -> Tensor:
    c = config(seed, **options)
    return output_of(with_weights(answer(c), like(c), seed), numbers(2, 5, c.n_embd, seed=seed))


@CHAPTER.exercise("mlp", forbidden=(blocks.MLP,), is_piece=True)
def mlp_of(answer: Callable, seed: int) -> Results:
    return {"the output": layer_output(answer, solutions.MLP, seed)}


@CHAPTER.exercise("block", forbidden=(blocks.Block,), is_piece=True)
def block_of(answer: Callable, seed: int) -> Results:
    normed = layer_output(answer, solutions.Block, seed, qk_norm=True)
    plain = layer_output(answer, solutions.Block, seed)
    return {"the output": plain, "the output with config.qk_norm": normed}


@CHAPTER.exercise("layer-norm-module", forbidden=(nn.LayerNorm, F.layer_norm), is_piece=True)
def norm_of(answer: Callable, seed: int) -> Results:
    C = size(seed, 8, 2, 9)
    module, x = with_weights(answer(C), nn.LayerNorm(C), seed), numbers(2, 5, C, seed=seed)
    return {
        "the output": output_of(module, 3 + 2 * x),
        "the output for equal channels": output_of(module, torch.full_like(x, 2.0)),
        "the output for numbers near 0.001": output_of(module, 1e-3 * x),
    } | {f"{name} at the start": value for name, value in answer(C).state_dict().items()}


@CHAPTER.exercise("gpt", forbidden=(models.GPT,), is_piece=True)
def gpt_of(answer: Callable, seed: int) -> Results:
    torch.manual_seed(seed)
    c, T = config(seed), size(seed, 6, 1, 9)
    model = answer(c)
    if getattr(model, "config", None) != c:
        raise Wrong(TEXTS["gpt"]["no_config"])
    spreads = {
        f"the spread of {name} at the start, in units of 0.02,": (50 * p.detach().std()).round()
        for name, p in model.named_parameters()
        if seed == 0 and (p.dim() > 1 or name.endswith("bias"))
    }
    model = with_weights(model, models.GPT(c), seed)
    if len({id(block) for block in model.blocks}) < c.n_layer:
        raise Wrong(TEXTS["gpt"]["one_block"])
    idx, targets = integers(2, 10, 2, T, seed=seed), integers(0, 10, 2, T, seed=seed + 1)
    targets[0, 0] = 1
    pairs = [model(idx), model(idx, targets)]
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise Wrong(TEXTS["gpt"]["no_pair"])
    if pairs[0][1] is not None:
        raise Wrong(TEXTS["gpt"]["loss_without_targets"])
    logits, loss = any_tensor(pairs[1][0], "logits"), any_tensor(pairs[1][1], "the loss")
    return {"the logits": logits, "the loss": loss} | spreads


# ---------------------------------------------------------------- training and decoding


class Spy(nn.Module):
    """A model with one weight that counts how it is trained: loss = mean (weight x - y)²."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))
        self.counts = {"forward passes in training mode": 0, "backward passes": 0}
        self.weight.register_hook(lambda gradient: self.count("backward passes"))

    def count(self, what: str, times: int = 1) -> None:
        self.counts[what] += times

    def forward(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        self.count("forward passes in training mode", self.training)
        logits = self.weight * x
        return logits, (logits - targets).square().mean()


@CHAPTER.exercise("training-loop", forbidden=(Trainer.fit,), is_piece=True)
def training_of(answer: Callable, seed: int) -> Results:
    n, model = size(seed, 6, 1, 9), Spy().eval()
    pairs = [(numbers(3, seed=seed + i).float(), numbers(3, seed=i).float()) for i in range(n)]
    losses = answer(model, iter(pairs), [0.05 * (1 + i) for i in range(n)])
    if not isinstance(losses, list):
        raise Wrong(f"it should return the list of the losses, not {describe(losses)}")
    n_tensors = sum(isinstance(loss, Tensor) for loss in losses)
    return {
        "the number of losses": torch.tensor(len(losses)),
        "the number of losses that are tensors": torch.tensor(n_tensors),
        "the weight after training": model.weight.detach(),
        "the last loss": torch.tensor([float(torch.as_tensor(losses[-1]).detach())]),
    } | {f"the number of {what}": torch.tensor(n) for what, n in model.counts.items()}


class Counter(nn.Module):
    """A model that continues n, n + 1 ... and records what it reads."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 8, bias=False)
        self.config = SimpleNamespace(block_size=5)
        self.contexts: list[int] = []
        self.in_training = self.with_gradients = 0

    def forward(self, idx: Tensor) -> tuple[Tensor, None]:
        if idx.dim() != 2 or idx.size(1) > self.config.block_size:
            raise Wrong(f"{TEXTS['greedy-continuation']['context']}, not {describe(idx)}")
        self.contexts += [8, *idx.flatten().tolist()]  # 8 separates the contexts
        self.in_training += self.training
        self.with_gradients += torch.is_grad_enabled()
        return F.one_hot((idx + 1) % 8, 8).double() + F.one_hot((idx + 3) % 8, 8) / 2, None


@CHAPTER.exercise("greedy-continuation", forbidden=(generate,), is_piece=True)
def decoding_of(answer: Callable, seed: int) -> Results:
    prompt, results = integers(0, 2, size(seed, 3, 1, 7), seed=seed).tolist(), {}
    for max_new in (9, 3):
        model, ids = Counter().train(), list(prompt)
        new = answer(model, ids, max_new, 7)
        if not isinstance(new, list):
            raise Wrong(f"it should return a list of ids, not {describe(new)}")
        values = {
            "new ids": new,
            "prompt after the call": ids,
            "contexts": model.contexts,
            "number of passes in training mode": [model.in_training],
            "number of passes that record gradients": [model.with_gradients],
        }
        results |= {
            f"the {what} (max_new = {max_new})": torch.tensor(v) for what, v in values.items()
        }
    return results


EXERCISES = CHAPTER.exercises()
