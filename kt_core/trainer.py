"""Training: one loop, written once. Everything around it plugs in as a `Hook`."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import nn

from kt_core.datasets import batches
from kt_core.devices import choose_device
from kt_core.optim import make_optimizers
from kt_core.train_config import TrainConfig


class Hook:
    """What may be done around a training. An error that a method raises stops it."""

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first step: the place to load a state, or to exchange `trainer.forward`."""

    def on_gradients(self, trainer: "Trainer") -> None:
        """Before the gradients of a batch are clipped and used."""

    def on_step(self, trainer: "Trainer") -> None:
        """After a step has been counted (in `trainer.step`) and logged."""

    def on_log(self, trainer: "Trainer", row: dict) -> None:
        """After a row was added to the history."""

    def on_end(self, trainer: "Trainer", error: BaseException | None) -> None:
        """At the end, with the error that ended the training early, if one did."""


class Trainer:
    """Train `model` on `data`: batch, loss, gradients, step, and again.

    Args:
        model: `model(*batch)` returns (output, loss), as `GPT` does.
        data: A `datasets.TokenDataset`.
        evaluate: Called with the model every `eval_every` steps and at the end; its numbers join
            the history.
        hooks: What else happens around the steps, in this order.
    """

    def __init__(
        self,
        model: nn.Module,
        data,
        config: TrainConfig | None = None,
        *,
        evaluate: Callable[[nn.Module], dict] | None = None,
        hooks: Sequence[Hook] = (),
    ):
        self.model, self.data, self.config = model, data, config or TrainConfig()
        self.evaluate, self.hooks = evaluate, list(hooks)
        self.device = choose_device(self.config.device)
        if not len(data):
            raise ValueError("there is nothing to train on: the data has no examples")
        self.steps_per_epoch = math.ceil(len(data) / self.config.batch_size)
        steps_of_epochs = max(1, round(self.config.epochs * self.steps_per_epoch))
        self.total_steps = self.config.steps or steps_of_epochs
        self.step, self.characters, self.seconds = 0, 0, 0.0
        self.history: list[dict] = []
        self.losses: list = []  # of the steps since the last row of the history
        self.forward: Callable = model  # exchanged for other precisions or a compiled model

    def fit(self) -> list[dict]:
        """Train to the end; FloatingPointError when the loss is no longer finite.

        Returns:
            A row every `log_every` steps: step, epoch, mean loss in nats, rate (a share of the peak
            learning rate), characters seen (padding aside), seconds, and what `evaluate` returned.
        """
        error = None
        try:
            self.start()
            if self.losses:  # the state that was resumed has them: now a row may be due
                self.log_if_due()
            while self.step < self.total_steps:
                for batch in self.batches():
                    self.losses.append(self.train_step(batch))
                    self.step += 1
                    self.seconds = time.perf_counter() - self.began
                    self.log_if_due()
                    self.call_hooks("on_step")
        except BaseException as stopped:
            error = stopped
            raise
        finally:
            self.model.eval()
            self.call_hooks("on_end", error)
        return self.history

    def start(self) -> None:
        """Seed, move the model to its device, make the optimisers, let the hooks prepare."""
        torch.manual_seed(self.config.seed)
        self.model.to(self.device).train()
        self.model.zero_grad()
        self.optimizers = make_optimizers(self.model, self.config)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]
        self.call_hooks("on_start")
        self.began = time.perf_counter() - self.seconds

    def batches(self) -> Iterator[tuple]:
        """Yield the batches that are left of the current epoch, or of the whole training."""
        c = self.config
        epoch, done = divmod(self.step, self.steps_per_epoch)
        epoch_batches = batches(self.data, c.batch_size, c.seed, epoch, c.bucket, c.shuffle)
        return islice(epoch_batches, done, done + self.total_steps - self.step)

    def train_step(self, batch: tuple):
        """Take one optimiser step on a batch; return its loss, detached."""
        rate = self.config.rate(self.step, self.total_steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate
        self.characters += int((batch[0] != 0).sum())
        _, loss = self.forward(*(tensor.to(self.device) for tensor in batch))
        loss.backward()
        self.call_hooks("on_gradients")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def log_if_due(self) -> None:
        """Add a row to the history where this step asks for one."""
        c, last = self.config, self.step == self.total_steps
        evaluating = self.evaluate is not None and (last or is_multiple(self.step, c.eval_every))
        if not (evaluating or last or is_multiple(self.step, c.log_every)):
            return
        row = {
            "step": self.step,
            "epoch": round(self.step / self.steps_per_epoch, 3),
            "loss": self.mean_loss(),
            "rate": c.rate(self.step - 1, self.total_steps),
            "characters": self.characters,
            "seconds": round(self.seconds, 3),
        }
        if evaluating:  # without a trace in torch's random state
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                row |= self.evaluate(self.model.eval())
                self.model.train()
        self.history.append(row)
        self.losses.clear()
        self.call_hooks("on_log", row)

    def mean_loss(self) -> float:
        """Return the mean loss since the last row of the history; it must be finite."""
        loss = float(torch.stack(self.losses).mean())
        if not math.isfinite(loss):
            hint = f"lower the learning rate (now {self.config.lr})"
            raise FloatingPointError(f"the loss is {loss} at step {self.step}: {hint}")
        return loss

    def call_hooks(self, event: str, *details) -> None:
        """Tell every hook of an event."""
        for hook in self.hooks:
            getattr(hook, event)(self, *details)


def is_multiple(step: int, every: int) -> bool:
    """Is this one of every `every` steps? Never if that is 0."""
    return every > 0 and step % every == 0
