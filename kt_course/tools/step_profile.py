"""Where the time of a training step goes, and how it grows: with the block, the width, and a perceiver's stride.

All steps are of the assignment's model and our recipe "kt" on random characters, full blocks, so that nothing but the
shape differs. (With the people it grows as their lines do: an epoch reads each once.) The limit is what the machine's
own matrix product reaches alone, in the same precision.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from kt_core.models import GPT
from kt_core.runs.devices import choose_device, mixed_precision
from kt_core.runs.recipes import Recipe, recipe

VOCABULARY = 256
TOKENS = 4096  # characters a step, whatever the block
BLOCKS, WIDTHS = (32, 64, 128, 256), (64, 128, 256, 512)
# the profiler's names of operations: what they are called here
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::linear", "mkldnn_linear"),
    "products of attention": ("aten::bmm", "aten::baddbmm", "scaled_dot_product", "flash"),
    "softmax, masks": ("softmax", "aten::masked_fill", "aten::where"),
    "norms, GELU, sums": (
        "layer_norm",
        "gelu",
        "aten::add",
        "aten::mul",
        "aten::sum",
        "aten::div",
        "norm",
        "aten::rsqrt",
    ),
    "casts and copies": (
        "aten::copy_",
        "aten::cat",
        "aten::clone",
        "aten::fill_",
        "aten::zero_",
        "aten::empty",
    ),
}


class Step:
    """One training step a call, on a batch of random characters: forward, backward, clip, optimisers."""

    def __init__(
        self, chosen: Recipe, variant: str, device: torch.device, batch: int = 0, seed: int = 0
    ):
        torch.manual_seed(seed)
        block = chosen.block_size
        self.model = GPT(chosen.model_config(VOCABULARY, variant)).to(device).train()
        c = chosen.pretrain_config()
        self.optimizers = c.optimizers(self.model)
        self.mixed = mixed_precision(c.precision, device)
        ids = torch.randint(
            2, VOCABULARY, (batch or max(1, TOKENS // block), block + 1), device=device
        )
        self.x, self.y = ids[:, :-1], ids[:, 1:]
        self.characters = self.x.numel()

    def learn(self) -> None:
        """Forward and backward."""
        with self.mixed:
            _, loss = self.model(self.x, self.y)
        loss.backward()
        loss.item()

    def update(self) -> None:
        """Clip and step."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def __call__(self) -> int:
        self.learn()
        self.update()
        return self.characters

    def operations(self) -> int:
        """Floating-point operations of one step in the model's products: 6 a weight and character, 12 T C a layer and
        character for attention (Kaplan et al. 2020, section 2.1). Vanilla and rope; a perceiver needs fewer."""
        c = self.model.config
        weights = 12 * c.n_layer * c.n_embd**2 + VOCABULARY * c.n_embd
        return self.characters * (6 * weights + 12 * c.n_layer * c.block_size * c.n_embd)


def costs(
    *, seconds: float = 60.0, rounds: int = 5, device: str = "auto", overrides: dict | None = None
) -> dict:
    """Measure all of it in about `seconds`; returns what `kt bench` writes under "costs". ValueError for no time."""
    if not seconds > 0 or rounds < 1:
        raise ValueError(
            f"seconds must be above 0 and rounds at least 1, not {seconds} and {rounds}"
        )
    where, base = choose_device(device), recipe("kt", **(overrides or {}))
    share = seconds / (4 * rounds)

    def grown(values: tuple, changed: Callable[[int], dict]) -> list[dict]:
        steps = {value: Step(recipe(base, **changed(value)), "rope", where) for value in values}
        return [dict(value=value, **rate) for value, rate in _rates(steps, rounds, share).items()]

    block, heads = base.block_size, base.n_head
    variants = {"rope": Step(base, "rope", where)}
    for stride in (2, 4):
        narrow = recipe(base, bottleneck=max(1, block // stride))
        variants[f"perceiver_ar, s = {stride}"] = Step(narrow, "perceiver_ar", where)
    by_variant = _rates(variants, rounds, share)
    slow = by_variant["rope"]["rates"]
    for found in by_variant.values():
        turns = [fast / each for fast, each in zip(found["rates"], slow, strict=True)]
        found |= dict(
            ratio=round(statistics.median(turns), 2),
            ratio_low=round(min(turns), 2),
            ratio_high=round(max(turns), 2),
        )
    return dict(
        seconds=seconds,
        rounds=rounds,
        tokens=TOKENS,
        step=_profiled(variants["rope"], where, share),
        variants=by_variant,
        block=grown(
            BLOCKS, lambda size: dict(block_size=size, bottleneck=min(base.bottleneck, size))
        ),
        width=grown(
            tuple(w for w in WIDTHS if w % (2 * heads) == 0), lambda width: dict(n_embd=width)
        ),
    )


def _rates(steps: dict, rounds: int, share: float) -> dict:
    """Characters a second of each, turn by turn: median, lowest, highest. The first call of each is a warm-up."""
    rates: dict = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            done, began, spent = 0, time.perf_counter(), 0.0
            while not done or spent < share / len(steps):
                done += step()
                spent = time.perf_counter() - began
            rates[name].append(round(done / spent, 1))
    return {
        name: dict(median=statistics.median(found), low=min(found), high=max(found), rates=found)
        for name, found in rates.items()
    }


def _profiled(step: Step, device: torch.device, share: float) -> dict:
    """Shares of a step by kind of operation, its rate of operations, and the machine's own for a product."""
    whole, learned = _whole_and_learned(step, share)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as seen:
        step.learn()
    step.update()
    field = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    spent = {kind: 0.0 for kind in KINDS} | {"other": 0.0}
    for event in seen.key_averages():
        kind = next(
            (k for k, names in KINDS.items() if any(name in event.key for name in names)), "other"
        )
        spent[kind] += getattr(event, field)
    total = sum(spent.values()) or 1.0
    shares = {kind: round(learned * value / total, 3) for kind, value in spent.items()}
    shares["optimisers"] = round(1 - learned, 3)
    limit = _product(step, device, share)
    rate = step.operations() / whole
    return dict(
        seconds=round(whole, 4),
        characters=step.characters,
        shares=shares,
        gflops=round(rate / 1e9, 1),
        limit_gflops=round(limit / 1e9, 1),
        of_limit=round(rate / limit, 3),
    )


def _whole_and_learned(step: Step, share: float) -> tuple[float, float]:
    """Median seconds of a step, and the share of all its seconds that forward and backward take: timed in the same steps,
    so that a machine which slows down meets both."""
    step()
    found: list[tuple[float, float]] = []
    while len(found) < 3 or sum(map(sum, found)) < share:
        began = time.perf_counter()
        step.learn()
        between = time.perf_counter()
        step.update()
        found.append((between - began, time.perf_counter() - between))
    learn, update = map(sum, zip(*found, strict=True))
    return statistics.median(map(sum, found)), learn / (learn + update)


def _product(step: Step, device: torch.device, share: float) -> float:
    """Operations a second of the machine's product of the model's own shape, (tokens, C) x (C, 4 C)."""
    width = step.model.config.n_embd
    with step.mixed:
        bf16 = torch.is_autocast_enabled(device.type)
    kind = torch.bfloat16 if bf16 else torch.float32
    a = torch.randn(step.characters, width, device=device, dtype=kind)
    b = torch.randn(width, 4 * width, device=device, dtype=kind)
    return 2 * step.characters * width * 4 * width / _seconds(lambda: (a @ b)[0, 0].item(), share)


def _seconds(work: Callable, share: float) -> float:
    """Median seconds of a call, measured for about `share` seconds, three calls at least after a warm-up."""
    work()
    found: list[float] = []
    while len(found) < 3 or sum(found) < share:
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def table(told: dict) -> str:
    """What `costs` measured, as text."""
    step = told["step"]
    lines = [
        f"one step of {step['characters']} characters: {1000 * step['seconds']:.0f} ms, {step['gflops']:.0f} GFLOP/s, "
        f"{100 * step['of_limit']:.0f} % of what a matrix product reaches alone ({step['limit_gflops']:.0f})"
    ]
    for kind, share in sorted(step["shares"].items(), key=lambda item: -item[1]):
        lines.append(f"  {kind:24}{100 * share:5.1f} %")
    lines.append("characters a second, median (lowest-highest)")
    for name, found in told["variants"].items():
        ratio = f"{found['ratio']:.2f} ({found['ratio_low']:.2f}-{found['ratio_high']:.2f}) x rope"
        lines.append(
            f"  {name:24}{found['median']:>10,.0f} ({found['low']:,.0f}-{found['high']:,.0f})  {ratio}"
        )
    for what in ("block", "width"):
        for row in told[what]:
            lines.append(
                f"  {what + ' ' + str(row['value']):24}{row['median']:>10,.0f} ({row['low']:,.0f}-{row['high']:,.0f})"
            )
    return "\n".join(lines)
