"""How much a model knows, in bits: what it saves compared to a guess that knows no names.

A fact is worth the surprise that it spares. A guesser that knows how frequent each city is, but no
person, pays -log2 share(city) bits for a birthplace; the model pays its own loss, in bits. The
difference, summed over all people, is what the model has learned. Divided by its parameters it
compares with the 2 bits per parameter of Allen-Zhu and Li 2024 (Physics of Language Models, part
3.3, sections 2 and 4; 1 bit where each fact was met only 100 times).

The table of runs in data/results/capacity.json is written by tools/experiments/capacity.py.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from kt_core.evaluation import Score
from kt_course._typing import Float, Tensor

PUBLISHED = 2.0  # bits per parameter, after 1000 exposures of each fact (Allen-Zhu and Li 2024)


def learned_bits(nats: Float[Tensor, " n"], share: Float[Tensor, " m"]) -> float:
    """Sum the bits that a model saves over all n facts: -log2 share - loss in bits.

    Terms below 0 count: a model that is confident and wrong about some people pays for it.

    Args:
        nats: The model's loss for each fact, -ln of the probability that it gives it.
        share: The probability of each fact for a guesser who does not know the name.
    """
    if nats.shape != share.shape:
        shapes = f"{tuple(share.shape)} for {tuple(nats.shape)}"
        raise ValueError(f"one share per fact is needed: {shapes}")
    return float((-share.double().log2() - nats.double() / math.log(2)).sum())


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
