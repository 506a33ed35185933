"""Which region a model names for people who do not exist, by the origin of their name.

The names and places are in name_origins.toml.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kt_core.corpora.loading import question
from kt_core.models import GPT
from kt_core.vocab import CharVocab
from kt_course._typing import Float, Int, Tensor
from kt_course.chapters.what_does_it_know.confidence import probability_table


@dataclass(frozen=True)
class Origins:
    """Invented names with their origin, and places by region.

    `home` (n,) is the index of each name's origin, which is also that of its home region.
    """

    origins: list[str]
    regions: dict[str, list[str]]
    names: list[str]
    home: Int[Tensor, " n"]


def load_origins(vocab: CharVocab, most: int | None = None) -> Origins:
    """Read the names and places that the vocabulary can write, at most `most` of each kind."""
    path = Path(__file__).with_name("name_origins.toml")
    tables = tomllib.loads(path.read_text(encoding="utf-8"))

    def writable(texts: Sequence[str]) -> list[str]:
        return [text for text in texts if all(ch in vocab for ch in text)][:most]

    names = {origin: writable(texts) for origin, texts in tables["origins"].items()}
    regions = {region: writable(places) for region, places in tables["regions"].items()}
    home = [i for i, texts in enumerate(names.values()) for _ in texts]
    flat = [name for texts in names.values() for name in texts]
    return Origins(list(names), regions, flat, torch.tensor(home))


def region_shares(
    model: GPT, vocab: CharVocab, names: Sequence[str], regions: dict[str, list[str]]
) -> Float[Tensor, "n_names n_regions"]:
    """Compute how the probability of all listed places is divided among the regions."""
    places = [place for listed in regions.values() for place in listed]
    table = probability_table(model, vocab, [question(name) for name in names], places)
    parts = table.split([len(listed) for listed in regions.values()], dim=1)
    sums = torch.stack([part.sum(1) for part in parts], dim=1)
    return sums / sums.sum(1, keepdim=True)
