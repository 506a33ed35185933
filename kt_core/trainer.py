"""Training: batches in, a trained model and its history out. Can be stopped at any step and gone on with."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from kt_core._typing import Int, Tensor
from kt_core.corpora.files import interrupts_held, sha256
from kt_core.datasets import batches
from kt_core.models import GPT
from kt_core.optim import make_optimizers
from kt_core.runs import distributed
from kt_core.runs.devices import choose_device, mixed_precision
from kt_core.runs.progress import Progress
from kt_core.runs.resume import load_state, save_state

SCHEDULES = ("cosine", "linear", "constant")
OPTIMIZERS = ("adamw", "muon")
DECAYS = ("linear", "all")
PRECISIONS = ("auto", "fp32", "bf16", "native")


@dataclass(frozen=True)
class TrainConfig:
    """How to train; validated, ValueError names the field.

    epochs / steps       how long: passes over the data, or optimiser steps (steps win if both are given).
    batch_size           examples a step.
    learning_rate        peak rate of AdamW; muon_learning_rate that of Muon (optimizer="muon": blocks' matrices).
    weight_decay         decoupled; on the matrices of linear layers, or with decay_on "all" on everything but biases.
    schedule             "cosine" from the peak to final_fraction of it over `horizon` steps (all of them if None),
                         "linear" flat until cooldown_from, a fraction of all steps, then a straight line down, or
                         "constant". warmup_steps of linear rise come first.
    bucket, shuffle      see `datasets.batches`. The assignment does neither.
    parts                work through each batch in so many parts of like length, each as long as its longest example: the
                         whole batch's loss and gradient with less padding, where batches may not be of like length. Only
                         dropout draws otherwise.
    device               "auto": cuda, else mps, else cpu. precision "auto": bf16 on cuda, fp32 elsewhere;
                         "native": bf16 on CPUs too that multiply it themselves (`native_bf16`), fp32 on others.
    compile              torch.compile on cuda.
    eval_every, log_every, save_every   in steps; 0 means at the end only.
    """

    epochs: float = 1.0
    steps: int | None = None
    batch_size: int = 128
    learning_rate: float = 6e-3
    optimizer: str = "adamw"
    muon_learning_rate: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    decay_on: str = "linear"
    grad_clip: float = 1.0
    schedule: str = "cosine"
    warmup_steps: int = 0
    cooldown_from: float = 0.3
    final_fraction: float = 0.1
    horizon: int | None = None
    bucket: bool = True
    shuffle: bool = True
    parts: int = 1
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    eval_every: int = 0
    log_every: int = 20
    save_every: int = 0

    def __post_init__(self):
        def need(field: str, right: bool, what: str) -> None:
            if not right:
                raise ValueError(
                    f"TrainConfig.{field} must be {what}, not {getattr(self, field)!r}"
                )

        need("epochs", self.epochs > 0, "above 0")
        need("steps", self.steps is None or self.steps >= 1, "at least 1, or None to count epochs")
        need("batch_size", self.batch_size >= 1, "at least 1")
        need("parts", self.parts >= 1, "at least 1")
        for field in ("learning_rate", "muon_learning_rate", "grad_clip"):
            need(field, getattr(self, field) > 0, "above 0")
        for field in ("weight_decay", "warmup_steps", "eval_every", "log_every", "save_every"):
            need(field, getattr(self, field) >= 0, "0 or more")
        need("optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        need("decay_on", self.decay_on in DECAYS, f"one of {', '.join(DECAYS)}")
        need("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        need("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        need("final_fraction", 0 <= self.final_fraction <= 1, "in 0 ... 1")
        need("cooldown_from", 0 <= self.cooldown_from <= 1, "in 0 ... 1")
        need(
            "horizon",
            self.horizon is None or self.horizon >= 1,
            "at least 1, or None for all steps",
        )

    def rate(self, step: int, total: int) -> float:
        """Share of the peak learning rate for step 0 ... total - 1."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant":
            return 1.0
        horizon = self.horizon or total
        progress = min(1.0, step / max(1, horizon))
        if (
            self.schedule == "cosine"
        ):  # the assignment: a half cosine, cut off below at final_fraction
            return max(self.final_fraction, 0.5 * (1 + math.cos(math.pi * progress)))
        cooled = max(0.0, progress - self.cooldown_from) / max(1e-9, 1 - self.cooldown_from)
        return 1 - (1 - self.final_fraction) * cooled

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """`make_optimizers` for the model, by this config's fields."""
        return make_optimizers(
            model,
            self.optimizer,
            self.learning_rate,
            self.muon_learning_rate,
            self.betas,
            self.weight_decay,
            self.decay_on,
        )


def split(
    x: Int[Tensor, "B T"], y: Int[Tensor, "B T"], parts: int
) -> list[tuple[Int[Tensor, "b t"], Int[Tensor, "b t"], float]]:
    """A batch in `parts` of like length, cut to their longest examples: (x, y, weight) of each.

    The weight is the part's share of the characters asked for, so that the losses so weighted add up to the batch's mean
    loss. A part that asks for nothing is left out.
    """
    if parts == 1:
        return [(x, y, 1.0)]
    lengths, asked, found = (x != 0).sum(1), int((y != 0).sum()), []
    for rows in lengths.argsort(stable=True).chunk(parts):
        longest, here = int(lengths[rows].max()), int((y[rows] != 0).sum())
        if here:
            found.append((x[rows, :longest], y[rows, :longest], here / asked))
    return found


class Trainer:
    """Trains `model` on `data` (a dataset of `kt_core.datasets`).

    evaluate   called with the model every `eval_every` steps and at the end; its dict of numbers joins the history.
               It may draw random numbers from torch: the training does not notice.
    state      a file for what is needed to go on: weights, optimiser, random state, history; safetensors, replaced
               in one step. Written every `save_every` steps, at the end and on Ctrl-C. `fit(resume=True)` goes on
               from it, to the same weights bit for bit on a CPU.
    log        called with each row of the history as it comes.
    tensorboard  a folder for TensorBoard's event files (needs the `tensorboard` extra).

    Started by torchrun, several processes train it together on the same batches: see `kt_core.runs.distributed`.
    """

    def __init__(
        self,
        model: GPT,
        data,
        config: TrainConfig | None = None,
        *,
        evaluate: Callable[[GPT], dict] | None = None,
        state: str | Path | None = None,
        log: Callable[[dict], None] | None = None,
        tensorboard: str | Path | None = None,
        title: str = "training",
    ):
        self.model, self.data, self.config = model, data, config or TrainConfig()
        self.evaluate, self.state, self.log, self.tensorboard, self.title = (
            evaluate,
            state,
            log,
            tensorboard,
            title,
        )
        self.device = choose_device(self.config.device)
        self.steps_an_epoch = -(-len(data) // self.config.batch_size)
        self.total = self.config.steps or max(1, round(self.config.epochs * self.steps_an_epoch))

    def fit(self, resume: bool = False) -> list[dict]:
        """Train to the end; returns the history: rows of step, epoch, loss (nats), rate, characters, seconds.

        `characters` counts those that carry no padding, since the start. On KeyboardInterrupt the state is saved
        before it is raised again.
        """
        team = distributed.join()
        if team is None:
            return self._fit(resume)
        with team.training(self, resume):
            return self._fit(resume, team)

    def _fit(self, resume: bool, team: distributed.Team | None = None) -> list[dict]:
        """`fit` of a process alone, or of one of a team."""
        leads = team is None or team.leads
        c, model = self.config, self.model.to(self.device).train()
        torch.manual_seed(c.seed)
        optimizers = c.optimizers(model)
        step, history, seconds, characters, losses, key = 0, [], 0.0, 0, [], self._key()

        def load() -> dict | None:
            if resume and self.state and Path(self.state).is_file():
                return load_state(self.state, key, model, optimizers, self.device)
            return None

        if told := team.resumed(load, optimizers) if team else load():
            step, history, seconds, characters = (
                told[name] for name in ("step", "history", "seconds", "characters")
            )
            losses = [torch.tensor(value, device=self.device) for value in told["losses"]]
        forward = team.parallel(model) if team else model
        forward = torch.compile(forward) if c.compile and self.device.type == "cuda" else forward
        mixed = mixed_precision(c.precision, self.device)
        writer = self._writer() if leads else None
        bar = Progress(self.total, self.title, step)
        began = time.perf_counter() - seconds

        def save() -> None:
            told = dict(
                key=key,
                step=step,
                history=history,
                seconds=time.perf_counter() - began,
                characters=characters,
                losses=[float(value) for value in losses],
            )
            save_state(self.state, model, optimizers, told, self.device)

        def learn(x: Tensor, y: Tensor, share: float) -> Tensor:
            """Gradients of a batch, part by part; its loss. A team averages gradients once, with the last part."""
            parts, loss = split(x, y, c.parts), torch.zeros((), device=self.device)
            for number, (px, py, weight) in enumerate(parts, 1):
                px, py = (
                    px.to(self.device, non_blocking=True),
                    py.to(self.device, non_blocking=True),
                )
                with forward.no_sync() if team and number < len(parts) else nullcontext():
                    with mixed:
                        _, mean = forward(px, py)
                    mean = mean * (weight * share)
                    mean.backward()
                loss += mean.detach()
            return loss

        def after_step() -> None:
            """Evaluate, log and save where this step asks for it."""
            last = step == self.total
            evaluating = self.evaluate is not None and bool(
                last or (c.eval_every and step % c.eval_every == 0)
            )
            logging = evaluating or last or bool(c.log_every and step % c.log_every == 0)
            saving = bool(self.state) and bool(last or (c.save_every and step % c.save_every == 0))
            if logging or saving:
                loss = float(torch.stack(losses).mean())
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss} at step {step}: lower the learning rate (now {c.learning_rate})"
                    )
            if logging:
                row = dict(
                    step=step,
                    epoch=round(step / self.steps_an_epoch, 3),
                    loss=loss,
                    rate=c.rate(step - 1, self.total),
                    characters=characters,
                    seconds=round(time.perf_counter() - began, 3),
                )
                with self._random_kept():
                    if evaluating and leads:
                        model.eval()
                        row |= self.evaluate(model)
                        model.train()
                    history.append(row)
                    losses.clear()
                    if self.log and leads:
                        self.log(row)
                if writer:
                    for name, value in row.items():
                        writer.add_scalar(f"{self.title}/{name}", value, step)
                if evaluating or last or bar.bar is not None:
                    extra = "".join(f", {k} {v:.3g}" for k, v in row.items() if k not in _COMMON)
                    bar.note(f"loss {row['loss']:.3f}{extra}", row["seconds"])
            if saving and leads:
                save()

        try:
            if losses:  # stopped between a step and its evaluation
                after_step()
            while step < self.total:
                epoch, skip = divmod(step, self.steps_an_epoch)
                found = batches(
                    self.data, c.batch_size, c.seed, epoch, bucket=c.bucket, shuffle=c.shuffle
                )
                for x, y in islice(found, skip, skip + self.total - step):
                    with interrupts_held():  # a state saved amid a step could not be gone on with
                        rate = c.rate(step, self.total)
                        for optimizer in optimizers:
                            for group in optimizer.param_groups:
                                group["lr"] = group["base_lr"] * rate
                        characters += int((x != 0).sum())
                        share = 1.0
                        if team:
                            team.seed(c.seed, step)
                            x, y, share = team.share(x, y)
                        loss = learn(x, y, share)
                        torch.nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip)
                        for optimizer in optimizers:
                            optimizer.step()
                            optimizer.zero_grad(set_to_none=True)
                        step += 1
                        losses.append(team.mean(loss) if team else loss)
                    bar.update()
                    if team:
                        team.agree()
                    after_step()
        except KeyboardInterrupt:
            if self.state and leads:
                save()
                print(
                    f"\n{self.title} stopped at step {step} of {self.total}; its state is kept, resume to go on",
                    flush=True,
                )
            raise
        finally:
            bar.close()
            if writer:
                writer.close()
            model.eval()
        return history

    def _key(self) -> str:
        """What must be the same for a state to be gone on with: the model's shape, the settings, the data."""
        free = ("device", "precision", "compile", "eval_every", "log_every", "save_every")
        settings = {k: v for k, v in asdict(self.config).items() if k not in free}
        self.data.set_epoch(0)
        sample = [
            self.data.tokens(i) for i in range(0, len(self.data), max(1, len(self.data) // 8))
        ]
        told = json.dumps(
            [asdict(self.model.config), settings, len(self.data), sample], sort_keys=True
        )
        return sha256(told.encode())

    def _random_kept(self):
        """Whatever the block draws from torch's random state, the training goes on as if it had not."""
        return torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])

    def _writer(self):
        if not self.tensorboard:
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                "tensorboard is not installed: pip install 'kt-core[tensorboard]', or leave the folder out"
            ) from None
        return SummaryWriter(str(self.tensorboard))


_COMMON = ("step", "epoch", "loss", "rate", "characters", "seconds")
