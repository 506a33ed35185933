"""Exercises of notebook 9: layer norm, the two kinds of block, teacher forcing, greedy decoding, a step of beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_core.attention import causal_mask
from kt_course.chapters.the_whole_transformer.seq2seq import (
    NORMS,
    DecoderBlock,
    EncoderBlock,
    Memory,
    Seq2SeqConfig,
    layer_norm,
)
from kt_course.chapters.the_whole_transformer.seq2seq_data import padded
from kt_course.chapters.the_whole_transformer.seq2seq_decoding import beam_step, generate
from kt_course.chapters.the_whole_transformer.seq2seq_training import teacher_forcing
from kt_course.exercises.assertions import Wrong, close, describe, fresh_cases, recognise, tensor
from kt_course.exercises.random_cases import draw, fresh_generator, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "09_the_whole_transformer"

# ---------------------------------------------------------------- layer norm


def normed(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, slip: str = ""
) -> Tensor:
    """Layer norm with one mistake built in."""
    axis = {"positions": -2, "batch": 0, "everything": tuple(range(x.ndim))}.get(slip, -1)
    mean = 0 * x if slip == "not centred" else x.mean(axis, keepdim=True)
    squares = (x - mean).square()
    variance = squares.mean(axis, keepdim=True)
    if slip == "one less":
        variance = squares.sum(-1, keepdim=True) / (x.size(-1) - 1)
    root = (variance + eps).sqrt()
    root = {
        "eps outside": variance.sqrt() + eps,
        "no eps": variance.sqrt(),
        "no root": variance + eps,
    }.get(slip, root)
    y = (x if slip == "only scaled" else x - mean) / root
    gain = torch.ones(()) if gain is None else gain
    bias = torch.zeros(()) if bias is None else bias
    if slip == "bias first":
        return (y + bias) * gain
    return y * (1 if slip == "no gain" else gain) + (0 if slip == "no bias" else bias)


NORM_SLIPS = {
    "positions": "mean and variance run over the positions: each position is normed by its own channels, the last axis",
    "batch": "mean and variance run over the batch, as in batch norm: use the channels of each position, the last axis",
    "everything": "one mean and one variance for the whole tensor: each position has its own, over the last axis",
    "not centred": "the mean is not taken away: this is RMS norm",
    "only scaled": "the mean is taken away in the variance only: subtract it from x too",
    "one less": "the variance is divided by C - 1: layer norm divides by C (unbiased=False)",
    "eps outside": "eps stands outside the root: sqrt(variance + eps)",
    "no eps": "eps is not used: sqrt(variance + eps)",
    "no root": "it divides by the variance: take its root",
    "no gain": "gain is not used: multiply by it",
    "no bias": "bias is not used: add it",
    "bias first": "bias is added before gain multiplies: norm, then times gain, then plus bias",
}


def check_layer_norm(fn: Callable) -> str:
    x, eps = 3 * numbers(2, 4, 6, seed=1) + 2, 0.3  # a large eps shows where it stands
    got = tensor(fn(x, eps=eps), x.shape, "the result for x of (2, 4, 6)")
    shape_only = {k: v for k, v in NORM_SLIPS.items() if "gain" not in k and "bias" not in k}
    recognise(
        got,
        normed(x, None, None, eps),
        lambda slip: normed(x, None, None, eps, slip),
        shape_only,
        "the result",
    )
    gain, bias = numbers(2, 6, seed=2)
    got = tensor(fn(x, gain, bias, eps), x.shape, "the result with gain and bias")
    recognise(
        got,
        normed(x, gain, bias, eps),
        lambda slip: normed(x, gain, bias, eps, slip),
        NORM_SLIPS,
        "the result with gain and bias",
    )
    with fresh_cases("right for (2, 4, 6), wrong for other shapes: count axes from the end"):
        for shape in ((5,), (3, 7), (2, 3, 4, 8)):
            x, (gain, bias) = numbers(*shape), numbers(2, shape[-1])
            assert close(fn(x, gain, bias), normed(x, gain, bias, 1e-5))
            assert close(fn(x, gain), normed(x, gain, None, 1e-5))
    return "every position by its own channels, gain and bias behind"


# ---------------------------------------------------------------- blocks

Part = tuple[nn.Module, Callable[[Tensor], Tensor]]


def through(x: Tensor, parts: Sequence[Part], norm: str, slip: str = "") -> Tensor:
    """x through sublayers (norm, function), each added to the stream, with one mistake built in.

    A slip such as "no residual 1" names the sublayer, counted from 0.
    """
    norm = {
        "always pre": "pre",
        "always post": "post",
        "other way": NORMS[1 - NORMS.index(norm)],
    }.get(slip, norm)
    parts = list(parts)
    if slip.startswith("order"):  # "order 01": sublayers 0 and 1 exchanged
        a, b = int(slip[-2]), int(slip[-1])
        parts[a], parts[b] = parts[b], parts[a]
    first = x
    for i, (own, f) in enumerate(parts):
        ln = (
            nn.Identity()
            if slip in ("no norms", f"no norm {i}")
            else parts[0][0]
            if slip == "one norm"
            else own
        )
        if norm == "pre":
            h = ln(first if slip == f"parallel {i}" else x)
            x = {f"no residual {i}": 0 * x, f"normed residual {i}": h}.get(slip, x) + f(h)
        else:
            h = first if slip == f"parallel {i}" else x
            x = ln((0 if slip == f"no residual {i}" else x) + f(h))
            x = ln(x) + x if slip == f"normed residual {i}" else x
    return parts[-1][0](x) if slip == "norm behind" else x


PLACES = {
    "always pre": "it works as a pre-norm block whatever block.norm says: with 'post' the norm comes behind the sum",
    "always post": "it works as a post-norm block whatever block.norm says: with 'pre' only what goes into a sublayer is normed",
    "no norms": "no norm is used",
    "one norm": "every sublayer goes through ln1: each has a norm of its own",
    "norm behind": "one norm too many: nothing is normed behind the last sum",
}


def sublayer_slips(names: Sequence[str]) -> dict[str, str]:
    """What can go wrong with the residual and the norm of each sublayer, told with its name."""
    found = {}
    for i, name in enumerate(names):
        found[f"no residual {i}"] = f"the residual around the {name} is missing: x + ..."
        found[f"normed residual {i}"] = (
            f"the residual around the {name} is the normed x: keep x itself"
        )
        found[f"no norm {i}"] = f"the norm of the {name}, ln{i + 1}, is missing"
        if i:
            found[f"parallel {i}"] = (
                f"the {name} works on the block's input: it comes after the {names[i - 1]}, on its result"
            )
    return found


def made(kind: type, norm: str, seed: int | None = None) -> nn.Module:
    """A small block with random weights, float64."""
    return randomise(kind(Seq2SeqConfig(4, 4, 1, 1, 2, 8, 12, 0.0, norm)), seed)


def judge_block(
    kind: type,
    asked: Callable[[nn.Module], Tensor],
    expected: Callable[[nn.Module, str], Tensor],
    x: Tensor,
    told: dict[str, str],
) -> None:
    """Wrong, if a block of `kind` does not come out of `asked` as `expected(block, "")`, for both places of the norm."""
    blocks = [made(kind, norm, seed=1) for norm in NORMS]
    got = [
        tensor(asked(b), x.shape, f"norm {b.norm!r}: the result for x of {tuple(x.shape)}")
        for b in blocks
    ]
    if all(close(one, expected(b, "other way")) for one, b in zip(got, blocks, strict=True)):
        raise Wrong(
            "pre and post are mixed up: 'pre' norms what goes into a sublayer, 'post' norms the sum"
        )
    for one, b in zip(got, blocks, strict=True):
        places = {slip: text for slip, text in PLACES.items() if slip != f"always {b.norm}"}
        here = {slip: f"norm {b.norm!r}: {text}" for slip, text in told.items()}
        recognise(
            one,
            expected(b, ""),
            lambda slip, b=b: expected(b, slip),
            places | here,
            f"norm {b.norm!r}: the result",
        )


def check_encoder_block(fn: Callable) -> str:
    x = numbers(2, 4, 8, seed=2)
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])[
        :, None, None
    ]  # (B, 1, 1, S)
    told = sublayer_slips(["attention", "feed-forward"]) | {
        "order 01": "the feed-forward comes first: attention gathers, then the feed-forward works on what was gathered",
        "no mask": "the mask does not reach the attention: padding is looked at",
        "causal": "the attention is causal: an encoder looks in both directions",
        "twice": "the attention runs twice: its second part is block.ff",
    }

    def expected(block: EncoderBlock, x: Tensor, mask: Tensor | None, slip: str = "") -> Tensor:
        allowed = {
            "no mask": None,
            "causal": causal_mask(x.size(1)) if mask is None else mask & causal_mask(x.size(1)),
        }
        allowed = allowed.get(slip, mask)

        def attention(h: Tensor) -> Tensor:
            return block.attn(h, mask=allowed)

        parts = [(block.ln1, attention), (block.ln2, attention if slip == "twice" else block.ff)]
        return through(x, parts, block.norm, slip)

    def asked(block: EncoderBlock) -> Tensor:
        return fn(block, x, mask)

    judge_block(EncoderBlock, asked, lambda block, slip: expected(block, x, mask, slip), x, told)
    with fresh_cases("right for the examples, wrong for other sizes, or without a mask (None)"):
        for norm, B, S in (("pre", 1, 1), ("post", 3, 6)):
            block, x = made(EncoderBlock, norm), numbers(B, S, 8)
            assert close(fn(block, x, None), expected(block, x, None))
    return "both residuals, each norm at its place, pre and post, padding closed"


def check_decoder_block(fn: Callable) -> str:
    x, memory = (
        numbers(2, 4, 8, seed=2),
        numbers(2, 4, 8, seed=3),
    )  # T = S: a mix-up of the two is silent
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])[
        :, None, None
    ]  # (B, 1, 1, S)
    told = sublayer_slips(["self-attention", "cross-attention", "feed-forward"]) | {
        "no future mask": "leak: the self-attention looks at the future; is_causal=True",
        "memory's mask": "leak: the self-attention gets the memory's mask: it needs is_causal=True, and no padding mask",
        "no mask": "memory_mask does not reach the cross-attention: padding of the source is looked at",
        "causal cross": "the cross-attention is causal: every target position may read the whole source",
        "no memory": "the cross-attention does not get memory: x looks at itself",
        "from memory": "queries come from memory, keys and values from x: it is the other way round",
        "memory normed": "memory goes through ln2: the encoder has normed it; ln2 is for x",
        "exchanged": "self_attn and cross_attn are exchanged",
        "order 01": "cross-attention comes before self-attention: first the target so far, then the source",
        "order 12": "feed-forward comes before cross-attention: it is the last of the three",
    }

    def expected(
        block: DecoderBlock, x: Tensor, memory: Tensor, mask: Tensor | None, slip: str = ""
    ) -> Tensor:
        own, other = block.self_attn, block.cross_attn
        if slip == "exchanged":
            own, other = other, own

        def look_back(h: Tensor) -> Tensor:
            if slip in ("no future mask", "memory's mask"):
                return own(h, mask=mask if slip == "memory's mask" else None)
            return own(h, is_causal=True)

        def look_over(h: Tensor) -> Tensor:
            if slip == "from memory":
                return other(memory, h, mask=mask)
            source = {"no memory": h, "memory normed": block.ln2(memory)}.get(slip, memory)
            if slip == "causal cross":
                return other(
                    h, source, mask=causal_mask(4) if mask is None else mask & causal_mask(4)
                )
            return other(h, source, mask=None if slip == "no mask" else mask)

        parts = [(block.ln1, look_back), (block.ln2, look_over), (block.ln3, block.ff)]
        return through(x, parts, block.norm, slip)

    def asked(block: DecoderBlock) -> Tensor:
        return fn(block, x, memory, mask)

    judge_block(
        DecoderBlock, asked, lambda block, slip: expected(block, x, memory, mask, slip), x, told
    )
    with fresh_cases("right for the examples, wrong for T other than S, or without a mask (None)"):
        for norm, B, T, S in (("pre", 1, 1, 3), ("post", 3, 6, 2)):
            block, x, memory = made(DecoderBlock, norm), numbers(B, T, 8), numbers(B, S, 8)
            assert close(fn(block, x, memory, None), expected(block, x, memory, None))
    return "three residuals, each norm at its place, no future, the whole source"


# ---------------------------------------------------------------- teacher forcing


def check_teacher_forcing(fn: Callable) -> str:
    def asked(target: Tensor, what: str) -> tuple[Tensor, Tensor]:
        result = fn(target)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise Wrong(f"needed are two tensors, inputs and labels, not {describe(result)}")
        B, T = target.shape
        for name, one in zip(("inputs", "labels"), result, strict=True):
            if isinstance(one, Tensor) and tuple(one.shape) == (B, T):
                raise Wrong(
                    f"{name} of {what} is {(B, T)}: one longer, {(B, T + 1)}, as ▶ stands in front and ■ behind"
                )
        found = tuple(
            tensor(one, (B, T + 1), f"{name} of {what}")
            for name, one in zip(("inputs", "labels"), result, strict=True)
        )
        if any(one.dtype != torch.int64 for one in found):
            raise Wrong("inputs and labels hold ids: int64, as target does")
        return found

    target = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]])
    inputs, labels = asked(target, "a target of (2, 4)")
    first, last = target.new_full((2, 1), 1), target.new_full((2, 1), 2)
    right_labels = torch.tensor([[5, 6, 7, 8, 2], [9, 4, 2, 0, 0]])
    if torch.equal(inputs, torch.cat([last, target], 1)):
        raise Wrong("inputs begin with ■ (2): an answer begins with ▶ (1)")
    if torch.equal(inputs, right_labels):
        raise Wrong(
            "leak: the decoder reads what it is asked for: inputs are ▶ and then the target"
        )
    if torch.equal(inputs, torch.cat([first, right_labels[:, :-1]], 1)):
        raise Wrong(
            "the input of the short row holds ■: nothing comes behind ■, so it is never read"
        )
    if not torch.equal(inputs, torch.cat([first, target], 1)):
        raise Wrong(f"inputs of the row 9, 4 are {inputs[1].tolist()} instead of [1, 9, 4, 0, 0]")
    if torch.equal(labels, torch.cat([target, last], 1)):
        raise Wrong(
            "■ of the short row stands behind its padding: right behind its last token, [9, 4, 2, 0, 0]"
        )
    if torch.equal(labels, inputs):
        raise Wrong(
            "labels equal inputs: the model would learn to copy. labels[t] follows inputs[t]"
        )
    if torch.equal(labels, F.pad(target, (0, 1))):
        raise Wrong("■ is missing in labels: the model would never learn to stop")
    filled = right_labels.masked_fill(right_labels == 0, 2)
    if torch.equal(labels, filled):
        raise Wrong(
            "padding of labels is ■: the loss would count it; behind ■ comes 0, which is left out"
        )
    if not torch.equal(labels, right_labels):
        raise Wrong(f"labels of the row 9, 4 are {labels[1].tolist()} instead of [9, 4, 2, 0, 0]")
    with fresh_cases("right for the example, wrong for other targets"):
        for B, T in ((1, 1), (4, 6), (3, 3)):
            lengths = draw(0, T, B - 1) + [T]
            target = padded([draw(3, 20, n) for n in lengths])
            inputs, labels = fn(target)
            for row, n in enumerate(lengths):
                tokens, rest = target[row, :n].tolist(), [0] * (T - n)
                assert inputs[row].tolist() == [1, *tokens, *rest]
                assert labels[row].tolist() == [*tokens, 2, *rest]
    return "▶ in front, ■ right behind the last token, padding at the end"


# ---------------------------------------------------------------- decoding


class Script(nn.Module):
    """A model that knows one answer a row, by heart: the first token of a source is the row's number.

    It also keeps an eye on how it is used.
    """

    def __init__(self, rows: Sequence[Sequence[int]], V: int = 32):
        super().__init__()
        self.script, self.V, self.encoded = [list(row) for row in rows], V, 0

    def encode(self, source: Tensor) -> Memory:
        self.encoded += 1
        return Memory(source[..., None].double(), source != 0)

    def decode(self, inputs: Tensor, memory: Memory) -> Tensor:
        if not isinstance(inputs, Tensor) or inputs.ndim != 2 or not isinstance(memory, Memory):
            raise Wrong("model.decode takes inputs (B, T) and the memory that model.encode gave")
        if (inputs[:, 0] != 1).any():
            raise Wrong(
                f"the first input of the decoder is {int(inputs[0, 0])}: an answer begins with ▶ (1)"
            )
        logits = torch.full((*inputs.shape, self.V), -3.0)
        for b, given in enumerate(inputs.tolist()):
            answer = self.script[int(memory.states[b, 0, 0]) - 3]
            for t in range(len(given)):
                read = given[1 : t + 1]
                token = (
                    [*answer, 2][t] if read == answer[:t] and t <= len(answer) else 30
                )  # 30: lost the thread
                logits[b, t, token] = 0.0
        return logits


def check_greedy(fn: Callable) -> str:
    def asked(rows: list[list[int]], max_new: int) -> tuple[list[list[int]], int]:
        model = Script(rows)
        got = fn(model, torch.arange(len(rows))[:, None] + 3, max_new)
        got = got.tolist() if isinstance(got, Tensor) else got
        if not isinstance(got, (list, tuple)) or len(got) != len(rows):
            raise Wrong(
                f"needed is a list of ids for each of the {len(rows)} rows, not {describe(got)}"
            )
        return [[int(i) for i in row] for row in got], model.encoded

    rows = [[5, 6, 7, 8, 9], [10, 11], [12]]
    got, encoded = asked(rows, 9)
    if any(row[:1] == [1] for row in got):
        raise Wrong("the answer holds ▶: it is what the decoder begins with, no part of the answer")
    if any(2 in row for row in got):
        raise Wrong("the answer holds ■: it ends the answer and is no part of it")
    if all(len(set(row)) == 1 and len(row) > 1 for row in got):
        raise Wrong(
            "it repeats the first token: append what was chosen to the inputs, and take the last position, logits[:, -1]"
        )
    if any(0 in row for row in got):
        raise Wrong("the answer holds padding (0): it ends where ■ was chosen")
    if [row[: len(r)] for row, r in zip(got, rows, strict=True)] == rows and got != rows:
        raise Wrong(
            "a row goes on behind its ■: each row ends where its own ■ comes, though others go on"
        )
    if got == [row[:1] for row in rows]:
        raise Wrong(
            "all rows stop as soon as one of them has reached its ■: go on until the last one has"
        )
    if any(30 in row for row in got):
        raise Wrong(
            "a row loses its thread: the decoder's inputs must be ▶ and then all tokens so far, in order"
        )
    if got != rows:
        raise Wrong(f"the rows are {got} instead of {rows}")
    if encoded > 1:
        raise Wrong(
            f"the source was encoded {encoded} times: once is enough, memory stays as it is"
        )
    cut, _ = asked(rows, 3)
    if cut != [row[:3] for row in rows]:
        raise Wrong(f"with max_new = 3 the first row has {len(cut[0])} tokens: 3 at most")
    with fresh_cases("right for the example, wrong for other answers"):
        for B in (1, 4):
            rows = [draw(3, 20, n) for n in draw(0, 6, B)]
            assert asked(rows, 8)[0] == rows
    return "token after token, each row to its own end"


def check_beam_step(fn: Callable) -> str:
    def asked(log_p: Tensor, totals: Tensor, width: int) -> tuple[list[int], list[int], Tensor]:
        got = fn(log_p, totals, width)
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            raise Wrong(f"needed are three tensors, rows, tokens and totals, not {describe(got)}")
        k = min(width, log_p.numel())
        if isinstance(got[0], Tensor) and got[0].shape == (log_p.size(0), k):
            raise Wrong(
                "every beginning keeps its own best: they compete, width of all n x V ways are kept"
            )
        rows, tokens, best = (
            tensor(one, (k,), name)
            for one, name in zip(got, ("rows", "tokens", "totals"), strict=True)
        )
        return rows.tolist(), tokens.tolist(), best

    # two beginnings, four tokens; the best way on comes from the less likely token of the likelier beginning
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.04, 0.06, 0.1, 0.8]]).double()
    before = torch.tensor([0.6, 0.1]).double()
    log_p, totals = p.log(), before.log()
    rows, tokens, best = asked(log_p, totals, 3)
    right = ([0, 0, 0], [0, 1, 2])
    found = (rows, tokens)
    if found == right[::-1]:
        raise Wrong("rows and tokens are exchanged: rows come first")
    if found == ([1, 0, 0], [3, 0, 1]):
        raise Wrong(
            "the totals so far are not counted: an unlikely beginning wins by its last token"
        )
    product = totals[:, None] * log_p
    if found == tuple(part.tolist() for part in ways(product, 3)) and close(
        best, product[rows, tokens]
    ):
        raise Wrong("log-probabilities are multiplied: probabilities multiply, their logs add")
    if found == tuple(part.tolist() for part in ways(-(totals[:, None] + log_p), 3)):
        raise Wrong("it keeps the unlikeliest: the largest totals are the likeliest")
    if found == ([0, 1, 0], [0, 3, 1]) or (
        rows.count(1) and set(zip(rows, tokens, strict=True)) == {(0, 0), (1, 3)}
    ):
        raise Wrong(
            "every beginning keeps its own best: they compete, width of all n x V ways are kept"
        )
    if sorted(zip(*found, strict=True)) == sorted(zip(*right, strict=True)) and found != right:
        raise Wrong("the right ways in another order: best first")
    flat = (torch.tensor([0, 1, 2]) // 2).tolist(), (torch.tensor([0, 1, 2]) % 2).tolist()
    if found == flat:
        raise Wrong(
            "the place in the flattened table is taken apart by n: row = place // V, token = place % V"
        )
    if found != right:
        raise Wrong(
            f"the three best are rows {rows} with tokens {tokens} instead of {right[0]} with {right[1]}"
        )
    every = torch.tensor([0.24, 0.18, 0.12]).double()
    if close(best, every):
        raise Wrong("the totals are probabilities: give their logs, as they came")
    if close(best, p[0, :3].log()):
        raise Wrong("the totals are those of the last token alone: add what the beginning had")
    if not close(best, every.log()):
        raise Wrong(f"the best total is {best[0]:.3f} instead of {every.log()[0]:.3f}")
    with fresh_cases("right for the example, wrong for other sizes"):
        for n, V, width in ((1, 5, 2), (4, 6, 4), (3, 2, 9)):
            log_p = torch.randn(n, V, generator=fresh_generator()).double().log_softmax(-1)
            totals = torch.randn(n, generator=fresh_generator()).double()
            rows, tokens, best = asked(log_p, totals, width)
            expected = ways(totals[:, None] + log_p, min(width, n * V))
            assert (rows, tokens) == tuple(part.tolist() for part in expected)
            assert close(best, (totals[:, None] + log_p)[rows, tokens])
    return "all ways compete, best first, with their beginnings"


def ways(every: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the `width` largest entries, largest first."""
    at = every.flatten().argsort(descending=True)[:width]
    return at // every.size(1), at % every.size(1)


EXERCISES = (
    Exercise(
        "layer-norm",
        NOTEBOOK,
        "One position at a time",
        1,
        5,
        layer_norm,
        check_layer_norm,
        (F.layer_norm, torch.layer_norm),
    ),
    Exercise(
        "encoder-block",
        NOTEBOOK,
        "Gather, then think",
        3,
        12,
        EncoderBlock.forward,
        check_encoder_block,
    ),
    Exercise(
        "decoder-block",
        NOTEBOOK,
        "Two kinds of looking",
        4,
        15,
        DecoderBlock.forward,
        check_decoder_block,
    ),
    Exercise(
        "teacher-forcing",
        NOTEBOOK,
        "Read one, ask for the next",
        2,
        8,
        teacher_forcing,
        check_teacher_forcing,
    ),
    Exercise("greedy-decoding", NOTEBOOK, "Word after word", 3, 15, generate, check_greedy),
    Exercise("beam-step", NOTEBOOK, "All ways compete", 3, 10, beam_step, check_beam_step),
)
