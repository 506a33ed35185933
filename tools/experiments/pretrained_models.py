"""Repeat two comparisons of chapter 11 with several seeds: tokenizers, and conversion mistakes.

python tools/experiments/pretrained_models.py [--seeds 0 1 2] [--out FILE]

Three small GPTs with different tokenizers are trained as in section 11.4. The one that reads
characters is then put into GPT-2's class with one mistake at a time, as in section 11.5.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

import kt_core as kt
from kt_core.corpora.files import write_json
from kt_core.runs.checkpoints import hardware
from kt_course.chapters.pretrained_models import hub
from kt_course.exercises import my_gpt

STEPS, BLOCK_SIZE, VOCABULARIES = 150, 128, (400, 4000)
SHAPE = dict(n_layer=2, n_head=4, n_embd=64, dropout=0.0)


@torch.no_grad()
def cost(data: hub.TokenLines, logits_of: Callable) -> float:
    """Return the bits per character that a model needs for all lines of `data`."""
    nats = 0.0
    for first in range(0, len(data), 100):
        x, y = data.stack([data.tokens(i) for i in range(first, min(first + 100, len(data)))])
        flat = logits_of(x).flatten(0, 1)
        nats += F.cross_entropy(flat, y.flatten(), ignore_index=0, reduction="sum").item()
    return nats / math.log(2) / data.characters


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


def mistakes(ours: torch.nn.Module, data: hub.TokenLines) -> dict[str, float]:
    """Return the bits per character after each mistake of the conversion to GPT-2."""

    def through_gpt2(change: Callable = lambda weights: None, **settings) -> float:
        model = hub.as_gpt2(ours, **settings)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        change(weights)
        model.load_state_dict(weights)
        return cost(data, lambda x: model(x).logits)

    def in_attention(rearrange: Callable) -> Callable:
        def change(weights: dict) -> None:
            for name in weights:
                if name.endswith("c_attn.weight"):
                    weights[name] = rearrange(*weights[name].chunk(3, dim=1))

        return change

    def shift_positions(weights: dict) -> None:
        weights["transformer.wpe.weight"] = weights["transformer.wpe.weight"].roll(1, 0)

    def tie_head(weights: dict) -> None:
        weights["lm_head.weight"] = weights["transformer.wte.weight"]

    swap = in_attention(lambda q, k, v: torch.cat([k, q, v], 1))
    transpose = in_attention(lambda q, k, v: torch.cat([q.T, k.T, v.T], 1))
    return {
        "no mistake": through_gpt2(),
        "LayerNorm with BERT's ε, 1e-12": through_gpt2(layer_norm_epsilon=1e-12),
        "GELU by tanh": through_gpt2(activation_function="gelu_new"),
        "positions shifted by one": through_gpt2(shift_positions),
        "scores not divided by √d": through_gpt2(scale_attn_weights=False),
        "query and key exchanged": through_gpt2(swap),
        "W not transposed": through_gpt2(transpose),
        "head tied to the token vectors": through_gpt2(tie_head),
    }


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
    costs, result = {}, {}
    for name, tokenizer in tokenizers.items():
        model, data = train(tokenizer, learn, seed, steps), hub.TokenLines(tokenizer, few)
        costs[name] = cost(data, lambda x, model=model: model(x)[0])
        if name == "characters":
            result = mistakes(model, data)
    return dict(seed=seed, lines=len(few), bits_per_character=costs, mistakes=result)


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
