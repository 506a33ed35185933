"""Chapter 5: the exercise, its typical mistakes, the figures, and the page's claims."""

from __future__ import annotations

import copy

import pytest
import torch
from checking import Answers, mistakes, notebook_suite, quiz_suite, suite

import kt_core as kt
from kt_course.chapters.build_a_gpt.solutions import GPT, train
from kt_course.chapters.pretrain_finetune import exercises, figures, solutions

NAME = "05_pretrain_finetune"
ID = "pretrain-finetune"


# ---------------------------------------------------------------- answers in other words


def stub(model, windows, pairs, plan, train): ...


def one_stage(model, data, epochs, batch_size, peak, train):
    batches = [b for epoch in range(epochs) for b in kt.batches(data, batch_size, 0, epoch)]
    n = len(batches)
    rates = [peak if s < 0.3 * n else peak * (n - s) / (0.7 * n) for s in range(n)]
    return train(model, batches, rates)


def stage_by_stage(model, windows, pairs, plan, train):
    first = one_stage(model, windows, *plan[0], train)
    return first, one_stage(model, pairs, *plan[1], train)


def lazily(model, windows, pairs, plan, train):
    """With iterators, and epochs that count from 1."""

    def losses(data, epochs, batch_size, peak):
        n = epochs * -(-len(data) // batch_size)
        batches = (b for e in range(1, epochs + 1) for b in kt.batches(data, batch_size, 3, e))
        return train(model, batches, (peak * min(1, (n - s) / (0.7 * n)) for s in range(n)))

    return [losses(windows, *plan[0]), losses(pairs, *plan[1])]


def copies_the_model(model, windows, pairs, plan, train):
    losses = one_stage(model, windows, *plan[0], train)
    return losses, one_stage(copy.deepcopy(model), pairs, *plan[1], train)


def one_call_per_epoch(model, windows, pairs, plan, train):
    losses = []
    for data, (epochs, batch_size, peak) in zip((windows, pairs), plan, strict=True):
        for epoch in range(epochs):
            batches = list(kt.batches(data, batch_size, 0, epoch))
            losses.append(train(model, batches, [peak] * len(batches)))
    return losses


def never_trains(model, windows, pairs, plan, train):
    return [], []


def only_pretrains(model, windows, pairs, plan, train):
    return one_stage(model, windows, *plan[0], train), []


def returns_nothing_useful(model, windows, pairs, plan, train):
    stage_by_stage(model, windows, pairs, plan, train)
    return "done"


def returns_means(model, windows, pairs, plan, train):
    losses = stage_by_stage(model, windows, pairs, plan, train)
    return [sum(values) / len(values) for values in losses]


def joins_the_losses(model, windows, pairs, plan, train):
    first, second = stage_by_stage(model, windows, pairs, plan, train)
    return first + second


def fixed_plan(model, windows, pairs, plan, train):
    return stage_by_stage(model, windows, pairs, [(4, 3, 0.01), (2, 2, 0.001)], train)


WRONG = {
    "another model": (copies_the_model, "has to continue with the model"),
    "a call per epoch": (one_call_per_epoch, "called 6 times instead of twice"),
    "never": (never_trains, "never called"),
    "one stage": (only_pretrains, "called once"),
    "a word": (returns_nothing_useful, "two lists of numbers"),
    "joined": (joins_the_losses, "two lists of numbers.*not a list of 22"),
    "means": (returns_means, "two lists of numbers"),
    "a fixed plan": (fixed_plan, "wrong for other numbers of epochs"),
}
WRONG |= mistakes(exercises.CHAPTER, ID)
ANSWERS = {
    ID: Answers(
        stub,
        WRONG,
        {"stage by stage": stage_by_stage, "lazily": lazily},
        lambda *inputs: solutions.pretrain_finetune(*inputs),
    )
}
TestExercises = suite(NAME, ANSWERS)
TestQuizzes = quiz_suite(NAME)
TestNotebook = notebook_suite(NAME, most_lines=15)


def test_the_solution_trains_the_learners_model(small_corpus):
    vocab = small_corpus.vocab
    windows = kt.QuestionWindows(small_corpus.documents, vocab, 64)
    pairs = kt.NamePlace(small_corpus.train, vocab, 64)
    torch.manual_seed(0)
    model = GPT(kt.GPTConfig(len(vocab), 64, 1, 2, 16, dropout=0.0))
    before = copy.deepcopy(model.state_dict())
    plan = [(2, 16, 3e-3), (3, 8, 1e-3)]
    first, second = solutions.pretrain_finetune(model, windows, pairs, plan, train)
    assert len(first) == 2 * -(-len(windows) // 16) and len(second) == 3 * -(-len(pairs) // 8)
    assert first[-1] < first[0]
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())


# ---------------------------------------------------------------- figures


def test_smooth_is_the_mean_of_the_last_values():
    assert figures.smooth([4.0, 2.0, 0.0], 2) == [4.0, 3.0, 1.0]


def test_every_picture_brings_its_description(monkeypatch):
    texts = []
    monkeypatch.setattr("kt_course.figures.panels.show", lambda figure, alt: texts.append(alt))
    london = kt.Score(4, 60)
    points = [(0, 4.0), (10, 0.4), (12, 0.3)]
    options = dict(unit="steps", title="t", alt="one")
    stages = {"pretraining": {"windows": [(0, 0.0), (12, 0.8)], "questions": [(0, 0.1)]}}
    figures.learning(points, stages, {"level": 0.5}, london, **options)
    groups = {"many": kt.Score(3, 4), "none": kt.Score(0, 0)}
    figures.answers_by_group({"a": groups, "b": groups}, ["x", "y"], "two")
    figures.recall(torch.rand(2, 5), "a b c", ["first", "second"], "t", "three")
    figures.bars_on_text([0.1, 2.0, -0.3], "a b", "t", "nats", "four")
    figures.confidence({"correct": torch.rand(5), "wrong": torch.rand(0)}, "t", "five")
    assert texts == ["one", "two", "three", "four", "five"]


# ---------------------------------------------------------------- the page's claims


@pytest.mark.slow
@pytest.mark.notebook(NAME)
def test_what_the_page_says_of_its_trainings(facts):
    """The learner's model learns the facts; the tolerances leave room for other processors."""
    alone, read, both = (
        facts[key]["accuracy"]
        for key in ("finetuning_alone", "pretraining_alone", "pretraining_then_finetuning")
    )
    assert alone < 0.2 and read > alone and both >= 0.6
    assert facts["last_loss"] < facts["loss_level"]
    assert facts["partial"]["total"] == 250 and 80 <= 250 - facts["partial"]["correct"]
    assert facts["auroc"]["wrong"] > 0.6 and facts["auroc"]["invented people"] > 0.6
