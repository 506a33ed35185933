"""What a stopped training needs to resume, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kt_core.corpora.files import sha256, write_atomically
from kt_core.runs import distributed
from kt_core.runs.hooks import Stopped
from kt_core.trainer import Hook, Trainer, is_multiple

FREE = ("device", "eval_every", "log_every")  # settings that may change between stop and resume


class StateFile(Hook):
    """Save weights, optimisers, random state and history, and resume from them.

    The file is replaced in one step, every `save_every` steps, at the end, and on Ctrl-C. On a CPU a
    resumed training ends with the same weights, bit for bit.

    Args:
        path: The file.
        resume: Continue from the file if there is one.
        save_every: In steps; 0 means at the end and on Ctrl-C only.
        title: What the message about a stop calls the training.
        options: Settings beside the trainer's config that must not change before a resume.
    """

    def __init__(self, path: str | Path, resume: bool, save_every: int, title: str, options: dict):
        self.path, self.resume, self.save_every = Path(path), resume, save_every
        self.title, self.options = title, options

    def on_start(self, trainer: Trainer) -> None:
        """Resume if there is something to resume."""
        if self.resume and self.path.is_file():
            load_state(self.path, trainer, self.options)

    def on_step(self, trainer: Trainer) -> None:
        """Save where this step asks for it."""
        if trainer.step == trainer.total_steps or is_multiple(trainer.step, self.save_every):
            self.save(trainer)

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Save after Ctrl-C, and say so."""
        if isinstance(error, Stopped):
            self.save(trainer)
            if distributed.is_first():
                where = f"step {trainer.step} of {trainer.total_steps}"
                print(f"\n{self.title} stopped at {where}; its state is saved, resume to continue")

    def save(self, trainer: Trainer) -> None:
        """Write the file, unless the loss is no longer a number (FloatingPointError)."""
        if trainer.losses:
            trainer.mean_loss()
        if distributed.is_first():
            save_state(self.path, trainer, self.options)


def save_state(path: Path, trainer: Trainer, options: dict) -> None:
    """Write everything to `path` in one step."""
    from safetensors.torch import save

    tensors = {f"model.{name}": t for name, t in trainer.model.state_dict().items()}
    for i, optimizer in enumerate(trainer.optimizers):
        for j, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"optimizer.{i}.{j}.{name}"] = torch.as_tensor(value)
    tensors["random.cpu"] = torch.get_rng_state()
    if trainer.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(trainer.device)
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    numbers = {
        name: getattr(trainer, name) for name in ("step", "history", "seconds", "characters")
    }
    losses = [float(loss) for loss in trainer.losses]
    text = json.dumps({**numbers, "losses": losses, "key": training_key(trainer, options)})
    metadata = {"state": text, "sha256": _digest(text, tensors)}
    write_atomically(path, save(tensors, metadata=metadata))


def load_state(path: Path, trainer: Trainer, options: dict) -> None:
    """Put the state at `path` back into the trainer, its model, its optimisers and torch.

    Raises:
        ValueError: The file is damaged, no state, or of a training with other settings or data.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        numbers = json.loads(metadata["state"])
    except (SafetensorError, KeyError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} is damaged, or no state of a training ({reason}): delete it and start again"
        ) from None
    if metadata.get("sha256") != _digest(metadata["state"], tensors):
        raise ValueError(f"{path} is damaged (its SHA-256 differs): delete it and start again")
    if numbers.pop("key") != training_key(trainer, options):
        raise ValueError(
            f"{path} was saved by a training with other settings or data: "
            "resume with the same ones, or start again elsewhere"
        )
    weights = {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
    trainer.model.load_state_dict(weights)
    for i, optimizer in enumerate(trainer.optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{i}."):
                _, _, j, key = name.split(".", 3)
                state.setdefault(int(j), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    torch.set_rng_state(tensors["random.cpu"])
    if trainer.device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], trainer.device)
    losses = numbers.pop("losses")
    trainer.losses = [torch.tensor(loss, device=trainer.device) for loss in losses]
    vars(trainer).update(numbers)


def training_key(trainer: Trainer, options: dict) -> str:
    """Return a digest of what must be the same for a resume: model, settings and data."""
    settings = {k: v for k, v in asdict(trainer.config).items() if k not in FREE}
    shapes = {name: list(t.shape) for name, t in trainer.model.state_dict().items()}
    data: Any = trainer.data
    examples = [data.tokens(i, 0) for i in range(0, len(data), max(1, len(data) // 8))]
    parts = [str(getattr(trainer.model, "config", "")), shapes, settings, options, len(data)]
    return sha256(json.dumps([*parts, examples], sort_keys=True, default=str).encode())


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy())
    return digest.hexdigest()
