"""Ways to finetune one body on sentiment, measured alike: accuracy, values trained, seconds, birthplaces retained.

    python -m kt_course.chapters.finetuning_techniques.techniques --out data/results/finetuning.json

Every technique tries its learning rates with seed 0 and keeps the one that is right most often on dev sentences. With that
rate it is trained once for each of the other seeds, on other sentences, and tested: no test sentence has chosen anything.
A file that was begun is gone on with.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from kt_core.corpora.files import write_json
from kt_core.datasets import NamePlace
from kt_core.decoding import answer
from kt_core.evaluation import Score
from kt_core.models import GPT
from kt_core.trainer import TrainConfig
from kt_core.vocab import CharVocab
from kt_course.chapters.finetuning_techniques.classify import (
    Classifier,
    Fit,
    add_lora,
    fit,
    predict,
    retained,
    train_top,
)
from kt_course.chapters.finetuning_techniques.sentiment import (
    KINDS,
    NEW_BAD,
    NEW_GOOD,
    Sentence,
    bag_of_words,
    right,
    seed_interval,
    sentences,
)

N_TRAIN, N_DEV, N_TEST, N_NEW = 600, 200, 300, 100
LONGEST = 24  # characters of a birthplace


@dataclass(frozen=True)
class Technique:
    """A way of finetuning: `rates` are the peak learning rates that it tries.

    top: how much of the body is trained (`train_top`), None for everything. factor: `layer_rates`. rank: of LoRA, 0
    without. pretrained: False draws the body anew. replay: the old task's questions come along.
    """

    label: str
    rates: tuple[float, ...]
    epochs: float = 3.0
    batch_size: int = 8
    top: int | None = None
    factor: float = 1.0
    rank: int = 0
    pretrained: bool = True
    replay: bool = False


TECHNIQUES: dict[str, Technique] = {
    "scratch": Technique("from scratch", (3e-4, 1e-3, 3e-3), pretrained=False),
    "probe": Technique("head alone", (3e-3, 1e-2, 3e-2, 1e-1), epochs=30, batch_size=32, top=0),
    "top2": Technique("top 2 blocks", (5e-4, 1e-3, 2e-3, 4e-3), top=2),
    "all": Technique("everything", (1e-4, 3e-4, 1e-3, 3e-3)),
    "fast": Technique(
        "everything, rate 0.001", (1e-3,)
    ),  # not chosen: what a rate does to the rest
    "layers": Technique("a rate for each layer", (2e-3, 4e-3, 8e-3), factor=2.6),
    "lora": Technique("LoRA, rank 8", (2e-3, 4e-3, 8e-3), rank=8),
    "replay": Technique("everything, old questions mixed in", (3e-4, 1e-3, 2e-3), replay=True),
}


@dataclass(frozen=True)
class Task:
    """Sentences to train on, to choose by, to test with, and test sentences whose words no training sentence has."""

    train: list[Sentence]
    dev: list[Sentence]
    test: list[Sentence]
    new: list[Sentence]


def load_task(
    seed: int, n_train: int = N_TRAIN, n_dev: int = N_DEV, n_test: int = N_TEST, n_new: int = N_NEW
) -> Task:
    """The sentences of a seed. Train and dev are drawn together, so that they share none."""
    found = sentences(n_train + n_dev, "train", seed)
    new = sentences(n_new, "test", seed, words=(NEW_BAD, NEW_GOOD))
    return Task(found[:n_train], found[n_train:], sentences(n_test, "test", seed), new)


class Birthplaces:
    """The body's old task: its questions, and what it said before anything was finetuned."""

    def __init__(self, body: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str]]):
        self.vocab = vocab
        self.questions, self.gold = [q for q, _ in pairs], [a for _, a in pairs]
        self.before = self.ask(body)

    def ask(self, body: GPT) -> list[str]:
        """What a body says to the questions."""
        return answer(body, self.vocab, self.questions, max_new=LONGEST)

    def retained(self, body: GPT) -> Score:
        """Of those that were right before, the ones that a body has right now."""
        return retained(self.before, self.ask(body), self.gold)


def tune(
    technique: Technique,
    body: GPT,
    vocab: CharVocab,
    train: Sequence[Sentence],
    *,
    rate: float,
    seed: int = 0,
    old: Sequence[tuple[str, str]] = (),
    **more: Any,
) -> tuple[Classifier, Any, Fit]:
    """Finetune a copy of `body` in one way: (classifier, peft's model or None, what it took).

    `old`: (question, answer) pairs of the old task, for a technique that replays it. `more`: fields of TrainConfig.
    """
    model = copy.deepcopy(body)
    if not technique.pretrained:
        torch.manual_seed(seed)
        model = GPT(body.config).to(body.tok_emb.weight.device)
    tuned, adapter = Classifier(model, seed=seed), None
    if technique.top is not None:
        train_top(tuned, min(technique.top, body.config.n_layer + 1))
    if technique.rank:
        adapter = add_lora(tuned, technique.rank, alpha=2.0 * technique.rank, seed=seed)
    settings = dict(
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
    replay = NamePlace(old, vocab, body.config.block_size) if technique.replay else None
    found = fit(
        tuned, vocab, train, TrainConfig(**settings | more), factor=technique.factor, replay=replay
    )
    return tuned, adapter, found


def accuracy(tuned: Classifier, vocab: CharVocab, asked: Sequence[Sentence]) -> Score:
    """How many sentences a classifier labels rightly."""
    return right(predict(tuned, vocab, [s.text for s in asked]), asked)


def measure(
    name: str,
    body: GPT,
    vocab: CharVocab,
    task: Task,
    places: Birthplaces,
    *,
    rate: float,
    seed: int,
    old: Sequence[tuple[str, str]] = (),
    choosing: bool = False,
    technique: Technique | None = None,
    **more: Any,
) -> dict:
    """One training as a row of the table. `choosing`: on dev alone, the test sentences are not looked at."""
    tuned, adapter, found = tune(
        technique or TECHNIQUES[name],
        body,
        vocab,
        task.train,
        rate=rate,
        seed=seed,
        old=old,
        **more,
    )
    row = dict(
        technique=name,
        seed=seed,
        rate=rate,
        trained=found.trained,
        steps=found.steps,
        characters=found.characters,
        seconds=round(found.seconds, 2),
        loss=round(mean(found.losses[-10:]), 4),
        dev=accuracy(tuned, vocab, task.dev).correct / len(task.dev),
    )
    if not choosing:
        kinds = {kind: [s for s in task.test if s.kind == kind] for kind in KINDS}
        scores = {kind: accuracy(tuned, vocab, some) for kind, some in kinds.items()}
        row["test"] = round(sum(s.correct for s in scores.values()) / len(task.test), 4)
        row["kinds"] = {kind: round(score.accuracy, 4) for kind, score in scores.items()}
        row["new"] = accuracy(tuned, vocab, task.new).accuracy
    kept = places.retained(tuned.body)
    row |= dict(kept=kept.correct, known=kept.total)
    if adapter is not None:
        with adapter.disable_adapter():
            row["switched_off_as_before"] = places.ask(tuned.body) == places.before
    return row


def chosen_rate(rows: Sequence[dict], name: str) -> float:
    """The rate of a technique's rows that is best on dev; of equal ones the smallest."""
    tried = [row for row in rows if row["technique"] == name]
    if not tried:
        raise ValueError(f"no row of technique {name!r} to choose a rate from")
    return max(tried, key=lambda row: (row["dev"], -row["rate"]))["rate"]


def compare(
    body: GPT,
    vocab: CharVocab,
    asked: Sequence[tuple[str, str]],
    *,
    old: Sequence[tuple[str, str]] = (),
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    names: Sequence[str] = (),
    begun: dict | None = None,
    done: Callable[[dict], None] = lambda told: None,
    sizes: dict[str, int] | None = None,
    **more: Any,
) -> dict:
    """All `names` of TECHNIQUES: rates chosen with seed 0 on dev, tested with `seeds`. The table as JSON holds it.

    `asked`: birthplace questions, `old` those that a replay trains on. `begun`: a table to go on with; `done` is told the
    table behind each training. `sizes`: see `load_task`; `more`: fields of TrainConfig for all. ValueError for an unknown
    name, and for seed 0 among `seeds`, whose sentences have chosen.
    """
    names = list(names) or list(TECHNIQUES)
    if unknown := [name for name in names if name not in TECHNIQUES]:
        raise ValueError(f"no technique {unknown[0]!r}; there are {', '.join(TECHNIQUES)}")
    if 0 in seeds:
        raise ValueError("seed 0 chooses the rates: test with others")
    told = begun or dict(choosing=[], rows=[], words=[])
    places, tasks = (
        Birthplaces(body, vocab, asked),
        {s: load_task(s, **sizes or {}) for s in (0, *seeds)},
    )
    told |= dict(
        seeds=list(seeds),
        known=Score(
            sum(a.strip() == b for a, b in zip(places.before, places.gold, strict=True)),
            len(places.gold),
        ).correct,
        asked=len(places.gold),
        techniques={name: asdict(TECHNIQUES[name]) for name in names},
    )

    def there(part: str, **wanted: Any) -> bool:
        return any(all(row[key] == value for key, value in wanted.items()) for row in told[part])

    for name in names:
        for rate in TECHNIQUES[name].rates:
            if not there("choosing", technique=name, rate=rate):
                told["choosing"].append(
                    measure(
                        name,
                        body,
                        vocab,
                        tasks[0],
                        places,
                        rate=rate,
                        seed=0,
                        old=old,
                        choosing=True,
                        **more,
                    )
                )
                done(told)
    rates = {name: chosen_rate(told["choosing"], name) for name in names}
    told["rows"] = [
        row for row in told["rows"] if row["rate"] == rates.get(row["technique"])
    ]  # others are chosen now
    for seed in seeds:
        if not there("words", seed=seed):
            said = {
                n: right(
                    bag_of_words(tasks[seed].train, tasks[seed].test, n), tasks[seed].test
                ).accuracy
                for n in (1, 3)
            }
            told["words"].append(dict(seed=seed, words=said[1], runs_of_3=said[3]))
        for name in names:
            if not there("rows", technique=name, seed=seed):
                told["rows"].append(
                    measure(
                        name,
                        body,
                        vocab,
                        tasks[seed],
                        places,
                        rate=rates[name],
                        seed=seed,
                        old=old,
                        **more,
                    )
                )
                done(told)
    place = list(TECHNIQUES).index
    told["choosing"].sort(key=lambda row: (place(row["technique"]), row["rate"]))
    told["rows"].sort(key=lambda row: (row["seed"], place(row["technique"])))
    return told


def summary(told: dict) -> dict[str, dict]:
    """For each technique: rate, trained, seconds, and (mean, low, high) over seeds of test, new and kept, as shares."""
    found = {}
    for name in dict.fromkeys(row["technique"] for row in told["rows"]):
        rows = [row for row in told["rows"] if row["technique"] == name]
        shares = dict(
            test=[r["test"] for r in rows],
            new=[r["new"] for r in rows],
            kept=[r["kept"] / max(r["known"], 1) for r in rows],
        )
        found[name] = dict(
            label=TECHNIQUES[name].label,
            rate=rows[0]["rate"],
            trained=rows[0]["trained"],
            seconds=mean(r["seconds"] for r in rows),
            kinds={k: mean(r["kinds"][k] for r in rows) for k in KINDS},
            **{key: interval(values) for key, values in shares.items()},
        )
    return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of shares over seeds, cut at 0 and 1; one seed has no interval, and gives its value three times."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    middle, low, high = seed_interval(values)
    return middle, max(low, 0.0), min(high, 1.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """python -m kt_course.chapters.finetuning_techniques.techniques --out FILE"""
    from kt_core.corpora.loading import load_corpus
    from kt_core.runs.checkpoints import hardware
    from kt_course.shipped import shipped

    parser = argparse.ArgumentParser(
        prog="python -m kt_course.chapters.finetuning_techniques.techniques",
        description="Compare ways of finetuning on a shipped body.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the table, as JSON"
    )
    parser.add_argument(
        "--variant", default="rope", help="of the shipped bios model (default: rope)"
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="seeds to test with, 1 ... SEEDS (default: 5)"
    )
    given = parser.parse_args(arguments)
    if not 1 <= given.seeds <= 10:
        parser.error(f"--seeds must be 1 to 10, not {given.seeds}")
    body, vocab, card = shipped("bios", given.variant, "finetuned")
    corpus = load_corpus("bios")
    begun = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else None
    about = dict(
        body=f"bios-{given.variant}-finetuned",
        body_seed=card["seed"],
        hardware=hardware(),
        sizes=dict(train=N_TRAIN, dev=N_DEV, test=N_TEST, new=N_NEW),
    )
    if begun and begun["body"] != about["body"]:
        parser.error(f"{given.out} is a table of {begun['body']}: give another --out")

    def keep(told: dict) -> None:
        write_json(given.out, about | told)
        row = told["rows"][-1] if told["rows"] else told["choosing"][-1]
        told_test = f"test {row['test']:.3f}, new {row['new']:.2f}, " if "test" in row else ""
        print(
            f"{row['technique']:8s} seed {row['seed']}, rate {row['rate']:g}: dev {row['dev']:.3f}, {told_test}kept "
            f"{row['kept']} of {row['known']}, {row['seconds']:.1f} s, loss {row['loss']:.3f}",
            flush=True,
        )

    seeds = range(1, given.seeds + 1)
    told = compare(
        body, vocab, corpus.dev, old=corpus.train, seeds=list(seeds), begun=begun, done=keep
    )
    write_json(given.out, about | told)


if __name__ == "__main__":
    main()
