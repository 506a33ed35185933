"""The exercise of chapter 5: what an answer is run on. The texts are in exercises.toml."""

from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor

from kt_core.datasets import TokenDataset
from kt_core.trainer import Trainer
from kt_course.chapters.pretrain_finetune import solutions
from kt_course.exercises.assertions import Wrong, describe
from kt_course.exercises.comparison import Comparison, Results

CHAPTER = Comparison(solutions, "05_pretrain_finetune")
TEXTS = CHAPTER.texts
STAGES = ("pretraining", "finetuning")
MOST_STEPS = 10_000  # an endless iterator ends here


class MarkedExamples(TokenDataset):
    """Examples whose ids say which data they are, and of which epoch, with their number."""

    def __init__(self, kind: int, n: int):
        self.kind, self.n, self.block_size = kind, n, 8

    def __len__(self) -> int:
        return self.n

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        """Return the ids kind, epoch, i, each plus 1, and a last one."""
        return [1 + self.kind, 1 + epoch, 1 + i, 1], 1


class RecordingTrain:
    """Stands for the learner's `train`: it keeps what it is called with."""

    def __init__(self):
        self.calls: list[SimpleNamespace] = []

    def __call__(self, model, batches, rates) -> list[float]:
        """Return 100, 101 ... as the losses of the first call, 200, 201 ... of the second."""
        batches, rates = list(islice(batches, MOST_STEPS)), list(islice(rates, MOST_STEPS))
        self.calls.append(SimpleNamespace(model=model, batches=batches, rates=rates))
        first = 100 * len(self.calls)
        return [float(first + step) for step in range(min(len(batches), len(rates)))]


@CHAPTER.exercise("pretrain-finetune", forbidden=(Trainer.fit,))
def stages_of(answer: Callable, seed: int) -> Results:
    """Run an answer with a `train` that records, and describe both stages in numbers."""
    n_windows, n_pairs = 11 + seed % 7, 5 + seed % 4
    plan = [(4 + seed % 3, 3, 0.01), (2 + seed % 2, 2, 0.001)]
    windows, pairs = MarkedExamples(0, n_windows), MarkedExamples(1, n_pairs)
    model, train = torch.nn.Linear(1, 1), RecordingTrain()
    losses = answer(model, windows, pairs, plan, train)
    if len(train.calls) != 2:
        key = {0: "never", 1: "once"}.get(len(train.calls), "often")
        raise Wrong(TEXTS["pretrain-finetune"][key].format(n=len(train.calls)))
    batches = [batch for call in train.calls for batch in call.batches]
    if not all(isinstance(batch, tuple | list) and len(batch) == 2 for batch in batches):
        raise Wrong(TEXTS["pretrain-finetune"]["not_pairs"])
    if any(call.model is not model for call in train.calls):
        raise Wrong(TEXTS["pretrain-finetune"]["another_model"])
    if not isinstance(losses, list | tuple) or len(losses) != 2 or not is_numbers(losses):
        text = TEXTS["pretrain-finetune"]["not_two_lists"]
        raise Wrong(text.format(result=describe(losses)))
    results: Results = {}
    for stage, call, values in zip(STAGES, train.calls, losses, strict=True):
        results |= {f"{what} of {stage}": t for what, t in stage_of(call).items()}
        results[f"the losses of {stage}"] = torch.tensor(values)
    return results


def stage_of(call: SimpleNamespace) -> dict[str, Tensor]:
    """Describe one call of `train`: data, epochs, sizes of batches and learning rates."""
    rows = [tuple(row) for x, _ in call.batches for row in x.tolist()]
    sizes = [len(x) for x, _ in call.batches]
    return {
        "the data (0: windows, 1: pairs)": torch.tensor(sorted({kind - 1 for kind, *_ in rows})),
        "the number of steps": torch.tensor(len(call.batches)),
        "the number of different examples": torch.tensor(len(set(rows))),
        "the number of examples in each batch": torch.tensor(sorted(sizes)),
        "the number of learning rates": torch.tensor(len(call.rates)),
        "the learning rates": torch.tensor([float(rate) for rate in call.rates]).double(),
    }


def is_numbers(losses) -> bool:
    """Whether both are lists of plain numbers."""
    return all(
        isinstance(values, list) and all(isinstance(v, int | float) for v in values)
        for values in losses
    )


EXERCISES = CHAPTER.exercises()
