"""The encoder-decoder Transformer: equal to torch.nn.Transformer, its masks, training, decoding."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import kt_core as kt
from kt_core.train_config import TrainConfig
from kt_core.trainer import Trainer
from kt_course.chapters.the_whole_transformer import toys
from kt_course.chapters.the_whole_transformer.recurrent import Recurrent, RecurrentConfig
from kt_course.chapters.the_whole_transformer.seq2seq import (
    DecoderBlock,
    EncoderBlock,
    Memory,
    Seq2Seq,
    Seq2SeqConfig,
    layer_norm,
    teacher_forcing,
    token_mask,
)
from kt_course.chapters.the_whole_transformer.seq2seq_data import Pair, PairData, pad_rows
from kt_course.chapters.the_whole_transformer.seq2seq_decoding import (
    answers,
    beam_search,
    beam_step,
    exact_matches,
    generate,
)

SMALL = dict(n_encoder=2, n_decoder=3, n_head=2, n_embd=16, n_hidden=24, dropout=0.0)


def model_of(norm="pre", seed=0, **changes) -> Seq2Seq:
    torch.manual_seed(seed)
    return Seq2Seq(Seq2SeqConfig(11, 13, **SMALL | dict(norm=norm) | changes)).eval()


def ids(*shape, high=11, seed=0, low=3):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the same as PyTorch's own


def copy_attention(ours, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key.weight, ours.value.weight])
    theirs.in_proj_bias.data = torch.cat([ours.query.bias, ours.key.bias, ours.value.bias])
    theirs.out_proj.load_state_dict(ours.proj.state_dict())


def pytorchs(model: Seq2Seq) -> nn.Transformer:
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


def test_the_papers_base_model_has_the_papers_size():
    """Table 3 gives 65 million parameters for base, with a shared vocabulary of about 37,000."""
    with torch.device("meta"):
        model = Seq2Seq(Seq2SeqConfig(37000, 37000, shared=True))
    C, H = 512, 2048
    attention, ff, norm = 4 * (C * C + C), C * H + H + H * C + C, 2 * C
    expected = 37000 * C + 6 * (attention + ff + 2 * norm) + 6 * (2 * attention + ff + 3 * norm)
    assert model.n_parameters() == expected == 63_082_496
    assert model.head.weight is model.source_emb.weight is model.target_emb.weight


@given(st.integers(1, 4), st.integers(2, 9), st.floats(0.1, 50), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_layer_norm_is_pytorchs(rows, C, size, seed):
    g = torch.Generator().manual_seed(seed)
    x = size * torch.randn(2, rows, C, generator=g, dtype=torch.double) + size
    gain, bias = torch.randn(2, C, generator=g, dtype=torch.double)
    torch.testing.assert_close(layer_norm(x), F.layer_norm(x, (C,)))
    torch.testing.assert_close(
        layer_norm(x, gain, bias, 1e-3), F.layer_norm(x, (C,), gain, bias, 1e-3)
    )


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


@pytest.mark.parametrize(
    "make", [model_of, lambda: recurrent("none"), lambda: recurrent("additive")]
)
def test_padding_of_the_source_changes_nothing(make):
    model, source, target = make(), ids(2, 4), ids(2, 3, seed=1)
    wider = F.pad(source, (0, 3))
    with torch.no_grad():
        logits = [model(ids, target)[0] for ids in (source, wider)]
        torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def recurrent(attention="none", seed=0) -> Recurrent:
    torch.manual_seed(seed)
    return Recurrent(RecurrentConfig(11, 13, 8, 12, attention)).eval()


def test_positions_are_what_tells_the_order():
    source, target = ids(1, 6), ids(1, 3)
    sources = (source, source.flip(1))
    with torch.no_grad():
        without, ordered = model_of(positions="none"), model_of()
        same = [without(source, target)[0] for source in sources]
        torch.testing.assert_close(*same, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(*(ordered(source, target)[0] for source in sources), atol=1e-2)


def test_recorded_maps_have_their_names_and_shapes():
    model, source, target = model_of(), ids(2, 5), ids(2, 3)
    source[1, 3:] = 0
    with kt.record_attention(model) as maps, torch.no_grad():
        model(source, target)
    named = dict(zip(model.attention_names, maps, strict=True))
    assert named["encoder 1"].shape == (2, 2, 5, 5)
    assert named["decoder 2 self"].shape == (2, 2, 4, 4)
    assert named["decoder 0 cross"].shape == (2, 2, 4, 5)
    assert not named["decoder 0 self"].triu(1).any()
    assert (
        not named["decoder 1 cross"][1, :, :, 3:].any()
        and not named["encoder 0"][1, :, :, 3:].any()
    )
    for weights in maps:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


# ---------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_encoder=0), "n_encoder must be a whole number"),
        (dict(n_head=3), "multiple of n_head"),
        (dict(norm="before"), "norm must be one of pre, post"),
        (dict(positions="learned"), "positions must be one of"),
        (dict(dropout=1.0), r"dropout must be in \[0, 1\)"),
        (dict(shared=1), "shared must be True or False"),
        (dict(shared=True), "two vocabularies, of 11 and 13 tokens"),
        (dict(n_embd=15, n_head=1), "must be even"),
    ],
)
def test_a_bad_config_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        Seq2SeqConfig(11, 13, **SMALL | change)


def test_a_source_of_padding_alone_is_refused():
    with pytest.raises(ValueError, match="row 1 of the source is padding alone"):
        token_mask(torch.tensor([[3, 0], [0, 0]]))
    with pytest.raises(ValueError, match="padding alone"):
        model_of()(torch.zeros(1, 3, dtype=torch.long), ids(1, 2))


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


def test_the_loss_is_the_mean_over_real_tokens():
    model, source, target = model_of(), ids(2, 5), pad_rows([[4, 5, 6], [7]])
    with torch.no_grad():
        total = 0.0
        for row, answer in ((0, [4, 5, 6, 2]), (1, [7, 2])):
            inputs = torch.tensor([[1, *answer[:-1]]])
            memory = model.encode(source[row : row + 1])
            log_p = model.decode(inputs, memory)[0].log_softmax(-1)
            total -= sum(log_p[t, token].item() for t, token in enumerate(answer))
        assert model(source, target)[1].item() == pytest.approx(total / 6, abs=1e-5)


def few_pairs() -> tuple[list[list[int]], PairData]:
    """Four targets of ids, and their pairs as training data; a token is its id in words."""
    toy = toys.reverse(4, 5)
    pairs = toy.pairs(4)
    return [toy.target_vocab.encode(pair.target) for pair in pairs], PairData(toy, pairs)


def letters_model(make, seed=0):
    torch.manual_seed(seed)
    return make()


MODELS = {
    "transformer": lambda: Seq2Seq(Seq2SeqConfig(29, 29, **SMALL | dict(norm="pre"))),
    "recurrent": lambda: Recurrent(RecurrentConfig(29, 29, 8, 12, "multiplicative")),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_memorises_a_few_pairs_and_repeats_itself(name):
    targets, data = few_pairs()
    config = TrainConfig(
        steps=150,
        batch_size=4,
        learning_rate=2e-2,
        optimizer="muon",
        schedule="linear",
        weight_decay=0.0,
        device="cpu",
        log_every=75,
    )
    first, second = (letters_model(MODELS[name]) for _ in range(2))
    history = Trainer(first, data, config).fit()
    assert [row["step"] for row in history] == [75, 150]
    assert history[-1]["loss"] < min(0.3, history[0]["loss"]) and not first.training
    source, _ = data.stack([data.tokens(i) for i in range(4)])
    assert generate(first, source, 8) == targets
    Trainer(second, data, config).fit()
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_batches_of_pairs_are_as_long_as_their_longest():
    toy = toys.reverse(1, 6)
    data = PairData(toy, [Pair(tuple("ab"), tuple("ba"), ((1,), (0,))), *toy.pairs(5)])
    assert len(data) == 6 and data.tokens(0) == ([3, 4], [4, 3])
    for source, target in kt.batches(data, 2, seed=0, epoch=0, bucket=False):
        assert source.shape == target.shape
        assert source.size(1) == int((source != 0).sum(1).max())


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


def test_greedy_misses_what_a_beam_of_two_finds():
    assert generate(GARDEN, ONE, 9)[0][0] == 3
    (narrow,) = beam_search(GARDEN, ONE[0], 1)
    assert narrow.ids[0] == 3 and narrow.probability == pytest.approx(0.15, abs=1e-6)
    best, second = beam_search(GARDEN, ONE[0], 2)
    assert best.ids == (4, 5) and best.probability == pytest.approx(0.4, abs=1e-6) and best.ended
    assert second.ids[0] == 3


def sharp(seed):
    model = model_of(seed=seed)
    model.head.weight.data *= 8  # sure of what it says
    return model


def log_probability(model, source, answer, ended=True):
    """Of a whole answer, by the plain forward pass."""
    tokens = [*answer, 2] if ended else list(answer)
    with torch.no_grad():
        logits = model.decode(torch.tensor([[1, *answer]]), model.encode(source[None]))[0].double()
    logits[:, 0] = -math.inf
    return sum(logits.log_softmax(-1)[t, token].item() for t, token in enumerate(tokens))


@given(st.integers(0, 30), st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_beams_have_their_probabilities_and_width_1_is_greedy(seed, width, max_new):
    model, source = sharp(seed), ids(4, seed=seed)
    beams = beam_search(model, source, width, max_new)
    for beam in beams:
        log_p = log_probability(model, source, beam.ids, beam.ended)
        assert beam.probability == pytest.approx(math.exp(log_p), rel=1e-3)
        assert beam.ended or len(beam.ids) == max_new
    assert beams == sorted(beams, key=lambda beam: -beam.probability)
    assert len({beam.ids for beam in beams}) == len(beams) <= width
    assert sum(beam.probability for beam in beams) <= 1 + 1e-6
    (one,) = beam_search(model, source, 1, max_new)
    (greedy,) = generate(model, source[None], max_new)
    logits = model.decode(torch.tensor([[1, *greedy]]), model.encode(source[None]))[0]
    if 0 not in logits.argmax(-1).tolist():
        assert list(one.ids) == greedy


def test_a_wide_beam_finds_the_best_of_all():
    model, source = sharp(3), ids(4, seed=3)
    every = [a for n in range(3) for a in itertools.product([1, *range(3, 13)], repeat=n)]
    best = max(every, key=lambda a: log_probability(model, source, a))
    beams = [b for b in beam_search(model, source, 200, 3) if b.ended and len(b.ids) < 3]
    assert beams[0].ids == best


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
    model, source = sharp(1), ids(6, 5, seed=5)
    together = generate(model, source, 7)
    alone = [generate(model, source[i : i + 1], 7)[0] for i in range(6)]
    assert together == alone and len({len(a) for a in alone}) > 1
    assert not any({0, 2} & set(a) for a in together)


def test_sampling_draws_from_the_models_probabilities():
    source = ONE.expand(4000, 1)

    def share(**how):
        first = [row[0] for row in generate(GARDEN, source, 1, **how)]
        return sum(token == 4 for token in first) / len(first)

    assert share(temperature=1.0) == pytest.approx(0.4, abs=0.03)
    cold = 0.4**2 / (0.4**2 + 0.6**2)  # temperature 1/2 squares the odds
    assert share(temperature=0.5) == pytest.approx(cold, abs=0.03)
    assert share(temperature=1.0, top_k=1) == 0
    assert share() == 0
    assert generate(GARDEN, source, 3, temperature=1.0, seed=1) == generate(
        GARDEN, source, 3, temperature=1.0, seed=1
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: generate(m, ONE, temperature=-1.0), "temperature must be 0"),
        (lambda m: generate(m, ONE, top_k=0), "top_k must be at least 1"),
        (lambda m: generate(m, ONE, 0), "max_new must be at least 1"),
        (lambda m: beam_search(m, ONE[0], 0), "width must be at least 1"),
        (lambda m: beam_search(m, ONE[0], 2, 0), "max_new must be at least 1"),
    ],
)
def test_bad_decoding_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(GARDEN)


def test_answers_are_texts_and_matches_are_counted():
    toy = toys.reverse(2, 4)
    pairs = toy.pairs(5)
    torch.manual_seed(0)
    model = Seq2Seq(Seq2SeqConfig(29, 29, **SMALL)).eval()
    texts = answers(model, toy, [pair.source for pair in pairs], 6)
    assert len(texts) == 5 and all(isinstance(text, str) and len(text) <= 6 for text in texts)
    score = exact_matches(model, toy, pairs, 6)
    right = sum(a == "".join(p.target) for a, p in zip(texts, pairs, strict=True))
    assert (score.correct, score.total) == (right, 5)
