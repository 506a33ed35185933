"""Ways to finetune one body on sentiment, and the results of comparing them.

The comparison is in data/results/finetuning.json, written by
`python tools/experiments/finetuning_techniques.py`. Each technique tried its learning rates with
seed 0, on dev sentences, and was then tested with other seeds, on other sentences.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from kt_core.datasets import NamePlace
from kt_core.decoding import answer
from kt_core.evaluation import Score
from kt_core.models import GPT
from kt_core.train_config import TrainConfig
from kt_core.vocab import CharVocab
from kt_course.chapters.finetuning_techniques.classify import (
    Classifier,
    add_lora,
    finetune,
    predict,
    retained,
    train_top,
)
from kt_course.chapters.finetuning_techniques.sentiment import KINDS, Sentence, score_labels

LONGEST = 24  # characters of a birthplace


@dataclass(frozen=True)
class Technique:
    """A way of finetuning.

    Args:
        rates: The peak learning rates that it tries.
        top: How much of the body is trained (`train_top`), None for everything.
        factor: Of `layer_rates`.
        rank: Of LoRA, 0 without.
        pretrained: False re-initialises the body.
        replay: Whether the old task's questions are trained on too.
    """

    label: str
    rates: Sequence[float]
    epochs: float = 3.0
    batch_size: int = 8
    top: int | None = None
    factor: float = 1.0
    rank: int = 0
    pretrained: bool = True
    replay: bool = False


_TABLES = tomllib.loads(Path(__file__).with_name("techniques.toml").read_text(encoding="utf-8"))
TECHNIQUES = {name: Technique(**table) for name, table in _TABLES.items()}


def tune(
    technique: Technique,
    body: GPT,
    vocab: CharVocab,
    train: Sequence[Sentence],
    *,
    rate: float,
    seed: int = 0,
    old: Sequence[tuple[str, str]] = (),
    **settings: Any,
) -> tuple[Classifier, Any, list[dict]]:
    """Finetune a copy of `body` in one way.

    Args:
        old: (question, answer) pairs of the old task, for a technique that replays it.
        settings: Fields of `TrainConfig` to change.

    Returns:
        The classifier, peft's model (None without LoRA) and the history.
    """
    body = copy.deepcopy(body)
    if not technique.pretrained:
        torch.manual_seed(seed)
        body = GPT(body.config).to(body.tok_emb.weight.device)
    tuned, adapter = Classifier(body, seed=seed), None
    if technique.top is not None:
        train_top(tuned, min(technique.top, body.config.n_layer + 1))
    if technique.rank:
        adapter = add_lora(tuned, technique.rank, alpha=2.0 * technique.rank, seed=seed)
    usual = dict(
        epochs=technique.epochs,
        batch_size=technique.batch_size,
        learning_rate=rate,
        schedule="linear",
        warmup_steps=8,
        cooldown_from=0.5,
        final_fraction=0.0,
        weight_decay=0.01,
        seed=seed,
        device=str(body.tok_emb.weight.device),
    )
    config = TrainConfig(**usual | settings)
    replay = NamePlace(old, vocab, body.config.block_size) if technique.replay else None
    history = finetune(tuned, vocab, train, config, factor=technique.factor, replay=replay)
    return tuned, adapter, history


def accuracy(tuned: Classifier, vocab: CharVocab, sentences: Sequence[Sentence]) -> Score:
    """Count the sentences that a classifier labels correctly."""
    return score_labels(predict(tuned, vocab, [s.text for s in sentences]), sentences)


class Birthplaces:
    """The body's old task: its questions, and its answers before anything was finetuned."""

    def __init__(self, body: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str]]):
        self.vocab = vocab
        self.questions, self.gold = [q for q, _ in pairs], [a for _, a in pairs]
        self.before = self.ask(body)

    def ask(self, body: GPT) -> list[str]:
        """Answer the questions with a body."""
        return answer(body, self.vocab, self.questions, max_new=LONGEST)

    def retained(self, body: GPT) -> Score:
        """Count, of the answers that were correct before, those that a body gives now."""
        return retained(self.before, self.ask(body), self.gold)


# ---------------------------------------------------------------- the table of results


def chosen_rate(rows: Sequence[dict], name: str) -> float:
    """Find the rate of a technique's rows that is best on dev; of equal ones the smallest."""
    candidates = [row for row in rows if row["technique"] == name]
    if not candidates:
        raise ValueError(f"no row of technique {name!r} to choose a rate from")
    return max(candidates, key=lambda row: (row["dev"], -row["rate"]))["rate"]


def summary(table: dict) -> dict[str, dict]:
    """Summarise each technique of the table.

    Returns:
        Rate, number of trained parameters, seconds, accuracy by kind of sentence, and (mean, low,
        high) over seeds of the shares test, new and kept.
    """
    result = {}
    for name in dict.fromkeys(row["technique"] for row in table["rows"]):
        rows = [row for row in table["rows"] if row["technique"] == name]
        result[name] = dict(
            label=TECHNIQUES[name].label,
            rate=rows[0]["rate"],
            trained=rows[0]["trained"],
            seconds=mean(row["seconds"] for row in rows),
            kinds={kind: mean(row["kinds"][kind] for row in rows) for kind in KINDS},
            test=interval([row["test"] for row in rows]),
            new=interval([row["new"] for row in rows]),
            kept=interval([row["kept"] / max(row["known"], 1) for row in rows]),
        )
    return result


def interval(shares: Sequence[float]) -> tuple[float, float, float]:
    """Compute (mean, low, high) of shares over seeds: Student's 95 % interval, cut at 0 and 1.

    One seed has no interval: its value comes three times.
    """
    from scipy import stats

    middle, n = mean(shares), len(shares)
    if n == 1 or len(set(shares)) == 1:
        return middle, middle, middle
    low, high = stats.t.interval(0.95, n - 1, middle, stats.sem(shares))
    return middle, max(float(low), 0.0), min(float(high), 1.0)
