"""The checks of notebook 9: each names its mistakes, and takes every correct answer."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from answering import NOTEBOOKS
from checking import Answers, cells, mistakes, notebook_suite, quiz_suite, suite
from experiments import FOLDER
from torch import nn

from kt_core.attention import causal_mask
from kt_course.chapters.the_whole_transformer import exercises, solutions
from kt_course.chapters.the_whole_transformer.exercises import ScriptModel, config
from kt_course.chapters.the_whole_transformer.seq2seq import Memory
from kt_course.chapters.the_whole_transformer.solutions import (
    DecoderBlock,
    EncoderBlock,
    Transformer,
    beam_step,
    teacher_forcing,
    write,
)
from kt_course.exercises.random_cases import numbers, randomise

NAME = "09_the_whole_transformer"


def as_block(kind, forward):
    """A class with the layers of `kind` and another forward pass."""
    return type("Mine", (kind,), {"forward": forward})


def in_words(answers: Answers, kind) -> Answers:
    """Answers whose functions of a block become classes."""
    return Answers(
        as_block(kind, answers.stub),
        {n: (as_block(kind, fn), text) for n, (fn, text) in answers.wrong.items()},
        {n: as_block(kind, fn) for n, fn in answers.right.items()},
        as_block(kind, lambda block, *args: kind.forward(block, *args)),
    )


# ---------------------------------------------------------------- blocks


def run_sublayers(x, parts, norm, mistake=""):
    """Add sublayers to the stream x one after the other, with one mistake built in.

    A mistake such as "no residual 1" names the sublayer, counted from 0; "order 01" exchanges two.
    """
    other = {"pre": "post", "post": "pre"}[norm]
    norm = {"always pre": "pre", "always post": "post", "other way": other}.get(mistake, norm)
    parts = list(parts)
    if mistake.startswith("order"):
        a, b = int(mistake[-2]), int(mistake[-1])
        parts[a], parts[b] = parts[b], parts[a]
    first = x
    for i, (own_norm, f) in enumerate(parts):
        ln = parts[0][0] if mistake == "one norm" else own_norm
        ln = nn.Identity() if mistake in ("no norms", f"no norm {i}") else ln
        read = first if mistake == f"parallel {i}" else x
        if norm == "pre":
            h = ln(read)
            residuals = {f"no residual {i}": 0 * x, f"normed residual {i}": h}
            x = residuals.get(mistake, x) + f(h)
        else:
            x = ln((0 if mistake == f"no residual {i}" else x) + f(read))
            x = ln(x) + x if mistake == f"normed residual {i}" else x
    return parts[-1][0](x) if mistake == "norm after" else x


# ---------------------------------------------------------------- the encoder's block


def stub_encoder(block, x, mask=None): ...


def encoder(slip="", looking=None, second="ff"):
    """A block with a mistake of `run_sublayers`, other attention, or another second part."""

    def answer(block, x, mask=None):
        look = looking or (lambda attn, h, mask: attn(h, mask=mask))
        behind = block.ff if second == "ff" else lambda h: look(block.attn, h, mask)
        return run_sublayers(
            x,
            [(block.ln1, lambda h: look(block.attn, h, mask)), (block.ln2, behind)],
            block.norm,
            slip,
        )

    return answer


def both_ways_only_back(attn, h, mask):
    back = causal_mask(h.size(1))
    return attn(h, mask=back if mask is None else mask & back)


def spelled_out(block, x, mask=None):
    if block.norm == "post":
        gathered = block.attn(x, x, mask=mask)
        x = F.layer_norm(x + gathered, (x.size(-1),), block.ln1.weight, block.ln1.bias)
        thought = (
            torch.relu(x @ block.ff.up.weight.T + block.ff.up.bias) @ block.ff.proj.weight.T
            + block.ff.proj.bias
        )
        return block.ln2(thought + x)
    h = block.ln1(x)
    stream = x.clone()
    stream += block.attn(h, h, mask=mask)
    return block.ff(block.ln2(stream)) + stream


def needs_a_mask(block, x, mask=None):
    return encoder()(block, x, mask.expand(-1, 1, -1, -1))


ENCODER = Answers(
    stub=stub_encoder,
    wrong={
        "no residual around attention": (
            encoder("no residual 0"),
            "residual around the attention is missing",
        ),
        "no residual around ff": (
            encoder("no residual 1"),
            "residual around the feed-forward is missing",
        ),
        "normed residual": (
            encoder("normed residual 0"),
            "residual around the attention is the normed x",
        ),
        "always pre": (encoder("always pre"), "pre-norm block whatever"),
        "always post": (encoder("always post"), "post-norm block whatever"),
        "pre is post": (encoder("other way"), "pre and post are mixed up"),
        "no norms": (encoder("no norms"), "no norm is used"),
        "ln1 twice": (encoder("one norm"), "ln1: each has a norm"),
        "no second norm": (encoder("no norm 1"), "ln2, is missing"),
        "in parallel": (encoder("parallel 1"), "works on the block's input"),
        "ff first": (encoder("order 01"), "feed-forward comes first"),
        "a norm after": (encoder("norm after"), "one norm too many"),
        "no mask": (encoder(looking=lambda attn, h, mask: attn(h)), "padding is attended to"),
        "causal": (encoder(looking=both_ways_only_back), "looks in both directions"),
        "attention twice": (encoder(second="attention"), "attention runs twice"),
        "mask turned": (
            encoder(looking=lambda attn, h, mask: attn(h, mask=None if mask is None else ~mask)),
            "differs|raised|NaN",
        ),
        "only masked": (needs_a_mask, "without a mask"),
        "in place": (lambda block, x, mask=None: x.add_(block.attn(x, mask=mask)), "in place"),
    },
    right={"spelled out": spelled_out, "parts": encoder()},
    borrowed=None,
)

# ---------------------------------------------------------------- the decoder's block


def stub_decoder(block, x, memory, memory_mask=None): ...


def decoder(slip="", back=None, over=None):
    def answer(block, x, memory, memory_mask=None):
        look_back = back or (lambda block, h, mask: block.self_attn(h, mask=causal_mask(h.size(1))))
        look_over = over or (lambda block, h, memory, mask: block.cross_attn(h, memory, mask=mask))
        parts = [
            (block.ln1, lambda h: look_back(block, h, memory_mask)),
            (block.ln2, lambda h: look_over(block, h, memory, memory_mask)),
            (block.ln3, block.ff),
        ]
        return run_sublayers(x, parts, block.norm, slip)

    return answer


def exchanged(block, x, memory, memory_mask=None):
    return decoder(
        back=lambda block, h, mask: block.cross_attn(h, mask=causal_mask(h.size(1))),
        over=lambda block, h, memory, mask: block.self_attn(h, memory, mask=mask),
    )(block, x, memory, memory_mask)


def causal_over(block, h, memory, mask):
    reach = torch.ones(h.size(1), memory.size(1), dtype=torch.bool).tril()
    return block.cross_attn(h, memory, mask=reach if mask is None else mask & reach)


def line_by_line(block, x, memory, memory_mask=None):
    triangle = causal_mask(x.size(1))
    pre = block.norm == "pre"
    a = x + block.self_attn(block.ln1(x) if pre else x, mask=triangle)
    a = a if pre else block.ln1(a)
    b = a + block.cross_attn(block.ln2(a) if pre else a, memory, mask=memory_mask)
    b = b if pre else block.ln2(b)
    c = b + block.ff(block.ln3(b) if pre else b)
    return c if pre else block.ln3(c)


DECODER = Answers(
    stub=stub_decoder,
    wrong={
        "no future mask": (
            decoder(back=lambda block, h, mask: block.self_attn(h)),
            "leak: the self-attention looks",
        ),
        "memory's mask on both": (
            decoder(back=lambda block, h, mask: block.self_attn(h, mask=mask)),
            "leak: the self-attention gets the memory's mask",
        ),
        "no memory mask": (
            decoder(over=lambda block, h, memory, mask: block.cross_attn(h, memory)),
            "memory_mask does not reach",
        ),
        "no memory": (
            decoder(over=lambda block, h, memory, mask: block.cross_attn(h, mask=mask)),
            "does not get memory",
        ),
        "memory asks": (
            decoder(over=lambda block, h, memory, mask: block.cross_attn(memory, h, mask=mask)),
            "queries come from memory",
        ),
        "memory normed": (
            decoder(
                over=lambda block, h, memory, mask: block.cross_attn(
                    h, block.ln2(memory), mask=mask
                )
            ),
            "memory goes through ln2",
        ),
        "causal cross": (decoder(over=causal_over), "cross-attention is causal"),
        "exchanged": (exchanged, "self_attn and cross_attn are exchanged"),
        "cross first": (decoder("order 01"), "cross-attention comes before self-attention"),
        "ff before cross": (decoder("order 12"), "feed-forward comes before cross"),
        "no residual": (decoder("no residual 1"), "residual around the cross-attention is missing"),
        "no last norm": (decoder("no norm 2"), "ln3, is missing"),
        "one norm": (decoder("one norm"), "ln1: each has a norm"),
        "parallel": (decoder("parallel 1"), "cross-attention works on the block's input"),
        "always pre": (decoder("always pre"), "whatever block.norm says"),
        "always post": (decoder("always post"), "whatever block.norm says"),
        "a norm after": (decoder("norm after"), "one norm too many"),
        "T is S": (
            decoder(back=lambda block, h, mask: block.self_attn(h, mask=causal_mask(4))),
            "wrong for other sizes",
        ),
    },
    right={"line by line": line_by_line, "parts": decoder()},
    borrowed=None,
)

# ---------------------------------------------------------------- teacher forcing


def stub_forcing(target, start=1, end=2): ...


def cat_front(target, start=1):
    return torch.cat([torch.full_like(target[:, :1], start), target], dim=1)


def forcing(inputs=None, labels=None):
    def answer(target, start=1, end=2):
        right = by_rows(target, start, end)
        return (inputs or (lambda t: right[0]))(target), (labels or (lambda t: right[1]))(target)

    return answer


def by_rows(target, start=1, end=2):
    B, T = target.shape
    inputs, labels = torch.zeros(2, B, T + 1, dtype=torch.int64)
    for b, row in enumerate(target.tolist()):
        tokens = [i for i in row if i]
        inputs[b, : len(tokens) + 1] = torch.tensor([start, *tokens])
        labels[b, : len(tokens) + 1] = torch.tensor([*tokens, end])
    return inputs, labels


def by_comparing(target, start=1, end=2):
    inputs = cat_front(target, start)
    behind = (target != 0).sum(1, keepdim=True) == torch.arange(target.size(1) + 1)
    longer = torch.cat([target, torch.zeros_like(target[:, :1])], 1)
    return inputs, torch.where(behind, end, longer)


def last_column(target):
    return torch.cat([target, torch.full_like(target[:, :1], 2)], dim=1)


FORCING = Answers(
    stub=stub_forcing,
    wrong={
        "■ in the last column": (forcing(labels=last_column), "comes after its padding"),
        "no ■": (forcing(labels=lambda t: F.pad(t, (0, 1))), "■ is missing in labels"),
        "labels are inputs": (forcing(labels=cat_front), "learn to copy"),
        "inputs are labels": (lambda t, start=1, end=2: (by_rows(t)[1],) * 2, "leak"),
        "begins with ■": (forcing(inputs=lambda t: cat_front(t, 2)), "begin with ■"),
        "the input ends": (
            lambda t, start=1, end=2: (
                torch.cat([torch.ones_like(t[:, :1]), by_rows(t)[1][:, :-1]], 1),
                by_rows(t)[1],
            ),
            "nothing comes after ■",
        ),
        "as long as the target": (forcing(inputs=lambda t: cat_front(t)[:, :-1]), "the shape"),
        "padding is ■": (
            forcing(labels=lambda t: by_rows(t)[1].masked_fill(by_rows(t)[1] == 0, 2)),
            "padding of labels is ■",
        ),
        "no ▶": (forcing(inputs=lambda t: F.pad(t, (0, 1))), "not shifted"),
        "inputs alone": (lambda t, start=1, end=2: by_rows(t)[0], "two tensors"),
        "floats": (lambda t, start=1, end=2: tuple(part.float() for part in by_rows(t)), "int64"),
        "lists": (
            lambda t, start=1, end=2: tuple(part.tolist() for part in by_rows(t)),
            "should be a tensor",
        ),
        "rows of the example": (
            forcing(labels=lambda t: by_rows(t)[1] if len(t) == 2 else last_column(t)),
            "wrong for other targets",
        ),
    },
    right={"row by row": by_rows, "by comparing": by_comparing},
    borrowed=lambda target, start=1, end=2: teacher_forcing(target, start, end),
)

# ---------------------------------------------------------------- greedy decoding


def stub_greedy(model, source, max_new=64, choose=None): ...


def greedy(
    *,
    where=-1,
    start=1,
    grow=True,
    keep_end=False,
    keep_start=False,
    stop="all",
    once=True,
    off=0,
    chooses=True,
):
    """The loop with one thing changed."""

    @torch.no_grad()
    def answer(model, source, max_new=64, choose=lambda z: z.argmax(-1)):
        memory = model.encode(source)
        inputs = torch.full((len(source), 1), start)
        ended = torch.zeros(len(source), dtype=torch.bool)
        written = [[] for _ in source]
        for _ in range(max_new + off):
            memory = memory if once else model.encode(source)
            logits = model.decode(inputs, memory)[:, where]
            token = choose(logits) if chooses else logits.argmax(-1)
            for b, t in enumerate(token.tolist()):
                if not ended[b] or stop == "never":
                    if t != 2 or keep_end:
                        written[b].append(t)
            ended |= token == 2
            if (stop == "any" and ended.any()) or ended.all():
                break
            inputs = torch.cat([inputs, token[:, None]], 1) if grow else token[:, None]
        return [[1, *row] if keep_start else row for row in written]

    return answer


def one_by_one(model, source, max_new=64, choose=lambda z: z.argmax(-1)):
    """Each row for itself, from one memory."""
    memory, out = model.encode(source), []
    for b in range(len(source)):
        own, answer = memory.rows(torch.tensor([b])), []
        while len(answer) < max_new:
            token = int(choose(model.decode(torch.tensor([[1, *answer]]), own)[:, -1]))
            if token == 2:
                break
            answer.append(token)
        out.append(answer)
    return out


def any_row(model, source, max_new=64, choose=None):
    """Stops the others with the first that ends, and drops what that row chose."""
    memory = model.encode(source)
    inputs = torch.ones(len(source), 1, dtype=torch.long)
    while inputs.size(1) <= max_new:
        token = model.decode(inputs, memory)[:, -1].argmax(-1)
        if (token == 2).any():
            break
        inputs = torch.cat([inputs, token[:, None]], 1)
    return inputs[:, 1:].tolist()


def in_front(model, source, max_new=64, choose=None):
    """Puts each new token in front."""
    memory = model.encode(source)
    inputs = torch.ones(len(source), 1, dtype=torch.long)
    for _ in range(max_new):
        token = model.decode(inputs, memory)[:, -1].argmax(-1)
        inputs = torch.cat([inputs[:, :1], token[:, None], inputs[:, 1:]], 1)
    return [row[: row.index(2)] if 2 in row else row for row in inputs[:, 1:].tolist()]


GREEDY = Answers(
    stub=stub_greedy,
    wrong={
        "▶ kept": (greedy(keep_start=True), "holds ▶"),
        "■ kept": (greedy(keep_end=True), "holds ■"),
        "first position": (greedy(where=0), "repeats the first token"),
        "never ends": (greedy(stop="never"), "goes on after its ■|loses its thread"),
        "ends with the first": (any_row, "as soon as one of them"),
        "begins with ■": (greedy(start=2), "first input of the decoder is 2"),
        "begins with padding": (greedy(start=0), "first input of the decoder is 0"),
        "last token alone": (greedy(grow=False), "first input of the decoder is 5"),
        "encodes every time": (greedy(once=False), "encoded 7 times"),
        "one too many": (greedy(off=1), "with max_new = 3"),
        "always argmax": (greedy(chooses=False), "choose is not used"),
        "in front": (in_front, "loses its thread|instead of"),
        "a tensor": (
            lambda model, source, max_new=64, choose=None: torch.tensor(1.0),
            "needed is a list",
        ),
        "one row": (
            lambda model, source, max_new=64, choose=None: greedy()(model, source[:1], max_new),
            "a list of 1",
        ),
    },
    right={"the loop": greedy(), "one by one": one_by_one},
    borrowed=lambda model, source, *args, **kwargs: write(model, source, *args, **kwargs),
)

# ---------------------------------------------------------------- a step of beam search


def stub_step(log_probabilities, totals, width): ...


def step(combine=None, largest=True, split=None, give=None):
    def answer(log_probabilities, totals, width):
        every = (combine or (lambda log_p, t: t[:, None] + log_p))(log_probabilities, totals)
        best, at = every.flatten().topk(min(width, every.numel()), largest=largest)
        V = log_probabilities.size(1)
        rows, tokens = (split or (lambda at, n, V: (at // V, at % V)))(at, len(totals), V)
        return (give or (lambda rows, tokens, best: (rows, tokens, best)))(rows, tokens, best)

    return answer


def own_best(log_probabilities, totals, width):
    best, tokens = log_probabilities.topk(min(width, log_probabilities.size(1)), dim=1)
    return torch.arange(len(totals))[:, None].expand_as(tokens), tokens, totals[:, None] + best


def one_each(log_probabilities, totals, width):
    every = totals[:, None] + log_probabilities
    best, tokens = every.max(dim=1)
    order = best.argsort(descending=True)[:width]
    rows = order
    if len(order) < width:  # fill up with second bests
        second = every.topk(2, dim=1)
        rows = torch.cat([order, order[: width - len(order)]])
        return (
            rows,
            torch.cat([tokens[order], second.indices[order[: width - len(order)], 1]]),
            torch.cat([best[order], second.values[order[: width - len(order)], 1]]),
        )
    return rows, tokens[order], best[order]


def by_sorting(log_probabilities, totals, width):
    every = [
        (-(total + p), row, token)
        for row, (total, line) in enumerate(
            zip(totals.tolist(), log_probabilities.tolist(), strict=True)
        )
        for token, p in enumerate(line)
    ]
    chosen = sorted(every)[:width]
    return (
        torch.tensor([c[1] for c in chosen]),
        torch.tensor([c[2] for c in chosen]),
        -torch.tensor([c[0] for c in chosen], dtype=totals.dtype),
    )


def by_a_full_sort(log_probabilities, totals, width):
    every = (log_probabilities.T + totals).T
    best, at = torch.sort(every.reshape(-1), descending=True)
    rows = torch.div(at[:width], every.size(1), rounding_mode="floor")
    return rows, at[:width] - rows * every.size(1), best[:width]


STEP = Answers(
    stub=stub_step,
    wrong={
        "totals not counted": (step(lambda log_p, t: log_p), "totals so far are not counted"),
        "multiplied": (step(lambda log_p, t: t[:, None] * log_p), "logs add"),
        "smallest": (step(largest=False), "least likely"),
        "taken apart by n": (step(split=lambda at, n, V: (at // n, at % n)), "divided by n"),
        "exchanged": (
            step(give=lambda rows, tokens, best: (tokens, rows, best)),
            "rows and tokens are exchanged",
        ),
        "each its own": (own_best, "they compete"),
        "one each": (one_each, "they compete"),
        "probabilities": (
            step(give=lambda rows, tokens, best: (rows, tokens, best.exp())),
            "totals are probabilities",
        ),
        "worst first": (
            step(give=lambda rows, tokens, best: (rows.flip(0), tokens.flip(0), best.flip(0))),
            "best first",
        ),
        "last token's": (
            lambda log_p, t, width: (lambda r, k, b: (r, k, log_p[r, k]))(
                *by_a_full_sort(log_p, t, width)
            ),
            "last token alone",
        ),
        "two tensors": (step(give=lambda rows, tokens, best: (rows, tokens)), "three tensors"),
        "too wide": (
            lambda log_p, t, width: (
                lambda b: (b.indices // log_p.size(1), b.indices % log_p.size(1), b.values)
            )((t[:, None] + log_p).flatten().topk(width)),
            "topk fails where width is above",
        ),
    },
    right={"by sorting": by_sorting, "by a full sort": by_a_full_sort, "topk": step()},
    borrowed=lambda log_probabilities, totals, width: beam_step(log_probabilities, totals, width),
)

# ---------------------------------------------------------------- the whole model


class Blank(nn.Module):
    """The stub of the notebook."""

    def __init__(self, config): ...

    def embed(self, table, ids): ...

    def encode(self, source): ...

    def decode(self, inputs, memory): ...


class Another(Transformer):
    """Written in another way, with its layers made in another order."""

    def __init__(self, config):
        super().__init__(config)
        self.decoder = self.decoder

    def embed(self, table, ids):
        positions = solutions.kt.sinusoidal_positions(ids.size(1), self.config.n_embd)
        return F.embedding(ids, table.weight) * self.config.n_embd**0.5 + positions.to(table.weight)

    def encode(self, source):
        mask = source.ne(0)
        x = self.embed(self.source_emb, source)
        for block in self.encoder:
            x = block(x, mask.view(len(source), 1, 1, -1))
        return Memory(self.ln_encoder(x), mask)


class PlainStart(Transformer):
    def __init__(self, config):
        super().__init__(config)
        for module in self.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


class NoLists(Transformer):
    def __init__(self, config):
        super().__init__(config)
        blocks = list(self.encoder)
        del self.encoder
        self.encoder = blocks


class HeadWithBias(Transformer):
    def __init__(self, config):
        super().__init__(config)
        self.head.bias = nn.Parameter(torch.zeros(config.target_vocab))


class NoMemory(Transformer):
    def encode(self, source):
        return super().encode(source).states


class TurnedMask(Transformer):
    def encode(self, source):
        memory = super().encode(source)
        return Memory(memory.states, ~memory.mask)


WHOLE = Answers(
    stub=Blank,
    wrong={
        "no ModuleList": (NoLists, "no parameter encoder.0"),
        "bias": (HeadWithBias, "head.bias is one too many"),
        "plain start": (PlainStart, "start as PyTorch draws them"),
        "no Memory": (NoMemory, r"should give a Memory"),
        "mask turned": (TurnedMask, "True where source is not 0"),
    }
    | mistakes(exercises.CHAPTER, "whole-transformer"),
    right={"another": Another},
    borrowed=type("Mine", (Transformer,), {"encode": lambda self, s: Transformer.encode(self, s)}),
)


def by_loops(logits, temperature=1.0, top_k=None, top_p=None):
    rows = []
    for row in (logits / temperature).softmax(-1):
        order, total, result = row.argsort(descending=True).tolist(), 0.0, torch.zeros_like(row)
        for rank, i in enumerate(order):
            if (top_k is None or rank < top_k) and (top_p is None or total < top_p):
                result[i] = row[i]
            total += row[i].item()
        rows.append(result / result.sum())
    return torch.stack(rows)


PROBABILITIES = Answers(
    stub=lambda logits, temperature=1.0, top_k=None, top_p=None: ...,
    wrong=mistakes(exercises.CHAPTER, "next-probabilities"),
    right={"by loops": by_loops},
    borrowed=lambda logits, **how: solutions.next_probabilities(logits, **how),
)

ANSWERS = {
    "teacher-forcing": FORCING,
    "greedy-decoding": GREEDY,
    "encoder-block": in_words(ENCODER, EncoderBlock),
    "decoder-block": in_words(DECODER, DecoderBlock),
    "whole-transformer": WHOLE,
    "next-probabilities": PROBABILITIES,
    "beam-step": STEP,
}
TestExercises = suite(NAME, ANSWERS)
TestQuizzes = quiz_suite(NAME)
TestNotebook = notebook_suite(NAME)


def test_the_formulas_of_the_checks_are_the_packages():
    """Nobody is judged by a second formula that has gone its own way."""
    x, memory = numbers(2, 5, 8, seed=0), numbers(2, 3, 8, seed=1)
    for norm in ("pre", "post"):
        block = randomise(EncoderBlock(config(norm)), seed=2)
        torch.testing.assert_close(encoder()(block, x), block(x))
        block = randomise(DecoderBlock(config(norm)), seed=3)
        torch.testing.assert_close(decoder()(block, x, memory), block(x, memory))


def test_the_script_model_answers_by_heart():
    script = ScriptModel([[5, 6], [7]])
    source = torch.tensor([[3], [4]])
    assert write(script, source, 5) == [[5, 6], [7]]
    wrong_turn = script.decode(torch.tensor([[1, 6], [1, 7]]), script.encode(source)).argmax(-1)
    assert wrong_turn.tolist() == [[5, 30], [7, 2]]


# ---------------------------------------------------------------- the page


@pytest.mark.parametrize("id", ["recurrent-code", "loop-code", "first-letter"])
def test_the_page_shows_the_code_of_the_experiments(id):
    script = (FOLDER / "whole_transformer.py").read_text(encoding="utf-8")
    assert cells(NAME)[id].source.split("\n\n\n")[0].strip() in script


def test_what_the_page_says_of_the_experiments_is_in_their_results():
    path = Path(NOTEBOOKS).parent / "data" / "results" / "whole-transformer.json"
    facts = json.loads(path.read_text(encoding="utf-8"))

    def accuracy(part, **settings):
        rows = [r for r in facts[part]["rows"] if all(r[k] == v for k, v in settings.items())]
        counts = [r["correct"][-1] if part == "lengths" else r["correct"] for r in rows]
        assert len(counts) == 3
        return 100 * sum(counts) / 3 / facts[part]["n"]

    one = dict(attention=False)
    assert accuracy("lengths", size=128, steps=250, **one) < 1
    assert 20 < accuracy("lengths", size=128, steps=2000, **one) < 23
    assert accuracy("lengths", size=32, steps=2000, **one) < 1
    assert accuracy("lengths", size=128, steps=250, attention=True) > 90
    assert accuracy("memory", T=15, cell="RNN") < 25 < 98 < accuracy("memory", T=15, cell="LSTM")
    assert all(accuracy("memory", T=25, cell=cell) < 5 for cell in ("RNN", "GRU", "LSTM"))
    assert accuracy("residuals", blocks=6, residual="pre") > 85
    assert accuracy("residuals", blocks=2, residual="post") > 85
    failures = ((6, "post"), (6, "none"), (2, "none"))
    assert all(accuracy("residuals", blocks=n, residual=kind) == 0 for n, kind in failures)
