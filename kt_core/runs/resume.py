"""What a stopped training needs to go on, in one safetensors file: weights, optimisers, randomness, steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from kt_core._typing import Tensor
from kt_core.corpora.files import write_atomically


def save_state(
    path: str | Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    told: dict,
    device: torch.device,
) -> None:
    """Write everything to `path` in one step. `told` holds what is no tensor, as JSON can say it."""
    from safetensors.torch import save

    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for j, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{name}": torch.as_tensor(t) for name, t in values.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    text = json.dumps(told)
    write_atomically(path, save(tensors, metadata={"state": text, "sha256": _digest(text, tensors)}))


def load_state(
    path: str | Path,
    key: str,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    device: torch.device,
) -> dict:
    """Put the state at `path` back into model, optimisers and random state; returns `told` of `save_state`.

    ValueError names a file that is damaged, no state, or of a training whose `key` is another.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = json.loads(about["state"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no state of a training, or damaged ({type(error).__name__}: {error}): "
            "remove it and start anew"
        ) from None
    if "sha256" in about and about["sha256"] != _digest(about["state"], tensors):
        raise ValueError(f"{path} is damaged (its SHA-256 is another): remove it and start anew")
    if told["key"] != key:
        raise ValueError(
            f"{path} was saved by a training with other settings or data: "
            "resume with the same ones, or start anew elsewhere"
        )
    model.load_state_dict({k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")})
    for i, optimizer in enumerate(optimizers):
        found: dict[int, dict[str, Tensor]] = {}
        for name, t in tensors.items():
            if name.startswith(f"optimizer.{i}."):
                _, _, j, what = name.split(".", 3)
                found.setdefault(int(j), {})[what] = t
        optimizer.load_state_dict({**optimizer.state_dict(), "state": found})
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
    return told


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of all that a state says, hexadecimal."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy())
    return digest.hexdigest()
