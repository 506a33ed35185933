"""How to train: the settings of a `Trainer`, and the learning rate of each step."""

import math
from dataclasses import dataclass

from kt_core._validation import is_number, is_whole, require, require_choice


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast and in which order a `Trainer` trains."""

    epochs: float = 1.0  # passes over the data
    steps: int | None = None  # of the optimiser, instead of epochs
    batch_size: int = 128
    lr: float = 6e-3  # the peak of AdamW's learning rate
    optimizer: str = "adamw"  # or "muon" for the weight matrices of the blocks
    muon_lr: float = 0.02  # the peak of Muon's learning rate
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    decay_on: str = "linear"  # or "all", see `optim.make_optimizers`
    grad_clip: float = 1.0  # the gradient's norm is cut to this
    # How the rate goes on after the warm-up. "cosine": half a cosine from the peak to 0, but never
    # below `final_fraction` of the peak. "linear": flat until `cooldown_from` of the steps, then
    # straight down to `final_fraction`. Or "constant".
    schedule: str = "cosine"
    warmup_steps: int = 0  # in them the rate rises linearly
    cooldown_from: float = 0.0
    final_fraction: float = 0.1
    horizon: int = 0  # steps that the schedule is stretched over; 0: all
    bucket: bool = True  # batches of similar length (`datasets.batches`); not in the assignment
    shuffle: bool = True  # another order in each epoch; not in the assignment
    seed: int = 0
    device: str = "auto"  # the best one
    eval_every: int = 0  # steps; 0: at the end only
    log_every: int = 20

    def __post_init__(self):
        require(self, "epochs", is_number(self.epochs, 1e-99, 1e6), "above 0 and at most 1,000,000")
        for field in ("lr", "muon_lr", "grad_clip"):
            fits = is_number(getattr(self, field), 5e-324, 1e30)  # the least number above 0
            require(self, field, fits, "above 0 and at most 1e30")
        require(self, "weight_decay", is_number(self.weight_decay, 0, 1e6), "in 0 ... 1,000,000")
        for field in ("final_fraction", "cooldown_from"):
            require(self, field, is_number(getattr(self, field), 0, 1), "in 0 ... 1")
        for field in ("batch_size",) if self.steps is None else ("steps", "batch_size"):
            require(self, field, is_whole(getattr(self, field)), "a whole number of at least 1")
        for field in ("horizon", "warmup_steps", "eval_every", "log_every"):
            require(self, field, is_whole(getattr(self, field), 0), "a whole number of 0 or more")
        fits = is_whole(self.seed, 0, 2**63 - 1)
        require(self, "seed", fits, "a whole number in 0 ... 2**63 - 1")
        require_choice(self, "optimizer", ("adamw", "muon"))
        require_choice(self, "decay_on", ("linear", "all"))
        require_choice(self, "schedule", ("cosine", "linear", "constant"))

    def rate(self, step: int, total: int) -> float:
        """Return the share of the peak learning rate for step 0 ... total - 1."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant":
            return 1.0
        progress = min(1.0, step / max(1, self.horizon or total))
        if self.schedule == "cosine":  # the assignment: half a cosine, cut off below
            return max(self.final_fraction, 0.5 * (1 + math.cos(math.pi * progress)))
        cooled = max(0.0, progress - self.cooldown_from) / max(1e-9, 1 - self.cooldown_from)
        return 1 - (1 - self.final_fraction) * cooled
