"""The word lists and sentences of `data/bios`, from which the corpus "bios" is made."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any

ATTRIBUTES = ("birth", "study", "work", "death", "job", "family")
FIELDS = {  # of sentences, by attribute
    "birth": ("birth", "country", "date", "year", "nth"),
    "study": ("study", "subject"),
    "work": ("work",),
    "death": ("death", "died"),
    "job": ("job", "a_job", "Job"),
    "family": ("family",),
}
ATTRIBUTE_OF = {field: attribute for attribute, fields in FIELDS.items() for field in fields}


@dataclass(frozen=True)
class Sentence:
    """A sentence with fields such as {birth}; `needs` are the attributes that these belong to."""

    text: str
    needs: frozenset[str]
    opens: bool  # it has to be the first sentence of its line

    @classmethod
    def parse(cls, text: str) -> "Sentence":
        """Read an entry of a sentence file; a leading ^ marks a sentence that opens its line."""
        body = text.removeprefix("^")
        fields = {name for _, name, _, _ in Formatter().parse(body)} & ATTRIBUTE_OF.keys()
        return cls(body, frozenset(ATTRIBUTE_OF[field] for field in fields), body != text)


@lru_cache(maxsize=4)
def load_words(folder: Path) -> dict[str, list[Any]]:
    """Read all word lists: entries by the name of their file, cities and sentences parsed.

    "people" holds (first name, "she" or "he"), "cities" (city, weight, country).
    """

    def entries(path: Path) -> list[str]:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    words: dict[str, list[Any]] = {path.stem: entries(path) for path in folder.glob("*.txt")}
    cities = [line.split("\t") for line in words["cities"]]
    words["cities"] = [(city, float(weight), country) for city, weight, country in cities]
    words["people"] = [(n, he) for he in ("she", "he") for n in words[f"first_names_{he}"]]
    for attribute in ATTRIBUTES:
        key = f"sentences_{attribute}"
        words[key] = [Sentence.parse(text) for text in words[key]]
    return words


def usable_sentences(words: dict, attribute: str, attributes: list[str]) -> list[Sentence]:
    """The sentences about `attribute` that need nothing but `attributes`."""
    return [s for s in words[f"sentences_{attribute}"] if s.needs <= set(attributes)]
