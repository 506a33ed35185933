"""One training in several processes, started by torchrun: each step's batch is split, the gradients are averaged.

    torchrun --nproc-per-node 2 -m kt_course.tools.cli run --variant rope --out runs/two        gloo on CPUs, nccl on GPUs

DistributedDataParallel (Li et al. 2020, "PyTorch Distributed", section 3). All processes draw the same batches as one
process would, and process r of n takes rows r, r + n ... of each. The loss is normalised over the asked characters of
the whole batch, not of a process' rows, so that losses, gradients and weights are those of one process up to rounding
(Muon, which works in bfloat16, makes more of a rounding than AdamW does).
What still differs: whatever the model itself draws at random. With dropout, or with `random_offset` of the learned
positions, each process draws for its own rows, so single steps are not those of one process, though the distribution
is the same. Each process but the first draws from (seed, step, rank) alone: a training that was stopped and is gone on
with in as many processes ends with the weights of one that was not.

The first process writes, logs and evaluates. In `run_experiment` it alone looks at files; the others are told what to
train (`led`). Called on its own, `Trainer.fit` expects the same arguments in all processes, and its history lacks in the
others what `evaluate` found. Ctrl-C ends all of them at the same step.
"""

from __future__ import annotations

import atexit
import copy
import functools
import hashlib
import inspect
import io
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from kt_core._typing import Int, Tensor

_ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells each process
_PATIENCE = timedelta(hours=2)  # for a process that waits while the first evaluates


def launched() -> bool:
    """Was this process started as one of several that train together?"""
    return all(os.environ.get(name) for name in _ADDRESS) and int(os.environ["WORLD_SIZE"]) > 1


def processes() -> int:
    """How many processes train together; 1 for a process alone."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def first() -> bool:
    """Is this the process that writes and prints? True for a process alone."""
    return not launched() or os.environ["RANK"] == "0"


def join() -> Team | None:
    """The processes that train together, this one among them; None for a process alone, which needs nothing of this."""
    if (team := _TEAM.get()) is not None:
        return team
    if not dist.is_available():
        if launched():
            raise ValueError("this build of torch cannot train in several processes: start without torchrun")
        return None
    if not dist.is_initialized():
        if not launched():
            return None
        backends = "gloo"
        local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
        if torch.cuda.is_available() and local < torch.cuda.device_count():
            torch.cuda.set_device(local)
            backends = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backends, timeout=_PATIENCE)
        atexit.register(dist.destroy_process_group)
        # of parameters that are one row; harmless
        warnings.filterwarnings("ignore", "Grad strides do not match")
        if dist.get_rank():
            os.environ["KT_PROGRESS"] = "off"
    return Team() if dist.get_world_size() > 1 else None


@dataclass(frozen=True)
class _Job:
    """A training that the first process has begun, as the others need it."""

    model: nn.Module
    data: Any
    config: Any
    evaluates: bool
    state: str | Path | None
    title: str
    resume: bool


@dataclass(frozen=True)
class _End:
    """The first process is done: with `result`, or with an exit status other than 0."""

    status: int
    result: Any = None


class Team:
    """The processes that train together, as one of them sees it.

    `busy` is True amid a training, and stays so if an error ends it that the others do not share.
    """

    def __init__(self):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.group = dist.new_group(backend="gloo", timeout=_PATIENCE)  # gradients may go another way
        self.busy = self.interrupted = self.leading = False

    @property
    def leads(self) -> bool:
        """Is this the process that writes, logs and evaluates?"""
        return self.rank == 0

    # ------------------------------------------------------------ around a training

    @contextmanager
    def training(self, trainer, resume: bool) -> Iterator[None]:
        """Around a training: ValueError for a device that cannot serve; Ctrl-C waits until the processes `agree`."""
        device = trainer.device
        if device.type not in ("cpu", "cuda") or device.index is not None:
            raise ValueError(f"device {device} cannot train in several processes: give --device cpu or cuda")
        if device.type == "cuda" and int(os.environ.get("LOCAL_RANK", 0)) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise ValueError(f"more processes than GPUs: torchrun --nproc-per-node {count}, or --device cpu")
        if self.leading:
            t, model = trainer, copy.deepcopy(trainer.model).cpu()
            self._say(_Job(model, t.data, t.config, t.evaluate is not None, t.state, t.title, resume))
        self.busy = True
        listening = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, self._interrupt) if listening else None
        try:
            yield
            self.busy = False
        except (KeyboardInterrupt, FloatingPointError):  # the same in all processes
            self.busy = False
            raise
        finally:
            if listening:
                # torchrun, interrupted too, sends one more while the first process is putting the training away
                ends = self.interrupted and launched()
                signal.signal(signal.SIGINT, signal.SIG_IGN if ends else before)

    def _interrupt(self, *_) -> None:
        self.interrupted = True

    def agree(self) -> None:
        """KeyboardInterrupt in all processes at the same step, if one of them was interrupted."""
        came = torch.tensor(int(self.interrupted))
        dist.all_reduce(came, dist.ReduceOp.MAX, group=self.group)
        if came:
            self.interrupted = True
            raise KeyboardInterrupt

    def resumed(self, load: Callable[[], dict | None], optimizers) -> dict | None:
        """What `load` gives in the first process, for all; optimisers become the first one's, and errors are shared."""
        box: list[Any] = [None, None]
        if self.leads:
            try:
                told = load()
                states = [optimizer.state_dict() for optimizer in optimizers] if told else None
                file = io.BytesIO()
                torch.save(states, file)
                box = [(told, file.getvalue()), None]
            except Exception as error:
                box = [None, error]
        dist.broadcast_object_list(box, group=self.group)
        if box[1] is not None:
            self.busy = False
            raise box[1]
        told, file = box[0]
        if told and not self.leads:
            for optimizer, state in zip(
                optimizers, torch.load(io.BytesIO(file), map_location="cpu"), strict=True
            ):
                optimizer.load_state_dict(state)
        return told

    # ------------------------------------------------------------ within a step

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model`, with the first process' weights everywhere, and gradients averaged over the processes."""
        empty = any(p.numel() == 0 for p in model.parameters())  # no loss depends on such a one
        wrapper = nn.parallel.DistributedDataParallel
        # torch 2.13 warns of the second name, 2.6 lacks the first
        names = ("forward_sync_buffers", "broadcast_buffers")
        known = inspect.signature(wrapper).parameters
        still = {next(name for name in names if name in known): False}  # buffers are never written to
        return wrapper(model, find_unused_parameters=empty, **still)

    def seed(self, seed: int, step: int) -> None:
        """Random draws of this step; the first process goes on with its own, which the state keeps."""
        if not self.leads:
            digest = hashlib.sha256(f"{seed} {step} {self.rank}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:7], "big"))

    def share(
        self, x: Int[Tensor, "B T"], y: Int[Tensor, "B T"]
    ) -> tuple[Int[Tensor, "b T"], Int[Tensor, "b T"], float]:
        """This process' rows of a batch, and what its mean loss counts: asked characters here * size / asked in all.

        The average of the losses so weighted is the mean loss of the whole batch. A process without an asked
        character gets a row all the same, which counts 0: its part in the averaging is waited for.
        """
        lengths = (x != 0).sum(1)
        # like lengths: nobody waits for the others
        mine = lengths.argsort(stable=True)[self.rank :: self.size]
        asked, here = int((y != 0).sum()), int((y[mine] != 0).sum())
        if not here:
            mine = (y != 0).any(1).int().argmax()[None]
        return x[mine], y[mine], here * self.size / max(asked, 1)

    def mean(self, loss: Tensor) -> Tensor:
        """The average of a number over the processes."""
        loss = loss.detach().clone()
        dist.all_reduce(loss)
        return loss / self.size

    # ------------------------------------------------------------ the first process and the others

    def lead(self, work: Callable[[], Any]) -> Any:
        """Do `work`; the others follow its trainings and its end."""
        self.leading = True
        try:
            result = work()
        except BaseException as error:
            if not self.busy:  # else the others are amid a step: torchrun ends them when this process is gone
                self._say(_End(130 if isinstance(error, KeyboardInterrupt) else 1))
            raise
        self._say(_End(0, result))
        return result

    def follow(self) -> Any:
        """Take part in the first process' trainings; its result, or SystemExit where an error ended it."""
        from kt_core.trainer import Trainer

        listening = threading.current_thread() is threading.main_thread()
        # between trainings the first process answers for all
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if listening else None
        while not isinstance(told := self._say(None), _End):
            watch = (lambda model: {}) if told.evaluates else None
            trainer = Trainer(
                told.model, told.data, told.config, evaluate=watch, state=told.state, title=told.title
            )
            try:
                trainer.fit(told.resume)
            except BaseException:  # what the processes share, the first one answers for too
                if self.busy:
                    raise
        if told.status:
            raise SystemExit(told.status)
        if listening:
            signal.signal(signal.SIGINT, before)
        return told.result

    def _say(self, told: Any) -> Any:
        """What the first process says, in all of them."""
        box = [told]
        dist.broadcast_object_list(box, group=self.group)
        return box[0]


_TEAM: ContextVar[Team | None] = ContextVar("team", default=None)  # of the work that is being led


def led(work: Callable) -> Callable:
    """`work` is done by the first process alone; the others take part in its trainings and return its result."""

    @functools.wraps(work)
    def done(*args, **kw):
        team = None if _TEAM.get() is not None else join()
        if team is None:
            return work(*args, **kw)
        token = _TEAM.set(team)
        try:
            return team.lead(lambda: work(*args, **kw)) if team.leads else team.follow()
        finally:
            _TEAM.reset(token)

    return done
