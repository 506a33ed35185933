"""The word lists and sentences of `data/bios`, from which the corpus "bios" is made."""

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


@lru_cache(maxsize=4)
def load_words(folder: Path) -> dict[str, list[Any]]:
    """Read all word lists, by the names of their files; a ^ marks a sentence that opens its line.

    "people" holds (first name, "she" or "he"), "cities" (city, weight, country).
    """
    words: dict[str, list[Any]] = {}
    for path in folder.glob("*.txt"):
        lines = map(str.strip, path.read_text(encoding="utf-8").splitlines())
        words[path.stem] = [line for line in lines if line and not line.startswith("#")]
    cities = [line.split("\t") for line in words["cities"]]
    words["cities"] = [(city, float(weight), country) for city, weight, country in cities]
    words["people"] = [(n, he) for he in ("she", "he") for n in words[f"first_names_{he}"]]
    return words


@lru_cache(maxsize=1000)
def attributes_of(sentence: str) -> frozenset[str]:
    """Return the attributes that the fields of a sentence, such as {birth}, belong to."""
    fields = {name for _, name, _, _ in Formatter().parse(sentence)} & ATTRIBUTE_OF.keys()
    return frozenset(ATTRIBUTE_OF[field] for field in fields)


def usable_sentences(words: dict, attribute: str, attributes: list[str]) -> list[str]:
    """Return the sentences about `attribute` that need nothing but `attributes`."""
    sentences = words[f"sentences_{attribute}"]
    return [s for s in sentences if attributes_of(s).issubset(attributes)]
