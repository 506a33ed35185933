"""Checkpoints: weights as safetensors, and beside them a JSON card that describes them."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kt_core.blocks import GPTConfig
from kt_core.corpora.files import sha256, write_atomically, write_json
from kt_core.models import GPT
from kt_core.runs import distributed
from kt_core.runs.fast_paths import use_fast_paths
from kt_core.vocab import CharVocab


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not ours."""


def card_path(path: str | Path) -> Path:
    """Return where the card of a checkpoint is."""
    return Path(f"{path}.json")


def hardware(device: torch.device | str = "cpu") -> str:
    """Describe the machine: processor or GPU, threads, torch version, processes if several."""
    where = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    if torch.device(device).type == "cuda":
        where = torch.cuda.get_device_name()
    count = distributed.processes()
    return f"{where}, torch {torch.__version__}" + (f", {count} processes" if count > 1 else "")


def save_checkpoint(
    path: str | Path,
    model: GPT,
    vocab: CharVocab,
    card: dict | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write the weights to `path` and the card beside it, each in one step; returns `path`.

    Args:
        card: What to say about the model; `config`, `vocab` and `sha256` are added.
        dtype: Converts the weights (torch.float16 for shipping).

    Raises:
        ValueError: The vocabulary is not the model's.
    """
    from safetensors.torch import save

    if len(vocab) != model.config.vocab_size:
        raise ValueError(
            f"the model has {model.config.vocab_size} characters, the vocabulary {len(vocab)}: "
            "they do not belong together"
        )
    weights = {k: t.detach().to("cpu", dtype).contiguous() for k, t in model.state_dict().items()}
    data = save(weights)
    own = {
        "config": dataclasses.asdict(model.config),
        "vocab": "".join(vocab.chars[2:]),
        "sha256": sha256(data),
    }
    write_atomically(path, data)
    write_json(card_path(path), {**(card or {}), **own})
    return Path(path)


def load_card(path: str | Path) -> dict:
    """Return the card of a checkpoint; CheckpointError if it is missing or not a card."""
    where = card_path(path)
    try:
        card = json.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{where} is missing: a checkpoint is two files, the weights and this card"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON ({error}): save the checkpoint again") from None
    keys = ("config", "vocab", "sha256")
    missing = [key for key in keys if not isinstance(card, dict) or key not in card]
    if missing:
        raise CheckpointError(
            f"{where} lacks {', '.join(missing)}: save_checkpoint did not write it"
        )
    return card


def load_checkpoint(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[GPT, CharVocab, dict]:
    """Load a model (float32, in eval mode), its vocabulary and its card.

    Raises:
        CheckpointError: It says what is wrong with which file. The SHA-256 of the weights is
            compared with the card's before anything is built from them.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    card, data = load_card(path), path.read_bytes()
    if (digest := sha256(data)) != card["sha256"]:
        raise CheckpointError(
            f"{path}: SHA-256 is {digest}, its card says {card['sha256']}: "
            "weights and card do not belong together"
        )
    config = _parse(path, card, "config", lambda value: GPTConfig(**value))
    vocab = _parse(path, card, "vocab", CharVocab)
    if len(vocab) != config.vocab_size:
        raise CheckpointError(
            f"{card_path(path)}: config says {config.vocab_size} characters, "
            f"vocab has {len(vocab)} (with the two special ones)"
        )
    model = GPT(config)
    try:
        model.load_state_dict(_read_weights(path, data))
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights do not fit the card's config: {error}"
        ) from None
    return use_fast_paths(model).to(device).eval(), vocab, card


def _parse(path: Path, card: dict, key: str, read: Callable) -> Any:
    try:
        return read(card[key])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{card_path(path)}: {key}: {error}") from None


def _read_weights(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = {name: tensor.float() for name, tensor in load(data).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from None
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return weights
