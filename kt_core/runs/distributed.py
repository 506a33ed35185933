"""One training in several processes, started by torchrun; gradients are averaged after each batch.

    torchrun --nproc-per-node 2 -m kt_course.tools.cli run --variant rope --out runs/two

Every process runs the same program on the same batches, and the first one alone writes (gloo on
CPUs, nccl on GPUs; Li et al. 2020, "PyTorch Distributed", section 3). Process r of n takes rows
r, r + n ... of each batch. Its loss counts by its share of the characters that have a loss, so
losses, gradients and weights are those of one process within rounding error. What the model draws
at random (dropout, shifted positions) differs: each process draws for its own rows.
"""

from __future__ import annotations

import atexit
import hashlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from kt_core.trainer import Hook, Trainer

_ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun


def processes() -> int:
    """Return how many processes train together; 1 for a process on its own."""
    return int(os.environ["WORLD_SIZE"]) if all(os.environ.get(n) for n in _ADDRESS) else 1


def rank() -> int:
    """Return the number of this process, 0 for the first one and for one on its own."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def is_first() -> bool:
    """Is this the process that writes and prints?"""
    return rank() == 0


def connect() -> None:
    """Join the other processes; does nothing for a process on its own."""
    if processes() == 1 or dist.is_initialized():
        return
    local, backend = int(os.environ.get("LOCAL_RANK", rank())), "gloo"
    if torch.cuda.is_available() and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(hours=2))
    atexit.register(dist.destroy_process_group)
    if not is_first():
        os.environ["KT_PROGRESS"] = "off"


def wait() -> None:
    """Wait until all processes are here."""
    anywhere(False)


def anywhere(flag: bool) -> bool:
    """Return whether `flag` is set in any of the processes."""
    if processes() == 1:
        return flag
    connect()
    count = torch.tensor(int(flag))
    dist.all_reduce(count)
    return bool(count)


def share(x: Tensor, y: Tensor, rank: int, size: int) -> tuple[tuple[Tensor, Tensor], float]:
    """Return the rows of process `rank` of a batch, and their weight.

    The average of the weighted losses over all processes is the batch's mean loss. A process without
    a character that has a loss gets a row all the same, of weight 0, since the others wait for it.
    """
    rows = (x != 0).sum(1).argsort(stable=True)[rank::size]  # similar lengths: nobody waits
    total, count = int((y != 0).sum()), int((y[rows] != 0).sum())
    if not count:
        rows = (y != 0).any(1).int().argmax()[None]
    return (x[rows], y[rows]), count * size / max(total, 1)


class DataParallel(Hook):
    """Train on this process' rows of each batch, with the gradients averaged over all processes."""

    def on_start(self, trainer: Trainer) -> None:
        connect()
        if trainer.device.type not in ("cpu", "cuda") or trainer.device.index is not None:
            raise ValueError(
                f"device {trainer.device} cannot train in several processes: cpu, cuda"
            )
        for tensor in trainer.model.state_dict().values():
            dist.broadcast(tensor, 0)
        split, step = trainer.micro_batches, trainer.train_step

        def split_share(batch):
            rows, weight = share(*batch, rank(), processes())
            return [(part, weight * w) for part, w in split(rows)]

        def averaged_step(batch):
            if (
                not is_first()
            ):  # its draws depend on seed, step and process alone, as after a resume
                key = f"{trainer.config.seed} {trainer.step} {rank()}".encode()
                torch.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
            return average(step(batch))

        trainer.micro_batches, trainer.train_step = split_share, averaged_step

    def on_gradients(self, trainer: Trainer) -> None:
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        vector_to_parameters(average(parameters_to_vector(gradients)), gradients)


def average(tensor: Tensor) -> Tensor:
    """Return the average of a tensor over the processes."""
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor)
    return tensor / processes()
