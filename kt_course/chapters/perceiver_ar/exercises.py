"""Exercises of notebook 6: strides, reach masks, attention between two sequences, residuals, the way through latents."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import torch
from torch import Tensor

from kt_core.attention import MultiHeadAttention, causal_mask, reach_mask
from kt_core.models import GPT, Block, GPTConfig
from kt_course.exercises.assertions import Wrong, close, describe, recognise, tensor
from kt_course.exercises.multi_head_mistakes import MULTI_HEAD, attention_with_mistake
from kt_course.exercises.random_cases import draw, fresh_generator, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "06_perceiver_ar"


def check_stride(fn: Callable) -> str:
    def asked(block: int, m: int, variant: str = "perceiver_ar") -> int:
        got = fn(GPTConfig(2, block_size=block, bottleneck=m, variant=variant))
        try:
            return operator.index(got)
        except TypeError:
            raise Wrong(
                f"a stride is a whole number, not {describe(got)}: divide with //"
            ) from None

    cases = [(128, 64), (13, 5), (13, 6), (12, 4)]
    got = {(n, m): asked(n, m) for n, m in cases}
    if all(got[n, m] == n // m for n, m in cases):
        raise Wrong(
            "it rounds down: 13 inputs by 5 latents give 2, and 5 times 2 hold 10 inputs only; round up"
        )
    if got[12, 4] == 4:
        raise Wrong(
            "12 inputs by 4 latents give 4 instead of 3: it adds one even where nothing is left over"
        )
    if got[13, 6] == 2:
        raise Wrong(
            "13 inputs by 6 latents give 2, and 6 times 2 hold 12 inputs only: round up, not to nearest"
        )
    if got[12, 4] <= 1:
        raise Wrong(
            f"12 inputs by 4 latents give {got[12, 4]}: inputs a latent, not latents an input"
        )
    for (n, m), value in got.items():
        if value != math.ceil(n / m):
            raise Wrong(f"{n} inputs by {m} latents give {value} instead of {math.ceil(n / m)}")
    for variant in ("vanilla", "rope", "perceiver"):
        if (value := asked(12, 4, variant)) != 1:
            raise Wrong(
                f"{variant} gives {value} instead of 1: only perceiver_ar has latents of several inputs"
            )
    for block in draw(20, 200, 20):
        m = draw(1, block, 1)[0]
        if asked(block, m) != math.ceil(block / m):
            raise Wrong(
                "right for the examples, not for other sizes: ceil(block_size / bottleneck)"
            )
    return "ceil(block_size / bottleneck) for perceiver_ar, 1 for the others"


def check_reach_mask(fn: Callable) -> str:
    inputs, latents = torch.arange(6), torch.tensor([1, 3, 5])

    def asked(query: Tensor, key: Tensor, what: str) -> Tensor:
        got, shape = fn(query, key), (*query.shape, key.size(-1))
        if isinstance(got, Tensor) and got.mT.shape == shape != got.shape:
            raise Wrong(
                f"{what} is {tuple(got.shape)} instead of {shape}: transposed; a row is a query"
            )
        if tensor(got, shape, what).dtype != torch.bool:
            raise Wrong(f"{what} holds {got.dtype}: compare, with <=, and give True and False")
        return got

    down = asked(latents, inputs, "the Down mask, 3 latents by 6 inputs,")
    if torch.equal(down, causal_mask(6)[:3]):
        raise Wrong(
            "latent 0, whose reach is 1, sees input 0 alone: compare the reaches, not places in the list"
        )
    if torch.equal(down, latents[:, None] <= inputs):
        raise Wrong(
            "leak: the comparison is the wrong way round, latent 0 looks at everything after it"
        )
    if torch.equal(down, inputs < latents[:, None]):
        raise Wrong(
            "off by one: latent 0 may know of inputs up to 1, and cannot look at input 1; <=, not <"
        )
    up = asked(inputs, latents, "the Up mask, 6 outputs by 3 latents,")
    if up[0].any() and torch.equal(up[1:], latents <= inputs[1:, None]):
        raise Wrong(
            "leak: output 0 looks at a latent that holds input 1. An empty row stays empty; ∅ will fill it"
        )
    for told, query, key, mask in (
        ("latent", latents, inputs, down),
        ("output", inputs, latents, up),
    ):
        for q, k in (mask != (key <= query[:, None])).nonzero().tolist():
            may = f"{told} {q} may know of inputs up to {query[q]}"
            if mask[q, k]:
                raise Wrong(f"leak: {may}, yet looks at a key made from inputs up to {key[k]}")
            raise Wrong(f"too narrow: {may}, and misses a key made from inputs up to {key[k]}")
    if not asked(inputs, torch.tensor([-1, 1, 3, 5]), "the Up mask with ∅, 6 by 4,")[:, 0].all():
        raise Wrong("∅ has the reach -1, older than every input, and is not allowed to everybody")
    for B, T_query in ((2, 5), (3, 1)):
        query, key = (torch.randint(-1, 9, (B, T), generator=fresh_generator()) for T in (T_query, 4))
        if not torch.equal(
            asked(query, key, "the mask of a batch"), key[:, None, :] <= query[:, :, None]
        ):
            raise Wrong(
                "right for one row, wrong for a batch of rows: count axes from the end, -1 and -2"
            )
    return "no leak, nothing missing, for Down, Up, the null latent and batches"


def check_cross_attention(fn: Callable) -> str:
    layer, x, source = (
        randomise(MultiHeadAttention(12, 3), seed=1),
        numbers(2, 4, 12, seed=2),
        numbers(2, 4, 12, seed=3),
    )
    got = tensor(
        fn(layer, x, source, mask=None), x.shape, "the result for x and source of (2, 4, 12)"
    )
    sides = {
        "self": "keys and values come from x: they come from source, queries alone from x",
        "keys": "the keys come from x: keys and values both come from source",
        "values": "the values come from x: keys and values both come from source",
        "swapped": "queries come from source, keys and values from x: it is the other way round",
    }
    recognise(
        got,
        attention_with_mistake(layer, x, source),
        lambda slip: attention_with_mistake(layer, x, source, None, slip),
        MULTI_HEAD | sides,
        "the result without a mask",
    )

    x, source = x[:, :3], numbers(2, 6, 12, seed=4)
    mask = reach_mask(torch.tensor([1, 3, 5]), torch.arange(6))[None, None]  # (1, 1, 3, 6)
    got = tensor(fn(layer, x, source, mask=mask), x.shape, "the result for 3 queries and 6 keys")
    masks = {
        "the mask is not used: every query reads every key, a leak from the future": torch.ones_like(
            mask
        ),
        "left-aligned triangle, query i reads keys 0 ... i: use the mask that is given": causal_mask(
            6
        )[:3],
        "right-aligned triangle, query 0 reads keys 0 ... 3, a leak: use the mask that is given": causal_mask(
            6
        )[3:],
        "the mask is turned round: True is where a query may look": ~mask,
    }
    recognise(
        got,
        attention_with_mistake(layer, x, source, mask),
        lambda told: attention_with_mistake(layer, x, source, masks[told]),
        {told: told for told in masks},
        "the result with a mask",
    )
    for B, T_query, T_key, nh in ((1, 1, 1, 1), (3, 2, 5, 4), (2, 5, 2, 1)):
        layer = randomise(MultiHeadAttention(4 * nh, nh))
        x, source = numbers(B, T_query, 4 * nh), numbers(B, T_key, 4 * nh)
        mask = torch.rand(B, 1, T_query, T_key, generator=fresh_generator()) < 0.6
        mask[..., 0] = True  # no empty row
        got = tensor(fn(layer, x, source, mask=mask), x.shape, "the result")
        if not close(got, attention_with_mistake(layer, x, source, mask)):
            raise Wrong("right for the examples, not for other sizes and masks")
    return "queries from x, keys and values from source, T_query and T_key apart, any mask"


def check_block(fn: Callable) -> str:
    config = GPTConfig(4, n_embd=8, n_head=2, dropout=0.0)
    block, mask = randomise(Block(config, cross=True), seed=1), causal_mask(4)
    x, source = numbers(2, 4, 8, seed=2), numbers(2, 4, 8, seed=3)

    def slipped(slip: str) -> Tensor:
        def norm(layer: Callable, y: Tensor, unless: str) -> Tensor:
            return y if slip in ("no norms", unless) else layer(y)

        query = norm(block.ln1, x, "query not normed")
        key = norm(
            block.ln1 if slip == "ln1 twice" else block.ln_source, source, "source not normed"
        )
        gathered = block.attn(
            query, None if slip == "no source" else key, mask=None if slip == "no mask" else mask
        )
        kept = {"no residual": 0 * x, "source residual": source, "normed residual": query}.get(
            slip, x
        )
        y = kept + gathered
        thought = block.mlp(norm(block.ln2, x if slip == "mlp of x" else y, "mlp not normed"))
        return thought if slip == "no mlp residual" else y + thought

    got = tensor(fn(block, x, source, mask=mask), x.shape, "the result for x of (2, 4, 8)")
    slips = {
        "no residual": "the residual around the attention is missing: x is lost, and with it the current character",
        "source residual": "the residual is that of source: who asks keeps its own x",
        "normed residual": "the residual is ln1(x): keep x itself, and norm only what goes into the attention",
        "no mlp residual": "the residual around the MLP is missing: y + mlp(ln2(y))",
        "mlp of x": "the MLP works on x: it comes after the attention, on what that has made of x",
        "mlp not normed": "ln2 is missing before the MLP",
        "no norms": "no norm is used: ln1 for x, ln_source for source, ln2 before the MLP",
        "source not normed": "source goes in without its own norm, block.ln_source",
        "query not normed": "x goes in without its norm, block.ln1",
        "ln1 twice": "source goes through ln1: it has a norm of its own, block.ln_source",
        "no source": "the attention does not get source: x looks at itself alone",
        "no mask": "the mask, which stands in **where, does not reach the attention: a leak",
    }
    recognise(got, slipped(""), slipped, slips, "the result")
    alone = randomise(Block(config), seed=4)
    y = x + alone.attn(alone.ln1(x), mask=mask)
    if not close(
        tensor(fn(alone, x, mask=mask), x.shape, "the result without a source"),
        y + alone.mlp(alone.ln2(y)),
    ):
        raise Wrong(
            "right with a source, wrong without: then x looks at itself, and there is no ln_source"
        )
    block, x, source = randomise(Block(config, cross=True)), numbers(1, 5, 8), numbers(1, 3, 8)
    y = x + block.attn(block.ln1(x), block.ln_source(source))
    if not close(tensor(fn(block, x, source), x.shape, "the result"), y + block.mlp(block.ln2(y))):
        raise Wrong("right for the examples, not for 5 queries and 3 keys without a mask")
    return "both residuals, each norm at its place, with a source and without"


def newest(x: Tensor, local: Tensor, slip: str = "") -> Tensor:
    """Sum over k = 1, 2 ... of local[k - 1] * x[t - k], zeros before the start, with one mistake built in."""
    total = torch.zeros_like(x)
    for k in range(1, len(local) + 1):
        back = {"current": k - 1, "two back": k + 1, "future": -k}.get(slip, k)
        earlier = x.roll(back, dims=1)
        if slip != "wraps":
            at = torch.arange(x.size(1)) - back
            earlier = earlier * ((at >= 0) & (at < x.size(1)))[:, None]
        total = total + (local[-k] if slip == "turned" else local[k - 1]) * earlier
    return total + x if slip == "plus x" else total


def check_newest(fn: Callable) -> str:
    def asked(x: Tensor, local: Tensor, what: str) -> Tensor:
        return tensor(fn(None, local, x, torch.arange(x.size(1))[None], None), x.shape, what)

    x, local = (
        numbers(1, 5, 3, seed=1),
        numbers(2, 3, seed=2),
    )  # s = 4: up to two inputs are in no legal latent
    slips = {
        "wraps": "leak: output 0 gets input 4. Rolling brings the end round to the start: zeros belong there",
        "future": "leak: output 0 gets input 1. x[t - k] is an earlier input: move the text to the right",
        "current": "off by one: local[0] weighs the current input; it belongs to the one before, x[t - 1]",
        "two back": "off by one: local[0] weighs the input two back; it belongs to the one before, x[t - 1]",
        "turned": "the weights are in the wrong order: local[0] belongs to the newest of them, x[t - 1]",
        "plus x": "x itself is in the sum: the caller adds it, as the residual",
    }
    got = asked(x, local, "the result for x of (1, 5, 3)")
    recognise(got, newest(x, local), lambda slip: newest(x, local, slip), slips, "the sum")
    if asked(x, local[:0], "the result with no weights (s = 2)").any():
        raise Wrong("with no weights at all (s = 2) the sum is 0")
    for T, k in ((2, 3), (1, 2), (7, 4)):
        x, local = numbers(2, T, 3), numbers(k, 3)
        if not close(
            asked(x, local, f"the result for {T} inputs and {k} weights"), newest(x, local)
        ):
            raise Wrong(f"right for the example, wrong for {T} inputs and {k} weights")
    return "the inputs 1 ... s - 2 back, nothing from the future, zeros before the start"


def influence(out: Tensor, x: Tensor) -> Tensor:
    """(T, T) table: does output t (row) move when input j (column) does? x (1, T, C) is a leaf of out's graph."""
    mix = numbers(out.size(-1), seed=0)
    rows = [
        torch.autograd.grad(out[0, t] @ mix, x, retain_graph=True, allow_unused=True)[0]
        for t in range(out.size(1))
    ]
    return (
        torch.stack([torch.zeros_like(x[0]) if row is None else row[0] for row in rows])
        .ne(0)
        .any(-1)
    )


def check_sight(out: Tensor, x: Tensor, s: int) -> None:
    """Wrong, naming the first output that sees a later input, or misses an earlier one."""
    seen = influence(out, x)
    for t, j in (seen != causal_mask(len(seen))).nonzero().tolist():
        i, complete = j // s, s * (j // s + 1) - 1
        held = f"with stride {s} output {t} {'moves with' if seen[t, j] else 'misses'} input {j}, of latent {i}, complete at {complete}"
        if seen[t, j]:
            raise Wrong(
                f"leak: {held}: look at the reach s(i + 1) - 1, the start, and the mask of each step"
            )
        if j == t:
            raise Wrong(
                f"output {t} misses its own input {j}: the Up block gets x as its first argument"
            )
        if complete > t:
            raise Wrong(
                f"blind: {held}: add model._newest(up.local, x, positions, None) to x before the Up block"
            )
        raise Wrong(
            f"blind: {held}: is the reach s(i + 1) - 1, is a mask too narrow (left-aligned), a step left out?"
        )


def check_through_latents(fn: Callable) -> str:
    def asked(model: GPT, x: Tensor) -> Tensor:
        got = fn(model, x, torch.arange(x.size(1))[None], None)
        tensor(got, x.shape, f"the result for x of {tuple(x.shape)}")
        return got

    def own(model: GPT, x: Tensor) -> Tensor:
        with torch.no_grad():
            return GPT._through_latents(model, x, torch.arange(x.size(1))[None], None)

    def made(block: int, m: int, seed: int | None = None) -> GPT:
        return randomise(GPT(GPTConfig(4, block, 3, 2, 8, "perceiver_ar", m, dropout=0.0)), seed)

    for block, m, T in ((8, 4, 6), (12, 3, 11)):
        model, x = made(block, m, seed=1), numbers(1, T, 8, seed=2).requires_grad_()
        out = asked(model, x)
        if not out.isfinite().all():
            t = int((~out.isfinite()).any(-1)[0].nonzero()[0])
            raise Wrong(
                f"output {t} is no number: no latent is complete by {t}. Put up.null first, with reach -1"
            )
        if not out.requires_grad:
            raise Wrong("the result is cut off from x (detach, no_grad): nothing could be trained")
        check_sight(out, x, model.config.stride)
        null = torch.autograd.grad(out.sum(), model.blocks[-1].null, allow_unused=True)[0]
        if null is None or not null.any():
            raise Wrong(
                "nobody reads the null latent: put up.null before the latents, with reach -1"
            )
        expected = own(model, x)
        model.cos, model.sin = torch.ones_like(model.cos), torch.zeros_like(model.sin)
        told = "who sees what is right, yet"
        if close(out, own(model, x)):
            raise Wrong(
                f"{told} nothing is rotated: give each block its query_rotation and key_rotation"
            )
        if not close(out, expected):
            raise Wrong(
                f"{told} the numbers differ by up to {(out - expected).abs().max():.2g}: latent i starts as "
                "the newest input that it reads, s(i + 1) - 1; queries and keys are rotated by their reach"
            )
    for block, m, T in ((10, 10, 7), (9, 4, 9), (9, 4, 2)):
        model, x = made(block, m), numbers(2, T, 8)
        if not close(asked(model, x).detach(), own(model, x)):
            raise Wrong("right for the examples, not for other strides, lengths and batches")
    return "no leak, nothing missed, and the model's own numbers"


EXERCISES = (
    Exercise(
        "latent-stride", NOTEBOOK, "Inputs a latent", 1, 3, GPTConfig.stride.fget, check_stride
    ),
    Exercise("reach-mask", NOTEBOOK, "Who may look at whom", 2, 8, reach_mask, check_reach_mask),
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
        "block-residual", NOTEBOOK, "A block keeps its own", 3, 12, Block.forward, check_block
    ),
    Exercise(
        "newest-inputs", NOTEBOOK, "What no latent holds yet", 3, 10, GPT._newest, check_newest
    ),
    Exercise(
        "through-latents",
        NOTEBOOK,
        "Down, along, up",
        5,
        40,
        GPT._through_latents,
        check_through_latents,
    ),
)
