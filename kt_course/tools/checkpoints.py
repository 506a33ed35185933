"""`kt checkpoints`: train the checkpoints that ship again, from nothing."""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from kt_core.blocks import VARIANTS
from kt_core.corpora.files import write_json
from kt_core.corpora.paths import checkout_dir
from kt_core.runs.checkpoints import load_checkpoint, save_checkpoint
from kt_core.runs.experiment import Result, run_experiment
from kt_course import shipped
from kt_course.tools import options as opt


@functools.cache
def training_plan() -> dict[str, Any]:
    """The stages of training behind the models of corpora where one pretraining is not all."""
    return tomllib.loads(Path(__file__).with_name("checkpoints.toml").read_text(encoding="utf-8"))


def ships(corpus: str, variant: str, phase: str) -> bool:
    """Is the model of that corpus, variant and phase meant to ship?"""
    model = training_plan()["models"].get(f"{corpus}-{variant}", {})
    return phase in model.get("ships", ("pretrained", "finetuned", "scratch"))


def checkpoints(
    *,
    corpus: Literal["bios", "wiki"] = "bios",
    variant: list[opt.Variant] = (),
    seed: opt.Seed = 0,
    out: Path | None = None,
    runs: Path = Path("runs/checkpoints"),
) -> None:
    """Retrain the checkpoints that ship, from nothing.

    Args:
        variant: Only this one; may be repeated.
        out: Folder for the checkpoints; by default where they ship from.
        runs: Folder for the runs themselves; a stopped command continues there.
    """
    retrain(corpus, variant or VARIANTS, seed, runs, out)


def retrain(
    corpus: str, variants: Sequence[str], seed: int, runs: Path, out: Path | None = None
) -> None:
    """Train the checkpoints of `corpus`; put them and their results where they ship from.

    The vanilla model is also finetuned without pretraining ("scratch"). With rope on bios come the
    small models of the chapter on masked language models.
    """
    from kt_course.chapters.masked_language_models import masked_pretraining as masked

    for variant in variants:
        for pretrain in [True, False] if variant == "vanilla" else [True]:
            scratch = "" if pretrain else "-scratch"
            folder = runs / f"{corpus}-{variant}{scratch}-seed{seed}"
            results = train_stages(corpus, variant, pretrain, seed, folder)
            how = "" if pretrain else " without pretraining"
            print(f"{corpus} {variant}{how}: dev {results[-1].dev}", flush=True)
            for phase in ("pretrained", "finetuned"):
                source, name = folder / f"{phase}.safetensors", phase if pretrain else "scratch"
                if source.exists() and ships(corpus, variant, name):
                    model, vocab, card = load_checkpoint(source)
                    ship(model, vocab, card, shipped.shipped_path(corpus, variant, name), out)
            if out is None and checkout_dir():
                for result in results:
                    name = f"{result.path.name}.json"
                    keep_result(result.path, checkout_dir() / "data" / "results" / name)
    if corpus == "bios" and "rope" in variants:
        for phase in masked.PHASES:
            state = runs / f"bios-rope-{phase}-seed{seed}.state"
            model, vocab, card = masked.pretrain_masked(phase, seed=seed, state=state)
            print(f"bios {phase}: dev {card['dev']['correct']} of {card['dev']['total']}")
            ship(model, vocab, card, shipped.shipped_path("bios", "rope", phase), out)


def train_stages(
    corpus: str, variant: str, pretrain: bool, seed: int, folder: Path
) -> list[Result]:
    """Train all stages of a model, or the one that is not planned, each resumable.

    Returns:
        The results; that of the last stage, or of finetuning the mean of the last ones, is in
        `folder`, the earlier ones are beside it.
    """
    model = training_plan()["models"].get(f"{corpus}-{variant}") if pretrain else None
    if model is None:
        recipe = shipped.RECIPE_OF[corpus]
        return [run_experiment(corpus, variant, recipe, pretrain, seed, folder, resume=True)]
    results, ends, names = [], [], model["stages"]
    n_averaged = model.get("average", 1)
    for number, name in enumerate(names, 1):
        stage = training_plan()["stages"][name]
        is_last = n_averaged == 1 and number == len(names)
        path = folder.parent / f"{corpus}-{stage['variant']}-stage{number}-seed{seed}"
        path = folder if is_last else path
        options = dict(overrides=stage.get("settings"), start=ends[-1] if ends else None)
        given = corpus, stage["variant"], stage["recipe"], True, seed, path
        results.append(run_experiment(*given, resume=True, **options))
        ends.append(path / "pretrained.safetensors")
    if n_averaged > 1:
        last = training_plan()["stages"][names[-1]]
        settings = last.get("settings", {}) | model.get("settings", {})
        given = corpus, last["variant"], last["recipe"], True, seed, folder
        options = dict(overrides=settings, init=ends[-n_averaged:])
        results.append(run_experiment(*given, resume=True, **options))
    return results


def ship(model, vocab, card: dict, target: Path, out: Path | None) -> None:
    """Write a checkpoint in half precision, to `out` if given."""
    path = target if out is None else out / target.name
    save_checkpoint(path, model, vocab, card, dtype=torch.float16)


def keep_result(folder: Path, target: Path) -> None:
    """Write a run's result and learning curve into one file."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    rows = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    write_json(target, {**result, "curve": [json.loads(row) for row in rows]})
