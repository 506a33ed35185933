"""The phases of a run: each trains, and leaves a checkpoint that a resumed run takes instead."""

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
from kt_core.runs import distributed
from kt_core.runs.checkpoints import card_path, hardware, load_checkpoint, save_checkpoint
from kt_core.runs.fitting import fit
from kt_core.runs.recipes import Recipe
from kt_core.trainer import Hook, Trainer
from kt_core.vocab import CharVocab

# for each phase: what its rows and states are called, its checkpoint, and its costs in the result
NAMES = {"pretrain": ("pretrain", "pretrained", "pretraining")}
NAMES |= dict.fromkeys(("finetune", "scratch"), ("finetune", "finetuned", "finetuning"))


def evaluate(
    model: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str | None]]
) -> tuple[list[str], Score | None]:
    """Return the greedy answers to the questions of `pairs`, and their score: None without gold."""
    answers = answer(model, vocab, [question for question, _ in pairs])
    gold = [a for _, a in pairs]
    return answers, None if None in gold or not gold else exact_match(answers, gold)


def circumstances(device: torch.device) -> dict:
    """Return hardware and versions, as cards and results hold them."""
    versions = dict(kt_core=__version__, torch=torch.__version__, python=platform.python_version())
    return dict(hardware=hardware(device), versions=versions)


@dataclass
class Run:
    """What the phases of one run share."""

    path: Path
    config: dict
    corpus: Corpus
    recipe: Recipe
    device: torch.device
    resume: bool
    save_every: int
    tensorboard: bool

    def train_phases(self) -> tuple[GPT, dict]:
        """Train a new model in all phases of the run; return it and what they cost."""
        torch.manual_seed(self.config["seed"])
        model, costs = self.recipe.new_model(len(self.corpus.vocab), self.config["variant"]), {}
        is_scratch = self.config["kind"] == "no-pretrain"
        for phase in ("scratch",) if is_scratch else ("pretrain", "finetune"):
            model, cost = self.trained(phase, model)
            costs |= cost
        return model, costs

    def trained(self, phase: str, model: GPT) -> tuple[GPT, dict]:
        """Return the model after a phase, trained now or by an earlier try, and its costs."""
        label, weights, cost_key = NAMES[phase]
        path = self.path / f"{weights}.safetensors"
        if path.exists() and card_path(path).exists():  # the card is written last
            model, cost = self.load(path)
        else:
            is_skipped = phase == "finetune" and not self.recipe.finetune.epochs
            cost = {} if is_skipped else self.train(phase, label, model)
            self.save(path, "pretrain" if is_skipped else label, model, cost)
        return model, {cost_key: cost} if cost else {}

    def train(self, phase: str, label: str, model: GPT) -> dict:
        """Train, and return what it cost. The dev questions are scored on the way."""
        recipe, vocab, seed = self.recipe, self.corpus.vocab, self.config["seed"]
        config, options = recipe.phase(phase, seed=seed, device=str(self.device))
        data, evaluations, can_answer = recipe.finetune_data(self.corpus, vocab), 10, True
        if phase == "pretrain":
            data, evaluations = recipe.pretrain_data(self.corpus, vocab, seed), 20
            can_answer = recipe.kind == "mixed" or recipe.data.task == "questions"
        steps = -(-len(data) // config.batch_size) * config.epochs
        config = dataclasses.replace(config, eval_every=max(1, round(steps / evaluations)))
        options |= dict(title=label, state=self.path / f"{label}.state", resume=self.resume)
        options |= dict(save_every=self.save_every, evaluate=self.score_dev if can_answer else None)
        options["tensorboard"] = self.path / "tensorboard" if self.tensorboard else None
        options["more_hooks"] = [MetricsFile(self.path / "metrics.jsonl", label)]
        try:
            cost = cost_of(fit(model, data, config, **options)[-1])
            return cost | {"date": time.strftime("%Y-%m-%d")}
        except KeyboardInterrupt:
            if distributed.is_first():
                stopped = self.path / f"{label}-stopped.safetensors"
                save_checkpoint(stopped, model, vocab, self.card(label, stopped=True))
            raise

    def score_dev(self, model: GPT) -> dict:
        """Return the accuracy on dev; nothing if it has no answers."""
        score = evaluate(model, self.corpus.vocab, self.corpus.dev)[1]
        return {} if score is None else dict(dev=round(score.accuracy, 4))

    def load(self, path: Path) -> tuple[GPT, dict]:
        """Load a phase's model and cost; ValueError if its card says that it is another run's."""
        model, _, card = load_checkpoint(path, self.device)
        if other := [key for key, value in self.config.items() if card.get(key) != value]:
            raise ValueError(f"{path} belongs to another run: its card has another {other[0]}")
        return model, card.get("cost") or {}

    def save(self, path: Path, label: str, model: GPT, cost: dict) -> None:
        """Write the checkpoint of a phase, and then delete what a stop of it has left."""
        score = evaluate(model, self.corpus.vocab, self.corpus.dev)[1]
        if distributed.is_first():
            card = self.card(label, cost=cost, dev=score and score.as_dict())
            save_checkpoint(path, model, self.corpus.vocab, card)
            stopped = self.path / f"{label}-stopped.safetensors"
            for leftover in (self.path / f"{label}.state", stopped, card_path(stopped)):
                leftover.unlink(missing_ok=True)

    def card(self, label: str, **more) -> dict:
        """Return what a checkpoint of this run says about itself."""
        card = {**self.config, "phase": label, **more, **circumstances(self.device)}
        if self.corpus.name == "wiki":
            card["licence"] = "trained on text from Wikipedia, CC BY-SA"
        return card


class MetricsFile(Hook):
    """Write the rows of one phase to a run's metrics.jsonl; those of other phases stay."""

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
    """Return what a training cost, as cards and results hold it, from its last row."""
    cost = {"steps": row["step"], "epochs": row["epoch"], "characters": row["characters"]}
    cost["seconds"] = round(row["seconds"], 1)
    rate = round(row["characters"] / max(row["seconds"], 1e-9))
    return cost | {"characters_per_second": rate, "loss": round(row["loss"], 4)}
