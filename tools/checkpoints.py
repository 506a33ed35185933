"""`python tools/checkpoints.py`: train the checkpoints that ship again, from nothing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from cyclopts import App, Parameter

from kt_core.blocks import VARIANTS
from kt_core.corpora.files import write_json
from kt_core.corpora.paths import checkout_dir
from kt_core.runs.checkpoints import load_checkpoint, save_checkpoint
from kt_core.runs.experiment import Result, run_experiment
from kt_core.runs.recipes import Recipe
from kt_course import shipped
from kt_course.tools import options as opt


@dataclass(frozen=True)
class PlannedRun:
    """An entry of checkpoints.toml, which explains the fields."""

    corpus: str
    name: str = ""
    recipe: str | Recipe = ""
    variants: Sequence[str] = VARIANTS
    pretrain: bool = True
    ships: Mapping[str, str] = field(default_factory=dict)

    def folder_name(self, variant: str, seed: int) -> str:
        """Return the name of the run's folder and of its result in data/results."""
        return "-".join(filter(None, (self.corpus, variant, self.name, f"seed{seed}")))

    def train(self, variant: str, seed: int, runs: Path) -> Result:
        """Train one variant, or take the result of a finished run."""
        recipe = self.recipe or shipped.RECIPE_OF[self.corpus]
        folder = runs / self.folder_name(variant, seed)
        return run_experiment(
            self.corpus, variant, recipe, self.pretrain, seed, folder, resume=True
        )


def planned_runs() -> list[PlannedRun]:
    """Return the runs behind what ships."""
    text = Path(__file__).with_name("checkpoints.toml").read_text(encoding="utf-8")
    return [PlannedRun(**entry) for entry in tomllib.loads(text)["runs"]]


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

    With rope on bios come the small models of the chapter on masked language models.
    """
    from kt_course.chapters.masked_language_models import masked_pretraining as masked

    planned = [run for run in planned_runs() if run.corpus == corpus]
    for run, variant in [(r, v) for v in variants for r in planned if v in r.variants]:
        result = run.train(variant, seed, runs)
        name = run.folder_name(variant, seed)
        print(f"{name}: dev {result.dev}", flush=True)
        for source, phase in run.ships.items():
            model, vocab, card = load_checkpoint(result.path / f"{source}.safetensors")
            ship(model, vocab, card, shipped.shipped_path(corpus, variant, phase), out)
        if out is None and checkout_dir():
            keep_result(result.path, checkout_dir() / "data" / "results" / f"{name}.json")
    if corpus == "bios" and "rope" in variants:
        for phase in masked.PHASES:
            state = runs / f"bios-rope-{phase}-seed{seed}.state"
            model, vocab, card = masked.pretrain_masked(phase, seed=seed, state=state)
            print(f"bios {phase}: dev {card['dev']['correct']} of {card['dev']['total']}")
            ship(model, vocab, card, shipped.shipped_path("bios", "rope", phase), out)


def ship(model, vocab, card: dict, target: Path, out: Path | None) -> None:
    """Write a checkpoint in half precision, to `out` if given."""
    path = target if out is None else out / target.name
    save_checkpoint(path, model, vocab, card, dtype=torch.float16)


def keep_result(folder: Path, target: Path) -> None:
    """Write a run's result and learning curve into one file."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    rows = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    write_json(target, {**result, "curve": [json.loads(row) for row in rows]})


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    app = App(default_command=checkpoints, default_parameter=Parameter(negative=()))
    app(argv, result_action="return_value")


if __name__ == "__main__":
    main()
