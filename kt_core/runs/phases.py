"""The phases of a run: each trains, and leaves a checkpoint that a resumed run takes instead."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kt_core._version import __version__
from kt_core.corpora.files import write_atomically
from kt_core.corpora.loading import Corpus
from kt_core.decoding import answer
from kt_core.evaluation import Score, exact_match
from kt_core.models import GPT
from kt_core.runs import checkpoints, distributed
from kt_core.runs.checkpoints import card_path, load_checkpoint, save_checkpoint
from kt_core.runs.fitting import fit
from kt_core.runs.recipes import Recipe
from kt_core.trainer import Hook, Trainer
from kt_core.vocab import CharVocab


def evaluate(
    model: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str | None]]
) -> tuple[list[str], Score | None]:
    """Return the greedy answers to the questions of `pairs`, and their score: None without gold."""
    answers = answer(model, vocab, [question for question, _ in pairs])
    gold = [a for _, a in pairs]
    return answers, None if None in gold or not gold else exact_match(answers, gold)


def circumstances(device: torch.device) -> dict:
    """Return hardware and versions, as cards and results hold them."""
    versions = {"kt_core": __version__, "torch": torch.__version__}
    versions["python"] = platform.python_version()
    return dict(hardware=checkpoints.hardware(device), versions=versions)


@dataclass
class Run:
    """What the phases of one run share."""

    path: Path
    config: dict
    corpus: Corpus
    recipe: Recipe
    variant: str
    seed: int
    device: torch.device
    resume: bool
    save_every: int
    tensorboard: bool

    def untrained(self) -> tuple[GPT, CharVocab, dict]:
        """Return a model with random weights, its vocabulary and no costs."""
        torch.manual_seed(self.seed)
        vocab = self.corpus.vocab
        return self.recipe.new_model(len(vocab), self.variant), vocab, {}

    def pretrained(self) -> tuple[GPT, CharVocab, dict]:
        """Return the model after pretraining: loaded, or trained now."""
        path = self.path / "pretrained.safetensors"
        if is_complete(path):
            model, vocab, card = self.load(path)
            return model, vocab, dict(pretraining=card.get("cost"))
        model, vocab, _ = self.untrained()
        data, settings = self.recipe.pretrain_data(self.corpus, vocab, self.seed), self.recipe.data
        can_answer = bool(settings.mixed_pairs) or settings.task == "questions"
        cost = self.train("pretrain", model, data, vocab, can_answer)
        self.save(path, "pretrain", model, vocab, cost)
        return model, vocab, dict(pretraining=cost)

    def finetuned(self, model: GPT, vocab: CharVocab, phase: str) -> tuple[GPT, dict]:
        """Return the model after "finetune" or "scratch" on the train pairs, and the costs."""
        path = self.path / "finetuned.safetensors"
        if is_complete(path):
            model, _, card = self.load(path)
            return model, dict(finetuning=card.get("cost"))
        if phase == "finetune" and not self.recipe.finetune.epochs:
            self.save(path, "pretrain", model, vocab, {})
            return model, {}
        cost = self.train(phase, model, self.recipe.finetune_data(self.corpus, vocab), vocab)
        self.save(path, "finetune", model, vocab, cost)
        return model, dict(finetuning=cost)

    def train(self, phase: str, model: GPT, data, vocab: CharVocab, ask: bool = True) -> dict:
        """Train, and return what it cost; `ask` scores the dev questions on the way."""
        label = "pretrain" if phase == "pretrain" else "finetune"
        config, options = self.recipe.phase(phase, seed=self.seed, device=str(self.device))
        steps = -(-len(data) // config.batch_size) * config.epochs
        evaluations = 20 if phase == "pretrain" else 10
        config = dataclasses.replace(config, eval_every=max(1, round(steps / evaluations)))

        def score_dev(model: GPT) -> dict:
            score = evaluate(model, vocab, self.corpus.dev)[1]
            return {} if score is None else dict(dev=round(score.accuracy, 4))

        options |= dict(resume=self.resume, save_every=self.save_every, title=label)
        options |= dict(state=self.path / f"{label}.state", evaluate=score_dev if ask else None)
        options["tensorboard"] = self.path / "tensorboard" if self.tensorboard else None
        options["more_hooks"] = [MetricsFile(self.path / "metrics.jsonl", label)]
        today = time.strftime("%Y-%m-%d")
        try:
            last = fit(model, data, config, **options)[-1]
        except KeyboardInterrupt:
            if distributed.is_first():
                card = self.card(label, stopped=True)
                save_checkpoint(self.stopped_path(label), model, vocab, card)
            raise
        return cost_of(last) | {"date": today}

    def load(self, path: Path) -> tuple[GPT, CharVocab, dict]:
        """Load a checkpoint of this run; ValueError if its card says that it is another's."""
        model, vocab, card = load_checkpoint(path, self.device)
        if other := [key for key, value in self.config.items() if card.get(key) != value]:
            raise ValueError(f"{path} belongs to another run: its card has another {other[0]}")
        return model, vocab, card

    def save(self, path: Path, label: str, model: GPT, vocab: CharVocab, cost: dict) -> None:
        """Write the checkpoint of a phase, and then delete what a stop of it has left."""
        score = evaluate(model, vocab, self.corpus.dev)[1]
        if distributed.is_first():
            card = self.card(label, cost=cost, dev=score and score.as_dict())
            save_checkpoint(path, model, vocab, card)
            stopped = self.stopped_path(label)
            for leftover in (self.path / f"{label}.state", stopped, card_path(stopped)):
                leftover.unlink(missing_ok=True)

    def stopped_path(self, label: str) -> Path:
        """Return where the weights so far are after Ctrl-C."""
        return self.path / f"{label}-stopped.safetensors"

    def card(self, label: str, **more) -> dict:
        """Return what a checkpoint of this run says about itself."""
        card = {**self.config, "phase": label, **more, **circumstances(self.device)}
        if self.corpus.name == "wiki":
            card["licence"] = "trained on text from Wikipedia, CC BY-SA"
        return card


class MetricsFile(Hook):
    """Keep the rows of one phase in a run's metrics.jsonl; those of other phases stay."""

    def __init__(self, path: Path, phase: str):
        self.path, self.phase = path, phase

    def on_log(self, trainer: Trainer, row: dict) -> None:
        if distributed.is_first():
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
            start = json.dumps({"phase": self.phase})[:-1]
            lines = [line for line in text.splitlines() if not line.startswith(start)]
            lines += [json.dumps({"phase": self.phase, **row}) for row in trainer.history]
            write_atomically(self.path, "\n".join([*lines, ""]).encode())


def cost_of(row: dict) -> dict:
    """Return what a training cost, as cards and results hold it, from the last row of its log."""
    cost = {"steps": row["step"], "epochs": row["epoch"], "characters": row["characters"]}
    rate = round(row["characters"] / max(row["seconds"], 1e-9))
    cost |= {"seconds": round(row["seconds"], 1), "characters_per_second": rate}
    return cost | {"loss": round(row["loss"], 4)}


def is_complete(path: Path) -> bool:
    """Is a checkpoint there with its card, which is written last?"""
    return path.exists() and card_path(path).exists()
