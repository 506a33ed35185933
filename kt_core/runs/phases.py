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
from kt_core.runs import distributed
from kt_core.runs.checkpoints import (
    card_path,
    hardware,
    load_average,
    load_checkpoint,
    save_checkpoint,
)
from kt_core.runs.fitting import fit
from kt_core.runs.recipes import Recipe
from kt_core.vocab import CharVocab


def evaluate(
    model: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str | None]]
) -> tuple[list[str], Score | None]:
    """Return the greedy answers to the questions of `pairs`, and their score.

    The score is None where there are no pairs or where a gold answer is missing.
    """
    answers = answer(model, vocab, [question for question, _ in pairs])
    gold = [a for _, a in pairs]
    return answers, None if None in gold or not gold else exact_match(answers, gold)


def circumstances(device: torch.device) -> dict:
    """Hardware and versions, as cards and results hold them."""
    versions = {"kt_core": __version__, "torch": torch.__version__}
    versions["python"] = platform.python_version()
    return dict(hardware=hardware(device), versions=versions)


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

    def pretrained(
        self, inits: Sequence[str | Path], start: str | Path | None
    ) -> tuple[GPT, CharVocab, dict]:
        """Return the model after pretraining: loaded, or trained now (from `start` if given)."""
        done = self.path / "pretrained.safetensors"
        if inits or is_complete(done):
            model, vocab, card = load_average(inits or [done], self.device)
            return model, vocab, dict(pretraining=card.get("cost"))
        model, vocab, before = self.untrained()
        if start:
            source, _, card = load_checkpoint(start)
            copy_shared_weights(source, model)
            before = dict(before=dict(variant=source.config.variant, **card.get("cost", {})))
        data = self.recipe.pretrain_data(self.corpus, vocab, self.seed)
        # with pairs or windows phrased as questions in it, pretraining learns to answer
        settings = self.recipe.data
        cost = self.train(
            "pretrain", model, data, vocab, bool(settings.mixed_pairs or settings.ask)
        )
        cost |= before
        self.save(done, model, vocab, cost, "pretrain")
        return model, vocab, dict(pretraining=cost)

    def finetuned(self, model: GPT, vocab: CharVocab, costs: dict, phase: str) -> tuple[GPT, dict]:
        """Return the model after finetuning on the train pairs, and all costs so far."""
        done = self.path / "finetuned.safetensors"
        if is_complete(done):
            model, _, card = load_checkpoint(done, self.device)
            return model, {**costs, "finetuning": card.get("cost")}
        # the block of an `init` may be another than the recipe's
        shape = dataclasses.replace(self.recipe.model, block_size=model.config.block_size)
        documents = self.recipe.data.finetune_documents if phase == "finetune" else 0
        content = dataclasses.replace(self.recipe.data, finetune_documents=documents)
        recipe = dataclasses.replace(self.recipe, model=shape, data=content)
        cost = self.train(phase, model, recipe.finetune_data(self.corpus, vocab, self.seed), vocab)
        self.save(done, model, vocab, cost, "finetune")
        return model, {**costs, "finetuning": cost}

    def train(self, phase: str, model: GPT, data, vocab: CharVocab, ask: bool = True) -> dict:
        """Train with metrics, and return what it cost; `ask` scores the dev questions on the way."""
        label = "pretrain" if phase == "pretrain" else "finetune"
        config, options = self.recipe.phase(phase, seed=self.seed, device=str(self.device))
        steps = -(-len(data) // config.batch_size) * config.epochs
        evaluations = 20 if phase == "pretrain" else 10
        config = dataclasses.replace(config, eval_every=max(1, round(steps / evaluations)))

        def score_dev(model: GPT) -> dict:
            score = evaluate(model, vocab, self.corpus.dev)[1]
            return {} if score is None else dict(dev=round(score.accuracy, 4))

        state, metrics = self.path / f"{label}.state", Metrics(self.path / "metrics.jsonl", label)
        metrics.replace(None if self.resume and state.exists() else [])
        today = time.strftime("%Y-%m-%d")
        try:
            history = fit(
                model,
                data,
                config,
                evaluate=score_dev if ask else None,
                state=state,
                resume=self.resume,
                save_every=self.save_every,
                log=metrics.append,
                tensorboard=self.path / "tensorboard" if self.tensorboard else None,
                title=label,
                **options,
            )
        except KeyboardInterrupt:
            if distributed.is_first():
                card = self.card(label, stopped=True)
                save_checkpoint(self.stopped_path(label), model, vocab, card)
            raise
        metrics.replace(history)  # a resumed run has logged the rows after its saved state twice
        last = history[-1]
        cost = {"steps": last["step"], "epochs": last["epoch"], "characters": last["characters"]}
        rate = round(last["characters"] / max(last["seconds"], 1e-9))
        cost |= {"seconds": round(last["seconds"], 1), "characters_per_second": rate}
        return cost | {"loss": round(last["loss"], 4), "date": today}

    def save(self, path: Path, model: GPT, vocab: CharVocab, cost: dict, label: str) -> None:
        """Write the checkpoint of a phase, and then delete what a stop of it has left."""
        score = evaluate(model, vocab, self.corpus.dev)[1]
        if distributed.is_first():
            card = self.card(label, cost=cost, dev=score and score.as_dict())
            save_checkpoint(path, model, vocab, card)
            stopped = self.stopped_path(label)
            for leftover in (self.path / f"{label}.state", stopped, card_path(stopped)):
                leftover.unlink(missing_ok=True)

    def stopped_path(self, label: str) -> Path:
        """Where the weights so far are after Ctrl-C."""
        return self.path / f"{label}-stopped.safetensors"

    def card(self, label: str, **more) -> dict:
        """What a checkpoint of this run says about itself."""
        card = {**self.config, "phase": label, **more, **circumstances(self.device)}
        if self.corpus.name == "wiki":
            card["licence"] = "trained on text from Wikipedia, CC BY-SA"
        return card


class Metrics:
    """The rows of one phase in a run's metrics.jsonl; the first process alone writes."""

    def __init__(self, path: Path, phase: str):
        self.path, self.phase = path, phase

    def append(self, row: dict) -> None:
        """Add a row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self.line(row))

    def replace(self, rows: Sequence[dict] | None) -> None:
        """Replace the rows of this phase (None keeps them); drop a last one that a crash has cut."""
        if not distributed.is_first():
            return
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("}\n")]
        if rows is not None:
            start = json.dumps({"phase": self.phase})[:-1]
            lines = [line for line in lines if not line.startswith(start)]
        write_atomically(self.path, "".join([*lines, *map(self.line, rows or ())]).encode())

    def line(self, row: dict) -> str:
        """A row as a line of the file."""
        return json.dumps({"phase": self.phase, **row}) + "\n"


def is_complete(path: Path) -> bool:
    """Is a checkpoint there with its card, which is written last?"""
    return path.exists() and card_path(path).exists()


def copy_shared_weights(source: GPT, target: GPT) -> None:
    """Copy the weights that two models of one shape share, perhaps of different variants.

    The norm of a perceiver's source starts as the norm of the block's input, which is what the other
    variants read. What else `source` lacks (a position table, latents) stays.
    """
    weights = source.state_dict()
    for name, value in target.state_dict().items():
        if (found := weights.get(name, weights.get(name.replace("ln_source", "ln1")))) is not None:
            value.copy_(found)
