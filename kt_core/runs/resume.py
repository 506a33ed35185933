"""What a stopped training needs to resume, in one file."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kt_core.corpora.files import sha256, write_atomically
from kt_core.runs import distributed
from kt_core.runs.hooks import Stopped
from kt_core.trainer import Hook, Trainer, is_multiple

FREE = ("device", "eval_every", "log_every")  # settings that may change between stop and resume
NUMBERS = ("step", "history", "seconds", "characters")  # attributes of a trainer that are saved


class StateFile(Hook):
    """Save weights, optimisers, random state and history to a file, and resume from it if asked.

    Args:
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
        if trainer.losses:
            trainer.mean_loss()
        if not distributed.is_first():
            return
        numbers = {name: getattr(trainer, name) for name in NUMBERS}
        numbers |= dict(losses=[float(loss) for loss in trainer.losses], key=self.key)
        state = dict(numbers=json.dumps(numbers), model=trainer.model.state_dict())
        state["optimizers"] = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
        state["random"] = torch.get_rng_state()
        if trainer.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(trainer.device)
        torch.save(state, buffer := io.BytesIO())
        data = buffer.getvalue()
        write_atomically(self.path, sha256(data).encode() + data)

    def load(self, trainer: Trainer) -> None:
        """Put the saved state back; ValueError if it is damaged or of another training."""
        numbers, state = read_state(self.path)
        if numbers["key"] != self.key:
            hint = "resume with the same ones, or start again elsewhere"
            problem = "was saved by a training with other settings or data"
            raise ValueError(f"{self.path} {problem}: {hint}")
        trainer.model.load_state_dict(state["model"])
        for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": saved})
        torch.set_rng_state(state["random"])
        if trainer.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], trainer.device)
        trainer.losses = [torch.tensor(loss, device=trainer.device) for loss in numbers["losses"]]
        for name in NUMBERS:
            setattr(trainer, name, numbers[name])


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the numbers of a state, and all of it; ValueError for a damaged or foreign file."""
    data = path.read_bytes()
    digest, data = data[:64], data[64:]
    if digest != sha256(data).encode():
        problem = "is damaged, or no state of a training (its SHA-256 differs)"
        raise ValueError(f"{path} {problem}: delete it and start again")
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return json.loads(state["numbers"]), state


def training_key(trainer: Trainer, fixed: dict) -> str:
    """Return a digest of what must be the same for a resume: model, settings and data."""
    settings = {k: v for k, v in asdict(trainer.config).items() if k not in FREE}
    shapes = {name: list(t.shape) for name, t in trainer.model.state_dict().items()}
    data = trainer.data
    examples = [data.tokens(i, 0) for i in range(0, len(data), max(1, len(data) // 8))]
    parts = [str(getattr(trainer.model, "config", "")), shapes, settings, fixed, len(data)]
    return sha256(json.dumps([*parts, examples], sort_keys=True, default=str).encode())
