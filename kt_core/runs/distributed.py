"""One training in several processes, started by torchrun; gradients are averaged after each batch.

    torchrun --nproc-per-node 2 -m kt_course.tools.cli run --variant rope --out runs/two

Every process runs the same program, and the first one alone writes (Li et al. 2020, "PyTorch
Distributed", section 3). Process r of n takes rows r, r + n ... of each batch. Its loss counts by
its share of the characters that have a loss, so all results are those of one process.
"""

import atexit
import hashlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from kt_core.trainer import Hook, Trainer

ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun


def processes() -> int:
    """Return how many processes train together; 1 for a process on its own."""
    return int(os.environ["WORLD_SIZE"]) if all(os.environ.get(n) for n in ADDRESS) else 1


def is_first() -> bool:
    """Is this the process that writes and prints?"""
    return processes() == 1 or os.environ["RANK"] == "0"


def anywhere(flag: bool = False) -> bool:
    """Return whether `flag` is set in any process; waits for all of them."""
    if processes() == 1:
        return flag
    if not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group(backend, timeout=timedelta(hours=2))
        atexit.register(dist.destroy_process_group)
        if not is_first():
            os.environ["KT_PROGRESS"] = "off"
    count = torch.tensor(int(flag))
    dist.all_reduce(count)
    return bool(count)


def average(tensor: Tensor) -> Tensor:
    """Return the average of a tensor over the processes."""
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor)
    return tensor / dist.get_world_size()


def share(x: Tensor, y: Tensor, rank: int, size: int) -> tuple[tuple[Tensor, Tensor], float]:
    """Return the rows of process `rank` of a batch, and the weight of their mean loss.

    Without a character that has a loss it is a row of weight 0: the others wait for its gradients.
    """
    rows = (x != 0).sum(1).argsort(stable=True)[rank::size]  # similar lengths: nobody waits
    total, count = int((y != 0).sum()), int((y[rows] != 0).sum())
    if not count:
        rows = (y != 0).any(1).int().argmax()[None]
    return (x[rows], y[rows]), count * size / max(total, 1)


class DataParallel(Hook):
    """Train on this process' rows of each batch, with the gradients averaged over all processes."""

    def on_start(self, trainer: Trainer) -> None:
        if trainer.device.type not in ("cpu", "cuda") or trainer.device.index is not None:
            raise ValueError(f"{trainer.device} cannot train in several processes: use cpu or cuda")
        if trainer.device.type == "cuda" and processes() > (count := torch.cuda.device_count()):
            raise ValueError(f"more processes than GPUs: torchrun --nproc-per-node {count}")
        for tensor in filter(Tensor.numel, trainer.model.state_dict().values()):
            dist.broadcast(tensor, 0)
        rank, size = dist.get_rank(), dist.get_world_size()
        forward, step = trainer.forward, trainer.train_step

        def forward_share(x, y):
            rows, weight = share(x, y, rank, size)
            output, loss = forward(*rows)
            return output, loss * weight

        def averaged_step(batch):
            if rank:  # draws depend on seed, step and process alone, so a resume repeats them
                key = f"{trainer.config.seed} {trainer.step} {rank}".encode()
                torch.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
            return average(step(batch))

        trainer.forward, trainer.train_step = forward_share, averaged_step

    def on_gradients(self, trainer: Trainer) -> None:
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        vector_to_parameters(average(parameters_to_vector(gradients)), gradients)
