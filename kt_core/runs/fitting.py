"""Training with everything around it: resume, Ctrl-C, a bar, logs, precision, several processes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from kt_core.runs import distributed, hooks
from kt_core.runs.fast_paths import CompiledBlocks, Precision, use_fast_paths
from kt_core.runs.resume import StateFile
from kt_core.train_config import TrainConfig
from kt_core.trainer import Hook, Trainer


def fit(
    model: nn.Module,
    data,
    config: TrainConfig | None = None,
    *,
    evaluate: Callable[[nn.Module], dict] | None = None,
    state: str | Path | None = None,
    resume: bool = False,
    save_every: int = 0,
    tensorboard: str | Path | None = None,
    title: str = "training",
    precision: str = "auto",
    micro_batches: int = 1,
    random_offset: int = 0,
    compile: bool = False,
    more_hooks: Sequence[Hook] = (),
) -> list[dict]:
    """Train `model` on `data` by a `Trainer` with the hooks of this package; return the history.

    After Ctrl-C it ends the step, saves the state and raises KeyboardInterrupt.

    Args:
        state, resume, save_every: See `StateFile`. A resumed training ends with the same weights,
            bit for bit on a CPU. ValueError for a state that is damaged or of another training.
        tensorboard: A folder for event files (needs the extra "tensorboard").
        title: Of the bar and the messages.
        precision, micro_batches, random_offset, compile: See `mixed_precision`, `MicroBatches`,
            `RandomOffsets` and `CompiledBlocks`.
    """
    distributed.anywhere()  # joins the other processes
    chosen = step_hooks(precision, micro_batches, random_offset, compile)
    if tensorboard and distributed.is_first():
        chosen.append(hooks.TensorBoard(tensorboard, title))
    if state:
        fixed = dict(micro_batches=micro_batches, random_offset=random_offset)
        chosen.append(StateFile(state, resume, save_every, title, fixed))
    with hooks.Interrupts() as interrupts:
        chosen += [interrupts, hooks.Progress(title), *more_hooks]
        return Trainer(use_fast_paths(model), data, config, evaluate=evaluate, hooks=chosen).fit()


def step_hooks(precision: str, micro_batches: int, random_offset: int, compile: bool) -> list[Hook]:
    """Return the hooks that change how a step is computed; a later one changes an earlier one."""
    chosen: list[Hook] = [Precision(precision)]
    chosen += [CompiledBlocks()] if compile else []
    chosen += [hooks.MicroBatches(micro_batches)] if micro_batches > 1 else []
    chosen += [hooks.RandomOffsets(random_offset)] if random_offset else []
    return chosen + ([distributed.DataParallel()] if distributed.processes() > 1 else [])
