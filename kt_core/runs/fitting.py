"""Training with everything around it: resume, Ctrl-C, a bar, logs, precision, several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from kt_core.runs import distributed, hooks
from kt_core.runs.compiled_blocks import CompiledBlocks
from kt_core.runs.fast_paths import use_fast_paths
from kt_core.runs.resume import StateFile
from kt_core.train_config import TrainConfig
from kt_core.trainer import Hook, Trainer


def fit(
    model: nn.Module,
    data,
    config: TrainConfig | None = None,
    *,
    evaluate: Callable[[nn.Module], dict] | None = None,
    optimizers: list[torch.optim.Optimizer] | None = None,
    state: str | Path | None = None,
    resume: bool = False,
    save_every: int = 0,
    log: Callable[[dict], None] | None = None,
    tensorboard: str | Path | None = None,
    title: str = "training",
    precision: str = "auto",
    micro_batches: int = 1,
    random_offset: int = 0,
    compile: bool = False,
    more_hooks: Sequence[Hook] = (),
) -> list[dict]:
    """Train `model` on `data` by a `Trainer` with the hooks of this package; return the history.

    Args:
        model, data, config, evaluate, optimizers: As for `Trainer`.
        state, resume, save_every: See `StateFile`. A resumed training ends with the same weights,
            bit for bit on a CPU.
        log: Called with each row of the history.
        tensorboard: A folder for event files (needs the extra "tensorboard").
        title: Of the bar and the messages.
        precision: See `mixed_precision`.
        micro_batches, random_offset, compile: `MicroBatches`, `RandomOffsets`, `CompiledBlocks`.
        more_hooks: Called after the others.

    Raises:
        KeyboardInterrupt: After Ctrl-C, at the end of the step, once the state is saved.
        ValueError: `state` is damaged or belongs to another training.
    """
    distributed.anywhere()  # joins the other processes
    chosen: list[Hook] = [hooks.Precision(precision)]
    if compile:
        chosen.append(CompiledBlocks())
    if micro_batches > 1:
        chosen.append(hooks.MicroBatches(micro_batches))
    if random_offset:
        chosen.append(hooks.RandomOffsets(random_offset))
    if distributed.processes() > 1:
        chosen.append(distributed.DataParallel())
    if log and distributed.is_first():
        chosen.append(hooks.Rows(log))
    if tensorboard and distributed.is_first():
        chosen.append(hooks.TensorBoard(tensorboard, title))
    if state:
        fixed = dict(micro_batches=micro_batches, random_offset=random_offset)
        chosen.append(StateFile(state, resume, save_every, title, fixed))
    interrupts = hooks.Interrupts()
    chosen += [interrupts, hooks.Progress(title), *more_hooks]
    options = dict(evaluate=evaluate, optimizers=optimizers, hooks=chosen)
    try:
        return Trainer(use_fast_paths(model), data, config, **options).fit()
    finally:
        interrupts.restore()
