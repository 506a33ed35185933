"""Chapter 4: exercises, their typical mistakes, the teaching solutions, and the page's numbers."""

from __future__ import annotations

import math

import pytest
import torch
from checking import Answers, mistakes, notebook_suite, quiz_suite, stub, suite

import kt_core as kt
from kt_core.evaluation import wilson_interval
from kt_course import statistics
from kt_course.chapters.no_pretrain_baseline import exercises, names, simulations, solutions
from kt_course.exercises.registry import exercise_ids
from kt_course.exercises.training import schedule

NAME = "04_no_pretrain_baseline"
IDS = exercise_ids(NAME)


@pytest.fixture(scope="module", autouse=True)
def first_optimizer():
    """PyTorch loads half of itself with the first optimiser: not the time of any check."""
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


# ---------------------------------------------------------------- answers in other words


def finetune_by_steps(model, data, epochs, batch_size, peak, seed=0, measure=None):
    per_epoch = -(-len(data) // batch_size)

    def pairs():
        order = iter(())
        for step in range(epochs * per_epoch):
            epoch, position = divmod(step, per_epoch)
            if position == 0:
                if measure:
                    measure(epoch)
                order = iter(list(solutions.batches(data, batch_size, seed, epoch)))
            yield next(order)

    return solutions.train(model, pairs(), schedule(epochs * per_epoch, peak))


def finetune_without_return(*inputs, **options):
    return sum(finetune_by_steps(*inputs, **options))


def evaluate_by_loop(model, vocab, pairs):
    answers, n = [], 0
    for question, gold in pairs:
        ids = [*vocab.encode(question), 1]
        answers.append(vocab.decode(solutions.greedy(model, ids, 30, 1)).strip())
        n += answers[-1] == gold.strip()
    return answers, kt.Score(n, len(answers))


def evaluate_with_accuracy(model, vocab, pairs):
    answers, score = evaluate_by_loop(model, vocab, pairs)
    return answers, score.accuracy


def wilson_by_roots(correct, total, z=1.96):
    if not total:
        return [0, 1]
    a, b, c = total + z * z, 2 * correct + z * z, correct * correct / total
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return [(b - root) / (2 * a), (b + root) / (2 * a)]


def sign_test_by_recursion(wins, losses):
    row = [1.0]
    for _ in range(wins + losses):
        row = [(a + b) / 2 for a, b in zip([0.0, *row], [*row, 0.0], strict=True)]
    return min(
        1.0, sum(p for k, p in enumerate(row) if min(k, len(row) - 1 - k) <= min(wins, losses))
    )


OTHERS = {
    "finetune": {"a sum": (finetune_without_return, "list of the losses")},
    "evaluate": {
        "an accuracy": (evaluate_with_accuracy, "kt.Score"),
        "a score alone": (lambda *inputs: evaluate_by_loop(*inputs)[1], "two things"),
    },
    "wilson-interval": {"one number": (lambda k, n, z=1.96: 0.5, "two numbers")},
    "sign-test": {"a list": (lambda wins, losses: [0.5], "one number")},
}
RIGHT = {
    "finetune": finetune_by_steps,
    "evaluate": evaluate_by_loop,
    "wilson-interval": wilson_by_roots,
    "sign-test": sign_test_by_recursion,
}
BORROWED = {
    "finetune": lambda *inputs, **options: solutions.finetune(*inputs, **options),
    "evaluate": lambda *inputs: solutions.evaluate(*inputs),
    "wilson-interval": lambda k, n, z=1.96: wilson_interval(k, n, z),
    "sign-test": lambda wins, losses: statistics.sign_test(wins, losses),
}


ANSWERS = {
    id: Answers(
        stub(NAME, solutions, id),
        OTHERS[id] | mistakes(exercises.CHAPTER, id),
        {"other words": RIGHT[id]},
        BORROWED[id],
    )
    for id in IDS
}
TestExercises = suite(NAME, ANSWERS)
TestQuizzes = quiz_suite(NAME)
TestNotebook = notebook_suite(NAME)


# ---------------------------------------------------------------- teaching solutions


def test_the_statistics_are_those_of_the_package():
    for correct, total in ((0, 20), (13, 250), (250, 250), (0, 0)):
        expected = pytest.approx(wilson_interval(correct, total), abs=1e-4)
        assert solutions.wilson(correct, total) == expected
    for wins, losses in ((0, 0), (3, 0), (5, 5), (2, 8), (40, 61)):
        expected = pytest.approx(statistics.sign_test(wins, losses))
        assert solutions.sign_test(wins, losses) == expected


def test_finetune_and_evaluate_agree_with_kt_core(small_corpus):
    vocab, pairs = small_corpus.vocab, small_corpus.train[:6]
    torch.manual_seed(0)
    model = kt.GPT(kt.GPTConfig(len(vocab), 64, 1, 2, 32, dropout=0.0))
    losses = solutions.finetune(model, kt.NamePlace(pairs, vocab, 64), 60, 3, 0.02)
    assert len(losses) == 120 and losses[-1] < 0.2 < losses[0]
    answers, score = solutions.evaluate(model, vocab, pairs)
    assert answers == kt.answer(model, vocab, [question for question, _ in pairs], max_new=30)
    assert score == kt.exact_match(answers, [gold for _, gold in pairs]) and score.correct >= 5


# ---------------------------------------------------------------- names and simulations


def test_similar_names():
    people = [("Ada Moor", "Oslo"), ("Ada Lee", "Rome"), ("Bo Moor", "Bonn"), ("Cy Ek", "Lima")]
    assert names.same_first_name("Ada Ek", people) == {"Oslo", "Rome"}
    assert names.same_last_name("Ada Ek", people) == {"Lima"}
    assert names.most_similar_names("Ada Moore", people) == {"Oslo", "Rome", "Bonn"}
    assert names.swap_part(0, -1, people) == "Where was Ada Lee born?"


def test_the_sign_test_finds_what_intervals_miss():
    equal, different = simulations.two_rules(300)
    rejected = [float(row[2].split()[0]) for row in (equal, different)]
    apart = [float(row[1].split()[0]) for row in (equal, different)]
    assert rejected[0] <= 7 and apart[0] <= 2
    assert apart[1] < 20 and rejected[1] > 85


def test_pooled_seeds_are_too_sure_of_themselves():
    (_, one), (_, three) = simulations.pooled_seeds(300)
    assert float(one.split()[0]) > 90 and float(three.split()[0]) < 85


def test_the_best_of_20_is_no_better_on_test():
    answers = ["a"] * 5 + list("bcdefghijk")
    rows = simulations.best_of_20(answers, answers * 6, answers * 6, 20)
    (_, average, best), (_, test_average, test_best) = rows
    number = {text: float(text.split()[0]) for text in (average, best, test_average, test_best)}
    assert number[best] > number[average] + 3
    assert abs(number[test_best] - number[test_average]) < 3


# ---------------------------------------------------------------- the page's claims


@pytest.mark.slow
@pytest.mark.notebook(NAME)
def test_what_the_page_says(facts):
    """The cells that nbval does not compare: their numbers, with room for other processors."""
    assert facts["train"]["accuracy"] > 0.8 and facts["dev"]["accuracy"] < 0.03
    assert facts["train_loss"] < 0.5
    assert facts["dev_loss"] > facts["lowest_dev_loss"] + 1
    assert facts["dev_loss"] > math.log(78)
    assert min(facts["train_accuracy_by_seed"]) > 0.7 and max(facts["dev_accuracy_by_seed"]) < 0.04
    assert facts["baseline"]["accuracy"] < facts["london"]["accuracy"]
