"""The options of a recipe: those of the core's configs, and what only a run has."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from kt_core._validation import require, require_choice
from kt_core.blocks import GPTConfig
from kt_core.train_config import TrainConfig

TASKS = ("span_corruption", "questions")
PRECISIONS = ("auto", "fp32", "bf16", "native")
LEFT_TO_THE_RUN = "steps betas grad_clip seed device eval_every log_every"


def options_of(config: type, without: str) -> type:
    """Return settings with the options of a config of the core, but those named in `without`."""
    chosen = [f for f in fields(config) if f.name not in without.split()]
    parts = [(f.name, f.type, field(default=f.default)) for f in chosen]
    return make_dataclass(f"{config.__name__}Options", parts, bases=(Settings,), frozen=True)


class Settings:
    """Settings whose values have the types of their defaults; whole numbers serve as floats."""

    def __post_init__(self):
        for f in fields(self):
            value, kind = getattr(self, f.name), type(f.default)
            if kind is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            elif type(value) is not kind or (kind is float and not math.isfinite(value)):
                require(self, f.name, False, kind.__name__)

    def arguments(self, function: Callable) -> dict[str, Any]:
        """The settings that `function` takes as arguments of the same name."""
        parameters = inspect.signature(function).parameters
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in parameters}


@dataclass(frozen=True)
class ModelSettings(options_of(GPTConfig, without="vocab_size variant rope_base causal")):
    """The model: options of `GPTConfig`, and one more."""

    random_offset: int = 0  # shift the learned positions of each row by up to this in training

    def __post_init__(self):
        super().__post_init__()
        require(self, "block_size", self.block_size >= 1, "1 or more")
        fits = 0 <= self.random_offset < self.block_size
        require(self, "random_offset", fits, f"in 0 ... {self.block_size - 1} (block_size - 1)")


@dataclass(frozen=True)
class DataSettings(Settings):
    """What is trained on; the defaults are the assignment's."""

    task: str = "span_corruption"  # or "questions", with these options of `QuestionWindows`
    select: bool = True
    plain: bool = True
    drop: float = 0.5
    favour_first: float = 1.0
    views: int = 1  # of each document per epoch of pretraining
    mixed_pairs: int = 0  # views of each train pair per epoch of pretraining

    def __post_init__(self):
        super().__post_init__()
        require_choice(self, "task", TASKS)
        require(self, "drop", 0 <= self.drop <= 1, "in 0 ... 1")
        require(self, "favour_first", 0 <= self.favour_first <= 9, "in 0 ... 9")
        require(self, "views", self.views >= 1, "1 or more")
        require(self, "mixed_pairs", self.mixed_pairs >= 0, "0 or more")


@dataclass(frozen=True)
class TrainSettings(options_of(TrainConfig, without=LEFT_TO_THE_RUN)):
    """How one phase trains: options of `TrainConfig`, and three more."""

    micro_batches: int = 1  # parts of a batch, computed in turn; the same gradient
    compile: bool = False  # the blocks: faster, after a minute
    precision: str = "auto"  # bf16 on cuda; "fp32", "bf16", or "native": bf16 where it is fast

    def __post_init__(self):
        super().__post_init__()
        require_choice(self, "precision", PRECISIONS)
        require(self, "micro_batches", self.micro_batches >= 1, "1 or more")


def parse_value(text: str, kind: type) -> Any:
    """Read a string, as a command line has it, as an option's type; ValueError if it is none."""
    if kind is str:
        return text
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.strip().lower()]
        number = float(text)
        value = int(text) if kind is int and text.strip().lstrip("+-").isdecimal() else kind(number)
        if value != number:
            raise ValueError
        return value
    except (KeyError, ValueError, OverflowError):
        name = "true or false" if kind is bool else kind.__name__
        raise ValueError(f"must be {name}, not {text!r}") from None
