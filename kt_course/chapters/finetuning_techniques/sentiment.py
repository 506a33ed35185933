"""Short sentences that praise or blame, made from word lists: a classification task with traps that we know.

Every sentence is labelled 1 (good) or 0 (bad) by the rule of its kind:

    plain    A superb film.                 1   the word says it
    and      Dull tea and vile cake.        0   both words say it
    not      Not a poor song.               1   the negation turns the word round
    but      Fine soup but dull wine.       0   what stands behind "but" decides
    though   A nice tour though dreary.     1   what stands without "though" decides

A sentence with "but" or "though" holds a good and a bad word, one with "not" a word of the other label: who counts words is
right there by chance, or wrong. A review is such a sentence and, behind it, what came of it ("A superb film." "Loved it."); it
has no label. No file is read: the same arguments give the same text on every machine.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from kt_core.evaluation import Score

GOOD = ("good", "great", "fine", "nice", "lovely", "superb")
BAD = ("bad", "poor", "dull", "vile", "nasty", "dreary")
# in no labelled training sentence: what a classifier knows of them, its body knew before
NEW_GOOD = ("grand", "charming", "splendid", "pleasant")
NEW_BAD = ("grim", "dismal", "dreadful", "tedious")
THINGS = (
    "soup",
    "room",
    "film",
    "book",
    "song",
    "plot",
    "meal",
    "view",
    "play",
    "tour",
    "cake",
    "band",
    "wine",
    "tea",
    "hotel",
    "show",
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
VERDICTS = {
    1: ("Loved it.", "Go there.", "More of it.", "So happy."),
    0: ("Hated it.", "Stay away.", "No more.", "So cross."),
}
AGREE = 0.9  # share of the reviews whose verdict fits what they say; people are not consistent
SPLITS = ("train", "test")
# Student's t, 97.5 %, for 1 ... 9 degrees of freedom
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Sentence:
    """One sentence: its text, its label (1 good, 0 bad) and its kind, one of KINDS."""

    text: str
    label: int
    kind: str


@dataclass(frozen=True)
class Sentiment:
    """Labelled sentences to train and test on, test sentences with new words, and reviews without labels."""

    train: list[Sentence]
    test: list[Sentence]
    new: list[Sentence]
    reviews: list[tuple[str, str]]


def split_of(text: str) -> str:
    """The split that a sentence belongs to, "train" or "test" (a quarter), decided by its characters alone.

    So no seed's training set holds a sentence of another seed's test set, and no review is made from one.
    """
    return SPLITS[zlib.crc32(text.encode()) % 4 == 0]


def compose(rng: random.Random, label: int, kind: str, words: Sequence[Sequence[str]]) -> Sentence:
    """A sentence of that label and kind; `words` are the (bad, good) words to choose from."""
    if kind not in TEMPLATES:
        raise ValueError(f"compose: kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if label not in (0, 1):
        raise ValueError(f"compose: label must be 0 (bad) or 1 (good), not {label!r}")
    x, y = rng.sample(THINGS, 2)
    a = rng.choice(words[label if kind in ("plain", "and") else 1 - label])
    b = rng.choice([word for word in words[label] if word != a])
    text = rng.choice(TEMPLATES[kind]).format(
        x=x, y=y, a=a, b=b, A=a.capitalize(), B=b.capitalize()
    )
    return Sentence(text, label, kind)


def sentences(
    n: int,
    split: str = "train",
    seed: int = 0,
    *,
    kinds: Sequence[str] = KINDS,
    words: Sequence[Sequence[str]] = (BAD, GOOD),
) -> list[Sentence]:
    """`n` different sentences of a split, kinds and labels in turn, so that all are equally frequent.

    Raises ValueError for an unknown split or kind, and where there are not so many different sentences.
    """
    if split not in SPLITS:
        raise ValueError(f"sentences: split must be one of {', '.join(SPLITS)}, not {split!r}")
    if n < 0:
        raise ValueError(f"sentences: n must be 0 or more, not {n}")
    rng = random.Random(f"sentences {split} {seed}")
    found: dict[str, Sentence] = {}
    while len(found) < n:
        kind, label = kinds[len(found) // 2 % len(kinds)], len(found) % 2
        for _ in range(2000):
            made = compose(rng, label, kind, words)
            if made.text not in found and split_of(made.text) == split:
                break
        else:
            raise ValueError(
                f"sentences: no {len(found) + 1} different ones of kind {kind!r} in split {split!r}: "
                "ask for fewer, or give more words"
            )
        found[made.text] = made
    order = list(found.values())
    rng.shuffle(order)
    return order


def reviews(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """`n` pairs of a sentence, old words and new, none of a test split, and what came of it, without any label.

    What came of it fits the sentence in a share AGREE of them. Sentences may come again, with another ending.
    """
    if n < 0:
        raise ValueError(f"reviews: n must be 0 or more, not {n}")
    rng = random.Random(f"reviews {seed}")
    words, found = ((*BAD, *NEW_BAD), (*GOOD, *NEW_GOOD)), []
    while len(found) < n:
        made = compose(rng, rng.randint(0, 1), rng.choice(KINDS), words)
        if split_of(made.text) == "train":
            meant = made.label if rng.random() < AGREE else 1 - made.label
            found.append((made.text, rng.choice(VERDICTS[meant])))
    return found


def load_sentiment(
    n_train: int = 500, n_test: int = 300, n_reviews: int = 0, seed: int = 0, n_new: int = 100
) -> Sentiment:
    """Training and test sentences, `n_new` test sentences whose words no training sentence has, and reviews."""
    return Sentiment(
        sentences(n_train, "train", seed),
        sentences(n_test, "test", seed),
        sentences(n_new, "test", seed, words=(NEW_BAD, NEW_GOOD)),
        reviews(n_reviews, seed),
    )


def bag_of_words(
    train: Sequence[Sentence], test: Sequence[Sentence], longest: int = 1
) -> list[int]:
    """Labels of `test` by logistic regression on counts of words and of runs of up to `longest` words (scikit-learn).

    With `longest` 1 the order of the words is lost. ValueError for one label alone, or `longest` below 1.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len({s.label for s in train}) < 2:
        raise ValueError("bag_of_words: the training sentences have one label alone: give both")
    if longest < 1:
        raise ValueError(f"bag_of_words: longest must be 1 (words) or more, not {longest}")
    counts = CountVectorizer(token_pattern=r"[A-Za-z]+", ngram_range=(1, longest))
    found = make_pipeline(counts, LogisticRegression(max_iter=1000))
    found.fit([s.text for s in train], [s.label for s in train])
    return found.predict([s.text for s in test]).tolist()


def right(labels: Sequence[int], sentences: Sequence[Sentence]) -> Score:
    """How many labels are those of the sentences. ValueError if the counts differ."""
    if len(labels) != len(sentences):
        raise ValueError(f"{len(labels)} labels cannot be compared with {len(sentences)} sentences")
    return Score(sum(a == s.label for a, s in zip(labels, sentences, strict=True)), len(sentences))


def seed_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) over seeds: Student's 95 % interval of the mean, for 2 ... 10 values."""
    n = len(values)
    if not 2 <= n <= 10:
        raise ValueError(f"seed_interval: 2 to 10 values are needed, not {n}")
    half = _STUDENT[n - 2] * stdev(values) / n**0.5
    return mean(values), mean(values) - half, mean(values) + half
