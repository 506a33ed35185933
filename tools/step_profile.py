"""How long a training step takes, what takes it, and how it grows with block, width and stride.

All steps are of the assignment's model and our recipe "kt" on random characters in full blocks, so
nothing but the shape differs. "compiled" is rope's step with compiled blocks, as the recipe trains.
The limit is what a matrix product of the model's shape reaches alone on the same machine and in the
same precision.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

from kt_core.datasets import SpanCorruption
from kt_core.devices import choose_device
from kt_core.runs.fitting import step_hooks
from kt_core.runs.recipes import Recipe, recipe
from kt_core.trainer import Hook, Trainer
from kt_core.vocab import CharVocab

VOCAB_SIZE = 256
TOKENS = 4096  # per step, for any block size
BLOCKS, WIDTHS = (32, 64, 128, 256), (64, 128, 256, 512)
# kind of operation: parts of the profiler's names
KINDS = {
    "matrix products": "aten::mm aten::addmm aten::linear mkldnn_linear",
    "products of attention": "aten::bmm aten::baddbmm scaled_dot_product flash",
    "softmax, masks": "softmax aten::masked_fill aten::where",
    "norms, GELU, sums": "layer_norm gelu aten::add aten::mul aten::sum aten::div norm aten::rsqrt",
    "casts and copies": "aten::copy_ aten::cat aten::clone aten::fill_ aten::zero_ aten::empty",
}


class Step(Hook):
    """One step of a `Trainer` per call, on a batch of random characters."""

    def __init__(
        self, chosen: Recipe, variant: str, device: torch.device, is_compiled: bool = False
    ):
        torch.manual_seed(0)
        config, options = chosen.phase("pretrain", device=str(device), schedule="constant")
        self.model = chosen.new_model(VOCAB_SIZE, variant)
        options |= dict(random_offset=0, compile=is_compiled)  # a full block has no room to shift
        size = chosen.model.block_size
        data = SpanCorruption(["a document"], CharVocab("a document"), size)  # asked for its sizes
        self.trainer = Trainer(self.model, data, config, hooks=[*step_hooks(**options), self])
        self.trainer.start()
        ids = torch.randint(2, VOCAB_SIZE, (max(1, TOKENS // size), size + 1), device=device)
        self.batch = ids[:, :-1], ids[:, 1:]
        self.profiler: profile | None = None
        self.gradients_at = 0.0

    def on_gradients(self, trainer: Trainer) -> None:
        """Note the time; forward and backward are over."""
        if self.profiler is not None:
            self.profiler.stop()
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        self.gradients_at = time.perf_counter()

    def __call__(self) -> int:
        self.trainer.train_step(self.batch).item()
        return self.batch[0].numel()

    def operations(self) -> int:
        """Floating-point operations of one step in the model's products.

        6 per weight and character, and 12 T C per layer and character for attention. Vanilla and
        rope; a perceiver needs fewer.

        Source: Kaplan et al. 2020, section 2.1.
        """
        c = self.model.config
        n_weights = 12 * c.n_layer * c.n_embd**2 + VOCAB_SIZE * c.n_embd
        attention = 12 * c.n_layer * c.block_size * c.n_embd
        return self.batch[0].numel() * (6 * n_weights + attention)


def profile_steps(
    *, seconds: float = 60.0, rounds: int = 5, device: str = "auto", overrides: dict | None = None
) -> dict:
    """Measure everything in about `seconds`; returns what `bench.py` writes under "costs"."""
    if not seconds > 0 or rounds < 1:
        raise ValueError(f"seconds and rounds must be above 0, not {seconds} and {rounds}")
    where, base = choose_device(device), recipe("kt", **(overrides or {}))
    share, block = seconds / (4 * rounds), base.model.block_size

    def grow(key: str, sizes: Sequence[int]) -> list[dict]:
        steps = {size: Step(resized(base, key, size), "rope", where) for size in sizes}
        return [dict(value=size, **row) for size, row in measure(steps, rounds, share).items()]

    steps = {"rope": Step(base, "rope", where)}
    for stride in (2, 4):
        narrow = recipe(base, **{"model.bottleneck": max(1, block // stride)})
        steps[f"perceiver_ar, s = {stride}"] = Step(narrow, "perceiver_ar", where)
    variants = measure(steps, rounds, share)
    for row in variants.values():
        pairs = zip(row["rates"], variants["rope"]["rates"], strict=True)
        ratios = [fast / slow for fast, slow in pairs]
        ends = dict(ratio_low=round(min(ratios), 2), ratio_high=round(max(ratios), 2))
        row |= dict(ratio=round(statistics.median(ratios), 2)) | ends
    widths = [width for width in WIDTHS if width % (2 * base.model.n_head) == 0]
    return dict(
        seconds=seconds,
        rounds=rounds,
        tokens=TOKENS,
        step=profile_step(steps["rope"], where, share),
        compiled=profile_step(Step(base, "rope", where, is_compiled=True), where, share)
        if base.pretrain.compile
        else None,
        variants=variants,
        block=grow("block_size", BLOCKS),
        width=grow("n_embd", widths),
    )


def resized(base: Recipe, key: str, size: int) -> Recipe:
    """The recipe with another block size or width; the bottleneck fits into the block."""
    block = size if key == "block_size" else base.model.block_size
    bottleneck = min(base.model.bottleneck, block)
    return recipe(base, **{f"model.{key}": size, "model.bottleneck": bottleneck})


def rate(work: Callable[[], int], seconds: float) -> float:
    """Size of the work per second: what its calls returned in about `seconds`, one at least."""
    done, began, spent = 0, time.perf_counter(), 0.0
    while not done or spent < seconds:
        done += work()
        spent = time.perf_counter() - began
    return done / spent


def summary(rates: Sequence[float]) -> dict:
    """Median, lowest and highest of some rates."""
    rounded = [round(value, 2) for value in rates]
    median = round(statistics.median(rates), 2)
    return dict(median=median, low=min(rounded), high=max(rounded), rates=rounded)


def measure(works: Mapping, rounds: int, share: float) -> dict:
    """Rates of each, in turns; the first call of each is a warm-up."""
    for work in works.values():
        work()
    rates: dict = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            rates[name].append(rate(work, share / len(works)))
    return {name: summary(values) for name, values in rates.items()}


def profile_step(step: Step, device: torch.device, share: float) -> dict:
    """Shares of a step by kind of operation, its rate of operations, and the machine's limit."""
    seconds, learning = step_seconds(step, share)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    step.profiler = profile(activities=activities)
    step.profiler.start()
    step()  # the hook stops the profiler before the optimisers
    field = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    spent = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in step.profiler.key_averages():
        kinds = (
            kind for kind, names in KINDS.items() if any(n in event.key for n in names.split())
        )
        spent[next(kinds, "other")] += getattr(event, field)
    step.profiler = None
    total = sum(spent.values()) or 1.0
    shares = {kind: round(learning * value / total, 3) for kind, value in spent.items()}
    limit, reached = product_rate(step, device, share), step.operations() / seconds
    return dict(
        seconds=round(seconds, 4),
        characters=step.batch[0].numel(),
        shares=shares | {"optimisers": round(1 - learning, 3)},
        gflops=round(reached / 1e9, 1),
        limit_gflops=round(limit / 1e9, 1),
        of_limit=round(reached / limit, 3),
    )


def step_seconds(step: Step, share: float) -> tuple[float, float]:
    """Median seconds of a step, and the share of forward and backward in all of them."""
    learning, whole = [], []
    while len(whole) < 3 or sum(whole) < share:
        began = time.perf_counter()
        step()
        whole.append(time.perf_counter() - began)
        learning.append(step.gradients_at - began)
    return statistics.median(whole), sum(learning) / sum(whole)


def product_rate(step: Step, device: torch.device, share: float) -> float:
    """Operations per second of the machine's product (tokens, C) x (C, 4 C) alone."""
    width, n = step.model.config.n_embd, step.batch[0].numel()
    with torch.no_grad():
        kind = step.trainer.forward(*step.batch)[0].dtype  # bfloat16 in mixed precision
    a = torch.randn(n, width, device=device, dtype=kind)
    b = torch.randn(width, 4 * width, device=device, dtype=kind)

    def multiply() -> int:
        (a @ b)[0, 0].item()
        return 2 * n * width * 4 * width

    multiply()
    return rate(multiply, share)


def spread(median: float, low: float, high: float, *, digits: int = 1, **_) -> str:
    """Write a median with the lowest and the highest value: "1,583.0 (1,500.1-1,600.2)"."""
    return f"{median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table for a terminal; all columns but the first are aligned to the right."""
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, "simple", colalign=align, disable_numparse=True)


def table(costs: dict) -> str:
    """Write what `profile_steps` measured."""
    step = costs["step"]
    lines = [
        f"{name} of {each['characters']} characters: {1000 * each['seconds']:.0f} ms, "
        f"{each['gflops']:.0f} GFLOP/s, {100 * each['of_limit']:.0f} % of what a matrix "
        f"product reaches alone ({each['limit_gflops']:.0f})"
        for name, each in (("one step", step), ("one compiled step", costs["compiled"]))
        if each
    ]
    shares = sorted(step["shares"].items(), key=lambda item: -item[1])
    rows = [[kind, f"{100 * share:.1f} %"] for kind, share in shares]
    lines += ["", text_table(["kind of operation", "share"], rows), ""]
    rows = []
    for name, row in costs["variants"].items():
        ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"
        rows.append([name, spread(**row, digits=0), ratio])
    for key in ("block", "width"):
        rows += [[f"{key} {row['value']}", spread(**row, digits=0), ""] for row in costs[key]]
    headers = ["step", "characters per second, median (lowest-highest)", "x rope"]
    return "\n".join([*lines, text_table(headers, rows)])
