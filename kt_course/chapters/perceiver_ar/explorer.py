"""Perceiver explorer: how many latents, which inputs each output depends on, and the cost."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from kt_core.models import GPT, GPTConfig
from kt_course.explorers.panels import Chart, chart, frame, legend, picture
from kt_course.explorers.shell import Choice, Grid, Slider, View, explorer, page
from kt_course.figures.style import BLACK, BLUE, GREY, ORANGE, SKY, VERMILION

VARIANTS = ("perceiver", "perceiver_ar")
KINDS = {
    "read": BLUE,
    "earlier, not read": ORANGE,
    "future, not read": GREY,
    "future, read: a leak": BLACK,
}
SIZE, LEFT, TOP = 3.7, 0.75, 0.55  # of the table of inputs and outputs, in inches


@lru_cache(maxsize=256)
def reach(variant: str, T: int, bottleneck: int) -> torch.Tensor:
    """Find which inputs (columns) each output (row) of an untrained model depends on: (T, T) bool.

    Every input is another character, so the gradient of an output for the character table is its
    gradient for each input. In float64, input and output are independent exactly where it is 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(GPTConfig(T, T, 3, 2, 8, variant, bottleneck, dropout=0.0)).double().eval()
        mix = torch.randn(T, dtype=torch.double)  # of the logits, whose plain sum might cancel out
    outputs = model(torch.arange(T)[None])[0][0] @ mix  # (T,)
    each = torch.eye(T, dtype=torch.double)
    table = model.tok_emb.weight  # (T, C), row j is input j
    gradients = torch.autograd.grad(outputs, table, each, is_grads_batched=True)[0]  # (T, T, C)
    return gradients.ne(0).any(-1)


def count_multiplications(config: GPTConfig, T: int) -> int:
    """Count the multiplications of all blocks on T inputs: matrix products and attention."""
    d, L = config.n_embd, config.n_layer
    layers = [(T, T)] * L  # (queries, keys) of each block
    if config.has_latents:
        m = min(config.bottleneck, T) if config.variant == "perceiver" else -(-T // config.stride)
        keys = m + (config.variant == "perceiver_ar")  # of the last block, with the null latent
        layers = [(m, T), *[(m, m)] * (L - 2), (T, keys)]
    # per query: d² to make it, d² to mix the heads, 8 d² in the MLP; per key: 2 d²; per pair: 2 d
    return sum(10 * q * d**2 + 2 * k * d**2 + 2 * q * k * d for q, k in layers)


def explore_perceiver(T: int = 32, *, n_layer: int = 4, n_embd: int = 128) -> Any:
    """Change the bottleneck and see which inputs each output depends on, and what the blocks cost.

    Args:
        T: Inputs, 8 ... 64. A click on the picture chooses an output.
        n_layer, n_embd: Size of the model whose cost is compared with vanilla's.
    """
    if not 8 <= T <= 64:
        raise ValueError(f"explore_perceiver draws 8 to 64 inputs, not {T}")

    def config(variant: str, m: int = 1) -> GPTConfig:
        return GPTConfig(2, T, n_layer, 1, n_embd, variant, m)

    vanilla = count_multiplications(config("vanilla"), T)
    costs = {
        v: [100 * count_multiplications(config(v, m), T) / vanilla for m in range(1, T + 1)]
        for v in VARIANTS
    }

    @lru_cache(maxsize=1)
    def cost_chart() -> Chart:
        title = f"Cost of {n_layer} blocks with {n_embd} channels"
        return chart(4.1, 3.75, lambda ax: draw_costs(ax, costs), title)

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        variant, m, t = state["variant"], state["bottleneck"], state["output"]
        is_read, cost = reach(variant, T, m).numpy(), costs[variant][m - 1]
        figure, ax = page(9, 4.9)
        stride = f", stride {config(variant, m).stride}" * (variant == "perceiver_ar")
        title = f"{variant}, m = {m}{stride}: inputs that each output depends on"
        ax.text(LEFT, 0.4, title, fontsize=11)
        grid = draw_reach(ax, is_read, t)
        cost_chart().put(ax, 4.8, 0.25, [(m, cost)], color=SKY, mec=BLACK)
        note = f"{describe_reach(is_read, t)} The blocks cost {cost:.0f} % of vanilla's."
        return View(figure, note, grids=[grid])

    controls = dict(
        variant=Choice("variant", VARIANTS),
        bottleneck=Slider("bottleneck m", T // 4, T, 1),
        output=Slider("output t", T - 1, T - 1),
    )
    return explorer("perceiver explorer", draw, controls)


def draw_costs(ax: Axes, costs: Mapping[str, list[float]]) -> None:
    """Draw the cost over the bottleneck, a curve per variant."""
    n = len(costs[VARIANTS[0]])
    for name, colour, style in zip(VARIANTS, (VERMILION, BLUE), ("--", "-"), strict=True):
        line = dict(color=colour, ls=style, drawstyle="steps-mid", label=name)
        ax.plot(range(1, n + 1), costs[name], **line)
    ax.axhline(100, color=GREY, lw=1, label="vanilla")
    ax.set(xlabel="bottleneck m", ylabel="multiplications (% of vanilla)", xlim=(0, n + 1))
    ax.set_ylim(0, max(110, 1.05 * max(map(max, costs.values()))))
    ax.legend(fontsize=8, loc="lower right")


def draw_reach(ax: Axes, is_read: np.ndarray, t: int) -> Grid:
    """Draw the table of outputs (rows) and inputs (columns), with output t framed."""
    T = len(is_read)
    is_later = np.arange(T) > np.arange(T)[:, None]
    kind = np.where(is_later, np.where(is_read, 3, 2), np.where(is_read, 0, 1))
    picture(ax, np.array([to_rgba(c) for c in KINDS.values()])[kind], LEFT, TOP, SIZE, SIZE)
    bottom, cell = TOP + SIZE, SIZE / T
    for i in range(0, T, 8):
        at = (i + 0.5) * cell
        ax.text(LEFT - 0.06, TOP + at, i, ha="right", va="center", fontsize=8)
        ax.text(LEFT + at, bottom + 0.05, i, ha="center", va="top", fontsize=8)
    ax.text(LEFT - 0.45, TOP + SIZE / 2, "output", rotation=90, ha="center", va="center")
    ax.text(LEFT + SIZE / 2, bottom + 0.28, "input", ha="center", va="center")
    frame(ax, LEFT, TOP + t * cell, SIZE, cell, BLACK)
    present = {name: c for i, (name, c) in enumerate(KINDS.items()) if (kind == i).any()}
    legend(ax, LEFT, bottom + 0.45, present)
    names = [f"output {i}" for i in range(T)], [f"input {j}" for j in range(T)]
    texts = np.array(list(KINDS), dtype=str)[kind]
    return Grid((LEFT, TOP, SIZE, SIZE), *names, texts, click=("output", None))


def describe_reach(is_read: np.ndarray, t: int) -> str:
    """Say which inputs output t depends on, and how many all outputs together do."""
    allowed = np.tril(np.ones_like(is_read))
    missing = np.flatnonzero(~is_read[t, : t + 1])
    runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1)
    ranges = ", ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]} … {r[-1]}" for r in runs if len(r))
    misses = f"misses {len(missing)}: {ranges}" if len(missing) else "misses none"
    share = 100 * (is_read & allowed).sum() / allowed.sum()
    return (
        f"Output {t} depends on {is_read[t].sum()} of the {t + 1} inputs up to it, {misses}. "
        f"All outputs together depend on {share:.0f} % of the inputs that they may."
    )
