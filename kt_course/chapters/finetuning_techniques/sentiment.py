"""Short sentences that praise or blame, made from word lists: a task with known traps.

Every sentence has a label, 1 (good) or 0 (bad), by the rule of its kind:

    plain    A superb film.                 1   the word decides
    and      Dull tea and vile cake.        0   both words say the same
    not      Not a poor song.               1   the negation turns the word round
    but      Fine soup but dull wine.       0   the word after "but" decides
    though   A nice tour though dreary.     1   the word before "though" decides

A sentence with "but" or "though" has a good and a bad word, one with "not" a word of the other
label: counting words gives a correct answer only by chance there. The same arguments give the same
sentences on every machine.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from kt_core._validation import one_of
from kt_core.evaluation import Score

GOOD = ("good", "great", "fine", "nice", "lovely", "superb")
BAD = ("bad", "poor", "dull", "vile", "nasty", "dreary")
# In no labelled training sentence: what a classifier knows of them, its body knew before.
NEW_GOOD = ("grand", "charming", "splendid", "pleasant")
NEW_BAD = ("grim", "dismal", "dreadful", "tedious")
THINGS = tuple(
    "soup room film book song plot meal view play tour cake band wine tea hotel show".split()
)
# {x} and {y} are things; {a} is the word of x and {b} that of y
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("The {x} was {a}.", "A {a} {x}."),
    "and": ("A {a} and {b} {x}.", "{A} {x} and {b} {y}."),
    "not": ("The {x} was not {a}.", "Not a {a} {x}."),
    "but": ("A {a} {x} but {b}.", "{A} {x} but {b} {y}."),
    "though": ("A {b} {x} though {a}.", "{B} {y} though {a} {x}."),
}
KINDS = tuple(TEMPLATES)
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Sentence:
    """One sentence: its text, its label (1 good, 0 bad) and its kind, one of KINDS."""

    text: str
    label: int
    kind: str


@dataclass(frozen=True)
class Task:
    """Sentences to train on, to choose settings by, to test with, and to test with new words."""

    train: list[Sentence]
    dev: list[Sentence]
    test: list[Sentence]
    new: list[Sentence]


def load_task(
    seed: int, n_train: int = 600, n_dev: int = 200, n_test: int = 300, n_new: int = 100
) -> Task:
    """Draw the sentences of a seed; train and dev are drawn together, so that they share none."""
    drawn = sentences(n_train + n_dev, "train", seed)
    new = sentences(n_new, "test", seed, words=(NEW_BAD, NEW_GOOD))
    return Task(drawn[:n_train], drawn[n_train:], sentences(n_test, "test", seed), new)


def split_of(text: str) -> str:
    """Find the split of a sentence, "train" or "test" (a quarter), from its characters alone.

    So no seed's training set holds a sentence of another seed's test set.
    """
    return SPLITS[zlib.crc32(text.encode()) % 4 == 0]


def compose(rng: random.Random, label: int, kind: str, words: Sequence[Sequence[str]]) -> Sentence:
    """Make a sentence of that label and kind; `words` are the (bad, good) words to choose from."""
    one_of("kind of sentence", kind, KINDS)
    if label not in (0, 1):
        raise ValueError(f"compose: label must be 0 (bad) or 1 (good), not {label!r}")
    x, y = rng.sample(THINGS, 2)
    a = rng.choice(words[label if kind in ("plain", "and") else 1 - label])
    b = rng.choice([word for word in words[label] if word != a])
    template = rng.choice(TEMPLATES[kind])
    text = template.format(x=x, y=y, a=a, b=b, A=a.capitalize(), B=b.capitalize())
    return Sentence(text, label, kind)


def sentences(
    n: int,
    split: str = "train",
    seed: int = 0,
    *,
    kinds: Sequence[str] = KINDS,
    words: Sequence[Sequence[str]] = (BAD, GOOD),
) -> list[Sentence]:
    """Draw `n` different sentences of a split, with kinds and labels in turn, so equally frequent.

    Raises ValueError for an unknown split or kind, and where too few sentences are different.
    """
    one_of("split", split, SPLITS)
    if n < 0:
        raise ValueError(f"sentences: n must be 0 or more, not {n}")
    rng = random.Random(f"sentences {split} {seed}")
    drawn: dict[str, Sentence] = {}
    while len(drawn) < n:
        kind, label = kinds[len(drawn) // 2 % len(kinds)], len(drawn) % 2
        for _ in range(2000):
            sentence = compose(rng, label, kind, words)
            if sentence.text not in drawn and split_of(sentence.text) == split:
                break
        else:
            count = f"no {len(drawn) + 1} different ones of kind {kind!r} in split {split!r}"
            raise ValueError(f"sentences: {count}: ask for fewer, or give more words")
        drawn[sentence.text] = sentence
    order = list(drawn.values())
    rng.shuffle(order)
    return order


def bag_of_words(
    train: Sequence[Sentence], test: Sequence[Sentence], longest: int = 1
) -> list[int]:
    """Label `test` by logistic regression on counts of words and n-grams (scikit-learn).

    Args:
        longest: The longest n-gram counted; with 1 the order of the words is lost.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len({s.label for s in train}) < 2:
        raise ValueError("bag_of_words: the training sentences have only one label: give both")
    if longest < 1:
        raise ValueError(f"bag_of_words: longest must be 1 (words) or more, not {longest}")
    counts = CountVectorizer(token_pattern=r"[A-Za-z]+", ngram_range=(1, longest))
    model = make_pipeline(counts, LogisticRegression(max_iter=1000))
    model.fit([s.text for s in train], [s.label for s in train])
    return model.predict([s.text for s in test]).tolist()


def score_labels(labels: Sequence[int], sentences: Sequence[Sentence]) -> Score:
    """Count the labels that are those of the sentences. ValueError if their numbers differ."""
    if len(labels) != len(sentences):
        raise ValueError(f"{len(labels)} labels cannot be compared with {len(sentences)} sentences")
    return Score(sum(a == s.label for a, s in zip(labels, sentences, strict=True)), len(sentences))
