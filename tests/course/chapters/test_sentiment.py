"""Generated sentences: their labels by a reader of our own, their splits, their traps."""

import hashlib
import re

import pytest

from kt_course.chapters.finetuning_techniques.sentiment import (
    BAD,
    GOOD,
    KINDS,
    NEW_BAD,
    NEW_GOOD,
    THINGS,
    Sentence,
    bag_of_words,
    compose,
    load_task,
    score_labels,
    sentences,
    split_of,
)
from kt_course.exercises.random_cases import fresh_random
from kt_course.shipped import shipped

PRAISE, BLAME = {*GOOD, *NEW_GOOD}, {*BAD, *NEW_BAD}


def read(text):
    """(label, kind) of a sentence, from its words alone: no template is known here."""
    words = re.findall(r"[a-z]+", text.lower())
    signs = [(i, w in PRAISE) for i, w in enumerate(words) if w in PRAISE | BLAME]
    if "not" in words:
        ((_, good),) = signs
        return int(not good), "not"
    if "but" in words:
        (good,) = {g for i, g in signs if i > words.index("but")}
        return int(good), "but"
    if "though" in words:
        (good,) = {g for i, g in signs if i < words.index("though")}
        return int(good), "though"
    (good,) = {g for _, g in signs}
    return int(good), "and" if "and" in words else "plain"


@pytest.mark.parametrize("words", [(BAD, GOOD), (NEW_BAD, NEW_GOOD)], ids=["usual", "new"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_label_and_kind_is_what_a_reader_finds(split, words):
    for s in sentences(150, split, 3, words=words):
        assert (s.label, s.kind) == read(s.text), s


def test_the_word_lists_do_not_overlap():
    lists = [*GOOD, *BAD, *NEW_GOOD, *NEW_BAD]
    assert len(set(lists)) == len(lists)
    assert not set(lists) & set(THINGS)
    assert len(GOOD) == len(BAD) and len(NEW_GOOD) == len(NEW_BAD)


def test_opposed_kinds_hold_one_word_of_each_side():
    for s in sentences(200, kinds=("but", "though")):
        words = set(re.findall(r"[a-z]+", s.text.lower()))
        assert len(words & PRAISE) == len(words & BLAME) == 1


def test_they_are_different_balanced_and_short():
    drawn_sentences = sentences(500)
    assert len({s.text for s in drawn_sentences}) == 500
    assert max(len(s.text) for s in drawn_sentences) <= 64
    for kind in KINDS:
        labels = [s.label for s in drawn_sentences if s.kind == kind]
        assert len(labels) == 100 and sum(labels) == 50
    assert {s.label for s in drawn_sentences[:10]} == {0, 1}, "they come in a random order"


def test_a_sentence_belongs_to_one_split_whatever_the_seed():
    train = {s.text for seed in range(3) for s in sentences(300, "train", seed)}
    test = {s.text for seed in range(3) for s in sentences(200, "test", seed)}
    assert not train & test
    assert {split_of(t) for t in train} == {"train"} and {split_of(t) for t in test} == {"test"}


def test_about_a_quarter_belongs_to_test():
    rng = fresh_random()
    texts = {compose(rng, i % 2, KINDS[i % 5], (BAD, GOOD)).text for i in range(3000)}
    assert 0.18 < sum(split_of(t) == "test" for t in texts) / len(texts) < 0.32


def test_the_same_everywhere():
    """Pinned: another machine, Python or hash seed must give the very same text."""
    task = load_task(4, 200, 50, 100, 40)
    text = repr([task.train, task.dev, task.test, task.new])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e80370edffacddbd"
    assert load_task(5, 200, 50, 100, 40).train != task.train


def test_new_words_are_in_no_training_sentence():
    task, new = load_task(0, 400, 100, 50, 60), {*NEW_GOOD, *NEW_BAD}

    def words(sentences):
        return set(re.findall(r"[a-z]+", " ".join(s.text for s in sentences).lower()))

    assert not words([*task.train, *task.dev]) & new
    assert not words(task.new) & {*GOOD, *BAD}


def test_their_characters_are_those_of_the_biographies():
    task = load_task(0)
    _, vocab, _ = shipped("bios", "rope", "finetuned")
    every = [*task.train, *task.dev, *task.test, *task.new]
    assert all(character in vocab for s in every for character in s.text)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sentences(5, "dev"), "no split 'dev'; known: train, test"),
        (lambda: sentences(-1), "0 or more, not -1"),
        (lambda: sentences(5, kinds=("irony",)), "no kind of sentence 'irony'"),
        (lambda: sentences(10_000), "ask for fewer, or give more words"),
        (lambda: compose(fresh_random(), 2, "plain", (BAD, GOOD)), "0 .bad. or 1 .good., not 2"),
        (lambda: bag_of_words([Sentence("A fine tea.", 1, "plain")], []), "only one label"),
        (lambda: bag_of_words(sentences(20), sentences(5, "test"), 0), "longest must be 1"),
        (lambda: score_labels([1], []), "1 labels cannot be compared with 0 sentences"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_bag_of_words_falls_into_the_traps():
    """The words of "not" mislead it; "but" and "though" are decided by chance. Wide margins."""
    data = load_task(0, 500, 0, 300)
    labels = bag_of_words(data.train, data.test)
    share = {
        kind: score_labels(
            [a for a, s in zip(labels, data.test, strict=True) if s.kind == kind],
            [s for s in data.test if s.kind == kind],
        ).accuracy
        for kind in KINDS
    }
    assert share["plain"] > 0.8 and share["and"] > 0.8
    assert share["not"] < 0.2
    assert 0.25 < share["but"] < 0.75 and 0.25 < share["though"] < 0.75
    assert score_labels(labels, data.test).accuracy < 0.7


def test_runs_of_words_help_a_bag():
    data = load_task(0, 500, 0, 300)
    alone, runs = (score_labels(bag_of_words(data.train, data.test, n), data.test) for n in (1, 3))
    assert runs.accuracy > alone.accuracy + 0.1


def test_right_counts():
    drawn_sentences = sentences(6)
    assert score_labels([s.label for s in drawn_sentences], drawn_sentences).correct == 6
    assert score_labels([1 - s.label for s in drawn_sentences], drawn_sentences).correct == 0
