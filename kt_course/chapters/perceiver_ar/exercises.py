"""Exercises of notebook 6: strides, reach masks, cross-attention, the block, the latents' path."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import torch
from torch import Tensor

from kt_core.attention import MultiHeadAttention, causal_mask, reach_mask
from kt_core.blocks import Block, GPTConfig
from kt_core.models import GPT
from kt_core.perceiver import PerceiverStack, newest_inputs
from kt_course.exercises.assertions import close, describe, recognise, tensor
from kt_course.exercises.diagnoses import Diagnoses, diagnoses
from kt_course.exercises.multi_head_mistakes import MULTI_HEAD, attention_with_mistake
from kt_course.exercises.random_cases import draw, fresh_generator, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "06_perceiver_ar"

# ---------------------------------------------------------------- the stride


def check_stride(fn: Callable) -> str:
    wrong = diagnoses(__file__, "latent-stride")

    def stride(n: int, m: int, variant: str = "perceiver_ar") -> int:
        result = fn(GPTConfig(2, block_size=n, bottleneck=m, variant=variant))
        try:
            return operator.index(result)
        except TypeError:
            raise wrong("not whole", result=describe(result)) from None

    strides = {(n, m): stride(n, m) for n, m in [(128, 64), (13, 5), (13, 6), (12, 4)]}
    wrong.reject(
        {
            "rounds down": all(value == n // m for (n, m), value in strides.items()),
            "adds one": strides[12, 4] == 4,
            "nearest": strides[13, 6] == 2,
            "upside down": strides[12, 4] <= 1,
        },
        value=strides[12, 4],
    )
    for (n, m), value in strides.items():
        if value != math.ceil(n / m):
            raise wrong("value", n=n, m=m, value=value, expected=math.ceil(n / m))
    for variant in ("vanilla", "rope", "perceiver"):
        if (value := stride(12, 4, variant)) != 1:
            raise wrong("variant", variant=variant, value=value)
    for n in draw(20, 200, 20):
        m = draw(1, n, 1)[0]
        if stride(n, m) != math.ceil(n / m):
            raise wrong("other sizes")
    return "ceil(block_size / bottleneck) for perceiver_ar, 1 for the others"


# ---------------------------------------------------------------- reach masks


def check_reach_mask(fn: Callable) -> str:
    wrong = diagnoses(__file__, "reach-mask")
    inputs, latents = torch.arange(6), torch.tensor([1, 3, 5])

    def mask(query: Tensor, key: Tensor, what: str) -> Tensor:
        result, shape = fn(query, key), (*query.shape, key.size(-1))
        if isinstance(result, Tensor) and result.mT.shape == shape != result.shape:
            raise wrong("transposed", what=what, shape=tuple(result.shape), expected=shape)
        if tensor(result, shape, what).dtype != torch.bool:
            raise wrong("not boolean", what=what, dtype=result.dtype)
        return result

    down = mask(latents, inputs, "the Down mask, 3 latents by 6 inputs,")
    mistakes = {
        "indices": causal_mask(6)[:3],
        "wrong way round": latents[:, None] <= inputs,
        "strict": inputs < latents[:, None],
    }
    wrong.blame(down, mistakes)
    up = mask(inputs, latents, "the Up mask, 6 outputs by 3 latents,")
    if up[0].any() and torch.equal(up[1:], latents <= inputs[1:, None]):
        raise wrong("empty row")
    masks = {"latent": (latents, inputs, down), "output": (inputs, latents, up)}
    for name, (query, key, result) in masks.items():
        for q, k in (result != (key <= query[:, None])).nonzero().tolist():
            reaches = dict(name=name, q=q, query=int(query[q]), key=int(key[k]))
            raise wrong("leak" if result[q, k] else "too narrow", **reaches)
    null = torch.tensor([-1, 1, 3, 5])
    if not mask(inputs, null, "the Up mask with ∅, 6 by 4,")[:, 0].all():
        raise wrong("null")
    for B, T_query in ((2, 5), (3, 1)):
        query, key = (
            torch.randint(-1, 9, (B, T), generator=fresh_generator()) for T in (T_query, 4)
        )
        expected = key[:, None, :] <= query[:, :, None]
        if not torch.equal(mask(query, key, "the mask of a batch"), expected):
            raise wrong("batches")
    return "no leak, nothing missing, for Down, Up, the null latent and batches"


# ---------------------------------------------------------------- attention between two sequences


def check_cross_attention(fn: Callable) -> str:
    wrong = diagnoses(__file__, "cross-attention")
    layer = randomise(MultiHeadAttention(12, 3), seed=1)
    x, source = numbers(2, 4, 12, seed=2), numbers(2, 4, 12, seed=3)
    what = "the result for x and source of (2, 4, 12)"
    output = fn(layer, x, source, mask=None)
    recognise(
        tensor(output, x.shape, what),
        attention_with_mistake(layer, x, source),
        lambda mistake: attention_with_mistake(layer, x, source, None, mistake),
        MULTI_HEAD | wrong.texts("sides"),
        "the result without a mask",
    )
    if not output.requires_grad:
        raise wrong("detached")
    x, source = x[:, :3], numbers(2, 6, 12, seed=4)
    mask = reach_mask(torch.tensor([1, 3, 5]), torch.arange(6))[None, None]  # (1, 1, 3, 6)
    masks = {
        "unused": torch.ones_like(mask),
        "left-aligned": causal_mask(6)[:3],
        "right-aligned": causal_mask(6)[3:],
        "inverted": ~mask,
    }
    recognise(
        tensor(fn(layer, x, source, mask=mask), x.shape, "the result for 3 queries and 6 keys"),
        attention_with_mistake(layer, x, source, mask),
        lambda mistake: attention_with_mistake(layer, x, source, masks[mistake]),
        wrong.texts("masks"),
        "the result with a mask",
    )
    for B, T_query, T_key, n_head in ((1, 1, 1, 1), (3, 2, 5, 4), (2, 5, 2, 1)):
        layer = randomise(MultiHeadAttention(4 * n_head, n_head))
        x, source = numbers(B, T_query, 4 * n_head), numbers(B, T_key, 4 * n_head)
        mask = torch.rand(B, 1, T_query, T_key, generator=fresh_generator()) < 0.6
        mask[..., 0] = True  # no empty row
        result = tensor(fn(layer, x, source, mask=mask), x.shape, "the result")
        if not close(result, attention_with_mistake(layer, x, source, mask)):
            raise wrong("other sizes")
    return "queries from x, keys and values from source, T_query and T_key apart, any mask"


# ---------------------------------------------------------------- the block

BLOCK_MISTAKES = diagnoses(__file__, "block-residual").texts("mistakes")


def block_with(
    block: Block, x: Tensor, source: Tensor | None, mask: Tensor | None = None, mistake: str = ""
) -> Tensor:
    """Compute a block's result with one mistake built in."""

    def norm(layer: Callable, y: Tensor, missing: str) -> Tensor:
        return y if mistake in ("no norms", missing) else layer(y)

    query, key = norm(block.ln1, x, "query not normed"), None
    if source is not None and mistake != "no source":
        layer = block.ln1 if mistake == "ln1 twice" else block.ln_source
        key = norm(layer, source, "source not normed")
    context = block.attn(query, key, mask=None if mistake == "no mask" else mask)
    residuals = {"no residual": 0 * x, "source residual": source, "normed residual": query}
    y = residuals.get(mistake, x) + context
    hidden = block.mlp(norm(block.ln2, x if mistake == "mlp of x" else y, "mlp not normed"))
    return hidden if mistake == "no mlp residual" else y + hidden


def check_block(fn: Callable) -> str:
    wrong = diagnoses(__file__, "block-residual")
    config, mask = GPTConfig(4, n_embd=8, n_head=2, dropout=0.0), causal_mask(4)
    block = randomise(Block(config, cross=True), seed=1)
    x, source = numbers(2, 4, 8, seed=2), numbers(2, 4, 8, seed=3)
    output = fn(block, x, source, mask=mask)
    recognise(
        tensor(output, x.shape, "the result for x of (2, 4, 8)"),
        block_with(block, x, source, mask),
        lambda mistake: block_with(block, x, source, mask, mistake),
        BLOCK_MISTAKES,
        "the result",
    )
    if not output.requires_grad:
        raise wrong("detached")
    alone = randomise(Block(config), seed=4)
    result = tensor(fn(alone, x, mask=mask), x.shape, "the result without a source")
    if not close(result, block_with(alone, x, None, mask)):
        raise wrong("without a source")
    block, x, source = randomise(Block(config, cross=True)), numbers(1, 5, 8), numbers(1, 3, 8)
    result = tensor(fn(block, x, source), x.shape, "the result")
    if not close(result, block_with(block, x, source)):
        raise wrong("other sizes")
    return "both residuals, each norm in its place, with a source and without"


# ---------------------------------------------------------------- the newest inputs


def newest_with(local: Tensor, x: Tensor, mistake: str = "") -> Tensor:
    """Sum local[k - 1] * x[t - k] over k = 1, 2 ..., with one mistake built in."""
    total = torch.zeros_like(x)
    for k in range(1, len(local) + 1):
        back = {"current": k - 1, "two back": k + 1, "future": -k}.get(mistake, k)
        at = torch.arange(x.size(1)) - back
        exists = (at >= 0) & (at < x.size(1)) | (mistake == "wraps")
        weight = local[-k] if mistake == "order" else local[k - 1]
        total = total + weight * x.roll(back, dims=1) * exists[:, None]
    return total + x if mistake == "plus x" else total


def check_newest(fn: Callable) -> str:
    wrong = diagnoses(__file__, "newest-inputs")
    x, local = numbers(1, 5, 3, seed=1), numbers(2, 3, seed=2)  # s = 4: two inputs in no latent
    recognise(
        tensor(fn(local, x), x.shape, "the result for x of (1, 5, 3)"),
        newest_with(local, x),
        lambda mistake: newest_with(local, x, mistake),
        wrong.texts("mistakes"),
        "the sum",
    )
    if tensor(fn(local[:0], x), x.shape, "the result with no weights (s = 2)").any():
        raise wrong("no weights")
    for T, k in ((2, 3), (1, 2), (7, 4)):
        x, local = numbers(2, T, 3), numbers(k, 3)
        result = tensor(fn(local, x), x.shape, f"the result for {T} inputs and {k} weights")
        if not close(result, newest_with(local, x)):
            raise wrong("other sizes", T=T, k=k)
    return "the inputs 1 ... s - 2 back, nothing from the future, zeros before the start"


# ---------------------------------------------------------------- down, along, up


def dependence(outputs: Tensor, x: Tensor) -> Tensor:
    """Find which inputs each output depends on: (T, T) bool, by gradients.

    x (1, T, C) is a leaf of the outputs' graph. Rows are outputs, columns inputs.
    """
    mix = numbers(outputs.size(-1), seed=0)
    rows = []
    for output in outputs[0] @ mix:
        (row,) = torch.autograd.grad(output, x, retain_graph=True, allow_unused=True)
        rows.append(torch.zeros_like(x[0]) if row is None else row[0])
    return torch.stack(rows).ne(0).any(-1)


def check_dependence(outputs: Tensor, x: Tensor, s: int, wrong: Diagnoses) -> None:
    """Name the first output that depends on a later input, or misses an earlier one."""
    depends = dependence(outputs, x)
    for t, j in (depends != causal_mask(len(depends))).nonzero().tolist():
        latent, complete = j // s, s * (j // s + 1) - 1
        values = dict(s=s, t=t, j=j, latent=latent, complete=complete)
        if depends[t, j]:
            raise wrong("leak", **values)
        if j == t:
            raise wrong("own input", **values)
        raise wrong("newest missing" if complete > t else "blind", **values)


def check_stack(fn: Callable) -> str:
    wrong = diagnoses(__file__, "through-latents")

    def stack(model: GPT, x: Tensor) -> Tensor:
        result = fn(model.blocks, x, torch.arange(x.size(1))[None], model.rotary)
        tensor(result, x.shape, f"the result for x of {tuple(x.shape)}")
        return result

    def expected(model: GPT, x: Tensor) -> Tensor:
        with torch.no_grad():
            return model.blocks(x, torch.arange(x.size(1))[None], model.rotary)

    def new_model(n: int, m: int, seed: int | None = None) -> GPT:
        return randomise(GPT(GPTConfig(4, n, 3, 2, 8, "perceiver_ar", m, dropout=0.0)), seed)

    for n, m, T in ((8, 4, 6), (12, 3, 11)):
        model, x = new_model(n, m, seed=1), numbers(1, T, 8, seed=2).requires_grad_()
        outputs = stack(model, x)
        if not outputs.isfinite().all():
            t = int((~outputs.isfinite()).any(-1)[0].nonzero()[0])
            raise wrong("not finite", t=t)
        if not outputs.requires_grad:
            raise wrong("detached")
        check_dependence(outputs, x, model.config.stride, wrong)
        null = torch.autograd.grad(outputs.sum(), model.blocks[-1].null, allow_unused=True)[0]
        if null is None or not null.any():
            raise wrong("null unused")
        right, rotary = expected(model, x), model.rotary
        rotary.cos, rotary.sin = torch.ones_like(rotary.cos), torch.zeros_like(rotary.sin)
        if close(outputs, expected(model, x)):
            raise wrong("not rotated")
        if not close(outputs, right):
            raise wrong("other numbers", difference=float((outputs - right).abs().max()))
    for n, m, T in ((10, 10, 7), (9, 4, 9), (9, 4, 2)):
        model, x = new_model(n, m), numbers(2, T, 8)
        if not close(stack(model, x).detach(), expected(model, x)):
            raise wrong("other sizes")
    return "no leak, nothing missed, and the model's own numbers"


EXERCISES = (
    Exercise(
        "latent-stride", NOTEBOOK, "Inputs per latent", 1, 3, GPTConfig.stride.fget, check_stride
    ),
    Exercise(
        "reach-mask",
        NOTEBOOK,
        "Which queries may attend to which keys",
        2,
        8,
        reach_mask,
        check_reach_mask,
    ),
    Exercise(
        "cross-attention",
        NOTEBOOK,
        "Attention between two sequences",
        4,
        25,
        MultiHeadAttention.forward,
        check_cross_attention,
    ),
    Exercise(
        "block-residual", NOTEBOOK, "The residuals of a block", 3, 12, Block.forward, check_block
    ),
    Exercise(
        "newest-inputs",
        NOTEBOOK,
        "Inputs that are in no latent yet",
        3,
        10,
        newest_inputs,
        check_newest,
    ),
    Exercise(
        "through-latents", NOTEBOOK, "Down, along, up", 5, 40, PerceiverStack.forward, check_stack
    ),
)
