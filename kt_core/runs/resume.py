"""What a stopped training needs to resume, in one safetensors file."""

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
NUMBERS = ("step", "history", "seconds", "characters")  # attributes of a trainer that are saved


class StateFile(Hook):
    """Save weights, optimisers, random state and history to a file, and resume from it.

    Args:
        path, resume: The file, and whether to continue from it if it is there.
        save_every: Steps between saves; 0 saves at the end and on Ctrl-C only.
        title: What the message about a stop calls the training.
        fixed: Settings beside the trainer's config that must be the same when it is resumed.
    """

    def __init__(self, path: str | Path, resume: bool, save_every: int, title: str, fixed: dict):
        self.path, self.resume, self.save_every = Path(path), resume, save_every
        self.title, self.fixed = title, fixed

    def on_start(self, trainer: Trainer) -> None:
        self.key = training_key(trainer, self.fixed)
        if self.resume and self.path.is_file():
            self.load(trainer)

    def on_step(self, trainer: Trainer) -> None:
        if trainer.step == trainer.total_steps or is_multiple(trainer.step, self.save_every):
            self.save(trainer)

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        if isinstance(error, Stopped):
            self.save(trainer)
            if distributed.is_first():
                where = f"step {trainer.step} of {trainer.total_steps}"
                print(f"\n{self.title} stopped at {where}; its state is saved, resume to continue")

    def save(self, trainer: Trainer) -> None:
        """Write the file; FloatingPointError if the loss is no longer finite."""
        from safetensors.torch import save

        if trainer.losses:
            trainer.mean_loss()
        if not distributed.is_first():
            return
        tensors = {f"model.{name}": t for name, t in trainer.model.state_dict().items()}
        for i, optimizer in enumerate(trainer.optimizers):
            for j, values in optimizer.state_dict()["state"].items():
                for name, value in values.items():
                    tensors[f"optimizer.{i}.{j}.{name}"] = torch.as_tensor(value)
        tensors["random.cpu"] = torch.get_rng_state()
        if trainer.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(trainer.device)
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        numbers = {name: getattr(trainer, name) for name in NUMBERS}
        numbers |= dict(losses=[float(loss) for loss in trainer.losses], key=self.key)
        text = json.dumps(numbers)
        metadata = {"state": text, "sha256": digest(text, tensors)}
        write_atomically(self.path, save(tensors, metadata=metadata))

    def load(self, trainer: Trainer) -> None:
        """Put the saved state back; ValueError if it is damaged or of another training."""
        numbers, tensors = read_state(self.path)
        if numbers["key"] != self.key:
            hint = "resume with the same ones, or start again elsewhere"
            problem = "was saved by a training with other settings or data"
            raise ValueError(f"{self.path} {problem}: {hint}")
        trainer.model.load_state_dict(select(tensors, "model."))
        for i, optimizer in enumerate(trainer.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in select(tensors, f"optimizer.{i}.").items():
                j, _, key = name.partition(".")
                state.setdefault(int(j), {})[key] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors["random.cpu"])
        if trainer.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], trainer.device)
        trainer.losses = [torch.tensor(loss, device=trainer.device) for loss in numbers["losses"]]
        for name in NUMBERS:
            setattr(trainer, name, numbers[name])


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the numbers and the tensors of a state; ValueError for a damaged or foreign file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        numbers = json.loads(metadata["state"])
    except (SafetensorError, KeyError, ValueError) as error:
        problem = f"damaged, or no state of a training ({type(error).__name__}: {error})"
        raise ValueError(f"{path} is {problem}: delete it and start again") from None
    if metadata.get("sha256") != digest(metadata["state"], tensors):
        raise ValueError(f"{path} is damaged (its SHA-256 differs): delete it and start again")
    return numbers, tensors


def training_key(trainer: Trainer, fixed: dict) -> str:
    """Return a digest of what must be the same for a resume: model, settings and data."""
    settings = {k: v for k, v in asdict(trainer.config).items() if k not in FREE}
    shapes = {name: list(t.shape) for name, t in trainer.model.state_dict().items()}
    data = trainer.data
    examples = [data.tokens(i, 0) for i in range(0, len(data), max(1, len(data) // 8))]
    parts = [str(getattr(trainer.model, "config", "")), shapes, settings, fixed, len(data)]
    return sha256(json.dumps([*parts, examples], sort_keys=True, default=str).encode())


def select(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, under the rest of their names."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def digest(text: str, tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of a text and all tensors, hexadecimal."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].numpy())
    return sha.hexdigest()
