"""Three tasks on the people of bios, with few labelled examples, and their n-gram baselines.

    region      a question, and the body's own answer to it -> the region of the birthplace
    tagging     a line -> which words are a person's name, which are a place
    span        a question, and a line that names several cities -> the birthplace in the line

A row is (ids, targets). People of the train split are labelled; those of dev test.
"""

import functools
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kt_core.corpora import bios, bios_words
from kt_core.corpora.loading import question
from kt_core.corpora.paths import data_dir
from kt_core.datasets import batches
from kt_core.vocab import MASK, CharVocab

REGIONS = ("British Isles", "North America", "other Europe", "elsewhere")
BRITISH = ("England", "Scotland", "Wales", "Ireland")
AMERICAN = ("United States", "Canada")
EUROPEAN = (
    "France Austria Germany Italy Spain Hungary Czechia Sweden Denmark Netherlands Poland Portugal "
    "Belgium Norway Switzerland Greece Finland Latvia Lithuania Estonia Ukraine Croatia Serbia "
    "Bulgaria Romania Russia"
).split()
TAGS = ("other", "name", "place")
WORD = re.compile(r"\w+")
MAX_TEXT = 127  # characters, so that a text fits the body's block
Row = tuple[list[int], Any]


@functools.cache
def world() -> tuple[bios.Bios, dict[str, str]]:
    """The people of bios with all their facts, and the country of each city."""
    cities = bios_words.load_words(data_dir() / "bios")["cities"]
    return bios.generate(), {city: country for city, _, country in cities}


def encode(vocab: CharVocab, text: str) -> list[int]:
    """Encode a text in which ⁇ may stand."""
    return [vocab.mask_id if c == MASK else vocab.encode(c)[0] for c in text]


class Rows:
    """Rows as data for `kt.batches`."""

    block_size = None

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def tokens(self, i: int, epoch: int = 0) -> Row:
        """Return row i, the same in every epoch."""
        return self.rows[i]

    def stack(self, rows: Sequence[Row], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Pad ids with 0 and targets with -1; return both as tensors."""
        ids, targets = ([torch.tensor(x) for x in part] for part in zip(*rows, strict=True))
        pad = functools.partial(pad_sequence, batch_first=True)
        is_list = targets[0].dim() > 0
        return pad(ids), pad(targets, padding_value=-1) if is_list else torch.stack(targets)


def batch_list(rows: Sequence[Row], steps: int, batch_size: int, seed: int) -> list[tuple]:
    """Return the batches of a whole training: epoch after epoch, until there are `steps`."""
    chosen: list[tuple] = []
    epoch = 0
    while len(chosen) < steps:
        chosen += batches(Rows(rows), batch_size, seed, epoch)
        epoch += 1
    return chosen[:steps]


@torch.no_grad()
def logits_of(model, rows: Sequence[Row], batch_size: int = 50) -> list[Tensor]:
    """Return the model's logits for each row, in order, without those at padding."""
    logits = []
    device = next(model.parameters()).device
    for i in range(0, len(rows), batch_size):
        part = rows[i : i + batch_size]
        outputs = model(Rows(part).stack(part)[0].to(device))[0].cpu()
        pairs = zip(outputs, part, strict=True)
        logits += [z[: len(ids)] if z.dim() > 1 else z for z, (ids, _) in pairs]
    return logits


# ---------------------------------------------------------------- the three tasks


def region_of(city: str) -> int:
    """Return the index of a city's region in REGIONS; "elsewhere" for other texts too."""
    country = world()[1].get(city)
    groups = (BRITISH, AMERICAN, EUROPEAN)
    return next((i for i, group in enumerate(groups) if country in group), 3)


def region_rows(vocab: CharVocab, pairs: Sequence, answers: Sequence[str]) -> list[Row]:
    """Make a row per question: "Where was NAME born?⁇answer⁇" -> region of the true birthplace."""
    return [
        (encode(vocab, f"{text}{MASK}{reply}{MASK}"), region_of(place))
        for (text, place), reply in zip(pairs, answers, strict=True)
    ]


def split_people(seed: int, n_train: int, n_dev: int) -> tuple[list, list, list]:
    """Return pairs (question, birthplace): labelled ones, those that choose, those that test.

    The labelled people depend on the seed; the first 100 of dev choose settings, the others test.
    """
    people, parts = world()[0].people, world()[0]
    labelled = random.Random(seed).sample(parts.train, n_train)
    groups = labelled, parts.dev[:100][:n_dev], parts.dev[100:][: 2 * n_dev]
    return tuple([(question(people[i].name), people[i].birthplace) for i in g] for g in groups)


@functools.cache
def place_pattern() -> re.Pattern:
    """A pattern that finds every city and country of bios."""
    places = {*world()[1], *world()[1].values()}
    return re.compile(rf"\b({'|'.join(map(re.escape, sorted(places, key=len, reverse=True)))})\b")


def tagged_line(name: str, line: str) -> tuple[str, list[int]] | None:
    """Put the name where the line says He or She; return the text and a tag per character."""
    text = line.removeprefix(f"{name}. ")
    starts = [m.start() for m in re.finditer(r"\b(He|She) ", text)]
    if not starts or len(text) + len(name) > MAX_TEXT:
        return None
    at = starts[-1]
    text = text[:at] + name + text[text.index(" ", at) :]
    tags = [0] * len(text)
    for match in place_pattern().finditer(text):
        tags[match.start() : match.end()] = [2] * len(match[0])
    tags[at : at + len(name)] = [1] * len(name)
    return text, tags


def tagging_task(split: str, n: int, seed: int) -> list[tuple[str, list[int]]]:
    """Draw n tagged lines of different people of a split."""
    lines = lines_of_people(split, random.Random(f"tagging {split} {seed}"))
    return [one for person, line in lines if (one := tagged_line(person.name, line))][:n]


def lines_of_people(split: str, rng: random.Random) -> Iterator[tuple[bios.Person, str]]:
    """Yield the people of a split in random order, each with one of their lines."""
    members = getattr(world()[0], split)
    for i in rng.sample(members, len(members)):
        yield world()[0].people[i], rng.choice(world()[0].lines[i])


def tag_rows(vocab: CharVocab, examples: Sequence[tuple[str, list[int]]]) -> list[Row]:
    """Make rows with one target per word, at its last character, and -1 elsewhere."""
    rows = []
    for text, tags in examples:
        ends = {m.end() - 1 for m in WORD.finditer(text)}
        rows.append((encode(vocab, text), [t if i in ends else -1 for i, t in enumerate(tags)]))
    return rows


def span_task(split: str, n: int, seed: int) -> list[tuple[str, int, int]]:
    """Draw n texts "question⁇line", in which another city is named too, with the answer's ends."""
    examples = []
    for person, line in lines_of_people(split, random.Random(f"span {split} {seed}")):
        prefix = question(person.name) + MASK
        line = line.removeprefix(f"{person.name}. ")
        others = [person.facts.get(key) for key in ("study", "work", "death")]
        start = len(prefix) + line.index(person.birthplace)
        if any(city and city in line for city in others) and len(prefix + line) <= MAX_TEXT:
            examples.append((prefix + line, start, start + len(person.birthplace) - 1))
    return examples[:n]


def span_rows(vocab: CharVocab, examples: Sequence[tuple[str, int, int]]) -> list[Row]:
    """Make rows whose targets are the first and the last position of the answer."""
    return [(encode(vocab, text), [start, end]) for text, start, end in examples]


# ---------------------------------------------------------------- from logits to answers


def entities(text: str, word_tags: Sequence[int]) -> set[tuple[int, int, int]]:
    """Join neighbouring words of one tag; return (start, end, tag) of each name and place."""
    parts: list[list[int]] = []
    for match, tag in zip(WORD.finditer(text), word_tags, strict=True):
        if parts and parts[-1][2] == tag and not text[parts[-1][1] : match.start()].strip(" ."):
            parts[-1][1] = match.end()
        else:
            parts.append([match.start(), match.end(), tag])
    return {tuple(part) for part in parts if part[2]}


def word_tags(text: str, per_character: Sequence[int]) -> list[int]:
    """Read each word's tag at its last character."""
    return [int(per_character[m.end() - 1]) for m in WORD.finditer(text)]


def f1_score(predictions: Sequence[set], gold: Sequence[set]) -> float:
    """Return F1: the harmonic mean of precision and recall over all names and places."""
    hits = sum(len(a & b) for a, b in zip(predictions, gold, strict=True))
    return 2 * hits / max(sum(map(len, predictions)) + sum(map(len, gold)), 1)


def evaluate_tagger(model, vocab: CharVocab, examples: Sequence) -> float:
    """Return a tagger's F1."""
    outputs = logits_of(model, tag_rows(vocab, examples))
    tags = [word_tags(e[0], z.argmax(-1)) for z, e in zip(outputs, examples, strict=True)]
    return tagging_f1(tags, examples)


def tagging_f1(tags: Sequence[Sequence[int]], examples: Sequence) -> float:
    """Return F1 of tags per word."""
    predictions = [entities(text, t) for t, (text, _) in zip(tags, examples, strict=True)]
    return f1_score(predictions, [entities(text, word_tags(text, gold)) for text, gold in examples])


def evaluate_spans(model, vocab: CharVocab, examples: Sequence) -> float:
    """Return the share of answers whose start and end are both correct."""
    outputs = logits_of(model, span_rows(vocab, examples))
    best = [tuple(z.argmax(0).tolist()) for z in outputs]
    return sum(b == e[1:] for b, e in zip(best, examples, strict=True)) / len(examples)


# ---------------------------------------------------------------- n-grams


def regression(features, rows: Sequence, labels: Sequence[int]):
    """Fit a logistic regression on what a vectorizer of scikit-learn makes of rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(features, LogisticRegression(max_iter=2000, C=10)).fit(rows, labels)


def letters_model(texts: Sequence[str], labels: Sequence[int]):
    """Logistic regression on n-grams of up to four letters."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return regression(TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4)), texts, labels)


def word_features(text: str) -> list[dict[str, float]]:
    """Describe each word by itself, its ends, its capital, and two neighbours on either side."""
    tokens = [(m[0], m.start()) for m in re.finditer(r"\w+|[^\w\s]", text)]
    around = [("^", 0)] * 2 + tokens + [("^", 0)] * 2
    rows = []
    for k, (word, _) in enumerate(tokens, start=2):
        if WORD.fullmatch(word):
            near = {f"{d} {around[k + d][0]}": 1.0 for d in (-2, -1, 1, 2)}
            capital = {f"capital {d}": float(around[k + d][0][0].isupper()) for d in (-1, 0, 1)}
            both = f"both {around[k - 1][0]} {around[k + 1][0]}"
            rows.append({word: 1.0, "^" + word[:3]: 1.0, word[-3:] + "$": 1.0, both: 1.0})
            rows[-1] |= near | capital
    return rows


def features_model(rows: Sequence[dict[str, float]], labels: Sequence[int]):
    """Logistic regression on named features."""
    from sklearn.feature_extraction import DictVectorizer

    return regression(DictVectorizer(), rows, labels)


def ngram_tagging(train: Sequence, test: Sequence) -> float:
    """Return the F1 of logistic regression on words and their neighbours."""
    rows = [row for text, _ in train for row in word_features(text)]
    labels = [tag for text, tags in train for tag in word_tags(text, tags)]
    model = features_model(rows, labels)
    return tagging_f1([model.predict(word_features(text)).tolist() for text, _ in test], test)


def ngram_spans(train: Sequence, test: Sequence) -> float:
    """Return the share of lines whose birthplace the same features find among the capitals."""

    def candidates(text: str) -> list[tuple[int, int, dict]]:
        """Each capitalised word or two of the line, with the features of its first word."""
        at = text.index(MASK) + 1
        line = text[at:]
        rows = list(zip(WORD.finditer(line), word_features(line), strict=True))
        merged = re.finditer(r"[A-ZÀ-Þ]\w+(?: [A-ZÀ-Þ]\w+)?", line)
        ends = {m.start(): m.end() for m in merged}
        return [
            (at + m.start(), at + ends[m.start()] - 1, row) for m, row in rows if m.start() in ends
        ]

    rows = [(c[2], int(c[:2] == e[1:])) for e in train for c in candidates(e[0])]
    model = features_model(*map(list, zip(*rows, strict=True)))
    hits = 0
    for example in test:
        choices = candidates(example[0])
        scores = model.predict_proba([row for _, _, row in choices])[:, 1]
        hits += choices[int(scores.argmax())][:2] == example[1:]
    return hits / len(test)
