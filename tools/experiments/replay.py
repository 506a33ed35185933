"""Record chapter 5's training for its replay: the curve, and the model at a few of its steps.

python tools/experiments/replay.py [--seed 0] [--out data]

Writes OUT/results/replay.json and OUT/checkpoints/replay/NAME.safetensors with its card.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from live import PEOPLE

from kt_core.blocks import GPTConfig
from kt_core.corpora.files import write_json
from kt_core.corpora.loading import Corpus, load_corpus, question_name
from kt_core.datasets import NamePlace
from kt_core.decoding import answer
from kt_core.evaluation import exact_match
from kt_core.runs.checkpoints import hardware, save_checkpoint
from kt_core.runs.recipes import recipe
from kt_course.chapters.build_a_gpt.solutions import GPT, train
from kt_course.chapters.pretrain_finetune.fill_in_windows import FillInWindows
from kt_course.chapters.pretrain_finetune.solutions import pretrain_finetune

SNAPSHOTS = {"pretraining": (0, 600, 1200, 1800, 3000, 5400), "finetuning": (60,)}  # steps
EVERY = {"pretraining": 150, "finetuning": 10}  # steps from one point of the curve to the next


def windows_about(corpus: Corpus, people: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """A window with all words and the question about each birthplace: (window, question, city)."""
    rows = []
    for question, city in people:
        name = question_name(question)
        lines = [line for line in corpus.documents if line.startswith(f"{name}. ")]
        own = FillInWindows(lines, corpus.vocab, drop=0.0, favour_first=0)
        draws = (own.window(i, epoch) for epoch in range(20) for i in range(len(own)))
        window = next((words for words, found in draws if found == city), None)
        if window is not None:
            rows.append((window, question, city))
    return rows


class Recorder:
    """Trains a stage, and stops now and then to ask, and to save the model."""

    def __init__(self, corpus: Corpus, folder: Path, facts: dict):
        self.vocab, self.folder, self.facts = corpus.vocab, folder, facts
        self.rows = windows_about(corpus, [*corpus.dev, *corpus.test])
        self.stages, self.before = iter(EVERY), 0
        self.curve: list[dict] = []
        self.snapshots: list[dict] = []

    def train_and_ask(self, model: GPT, batches: list, rates: list[float]) -> list[float]:
        """Train on the batches; a stage begins where the one before ended."""
        stage, points = next(self.stages), []

        def watched():
            for step, batch in enumerate(batches):
                if step % EVERY[stage] == 0:
                    points.append(self.point(model, stage, step))
                yield batch

        losses = train(model, watched(), rates)
        points.append(self.point(model, stage, len(batches)))
        for point in points:
            step = point["step"]
            near = losses[max(0, step - 25) : step + 25]
            self.curve.append(point | dict(step=self.before + step, loss=_mean(near)))
        self.before += len(batches)
        return losses

    def point(self, model: GPT, stage: str, step: int) -> dict:
        """How many windows and questions the model answers; saves it if this is a snapshot."""
        windows, questions, cities = map(list, zip(*self.rows, strict=True))
        scores = {
            name: exact_match(answer(model, self.vocab, texts, max_new=24), cities).correct
            for name, texts in (("windows", windows), ("questions", questions))
        }
        if step in SNAPSHOTS[stage]:
            name = f"{stage}-{step}"
            card = self.facts | dict(stage=stage, step=step, **scores)
            path = self.folder / f"{name}.safetensors"
            save_checkpoint(path, model, self.vocab, card, dtype=torch.float16)
            self.snapshots.append(dict(name=name, stage=stage, step=self.before + step, **scores))
        model.train()
        return dict(stage=stage, step=step, **scores)


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


def main() -> None:
    """Train once, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("data"))
    options = parser.parse_args()
    corpus = load_corpus(PEOPLE)
    settings = recipe("live")
    sizes = {name: getattr(settings.model, name) for name in ("n_layer", "n_head", "n_embd")}
    length = settings.model.block_size
    config = GPTConfig(len(corpus.vocab), block_size=length, dropout=0.0, qk_norm=True, **sizes)
    torch.manual_seed(options.seed)
    model = GPT(config)
    facts = dict(corpus=PEOPLE, recipe="live", seed=options.seed, hardware=hardware("cpu"))
    recorder = Recorder(corpus, options.out / "checkpoints" / "replay", facts)
    stages = settings.pretrain, settings.finetune
    plan = [(math.ceil(stage.epochs), stage.batch_size, stage.lr) for stage in stages]
    windows = FillInWindows(corpus.documents, corpus.vocab, seed=0, drop=settings.data.drop)
    pairs = NamePlace(corpus.train, corpus.vocab, length)
    pretrain_finetune(model, windows, pairs, plan, recorder.train_and_ask)
    result = facts | dict(total=len(recorder.rows), curve=recorder.curve)
    people = [dict(zip(("window", "question", "city"), row, strict=True)) for row in recorder.rows]
    result |= dict(snapshots=recorder.snapshots, people=people)
    write_json(options.out / "results" / "replay.json", result)


if __name__ == "__main__":
    main()
