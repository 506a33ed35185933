"""One run, one folder: pretrain, finetune, evaluate, with everything kept that says how.

config.json              corpus, variant, recipe (all fields), seed, hardware, versions
metrics.jsonl            a row for each evaluation of each phase
pretrained.safetensors   after pretraining, with its card        finetuned.safetensors   after finetuning
pretrain-stopped.safetensors   after Ctrl-C: a checkpoint like the others, of the weights so far (finetune-stopped too)
predictions/dev.txt      the answers, a line a question          predictions/test.txt
result.json              scores with intervals, characters, seconds; written last: a run without it is not done
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import kt_core
from kt_core.runs.checkpoints import card_path, hardware, load_average, load_checkpoint, save_checkpoint
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.decoding import answer
from kt_core.runs.devices import choose_device
from kt_core.runs.distributed import led, processes
from kt_core.evaluation import Score, exact_match, london_baseline, write_predictions
from kt_core.corpora.files import write_atomically, write_json
from kt_core.models import GPT, GPTConfig
from kt_core.runs.recipes import Recipe
from kt_core.runs.recipes import recipe as find_recipe
from kt_core.trainer import Trainer
from kt_core.vocab import CharVocab


@dataclass(frozen=True)
class Result:
    """What a run found: scores on dev and test (None where a split has no answers), its folder, what it cost."""

    dev: Score | None
    test: Score | None
    path: Path
    told: dict

    @classmethod
    def read(cls, folder: str | Path) -> Result:
        """The result of a finished run; ValueError if the folder holds none."""
        path = Path(folder) / "result.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            scores = {
                split: told[split] and Score(told[split]["correct"], told[split]["total"])
                for split in ("dev", "test")
            }
        except FileNotFoundError:
            raise ValueError(
                f"{folder}: no result.json, so no finished run; finish it with --resume"
            ) from None
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a run's result ({error!r})") from None
        return cls(scores["dev"], scores["test"], Path(folder), told)


def describe(score: Score | None) -> dict | None:
    """A score as JSON holds it."""
    if score is None:
        return None
    return dict(correct=score.correct, total=score.total, accuracy=round(score.accuracy, 4),
                low=round(score.low, 4), high=round(score.high, 4))


def evaluate(
    model: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str | None]]
) -> tuple[list[str], Score | None]:
    """Greedy answers to the questions of `pairs`, and their score where all gold answers are known."""
    answers = answer(model, vocab, [q for q, _ in pairs])
    gold = [a for _, a in pairs]
    return answers, None if None in gold or not gold else exact_match(answers, gold)


@led
def run_experiment(
    corpus: str | Path | Corpus = "bios",
    variant: str = "vanilla",
    recipe: str | Recipe = "quick",
    pretrain: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    *,
    overrides: dict | None = None,
    device: str = "auto",
    resume: bool = False,
    init: str | Path | Sequence[str | Path] | None = None,
    start: str | Path | None = None,
    save_every: int = 200,
    tensorboard: bool = False,
) -> Result:
    """Pretrain, finetune and evaluate one model; everything is kept in the folder `out` (runs/... if None).

    pretrain=False finetunes from random weights. `init` is a pretrained checkpoint to start from instead of
    pretraining, or several, whose weights are averaged; `start` is one that pretraining goes on from, with a fresh
    optimiser: a second sitting. It may be of another variant: the weights that both have are taken over.
    `overrides` sets recipe fields by name. `resume` goes on with an unfinished run in `out`; without it a folder
    that holds a run already is a ValueError, so that nothing is lost. Under torchrun all processes train the model
    together (`kt_core.runs.distributed`); the first one alone reads and writes files.
    """
    chosen = find_recipe(recipe, **(overrides or {}))
    where = choose_device(device)
    data = corpus if isinstance(corpus, Corpus) else load_corpus(corpus, block_size=chosen.block_size)
    name = data.name if isinstance(corpus, Corpus) else str(corpus)
    kind = "no-pretrain" if not pretrain else chosen.kind
    init = [init] if isinstance(init, str | Path) else list(init or ())
    plain = "".join(ch if ch.isalnum() else "-" for ch in Path(name).name)
    path = Path(out) if out else Path("runs") / f"{plain}-{variant}-{chosen.name}-{kind}-seed{seed}"
    config = dict(corpus=name, variant=variant, recipe=dataclasses.asdict(chosen), kind=kind, seed=seed,
                  init=" + ".join(map(str, init)) or None, start=Path(start).name if start else None)
    if (path / "config.json").exists():
        if not resume:
            raise ValueError(
                f"{path} holds a run already: go on with it by resume (--resume), or give another folder (--out)"
            )
        _must_match(path, config)
        if (path / "result.json").exists():
            return Result.read(path)
    _check_early(data, chosen, variant, pretrain, init, start)
    write_json(path / "config.json", {**config, "hardware": _hardware(where), "versions": _versions()})

    run = _Run(path, config, data, chosen, variant, seed, where, resume, save_every, tensorboard)
    model, vocab, cost = (
        run.pretrained(init, start) if pretrain else (run.new_model(data.vocab), data.vocab, {})
    )
    model, cost = run.finetuned(model, vocab, cost, pretrain)
    scores = {}
    for split in ("dev", "test"):
        pairs = getattr(data, split)
        answers, scores[split] = evaluate(model, vocab, pairs)
        if pairs:
            write_predictions(path / "predictions" / f"{split}.txt", answers)
    told = {**config, "recipe": chosen.name, "fields": config["recipe"], **{k: describe(s) for k, s in scores.items()},
            "london": describe(london_baseline(data.dev)) if data.dev else None, "parameters": model.n_parameters(),
            **cost, "hardware": _hardware(where), "versions": _versions()}
    write_json(path / "result.json", told)
    return Result(scores["dev"], scores["test"], path, told)


@dataclass
class _Run:
    """The phases of one run; each leaves a checkpoint, which a resumed run takes instead of doing it again."""

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

    def new_model(self, vocab: CharVocab) -> GPT:
        torch.manual_seed(self.seed)
        return GPT(self.recipe.model_config(len(vocab), self.variant))

    def pretrained(
        self, init: Sequence[str | Path], start: str | Path | None = None
    ) -> tuple[GPT, CharVocab, dict]:
        """The model after pretraining: from `init`, from this run's checkpoint, or trained now, on from `start`."""
        done = self.path / "pretrained.safetensors"
        if init or _whole(done):
            model, vocab, card = load_average(init or [done], self.device)
            return model, vocab, dict(pretraining=card.get("cost"))
        vocab = self.corpus.vocab
        model, before = self.new_model(vocab), {}
        if start:
            found, _, card = load_checkpoint(start)
            take_over(model, found)
            before = dict(before=dict(variant=found.config.variant, **card.get("cost", {})))
        data = self.recipe.pretrain_data(self.corpus, vocab, self.seed)
        config = self.recipe.pretrain_config(
            seed=self.seed, device=str(self.device), save_every=self.save_every
        )
        config = dataclasses.replace(
            config, eval_every=max(1, round(-(-len(data) // config.batch_size) * config.epochs / 20))
        )
        # with pairs in it, or windows put as questions, pretraining learns to answer
        follow = bool(self.recipe.mixed_pairs or self.recipe.ask)
        cost = self._train("pretrain", model, data, config, vocab, follow)
        cost |= before
        self._save(done, model, vocab, cost, "pretrain")
        return model, vocab, dict(pretraining=cost)

    def finetuned(self, model: GPT, vocab: CharVocab, cost: dict, pretrained: bool) -> tuple[GPT, dict]:
        """The model after finetuning on the train pairs."""
        done = self.path / "finetuned.safetensors"
        if _whole(done):
            model, _, card = load_checkpoint(done, self.device)
            return model, {**cost, "finetuning": card.get("cost")}
        recipe = dataclasses.replace(
            self.recipe, block_size=model.config.block_size
        )  # that of `init` may be another
        if not pretrained:
            recipe = dataclasses.replace(recipe, finetune_documents=0)
        data = recipe.finetune_data(self.corpus, vocab, self.seed)
        config = self.recipe.finetune_config(
            pretrained, seed=self.seed, device=str(self.device), save_every=self.save_every
        )
        config = dataclasses.replace(
            config, eval_every=max(1, round(-(-len(data) // config.batch_size) * config.epochs / 10))
        )
        spent = self._train("finetune", model, data, config, vocab, follow=True)
        self._save(done, model, vocab, spent, "finetune")
        return model, {**cost, "finetuning": spent}

    def _train(self, phase: str, model: GPT, data, config, vocab: CharVocab, follow: bool) -> dict:
        """Train, writing metrics; returns what it cost. `follow`: evaluations ask the dev questions."""

        def ask(model: GPT) -> dict:
            score = evaluate(model, vocab, self.corpus.dev)[1]
            return {} if score is None else dict(dev=round(score.accuracy, 4))

        state = self.path / f"{phase}.state"
        metrics = self.path / "metrics.jsonl"
        self._drop_rows(metrics, None if self.resume and state.exists() else phase)

        def log(row: dict) -> None:
            with metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"phase": phase, **row}) + "\n")

        trainer = Trainer(
            model,
            data,
            config,
            evaluate=ask if follow else None,
            state=state,
            log=log,
            title=phase,
            tensorboard=self.path / "tensorboard" if self.tensorboard else None,
        )
        began = time.strftime("%Y-%m-%d")
        try:
            history = trainer.fit(resume=self.resume)
        except KeyboardInterrupt:
            save_checkpoint(self._stopped(phase), model, vocab, self._card(phase, stopped=True))
            raise
        last = history[-1]
        rows = "".join(json.dumps({"phase": phase, **row}) + "\n" for row in history)
        self._drop_rows(metrics, phase)  # a resumed run has logged the rows after its saved state twice
        with metrics.open("a", encoding="utf-8") as file:
            file.write(rows)
        return dict(steps=last["step"], epochs=last["epoch"], characters=last["characters"], seconds=round(last["seconds"], 1),
                    characters_a_second=round(last["characters"] / max(last["seconds"], 1e-9)), loss=round(last["loss"], 4),
                    date=began)

    @staticmethod
    def _drop_rows(metrics: Path, phase: str | None) -> None:
        """Remove the rows of `phase`, and a last row that a crash has cut."""
        if metrics.exists():
            mine = json.dumps({"phase": phase})[:-1]  # how such a row begins
            rows = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if not row.startswith(mine) and row.endswith("}\n")]
            write_atomically(metrics, "".join(kept).encode())

    def _save(self, path: Path, model: GPT, vocab: CharVocab, cost: dict, phase: str) -> None:
        answers, dev = evaluate(model, vocab, self.corpus.dev) if self.corpus.dev else ([], None)
        save_checkpoint(path, model, vocab, self._card(phase, cost=cost, dev=describe(dev)))
        (self.path / f"{phase}.state").unlink(missing_ok=True)  # not before: all of the training is in it
        self._stopped(phase).unlink(missing_ok=True)
        card_path(self._stopped(phase)).unlink(missing_ok=True)

    def _stopped(self, phase: str) -> Path:
        """Where the weights so far lie after Ctrl-C."""
        return self.path / f"{phase}-stopped.safetensors"

    def _card(self, phase: str, **more) -> dict:
        """What a checkpoint of this run says of itself."""
        licence = "trained on text from Wikipedia, CC BY-SA"
        return {**self.config, "phase": phase, **more, "hardware": _hardware(self.device), "versions": _versions(),
                **({"licence": licence} if self.corpus.name == "wiki" else {})}


def take_over(model: GPT, found: GPT) -> None:
    """Copy the weights of a model of the same shape, perhaps of another variant, in place.

    A perceiver's norm of what it reads begins as the norm of its block's input, which is what the other variants
    read; what else `found` lacks (a position table, latents) stays as `model` has it.
    """
    theirs = found.state_dict()
    for name, value in model.state_dict().items():
        source = theirs.get(name, theirs.get(name.replace("ln_source", "ln1")))
        if source is not None:
            value.copy_(source)


def _whole(path: Path) -> bool:
    """Is a checkpoint there, its card too? The card is written last."""
    return path.exists() and card_path(path).exists()


def _check_early(
    corpus: Corpus,
    recipe: Recipe,
    variant: str,
    pretrain: bool,
    init: Sequence[str | Path],
    start: str | Path | None,
) -> None:
    """ValueError for what would stop the run later, before its folder is made."""
    config = recipe.model_config(len(corpus.vocab), variant)
    if not corpus.train:
        raise ValueError(f"corpus {corpus.name} has no train pairs: nothing to finetune on")
    if start is not None:
        if init or not pretrain:
            raise ValueError(
                "start is what pretraining goes on from: it goes with neither init nor pretrain=False (--no-pretrain)"
            )
        model, vocab, _ = load_checkpoint(start)
        if vocab != corpus.vocab or _shape(model.config) != _shape(config):
            raise ValueError(
                f"{start} holds a model of another shape or vocabulary: {_shape(model.config)}, not {_shape(config)}"
            )
    if not init:
        return
    if not pretrain:
        raise ValueError(
            "init is a pretrained checkpoint to start from: it cannot go with pretrain=False (--no-pretrain)"
        )
    model, _, _ = load_average(init)
    if model.config.variant != variant:
        raise ValueError(f"{init[-1]} holds a {model.config.variant} model, not {variant}")


def _shape(config: GPTConfig) -> dict:
    """What two models must share for one to take the other's weights."""
    free = ("variant", "dropout", "zero_init", "random_offset")
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in free}


def _hardware(device: torch.device) -> str:
    """The machine in words, with the number of processes where several train together."""
    return hardware(device) + (f", {processes()} processes" if processes() > 1 else "")


def _versions() -> dict:
    return {"kt_core": kt_core.__version__, "torch": torch.__version__, "python": platform.python_version()}


def _must_match(path: Path, config: dict) -> None:
    """ValueError that names the settings in which a folder's run differs from `config`.

    A field of the recipe that the run is too old to know has its default: without it, all was as it is with that.
    """
    before = json.loads((path / "config.json").read_text(encoding="utf-8"))
    flat = lambda c: {**{k: v for k, v in c.items() if k != "recipe"}, **c["recipe"]}  # noqa: E731
    old, new = dataclasses.asdict(Recipe()) | flat(before), flat(config)
    other = [
        f"{key} was {old.get(key)!r}, now {value!r}" for key, value in new.items() if old.get(key) != value
    ]
    if other:
        raise ValueError(
            f"{path} holds a run with other settings ({'; '.join(other)}): resume with the same, or give another folder"
        )
