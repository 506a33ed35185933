"""Train chapter 14's two-layer model with several seeds, and test its induction heads.

python tools/experiments/induction.py [--seeds 0 1 2] [--out data/results/induction.json]

The texts, the model and the schedule are those of section 14.2. One minute per seed; a seed that
the file holds is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import kt_core as kt
from kt_core.corpora.files import write_json
from kt_core.runs.checkpoints import hardware
from kt_course.chapters.what_does_it_know import solutions
from kt_course.exercises import my_gpt

VOCABULARY, LENGTH, STEPS, BATCH, PERIOD, N_TEXTS = 32, 40, 2000, 32, 11, 100


def repeated_texts(
    n: int, period: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x, y (n, LENGTH): random tokens that repeat; y is 0 where the next one is random."""
    once = torch.randint(1, VOCABULARY, (n, period), generator=generator)
    text = once.repeat(1, LENGTH // period + 2)[:, : LENGTH + 1]
    x, y = text[:, :-1], text[:, 1:].clone()
    y[:, : period - 1] = 0
    return x, y


def batches(steps: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of texts, each batch with a period of its own."""
    for _ in range(steps):
        period = int(torch.randint(6, 17, (1,), generator=generator))
        yield repeated_texts(BATCH, period, generator)


def train(seed: int, steps: int = STEPS) -> torch.nn.Module:
    """Train a two-layer GPT of the course's own pieces on repeated texts."""
    mine = my_gpt.load()
    torch.manual_seed(seed)
    shape = dict(n_layer=2, n_head=4, n_embd=64, dropout=0.0)
    model = mine.GPT(kt.GPTConfig(VOCABULARY, LENGTH, **shape))
    torch.nn.init.normal_(model.pos_emb, std=0.02)
    rates = [3e-3 * min(1, (i + 1) / 100, 4 * (steps - i) / steps) for i in range(steps)]
    mine.train(model, batches(steps, torch.Generator().manual_seed(seed)), rates)
    return model.eval()


@torch.no_grad()
def attention_weights(model: torch.nn.Module, ids: torch.Tensor, layer: int) -> torch.Tensor:
    """Compute the attention weights of one layer again, (B, n_head, T, T)."""
    attn, name = model.blocks[layer].attn, f"blocks.{layer}.attn"
    x = solutions.record_inputs(model, ids, [name])[1][name]
    q, k = (
        part(x).unflatten(-1, (model.config.n_head, -1)).transpose(1, 2)
        for part in (attn.query, attn.key)
    )
    scores = q @ k.transpose(-2, -1) / q.size(-1) ** 0.5
    return scores.masked_fill(~kt.causal_mask(ids.size(1)), float("-inf")).softmax(-1)


def without(model: torch.nn.Module, layer: int, heads: list[int]) -> dict:
    """Return edits for run_with_edits: these heads of a layer write nothing."""
    d = model.config.n_embd // model.config.n_head

    def silence(z: torch.Tensor) -> torch.Tensor:
        for head in heads:
            z[..., head * d : (head + 1) * d] = 0
        return z

    return {f"blocks.{layer}.attn.proj": silence}


def measure(model: torch.nn.Module) -> dict:
    """Score each head, and the predicted repetitions after each intervention (correct, of n)."""
    texts, targets = repeated_texts(N_TEXTS, PERIOD, torch.Generator().manual_seed(99))
    other = torch.randint(1, VOCABULARY, texts.shape, generator=torch.Generator().manual_seed(5))
    scored, heads = targets != 0, range(model.config.n_head)

    def correct(logits: torch.Tensor) -> int:
        return int((logits.argmax(-1) == targets)[scored].sum())

    def correct_without(layer: int, off: list[int]) -> int:
        return correct(solutions.run_with_edits(model, texts, without(model, layer, off)))

    maps = [attention_weights(model, texts, layer) for layer in range(2)]
    previous = maps[0].diagonal(-1, -2, -1).mean((0, 2))
    sender = (0, int(previous.argmax()))
    paths = {
        part: correct(solutions.patch_path(model, texts, other, sender, (1, part)))
        for part in ("query", "key", "value")
    }
    return dict(
        n=int(scored.sum()),
        untouched=correct(solutions.run_with_edits(model, texts, {})),
        previous_token=[round(float(value), 3) for value in previous],
        induction=[round(float(v), 3) for v in solutions.induction_score(maps[1], PERIOD)],
        one_head_off=[[correct_without(layer, [head]) for head in heads] for layer in range(2)],
        layer_off=[correct_without(layer, list(heads)) for layer in range(2)],
        sender=list(sender),
        paths=paths,
    )


def main() -> None:
    """Train with all seeds, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("data/results/induction.json"))
    options = parser.parse_args()
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    settings = dict(steps=STEPS, texts=N_TEXTS, period=PERIOD, hardware=hardware("cpu"))
    for seed in sorted(set(options.seeds) - {row["seed"] for row in rows}):
        began = time.perf_counter()
        result = measure(train(seed))
        rows.append(dict(seed=seed, **result, seconds=round(time.perf_counter() - began, 1)))
        print(rows[-1], flush=True)
        write_json(options.out, settings | dict(rows=rows))


if __name__ == "__main__":
    main()
