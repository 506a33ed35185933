"""What does a bottleneck cost, before and after position m? Train small models, one thing varied.

    python tools/experiments/bottleneck.py --seeds 0 1 2 --out data/results/bottleneck-bios.json

All models read the same windows of text, cut at random places, with the loop of chapter 2. Seeds
that the file has already are not trained again. Chapters 6 and 7 show the results.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import cyclopts
import torch
import torch.nn.functional as F

from kt_core.blocks import GPTConfig
from kt_core.corpora.files import write_json
from kt_core.corpora.loading import load_corpus
from kt_core.models import GPT
from kt_course.chapters.build_a_gpt.solutions import train

T, NARROW, BATCH, HELD_OUT = 64, 16, 32, 512
MODELS = {
    "vanilla": ("vanilla", T),
    "perceiver, m = 64": ("perceiver", T),
    "perceiver, m = 16": ("perceiver", NARROW),
    "rope": ("rope", T),
    "perceiver_ar, m = 16": ("perceiver_ar", NARROW),
}


def cut_windows(text, n: int, seed: int):
    """Return x and y, (n, T) each, of n windows at random places."""
    rng = torch.Generator().manual_seed(seed)
    start = torch.randint(0, len(text) - T, (n, 1), generator=rng)
    windows = text[start + torch.arange(T + 1)]
    return windows[:, :-1], windows[:, 1:]


def train_model(text, vocab_size: int, name: str, seed: int, steps: int, peak: float) -> dict:
    """Train one model; return its losses in training and at each position of held-out windows."""
    torch.manual_seed(seed)
    variant, m = MODELS[name]
    sizes = dict(bottleneck=m, dropout=0.0, qk_norm=True)
    model = GPT(GPTConfig(vocab_size, T, 3, 4, 64, variant, **sizes))
    n_train = 9 * len(text) // 10  # the last tenth is held out
    batches = (cut_windows(text[:n_train], BATCH, 10**6 * seed + i) for i in range(steps))
    rates = [peak * min(1, (i + 1) / 50, 2 * (steps - i) / steps) for i in range(steps)]
    losses = train(model, batches, rates)
    x, y = cut_windows(text[n_train:], HELD_OUT, 99)
    with torch.no_grad():
        each = F.cross_entropy(model.eval()(x)[0].transpose(1, 2), y, reduction="none")
    tens = torch.tensor(losses).unfold(0, 10, 10).mean(1)
    return {
        "model": name,
        "seed": seed,
        "training_loss": [round(loss, 3) for loss in tens.tolist()],  # means of 10 steps
        "loss_by_position": [round(loss, 4) for loss in each.mean(0).tolist()],
    }


def main(
    out: Path,
    seeds: list[int] | None = None,
    corpus: str = "bios",
    steps: int = 300,
    peak: float = 5e-3,
) -> None:
    """Train every model with every seed, and write the file after each."""
    sizes = dict(block_size=T, batch_size=BATCH, held_out_windows=HELD_OUT)
    settings = dict(corpus=corpus, steps=steps, peak_rate=peak, **sizes)
    documents = load_corpus(corpus)
    text = torch.tensor(documents.vocab.encode("\n".join(documents.documents)))
    table = {"settings": settings, "hardware": "", "runs": []}
    if out.exists():
        table = json.loads(out.read_text(encoding="utf-8"))
    if table["settings"] != settings:
        raise SystemExit(f"{out} has other settings: {table['settings']}")
    table["hardware"] = f"{platform.machine()}, one thread, torch {torch.__version__}"
    done = {(run["model"], run["seed"]) for run in table["runs"]}
    for seed in seeds or [0, 1, 2]:
        for name in [name for name in MODELS if (name, seed) not in done]:
            run = train_model(text, len(documents.vocab), name, seed, steps, peak)
            table["runs"].append(run)
            write_json(out, table)
            losses = torch.tensor(run["loss_by_position"]).split([NARROW, T - NARROW])
            before, after = (part.mean().item() for part in losses)
            print(
                f"{name}, seed {seed}: {before:.3f} before {NARROW}, {after:.3f} after", flush=True
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    cyclopts.run(main)
