"""What ships with the project: trained checkpoints, results, learning curves.

data/checkpoints/CORPUS-VARIANT-PHASE.safetensors with its card; PHASE is pretrained, finetuned or
scratch (finetuned without pretraining), or one of the small models of the chapter on masked
language models. `kt checkpoints` trains them again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from kt_core.corpora.paths import checkpoints_dir, data_dir
from kt_core.models import GPT
from kt_core.runs.checkpoints import load_card, load_checkpoint
from kt_core.vocab import CharVocab

RECIPE_OF = {"bios": "quick", "wiki": "kt"}  # with which the shipped models are trained


def shipped_path(corpus: str, variant: str, phase: str) -> Path:
    """Where the shipped checkpoint of a corpus, variant and phase is, whether it exists or not."""
    return checkpoints_dir() / f"{corpus}-{variant}-{phase}.safetensors"


def shipped(
    corpus: str, variant: str, phase: str, device: str | torch.device = "cpu"
) -> tuple[GPT, CharVocab, dict]:
    """Load a shipped checkpoint.

    Returns:
        The model, its vocabulary, its card.

    Raises:
        ValueError: This one does not ship; the message names those that do.
    """
    path = shipped_path(corpus, variant, phase)
    if not path.exists():
        known = ", ".join(shipped_cards()) or "none"
        raise ValueError(
            f"no checkpoint ships for {corpus}, {variant}, {phase}; there are: {known}"
        )
    return load_checkpoint(path, device)


def shipped_cards() -> dict[str, dict]:
    """The cards of all shipped checkpoints, by the name of their file."""
    paths = sorted(checkpoints_dir().glob("*.safetensors"))
    return {path.stem: load_card(path) for path in paths}


def shipped_result(name: str) -> dict[str, Any]:
    """Read data/results/NAME.json, which a command of the project wrote."""
    return json.loads((data_dir() / "results" / f"{name}.json").read_text(encoding="utf-8"))


def learning_curve(corpus: str, variant: str, seed: int = 0) -> list[dict]:
    """Rows (phase, step, loss, dev, characters, …) of the trainings behind a shipped model.

    Later stages of pretraining continue to count the characters and seconds of the earlier ones.
    Rows of earlier stages come first, as far as they are of this variant. No rows if none ship.
    """
    folder, rows = data_dir() / "results", []
    last = f"{corpus}-{variant}-seed{seed}"
    stages = [path.stem for path in folder.glob(f"{corpus}-{variant}-stage*-seed{seed}.json")]
    stages.sort(key=lambda name: int(re.search(r"stage(\d+)", name)[1]))
    for name in [*stages, last] if (folder / f"{last}.json").is_file() else stages:
        result = shipped_result(name)
        before = costs_before(result.get("pretraining"))
        sums = {key: sum(cost[key] for cost in before) for key in ("characters", "seconds")}
        for row in result["curve"]:
            if row["phase"] == "pretrain":
                rows.append({**row, **{key: row[key] + sums[key] for key in sums}})
            elif name == last:
                rows.append(row)
    return rows


def costs_before(cost: dict | None) -> list[dict]:
    """The costs of the stages before a pretraining, latest first; each holds the one before it."""
    before = (cost or {}).get("before")
    return [before, *costs_before(before)] if before else []
