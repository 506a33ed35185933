"""Confidence: probabilities equal a plain computation; calibration and abstention count."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kt_core as kt
from kt_core.blocks import VARIANTS
from kt_course.chapters.what_does_it_know import confidence, solutions
from kt_course.shipped import shipped

QUESTIONS = ["Where was Ada born?", "Where was Al Roe born?", "Where was Hal Ward born?"]


@pytest.fixture(scope="module")
def vocab():
    return kt.CharVocab.from_documents([*QUESTIONS, "Rome London Lima Oslo Nowhere"])


def gpt(vocab, variant="rope", seed=0, block=40, sharp=30.0):
    torch.manual_seed(seed)
    model = kt.GPT(kt.GPTConfig(len(vocab), block, 3, 2, 16, variant, block // 2, dropout=0.1))
    model.head.weight.data *= sharp
    return model.train()


def by_hand(model, vocab, question, text):
    """The probability of an answer and its ⁇, a forward pass a character."""
    prompt, p = [*vocab.encode(question), vocab.mask_id], 1.0
    for i in [*vocab.encode(text), vocab.mask_id]:
        p *= model(torch.tensor([prompt]))[0][0, -1].double().softmax(-1)[i].item()
        prompt.append(i)
    return p


# ---------------------------------------------------------------- probabilities of answers


@pytest.mark.parametrize("variant", VARIANTS)
def test_probabilities_are_those_of_a_character_after_the_other(vocab, variant):
    model, text = gpt(vocab, variant), ["Rome", "L", "Nowhere"]
    got = confidence.answer_probabilities(model, vocab, QUESTIONS, text, batch_size=2)
    assert model.training, "the model is left in the mode that it had"
    model.eval()
    for p, question, one in zip(got, QUESTIONS, text, strict=True):
        assert p == pytest.approx(by_hand(model, vocab, question, one), rel=1e-3)


def test_a_shipped_models_confidence_is_that_of_beam_search():
    from kt_course.explorers.beam_search import beam_search

    model, vocab, _ = shipped("bios", "rope", "finetuned")
    pairs = kt.load_corpus("bios").dev[:4]
    said = confidence.Answers.of(model, vocab, pairs)
    for (question, _), one, p in zip(pairs, said.answers, said.confidence, strict=True):
        (beam,) = beam_search(model, [*vocab.encode(question), vocab.mask_id], 1, max_new=40)
        assert vocab.decode(beam.ids) == one and beam.probability == pytest.approx(
            float(p), abs=2e-3
        )


def test_an_answer_that_fills_the_block_needs_no_end(vocab):
    model = gpt(vocab, block=24).eval()
    prompt = [*vocab.encode(QUESTIONS[0]), vocab.mask_id]
    text = "Rome " + "Lima"[: 25 - len(prompt) - 5]
    ids = [*prompt, *vocab.encode(text)]
    assert len(ids) == 25
    steps = model(torch.tensor([ids[:-1]]))[0][0].log_softmax(-1)
    target = sum(steps[t - 1, ids[t]] for t in range(len(prompt), 25)).exp()
    (got,) = confidence.answer_probabilities(model, vocab, QUESTIONS[:1], [text])
    assert got == pytest.approx(target.item(), rel=1e-4)
    with pytest.raises(ValueError, match="takes 26 characters"):
        confidence.answer_probabilities(model, vocab, QUESTIONS[:1], [text + "a"])
    with pytest.raises(ValueError, match="one each"):
        confidence.answer_probabilities(model, vocab, QUESTIONS, ["Rome"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "candidates", [["Rome", "L", "London", "Lima", "Oslo", "Lo"], ["Lo", "Lon", "R"], ["O"]]
)
def test_the_table_holds_the_probabilities_of_every_pair(vocab, variant, candidates):
    model = gpt(vocab, variant, seed=3)
    table = confidence.probability_table(model, vocab, QUESTIONS, candidates)
    pairs = list(itertools.product(QUESTIONS, candidates))
    one_by_one = confidence.answer_probabilities(model, vocab, *map(list, zip(*pairs, strict=True)))
    assert torch.allclose(table.flatten(), one_by_one, rtol=1e-3, atol=1e-7)
    assert model.training and (table.sum(1) <= 1 + 1e-5).all()


def test_a_table_of_impossible_candidates_is_refused(vocab):
    model = gpt(vocab)
    for wrong in ([], ["Rome", "Rome"]):
        with pytest.raises(ValueError, match="each of them once"):
            confidence.probability_table(model, vocab, QUESTIONS, wrong)
    with pytest.raises(ValueError, match="the model reads 40"):
        confidence.probability_table(model, vocab, QUESTIONS, ["Rome" * 8])


# ---------------------------------------------------------------- calibration

answered = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=60)
@given(answered, st.integers(1, 12))
def test_bins_separate_the_answers(cases, bins):
    sure, right = torch.tensor([c for c, _ in cases]).double(), torch.tensor([r for _, r in cases])
    result = confidence.reliability(sure, right, bins)
    assert sum(b.score.total for b in result) == len(cases)
    assert sum(b.score.correct for b in result) == int(right.sum())
    for one, (low, high) in zip(result, [(b.low, b.high) for b in result], strict=True):
        inside = (sure > low) & (sure <= high) | (sure == 0) & (low == 0)
        assert abs(one.score.total - int(inside.sum())) <= 1, "rounding at an edge at most"


@pytest.mark.parametrize(
    ("sure", "right", "said"),
    [
        ([0.5], [True, False], "one confidence per answer"),
        ([], [], "no answer"),
        ([1.2], [True], "0 ... 1"),
    ],
)
def test_what_cannot_be_binned_is_refused(sure, right, said):
    with pytest.raises(ValueError, match=said):
        confidence.reliability(torch.tensor(sure), torch.tensor(right))


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=20),
    st.lists(st.integers(0, 6), min_size=1, max_size=20),
)
def test_auroc_counts_pairs(a, b):
    wins = sum((x > y) + 0.5 * (x == y) for x in a for y in b) / (len(a) * len(b))
    assert confidence.auroc(torch.tensor(a) / 6, torch.tensor(b) / 6) == pytest.approx(wins)


def test_auroc_needs_both_groups():
    with pytest.raises(ValueError, match="both groups"):
        confidence.auroc(torch.ones(2), torch.ones(0))


# ---------------------------------------------------------------- abstaining

levels = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=60)
@given(levels)
def test_the_curve_tells_for_each_threshold_what_answering_above_it_gives(cases):
    sure, right = torch.tensor([c / 8 for c, _ in cases]), torch.tensor([r for _, r in cases])
    thresholds, coverage, risk = confidence.risk_coverage(sure, right)
    assert thresholds.tolist() == sorted(set(sure.double().tolist()), reverse=True)
    assert coverage[-1] == 1 and coverage.diff().gt(0).all()
    for t, c, r in zip(thresholds, coverage, risk, strict=True):
        answered = sure.double() >= t
        assert c == pytest.approx(float(answered.double().mean()))
        assert r == pytest.approx(float((~right[answered]).double().mean()))


@settings(max_examples=40)
@given(levels, st.sampled_from([0.3, 0.5, 0.8]))
def test_a_cautious_threshold_asks_the_lower_end_of_the_interval(cases, target):
    sure, right = (
        torch.tensor([c / 8 for c, _ in cases]).double(),
        torch.tensor([r for _, r in cases]),
    )
    threshold = confidence.cautious_threshold(sure, right, target)
    enough = [
        t
        for t in set(sure.tolist())
        if kt.wilson_interval(int(right[sure >= t].sum()), int((sure >= t).sum()))[0] >= target
    ]
    assert threshold == (min(enough) if enough else math.inf)
    assert threshold >= solutions.lowest_threshold(sure, right, target)


def test_an_accuracy_beyond_reach_is_refused():
    with pytest.raises(ValueError, match="0 ... 1, not 95"):
        confidence.cautious_threshold(torch.tensor([0.5]), torch.tensor([True]), 95.0)


def test_answers_are_scored_joined_and_given_above_a_threshold(vocab):
    model = gpt(vocab)
    answers = kt.answer(model.eval(), vocab, QUESTIONS)
    pairs = list(zip(QUESTIONS, [answers[0], "Nowhere", None], strict=True))
    said = confidence.Answers.of(model, vocab, pairs)
    assert said.answers == answers and said.correct.tolist() == [True, False, False]
    assert (said.score.correct, said.score.total) == (1, 3)
    both = said[:1] + said[1:]
    assert both.answers == said.answers and both.confidence.tolist() == said.confidence.tolist()
    threshold = float(said.confidence[0])
    answered = said.given(threshold)
    assert answered.correct == 1 and answered.total == int((said.confidence >= threshold).sum())
    assert said.given(math.inf).total == 0


# ---------------------------------------------------------------- names


def test_recombined_names_are_new_pairs_of_known_parts():
    names = [kt.question_name(q) for q, _ in kt.load_corpus("bios").dev]
    names_made = confidence.recombined_names(names, 200, seed=1)
    assert (
        names_made
        == confidence.recombined_names(names, 200, seed=1)
        != confidence.recombined_names(names, 200, seed=2)
    )
    pairs = {(n.split()[0], n.split()[-1]) for n in names}
    new = {tuple(n.split()) for n in names_made}
    assert len(new) == 200 and not new & pairs
    assert {a for a, _ in new} <= {a for a, _ in pairs} and {b for _, b in new} <= {
        b for _, b in pairs
    }
    assert len(confidence.recombined_names(["Ada Hall", "Bo Lee"], 2)) == 2
    with pytest.raises(ValueError, match="3 new names cannot"):
        confidence.recombined_names(["Ada Hall", "Bo Lee"], 3)


def test_coined_names_are_in_every_vocabulary_and_in_no_word_list():
    names_made = confidence.coined_names(300)
    assert names_made == confidence.coined_names(300) and len(set(names_made)) == 300
    corpus = kt.load_corpus("bios")
    assert all(ch in corpus.vocab for name in names_made for ch in name)
    parts = {
        part
        for q, _ in (*corpus.train, *corpus.dev, *corpus.test)
        for part in kt.question_name(q).split()
    }
    shared = sum(part in parts for name in names_made for part in name.split())
    assert shared < 0.02 * 600
    assert max(map(len, names_made)) <= 28
