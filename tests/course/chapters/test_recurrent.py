"""The recurrent encoder-decoders: one vector or attention, beside the same written step by step."""

from __future__ import annotations

import pytest
import torch

from kt_core.train_config import TrainConfig
from kt_core.trainer import Trainer
from kt_course.chapters.the_whole_transformer import toys
from kt_course.chapters.the_whole_transformer.recurrent import (
    ATTENTIONS,
    Recurrent,
    RecurrentConfig,
)
from kt_course.chapters.the_whole_transformer.seq2seq_data import PairData
from kt_course.chapters.the_whole_transformer.seq2seq_decoding import exact_matches


def model_of(attention="none", seed=0, **changes) -> Recurrent:
    torch.manual_seed(seed)
    return Recurrent(
        RecurrentConfig(9, 10, **dict(n_embd=6, n_hidden=8, attention=attention) | changes)
    ).eval()


def gru_step(gru: torch.nn.GRU, x, h):
    """One step of a GRU by its formula (Cho et al. 2014, appendix; gates: reset, update, new)."""
    gates_x = gru.weight_ih_l0 @ x + gru.bias_ih_l0
    gates_h = gru.weight_hh_l0 @ h + gru.bias_hh_l0
    (rx, zx, nx), (rh, zh, nh) = gates_x.chunk(3), gates_h.chunk(3)
    r, z = torch.sigmoid(rx + rh), torch.sigmoid(zx + zh)
    return (1 - z) * torch.tanh(nx + r * nh) + z * h


@pytest.mark.parametrize("attention", ATTENTIONS)
@torch.no_grad()
def test_it_is_the_recurrence_written_out(attention):
    model = model_of(attention)
    source, inputs = torch.tensor([3, 5, 4, 8]), torch.tensor([1, 6, 7])
    h, states = torch.zeros(8), []
    for token in source:
        h = gru_step(model.encoder, model.source_emb.weight[token], h)
        states.append(h)
    expected, maps = [], []
    for token in inputs:
        h = gru_step(model.decoder, model.target_emb.weight[token], h)
        out = h
        if attention != "none":
            if attention == "additive":
                scores = [model.v @ torch.tanh(h @ model.w_query + s @ model.w_key) for s in states]
            else:
                scores = [h @ model.w @ s for s in states]
            weights = torch.stack(scores).softmax(0)
            maps.append(weights)
            context = sum(w * s for w, s in zip(weights, states, strict=True))
            out = torch.tanh(model.mix.weight @ torch.cat([context, h]) + model.mix.bias)
        expected.append(model.head.weight @ out)
    got, _ = model(source[None], inputs[None, 1:])
    got = got[0]
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=1e-5)
    if attention != "none":
        weights = model.attention_map(source[None], inputs[None, 1:])[0]
        torch.testing.assert_close(weights, torch.stack(maps), atol=1e-5, rtol=1e-5)


def test_without_attention_the_last_state_is_all_that_the_decoder_gets():
    model = model_of()
    memory = model.encode(torch.tensor([[3, 4, 5, 6]]))
    blank = type(memory)(torch.zeros_like(memory.states), memory.mask, memory.last)
    inputs = torch.tensor([[1, 5]])
    assert torch.equal(model.decode(inputs, memory), model.decode(inputs, blank))
    attending = model_of("multiplicative")
    memory = attending.encode(torch.tensor([[3, 4, 5, 6]]))
    blank = type(memory)(torch.zeros_like(memory.states), memory.mask, memory.last)
    assert not torch.allclose(attending.decode(inputs, memory), attending.decode(inputs, blank))


@pytest.mark.parametrize("attention", ["additive", "multiplicative"])
def test_padding_gets_no_attention(attention):
    model = model_of(attention)
    source = torch.tensor([[3, 4, 5], [6, 0, 0]])
    weights = model.attention_map(source, torch.tensor([[5], [6]]))
    assert weights.shape == (2, 2, 3) and not weights.requires_grad
    assert not weights[1, :, 1:].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2))
    memory = model.encode(source)
    # after its one token, not after its padding
    assert torch.equal(memory.last[0, 1], memory.states[1, 0])


def test_rows_of_a_memory_are_shared():
    memory = model_of().encode(torch.tensor([[3, 4], [5, 6]]))
    twice = memory.rows(torch.tensor([1, 1, 0]))
    assert torch.equal(twice.states[0], memory.states[1]) and torch.equal(
        twice.last[:, 2], memory.last[:, 0]
    )
    assert twice.mask.shape == (3, 2)


def test_a_model_without_attention_has_no_map():
    with pytest.raises(ValueError, match="no attention"):
        model_of().attention_map(torch.tensor([[3]]), torch.tensor([[4]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(attention="dot"), "one of none, additive, multiplicative"),
        (dict(n_hidden=0), "n_hidden must be a whole"),
    ],
)
def test_a_bad_config_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        RecurrentConfig(9, 9, **change)


@pytest.mark.slow
def test_one_vector_forgets_long_sources_and_attention_does_not():
    toy = toys.reverse(2, 8)
    train, _ = toy.split(6000, 1)
    config = TrainConfig(
        steps=250,
        batch_size=64,
        learning_rate=4e-3,
        schedule="linear",
        final_fraction=0.0,
        weight_decay=0.0,
        bucket=False,
        device="cpu",
        log_every=0,
    )
    short, long = toys.reverse(2, 3), toys.reverse(8, 8)
    right = {}
    for attention in ("none", "multiplicative"):
        torch.manual_seed(0)
        model = Recurrent(RecurrentConfig(29, 29, 32, 96, attention))
        Trainer(model, PairData(toy, train), config).fit()
        right[attention] = [
            exact_matches(model, task, task.pairs(150, 1), 10).accuracy for task in (short, long)
        ]
    assert right["none"][0] > 0.8 and right["none"][1] < 0.4
    assert right["multiplicative"][1] > right["none"][1] + 0.3
