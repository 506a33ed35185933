import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from kt_core.corpora import bios
from kt_core.corpora.bios_words import ATTRIBUTE_OF, load_words
from kt_core.corpora.loading import load_corpus

ROOT = Path(__file__).resolve().parents[2]
OTHER_CITIES = ("study", "work", "death")


@pytest.fixture(scope="module")
def population():
    return bios.generate()


def cities(bio, members):
    return Counter(bio.people[i].birthplace for i in members)


def test_default_sizes(population):
    assert len(population.people) == 1000 and all(len(lines) == 4 for lines in population.lines)
    assert (len(population.train), len(population.dev), len(population.test)) == (500, 250, 250)
    assert sorted(population.train + population.dev + population.test) == list(range(1000))


@pytest.mark.parametrize("people", [20, 21, 22, 23, 301])
def test_splits_keep_their_proportions(people):
    bio = bios.generate(people=people, lines=1)
    assert len(bio.train) == people // 2 and len(bio.dev) == people // 4
    assert sorted(bio.train + bio.dev + bio.test) == list(range(people))


def test_nobody_shares_a_name(population):
    names = [person.name for person in population.people]
    assert len(set(names)) == len(names)
    ends = {(n.split()[0], n.split()[-1]) for n in names}
    assert len(ends) == len(names)  # nor are two told apart by a middle name alone
    with_middle = sum(len(n.split()) > 2 for n in names)
    assert 0.10 < with_middle / len(names) < 0.20
    assert len({n.split()[0] for n in names}) > 150 and len({n.split()[-1] for n in names}) > 350


def test_london_has_five_percent_of_every_split(population):
    for members in (population.train, population.dev, population.test):
        assert abs(cities(population, members)["London"] / len(members) - 0.05) < 0.003


def test_cities_are_many_real_and_heavy_tailed(population):
    for members in (population.train, population.dev, population.test):
        counts = cities(population, members)
        assert counts.most_common(1)[0][0] == "London"
        assert counts.most_common(2)[1][1] / len(members) < 0.035
        assert len(counts) >= 100
    train = cities(population, population.train)
    top = sum(n for _, n in train.most_common(14))
    assert 0.25 < top / 500 < 0.45  # a tenth of the cities, a third of the people
    assert sum(n <= 2 for n in train.values()) > 40  # and a long tail


def test_dev_and_test_cities_occur_in_train(population):
    train = cities(population, population.train)
    for members in (population.dev, population.test):
        assert sum(population.people[i].birthplace in train for i in members) / len(members) >= 0.92


@pytest.mark.parametrize("lines", [1, 4, 12])
def test_every_answer_is_in_every_own_line(lines):
    bio = bios.generate(people=200, lines=lines)
    for person, own in zip(bio.people, bio.lines, strict=True):
        assert len(own) == lines == len(set(own))
        assert all(line.startswith(person.name + ". ") and line.endswith(".") for line in own)
        assert all(re.search(rf"\b{re.escape(person.birthplace)}\b", line) for line in own)
        for key in OTHER_CITIES:
            assert person.facts.get(key) != person.birthplace


def test_lengths_fit_the_block(population):
    lengths = [len(line) for own in population.lines for line in own]
    assert 75 <= sum(lengths) / len(lengths) <= 95
    assert max(lengths) <= bios.MAX_LINE == 128 - 3


def test_distance_from_name_to_birthplace_varies(population):
    far = sorted(
        line.index(p.birthplace, len(p.name)) - len(p.name)
        for p, own in zip(population.people, population.lines, strict=True)
        for line in own
    )
    assert far[len(far) // 10] <= 16 and far[len(far) // 2] >= 30 and far[len(far) * 9 // 10] >= 55
    assert len(set(far)) > 60


def test_other_cities_stand_in_the_lines(population):
    names = sorted({p.birthplace for p in population.people}, key=len, reverse=True)
    with_two = 0
    for person, own in zip(population.people, population.lines, strict=True):
        for line in own:
            rest = line.replace(person.birthplace, "")
            with_two += any(name in rest for name in names)
    assert 0.4 < with_two / 4000 < 0.9


def test_no_line_has_the_form_of_a_question(population):
    text = "\n".join(line for own in population.lines for line in own)
    assert "?" not in text and "Where" not in text and "{" not in text and "}" not in text


def test_facts_agree_between_the_lines_and_pronouns_with_the_name():
    bio = bios.generate(people=100, lines=12)
    for person, own in zip(bio.people, bio.lines, strict=True):
        text = " ".join(own)
        she = person.facts["He"] == "She"
        wrong = r"\b([Hh]e|[Hh]is|[Hh]im)\b" if she else r"\b([Ss]he|[Hh]er)\b"
        assert not re.search(wrong, text)
        allowed = {person.facts["year"], person.facts.get("died")}
        assert set(re.findall(r"\b\d{4}\b", text)) <= allowed
        assert not re.search(r"\ba [aeiou]", text)


def test_sentences_are_many_and_used(population):
    words = load_words(ROOT / "data" / "bios")
    assert len(words["sentences_birth"]) >= 30
    assert all("{birth}" in s for s in words["sentences_birth"])
    assert len(words["people"]) >= 200 and len(words["surnames"]) >= 500
    assert len(words["cities"]) >= 120
    # Lines with everything about the person taken out: how many wordings there are.
    shapes = set()
    for person, own in zip(population.people, population.lines, strict=True):
        facts = sorted(
            (v for k, v in person.facts.items() if k in ATTRIBUTE_OF), key=len, reverse=True
        )
        for line in own:
            for fact in [person.name, *facts]:
                line = line.replace(fact, "_")
            shapes.add(line)
    assert len(shapes) > 1000


def test_lines_change_nothing_else(population):
    for lines in (1, 2, 9):
        other = bios.generate(lines=lines)
        assert other.people == population.people
        assert (other.train, other.dev, other.test) == (
            population.train,
            population.dev,
            population.test,
        )
        both = min(lines, 4)
        assert [own[:both] for own in other.lines] == [own[:both] for own in population.lines]


def test_attributes_choose_what_is_told():
    bio = bios.generate(people=200, lines=4, attributes=("birth",))
    text = "\n".join(line for own in bio.lines for line in own)
    assert not re.search(r"studied|worked|died|buried|family|married", text)
    assert all(set(p.facts) & set(OTHER_CITIES) == set() for p in bio.people)
    everything = bios.generate(people=200, lines=4)
    assert [p.name for p in bio.people] == [p.name for p in everything.people]
    assert [p.birthplace for p in bio.people] == [p.birthplace for p in everything.people]
    assert bio.train == everything.train
    reordered = bios.generate(people=50, attributes=("work", "birth"))
    assert reordered == bios.generate(people=50, attributes="birth+work")


def test_seeds_differ(population):
    other = bios.generate(seed=1)
    assert {p.name for p in other.people} != {p.name for p in population.people}
    assert other.lines != population.lines
    assert cities(other, other.train)["London"] == 25


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"people": 10**6}, r"people=1000000 must be 20 to \d+"),
        ({"people": 5}, "people=5 must be 20 to"),
        ({"people": 10.0}, "people=10.0 must be a whole number"),
        ({"people": True}, "people=True must be a whole number"),
        ({"lines": 0}, r"lines=0 must be 1 to \d+"),
        ({"lines": 1000}, "lines=1000 must be 1 to"),
        ({"lines": 30, "attributes": ("birth",)}, "lines=30 must be 1 to .* with attributes=birth"),
        ({"seed": "a"}, "seed='a' must be a whole number"),
        (
            {"attributes": ("birth", "shoes")},
            r"unknown attributes \['shoes'\]; known are birth, study",
        ),
        ({"attributes": ("work",)}, "must hold 'birth'"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        bios.generate(**knobs)


def test_most_lines_possible_are_possible():
    with pytest.raises(ValueError, match="must be 1 to") as error:
        bios.generate(people=20, lines=10**4)
    most = int(re.search(r"1 to (\d+)", str(error.value))[1])
    assert most >= 30
    bio = bios.generate(people=60, lines=most)
    assert all(len(set(own)) == most for own in bio.lines)
    assert all(len(line) <= bios.MAX_LINE for own in bio.lines for line in own)


def test_the_same_under_every_hash_seed():
    code = (
        "import hashlib, kt_core; c = kt_core.load_corpus('bios:people=150');"
        "parts = (c.documents, c.train, c.dev, c.test, c.vocab.chars);"
        "print(hashlib.sha256(repr(parts).encode()).hexdigest())"
    )
    corpus = load_corpus("bios", people=150)
    parts = (corpus.documents, corpus.train, corpus.dev, corpus.test, corpus.vocab.chars)
    here = hashlib.sha256(repr(parts).encode()).hexdigest()
    for seed in ("0", "4321"):
        env = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(ROOT),
            "PYTHONIOENCODING": "utf-8",
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here


def test_default_text_is_the_one_that_checkpoints_were_trained_on():
    corpus = load_corpus("bios")
    pairs = [f"{q}\t{a}" for q, a in corpus.train + corpus.dev + corpus.test]
    digest = hashlib.sha256("\n".join(corpus.documents + pairs).encode()).hexdigest()
    assert digest == "2d43efc24b0d8a0cda87f163a9b3b738966f7f9c8de48ac4a82420c6b3f8dfdf", (
        "the default bios corpus has changed: retrain the shipped checkpoints, then renew this pin"
    )
