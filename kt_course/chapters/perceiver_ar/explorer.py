"""Perceiver explorer: how many latents, what each output then sees, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from kt_core._typing import Bool, Tensor
from kt_core.models import GPT, GPTConfig
from kt_course.explorers.panels import Chart, chart, frame, legend, picture
from kt_course.explorers.shell import Choice, Grid, Slider, View, explorer, page
from kt_course.figures.style import BLACK, BLUE, GREY, ORANGE, SKY, VERMILION

VARIANTS = ("perceiver", "perceiver_ar")
KINDS = {
    "seen": BLUE,
    "earlier, not seen": ORANGE,
    "future, not seen": GREY,
    "future, seen: a leak": BLACK,
}


@lru_cache(maxsize=256)
def reach(variant: str, T: int, bottleneck: int) -> Bool[Tensor, "T T"]:
    """Does output t (row) of an untrained model move when input j (column) does? (T, T), from gradients.

    Every input is another character, so that the gradient of an output for the character table is its gradient for each
    input. In float64: what is reached is not rounded to 0, and what is not reached is exactly 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(GPTConfig(T, T, 3, 2, 8, variant, bottleneck, dropout=0.0)).double().eval()
        mix = torch.randn(
            T, dtype=torch.double
        )  # of an output's logits: a plain sum might cancel out
    outputs = model(torch.arange(T)[None])[0][0] @ mix  # (T,)
    table = model.tok_emb.weight  # (T, C), row j is input j
    rows = torch.autograd.grad(
        outputs, table, torch.eye(T, dtype=torch.double), is_grads_batched=True
    )[0]  # (T, T, C)
    return rows.ne(0).any(-1)


def multiplied(config: GPTConfig, T: int) -> int:
    """Multiplications of all blocks on T inputs: their matrix products and their attention, both exact."""
    d, L, keys = config.n_embd, config.n_layer, 0
    if config.latent:
        m = min(config.bottleneck, T) if config.variant == "perceiver" else -(-T // config.stride)
        keys = m + (config.variant == "perceiver_ar")  # that outputs look at: the null latent too
        layers = [(m, T), *[(m, m)] * (L - 2), (T, keys)]  # (queries, keys) of each
    else:
        layers = [(T, T)] * L
    # a query is made, mixed back and widened to 4 d and back: 10 d^2; a key and its value: 2 d^2; each pair: 2 d
    return sum(10 * q * d**2 + 2 * k * d**2 + 2 * q * k * d for q, k in layers)


def explore_perceiver(T: int = 32, *, n_layer: int = 4, n_embd: int = 128) -> Any:
    """Move the bottleneck: which inputs each output sees, exact from gradients, and what the blocks cost beside vanilla.

    `T`: inputs, 8 ... 64. `n_layer`, `n_embd`: the size of the model whose cost is counted. A click on the picture
    chooses an output.
    """
    if not 8 <= T <= 64:
        raise ValueError(f"explore_perceiver draws 8 to 64 inputs, not {T}")
    config = {
        m: {v: GPTConfig(2, T, n_layer, 1, n_embd, v, m) for v in VARIANTS} for m in range(1, T + 1)
    }
    vanilla = multiplied(GPTConfig(2, T, n_layer, 1, n_embd), T)
    cost = {v: np.array([multiplied(config[m][v], T) / vanilla for m in config]) for v in VARIANTS}

    def curves(ax: Axes) -> None:
        for name, colour, style in zip(VARIANTS, (VERMILION, BLUE), ("--", "-"), strict=True):
            ax.plot(
                range(1, T + 1),
                100 * cost[name],
                color=colour,
                ls=style,
                drawstyle="steps-mid",
                label=name,
            )
        ax.axhline(100, color=GREY, lw=1, label="vanilla")
        ax.set(xlabel="bottleneck m", ylabel="multiplications (% of vanilla)", xlim=(0, T + 1))
        ax.set_ylim(0, max(110, 105 * max(c.max() for c in cost.values())))
        ax.legend(fontsize=8, loc="lower right")

    @lru_cache(maxsize=1)
    def costs() -> Chart:
        return chart(4.1, 3.75, curves, f"Cost of {n_layer} blocks with {n_embd} channels")

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        variant, m, t = state["variant"], state["bottleneck"], state["output"]
        seen = reach(variant, T, m).numpy()
        later = np.arange(T) > np.arange(T)[:, None]
        kind = np.where(later, np.where(seen, 3, 2), np.where(seen, 0, 1))
        figure, ax = page(9, 4.9)
        size, x, y = 3.7, 0.75, 0.55
        colours = np.array([to_rgba(colour) for colour in KINDS.values()])
        picture(ax, colours[kind], x, y, size, size)
        for i in range(0, T, 8):
            ax.text(x - 0.06, y + (i + 0.5) * size / T, i, ha="right", va="center", fontsize=8)
            ax.text(x + (i + 0.5) * size / T, y + size + 0.05, i, ha="center", va="top", fontsize=8)
        ax.text(x - 0.45, y + size / 2, "output", rotation=90, ha="center", va="center")
        ax.text(x + size / 2, y + size + 0.28, "input", ha="center", va="center")
        frame(ax, x, y + t * size / T, size, size / T, BLACK)
        present = [name for i, name in enumerate(KINDS) if (kind == i).any()]
        legend(ax, x, y + size + 0.45, {name: KINDS[name] for name in present})
        stride = config[m][variant].stride
        told = f"m = {m}" + (f", stride {stride}" if variant == "perceiver_ar" else "")
        ax.text(x, 0.4, f"{variant}, {told}: who sees what", fontsize=11)

        costs().put(ax, 4.8, 0.25, [(m, 100 * cost[variant][m - 1])], color=SKY, mec=BLACK)
        missed = np.flatnonzero(~seen[t, : t + 1])
        sight = (seen & ~later).sum() / (~later).sum()
        misses = f"misses {len(missed)}: {_ranges(missed)}" if len(missed) else "misses none"
        note = (
            f"Output {t} sees {seen[t].sum()} of the {t + 1} inputs up to it, {misses}. All outputs together see "
            f"{100 * sight:.0f} % of what they may. The blocks cost {100 * cost[variant][m - 1]:.0f} % of vanilla's multiplications."
        )
        cells = np.array(list(KINDS), dtype=str)[kind]
        names = [f"output {i}" for i in range(T)], [f"input {j}" for j in range(T)]
        return View(
            figure, note, grids=[Grid((x, y, size, size), *names, cells, click=("output", None))]
        )

    controls = dict(
        variant=Choice("variant", VARIANTS),
        bottleneck=Slider("bottleneck m", T // 4, T, 1),
        output=Slider("output t", T - 1, T - 1),
    )
    return explorer("perceiver explorer", draw, controls)


def _ranges(numbers: np.ndarray) -> str:
    """8, 9, 10, 12 as "8 … 10, 12"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} … {run[-1]}" for run in runs)
