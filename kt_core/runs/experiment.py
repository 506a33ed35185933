"""One run, one folder: pretrain, finetune, evaluate, with everything kept that says how.

config.json              corpus, variant, recipe, seed, hardware, versions
metrics.jsonl            a row per evaluation of each phase
pretrained.safetensors   after pretraining, with its card
finetuned.safetensors    after finetuning, with its card
PHASE-stopped.safetensors   after Ctrl-C in a phase: the weights so far, with their card
predictions/SPLIT.txt    the answers to dev and test, one per line
result.json              scores with intervals, and costs; written last, so a run without it is
                         not finished
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_core.blocks import GPTConfig
from kt_core.corpora.files import write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.devices import choose_device
from kt_core.evaluation import Score, london_baseline
from kt_core.runs import distributed
from kt_core.runs.checkpoints import load_average, load_checkpoint
from kt_core.runs.phases import Run, circumstances, evaluate
from kt_core.runs.predictions import write_predictions
from kt_core.runs.recipes import Recipe
from kt_core.runs.recipes import recipe as find_recipe


@dataclass(frozen=True)
class Result:
    """Scores on dev and test (None where a split has no answers), the run's folder, all details."""

    dev: Score | None
    test: Score | None
    path: Path
    details: dict

    @classmethod
    def read(cls, folder: str | Path) -> Result:
        """Read the result of a finished run; ValueError if the folder holds none."""
        path = Path(folder) / "result.json"
        try:
            details = json.loads(path.read_text(encoding="utf-8"))
            scores = [details[split] for split in ("dev", "test")]
            dev, test = (score and Score(score["correct"], score["total"]) for score in scores)
        except FileNotFoundError:
            raise ValueError(
                f"{folder}: no result.json, so no finished run; finish it with --resume"
            ) from None
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a run's result ({error!r})") from None
        return cls(dev, test, Path(folder), details)


def run_experiment(
    corpus: str | Path | Corpus = "bios",
    variant: str = "vanilla",
    recipe: str | Recipe = "quick",
    pretrain: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    *,
    overrides: dict[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    init: str | Path | Sequence[str | Path] | None = None,
    start: str | Path | None = None,
    save_every: int = 200,
    tensorboard: bool = False,
) -> Result:
    """Pretrain, finetune and evaluate one model, and keep everything in one folder.

    Under torchrun all processes train the model together, and the first one alone writes.

    Args:
        corpus, variant, recipe, seed: What to train on, which model, how, and with which draws.
        pretrain: False finetunes from random weights.
        out: The folder; by default one below runs/ that is named after the settings.
        overrides: Recipe options to change, by their dotted names.
        device: "auto" takes the best one.
        resume: Continue an unfinished run in `out`. Without it a folder that holds a run is a
            ValueError, so nothing is lost.
        init: A pretrained checkpoint instead of pretraining, or several to average.
        start: A checkpoint from which pretraining continues with new optimisers; if it is of
            another variant, the weights that both variants have are copied.
        save_every: Steps between two saved states.
        tensorboard: Write event files into the folder too.

    Raises:
        ValueError: A setting that no run can have, before anything is written.
    """
    chosen = find_recipe(recipe, **(overrides or {}))
    where = choose_device(device)
    if isinstance(corpus, Corpus):
        data, name = corpus, corpus.name
    else:
        data, name = load_corpus(corpus, block_size=chosen.model.block_size), str(corpus)
    kind = chosen.kind if pretrain else "no-pretrain"
    inits = [init] if isinstance(init, str | Path) else list(init or ())
    plain_name = "".join(ch if ch.isalnum() else "-" for ch in Path(name).name)
    default = f"runs/{plain_name}-{variant}-{chosen.name}-{kind}-seed{seed}"
    path = Path(out or default)
    config = dict(corpus=name, variant=variant, recipe=dataclasses.asdict(chosen), kind=kind)
    config |= dict(seed=seed, init=" + ".join(map(str, inits)) or None)
    config |= dict(start=Path(start).name if start else None)
    if (path / "config.json").exists():
        _refuse_other_settings(path, config, resume)
        if (path / "result.json").exists():
            return Result.read(path)
    _refuse_impossible(data, chosen, variant, pretrain, inits, start)
    distributed.anywhere()  # all processes have looked at the folder
    if distributed.is_first():
        write_json(path / "config.json", config | circumstances(where))
    options = dict(resume=resume, save_every=save_every, tensorboard=tensorboard)
    run = Run(path, config, data, chosen, variant, seed, where, **options)
    model, vocab, costs = run.pretrained(inits, start) if pretrain else run.untrained()
    model, more = run.finetuned(model, vocab, "finetune" if pretrain else "scratch")
    return _finish(path, config | costs | more | circumstances(where), model, vocab, data)


def _finish(path: Path, details: dict, model, vocab, corpus: Corpus) -> Result:
    """Answer dev and test, and write the answers and the result."""
    scores: dict[str, Score | None] = {}
    for split in ("dev", "test"):
        pairs = getattr(corpus, split)
        answers, scores[split] = evaluate(model, vocab, pairs)
        if pairs and distributed.is_first():
            write_predictions(path / "predictions" / f"{split}.txt", answers)
    baseline = london_baseline(corpus.dev) if corpus.dev else None
    details |= {key: score and score.as_dict() for key, score in scores.items()}
    details |= dict(london=baseline and baseline.as_dict(), parameters=model.n_parameters())
    if distributed.is_first():
        write_json(path / "result.json", details)
    distributed.anywhere()  # the result is there for all processes
    return Result(scores["dev"], scores["test"], path, details)


def _refuse_impossible(
    corpus: Corpus,
    recipe: Recipe,
    variant: str,
    pretrain: bool,
    inits: Sequence[str | Path],
    start: str | Path | None,
) -> None:
    """ValueError for what would stop the run later."""
    config = recipe.model_config(len(corpus.vocab), variant)
    if not corpus.train:
        raise ValueError(f"corpus {corpus.name} has no train pairs: nothing to finetune on")
    if (inits or start) and not pretrain or inits and start:
        raise ValueError(
            "init replaces pretraining and start continues it: give one of them at most, "
            "and neither with pretrain=False (--no-pretrain)"
        )
    if start:
        model, vocab, _ = load_checkpoint(start)
        theirs, ours = _shape(model.config), _shape(config)
        if vocab != corpus.vocab or theirs != ours:
            raise ValueError(
                f"{start} holds a model of another shape or vocabulary: {theirs}, not {ours}"
            )
    if inits:
        model, _, _ = load_average(inits)
        if model.config.variant != variant:
            raise ValueError(f"{inits[-1]} holds a {model.config.variant} model, not {variant}")


def _shape(config: GPTConfig) -> dict:
    """What two models must share for one to take the other's weights."""
    shape = dataclasses.asdict(config)
    return {key: shape[key] for key in shape if key not in ("variant", "dropout")}


def _refuse_other_settings(path: Path, config: dict, resume: bool) -> None:
    """ValueError unless the folder's run may be resumed with these settings."""
    if not resume:
        raise ValueError(
            f"{path} holds a run already: continue it with resume (--resume), "
            "or give another folder (--out)"
        )
    before = _flat(json.loads((path / "config.json").read_text(encoding="utf-8")))
    changes = [
        f"{key} was {before.get(key)!r}, now {value!r}"
        for key, value in _flat(config).items()
        if before.get(key) != value
    ]
    if changes:
        raise ValueError(
            f"{path} holds a run with other settings ({'; '.join(changes)}): "
            "resume with the same, or give another folder"
        )


def _flat(config: dict, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        inner = prefix if key == "recipe" else f"{prefix}{key}."
        flat |= _flat(value, inner) if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
