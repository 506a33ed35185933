"""Train small models, and measure what they know in bits: one row per run, into one JSON file.

python tools/experiments/capacity.py runs/capacity --seeds 0 1 2 --out data/results/capacity.json

Without --seeds, finished runs are measured and none is trained. A run that is there is not trained
again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kt_core.corpora.files import write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.decoding import answer
from kt_core.evaluation import exact_match
from kt_core.models import GPT
from kt_core.runs.checkpoints import hardware, load_checkpoint
from kt_core.runs.experiment import run_experiment
from kt_core.vocab import CharVocab
from kt_course.chapters.what_does_it_know.capacity import (
    PUBLISHED,
    bits_per_parameter,
    recall_score,
    shares,
)
from kt_course.chapters.what_does_it_know.confidence import answer_probabilities
from kt_course.chapters.what_does_it_know.solutions import bits_learned

VARIANT, RECIPE = "rope", "quick"
OVERRIDES = {  # of the recipe, for each run
    "model.n_layer": 2,
    "model.n_head": 2,
    "pretrain.batch_size": 64,
    "pretrain.muon_lr": 0.02,
    "finetune.epochs": 1,
}


@dataclass(frozen=True)
class Setting:
    """What differs between runs. A person has 4 windows per epoch: 4 lines, or 4 views of one."""

    people: int
    n_embd: int
    epochs: int = 60
    lines: int = 4

    def train(self, folder: Path, seed: int) -> None:
        """Train one model, unless its folder holds a finished run."""
        corpus = f"bios:attributes=birth,people={self.people},lines={self.lines}"
        own = {"model.n_embd": self.n_embd, "pretrain.epochs": self.epochs}
        run_experiment(
            corpus,
            VARIANT,
            RECIPE,
            seed=seed,
            out=folder / "-".join(map(str, (*asdict(self).values(), seed))),
            overrides=OVERRIDES | own | {"data.views": 4 // self.lines},
            device="cpu",
            resume=True,
        )


SETTINGS = [
    *(Setting(people, width) for people in (100, 200) for width in (16, 24, 32)),
    *(Setting(200, 32, epochs) for epochs in (5, 15, 30)),
    *(Setting(200, 32, epochs, lines=1) for epochs in (5, 15, 30, 60)),
]


@dataclass(frozen=True)
class Knowledge:
    """What a model knows of a group of people: `bits` learned of the `possible` ones."""

    people: int
    right: int
    bits: float
    possible: float


def knowledge(
    model: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str]], share: dict[str, float]
) -> Knowledge:
    """Ask for the birthplaces of `pairs`: correct greedy answers, and bits by the probabilities.

    `share` is each birthplace's share of all people; ValueError for a birthplace that it lacks.
    """
    questions, gold = [q for q, _ in pairs], [a for _, a in pairs]
    if missing := sorted(set(gold) - set(share)):
        raise ValueError(f"no share is given for {', '.join(missing[:5])}")
    loss = -answer_probabilities(model, vocab, questions, gold).double().clamp(min=1e-30).log()
    guess = torch.tensor([share[place] for place in gold], dtype=torch.double)
    right = exact_match(answer(model, vocab, questions, max_new=40), gold).correct
    return Knowledge(len(gold), right, bits_learned(loss, guess), float(-guess.log2().sum()))


def measure(model: GPT, vocab: CharVocab, corpus: Corpus) -> dict[str, Knowledge]:
    """Measure the people whose questions were trained on ("train"), and all others ("held out")."""
    held_out = [pair for pair in (*corpus.dev, *corpus.test) if pair[1] is not None]
    if not corpus.train or not held_out:
        raise ValueError(f"{corpus.name}: train and dev answers are needed to measure knowledge")
    share = shares(place for _, place in (*corpus.train, *held_out))
    groups = {"train": corpus.train, "held out": held_out}
    return {name: knowledge(model, vocab, pairs, share) for name, pairs in groups.items()}


def measure_run(folder: Path) -> dict:
    """Measure one finished run: settings, exposures of each person, what it knows.

    Exposures are windows of a person's lines that pretraining has read: lines x views x epochs.
    """
    if not (folder / "result.json").is_file():
        raise ValueError(f"{folder}: no result.json, so no finished run")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    recipe = config["recipe"]
    model, vocab, _ = load_checkpoint(folder / "finetuned.safetensors")
    corpus = load_corpus(config["corpus"], block_size=recipe["model"]["block_size"])
    people = len(corpus.train) + len(corpus.dev) + len(corpus.test)
    lines, views = len(corpus.documents) / people, recipe["data"]["views"]
    epochs = recipe["pretrain"]["epochs"]
    return dict(
        run=folder.name,
        **{key: config[key] for key in ("corpus", "variant", "seed", "kind")},
        people=people,
        lines=round(lines, 3),
        views=views,
        epochs=epochs,
        exposures=round(lines * views * epochs),
        n_embd=model.config.n_embd,
        n_layer=model.config.n_layer,
        parameters=model.n_parameters(),
        **{name: asdict(group) for name, group in measure(model, vocab, corpus).items()},
    )


def measure_runs(folders: Sequence[Path]) -> dict:
    """Measure every finished run in or below `folders`. ValueError if there is none."""
    parents = {path.parent for folder in folders for path in folder.rglob("result.json")}
    runs = sorted(folder for folder in parents if (folder / "finetuned.safetensors").is_file())
    if not runs:
        raise ValueError(f"{', '.join(map(str, folders))}: no finished run in there")
    rows = [measure_run(folder) for folder in runs]
    facts = dict(variant=VARIANT, recipe=RECIPE, overrides=OVERRIDES)
    return dict(hardware=hardware(), published=PUBLISHED, **facts, rows=rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders with runs in or below them")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, JSON")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="train these first")
    options = parser.parse_args(arguments)
    for setting in sorted(SETTINGS, key=lambda s: s.people * s.epochs):
        for seed in options.seeds:
            setting.train(options.runs[0], seed)
            print(setting, "seed", seed, flush=True)
    table = measure_runs(options.runs)
    write_json(options.out, table)
    for row in table["rows"]:
        print(
            f"{row['people']:5d} people, {row['lines']:g} lines, {row['exposures']:6d} exposures, "
            f"{row['parameters']:8,d} parameters: "
            f"held out {100 * recall_score(row).accuracy:5.1f} %, "
            f"{bits_per_parameter(row):7.4f} bits per parameter"
        )


if __name__ == "__main__":
    main()
