"""Checkpoints: weights as safetensors, and beside them a JSON card that describes them."""

import json
import os
import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kt_core.blocks import GPTConfig
from kt_core.corpora.files import read_json, read_plain_file, sha256, write_atomically, write_json
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
    """Write the weights, converted to `dtype` if given, to `path`, and the card beside it.

    `card` says what is worth knowing about the model; `config`, `vocab` and both digests are added.
    """
    from safetensors.torch import save

    if (size := model.config.vocab_size) != len(vocab):
        problem = f"the model has {size} characters, the vocabulary {len(vocab)}"
        raise ValueError(f"{problem}: they do not belong together")
    weights = {k: t.detach().to("cpu", dtype).contiguous() for k, t in model.state_dict().items()}
    if wrong := [name for name, t in weights.items() if not t.isfinite().all()]:
        problem = f"{wrong[0]} holds values that are not finite"
        raise FloatingPointError(f"{path}: not written, {problem}")
    data = save(weights)
    own = dict(config=asdict(model.config), vocab="".join(vocab.chars[2:]), sha256=sha256(data))
    write_atomically(path, data)
    write_card(path, {**(card or {}), **own})
    return Path(path)


def write_card(path: str | Path, card: dict) -> None:
    """Write the card of a checkpoint with a digest of all that it says."""
    card = json.loads(json.dumps(card))  # as it will be read
    write_json(card_path(path), {**card, "card_sha256": card_digest(card)})


def card_digest(card: dict) -> str:
    """Return the SHA-256 of a card without its own digest."""
    rest = {key: value for key, value in card.items() if key != "card_sha256"}
    return sha256(json.dumps(rest, sort_keys=True).encode())


def load_card(path: str | Path) -> dict:
    """Return the card of a checkpoint; CheckpointError if it is missing, no card, or edited."""
    where = card_path(path)
    try:
        card = read_json(where)
    except FileNotFoundError:
        hint = "a checkpoint is two files, the weights and this card"
        raise CheckpointError(f"{where} is missing: {hint}") from None
    except ValueError as error:
        raise CheckpointError(f"{error}: save the checkpoint again") from None
    if lacks := ", ".join(key for key in ("config", "vocab", "sha256") if key not in card):
        raise CheckpointError(f"{where} lacks {lacks}: save_checkpoint did not write it")
    if "card_sha256" not in card:
        warnings.warn(f"{where} has no digest of its own: it may have been edited", stacklevel=3)
    elif card["card_sha256"] != card_digest(card):
        raise CheckpointError(f"{where} was edited or is damaged: its own digest differs")
    return card


def load_checkpoint(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[GPT, CharVocab, dict]:
    """Load a model (float32, in eval mode), its vocabulary and its card.

    CheckpointError says what is wrong with which file: digests and sizes are compared before a
    model is built.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    card, data = load_card(path), read_plain_file(path)
    if (digest := sha256(data)) != card["sha256"]:
        problem = f"SHA-256 is {digest}, its card says {card['sha256']}"
        raise CheckpointError(f"{path}: {problem}: weights and card do not belong together")
    config = _parse(path, card, "config", lambda value: GPTConfig(**value))
    vocab = _parse(path, card, "vocab", CharVocab)
    if (size := config.vocab_size) != len(vocab):
        problem = f"vocab has {len(vocab)} (with the two special ones)"
        raise CheckpointError(f"{card_path(path)}: config says {size} characters, {problem}")
    weights = _read_weights(path, data)
    with torch.device("meta"):  # takes no memory
        shapes = {name: t.shape for name, t in GPT(config).state_dict().items()}
    for name in [*shapes, *(weights.keys() - shapes.keys())]:
        shape, expected = getattr(weights.get(name), "shape", None), shapes.get(name)
        if shape != expected:
            problem = f"{name} is {_size(shape)}, wanted: {_size(expected)}"
            raise CheckpointError(f"{path}: the weights do not fit the card's config: {problem}")
    model = GPT(config)
    model.load_state_dict(weights)
    return use_fast_paths(model).to(device).eval(), vocab, card


def _parse(path: Path, card: dict, key: str, read: Callable) -> Any:
    try:
        return read(card[key])
    except (TypeError, ValueError) as error:
        problem = str(error)
        for words in ("kt_core.blocks.GPTConfig() argument after **", "GPTConfig.", "__init__()"):
            problem = problem.replace(words, "").strip()
        raise CheckpointError(f"{card_path(path)}: {key}: {problem}") from None


def _read_weights(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from None
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} is {tensor.dtype}, not floating point")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return {name: tensor.float() for name, tensor in weights.items()}


def _size(shape: Sequence[int] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape))


def require_memory(config: GPTConfig) -> None:
    """Raise ValueError if this machine cannot hold the weights, gradients and optimiser states."""
    n_parameters = 12 * config.n_layer * config.n_embd**2
    n_parameters += (2 * config.vocab_size + config.block_size) * config.n_embd
    needed = 16 * n_parameters / 2**30  # four numbers of four bytes per parameter
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # Windows
        return
    held = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if needed > held:
        size = f"a model with n_layer {config.n_layer} and n_embd {config.n_embd}"
        raise ValueError(f"{size} needs {needed:,.0f} GiB to train; there are {held:,.0f}")
