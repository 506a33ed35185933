"""What plugs into the training loop from outside: each a `Hook` of `kt_core.trainer`."""

import signal
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from kt_core.runs import distributed
from kt_core.runs.progress import progress_bar
from kt_core.trainer import Hook, Trainer


class MicroBatches(Hook):
    """Compute each batch in `parts` of similar length: same gradient and memory, less padding."""

    def __init__(self, parts: int):
        self.parts = parts

    def on_start(self, trainer: Trainer) -> None:
        forward = trainer.forward

        def forward_parts(x, y):
            losses = [forward(*part)[1] * weight for part, weight in split_batch(x, y, self.parts)]
            return None, torch.stack(losses).sum()

        trainer.forward = forward_parts


def split_batch(x: Tensor, y: Tensor, parts: int) -> list[tuple[tuple[Tensor, Tensor], float]]:
    """Split a batch by length into parts ((x, y), weight), each cut to its longest example.

    The weight is the part's share of the characters that have a loss, so the weighted losses add up
    to the batch's mean loss. A part without such characters is left out.
    """
    lengths, total, split = (x != 0).sum(1), int((y != 0).sum()), []
    for rows in lengths.argsort(stable=True).chunk(parts):
        longest, count = int(lengths[rows].max()), int((y[rows] != 0).sum())
        if count:
            split.append(((x[rows, :longest], y[rows, :longest]), count / total))
    return split or [((x, y), 1.0)]


class RandomOffsets(Hook):
    """Shift the learned positions of each row by 0 ... `most` in training.

    A name is then known wherever it is: questions and documents have it at different positions.
    """

    def __init__(self, most: int):
        self.most = most

    def on_start(self, trainer: Trainer) -> None:
        model, embed = trainer.model, trainer.model.embed

        def embed_shifted(idx, positions):
            most = min(self.most, model.config.block_size - idx.size(1))  # rows must fit the table
            if model.training and most > 0 and model.pos_emb is not None:
                positions = positions + torch.randint(most + 1, (len(idx), 1), device=idx.device)
            return embed(idx, positions)

        model.embed = embed_shifted

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        vars(trainer.model).pop("embed", None)


class Progress(Hook):
    """A bar with the loss and what the evaluation returned; see `progress_bar`."""

    def __init__(self, title: str):
        self.title, self.bar = title, None

    def on_start(self, trainer: Trainer) -> None:
        self.bar = progress_bar(trainer.total_steps, self.title, trainer.step)

    def on_step(self, trainer: Trainer) -> None:
        self.bar.update()

    def on_log(self, trainer: Trainer, row: dict) -> None:
        hidden = ("step", "epoch", "rate", "characters", "seconds")
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in row.items() if k not in hidden})

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        if self.bar is not None:
            self.bar.close()


class TensorBoard(Hook):
    """Write each number of each row into TensorBoard's event files."""

    def __init__(self, folder: str | Path, title: str):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            hint = "pip install 'kt-core[tensorboard]', or leave the folder out"
            raise ValueError(f"tensorboard is not installed: {hint}") from None
        self.writer, self.title = SummaryWriter(str(folder)), title

    def on_log(self, trainer: Trainer, row: dict) -> None:
        for name, value in row.items():
            self.writer.add_scalar(f"{self.title}/{name}", value, trainer.step)

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        self.writer.close()


class Stopped(KeyboardInterrupt):
    """Ctrl-C, raised between two steps: what is saved now can be resumed."""


class Interrupts(Hook, AbstractContextManager):
    """Let Ctrl-C wait for the end of the step. One that comes a second later does not wait."""

    def __init__(self):
        self.time, self.before = 0.0, None

    def on_start(self, trainer: Trainer) -> None:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and callable(signal.getsignal(signal.SIGINT)):
            self.before = signal.signal(signal.SIGINT, self.request)

    def request(self, number: int, frame) -> None:
        """Note a signal; torchrun sends its processes several at once."""
        if self.time and time.monotonic() > self.time + 1:
            self.before(number, frame)
        self.time = self.time or time.monotonic()

    def on_step(self, trainer: Trainer) -> None:
        if distributed.anywhere(self.time > 0):
            raise Stopped

    def __exit__(self, *error) -> None:
        """Put the earlier handler back; torchrun may still signal a process that is stopping."""
        if self.before is not None:
            is_stopping = self.time > 0 and distributed.processes() > 1
            signal.signal(signal.SIGINT, signal.SIG_IGN if is_stopping else self.before)
