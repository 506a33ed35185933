"""Compare models on the odd-one-out images of chapter 13, with three seeds.

    python tools/experiments/vision.py          # writes data/results/vision.json, about 8 minutes

Every model takes the same number of steps on images of train digits. Steps and rates were chosen
on dev images; the test images are used here only. Seeds change weights and training images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from kt_core.corpora.files import write_json
from kt_core.models import GPTConfig
from kt_core.runs.checkpoints import hardware
from kt_course.chapters.vision_transformer import composites
from kt_course.chapters.vision_transformer.baselines import (
    CNN,
    UniformAttention,
    classical_answers,
    name_and_count,
)
from kt_course.chapters.vision_transformer.solutions import ViT, attention_rollout
from kt_course.exercises.training import schedule

SEEDS = (0, 1, 2)
NAMING_STEPS, ODD_STEPS, BATCH, PEAK = 300, 1200, 128, 3e-3
N_TEST, N_DEV, N_CLASSICAL = 1000, 500, 4000
CONFIG = GPTConfig(10, block_size=10, n_layer=2, n_head=4, n_embd=64, dropout=0.0, qk_norm=True)


def train(model: nn.Module, loss_of: Callable, steps: int, peak: float, every: Callable) -> None:
    """The loop of the page; `every` is called after each 100 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    for step, rate in enumerate(schedule(steps, peak), 1):
        optimizer.param_groups[0]["lr"] = rate
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            every(step)


def build(kind: str) -> nn.Module:
    """Make an untrained model with a layer that names the digit of each cell."""
    model = CNN(9) if kind == "CNN" else ViT(CONFIG, composites.CELL, 9)
    if kind == "uniform":
        for block in model.blocks:
            uniform = UniformAttention(CONFIG.n_embd, CONFIG.n_head, CONFIG.qk_norm)
            uniform.load_state_dict(block.attn.state_dict())
            block.attn = uniform
    model.namer = nn.Linear(CONFIG.n_embd, 10)
    return model


def names_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits of the digit in each cell; the last nine vectors belong to the cells."""
    return model.namer(model.encode(images)[:, -composites.N_CELLS :])


@torch.no_grad()
def answers_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part).argmax(-1) for part in images.split(500)])


def run(kind: str, seed: int, digits: dict, test: composites.Composites, dev) -> tuple:
    """Train one model: (the model, its row of the table)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(100 + seed)
    model, began, curve = build(kind), time.process_time(), []

    def naming_loss(model):
        batch = composites.random_digits(digits["train"], BATCH, generator)
        return F.cross_entropy(names_of(model, batch.images).mT, batch.classes)

    def odd_loss(model):
        batch = composites.odd_one_out(digits["train"], BATCH, generator)
        return F.cross_entropy(model(batch.images), batch.answer)

    def measure(step):
        correct = int((answers_of(model, dev.images) == dev.answer).sum())
        curve.append([step, correct])

    if kind != "scratch":
        train(model, naming_loss, NAMING_STEPS, PEAK, lambda step: None)
    with torch.no_grad():
        named = names_of(model, test.images)
        cells = int((named.argmax(-1) == test.classes).sum())
        rule = int((name_and_count(named) == test.answer).sum())
    train(model, odd_loss, ODD_STEPS, PEAK if kind != "CNN" else 2e-3, measure)
    correct = int((answers_of(model, test.images) == test.answer).sum())
    row = dict(kind=kind, seed=seed, correct=correct, curve=curve, cells_named=cells, rule=rule)
    row["parameters"] = sum(p.numel() for p in model.parameters())
    return model, row | {"seconds": round(time.process_time() - began, 1)}


@torch.no_grad()
def attention_facts(model: nn.Module, test: composites.Composites) -> dict:
    """How often the patch with the largest weight is the odd one out, by kind of map."""
    is_correct = answers_of(model, test.images) == test.answer
    model(test.images)
    maps = [block.attn.weights for block in model.blocks]
    kinds = {f"layer {i}": layer.mean(1)[:, 0, 1:] for i, layer in enumerate(maps)}
    kinds["rollout"] = attention_rollout(maps)[:, 0, 1:]
    facts = {}
    for name, weights in kinds.items():
        hits = weights.argmax(-1) == test.answer
        on_odd = weights.gather(1, test.answer[:, None]).squeeze(1) / weights.sum(-1)
        facts[name] = {
            "hits": int(hits.sum()),
            "hits_when_correct": int(hits[is_correct].sum()),
            "correct": int(is_correct.sum()),
            "share_on_odd": round(float(on_odd.mean()), 4),
        }
    return facts


def main() -> None:
    """Train all models, test them, write the file."""
    torch.set_num_threads(1)
    digits = composites.load_digits()
    test = composites.odd_one_out(digits["test"], N_TEST, torch.Generator().manual_seed(1))
    dev = composites.odd_one_out(digits["dev"], N_DEV, torch.Generator().manual_seed(2))
    table = dict(
        task="odd one out of nine digits",
        n_test=N_TEST,
        n_dev=N_DEV,
        settings=dict(
            naming_steps=NAMING_STEPS, steps=ODD_STEPS, batch=BATCH, peak=PEAK, peak_cnn=2e-3
        ),
        hardware=hardware(torch.device("cpu")),
        rows=[],
    )
    for seed in SEEDS:
        for kind in ("ViT", "uniform", "CNN", "scratch"):
            model, row = run(kind, seed, digits, test, dev)
            if kind == "ViT":
                row["attention"] = attention_facts(model, test)
            table["rows"].append(row)
            print(row["kind"], seed, row["correct"], row["seconds"], flush=True)
            write_json(Path("data/results/vision.json"), table)
        generator = torch.Generator().manual_seed(100 + seed)
        sample = composites.odd_one_out(digits["train"], N_CLASSICAL, generator)
        for kind, answers in classical_answers(sample, test).items():
            correct = int((answers == test.answer).sum())
            table["rows"].append(dict(kind=kind, seed=seed, correct=correct))
        write_json(Path("data/results/vision.json"), table)


if __name__ == "__main__":
    main()
