"""Chapter 3: exercises, their typical mistakes, the teaching solutions, and the page's numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from checking import Answers, mistakes, notebook_suite, quiz_suite, stub, suite

import kt_core as kt
from kt_core import datasets
from kt_course.chapters.span_corruption import birthplaces, exercises, solutions
from kt_course.exercises.registry import exercise_ids

NAME = "03_span_corruption"
IDS = exercise_ids(NAME)


# ---------------------------------------------------------------- answers in other words


def collate_by_lists(examples, length):
    xs, ys = [], []
    for ids, first in examples:
        xs.append((ids + [0] * length)[:length])
        ys.append(([0] * (first - 1) + ids[first:] + [0] * length)[:length])
    return torch.tensor(xs), torch.tensor(ys)


def cut_by_indices(document, block_size, rng):
    text = document[: rng.randint(4, int(7 * block_size / 8))]
    k = round(rng.uniform(0.125, 0.375) * len(text)) or 1
    a = rng.randint(0, len(text) - k)
    prefix, rest = text[:a], text[a:]
    return [prefix, rest[:k], rest[k:]]


class CorruptionByText:
    def __init__(self, documents, vocab, block_size=128, seed=0):
        self.documents, self.vocab = documents, vocab
        self.block_size, self.seed = block_size, seed

    def tokens(self, i, epoch=0):
        rng = random.Random(f"{self.seed} {epoch} {i}")
        prefix, masked, suffix = solutions.cut(self.documents[i], self.block_size, rng)
        return self.vocab.encode(f"{prefix}⁇{suffix}⁇{masked}"), 1

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, i):
        x, y = solutions.collate([self.tokens(i)], self.block_size)
        return x.squeeze(0), y.squeeze(0)


def batches_by_index(data, batch_size, seed, epoch):
    rng = random.Random(f"batches {seed} {epoch}")
    indices = list(range(len(data)))
    rng.shuffle(indices)
    indices = sorted(indices, key=lambda i: len(data.tokens(i, epoch)[0]))
    parts = [indices[k : k + batch_size] for k in range(0, len(indices), batch_size)]
    rng.shuffle(parts)
    result = []
    for part in parts:
        examples = [data.tokens(i, epoch) for i in part]
        result.append(solutions.collate(examples, len(examples[-1][0]) - 1))
    return result


def global_random(document, block_size, rng):
    return cut_by_indices(document, block_size, random)


class TextCorruption(CorruptionByText):
    def tokens(self, i, epoch=0):
        return self.documents[i], 1


class IdsAlone(CorruptionByText):
    def tokens(self, i, epoch=0):
        return super().tokens(i, epoch)[0]


OTHERS = {
    "shift-and-pad": {
        "floats": (lambda examples, n: torch.zeros(2, len(examples), n).unbind(), "float32"),
        "x alone": (lambda examples, n: collate_by_lists(examples, n)[0], "two tensors"),
    },
    "cut-a-span": {
        "two pieces": (lambda *inputs: cut_by_indices(*inputs)[:2], "three strings"),
        "the global random": (global_random, "rng is never used"),
    },
    "span-corruption": {
        "text": (TextCorruption, "list of ids"),
        "ids alone": (IdsAlone, "two things"),
    },
    "batches": {
        "examples": (lambda *inputs: [1, 2], "two tensors"),
        "nothing": (lambda *inputs: [], "no batch"),
    },
}
RIGHT = {
    "shift-and-pad": collate_by_lists,
    "cut-a-span": cut_by_indices,
    "span-corruption": CorruptionByText,
    "batches": batches_by_index,
}
BORROWED = {
    "shift-and-pad": lambda examples, length: datasets.collate(examples, length),
    "cut-a-span": lambda document, block_size, rng: solutions.cut(document, block_size, rng),
    "span-corruption": type("Mine", (kt.SpanCorruption,), {}),
    "batches": lambda data, batch_size, seed, epoch: list(
        datasets.batches(data, batch_size, seed, epoch)
    ),
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


def test_the_solutions_are_kt_cores_data(small_corpus):
    documents, vocab = small_corpus.documents, small_corpus.vocab
    for seed in (0, 3):
        ours = solutions.SpanCorruption(documents, vocab, 64, seed)
        theirs = kt.SpanCorruption(documents, vocab, 64, seed)
        for epoch in range(2):
            n = range(len(documents))
            assert [ours.tokens(i, epoch) for i in n] == [theirs.tokens(i, epoch) for i in n]
            pairs = [solutions.batches(ours, 8, seed, epoch), kt.batches(theirs, 8, seed, epoch)]
            for a, b in zip(*pairs, strict=True):
                assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))


# ---------------------------------------------------------------- the page's measurements


def test_fates_by_hand():
    name, place = "Ada Moor", "Oslo"
    cases = {
        ("Ada Moor. She was born in ", "Oslo", "."): birthplaces.ASKED,
        ("Ada", " Moor. She was born in Oslo", "."): birthplaces.HIDDEN_NAME,
        ("Ada Moor. She was ", "born", " in Oslo."): birthplaces.READ,
        ("Ada Moor. She was born in O", "slo", "."): birthplaces.DIVIDED,
        ("Ada Moor. She ", "was", ""): birthplaces.INVISIBLE,
    }
    assert {pieces: birthplaces.fate(pieces, name, place) for pieces in cases} == cases
    shares = birthplaces.fate_shares(cases.values())
    assert list(shares.values()) == [0.2] * 5


def test_birthplaces_are_found_after_the_name():
    documents = ["London Moor. She left London.", "Bo Ek. He sang.", "No name here"]
    places = {"London Moor": "London", "Bo Ek": "Rome"}
    assert birthplaces.name_of(documents[1]) == "Bo Ek"
    assert birthplaces.facts_of(documents, places) == [(0, "London Moor", "London")]
    assert birthplaces.end_of_birthplace(documents[0], "London Moor", "London") == 28


@pytest.mark.parametrize("lengths", [[300] * 5, [3, 20, 60, 111, 112, 113, 200]])
def test_expected_lengths_are_those_of_many_draws(lengths):
    grid, expected = birthplaces.expected_lengths(np.array(lengths))
    counts = np.zeros_like(expected)
    for n in lengths:
        for n_drawn in range(4, 113):
            counts[min(n, n_drawn) - 1] += 1
    assert expected == pytest.approx(counts / counts.sum())
    assert expected.sum() == pytest.approx(1)


def test_measured_cuts_follow_the_specification(small_corpus):
    data = kt.SpanCorruption(small_corpus.documents, small_corpus.vocab)
    measured = birthplaces.measured_cuts(data, solutions.cut, epochs=20)
    assert measured["length"].min() >= 4 and measured["length"].max() <= 112
    assert abs(measured["share"].mean() - 0.25) < 0.02
    assert abs(measured["position"].mean() - 0.5) < 0.05


@pytest.mark.slow
@pytest.mark.notebook(NAME)
def test_what_the_page_says(facts):
    """The numbers of the text, with room for other processors and other checkpoints."""
    assert abs(facts["masked_share"] - 0.25) < 0.01
    assert facts["overfit_loss"] < 0.1
    assert 0.45 < facts["birthplace_visible"] < 0.55
    shares = facts["birthplace_asked"]
    assert 0.06 < shares["the assignment's cut"] < 0.1 < shares["whole line, salient span"]
    assert facts["whole_line"]["accuracy"] + 0.2 < facts["short_question"]["accuracy"]
