"""The encoder-decoder Transformer: equal to torch.nn.Transformer, its masks, training, decoding."""

from __future__ import annotations

import ast
import math
from collections import Counter

import nbformat
import pytest
import torch
import torch.nn.functional as F
from answering import NOTEBOOKS
from experiments import load_experiment
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import kt_core as kt
from kt_course.chapters.the_whole_transformer import toys
from kt_course.chapters.the_whole_transformer.alignment import (
    cross_maps,
    known_alignment,
    pointing_score,
)
from kt_course.chapters.the_whole_transformer.seq2seq import Memory, Seq2SeqConfig
from kt_course.chapters.the_whole_transformer.seq2seq_data import Pair, pad_rows
from kt_course.chapters.the_whole_transformer.solutions import (
    DecoderBlock,
    EncoderBlock,
    Transformer,
    beam_step,
    next_probabilities,
    teacher_forcing,
    write,
)

SMALL = dict(n_encoder=2, n_decoder=3, n_head=2, n_embd=16, n_hidden=24)


def model_of(norm="pre", seed=0, **changes) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(Seq2SeqConfig(11, 13, **SMALL | dict(norm=norm) | changes)).eval()


def ids(*shape, high=11, seed=0, low=3):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the same as PyTorch's own


def copy_attention(ours, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key.weight, ours.value.weight])
    theirs.in_proj_bias.data = torch.cat([ours.query.bias, ours.key.bias, ours.value.bias])
    theirs.out_proj.load_state_dict(ours.proj.state_dict())


def pytorchs(model: Transformer) -> nn.Transformer:
    """torch.nn.Transformer with the weights of `model`."""
    c, pre = model.config, model.config.norm == "pre"
    size = dict(d_model=c.n_embd, nhead=c.n_head, dim_feedforward=c.n_hidden, dropout=0.0)
    how = dict(activation="relu", norm_first=pre, batch_first=True)
    ends = [
        nn.LayerNorm(c.n_embd) if pre else None for _ in range(2)
    ]  # the paper's post-norm stacks end without
    theirs = nn.Transformer(
        c.n_embd,
        c.n_head,
        batch_first=True,
        custom_encoder=nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**size, **how),
            c.n_encoder,
            ends[0],
            enable_nested_tensor=False,
        ),
        custom_decoder=nn.TransformerDecoder(
            nn.TransformerDecoderLayer(**size, **how), c.n_decoder, ends[1]
        ),
    ).eval()
    for block, layer in zip(model.encoder, theirs.encoder.layers, strict=True):
        copy_attention(block.attn, layer.self_attn)
        pairs = [
            (block.ff.up, layer.linear1),
            (block.ff.proj, layer.linear2),
            (block.ln1, layer.norm1),
            (block.ln2, layer.norm2),
        ]
        for ours, other in pairs:
            other.load_state_dict(ours.state_dict())
    for block, layer in zip(model.decoder, theirs.decoder.layers, strict=True):
        copy_attention(block.self_attn, layer.self_attn)
        copy_attention(block.cross_attn, layer.multihead_attn)
        pairs = [
            (block.ff.up, layer.linear1),
            (block.ff.proj, layer.linear2),
            (block.ln1, layer.norm1),
            (block.ln2, layer.norm2),
            (block.ln3, layer.norm3),
        ]
        for ours, other in pairs:
            other.load_state_dict(ours.state_dict())
    if pre:
        theirs.encoder.norm.load_state_dict(model.ln_encoder.state_dict())
        theirs.decoder.norm.load_state_dict(model.ln_decoder.state_dict())
    return theirs


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_it_computes_what_pytorchs_transformer_computes(norm):
    model = model_of(norm)
    for p in model.parameters():  # biases and gains too, not only their first values
        p.data = p.data + 0.2 * torch.randn(
            p.shape, generator=torch.Generator().manual_seed(p.numel())
        )
    theirs = pytorchs(model)
    source, inputs = ids(3, 7), ids(3, 5, seed=1)
    source[1, 4:], source[2, 1:] = 0, 0
    padding = source == 0
    x, y = model.embed(model.source_emb, source), model.embed(model.target_emb, inputs)
    future = ~kt.causal_mask(5)
    with torch.no_grad():
        expected = theirs(
            x,
            y,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_mask=future,
            tgt_is_causal=True,
        )
        ours = model.encode(source)
        logits = model.decode(inputs, ours)
        torch.testing.assert_close(logits, model.head(expected), atol=2e-5, rtol=1e-5)
        memory = theirs.encoder(x, src_key_padding_mask=padding)
        real = ~padding
        torch.testing.assert_close(ours.states[real], memory[real], atol=2e-5, rtol=1e-5)
        with kt.record_attention(model):  # by the formula, not by the fused kernel
            logits = model.decode(inputs, model.encode(source))
        torch.testing.assert_close(logits, model.head(expected), atol=2e-5, rtol=1e-5)


# ---------------------------------------------------------------- what each output depends on


def moves(out, x) -> torch.Tensor:
    """(T_out, T_in): does output t of out (1, T_out, C) move with input j of x (1, T_in, C)?"""
    mix = torch.randn(out.size(-1), generator=torch.Generator().manual_seed(0))
    rows = [
        torch.autograd.grad(out[0, t] @ mix, x, retain_graph=True)[0][0] for t in range(out.size(1))
    ]
    return torch.stack(rows).ne(0).any(-1)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_encoder_sees_everything_but_padding_and_the_decoder_no_future(norm):
    c = Seq2SeqConfig(5, 5, **SMALL | dict(norm=norm))
    torch.manual_seed(0)
    encoder, decoder = EncoderBlock(c), DecoderBlock(c)
    x, memory = torch.randn(1, 6, 16, requires_grad=True), torch.randn(1, 4, 16, requires_grad=True)
    keys = torch.tensor([[[[True] * 4 + [False] * 2]]])
    reads = moves(encoder(x, keys), x)
    assert reads[:, :4].all()  # both directions
    assert torch.equal(
        reads[:, 4:], torch.eye(6, dtype=torch.bool)[:, 4:]
    )  # its own residual alone
    closed = torch.tensor([[[[True, False, True, True]]]])
    out = decoder(x, memory, closed)
    assert torch.equal(moves(out, x), kt.causal_mask(6))
    assert torch.equal(moves(out, memory), closed[0, 0].expand(6, 4))


@torch.no_grad()
def test_padding_of_the_source_changes_nothing():
    model, source, inputs = model_of(), ids(2, 4), ids(2, 3, seed=1)
    logits = [model.decode(inputs, model.encode(x)) for x in (source, F.pad(source, (0, 3)))]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_encoder=0), "n_encoder must be a whole number"),
        (dict(n_head=3), "multiple of n_head"),
        (dict(norm="before"), "norm must be one of pre, post"),
        (dict(n_embd=15, n_head=1), "must be even"),
    ],
)
def test_a_bad_config_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        Seq2SeqConfig(11, 13, **SMALL | change)


# ---------------------------------------------------------------- teacher forcing, training

rows = st.lists(st.lists(st.integers(3, 9), min_size=0, max_size=6), min_size=1, max_size=4)


@given(rows)
@settings(max_examples=50, deadline=None)
def test_teacher_forcing_asks_for_the_next_token(targets):
    inputs, labels = teacher_forcing(pad_rows(targets))
    for row, read, labels_row in zip(targets, inputs.tolist(), labels.tolist(), strict=True):
        n = len(row)
        assert read[: n + 1] == [1, *row] and not any(read[n + 1 :])
        assert labels_row[: n + 1] == [*row, 2] and not any(labels_row[n + 1 :])


@pytest.mark.parametrize("name", ["transformer", "one vector", "attention"])
def test_training_memorises_a_few_pairs_and_repeats_itself(name):
    experiments = load_experiment("whole_transformer")
    toy = toys.reverse(4, 5)
    pairs, states = toy.pairs(4), []
    for _ in range(2):
        torch.manual_seed(0)
        model = (
            Transformer(Seq2SeqConfig(29, 29, **SMALL))
            if name == "transformer"
            else experiments.Recurrent(29, 29, 24, attention=name == "attention")
        )
        losses = experiments.train(model, toy, pairs, steps=80, rate=1e-2)
        states.append(model.state_dict())
    assert losses[-1] < 0.3 < losses[0]
    assert experiments.score_pairs(model, toy, pairs).correct == 4
    assert all(torch.equal(a, b) for a, b in zip(*(x.values() for x in states), strict=True))


# ---------------------------------------------------------------- cross-attention and alignment


def test_cross_maps_are_found_whatever_the_order_of_the_layers():
    toy = toys.reverse(3, 4)
    pairs = toy.pairs(5)
    torch.manual_seed(0)
    model = Transformer(Seq2SeqConfig(29, 29, **SMALL)).eval()
    maps = cross_maps(model, toy, pairs)
    assert len(maps) == 3 and maps[0].shape == (5, 5, 4)
    model._modules["encoder"] = model._modules.pop("encoder")  # after the decoder
    for a, b in zip(maps, cross_maps(model, toy, pairs), strict=True):
        torch.testing.assert_close(a, b)


def test_pointing_counts_tokens_that_have_a_source():
    pair = Pair(tuple("abc"), tuple("c-a"), ((2,), (), (0, 1)))
    assert known_alignment(pair).tolist() == [[0, 0, 1], [0, 0, 0], [0.5, 0.5, 0]]
    weights = torch.tensor([[[0.2, 0.2, 0.6], [1, 0, 0], [0, 0.1, 0.9]]])
    score = pointing_score(weights, [pair])
    assert (score.correct, score.total) == (1, 2)


# ---------------------------------------------------------------- decoding


class Table(nn.Module):
    """A model given as a table, prefix -> probabilities of tokens; after other prefixes it ends."""

    def __init__(self, table: dict[tuple[int, ...], dict[int, float]], V: int = 8):
        super().__init__()
        self.table, self.V = table, V

    def encode(self, source):
        return Memory(torch.zeros(*source.shape, 1), source != 0)

    def decode(self, inputs, memory):
        out = torch.full((*inputs.shape, self.V), -40.0)
        for b, row in enumerate(inputs.tolist()):
            for t in range(len(row)):
                for token, p in self.table.get(tuple(row[1 : t + 1]), {2: 1.0}).items():
                    out[b, t, token] = math.log(p)
        return out


# greedy goes to 3 (0.6), whose four ways on are 0.15 each; the likeliest answer is (4, 5) with 0.4
GARDEN = Table({(): {3: 0.6, 4: 0.4}, (3,): {3: 0.25, 5: 0.25, 6: 0.25, 7: 0.25}, (4,): {5: 1.0}})
ONE = torch.tensor([[3]])


def page_function(id: str, name: str):
    """A function that the notebook defines, and that uses the course's beam_step."""
    notebook = nbformat.read(NOTEBOOKS / "09_the_whole_transformer.ipynb", as_version=4)
    source = next(cell.source for cell in notebook.cells if cell.id == id)
    namespace = dict(torch=torch, math=math, beam_step=beam_step, Counter=Counter)
    body = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    exec(compile(ast.Module(body, []), id, "exec"), namespace)
    return namespace[name]


def test_greedy_misses_what_a_beam_of_two_finds():
    beam_search = page_function("beam-search", "beam_search")
    assert write(GARDEN, ONE, 9)[0][0] == 3
    ((ids, p),) = beam_search(GARDEN, ONE[0], 1)
    assert ids[0] == 3 and p == pytest.approx(0.15, abs=1e-6)
    (best, p), (second, _) = beam_search(GARDEN, ONE[0], 2)
    assert best == [4, 5] and p == pytest.approx(0.4, abs=1e-6) and second[0] == 3


@given(st.integers(1, 5), st.integers(2, 7), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_beam_step_takes_the_best_of_all_ways(n, V, width, seed):
    g = torch.Generator().manual_seed(seed)
    log_p, totals = torch.randn(n, V, generator=g).log_softmax(-1), torch.randn(n, generator=g)
    rows, tokens, best = beam_step(log_p, totals, width)
    every = sorted(
        ((totals[i] + log_p[i, v]).item() for i in range(n) for v in range(V)), reverse=True
    )
    assert len(rows) == len(tokens) == len(best) == min(width, n * V)
    assert best.tolist() == pytest.approx(every[:width])
    assert (totals[rows] + log_p[rows, tokens]).tolist() == pytest.approx(best.tolist())


def test_rows_end_on_their_own():
    """A batch gives what each row gives alone, whatever its neighbours do."""
    model, source = model_of(seed=1), ids(6, 5, seed=5)
    model.head.weight.data *= 8  # sure of what it says
    model.head.weight.data[2] *= 2  # and often ■
    together = write(model, source, 7)
    assert together == [write(model, source[i : i + 1], 7)[0] for i in range(6)]
    assert len({len(answer) for answer in together}) > 1
    assert not any(2 in answer for answer in together)


def test_sampling_draws_from_the_models_probabilities():
    def share(**how):
        torch.manual_seed(0)
        choose = lambda z: torch.multinomial(next_probabilities(z, **how), 1)[:, 0]  # noqa: E731
        return sum(row[0] == 4 for row in write(GARDEN, ONE.expand(4000, 1), 1, choose)) / 4000

    assert share() == pytest.approx(0.4, abs=0.03)
    cold = 0.4**2 / (0.4**2 + 0.6**2)  # temperature 1/2 squares the odds
    assert share(temperature=0.5) == pytest.approx(cold, abs=0.03)
    assert share(top_k=1) == share(top_p=0.6) == 0 < share(top_p=0.61)


# ---------------------------------------------------------------- the metrics on the page


def test_bleu_and_rouge_on_examples_by_hand():
    bleu, rouge = (page_function("metrics", name) for name in ("bleu", "rouge"))
    same = ["the cat sat on the mat".split()]
    assert bleu(same, same) == rouge(same, same, 2) == pytest.approx(100)
    # precisions 5/6, 3/5, 2/4, 1/3 and no penalty: the lengths are equal
    answer = ["the cat sat on a mat".split()]
    assert bleu(answer, same) == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert bleu(["the cat sat on".split()], same) == pytest.approx(100 * math.exp(-0.5))
    assert rouge(["the the the".split()], same, 1) == pytest.approx(200 * 2 / 9)  # clipped
