"""The toy tasks: their rules, their alignments, and that draws depend on the seed alone."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_course.chapters.the_whole_transformer import toys
from kt_course.chapters.the_whole_transformer.seq2seq_data import Pair, TokenVocab, pad_rows

TOYS = {
    "reverse": toys.reverse(),
    "dates": toys.dates(0.3),
    "translate": toys.translate(),
    "summarise": toys.summarise(),
}
seeds = st.integers(0, 10**6)


def draw_pair(name, seed) -> Pair:
    return TOYS[name].pairs(1, seed)[0]


@given(st.sampled_from(sorted(TOYS)), seeds)
@settings(max_examples=100)
def test_every_pair_fits_its_vocabularies_and_alignment(name, seed):
    toy, pair = TOYS[name], draw_pair(name, seed)
    assert toy.source_vocab.decode(toy.source_vocab.encode(pair.source)) == pair.source
    assert toy.target_vocab.decode(toy.target_vocab.encode(pair.target)) == pair.target
    assert len(pair.alignment) == len(pair.target)
    assert all(0 <= i < len(pair.source) for at in pair.alignment for i in at)


@given(seeds)
@settings(max_examples=30)
def test_reverse(seed):
    pair = draw_pair("reverse", seed)
    assert 3 <= len(pair.source) <= 12
    assert pair.target == pair.source[::-1]
    assert [pair.source[i] for (i,) in pair.alignment] == list(pair.target)


@given(seeds)
@settings(max_examples=100)
def test_dates_are_those_that_are_written(seed):
    pair = draw_pair("dates", seed)
    text, iso = "".join(pair.source), "".join(pair.target)
    date = datetime.date.fromisoformat(iso)
    if "/" in text:
        a, b, year = map(int, text.split("/"))
        assert year == date.year and {a, b} == {date.day, date.month} and a != b
    else:
        assert str(date.year) in text and date.strftime("%B") in text
        assert date.strftime("%A") in text or "day" not in text
        rest = text.replace(str(date.year), "").replace(date.strftime("%B"), "")
        assert str(date.day) in rest
    for j, at in enumerate(pair.alignment):
        written = "".join(pair.source[i] for i in at)
        if j in (0, 1, 2, 3):
            assert written == iso[j]
        elif j in (4, 7):
            assert written == ""
        elif j in (5, 6) and "/" not in text:
            assert written == date.strftime("%B")
        elif date.day > 9 or "/" in text:
            assert written == iso[j]
        else:
            assert written == iso[-1]  # "4" means both digits of "04"


def test_slashed_dates_are_day_first_as_often_as_asked():
    pairs = toys.dates(1.0, 0.7).pairs(3000)
    day_first = sum("".join(p.source)[:2] == "".join(p.target)[-2:] for p in pairs) / 3000
    assert day_first == pytest.approx(0.7, abs=0.03)
    assert not any("/" in p.source for p in toys.dates().pairs(300))


def by_grammar(words: list[str]) -> list[str]:
    """The translation, written once more: clause by clause from the words alone."""
    if "and" in words:
        at = words.index("and")
        return [*by_grammar(words[:at]), "ke", *by_grammar(words[at + 1 :])]
    done = [toys.ADVERBS[words.pop()]] if words[-1] in toys.ADVERBS else []
    verb = next(i for i, word in enumerate(words) if word in toys.VERBS)
    for article, *middle, noun in (words[:verb], words[verb + 1 :]):
        other = toys.NOUNS[noun]
        form = {"theo": "lo", "ao": "uno", "thei": "li", "ai": "uni"}[article + other[-1]]
        done += [other, *(toys.ADJECTIVES[word] for word in middle), form]
    return [*done, toys.VERBS[words[verb]]]


@given(seeds)
@settings(max_examples=100)
def test_translations_follow_the_grammar(seed):
    pair = draw_pair("translate", seed)
    assert list(pair.target) == by_grammar(list(pair.source))
    lexicon = toys.NOUNS | toys.ADJECTIVES | toys.VERBS | toys.ADVERBS | {"and": "ke"}
    for word, at in zip(pair.target, pair.alignment, strict=True):
        if word in toys.ARTICLES.values():
            article, noun = (pair.source[i] for i in at)
            assert toys.ARTICLES[article, toys.NOUNS[noun][-1]] == word
        else:
            assert lexicon[pair.source[at[0]]] == word and len(at) == 1


def test_the_lexicon_tells_no_word_twice():
    words = [w for d in (toys.NOUNS, toys.ADJECTIVES, toys.VERBS, toys.ADVERBS) for w in d.values()]
    assert len(set(words)) == len(words) and not set(words) & set(toys.ARTICLES.values())
    assert {word[-1] for word in toys.NOUNS.values()} == {"o", "i"}


@given(seeds)
@settings(max_examples=100)
def test_headlines_tell_the_one_sentence_with_news(seed):
    pair = draw_pair("summarise", seed)
    sentences = " ".join(pair.source).split(" .")[:-1]
    (news,) = [s.split() for s in sentences if set(s.split()) & set(toys.REPORT["news"])]
    assert len(sentences) == 3
    left_out = {"on", "a", "in", *toys.REPORT["looks"], *toys.REPORT["weekdays"]}
    assert list(pair.target) == [word for word in news if word not in left_out]
    assert [pair.source[i] for (i,) in pair.alignment] == list(pair.target)
    places = [i for (i,) in pair.alignment]
    assert "." not in pair.source[places[0] : places[-1]]


# ---------------------------------------------------------------- what they share


def test_draws_depend_on_the_seed_alone():
    for toy in TOYS.values():
        assert toy.pairs(20, 3) == toy.pairs(20, 3) != toy.pairs(20, 4)
    code = "from test_toys import TOYS; print([toy.pairs(20, 3) for toy in TOYS.values()])"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path, os.path.dirname(__file__)])
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert other.stdout.strip() == str([toy.pairs(20, 3) for toy in TOYS.values()])


def test_a_split_keeps_test_and_train_apart():
    train, test = toys.reverse(2, 3).split(2000, 300)
    assert len(train) == 2000 and len({p.source for p in test}) == len(test) == 300
    assert not {p.source for p in test} & {p.source for p in train}
    with pytest.raises(ValueError, match="only .* of 100 test pairs are new"):
        toys.reverse(1, 1).split(500, 100)


def test_tensors_are_padded_rows_of_ids():
    toy = toys.reverse(1, 4)
    pairs = toy.pairs(6)
    source, target = toy.tensors(pairs)
    assert source.shape == target.shape == (6, max(len(p.source) for p in pairs))
    for row, pair in zip(source.tolist(), pairs, strict=True):
        n = len(pair.source)
        assert row[:n] == toy.source_vocab.encode(pair.source) and not any(row[n:])
    assert torch.equal(pad_rows([[5], []]), torch.tensor([[5], [0]]))
    assert toy.text(("a", "b")) == "ab" and toys.translate().text(("a", "b")) == "a b"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toys.reverse(5, 4), "1 <= shortest <= longest"),
        (lambda: toys.dates(1.5), "slashed must lie in 0 ... 1"),
        (lambda: toys.dates(0.1, -0.1), "day_first must lie in"),
        (lambda: toys.translate(2.0), "two_clauses must lie in"),
        (lambda: toys.summarise(0), "at least 1 sentence"),
        (lambda: pad_rows([]), "no rows"),
        (lambda: Pair(("a",), ("b",), ()), "0 entries for 1 target"),
        (lambda: TokenVocab(["a", "b", "a"]), "'a' is empty, comes twice"),
        (lambda: TokenVocab(["■"]), "'■' is empty, comes twice or is one of"),
        (lambda: TokenVocab("ab").encode("axb"), "'x' at position 1"),
        (lambda: TokenVocab("ab").decode([5]), "ids of this vocabulary are 0 to 4"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
