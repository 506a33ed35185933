"""Questions know their parts, pairs and batches fit together, probes read what is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import kt_core as kt
from kt_course.chapters.what_does_it_know import origins, people_means, tracing
from kt_course.chapters.what_does_it_know.solutions import fit_linear

QUESTION, ANSWER = "Where was Ada Hall born?", "Rome"
PEOPLE = [
    (QUESTION, "Rome"),
    ("Where was Bob Moor born?", "Lima"),
    ("Where was Al C. Roe born?", "Oslo"),
    ("Where was Ida Hart born?", "Riga"),
]


@pytest.fixture(scope="module")
def vocab():
    return kt.CharVocab.from_documents([f"{q} {a}" for q, a in PEOPLE])


@pytest.fixture
def prompt(vocab):
    return tracing.make_prompt(vocab, QUESTION, ANSWER)


def share(correct):
    return sum(correct) / len(correct)


def test_a_question_knows_where_its_parts_stand(vocab, prompt):
    assert "".join(prompt.text[t] for t in prompt.name) == "Ada Hall"
    assert prompt.text[prompt.mark] == kt.MASK and prompt.answer == ANSWER
    assert vocab.decode(prompt.ids[0]) == prompt.text
    for wrong, answer in (("Who was Ada?", "Rome"), (QUESTION, "")):
        with pytest.raises(ValueError, match="does not read|needs an answer"):
            tracing.make_prompt(vocab, wrong, answer)


def test_another_name_stands_in_the_same_place(vocab, prompt):
    ids = tracing.other_name(prompt, vocab, "Bob Moor")
    assert vocab.decode(ids[0]) == f"Where was Bob Moor born?{kt.MASK}Rome"
    assert vocab.decode(prompt.ids[0]) == prompt.text, "the question itself is as it was"
    with pytest.raises(ValueError, match="3 characters"):
        tracing.other_name(prompt, vocab, "Bob")


def test_the_parts_of_a_question_are_its_text(vocab):
    for question, city in PEOPLE:
        one = tracing.make_prompt(vocab, question, city)
        texts = {
            part: "".join(one.text[t] for t in at) for part, at in tracing.parts_of(one).items()
        }
        assert texts["first name"] + texts["surname"] == texts["whole name"]
        assert texts["Where was"] + texts["whole name"] + texts["born?"] == question
        assert texts["surname"] == question.split()[-2] and texts["⁇"] == kt.MASK
        assert texts["its last letter"] == texts["surname"][-1]


def test_a_pair_has_equal_lengths_and_other_first_letters(vocab):
    pairs = tracing.make_pairs(PEOPLE, vocab, 9)
    assert len(pairs) == 3, "nobody has the length of Al C. Roe"
    for pair in pairs:
        assert pair.clean.shape == pair.corrupted.shape and pair.token != pair.other
        assert vocab.decode(pair.clean[0])[-1] == kt.MASK == vocab.decode(pair.corrupted[0])[-1]
        assert vocab.decode([pair.token]) == pair.prompt.answer[0]
    assert len(tracing.make_pairs(PEOPLE, vocab, 1)) == 1


def test_batches_hold_each_person_once_with_the_answer_as_target(vocab):
    rows = []
    for batch in tracing.length_batches(PEOPLE, vocab):
        rows += batch.rows
        for row, ids, targets in zip(batch.rows, batch.ids, batch.targets, strict=True):
            question, city = PEOPLE[row]
            assert vocab.decode(ids[: batch.mark + 1]) == question + kt.MASK
            assert question[batch.name_end + 1 :] == " born?"
            answer = [int(i) for i in targets if i]
            assert vocab.decode(answer) == city + kt.MASK
            assert int(targets[batch.mark]) == answer[0], "the ⁇ predicts the first letter"
    assert sorted(rows) == [0, 1, 2, 3]


def test_ridge_is_where_the_gradient_of_its_cost_is_zero():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, n, generator=generator, dtype=torch.double) for n in (5, 3))
    w = fit_linear(x, y, 0.7).requires_grad_()
    cost = (x @ w - y).square().sum() + 0.7 * w.square().sum()
    assert torch.autograd.grad(cost, w)[0].abs().max() < 1e-10


def test_a_probe_finds_what_is_linearly_there_and_chance_where_nothing_is():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(4, (400,), generator=generator)
    directions = torch.randn(4, 20, generator=generator)
    there = directions[classes] + 0.3 * torch.randn(400, 20, generator=generator) + 5
    nothing = torch.randn(400, 20, generator=generator)
    for states, low, high in ((there, 0.97, 1.0), (nothing, 0.1, 0.42)):
        probe = tracing.Probe.fit(states[:300], classes[:300], 4)
        assert low <= share(probe.correct(states[300:], classes[300:])) <= high
    constant = tracing.Probe.fit(torch.ones(300, 20), classes[:300], 4)
    most = classes[:300].mode().values
    assert share(constant.correct(torch.ones(100, 20), classes[300:])) == pytest.approx(
        float((classes[300:] == most).float().mean())
    ), "where nothing varies it says the most frequent class"
    with pytest.raises(ValueError, match="300 states and 4 classes"):
        tracing.Probe.fit(there[:300], classes[:4], 4)


def test_a_probe_agrees_with_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(80, 6, generator=generator)
    classes = torch.randint(3, (80,), generator=generator)
    x = ((states - states.mean(0)) / (states.std(0) + 1e-6)).double()
    theirs = linear_model.Ridge(alpha=100.0).fit(x.numpy(), F.one_hot(classes, 3).numpy())
    ours = tracing.Probe.fit(states, classes, 3, penalty=100.0)
    assert np.allclose(ours.weights.numpy(), theirs.coef_.T, atol=1e-5)
    assert np.allclose(ours.intercept.numpy(), theirs.intercept_, atol=1e-5)


def test_an_infinite_penalty_names_the_most_frequent_class():
    states = torch.randn(90, 20, generator=torch.Generator().manual_seed(2))
    classes = torch.tensor([0] * 40 + [1] * 30 + [2] * 20)
    probe = tracing.Probe.fit(states, classes, 3, penalty=1e9)
    assert probe.correct(states, classes) == [True] * 40 + [False] * 50


def test_means_over_people_come_with_their_t_interval():
    table = people_means.mean_table({"a": [1.0, 2.0, 3.0]}, "points")
    assert table.rows == [["a", "3", "2.00", "-0.48 to 4.48", "points"]]  # t(2) = 4.3027, s = 1


def test_region_shares_are_shares_of_the_listed_places(vocab):
    model = kt.GPT(kt.GPTConfig(len(vocab), 40, 2, 2, 8, dropout=0.0)).eval()
    regions = {"one": ["Rome", "Lima"], "two": ["Oslo"]}
    shares = origins.region_shares(model, vocab, ["Ada Hall", "Bob Moor"], regions)
    assert shares.shape == (2, 2) and torch.allclose(shares.sum(1), torch.ones(2))


def test_each_origin_has_its_home_region_and_eight_names():
    letters = kt.load_corpus("bios").vocab
    made_up = origins.load_origins(letters, most=2)
    assert len(made_up.origins) == 12 and len(made_up.regions) == 13
    assert len(made_up.names) == len(made_up.home) and int(made_up.home.max()) <= 11
