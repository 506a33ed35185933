"""Exercises of "A bottleneck": what each answer is run on. The texts are in exercises.toml."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kt_core import attention, blocks, perceiver
from kt_core.models import GPT, GPTConfig
from kt_course.chapters.perceiver_ar import solutions
from kt_course.exercises.assertions import CUT_OFF, Wrong, any_tensor, expect_gradients, tensor
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import numbers, randomise, with_weights

CHAPTER = Comparison(solutions, "06_perceiver_ar")
TEXTS = CHAPTER.texts
ATTENTION = (attention.MultiHeadAttention.forward, nn.functional.scaled_dot_product_attention)


# ---------------------------------------------------------------- attention and masks


@CHAPTER.exercise("cross-attention", forbidden=ATTENTION, is_piece=True)
def attention_of(answer: Callable, seed: int) -> Results:
    n_head, d = 3 + seed % 2, 5 + seed % 3
    x, source = numbers(2, 4, n_head * d, seed=seed), numbers(2, 6, n_head * d, seed=seed + 1)
    mask = attention.reach_mask(torch.tensor([1, 3, 4, 5]), torch.arange(6))  # (4, 6)
    like, results = solutions.CrossAttention(n_head * d, n_head), {}
    for options in ({}, {"qk_norm": True}):
        layer = with_weights(answer(n_head * d, n_head, **options), like, seed)
        ending, output = " with qk_norm=True" if options else "", layer(x, source, mask)
        tensor(output, x.shape, f"the output for x of shape {tuple(x.shape)}")
        results[f"the output{ending}"] = output
        expect_gradients(output, like(x, source, mask), layer)
        if not options:
            same = any_tensor(layer(x, source[:, :4], mask[:, :4]), "the output")
            results["the output for 4 queries and 4 keys"] = same
    return results


@CHAPTER.exercise("reach-mask", forbidden=(attention.reach_mask,), is_piece=True)
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
        mask = any_tensor(answer(query, key), f"the mask {name}")
        if mask.dtype != torch.bool:
            raise Wrong(TEXTS["reach-mask"]["not_boolean"].format(dtype=mask.dtype))
        results[f"the mask {name}"] = mask
    return results


# ---------------------------------------------------------------- down and up


def config(seed: int) -> GPTConfig:
    """Return a small perceiver's configuration."""
    n_head = 2 + seed % 2
    return GPTConfig(9, 8, 3, n_head, 4 * n_head, "perceiver", bottleneck=4, dropout=0.0)


@CHAPTER.exercise("down-project", forbidden=(blocks.Block.forward,), is_piece=True)
def down_of(answer: Callable, seed: int) -> Results:
    c = config(seed)
    block = with_weights(answer(c), solutions.DownProjectBlock(c), seed)
    lengths = {"7 inputs and 4 latents": 7, "3 inputs, fewer than latents": 3}
    results: Results = {
        f"the output for {name}": any_tensor(
            block(numbers(2, T, c.n_embd, seed=seed)), "the output"
        )
        for name, T in lengths.items()
    }
    return results | {"the start of latents": start_of(answer, c)}


def start_of(answer: Callable, c: GPTConfig) -> str:
    """Describe the latents of a new block; those that nobody has set are NaN here."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")  # torch.empty is filled with NaN
    try:
        spread = answer(c).latents.detach().std()
    finally:
        torch.set_deterministic_debug_mode(before)
    return "small random numbers" if 0.001 < spread < 1 else "all equal, large, or never set"


@CHAPTER.exercise("up-project", forbidden=(blocks.Block.forward,), is_piece=True)
def up_of(answer: Callable, seed: int) -> Results:
    c, results = config(seed), {}
    block = with_weights(answer(c), solutions.UpProjectBlock(c), seed)
    for T, n in ((7, 4), (3, 3)):
        x, z = numbers(2, T, c.n_embd, seed=seed), numbers(2, n, c.n_embd, seed=seed + 1)
        output = any_tensor(block(x, z), "the output")
        results[f"the output for {T} inputs and {n} latents"] = output
    return results


# ---------------------------------------------------------------- perceiver_ar, on kt_core's blocks


@CHAPTER.exercise("newest-inputs", forbidden=(perceiver.newest_inputs,))
def newest_of(answer: Callable, seed: int) -> Results:
    T, n = 5 + seed % 3, 2 + seed % 2
    x = numbers(2, T, 3, seed=seed)
    local = {n: numbers(n, 3, seed=seed + 1), 0: x[0, :0], T + 1: numbers(T + 1, 3, seed=seed + 2)}
    return {
        f"the sum with {k} weights": any_tensor(answer(weights, x), "the sum")
        for k, weights in local.items()
    }


@CHAPTER.exercise("through-latents", forbidden=(perceiver.PerceiverStack.forward,))
def stack_of(answer: Callable, seed: int) -> Results:
    """Outputs for two strides, and first the inputs that each output depends on."""
    results: Results = {}
    outputs = {}
    for n, m, T, n_layer in ((8, 4, 6, 3), (12, 3, 11 - seed % 4, 4)):
        model = randomise(GPT(GPTConfig(4, n, n_layer, 2, 8, "perceiver_ar", m, dropout=0.0)), seed)
        connect = functools.partial(perceiver.mask_and_rotation, rotary=model.rotary)
        first, other = numbers(2, 1, T, 8, seed=seed)
        x, s = torch.cat([*[first] * T, other]).requires_grad_(), model.config.stride
        y = any_tensor(answer(model.blocks, x, connect), "the result")
        if not y.requires_grad:
            raise Wrong(CUT_OFF)
        if y.shape == x.shape:
            for t, row in enumerate(dependence(y, x)):
                for j, depends in enumerate(row):
                    name = TEXTS["through-latents"]["dependence"].format(s=s, t=t, j=j)
                    results[name] = depends.double()
        outputs[f"the output with stride {s}"] = y[-2:]
    return results | outputs


def dependence(y: Tensor, x: Tensor) -> Tensor:
    """Find which inputs each output depends on, (T, T) bool, outputs by inputs.

    Text t of the batch shows it for output t, so that one backward pass is enough.
    """
    t = torch.arange(x.size(1))
    total = (y[t, t] @ numbers(y.size(-1), seed=0)).sum()
    (gradients,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
    return (torch.zeros_like(x) if gradients is None else gradients)[t].ne(0).any(-1)


EXERCISES = CHAPTER.exercises()
