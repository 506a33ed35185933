"""Train chapter 5's model with several seeds: the learner's GPT and loop, on 120 people.

python tools/experiments/live.py [--seeds 0 1 2] [--out data/results/live.json]
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch

from kt_core.blocks import GPTConfig
from kt_core.corpora.files import write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.datasets import NamePlace, TokenDataset
from kt_core.decoding import answer
from kt_core.evaluation import exact_match, london_baseline
from kt_core.runs.checkpoints import hardware
from kt_core.runs.recipes import Recipe, recipe
from kt_course.chapters.build_a_gpt.solutions import GPT, train
from kt_course.chapters.pretrain_finetune.fill_in_windows import FillInWindows
from kt_course.chapters.pretrain_finetune.solutions import pretrain_finetune

PEOPLE = "bios:people=120,attributes=birth+work"


def run(corpus: Corpus, settings: Recipe, windows: TokenDataset, seed: int) -> dict:
    """Pretrain and finetune one model; return the correct held-out answers after each stage."""
    vocab, model_settings = corpus.vocab, settings.model
    sizes = {name: getattr(model_settings, name) for name in ("n_layer", "n_head", "n_embd")}
    config = GPTConfig(
        len(vocab), block_size=model_settings.block_size, dropout=0.0, qk_norm=True, **sizes
    )
    torch.manual_seed(seed)
    model = GPT(config)
    questions, gold = map(list, zip(*corpus.dev, *corpus.test, strict=True))
    scores = []

    def train_and_ask(model, batches, rates) -> list[float]:
        losses = train(model, batches, rates)
        answers = answer(model, vocab, questions, max_new=24)
        scores.append(exact_match(answers, gold))
        return losses

    stages = settings.pretrain, settings.finetune
    plan = [(math.ceil(stage.epochs), stage.batch_size, stage.lr) for stage in stages]
    pairs, began = NamePlace(corpus.train, vocab, config.block_size), time.perf_counter()
    losses = pretrain_finetune(model, windows, pairs, plan, train_and_ask)
    return dict(
        seed=seed,
        pretrained=scores[0].as_dict(),
        finetuned=scores[1].as_dict(),
        last_loss=round(sum(losses[0][-50:]) / 50, 4),
        steps=len(losses[0]),
        seconds=round(time.perf_counter() - began, 1),
    )


def main() -> None:
    """Train with all seeds, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("data/results/live.json"))
    parser.add_argument("--corpus", default=PEOPLE)
    options = parser.parse_args()
    corpus, settings, runs = load_corpus(options.corpus), recipe("live"), []
    london = london_baseline([*corpus.dev, *corpus.test]).as_dict()
    for seed in options.seeds:
        windows = FillInWindows(corpus.documents, corpus.vocab, seed=0, drop=settings.data.drop)
        runs.append(run(corpus, settings, windows, seed))
        print(runs[-1], flush=True)
        facts = dict(corpus=options.corpus, recipe="live", london=london, runs=runs)
        write_json(options.out, facts | dict(hardware=hardware("cpu")))


if __name__ == "__main__":
    main()
