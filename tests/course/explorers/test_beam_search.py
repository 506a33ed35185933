"""Beam search: greedy at width 1, never worse, and exact where all continuations fit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kt_core as kt
from kt_core.blocks import VARIANTS
from kt_course.explorers import beam_search as module
from kt_course.explorers.beam_search import beam_search, top_answers

TEXT = "Where was Ada born? Rome\n"


def model_of(variant="vanilla", V=12, block=16, seed=0, sharp=40.0):
    """A random model that prefers some characters; with fresh weights all are nearly as likely."""
    torch.manual_seed(seed)
    model = kt.GPT(kt.GPTConfig(V, block, 3, 2, 16, variant, block // 2, dropout=0.1))
    model.head.weight.data *= sharp
    return model.eval()


def log_probability(model, prompt, ids, stop=(0, 1), ended=True):
    """That of a continuation by the plain forward pass, one character after the other."""
    total = 0.0
    for n, i in enumerate(ids):
        total += (
            model(torch.tensor([[*prompt, *ids[:n]]]))[0][0, -1].double().log_softmax(-1)[i].item()
        )
    if ended:
        last = model(torch.tensor([[*prompt, *ids]]))[0][0, -1].double().log_softmax(-1)
        total += last[list(stop)].logsumexp(0).item()
    return total


prompts = st.lists(st.integers(2, 11), min_size=1, max_size=16)


@settings(max_examples=30)
@given(
    prompt=prompts,
    variant=st.sampled_from(VARIANTS),
    seed=st.integers(0, 9),
    max_new=st.none() | st.integers(1, 6),
)
def test_width_1_is_greedy(prompt, variant, seed, max_new):
    model = model_of(variant, seed=seed)
    (beam,) = beam_search(model, prompt, 1, max_new=max_new)
    assert list(beam.ids) == kt.generate(model, [prompt], max_new=max_new)[0]


@settings(max_examples=30)
@given(
    prompt=prompts,
    variant=st.sampled_from(VARIANTS),
    seed=st.integers(0, 9),
    width=st.integers(2, 7),
)
def test_the_best_is_at_least_as_likely_as_greedy_and_all_are_different_events(
    prompt, variant, seed, width
):
    model = model_of(variant, seed=seed)
    beams = beam_search(model, prompt, width)
    (greedy,) = beam_search(model, prompt, 1)
    assert beams[0].probability >= greedy.probability * (1 - 1e-4)
    chances = [beam.probability for beam in beams]
    assert 1 <= len(beams) <= width
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) <= 1 + 1e-9
    assert len({(beam.ids, beam.ended) for beam in beams}) == len(beams)


@pytest.mark.parametrize("variant", VARIANTS)
def test_probabilities_are_those_of_the_plain_forward_pass(variant):
    model, prompt = model_of(variant, seed=3), [4, 5, 6]
    for beam in beam_search(model, prompt, 4, max_new=8):
        if len(prompt) + len(beam.ids) <= model.config.block_size:
            expected = log_probability(model, prompt, beam.ids, ended=beam.ended)
            assert math.log(beam.probability) == pytest.approx(expected, abs=1e-3)


def test_a_beam_wide_enough_finds_everything():
    """4 characters, 2 of them stops, 3 steps: all continuations together have probability 1."""
    model, prompt, most = model_of(V=4, block=8, sharp=20.0), [2, 3], 3
    every = {}
    for n in range(most + 1):
        for ids in itertools.product((2, 3), repeat=n):
            ended = n < most
            every[ids, ended] = math.exp(log_probability(model, prompt, ids, ended=ended))
    beams = beam_search(model, prompt, 50, max_new=most)
    assert {(beam.ids, beam.ended) for beam in beams} == set(every)
    for beam in beams:
        assert beam.probability == pytest.approx(every[beam.ids, beam.ended], abs=1e-5)
    assert sum(beam.probability for beam in beams) == pytest.approx(1, abs=1e-9)


def test_two_places_find_better_than_greedy_and_never_worse():
    better = 0
    for seed in range(12):
        model = model_of(seed=seed, sharp=25.0)
        (greedy,), two = beam_search(model, [3, 4], 1), beam_search(model, [3, 4], 2)
        assert two[0].probability >= greedy.probability * (1 - 1e-4)
        better += two[0].probability > greedy.probability * 1.01
    assert better, "a beam that never finds anything better than greedy does not search"


class Table(torch.nn.Module):
    """A model that knows the next character's probabilities: what was written so far -> five."""

    def __init__(self, chances):
        super().__init__()
        self.config = kt.GPTConfig(5, 8)
        self.head = torch.nn.Linear(1, 5, bias=False)
        self.chances = chances

    def next_logits(self, texts):
        written = ["".join("ab?"[i - 2] for i in text[1:]) for text in texts]
        rows = [self.chances.get(each, [0, 1, 0, 0, 0]) for each in written]
        return torch.tensor(rows).add(1e-12).log()


def test_the_greedy_continuation_keeps_its_place_where_others_look_better_for_a_while(monkeypatch):
    """Two that begin with b are ahead after two characters, and fall behind both at the third."""
    chances = {
        "": [0, 0, 0.5, 0.45, 0.05],
        "a": [0, 0.02, 0.4, 0.35, 0.23],
        "b": [0, 0, 0.5, 0.5, 0],
        "aa": [0, 1, 0, 0, 0],
    }
    chances |= dict.fromkeys(("ba", "bb"), [0, 0.2, 0.2, 0.3, 0.3])
    monkeypatch.setattr(module, "next_logits", lambda model, texts, cache: model.next_logits(texts))
    beams = beam_search(Table(chances), [2], 2, max_new=3)
    assert beams[0].ids == (2, 2)
    assert beams[0].probability == pytest.approx(0.5 * 0.4)


def test_it_stops_at_the_blocks_end_and_leaves_the_model_as_it_was():
    model = model_of().train()
    beams = beam_search(model, list(range(2, 12)) + [2] * 5, 3, stop=(0,))
    assert all(len(beam.ids) <= 2 for beam in beams)
    assert model.training


def test_answers_are_text_with_their_chances():
    vocab = kt.CharVocab.from_documents([TEXT])
    model = model_of(V=len(vocab), block=40)
    answers = top_answers(model, vocab, "Where was Ada born?", 3, max_new=6)
    assert [p for _, p in answers] == sorted((p for _, p in answers), reverse=True)
    (greedy,) = top_answers(model, vocab, "Where was Ada born?", 1, max_new=6)
    assert greedy[0] == kt.answer(model, vocab, ["Where was Ada born?"], max_new=6)[0]


def test_what_cannot_be_asked():
    vocab = kt.CharVocab.from_documents([TEXT])
    model = model_of(V=len(vocab), block=24)
    with pytest.raises(ValueError, match="empty"):
        top_answers(model, vocab, "")
    with pytest.raises(ValueError, match="reads 24"):
        top_answers(model, vocab, "a" * 24)
    with pytest.raises(ValueError, match="not among"):
        top_answers(model, vocab, "漢")
    with pytest.raises(ValueError, match="width"):
        beam_search(model, [2], 0)
    with pytest.raises(ValueError, match="max_new"):
        beam_search(model, [2], max_new=0)
    with pytest.raises(ValueError, match="reads 1 to"):
        beam_search(model, [])
