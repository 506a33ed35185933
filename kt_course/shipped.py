"""The checkpoints that ship with the project: their names, how to load them, how they are made again.

data/checkpoints/CORPUS-VARIANT-PHASE.safetensors with its card; PHASE is pretrained, finetuned or scratch (finetuned
without pretraining), or one of the small models of `kt_course.chapters.masked_language_models.masked_pretraining`. Half-precision weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from kt_core.corpora.files import write_json
from kt_core.corpora.paths import checkout_dir, checkpoints_dir, data_dir
from kt_core.models import GPT
from kt_core.runs.checkpoints import card_path, load_checkpoint, save_checkpoint
from kt_core.runs.experiment import Result, run_experiment
from kt_core.vocab import CharVocab
from kt_course.chapters.masked_language_models.masked_pretraining import PHASES as MASKED
from kt_course.chapters.masked_language_models.masked_pretraining import pretrain_masked

PHASES = (*MASKED, "pretrained", "finetuned", "scratch")
RECIPE_OF = {"bios": "quick", "wiki": "kt"}
# Where one pretraining is not all: (variant, recipe, fields set otherwise) of each, on from the one before. Most were stopped
# while the rate was high; the next one, or a finetuning of its own, cools down. Ingredients of `kt-more` came one by one.
_NAMES = {"data.spans": "names"}
_GAPS = {**_NAMES, "data.ask": 0.0}
_HIGH = {"pretrain.lr": 1.4e-3, "pretrain.muon_lr": 7e-3}
_ALL_WORDS = {**_GAPS, **_HIGH, "data.drop": 0.0}
_ROPE = (
    ("rope", "kt", {}),
    ("rope", "kt-more", {**_ALL_WORDS, "pretrain.epochs": 29.77, "pretrain.final_fraction": 0.459}),
    ("rope", "kt-more", _GAPS),
)
_VANILLA = (
    *_ROPE,
    (
        "vanilla",
        "kt-more",
        {**_NAMES, **_HIGH, "pretrain.epochs": 9.302, "pretrain.final_fraction": 0.69},
    ),
    ("vanilla", "kt-more", {"pretrain.epochs": 20.0}),
)
_GENTLE = {"finetune.lr": 4e-5, "finetune.muon_lr": 2e-4}
SITTINGS: dict[tuple[str, str], tuple[tuple[str, str, dict], ...]] = {
    ("wiki", "rope"): (
        *_ROPE,
        ("rope", "kt-more", _NAMES),
        (
            "rope",
            "kt-more",
            {"pretrain.epochs": 20.0, "pretrain.lr": 7e-4, "pretrain.muon_lr": 3.5e-3},
        ),
    ),
    ("wiki", "vanilla"): _VANILLA,
    ("wiki", "perceiver_ar"): (
        _ROPE[0],
        (
            "perceiver_ar",
            "kt-more",
            {**_ALL_WORDS, "pretrain.epochs": 8.375, "pretrain.final_fraction": 0.665},
        ),
        (
            "perceiver_ar",
            "kt-more",
            {
                **_GAPS,
                "pretrain.epochs": 10.233,
                "pretrain.final_fraction": 0.591,
                "finetune.epochs": 11.0,
                "finetune.lr": 6e-4,
                "finetune.muon_lr": 3e-3,
            },
        ),
        (
            "perceiver_ar",
            "kt-more",
            {**_NAMES, **_HIGH, "pretrain.epochs": 10.233, "pretrain.final_fraction": 0.795},
        ),
        ("perceiver_ar", "kt-more", {"pretrain.epochs": 14.0}),
        (
            "perceiver_ar",
            "kt-more",
            {**_GENTLE, "pretrain.epochs": 46.0, "pretrain.lr": 1.2e-3, "pretrain.muon_lr": 6e-3},
        ),
        (
            "perceiver_ar",
            "kt-more",
            {**_GENTLE, "pretrain.epochs": 13.0, "pretrain.lr": 4e-4, "pretrain.muon_lr": 2e-3},
        ),
    ),
    ("wiki", "perceiver"): (
        *_VANILLA,
        ("perceiver", "kt-more", {**_HIGH, "pretrain.epochs": 26.0}),
    ),
}
# so many of the last pretrained models are averaged, and their mean finetuned with these fields set otherwise
AVERAGED: dict[tuple[str, str], tuple[int, dict]] = {
    ("wiki", variant): (2, _GENTLE) for variant in ("rope", "perceiver_ar")
}
# phases that ship where models are large; else pretrained, finetuned and scratch
SHIPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("wiki", variant): ("finetuned",) for variant in ("vanilla", "rope", "perceiver_ar")
}
SHIPS["wiki", "perceiver"] = ()


def ships(corpus: str, variant: str, phase: str) -> bool:
    """Whether the model of that corpus, variant and phase is meant to ship."""
    return phase in SHIPS.get((corpus, variant), PHASES)


def shipped_path(corpus: str, variant: str, phase: str) -> Path:
    """Where the shipped checkpoint of a corpus, variant and phase lies (whether it exists or not)."""
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {phase!r}")
    return checkpoints_dir() / f"{corpus}-{variant}-{phase}.safetensors"


def shipped(
    corpus: str, variant: str, phase: str, device: str | torch.device = "cpu"
) -> tuple[GPT, CharVocab, dict]:
    """Load a shipped checkpoint: (model, vocab, card). ValueError names those that ship if this one does not."""
    path = shipped_path(corpus, variant, phase)
    if not path.exists():
        there = sorted(p.stem for p in checkpoints_dir().glob("*.safetensors"))
        raise ValueError(
            f"no checkpoint ships for {corpus}, {variant}, {phase}; there are: {', '.join(there) or 'none'}"
        )
    return load_checkpoint(path, device)


def retrain(
    corpus: str, variants: Sequence[str], seed: int, runs: Path, out: Path | None = None
) -> None:
    """Train the checkpoints of `corpus` from nothing, put them in place and their results under data/results.

    One run a variant and sitting, resumable: called again it goes on where it was stopped. The vanilla model is also finetuned
    without pretraining ("scratch"). With rope on bios come the small models of `kt_course.chapters.masked_language_models.masked_pretraining`, minutes each.
    """
    for variant in variants:
        kinds = [True] + ([False] if variant == "vanilla" else [])
        for pretrain in kinds:
            folder = runs / f"{corpus}-{variant}{'' if pretrain else '-scratch'}-seed{seed}"
            *earlier, result = _sittings(corpus, variant, pretrain, seed, folder)
            print(
                f"{corpus} {variant}{'' if pretrain else ' without pretraining'}: dev {result.dev}",
                flush=True,
            )
            for phase in ("pretrained", "finetuned"):
                name = phase if pretrain else "scratch"
                source = folder / f"{phase}.safetensors"
                if source.exists() and ships(corpus, variant, name):
                    ship(
                        source,
                        shipped_path(corpus, variant, name)
                        if out is None
                        else out / f"{corpus}-{variant}-{name}.safetensors",
                    )
            if out is None and checkout_dir():
                for each in (*earlier, result):
                    keep_result(
                        each.path, checkout_dir() / "data" / "results" / f"{each.path.name}.json"
                    )
    if corpus == "bios" and "rope" in variants:
        for phase in MASKED:
            ship_masked(phase, seed, runs, out)


def _sittings(corpus: str, variant: str, pretrain: bool, seed: int, folder: Path) -> list[Result]:
    """The results of all sittings of a model, and of the finetuning of their mean: the last run lies in `folder`, the
    earlier ones beside it."""
    alone = ((variant, RECIPE_OF[corpus], {}),)
    planned = SITTINGS.get((corpus, variant), alone) if pretrain else alone
    averaged, gentle = AVERAGED.get((corpus, variant), (1, {})) if pretrain else (1, {})
    results, ends = [], []
    for number, (of, recipe, fields) in enumerate(planned, 1):
        last = averaged == 1 and number == len(planned)
        path = folder if last else folder.parent / f"{corpus}-{of}-sitting{number}-seed{seed}"
        start = ends[-1] if ends else None
        results.append(
            run_experiment(
                corpus, of, recipe, pretrain, seed, path, overrides=fields, resume=True, start=start
            )
        )
        ends.append(path / "pretrained.safetensors")
    if averaged > 1:
        results.append(
            run_experiment(
                corpus,
                of,
                recipe,
                True,
                seed,
                folder,
                overrides=fields | gentle,
                resume=True,
                init=ends[-averaged:],
            )
        )
    return results


def ship_masked(phase: str, seed: int, runs: Path, out: Path | None = None) -> None:
    """Train one of the small models of `kt_course.chapters.masked_language_models.masked_pretraining` and put it in place; called again it goes on."""
    target = (
        shipped_path("bios", "rope", phase)
        if out is None
        else out / f"bios-rope-{phase}.safetensors"
    )
    state = runs / f"bios-rope-{phase}-seed{seed}.state"
    model, vocab, card = pretrain_masked(phase, seed=seed, state=state)
    print(f"bios {phase}: dev {card['dev']['correct']} of {card['dev']['total']}", flush=True)
    save_checkpoint(target, model, vocab, card, dtype=torch.float16)


def ship(source: Path, target: Path) -> None:
    """Write a run's checkpoint in half precision, its card with it."""
    model, vocab, card = load_checkpoint(source)
    save_checkpoint(target, model, vocab, card, dtype=torch.float16)


def keep_result(folder: Path, target: Path) -> None:
    """A run's result and learning curve as one file of data/results."""
    told = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    rows = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    write_json(target, {**told, "curve": [json.loads(row) for row in rows]})


def kept_curve(corpus: str, variant: str, seed: int = 0) -> list[dict]:
    """Rows (phase, step, loss, dev, characters ...) of the trainings behind a shipped model; [] if none are kept.

    A later sitting counts characters and seconds of pretraining on from those before it, whose rows come before its
    own as far as they are of this variant.
    """
    results, rows = data_dir() / "results", []
    kept = [
        *sorted(results.glob(f"{corpus}-{variant}-sitting*-seed{seed}.json")),
        results / f"{corpus}-{variant}-seed{seed}.json",
    ]
    for path in kept:
        if not path.is_file():
            continue
        told = json.loads(path.read_text(encoding="utf-8"))
        before = sittings_before(told.get("pretraining"))
        on = {key: sum(cost[key] for cost in before) for key in ("characters", "seconds")}
        for row in told["curve"]:
            if row["phase"] == "pretrain":
                rows.append({**row, **{key: row[key] + on[key] for key in on}})
            elif path == kept[-1]:
                rows.append(row)
    return rows


def sittings_before(cost: dict | None) -> list[dict]:
    """What the sittings before a pretraining cost, the newest first: a cost holds the one before it."""
    before = (cost or {}).get("before")
    return [before, *sittings_before(before)] if before else []


def shipped_cards() -> dict[str, dict]:
    """The cards of all shipped checkpoints, by the name of their file."""
    return {
        p.stem: json.loads(card_path(p).read_text(encoding="utf-8"))
        for p in sorted(checkpoints_dir().glob("*.safetensors"))
    }
