"""What ships with the project: trained checkpoints, results, learning curves.

data/checkpoints/CORPUS-VARIANT-PHASE.safetensors with its card; PHASE is pretrained, finetuned or
scratch (finetuned without pretraining), or one of the small models of the chapter on masked
language models. `tools/checkpoints.py` trains them again.
"""

import json
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
    """Load the model, vocabulary and card of a shipped checkpoint; ValueError if none ships."""
    path = shipped_path(corpus, variant, phase)
    if not path.exists():
        names = ", ".join(shipped_cards()) or "none"
        raise ValueError(
            f"no checkpoint ships for {corpus}, {variant}, {phase}; there are: {names}"
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
    """Rows (phase, step, loss, dev, …) of the run that trained a shipped model; or none."""
    name = f"{corpus}-{variant}-seed{seed}"
    is_there = (data_dir() / "results" / f"{name}.json").is_file()
    return shipped_result(name)["curve"] if is_there else []
