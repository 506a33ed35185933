"""What a training example shows of a birthplace: for the measurements of chapter 3."""

import random
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from kt_core.datasets import SpanCorruption
from kt_core.runs.text_rules import name_prefix_end

ASKED, HIDDEN_NAME = "asked for, name visible", "asked for, name cut out too"
READ, DIVIDED, INVISIBLE = "visible, not asked for", "divided by the cut", "not visible"
FATES = (ASKED, HIDDEN_NAME, READ, DIVIDED, INVISIBLE)


def name_of(document: str) -> str:
    """Return the name that a document begins with: "Ada Moor" of "Ada Moor. She ..."."""
    return document[: name_prefix_end(document)].removesuffix(". ")


def facts_of(documents: Iterable[str], place_of: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """Return (number of the document, name, birthplace) where a document names the birthplace."""
    facts = []
    for i, document in enumerate(documents):
        name = name_of(document)
        if name in place_of and place_of[name] in document[len(name) :]:
            facts.append((i, name, place_of[name]))
    return facts


def end_of_birthplace(document: str, name: str, place: str) -> int:
    """Return how many characters of a document it takes to see the whole birthplace."""
    return document.index(place, len(name)) + len(place)


def fate(pieces: tuple[str, str, str], name: str, place: str) -> str:
    """Return what happens to a birthplace, one of FATES, if (prefix, masked, suffix) is read."""
    prefix, masked, _ = pieces
    at = "".join(pieces).find(place, len(name))
    start, stop = len(prefix), len(prefix) + len(masked)
    if at < 0:
        return INVISIBLE
    if start <= at and at + len(place) <= stop:
        return ASKED if len(prefix) >= len(name) else HIDDEN_NAME
    return READ if at + len(place) <= start or stop <= at else DIVIDED


def fate_shares(fates: Iterable[str]) -> dict[str, float]:
    """Return the share of each of FATES."""
    fates = list(fates)
    return {kind: fates.count(kind) / len(fates) for kind in FATES}


def expected_lengths(lengths: np.ndarray, block_size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Return the possible lengths of a truncated document, and the probability of each.

    n is uniform in 4 ... 7/8 block_size, and a document shorter than n stays whole.

    Args:
        lengths: Lengths of the documents.
        block_size: Of the dataset.
    """
    most = block_size * 7 // 8
    grid = np.arange(1, most + 1)
    n_values = most - 3
    longer = np.array([(lengths >= n).mean() * (n >= 4) / n_values for n in grid])
    whole = np.array([(lengths == n).mean() * min(most - n, n_values) / n_values for n in grid])
    return grid, longer + whole


def measured_cuts(data: SpanCorruption, cut: Callable, epochs: int) -> dict[str, np.ndarray]:
    """Cut every document in some epochs: lengths, and the share and position of the long spans.

    Args:
        data: Gives documents, block_size and seed.
        cut: The learner's function.
        epochs: Number of epochs.
    """
    lengths, shares, positions = [], [], []
    for epoch in range(epochs):
        for i, document in enumerate(data.documents):
            rng = random.Random(f"{data.seed} {epoch} {i}")
            prefix, masked, suffix = map(len, cut(document, data.block_size, rng))
            n = prefix + masked + suffix
            lengths.append(n)
            if n >= 40:  # in short texts a rounded quarter is coarse
                shares.append(masked / n)
                positions.append(prefix / (n - masked))
    columns = {"length": lengths, "share": shares, "position": positions}
    return {name: np.array(values) for name, values in columns.items()}
