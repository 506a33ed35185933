"""One run, one folder: pretrain, finetune, evaluate, with everything kept that says how.

config.json                   corpus, variant, recipe, seed, hardware, versions
metrics.jsonl                 a row per evaluation of each phase
pretrained.safetensors        after pretraining, with its card; likewise finetuned.safetensors
PHASE-stopped.safetensors     after Ctrl-C in a phase: the weights so far, with their card
predictions/SPLIT.txt         the answers to dev and test, one per line
result.json                   scores with intervals, and costs; written when the run is finished
"""

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kt_core.corpora.files import one_writer, read_json, sha256, write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.corpora.textfiles import write_predictions
from kt_core.devices import choose_device
from kt_core.evaluation import Score, london_baseline
from kt_core.runs import distributed
from kt_core.runs.checkpoints import require_memory
from kt_core.runs.phases import Run, circumstances, evaluate
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
    def read(cls, folder: str | Path) -> "Result":
        """Read the result of a finished run; ValueError if the folder holds none."""
        path = Path(folder) / "result.json"
        try:
            details = read_json(path)
            dev, test = (_read_score(details[split], path) for split in ("dev", "test"))
            _read_score(details.get("london"), path)
        except (FileNotFoundError, NotADirectoryError):
            problem = "no result.json, so no finished run; finish it with --resume"
            raise ValueError(f"{folder}: {problem}") from None
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a run's result ({error!r})") from None
        return cls(dev, test, Path(folder), details)


def _read_score(saved: dict | None, path: Path) -> Score | None:
    """The score of a result file; ValueError if its numbers contradict each other."""
    if saved is None:
        return None
    correct, total = saved["correct"], saved["total"]
    if type(correct) is not int or type(total) is not int or not 0 <= correct <= total > 0:
        raise ValueError(f"{path}: {correct!r} correct out of {total!r} is impossible")
    score = Score(correct, total)
    if wrong := [k for k, v in score.as_dict().items() if saved.get(k, v) != v]:
        value = saved[wrong[0]]
        raise ValueError(f"{path}: {wrong[0]} {value!r} does not follow from {score}")
    return score


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
    save_every: int = 200,
    tensorboard: bool = False,
    test: bool = True,
) -> Result:
    """Pretrain, finetune and evaluate one model, and keep everything in one folder.

    Args:
        pretrain: False finetunes from random weights.
        out: The folder; by default one below runs/ that is named after the settings.
        overrides: Recipe options to change, by their dotted names.
        resume: Continue the run in `out`, which otherwise must hold none.
        save_every: Steps between two saved states.
    """
    chosen, where = find_recipe(recipe, **(overrides or {})), choose_device(device)
    data = load_corpus(corpus, block_size=chosen.model.block_size)
    config = dict(corpus=data.name if data is corpus else str(corpus), variant=variant)
    config |= dict(recipe=asdict(chosen), kind=chosen.kind if pretrain else "no-pretrain")
    config |= dict(seed=seed, corpus_sha256=digest(data))
    path = Path(out or _default_folder(config))
    refuse_impossible(data, chosen, variant, seed)
    with one_writer(path / ".lock", f"{path}") if distributed.is_first() else nullcontext():
        answered = not (test and data.test) or (path / "predictions" / "test.txt").exists()
        if holds_this_run(path, config, resume) and answered and (path / "result.json").exists():
            return Result.read(path)
        distributed.anywhere()  # all processes have looked at the folder
        if distributed.is_first():
            write_json(path / "config.json", config | circumstances(where))
        run = Run(path, config, data, chosen, where, resume, save_every, tensorboard)
        return _finish(run, *run.train_phases(), test)


def refuse_impossible(corpus: Corpus, recipe: Recipe, variant: str, seed: int) -> None:
    """Raise ValueError for what would stop the run later."""
    require_memory(recipe.model_config(len(corpus.vocab), variant))
    recipe.phase("pretrain", seed=seed)  # TrainConfig validates the seed
    if not corpus.train:
        raise ValueError(f"corpus {corpus.name} has no train pairs: nothing to finetune on")


def holds_this_run(path: Path, config: dict, resume: bool) -> bool:
    """Does the folder hold this run? ValueError if it holds another, or may not be resumed."""
    if not (path / "config.json").exists():
        if leftover := next(path.glob("*.safetensors"), next(path.glob("*.state"), None)):
            problem = f"holds {leftover.name} without a config.json"
            raise ValueError(f"{path} {problem}: give another folder")
        return False
    if not resume:
        hint = "continue it with resume (--resume), or give another folder (--out)"
        raise ValueError(f"{path} holds a run already: {hint}")
    old, new = flatten(read_json(path / "config.json")), flatten(config)
    changes = [f"{k} was {old.get(k)!r}, now {v!r}" for k, v in new.items() if old.get(k) != v]
    if changes:
        changes[3:] = [f"and {len(changes) - 3} more"] if len(changes) > 3 else []
        problem = f"holds a run with other settings ({'; '.join(changes)})"
        raise ValueError(f"{path} {problem}: resume with the same, or give another folder")
    return True


def flatten(config: dict, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict = {}
    for key, value in config.items():
        inner = prefix if key == "recipe" else f"{prefix}{key}."
        flat |= flatten(value, inner) if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _default_folder(config: dict) -> str:
    words = Path(config["corpus"]).name, config["variant"], config["recipe"]["name"], config["kind"]
    name = "-".join([*words, f"seed{config['seed']}"])
    return "runs/" + "".join(ch if ch.isalnum() or ch in "-_" else "-" for ch in name)


def digest(corpus: Corpus) -> str:
    """Return what tells a corpus from one that was edited between stop and resume."""
    parts = (corpus.documents, corpus.train, corpus.dev, corpus.test)
    return sha256(json.dumps(parts).encode())[:16]


def _finish(run: Run, model, costs: dict, test: bool) -> Result:
    """Answer dev, and test if asked to, and write the answers and the result."""
    path, corpus, details = run.path, run.corpus, run.config | costs | circumstances(run.device)
    baseline = london_baseline(corpus.dev) if corpus.dev else None
    scores: dict[str, Score | None] = dict(dev=None, test=None, london=baseline)
    for split in ("dev", "test") if test else ("dev",):
        pairs = getattr(corpus, split)
        answers, scores[split] = evaluate(model, corpus.vocab, pairs)
        if pairs and distributed.is_first():
            write_predictions(path / "predictions" / f"{split}.txt", answers)
    details |= {key: score and score.as_dict() for key, score in scores.items()}
    details["parameters"] = model.n_parameters()
    if distributed.is_first():
        write_json(path / "result.json", details)
    distributed.anywhere()  # the result is there for all processes
    return Result(scores["dev"], scores["test"], path, details)
