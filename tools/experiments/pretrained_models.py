"""Repeat two comparisons of chapter 11 with several seeds: tokenizers, and conversion mistakes.

python tools/experiments/pretrained_models.py [--seeds 0 1 2] [--out FILE]

Three small GPTs with different tokenizers are trained as in section 11.4. The one that reads
characters is then put into GPT-2's class with one mistake at a time, as in section 11.5. Costs and
mistakes are computed by the page's own code.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from page_code import page_code

import kt_core as kt
from kt_core.corpora.files import write_json
from kt_core.runs.checkpoints import hardware
from kt_course.chapters.pretrained_models import hub, solutions
from kt_course.exercises import my_gpt

STEPS, BLOCK_SIZE, VOCABULARIES = 150, 128, (400, 4000)
SHAPE = dict(n_layer=2, n_head=4, n_embd=64, dropout=0.0)


def train(tokenizer, lines: list[str], seed: int, steps: int = STEPS) -> torch.nn.Module:
    """Train a GPT of the course's own pieces on lines, as tokens of `tokenizer`."""
    settings = kt.TrainConfig(
        steps=steps, batch_size=32, lr=4e-3, optimizer="muon", schedule="linear", cooldown_from=0.3,
        final_fraction=0.0, weight_decay=0.0, seed=seed, device="cpu", log_every=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = my_gpt.load().GPT(kt.GPTConfig(len(tokenizer), 128, **SHAPE))
    kt.Trainer(model, hub.TokenLines(tokenizer, lines), settings).fit()
    return model.eval()


def page(**given) -> SimpleNamespace:
    """The page's `cost`, and with a model `ours` and lines `judged` also its `mistakes`."""
    names = ["cost"]
    if given:
        names += "through_gpt2 in_attention shift_positions correct_cost mistakes".split()
    given |= dict(F=F, torch=torch, hub=hub, bits=solutions.bits)
    return page_code("11_pretrained_models", names, **given)


def run(seed: int, steps: int = STEPS) -> dict:
    """Train the three models of one seed; return their costs and those of the mistakes."""
    corpus = kt.load_corpus("bios")
    documents, cut = corpus.documents, len(corpus.documents) * 9 // 10
    learn, held_out = documents[:cut], documents[cut:]
    few = held_out[:: max(1, len(held_out) // 200)]
    tokenizers = {"characters": hub.char_tokenizer(corpus.vocab, BLOCK_SIZE)}
    for size in VOCABULARIES:
        bpe = hub.train_bpe(learn, size, BLOCK_SIZE)
        tokenizers[f"BPE {len(bpe)}"] = bpe
    costs, mistakes = {}, {}
    for name, tokenizer in tokenizers.items():
        model, data = train(tokenizer, learn, seed, steps), hub.TokenLines(tokenizer, few)
        costs[name] = page().cost(model, data)
        if name == "characters":
            converted = page(ours=model, judged={name: data})
            mistakes = {"no mistake": converted.correct_cost} | converted.mistakes
    return dict(seed=seed, lines=len(few), bits_per_character=costs, mistakes=mistakes)


def main() -> None:
    """Run all seeds, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("data/results/pretrained_models.json"))
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        began = time.perf_counter()
        rows.append(run(seed) | dict(seconds=round(time.perf_counter() - began, 1)))
        print(rows[-1], flush=True)
    write_json(options.out, dict(steps=STEPS, rows=rows, hardware=hardware("cpu")))


if __name__ == "__main__":
    main()
