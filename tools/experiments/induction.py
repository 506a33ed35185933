"""Train chapter 14's two-layer model with several seeds, and test its induction heads.

python tools/experiments/induction.py [--seeds 0 1 2] [--out data/results/induction.json]

The texts, the model and the schedule are those of section 14.2; its functions are taken from the
page. One minute per seed; a seed that the file holds is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from page_code import page_code

import kt_core as kt
from kt_core.corpora.files import write_json
from kt_core.runs.checkpoints import hardware
from kt_course.chapters.what_does_it_know import solutions
from kt_course.exercises import my_gpt

STEPS, PERIOD, N_TEXTS = 2000, 11, 100
PAGE = page_code(
    "14_what_does_it_know",
    ("VOCABULARY", "LENGTH", "repeated_texts", "batches", "attention_weights", "switched_off"),
    **dict(kt=kt, math=math, torch=torch, record_inputs=solutions.record_inputs),
)


def train(seed: int, steps: int = STEPS) -> torch.nn.Module:
    """Train a two-layer GPT of the course's own pieces on repeated texts."""
    mine = my_gpt.load()
    torch.manual_seed(seed)
    shape = dict(n_layer=2, n_head=4, n_embd=64, dropout=0.0)
    model = mine.GPT(kt.GPTConfig(PAGE.VOCABULARY, PAGE.LENGTH, **shape))
    torch.nn.init.normal_(model.pos_emb, std=0.02)
    rates = [3e-3 * min(1, (i + 1) / 100, 4 * (steps - i) / steps) for i in range(steps)]
    mine.train(model, PAGE.batches(steps, torch.Generator().manual_seed(seed)), rates)
    return model.eval()


def measure(model: torch.nn.Module) -> dict:
    """Score each head, and the predicted repetitions after each intervention (correct, of n)."""
    texts, targets = PAGE.repeated_texts(N_TEXTS, PERIOD, torch.Generator().manual_seed(99))
    other = torch.randint(
        1, PAGE.VOCABULARY, texts.shape, generator=torch.Generator().manual_seed(5)
    )
    scored, heads = targets != 0, range(model.config.n_head)

    def correct(logits: torch.Tensor) -> int:
        return int((logits.argmax(-1) == targets)[scored].sum())

    def correct_without(layer: int, off: list[int]) -> int:
        edits = PAGE.switched_off(model, [(layer, head) for head in off])
        return correct(solutions.run_with_edits(model, texts, edits))

    maps = [PAGE.attention_weights(model, texts, layer) for layer in range(2)]
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
