"""How much a model knows, in bits: what it saves compared to a guess that knows no names.

A fact is worth the surprise that it spares. A guesser that knows how frequent each city is, but no
person, pays -log2 share(city) bits for a birthplace; the model pays its own loss, in bits. The
difference, summed over all people, is what the model has learned. Divided by its parameters it
compares with the 2 bits per parameter of Allen-Zhu and Li 2024 (Physics of Language Models, part
3.3, sections 2 and 4; 1 bit where each fact was met only 100 times).

The table of runs in data/results/capacity.json is written by tools/experiments/capacity.py.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from kt_core.evaluation import Score

PUBLISHED = 2.0  # bits per parameter, after 1000 exposures of each fact (Allen-Zhu and Li 2024)


def shares(answers: Iterable[str]) -> dict[str, float]:
    """Compute the share of each answer among all of them."""
    counts = Counter(answers)
    return {answer: n / counts.total() for answer, n in counts.items()}


def bits_per_parameter(row: dict) -> float:
    """Divide a run's bits, about train and held-out people, by its parameters."""
    return (row["train"]["bits"] + row["held out"]["bits"]) / row["parameters"]


def recall_score(row: dict) -> Score:
    """Return how many held-out people a run answered correctly."""
    return Score(row["held out"]["right"], row["held out"]["people"])


def read_capacity(path: str | Path) -> dict:
    """Read a table of runs; ValueError if the file holds none."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        for row in table["rows"]:
            bits_per_parameter(row), recall_score(row), row["exposures"]
        if not table["rows"]:
            raise KeyError("rows")
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: not a table of measured runs ({error!r})") from None
    return table
