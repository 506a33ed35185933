"""What a run refuses before it writes anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kt_core.corpora.files import read_json
from kt_core.corpora.loading import Corpus
from kt_core.runs.checkpoints import require_memory
from kt_core.runs.recipes import Recipe


def refuse_impossible(corpus: Corpus, recipe: Recipe, variant: str, seed: int) -> None:
    """Raise ValueError for what would stop the run later."""
    require_memory(recipe.model_config(len(corpus.vocab), variant))
    recipe.phase("pretrain", seed=seed)
    if not corpus.train:
        raise ValueError(f"corpus {corpus.name} has no train pairs: nothing to finetune on")


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
    before = _flat(read_json(path / "config.json"))
    changes = [
        f"{key} was {before.get(key)!r}, now {value!r}"
        for key, value in _flat(config).items()
        if before.get(key) != value
    ]
    if changes:
        changes[3:] = [f"and {len(changes) - 3} more"] if len(changes) > 3 else []
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
