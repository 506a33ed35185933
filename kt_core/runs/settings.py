"""The options of a recipe, each declared once: name, type, default, and one line about it."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from kt_core._validation import require, require_choice

TASKS = ("span_corruption", "questions")
PRECISIONS = ("auto", "fp32", "bf16", "native")


def option(default: Any, about: str) -> Any:
    """A field of a settings class with its description."""
    return field(default=default, metadata={"about": about})


class Settings:
    """Settings whose values have the types of their defaults; whole numbers serve as floats."""

    def __post_init__(self):
        for f in fields(self):
            value, kind = getattr(self, f.name), type(f.default)
            if kind is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            elif type(value) is not kind or (kind is float and not math.isfinite(value)):
                require(self, f.name, False, f"{kind.__name__} ({f.metadata['about']})")

    def at_least(self, least: int, *names: str) -> None:
        """Raise ValueError for a value below `least`."""
        for name in names:
            require(self, name, getattr(self, name) >= least, f"{least} or more")

    def arguments(self, function: Callable, **renamed: str) -> dict[str, Any]:
        """The settings that `function` takes as arguments of the same name, or of another one."""
        names = {f.name: renamed.get(f.name, f.name) for f in fields(self)}
        parameters = inspect.signature(function).parameters
        return {new: getattr(self, name) for name, new in names.items() if new in parameters}


@dataclass(frozen=True)
class ModelSettings(Settings):
    """The model; the defaults are the assignment's."""

    n_layer: int = option(4, "layers")
    n_head: int = option(8, "heads per layer")
    n_embd: int = option(256, "channels")
    block_size: int = option(128, "characters that the model reads at once")
    bottleneck: int = option(64, "latents of a perceiver for a full block")
    dropout: float = option(0.1, "share of activations dropped in training")
    qk_norm: bool = option(False, "normalise queries and keys")
    zero_init: bool = option(False, "start every block as the identity")
    random_offset: int = option(0, "learned positions: shift each row by up to this in training")

    def __post_init__(self):
        super().__post_init__()
        self.at_least(1, "block_size")
        fits = 0 <= self.random_offset < self.block_size
        require(self, "random_offset", fits, f"in 0 ... {self.block_size - 1} (block_size - 1)")


@dataclass(frozen=True)
class DataSettings(Settings):
    """What is trained on; the defaults are the assignment's."""

    task: str = option("span_corruption", "span_corruption (the assignment's) or questions")
    select: bool = option(True, "questions: ask for no adjectives or other forms of the title")
    plain: bool = option(True, "questions: show no other names, dates and numbers as context")
    drop: float = option(0.5, "questions: probability of leaving out each context word")
    min_letters: int = option(4, "questions: keep a word of this length; 0: no such rule")
    favour_first: bool = option(True, "questions: ask more often for what the text says first")
    views: int = option(1, "times per epoch that pretraining sees each document")
    mixed_pairs: int = option(0, "times per epoch that pretraining sees each train pair")

    def __post_init__(self):
        super().__post_init__()
        require_choice(self, "task", TASKS)
        require(self, "drop", 0 <= self.drop <= 1, "in 0 ... 1")
        self.at_least(1, "views")
        self.at_least(0, "mixed_pairs", "min_letters")


@dataclass(frozen=True)
class TrainSettings(Settings):
    """How one phase trains; the defaults are the assignment's pretraining."""

    epochs: float = option(650.0, "passes over the data")
    batch_size: int = option(128, "examples per step")
    lr: float = option(6e-3, "peak learning rate of AdamW")
    optimizer: str = option("adamw", "adamw, or muon for the matrices of the blocks")
    muon_lr: float = option(0.02, "peak learning rate of Muon")
    weight_decay: float = option(0.1, "decoupled weight decay")
    decay_on: str = option("linear", "what decays: matrices of linear layers, or all but biases")
    schedule: str = option("cosine", "cosine, linear or constant")
    warmup_steps: int = option(0, "steps of rising learning rate")
    cooldown_from: float = option(0.0, "linear: share of the steps before the rate falls")
    final_fraction: float = option(0.1, "share of the learning rate at the end")
    horizon: int = option(0, "steps that the cosine is stretched over; 0: those of the training")
    bucket: bool = option(True, "batches of similar length, padded no further than needed")
    shuffle: bool = option(True, "a new order in every epoch")
    micro_batches: int = option(1, "parts of a batch, computed in turn; the same gradient")
    compile: bool = option(False, "compile the blocks: faster, after a minute")
    precision: str = option("auto", "fp32, bf16, auto (bf16 on cuda), native (bf16 where fast)")

    def __post_init__(self):
        super().__post_init__()
        require_choice(self, "precision", PRECISIONS)
        self.at_least(1, "micro_batches")
        self.at_least(0, "horizon")


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
