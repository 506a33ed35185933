"""What a run refuses before it writes anything."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kt_core.blocks import GPTConfig
from kt_core.corpora.loading import Corpus
from kt_core.runs.checkpoints import load_average, load_checkpoint
from kt_core.runs.recipes import Recipe


def refuse_impossible(
    corpus: Corpus,
    recipe: Recipe,
    variant: str,
    pretrain: bool,
    inits: Sequence[str | Path],
    start: str | Path | None,
) -> None:
    """Raise ValueError for what would stop the run later."""
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


def refuse_other_run(path: Path, config: dict, resume: bool) -> bool:
    """Does the folder hold a run? ValueError unless it may be resumed with these settings."""
    if not (path / "config.json").exists():
        if leftover := next(path.glob("*.safetensors"), next(path.glob("*.state"), None)):
            raise ValueError(
                f"{path} holds {leftover.name} without a config.json: give another folder"
            )
        return False
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
    return True


def _flat(config: dict, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        inner = prefix if key == "recipe" else f"{prefix}{key}."
        flat |= _flat(value, inner) if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
