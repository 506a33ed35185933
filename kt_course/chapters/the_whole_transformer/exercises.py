"""Exercises of notebook 9: layer norm, the two blocks, teacher forcing, greedy decoding, beams."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_course.chapters.the_whole_transformer.seq2seq import (
    NORMS,
    DecoderBlock,
    EncoderBlock,
    Memory,
    Seq2SeqConfig,
    layer_norm,
    teacher_forcing,
)
from kt_course.chapters.the_whole_transformer.seq2seq_data import pad_rows
from kt_course.chapters.the_whole_transformer.seq2seq_decoding import beam_step, generate
from kt_course.exercises.assertions import Wrong, close, describe, fresh_cases, recognise, tensor
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.random_cases import draw, fresh_generator, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "09_the_whole_transformer"

# ---------------------------------------------------------------- layer norm


def check_layer_norm(fn: Callable) -> str:
    wrong = diagnoses(__file__, "layer-norm")
    x, eps = 3 * numbers(2, 4, 6, seed=1) + 2, 0.3  # a large eps shows where it is added
    for what, scale in (("for x of (2, 4, 6)", ()), ("with gain and bias", numbers(2, 6, seed=2))):
        got = tensor(fn(x, *scale, eps=eps), x.shape, f"the result {what}")
        wrong.compare(
            layer_norm, got, lambda f, scale=scale: f(x, *scale, eps=eps), f"the result {what}"
        )
    with fresh_cases("right for (2, 4, 6), wrong for other shapes: count axes from the end"):
        for shape in ((5,), (3, 7), (2, 3, 4, 8)):
            x, (gain, bias) = numbers(*shape), numbers(2, shape[-1])
            assert close(fn(x, gain, bias), layer_norm(x, gain, bias))
            assert close(fn(x, gain), layer_norm(x, gain))
    return "every position by its own channels, then gain and bias"


# ---------------------------------------------------------------- blocks

MASK = torch.tensor([[True, True, True, False], [True, True, False, False]])[:, None, None]


def random_block(kind: type, norm: str, seed: int | None = None) -> nn.Module:
    """A small block with random weights, float64."""
    return randomise(kind(Seq2SeqConfig(4, 4, 1, 1, 2, 8, 12, 0.0, norm)), seed)


def check_block(kind: type, id: str, fn: Callable, *args: Tensor) -> None:
    """Wrong, unless fn(block, *args) computes what pre-norm and post-norm blocks compute."""
    variants, blocks = diagnoses(__file__, id).variants(kind.forward), {}
    for norm in NORMS:
        block = random_block(kind, norm, seed=1)
        blocks[block] = tensor(fn(block, *args), args[0].shape, f"norm {norm!r}: the result")
    swapped, text = variants.pop("other way")
    if all(close(result, swapped(block, *args)) for block, result in blocks.items()):
        raise Wrong(text)
    for block, result in blocks.items():
        texts = {m: f"norm {block.norm!r}: {text}" for m, (_, text) in variants.items()}

        def compute(mistake: str, block: nn.Module = block) -> Tensor:
            return variants[mistake][0](block, *args)

        recognise(result, block(*args), compute, texts, f"norm {block.norm!r}: the result")


def check_encoder_block(fn: Callable) -> str:
    check_block(EncoderBlock, "encoder-block", fn, numbers(2, 4, 8, seed=2), MASK)
    with fresh_cases("right for the examples, wrong for other sizes, or without a mask (None)"):
        for norm, B, S in (("pre", 1, 1), ("post", 3, 6)):
            block, x = random_block(EncoderBlock, norm), numbers(B, S, 8)
            assert close(fn(block, x, None), block(x))
    return "both residuals, each norm in its position, pre and post, padding masked"


def check_decoder_block(fn: Callable) -> str:
    x, memory = numbers(2, 4, 8, seed=2), numbers(2, 4, 8, seed=3)  # T = S hides a mix-up of both
    check_block(DecoderBlock, "decoder-block", fn, x, memory, MASK)
    with fresh_cases("right for the examples, wrong for T other than S, or without a mask (None)"):
        for norm, B, T, S in (("pre", 1, 1, 3), ("post", 3, 6, 2)):
            block, x, memory = random_block(DecoderBlock, norm), numbers(B, T, 8), numbers(B, S, 8)
            assert close(fn(block, x, memory, None), block(x, memory))
    return "three residuals, each norm in its position, no future, the whole source"


# ---------------------------------------------------------------- teacher forcing


def check_teacher_forcing(fn: Callable) -> str:
    wrong = diagnoses(__file__, "teacher-forcing")

    def answer(target: Tensor, what: str) -> tuple[Tensor, ...]:
        got = fn(target)
        is_pair = isinstance(got, (tuple, list)) and len(got) == 2
        wrong.reject({"not two": not is_pair}, got=describe(got))
        B, T = target.shape
        named = list(zip(("inputs", "labels"), got, strict=True))
        for name, ids in named:
            short = isinstance(ids, Tensor) and tuple(ids.shape) == (B, T)
            where = dict(name=f"{name} of {what}", shape=(B, T), longer=(B, T + 1))
            wrong.reject({"too short": short}, **where)
        ids = tuple(tensor(ids, (B, T + 1), f"{name} of {what}") for name, ids in named)
        wrong.reject({"no ids": any(part.dtype != torch.int64 for part in ids)})
        return ids

    target = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]])
    results, expected = answer(target, "a target of (2, 4)"), teacher_forcing(target)
    for k, name in enumerate(("inputs", "labels")):
        if not torch.equal(results[k], expected[k]):
            for variant, text in wrong.variants(teacher_forcing, name).values():
                if torch.equal(results[k], variant(target)[k]):
                    raise Wrong(text)
            rows = dict(row=results[k][1].tolist(), expected=expected[k][1].tolist())
            raise wrong("row", name=name, **rows)
    with fresh_cases("right for the example, wrong for other targets"):
        for B, T in ((1, 1), (4, 6), (3, 3)):
            lengths = draw(0, T, B - 1) + [T]
            target = pad_rows([draw(3, 20, n) for n in lengths])
            inputs, labels = fn(target)
            for row, n in enumerate(lengths):
                tokens, rest = target[row, :n].tolist(), [0] * (T - n)
                assert inputs[row].tolist() == [1, *tokens, *rest]
                assert labels[row].tolist() == [*tokens, 2, *rest]
    return "inputs begin with ▶, ■ comes right after the last label, padding at the end"


# ---------------------------------------------------------------- decoding


class ScriptModel(nn.Module):
    """A model with one fixed answer per row: the first token of a source is the row's number.

    It also checks how it is used.
    """

    LOST = 30  # what it predicts after inputs that are not the beginning of its answer

    def __init__(self, rows: Sequence[Sequence[int]], V: int = 32):
        super().__init__()
        self.script, self.V, self.n_encoded = [list(row) for row in rows], V, 0

    def encode(self, source: Tensor) -> Memory:
        self.n_encoded += 1
        return Memory(source[..., None].double(), source != 0)

    def decode(self, inputs: Tensor, memory: Memory) -> Tensor:
        if not isinstance(inputs, Tensor) or inputs.ndim != 2 or not isinstance(memory, Memory):
            raise Wrong("model.decode takes inputs (B, T) and the memory that model.encode gave")
        if (inputs[:, 0] != 1).any():
            first = f"the first input of the decoder is {int(inputs[0, 0])}"
            raise Wrong(f"{first}: an answer begins with ▶ (1)")
        logits = torch.full((*inputs.shape, self.V), -3.0)
        for b, row in enumerate(inputs.tolist()):
            answer = [*self.script[int(memory.states[b, 0, 0]) - 3], 2]
            for t in range(len(row)):
                follows = t < len(answer) and row[1 : t + 1] == answer[:t]
                logits[b, t, answer[t] if follows else self.LOST] = 0.0
        return logits


def check_greedy(fn: Callable) -> str:
    wrong = diagnoses(__file__, "greedy-decoding")

    def answer(rows: list[list[int]], max_new: int) -> tuple[list[list[int]], int]:
        model = ScriptModel(rows)
        got = fn(model, torch.arange(len(rows))[:, None] + 3, max_new)
        got = got.tolist() if isinstance(got, Tensor) else got
        is_list = isinstance(got, (list, tuple)) and len(got) == len(rows)
        wrong.reject({"no list": not is_list}, n=len(rows), got=describe(got))
        return [[int(i) for i in row] for row in got], model.n_encoded

    rows = [[5, 6, 7, 8, 9], [10, 11], [12]]
    got, encoded = answer(rows, 9)
    begins = [row[: len(right)] for row, right in zip(got, rows, strict=True)]
    mistakes = {
        "holds start": any(row[:1] == [1] for row in got),
        "holds end": any(2 in row for row in got),
        "repeats": all(len(set(row)) == 1 and len(row) > 1 for row in got),
        "padding": any(0 in row for row in got),
        "too long": begins == rows and got != rows,
        "too early": got == [row[:1] for row in rows],
        "lost thread": any(ScriptModel.LOST in row for row in got),
        "rows": got != rows,
        "encoded": encoded > 1,
    }
    wrong.reject(mistakes, got=got, rows=rows, encoded=encoded)
    short, _ = answer(rows, 3)
    wrong.reject({"max_new": short != [row[:3] for row in rows]}, n=len(short[0]))
    with fresh_cases("right for the example, wrong for other answers"):
        for B in (1, 4):
            rows = [draw(3, 20, n) for n in draw(0, 6, B)]
            assert answer(rows, 8)[0] == rows
    return "token after token, each row to its own end"


def best_entries(table: Tensor, width: int) -> tuple[list[int], list[int]]:
    """Rows and columns of the `width` largest entries, largest first."""
    index = table.flatten().argsort(descending=True)[:width]
    return (index // table.size(1)).tolist(), (index % table.size(1)).tolist()


def check_beam_step(fn: Callable) -> str:
    wrong = diagnoses(__file__, "beam-step")

    def answer(log_p: Tensor, totals: Tensor, width: int) -> tuple[list[int], list[int], Tensor]:
        got, k = fn(log_p, totals, width), min(width, log_p.numel())
        is_triple = isinstance(got, (tuple, list)) and len(got) == 3
        wrong.reject({"not three": not is_triple}, got=describe(got))
        per_row = isinstance(got[0], Tensor) and got[0].shape == (log_p.size(0), k)
        wrong.reject({"one each": per_row})
        named = zip(got, ("rows", "tokens", "totals"), strict=True)
        rows, tokens, best = (tensor(part, (k,), name) for part, name in named)
        return rows.tolist(), tokens.tolist(), best

    # Two beginnings, four tokens: all three best extensions belong to the likelier beginning.
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.04, 0.06, 0.1, 0.8]]).double()
    log_p, totals = p.log(), torch.tensor([0.6, 0.1]).double().log()
    rows, tokens, best = answer(log_p, totals, 3)
    right, chosen = ([0, 0, 0], [0, 1, 2]), (rows, tokens)
    extensions = sorted(zip(*chosen, strict=True))
    product = totals[:, None] * log_p
    one_each = rows.count(1) and set(extensions) == {(0, 0), (1, 3)}
    mistakes = {
        "exchanged": chosen == right[::-1],
        "no totals": chosen == ([1, 0, 0], [3, 0, 1]),
        "product": chosen == best_entries(product, 3) and close(best, product[rows, tokens]),
        "smallest": chosen == best_entries(-(totals[:, None] + log_p), 3),
        "one each": chosen == ([0, 1, 0], [0, 3, 1]) or one_each,
        "order": extensions == sorted(zip(*right, strict=True)) and chosen != right,
        "divided by n": chosen == ([0, 0, 1], [0, 1, 0]),
        "other": chosen != right,
    }
    named = dict(rows=rows, tokens=tokens, right_rows=right[0], right_tokens=right[1])
    wrong.reject(mistakes, **named)
    probabilities = torch.tensor([0.24, 0.18, 0.12]).double()
    mistakes = {
        "probabilities": close(best, probabilities),
        "last token": close(best, p[0, :3].log()),
        "total": not close(best, probabilities.log()),
    }
    wrong.reject(mistakes, best=best[0], right=probabilities[0].log())
    with fresh_cases("right for the example, wrong for other sizes"):
        for n, V, width in ((1, 5, 2), (4, 6, 4), (3, 2, 9)):
            log_p = torch.randn(n, V, generator=fresh_generator()).double().log_softmax(-1)
            totals = torch.randn(n, generator=fresh_generator()).double()
            rows, tokens, best = answer(log_p, totals, width)
            extended = totals[:, None] + log_p
            assert (rows, tokens) == best_entries(extended, width)
            assert close(best, extended[rows, tokens])
    return "all extensions compete, best first, with their beginnings"


PYTORCHS = (F.layer_norm, torch.layer_norm)
EXERCISES = tuple(
    Exercise(id, NOTEBOOK, *details)
    for id, *details in (
        ("layer-norm", "One position at a time", 1, 5, layer_norm, check_layer_norm, PYTORCHS),
        ("encoder-block", "Gather, then think", 3, 12, EncoderBlock.forward, check_encoder_block),
        ("decoder-block", "Two kinds of looking", 4, 15, DecoderBlock.forward, check_decoder_block),
        (
            "teacher-forcing",
            "Read one, ask for the next",
            2,
            8,
            teacher_forcing,
            check_teacher_forcing,
        ),
        ("greedy-decoding", "Word after word", 3, 15, generate, check_greedy),
        ("beam-step", "All ways compete", 3, 10, beam_step, check_beam_step),
    )
)
