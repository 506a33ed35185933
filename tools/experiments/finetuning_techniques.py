"""Compare ways of finetuning a shipped model: accuracy, parameters, seconds, what is retained.

    python tools/experiments/finetuning_techniques.py --out data/results/finetuning.json

Every technique tries its learning rates with seed 0 and takes the one that is best on dev
sentences. With that rate it is trained once for each of the other seeds, on other sentences, and
tested: no test sentence has chosen anything. A file that already has rows is resumed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kt_core._validation import one_of
from kt_core.corpora.files import write_json
from kt_core.corpora.loading import load_corpus
from kt_core.evaluation import Score, exact_match
from kt_core.models import GPT
from kt_core.runs.checkpoints import hardware
from kt_core.vocab import CharVocab
from kt_course.chapters.finetuning_techniques.classify import n_trained
from kt_course.chapters.finetuning_techniques.sentiment import (
    KINDS,
    Task,
    bag_of_words,
    load_task,
    score_labels,
)
from kt_course.chapters.finetuning_techniques.techniques import (
    TECHNIQUES,
    Birthplaces,
    accuracy,
    chosen_rate,
    tune,
)
from kt_course.shipped import shipped


def measure(
    name: str,
    body: GPT,
    vocab: CharVocab,
    task: Task,
    places: Birthplaces,
    *,
    rate: float,
    seed: int,
    is_choosing: bool = False,
    **settings: Any,
) -> dict:
    """Train once and make a row of the table. `is_choosing`: on dev, without the test sentences."""
    began = time.process_time()
    tuned, adapter, history = tune(
        TECHNIQUES[name], body, vocab, task.train, rate=rate, seed=seed, **settings
    )
    row = dict(
        technique=name,
        seed=seed,
        rate=rate,
        trained=n_trained(tuned),
        steps=history[-1]["step"],
        seconds=round(time.process_time() - began, 2),
        loss=round(history[-1]["loss"], 4),
        dev=accuracy(tuned, vocab, task.dev).accuracy,
    )
    if not is_choosing:
        row["test"] = round(accuracy(tuned, vocab, task.test).accuracy, 4)
        by_kind = {kind: [s for s in task.test if s.kind == kind] for kind in KINDS}
        row["kinds"] = {k: round(accuracy(tuned, vocab, s).accuracy, 4) for k, s in by_kind.items()}
        row["new"] = accuracy(tuned, vocab, task.new).accuracy
    score = places.retained(tuned.body)
    row |= dict(kept=score.correct, known=score.total)
    if adapter is not None:
        with adapter.disable_adapter():
            row["switched_off_as_before"] = places.ask(tuned.body) == places.before
    return row


def compare(
    body: GPT,
    vocab: CharVocab,
    pairs: Sequence[tuple[str, str]],
    *,
    old: Sequence[tuple[str, str]] = (),
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    names: Sequence[str] = tuple(TECHNIQUES),
    table: dict | None = None,
    save: Callable[[dict], None] = lambda table: None,
    sizes: dict[str, int] | None = None,
    **settings: Any,
) -> dict:
    """Choose rates with seed 0 on dev, then test with `seeds`.

    Args:
        pairs: Birthplace questions with their answers, to see what is retained.
        old: Those that a replay trains on.
        table: A table to resume.
        save: Called with the table after each training.
        sizes: Arguments of `load_task`.
        settings: Fields of `TrainConfig` for all trainings.

    Returns:
        The table as JSON holds it.
    """
    for name in names:
        one_of("technique", name, TECHNIQUES)
    if 0 in seeds:
        raise ValueError("seed 0 chooses the rates: test with others")
    places = Birthplaces(body, vocab, pairs)
    tasks = {seed: load_task(seed, **sizes or {}) for seed in (0, *seeds)}
    table = table or dict(choosing=[], rows=[], words=[])
    known: Score = exact_match(places.before, places.gold)
    table |= dict(seeds=list(seeds), known=known.correct, asked=known.total)
    table["techniques"] = {name: asdict(TECHNIQUES[name]) for name in names}

    def add(part: str, name: str, rate: float, seed: int) -> None:
        key = dict(technique=name, rate=rate, seed=seed)
        if not any(all(row[k] == v for k, v in key.items()) for row in table[part]):
            more = dict(old=old, is_choosing=part == "choosing", **settings)
            row = measure(name, body, vocab, tasks[seed], places, rate=rate, seed=seed, **more)
            table[part].append(row)
            save(table)

    for name in names:
        for rate in TECHNIQUES[name].rates:
            add("choosing", name, rate, 0)
    rates = {name: chosen_rate(table["choosing"], name) for name in names}
    table["rows"] = [row for row in table["rows"] if row["rate"] == rates.get(row["technique"])]
    for seed in seeds:
        if not any(row["seed"] == seed for row in table["words"]):
            table["words"].append(bag_row(tasks[seed], seed))
        for name in names:
            add("rows", name, rates[name], seed)
    order = list(TECHNIQUES).index
    table["choosing"].sort(key=lambda row: (order(row["technique"]), row["rate"]))
    table["rows"].sort(key=lambda row: (row["seed"], order(row["technique"])))
    return table


def bag_row(task: Task, seed: int) -> dict:
    """What bags of words, and of n-grams of up to three, reach on the test sentences."""
    bags = {n: score_labels(bag_of_words(task.train, task.test, n), task.test) for n in (1, 3)}
    return dict(seed=seed, words=bags[1].accuracy, runs_of_3=bags[3].accuracy)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, JSON")
    parser.add_argument("--variant", default="rope", help="of the shipped bios model")
    parser.add_argument("--seeds", type=int, default=5, help="test with seeds 1 ... SEEDS")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {options.seeds}")
    body, vocab, card = shipped("bios", options.variant, "finetuned")
    corpus = load_corpus("bios")
    name = f"bios-{options.variant}-finetuned"
    about = dict(body=name, body_seed=card["seed"], hardware=hardware())
    about["sizes"] = dict(train=600, dev=200, test=300, new=100)
    table = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else None
    if table and table["body"] != name:
        parser.error(f"{options.out} is a table of {table['body']}: give another --out")

    def save(table: dict) -> None:
        write_json(options.out, about | table)
        row = table["rows"][-1] if table["rows"] else table["choosing"][-1]
        numbers = {key: value for key, value in row.items() if key != "kinds"}
        print(", ".join(f"{key} {value}" for key, value in numbers.items()), flush=True)

    seeds = range(1, options.seeds + 1)
    table = compare(body, vocab, corpus.dev, old=corpus.train, seeds=seeds, table=table, save=save)
    write_json(options.out, about | table)


if __name__ == "__main__":
    main()
