"""The embedded corpus "bios": fictional people, made from the word lists of `data/bios`.

It is deterministic. A person depends on (people, attributes, seed), and a line on these and its own
number, so `lines` adds or removes lines and changes nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from kt_core.corpora import bios_words
from kt_core.corpora.bios_words import ATTRIBUTES, attributes_of, usable_sentences
from kt_core.corpora.paths import data_dir

MAX_LINE = 125  # fits a block of 128 with its special characters
LONDON_SHARE = 0.05  # of every split: "always London" scores as on the assignment's data
MIN_PEOPLE = 20
MAX_NAME = 28
MONTHS = "January February March April May June July August September October November December"
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
EXTRA_SENTENCES = (0, 1, 1, 1, 1, 1, 2, 2)  # besides the one about the birth, equally likely


@dataclass(frozen=True)
class Person:
    """One person: name, birthplace, and `facts`, the words that fill the sentences' fields."""

    name: str
    birthplace: str
    facts: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Bios:
    """All people with their lines; `train`, `dev`, `test` hold indices into `people`."""

    people: list[Person]
    lines: list[list[str]]
    train: list[int]
    dev: list[int]
    test: list[int]


def generate(
    people: int = 1000, lines: int = 4, attributes: Sequence[str] = ATTRIBUTES, seed: int = 0
) -> Bios:
    """Make fictional people, each with `lines` differently worded lines; half of them are in train.

    `attributes` says what the lines are about: "birth" always, and any of study, work, death, job,
    family; a sequence, or a string joined by "+".
    """
    words = bios_words.load_words(data_dir() / "bios")
    attributes = _validated(people, lines, attributes, seed, words)
    rng = Random(f"bios/{people}/{seed}")
    order = list(range(people))
    rng.shuffle(order)
    a, b = people // 2, people // 2 + people // 4
    splits = [sorted(order[:a]), sorted(order[a:b]), sorted(order[b:])]
    birthplaces: dict[int, str] = {}
    for members in splits:
        birthplaces |= zip(members, _birthplaces(len(members), words, rng), strict=True)
    everyone = [
        _person(name, pronoun, birthplaces[i], words, attributes, f"{seed}/{i}")
        for i, (name, pronoun) in enumerate(_names(people, words, rng))
    ]
    texts = [_lines(p, lines, words, attributes, f"{seed}/{i}") for i, p in enumerate(everyone)]
    return Bios(everyone, texts, *splits)


def _validated(people: int, lines: int, attributes, seed: int, words: dict) -> list[str]:
    """The attributes in their own order, after all options have been checked."""
    for name, value in (("people", people), ("lines", lines), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"bios: {name}={value!r} must be a whole number")
    attributes = attributes.split("+") if isinstance(attributes, str) else list(attributes)
    if unknown := [a for a in attributes if a not in ATTRIBUTES]:
        raise ValueError(f"bios: unknown attributes {unknown}; known are {', '.join(ATTRIBUTES)}")
    if "birth" not in attributes:
        raise ValueError(f"bios: attributes={attributes!r} must hold 'birth', as questions need it")
    attributes = [a for a in ATTRIBUTES if a in attributes]
    # Drawing a free name stays fast up to a quarter of all names.
    max_people = len(words["people"]) * len(words["surnames"]) // 4
    # Everyone must have enough birth sentences: the living have none about a death.
    max_lines = len(usable_sentences(words, "birth", [a for a in attributes if a != "death"]))
    limits = dict(people=(people, MIN_PEOPLE, max_people), lines=(lines, 1, max_lines))
    for name, (value, least, most) in limits.items():
        if not least <= value <= most:
            suffix = f" with attributes={'+'.join(attributes)}"
            raise ValueError(f"bios: {name}={value} must be {least} to {most}{suffix}")
    return attributes


def _birthplaces(n: int, words: dict, rng: Random) -> list[str]:
    """n birthplaces: London by quota, the others as near to their weights as whole people allow."""
    london = int(LONDON_SHARE * n + 0.5)
    others = [(city, weight) for city, weight, _ in words["cities"] if city != "London"]
    step = sum(weight for _, weight in others) / (n - london)
    places, edge, position = ["London"] * london, 0.0, rng.random() * step
    for city, weight in others:  # systematic sampling: a city's share, rounded down or up
        edge += weight
        while position < edge and len(places) < n:
            places.append(city)
            position += step
    places += [others[-1][0]] * (n - len(places))  # only where rounding lost the last one
    rng.shuffle(places)
    return places


def _names(n: int, words: dict, rng: Random) -> list[tuple[str, str]]:
    """n distinct (full name, "she" or "he"); about 15 % have a middle name or an initial."""
    people, pairs, names = words["people"], set(), []
    while len(names) < n:
        (first, pronoun), last = rng.choice(people), rng.choice(words["surnames"])
        draw = rng.random()
        middle = rng.choice([p for p in people if p[1] == pronoun and p[0] != first])[0]
        if (first, last) in pairs:
            continue
        pairs.add((first, last))
        if draw < 0.08:
            middle = middle[0] + "."
        name = f"{first} {middle} {last}" if draw < 0.16 else f"{first} {last}"
        names.append((name if len(name) <= MAX_NAME else f"{first} {last}", pronoun))
    return names


def _person(name: str, pronoun: str, birth: str, words: dict, attributes, key: str) -> Person:
    """One person, whose facts depend on the name and on `key` alone."""
    rng = Random(f"bios/person/{key}/{name}")
    cities, weights, countries = zip(*words["cities"], strict=True)

    def elsewhere() -> str:
        while (city := rng.choices(cities, weights)[0]) == birth:
            pass
        return city

    year, age = rng.randint(1760, 1990), rng.randint(38, 91)
    job, family = rng.choice(words["jobs"]), rng.choice(words["families"])
    facts = {
        "birth": birth,
        "country": countries[cities.index(birth)],
        "year": str(year),
        "date": f"{rng.randint(1, 28)} {rng.choice(MONTHS.split())} {year}",
        "nth": rng.choice(ORDINALS),
        "study": elsewhere(),
        "subject": rng.choice(words["subjects"]),
        "work": elsewhere(),
        "death": elsewhere(),
        "died": str(year + age),
        "job": job,
        "a_job": ("an " if job[0] in "aeiou" else "a ") + job,
        "Job": job[0].upper() + job[1:],
        "family": family,
    }
    attributes = [a for a in attributes if a != "death" or year + age <= 2020]  # the others live
    facts = {key: fact for key, fact in facts.items() if bios_words.ATTRIBUTE_OF[key] in attributes}
    he, his, him = ("she", "her", "her") if pronoun == "she" else ("he", "his", "him")
    facts |= dict(he=he, his=his, him=him, He=he.title(), His=his.title())
    return Person(name, birth, facts)


def _lines(person: Person, n: int, words: dict, attributes, key: str) -> list[str]:
    """n lines "Name. ...", each with another sentence about the birth and zero to two others."""
    attributes = [a for a in attributes if a != "death" or "death" in person.facts]
    births = usable_sentences(words, "birth", attributes)
    Random(f"bios/births/{key}/{person.name}").shuffle(births)
    rngs = [Random(f"bios/line/{key}/{j}/{person.name}") for j in range(n)]
    return [_line(person, births[j], rng, attributes, words) for j, rng in enumerate(rngs)]


def _line(person: Person, birth: str, rng: Random, attributes, words: dict) -> str:
    """One line: the sentence about the birth, and others that repeat no attribute and still fit."""
    parts, covered = [birth.removeprefix("^")], attributes_of(birth)
    topics = [a for a in attributes if a != "birth" and a not in covered]
    rng.shuffle(topics)
    for topic in topics[: rng.choice(EXTRA_SENTENCES)]:
        other = rng.choice(usable_sentences(words, topic, attributes))
        fits = len(_join(person, [*parts, other])) <= MAX_LINE
        if fits and not attributes_of(other) & covered:
            parts, covered = [*parts, other], covered | attributes_of(other)
    first, rest = (parts[:1], parts[1:]) if birth.startswith("^") else ([], parts)
    rng.shuffle(rest)
    return _join(person, first + rest)


def _join(person: Person, parts: list[str]) -> str:
    return f"{person.name}. " + " ".join(parts).format(**person.facts)
