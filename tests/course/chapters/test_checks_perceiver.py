"""Answers to the exercises of notebook 6, right and wrong: every mistake gets its name."""

import math

import torch
import torch.nn.functional as F
from checking import Answers, quiz_suite, suite

import kt_core as kt
from kt_core.attention import MultiHeadAttention
from kt_core.blocks import Block
from kt_core.perceiver import newest_inputs
from kt_course.exercises.multi_head_mistakes import MULTI_HEAD, attention_with_mistake

# ---------------------------------------------------------------- the stride


def stub_stride(config):
    """Inputs a latent."""
    ...


def stride(config):
    return (
        math.ceil(config.block_size / config.bottleneck) if config.variant == "perceiver_ar" else 1
    )


def strides(divide):
    return lambda config: (
        divide(config.block_size, config.bottleneck) if config.variant == "perceiver_ar" else 1
    )


STRIDE = Answers(
    stub=stub_stride,
    wrong={
        "floor": (strides(lambda n, m: n // m), "rounds down"),
        "one more": (strides(lambda n, m: n // m + 1), "adds one"),
        "nearest": (strides(lambda n, m: round(n / m)), "not to nearest"),
        "float": (strides(lambda n, m: n / m), "whole number"),
        "upside down": (strides(lambda n, m: -(-m // n)), "not latents by inputs"),
        "any variant": (
            lambda config: -(-config.block_size // config.bottleneck),
            "vanilla gives 3 instead of 1",
        ),
        "the examples": (
            strides(lambda n, m: {(128, 64): 2, (13, 5): 3, (13, 6): 3, (12, 4): 3}.get((n, m), 2)),
            "not for other sizes",
        ),
    },
    right={
        "ceil": stride,
        "divmod": strides(lambda n, m: sum(map(bool, divmod(n, m))) and n // m + bool(n % m)),
    },
    borrowed=lambda config: config.stride,
)

# ---------------------------------------------------------------- masks


def stub_mask(query_reach, key_reach): ...


def empty_row_filled(query, key):
    mask = key.unsqueeze(-2) <= query.unsqueeze(-1)
    return mask | (~mask.any(-1, keepdim=True) & (torch.arange(key.size(-1)) == 0))


def by_places(query, key):
    return torch.ones(query.size(-1), key.size(-1), dtype=torch.bool).tril()


def one_further(query, key):
    return key.unsqueeze(-2) <= query.unsqueeze(-1) + 1


def without_the_null(query, key):
    return (key.unsqueeze(-2) <= query.unsqueeze(-1)) & (key.unsqueeze(-2) >= 0)


def one_row_only(query, key):
    return (
        key[None, :] <= query[:, None]
        if query.ndim == 1
        else (key[0] <= query[0, :, None]).expand(len(key), -1, -1)
    )


def mask_by_loops(query, key):
    rows = torch.zeros(*query.shape, key.size(-1), dtype=torch.bool)
    for q in range(query.size(-1)):
        for k in range(key.size(-1)):
            rows[..., q, k] = key[..., k] <= query[..., q]
    return rows


MASK = Answers(
    stub=stub_mask,
    wrong={
        "wrong way": (lambda q, k: k.unsqueeze(-2) >= q.unsqueeze(-1), "leak.*wrong way round"),
        "strict": (lambda q, k: k.unsqueeze(-2) < q.unsqueeze(-1), "off by one"),
        "transposed": (lambda q, k: k.unsqueeze(-1) <= q.unsqueeze(-2), "transposed"),
        "floats": (
            lambda q, k: (k.unsqueeze(-2) <= q.unsqueeze(-1)).float(),
            "float32.*True and False",
        ),
        "places": (by_places, "not the indices in the list"),
        "empty row": (empty_row_filled, "leak: output 0.*empty"),
        "one further": (one_further, "leak: latent 0 may know of inputs up to 1.* up to 2"),
        "no null": (without_the_null, "∅"),
        "no batch": (one_row_only, "batch"),
        "nothing": (lambda q, k: k.unsqueeze(-2) < -q.unsqueeze(-1) - 9, "too narrow: latent 0"),
    },
    right={
        "loops": mask_by_loops,
        "turned round": lambda q, k: ~(q[..., :, None] < k[..., None, :]),
        "outer difference": lambda q, k: (q[..., None] - k[..., None, :]).ge(0),
    },
    borrowed=lambda q, k: kt.reach_mask(q, k),
)

# ---------------------------------------------------------------- attention between two sequences


def stub_attention(layer, x, source, mask=None):
    """Gather from source."""
    raise NotImplementedError


def mistaken(mistake, turned=None):
    def answer(layer, x, source, mask=None):
        return attention_with_mistake(
            layer, x, source, turned(mask) if turned and mask is not None else mask, mistake
        )

    return answer


def by_pytorch(layer, x, source, mask=None):
    def heads(y):
        return y.view(len(y), -1, layer.n_head, y.size(-1) // layer.n_head).transpose(1, 2)

    q, k, v = heads(layer.query(x)), heads(layer.key(source)), heads(layer.value(source))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return layer.proj(y.transpose(1, 2).reshape(x.shape))


def head_by_head(layer, x, source, mask=None):
    hs, heads = x.size(-1) // layer.n_head, []
    for h in range(layer.n_head):
        part = slice(h * hs, (h + 1) * hs)
        q, k, v = (
            layer.query(x)[..., part],
            layer.key(source)[..., part],
            layer.value(source)[..., part],
        )
        scores = torch.einsum("btc,bsc->bts", q, k) / hs**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, 0], -torch.inf)
        heads.append(
            torch.einsum("bts,bsc->btc", scores.exp() / scores.exp().sum(-1, keepdim=True), v)
        )
    return layer.proj(torch.cat(heads, -1))


def left_aligned(mask):
    return torch.ones_like(mask).tril()


def right_aligned(mask):
    return torch.ones_like(mask).tril(mask.size(-1) - mask.size(-2))


CROSS = Answers(
    stub=stub_attention,
    wrong={
        mistake: (mistaken(mistake), MULTI_HEAD[mistake][:20].split("(")[0])
        for mistake in MULTI_HEAD
    }
    | {
        "self": (mistaken("self"), "keys and values come from x"),
        "keys": (mistaken("keys"), "the keys come from x"),
        "values": (mistaken("values"), "the values come from x"),
        "swapped": (mistaken("swapped"), "other way round"),
        "detached": (torch.no_grad()(mistaken("")), "cut off"),
        "no mask": (mistaken("", torch.ones_like), "mask is not used.*leak"),
        "left": (mistaken("", left_aligned), "left-aligned"),
        "right": (mistaken("", right_aligned), "right-aligned.*leak"),
        "inverted": (mistaken("", torch.logical_not), "inverted"),
        "no such thing": (
            lambda layer, x, source, mask=None: layer.dequery(x),
            "no attribute 'dequery'",
        ),
        "shape": (
            lambda layer, x, source, mask=None: layer.proj(source),
            "3 queries.*shape|differs",
        ),
    },
    right={"PyTorch's": by_pytorch, "head by head": head_by_head},
    borrowed=lambda layer, x, source, mask=None: layer(x, source, mask=mask),
)

# ---------------------------------------------------------------- the block


def stub_block(block, x, source=None, mask=None): ...


def block(
    residual=lambda x, source, q: x,
    middle=lambda x, y: y,
    ln=None,
    ln2=True,
    out=lambda y, z: y + z,
    query=None,
):
    """The block, with parts to be exchanged for wrong ones."""

    def answer(block, x, source=None, mask=None):
        q = block.ln1(x) if query is None else query(block, x)
        key = None if source is None else (ln or (lambda b, s: b.ln_source(s)))(block, source)
        y = residual(x, source if source is not None else x, q) + block.attn(q, key, mask)
        z = middle(x, y)
        return out(y, block.mlp(block.ln2(z) if ln2 else z))

    return answer


def always_crosses(block, x, source=None, mask=None):
    y = x + block.attn(block.ln1(x), block.ln_source(source), mask)
    return y + block.mlp(block.ln2(y))


def deaf(block, x, source=None, mask=None):
    y = x + block.attn(block.ln1(x), None if source is None else block.ln_source(source))
    return y + block.mlp(block.ln2(y))


def by_parts(block, x, source=None, mask=None):
    y = (
        block.attn(block.ln1(x), None, mask)
        if source is None
        else block.attn(block.ln1(x), block.ln_source(source), mask)
    )
    y += x
    hidden = F.gelu(block.mlp.up(block.ln2(y)))
    return torch.add(y, block.mlp.proj(hidden))


BLOCK = Answers(
    stub=stub_block,
    wrong={
        "no residual": (block(residual=lambda x, s, q: 0), "residual around the attention"),
        "source residual": (block(residual=lambda x, s, q: s), "residual is that of source"),
        "normed residual": (block(residual=lambda x, s, q: q), r"residual is ln1\(x\)"),
        "no second residual": (block(out=lambda y, z: z), "residual around the MLP"),
        "parallel": (block(middle=lambda x, y: x), "MLP works on x"),
        "mlp not normed": (block(ln2=False), "ln2 is missing"),
        "source not normed": (block(ln=lambda b, s: s), "ln_source"),
        "ln1 for both": (block(ln=lambda b, s: b.ln1(s)), "goes through ln1"),
        "query not normed": (block(query=lambda b, x: x), "x goes in without"),
        "no norms": (block(query=lambda b, x: x, ln=lambda b, s: s, ln2=False), "no norm is used"),
        "no source": (block(ln=lambda b, s: None), "does not get source"),
        "no mask": (deaf, "mask.*leak"),
        "detached": (lambda *args, **options: block()(*args, **options).detach(), "cut off"),
        "crosses alone": (always_crosses, "NoneType|ln_source"),
    },
    right={"by parts": by_parts, "with knobs": block()},
    borrowed=lambda block, x, source=None, mask=None: Block.forward(block, x, source, mask),
)

# ---------------------------------------------------------------- the newest inputs


def stub_newest(local, x): ...


def newest_by(move, order=lambda local: local):
    def answer(local, x):
        total = torch.zeros_like(x)
        for k, weight in enumerate(order(local), start=1):
            total = total + weight * move(x, k)
        return total

    return answer


def back(x, k):
    return F.pad(x, (0, 0, k, 0))[:, : x.size(1)]


def by_convolution(local, x):
    if not len(local):
        return torch.zeros_like(x)
    kernel = local.flip(0).T[:, None]  # (C, 1, k): a filter a channel
    padded = F.pad(x.transpose(1, 2), (len(local), 0))
    return F.conv1d(padded, kernel, groups=x.size(-1))[..., : x.size(1)].transpose(1, 2)


def in_a_loop(local, x):
    rows = []
    for t in range(x.size(1)):
        rows.append(
            sum(
                (local[k - 1] * x[:, t - k] for k in range(1, len(local) + 1) if t >= k),
                0 * x[:, t],
            )
        )
    return torch.stack(rows, 1)


NEWEST = Answers(
    stub=stub_newest,
    wrong={
        "roll": (newest_by(lambda x, k: x.roll(k, 1)), "leak.*input 4"),
        "future": (newest_by(lambda x, k: F.pad(x, (0, 0, 0, k))[:, k:]), "leak.*input 1"),
        "from the current": (newest_by(lambda x, k: back(x, k - 1)), "off by one.*current"),
        "two back": (newest_by(lambda x, k: back(x, k + 1)), "off by one.*two back"),
        "order": (newest_by(back, lambda local: local.flip(0)), "wrong order"),
        "with x": (lambda w, x: x + newest_by(back)(w, x), "residual"),
        "over channels": (newest_by(lambda x, k: F.pad(x, (k, 0))[..., : x.size(-1)]), "differs"),
        "no weights": (lambda w, x: newest_by(back)(w, x) if len(w) else x, "s = 2"),
        "short texts": (
            lambda w, x: newest_by(back)(w, x) * (x.size(1) > len(w)),
            "2 inputs and 3",
        ),
    },
    right={"loop": in_a_loop, "convolution": by_convolution},
    borrowed=lambda local, x: newest_inputs(local, x),
)

# ---------------------------------------------------------------- down, along, up


def stub_stack(blocks, x, positions, rotary): ...


def stack(
    reach=0,
    newest=True,
    null=True,
    rotated=True,
    residual=True,
    start=None,
    down_mask=None,
    up_mask=None,
    detach=False,
):
    """The three steps, with parts to be exchanged for wrong ones."""

    def answer(blocks, x, positions, rotary):
        down, *middle, up = blocks
        s, T = blocks.config.stride, x.size(1)
        n = -(-T // s)
        newest_read = s * (torch.arange(n)[None] + 1) - 1 + reach  # (1, n)

        def where(query, key, mask=None):
            rotation = (rotary(query), rotary(key)) if rotated else None
            allowed = kt.reach_mask(query, key) if mask is None else mask
            return dict(mask=allowed[:, None], rotation=rotation)

        first = x[:, newest_read[0].clamp(max=T - 1)] if start is None else start(x, s, n)
        z = down(first, x, **where(newest_read, positions, down_mask and down_mask(n, T)))
        for block in middle:
            z = block(z, **where(newest_read, newest_read))
        if null:
            z = torch.cat([up.null.expand(len(x), 1, -1), z], 1)
            newest_read = F.pad(newest_read, (1, 0), value=-1)
        if newest:
            x = x + newest_inputs(up.local, x)
        z = z.detach() if detach else z
        y = up(x, z, **where(positions, newest_read, up_mask and up_mask(T, newest_read.size(1))))
        return y if residual else y - x

    return answer


def triangle(rows, columns):
    return torch.ones(1, rows, columns, dtype=torch.bool).tril()


def everything(rows, columns):
    return torch.ones(1, rows, columns, dtype=torch.bool)


def complete_ones_alone(blocks, x, positions, rotary):
    """Without the last latent, which no output may read while it is incomplete."""
    s, T = blocks.config.stride, x.size(1)
    if T < s:
        return stack()(blocks, x, positions, rotary)
    down, *middle, up = blocks
    complete = torch.arange(s - 1, T, s)
    latents, inputs = rotary(complete[None]), rotary(positions)
    mask = torch.arange(T) <= complete[:, None]
    z = down(x[:, complete], x, mask, (latents, inputs))
    for block in middle:
        z = block(z, None, kt.causal_mask(len(complete)), (latents, latents))
    complete = torch.cat([torch.tensor([-1]), complete])
    z = torch.cat([up.null.expand(len(x), 1, -1), z], 1)
    mask = complete <= torch.arange(T)[:, None]
    return up(x + newest_inputs(up.local, x), z, mask, (inputs, rotary(complete[None])))


STACK = Answers(
    stub=stub_stack,
    wrong={
        "reach one more": (stack(reach=1), r"blind.*reach s\(i \+ 1\) - 1"),
        "reach one less": (stack(reach=-1), "numbers differ.*newest input"),
        "no newest": (stack(newest=False), "blind.*newest_inputs"),
        "no null": (stack(null=False), "null latent"),
        "not rotated": (stack(rotated=False), "nothing is rotated"),
        "start at the first": (
            stack(start=lambda x, s, n: x[:, ::s][:, :n]),
            "starts? as the newest",
        ),
        "start beyond": (
            stack(start=lambda x, s, n: x[:, (s * (torch.arange(n) + 1)).clamp(max=x.size(1) - 1)]),
            "leak",
        ),
        "left-aligned Down": (stack(down_mask=triangle), "blind.*left-aligned"),
        "open Down": (stack(down_mask=everything), "leak"),
        "open Up": (stack(up_mask=everything), "leak: .* output 0 depends on input"),
        "up of the latents": (
            lambda blocks, x, positions, rotary: 0 * x,
            "does not|misses its own|cut off",
        ),
        "detached": (stack(detach=True), "blind"),
        "no gradient": (torch.no_grad()(stack()), "cut off"),
    },
    right={"in steps": stack(), "complete latents alone": complete_ones_alone},
    borrowed=lambda blocks, x, positions, rotary: blocks(x, positions, rotary),
)

ANSWERS = {
    "latent-stride": STRIDE,
    "reach-mask": MASK,
    "cross-attention": CROSS,
    "block-residual": BLOCK,
    "newest-inputs": NEWEST,
    "through-latents": STACK,
}
TestExercises = suite("06_perceiver_ar", ANSWERS)
TestQuizzes = quiz_suite("06_perceiver_ar")


def test_the_formula_of_the_checks_is_the_layers():
    """What the checks compare with is what the model does, mask and all."""
    torch.manual_seed(0)
    layer = MultiHeadAttention(12, 3).eval()
    x, source, mask = torch.randn(2, 3, 12), torch.randn(2, 5, 12), torch.rand(2, 1, 3, 5) < 0.5
    torch.testing.assert_close(
        attention_with_mistake(layer, x, source, mask), layer(x, source, mask=mask)
    )
    for mistake in MULTI_HEAD:
        assert not torch.allclose(
            attention_with_mistake(layer, x, source, mask, mistake),
            layer(x, source, mask=mask),
            atol=1e-3,
        )
