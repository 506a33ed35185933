"""Exercises of "A bottleneck": what each answer is run on. The texts are in exercises.toml."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kt_core import attention, blocks, perceiver
from kt_core.models import GPT, GPTConfig
from kt_course.chapters.perceiver_ar import solutions
from kt_course.exercises.assertions import Wrong, describe
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import numbers, randomise
from kt_course.exercises.registry import Exercise

CHAPTER = Comparison(solutions)
TEXTS = CHAPTER.texts


def tensor_of(result: Any, what: str) -> Tensor:
    """Return an answer's tensor; Wrong if it is none or cannot be trained."""
    if not isinstance(result, Tensor):
        raise Wrong(f"{what} should be a tensor, not {describe(result)}")
    return result


def output_of(result: Any) -> Tensor:
    """Return a layer's output; Wrong if no gradient flows back from it."""
    if not tensor_of(result, "the output").requires_grad:
        raise Wrong(
            "the output is cut off from the weights (detach, no_grad): it cannot be trained"
        )
    return result.detach()


def with_weights(module: Any, like: nn.Module, seed: int) -> nn.Module:
    """Give an answer's module random weights; Wrong unless it has the parameters of `like`."""
    have, want = module.state_dict(), like.state_dict()
    for name in (*want, *have):
        shapes = [tuple(d[name].shape) if name in d else "none" for d in (have, want)]
        if shapes[0] != shapes[1]:
            raise Wrong(f"parameter {name}: shape {shapes[0]}, but {shapes[1]} is needed")
    module.load_state_dict(randomise(like, seed).state_dict())
    return module.double().eval()


# ---------------------------------------------------------------- attention and masks


def attention_of(answer: Callable, seed: int) -> Results:
    n_head, d = 3 + seed % 2, 4 + seed % 3
    x, source = numbers(2, 4, n_head * d, seed=seed), numbers(2, 6, n_head * d, seed=seed + 1)
    mask = attention.reach_mask(torch.tensor([1, 3, 4, 5]), torch.arange(6))  # (4, 6)
    like, results = solutions.CrossAttention(n_head * d, n_head), {}
    for qk_norm in (False, True):
        layer = with_weights(answer(n_head * d, n_head, qk_norm=qk_norm), like, seed)
        ending = " with qk_norm=True" if qk_norm else ""
        results[f"the output{ending}"] = output_of(layer(x, source, mask))
        if x.shape == results[f"the output{ending}"].shape and not qk_norm:
            same = output_of(layer(x, source[:, :4], mask[:, :4]))
            results["the output for 4 queries and 4 keys"] = same
    return results


def mask_of(answer: Callable, seed: int) -> Results:
    shift = seed % 5
    inputs, latents = torch.arange(6) + shift, torch.tensor([1, 3, 5]) + shift
    batch = numbers(2, 4, seed=seed).round().long()  # each row has its own reaches
    cases = {
        "for 3 latents and 6 inputs (Down)": (latents, inputs),
        "for 6 outputs and 3 latents (Up)": (inputs, latents),
        "with the null latent, reach -1,": (inputs, torch.tensor([-1, 1, 3, 5])),
        "for a batch of two": (batch, batch[:, :3]),
    }
    results = {}
    for name, (query, key) in cases.items():
        mask = tensor_of(answer(query, key), f"the mask {name}")
        if mask.dtype != torch.bool:
            raise Wrong(TEXTS["reach-mask"]["not_boolean"].format(dtype=mask.dtype))
        results[f"the mask {name}"] = mask
    return results


# ---------------------------------------------------------------- down and up


def config(seed: int) -> GPTConfig:
    """Return a small perceiver's configuration."""
    n_head = 2 + seed % 2
    return GPTConfig(9, 8, 3, n_head, 4 * n_head, "perceiver", bottleneck=4, dropout=0.0)


def down_of(answer: Callable, seed: int) -> Results:
    c = config(seed)
    block = with_weights(answer(c), solutions.DownProjectBlock(c), seed)
    lengths = {"7 inputs and 4 latents": 7, "3 inputs, fewer than latents": 3}
    return {
        f"the output for {name}": output_of(block(numbers(2, T, c.n_embd, seed=seed)))
        for name, T in lengths.items()
    }


def up_of(answer: Callable, seed: int) -> Results:
    c, results = config(seed), {}
    block = with_weights(answer(c), solutions.UpProjectBlock(c), seed)
    for T, n in ((7, 4), (3, 3)):
        x, z = numbers(2, T, c.n_embd, seed=seed), numbers(2, n, c.n_embd, seed=seed + 1)
        results[f"the output for {T} inputs and {n} latents"] = output_of(block(x, z))
    return results


# ---------------------------------------------------------------- perceiver_ar


def newest_of(answer: Callable, seed: int) -> Results:
    T, n = 5 + seed % 3, 2 + seed % 2
    x = numbers(2, T, 3, seed=seed)
    local = {n: numbers(n, 3, seed=seed + 1), 0: x[0, :0], T + 1: numbers(T + 1, 3, seed=seed + 2)}
    return {
        f"the sum with {k} weights": tensor_of(answer(weights, x), "the sum")
        for k, weights in local.items()
    }


def stack_of(answer: Callable, seed: int) -> Results:
    """Outputs for two strides, and first the inputs that each output depends on."""
    results: Results = {}
    outputs = {}
    for n, m, T in ((8, 4, 6), (12, 3, 11 - seed % 4)):
        model = randomise(GPT(GPTConfig(4, n, 3, 2, 8, "perceiver_ar", m, dropout=0.0)), seed)
        connect = functools.partial(perceiver.mask_and_rotation, rotary=model.rotary)
        x, s = numbers(2, T, 8, seed=seed).requires_grad_(), model.config.stride
        y = tensor_of(answer(model.blocks, x, connect), "the result")
        output_of(y)
        if y.shape == x.shape:
            for t, row in enumerate(dependence(y, x)):
                for j, depends in enumerate(row):
                    name = TEXTS["through-latents"]["dependence"].format(s=s, t=t, j=j)
                    results[name] = depends.double()
        outputs[f"the output with stride {s}"] = y.detach()
    return results | outputs


def dependence(y: Tensor, x: Tensor) -> Tensor:
    """Find which inputs each output depends on, by gradients: (T, T) bool, outputs by inputs."""
    mix, rows = numbers(y.size(-1), seed=0), []
    for output in y[0] @ mix:
        (row,) = torch.autograd.grad(output, x, retain_graph=True, allow_unused=True)
        rows.append(torch.zeros_like(x[0]) if row is None else row[0])
    return torch.stack(rows).ne(0).any(-1)


ATTENTION = (attention.MultiHeadAttention.forward, nn.functional.scaled_dot_product_attention)
# exercise: teaching solution, what it is compared on, what grading does not let an answer call
ANSWERS: dict[str, tuple[Any, Callable, tuple]] = {
    "cross-attention": (solutions.CrossAttention, attention_of, ATTENTION),
    "reach-mask": (solutions.reach_mask, mask_of, (attention.reach_mask,)),
    "down-project": (solutions.DownProjectBlock, down_of, (blocks.Block.forward,)),
    "up-project": (solutions.UpProjectBlock, up_of, (blocks.Block.forward,)),
    "newest-inputs": (solutions.newest_inputs, newest_of, (perceiver.newest_inputs,)),
    "through-latents": (solutions.through_latents, stack_of, (perceiver.PerceiverStack.forward,)),
}
EXERCISES = tuple(
    Exercise(
        id,
        "06_perceiver_ar",
        *(TEXTS[id][key] for key in ("title", "difficulty", "minutes")),
        reference,
        CHAPTER.check(id, reference.__name__, compute),
        forbidden,
        is_piece=id not in ("newest-inputs", "through-latents"),  # those run on kt_core's blocks
    )
    for id, (reference, compute, forbidden) in ANSWERS.items()
)
