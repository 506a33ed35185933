"""The embedded corpus "bios": fictional people, made from the word lists and sentences of `data/bios`.

Deterministic: a person depends on (people, attributes, seed), a line on that and its own number, so that
`lines` adds or removes lines and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from string import Formatter

from kt_core.corpora.paths import data_dir

ATTRIBUTES = ("birth", "study", "work", "death", "job", "family")
MAX_LINE = 125  # a line and its three specials fit a block of 128
LONDON_SHARE = (
    0.05  # of every split, so that "always London" scores the same as on the assignment's data
)
MIN_PEOPLE = 20

# A sentence may be used when every attribute that its fields need has been asked for.
_NEEDS = {
    "birth": "birth",
    "country": "birth",
    "date": "birth",
    "year": "birth",
    "nth": "birth",
    "study": "study",
    "subject": "study",
    "work": "work",
    "death": "death",
    "died": "death",
    "job": "job",
    "a_job": "job",
    "Job": "job",
    "family": "family",
}
_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_NTH = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
_MAX_NAME = 28
_EXTRA = (0, 1, 1, 1, 1, 1, 2, 2)  # how many sentences accompany the one about the birth


@dataclass(frozen=True)
class Person:
    """One person: name, birthplace, and `facts`, the words that fill the sentences' fields."""

    name: str
    birthplace: str
    facts: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Sentence:
    text: str
    needs: frozenset[str]  # attributes, without those that every person has
    first: bool = False


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
    """Makes `people` people with `lines` differently worded lines each; half are train, then dev and test.

    attributes: what the lines tell ("birth" always, and any of study, work, death, job, family).
    Raises ValueError for a knob out of range, saying what is possible.
    """
    words = _words(data_dir() / "bios")
    attributes = _checked(people, lines, attributes, seed, words)
    rng = Random(f"bios/{people}/{seed}")

    order = list(range(people))
    rng.shuffle(order)
    a, b = people // 2, people // 2 + people // 4
    splits = [sorted(order[:a]), sorted(order[a:b]), sorted(order[b:])]
    birthplaces: dict[int, str] = {}
    for members in splits:
        birthplaces.update(zip(members, _birthplaces(len(members), words.cities, rng), strict=True))

    names = _names(people, words, rng)
    everyone = [
        _person(i, *names[i], birthplaces[i], words, attributes, seed) for i in range(people)
    ]
    told = [_lines(i, person, lines, words, attributes, seed) for i, person in enumerate(everyone)]
    return Bios(everyone, told, *splits)


# --- the word lists ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Words:
    given: list[tuple[str, str]]  # (first name, "she" or "he")
    surnames: list[str]
    cities: list[tuple[str, float, str]]  # (city, weight, country)
    jobs: list[str]
    subjects: list[str]
    families: list[str]
    sentences: dict[str, list[Sentence]]  # by attribute

    @property
    def room(self) -> int:
        """How many people the names serve, so that drawing a free one stays quick."""
        return len(self.given) * len(self.surnames) // 4


@lru_cache(maxsize=4)
def _words(folder: Path) -> _Words:
    def entries(name: str) -> list[str]:
        text = (folder / name).read_text(encoding="utf-8")
        return [
            line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")
        ]

    cities = []
    for line in entries("cities.txt"):
        parts = line.split("\t")
        if len(parts) != 3:
            raise ValueError(
                f"{folder / 'cities.txt'}: {line!r} is not city, weight, country with tabs"
            )
        cities.append((parts[0], float(parts[1]), parts[2]))
    given = [(n, who) for who in ("she", "he") for n in entries(f"first_names_{who}.txt")]
    sentences = {a: [_sentence(s) for s in entries(f"sentences_{a}.txt")] for a in ATTRIBUTES}
    return _Words(
        given,
        entries("surnames.txt"),
        cities,
        entries("jobs.txt"),
        entries("subjects.txt"),
        entries("families.txt"),
        sentences,
    )


def _sentence(text: str) -> Sentence:
    body = text.removeprefix("^")
    fields = {name for _, name, _, _ in Formatter().parse(body) if name}
    return Sentence(body, frozenset(_NEEDS[f] for f in fields if f in _NEEDS), text.startswith("^"))


def _usable(sentences: list[Sentence], attributes: Sequence[str]) -> list[Sentence]:
    return [s for s in sentences if s.needs <= set(attributes)]


def _checked(
    people: int, lines: int, attributes: Sequence[str], seed: int, words: _Words
) -> tuple[str, ...]:
    for name, value in (("people", people), ("lines", lines), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"bios: {name}={value!r} must be a whole number")
    if not MIN_PEOPLE <= people <= words.room:
        raise ValueError(
            f"bios: people={people} must be {MIN_PEOPLE} to {words.room}, all the names allow"
        )
    if isinstance(attributes, str):
        attributes = attributes.split("+")
    unknown = [a for a in attributes if a not in ATTRIBUTES]
    if unknown:
        raise ValueError(f"bios: unknown attributes {unknown}; known are {', '.join(ATTRIBUTES)}")
    if "birth" not in attributes:
        raise ValueError(
            f"bios: attributes={tuple(attributes)!r} must hold 'birth', which is asked for"
        )
    attributes = tuple(a for a in ATTRIBUTES if a in attributes)  # their order has no meaning
    # Everyone must have enough birth sentences: the living have none about a death.
    most = len(_usable(words.sentences["birth"], [a for a in attributes if a != "death"]))
    if not 1 <= lines <= most:
        raise ValueError(
            f"bios: lines={lines} must be 1 to {most} with attributes={'+'.join(attributes)}"
        )
    return attributes


# --- people -----------------------------------------------------------------------------------------


def _birthplaces(n: int, cities: list[tuple[str, float, str]], rng: Random) -> list[str]:
    """n birthplaces: London by quota, the others as near to their weights as whole people allow."""
    london = int(LONDON_SHARE * n + 0.5)
    others = [(city, weight) for city, weight, _ in cities if city != "London"]
    step = sum(w for _, w in others) / (n - london)
    places, edge, at = ["London"] * london, 0.0, rng.random() * step
    for city, weight in others:  # systematic sampling: every city gets its share rounded down or up
        edge += weight
        while at < edge and len(places) < n:
            places.append(city)
            at += step
    places += [others[-1][0]] * (n - len(places))  # only where rounding lost the last one
    rng.shuffle(places)
    return places


def _names(n: int, words: _Words, rng: Random) -> list[tuple[str, str]]:
    """n distinct (full name, "she" or "he"); about 15 % have a middle name or an initial."""
    taken, names = set(), []
    while len(names) < n:
        (first, who), last = rng.choice(words.given), rng.choice(words.surnames)
        draw, middle = (
            rng.random(),
            rng.choice([g for g in words.given if g[1] == who and g[0] != first])[0],
        )
        if (first, last) in taken:
            continue
        taken.add((first, last))
        if draw < 0.08:
            middle = middle[0] + "."
        parts = [first, middle, last] if draw < 0.16 else [first, last]
        name = " ".join(parts)
        names.append((name if len(name) <= _MAX_NAME else f"{first} {last}", who))
    return names


def _person(
    i: int, name: str, who: str, birth: str, words: _Words, attributes: Sequence[str], seed: int
) -> Person:
    rng = Random(f"bios/person/{seed}/{i}/{name}")
    cities, weights = [c for c, _, _ in words.cities], [w for _, w, _ in words.cities]

    def elsewhere() -> str:
        while (city := rng.choices(cities, weights)[0]) == birth:
            pass
        return city

    year = rng.randint(1760, 1990)
    age = rng.randint(38, 91)
    job = rng.choice(words.jobs)
    family = rng.choice(words.families)
    facts = {
        "birth": birth,
        "country": next(country for city, _, country in words.cities if city == birth),
        "year": str(year),
        "date": f"{rng.randint(1, 28)} {rng.choice(_MONTHS)} {year}",
        "nth": rng.choice(_NTH),
        "study": elsewhere(),
        "subject": rng.choice(words.subjects),
        "work": elsewhere(),
        "death": elsewhere(),
        "died": str(year + age),
        "job": job,
        "a_job": ("an " if job[0] in "aeiou" else "a ") + job,
        "Job": job[0].upper() + job[1:],
        "family": family,
    }
    facts = {k: v for k, v in facts.items() if _NEEDS[k] in attributes}
    if year + age > 2020:  # still alive
        facts = {k: v for k, v in facts.items() if _NEEDS[k] != "death"}
    she = who == "she"
    facts |= (
        {"He": "She", "he": "she", "His": "Her", "his": "her", "him": "her"}
        if she
        else {"He": "He", "he": "he", "His": "His", "his": "his", "him": "him"}
    )
    return Person(name, birth, facts)


# --- lines ------------------------------------------------------------------------------------------


def _lines(
    i: int, person: Person, n: int, words: _Words, attributes: Sequence[str], seed: int
) -> list[str]:
    """n lines "Name. …", each with another sentence about the birth, alone or with one or two others."""
    known = [a for a in attributes if a != "death" or "death" in person.facts]
    births = _usable(words.sentences["birth"], known)
    Random(f"bios/births/{seed}/{i}/{person.name}").shuffle(births)
    return [
        _line(person, births[j], Random(f"bios/line/{seed}/{i}/{j}/{person.name}"), known, words)
        for j in range(n)
    ]


def _line(person: Person, birth: Sentence, rng: Random, known: Sequence[str], words: _Words) -> str:
    parts, told = [birth.text], set(birth.needs)
    topics = [a for a in known if a != "birth" and a not in told]
    rng.shuffle(topics)
    for topic in topics[: rng.choice(_EXTRA)]:
        other = rng.choice(_usable(words.sentences[topic], known))
        if other.needs & told:
            continue
        longer = [*parts, other.text]
        if len(_join(person, longer)) <= MAX_LINE:
            parts, told = longer, told | other.needs
    if birth.first:
        rest = parts[1:]
        rng.shuffle(rest)
        parts = [birth.text, *rest]
    else:
        rng.shuffle(parts)
    return _join(person, parts)


def _join(person: Person, parts: list[str]) -> str:
    return f"{person.name}. " + " ".join(parts).format(**person.facts)
