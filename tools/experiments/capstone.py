"""Train the capstone's reference runs, and gather them in data/results/capstone.json.

    python tools/experiments/capstone.py [--runs runs/capstone]      resumable

The baseline is the quick recipe as it is. Its shorter form, 16 epochs, is the test bed of the
ablation: rope against vanilla, three seeds each, compared on dev. Three runs answer the test
questions, once each, for data/leaderboard.toml.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kt_core.corpora.files import write_json
from kt_core.corpora.loading import load_corpus
from kt_core.corpora.textfiles import read_predictions
from kt_core.evaluation import exact_match, london_baseline
from kt_core.runs.experiment import Result, digest, run_experiment
from kt_course.chapters.capstone.scoring import cpu_minutes, is_scored, score_test

CORPUS = "bios:people=2000,lines=1"
TARGET = Path("data/results/capstone.json")
SHORT = {"pretrain.epochs": 16}
RUNS = {"baseline": ("rope", 0, {})}
RUNS |= {f"{v} {seed}": (v, seed, SHORT) for v in ("rope", "vanilla") for seed in (0, 1, 2)}
SCORED = "rope 0", "vanilla 0", "baseline"


def marks(answers: list[str], pairs: list) -> str:
    """Write who was answered correctly as 1 and 0, in the order of the questions."""
    return "".join(
        str(exact_match([answer], [gold]).correct)
        for answer, (_, gold) in zip(answers, pairs, strict=True)
    )


def describe(result: Result, corpus) -> dict:
    """Return what the chapter shows of a run."""
    details = result.details
    lines = (result.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    curve = [row for row in map(json.loads, lines) if row["phase"] == "pretrain" and "dev" in row]
    row = dict(variant=details["variant"], seed=details["seed"], parameters=details["parameters"])
    row |= dict(cpu_minutes=round(cpu_minutes(details), 2), dev=details["dev"])
    row["curve"] = [[round(each["seconds"] / 60, 2), each["dev"]] for each in curve]
    answers = read_predictions(result.path / "predictions" / "dev.txt")
    row["dev_correct"] = marks(answers, corpus.dev)
    if is_scored(details):
        tested = read_predictions(result.path / "predictions" / "test.txt")
        row |= dict(dev_answers=answers, test=details["test"], scored=details["scored"])
        row["test_correct"] = marks(tested, corpus.test)
    return row


def main() -> None:
    """Train the missing runs, answer the test questions of three, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/capstone"))
    folder = parser.parse_args().runs
    if not TARGET.exists():
        write_json(TARGET, dict(corpus_sha256=""))  # no baseline to compare with so far
    corpus, runs = load_corpus(CORPUS), {}
    for name, (variant, seed, settings) in RUNS.items():
        out = folder / name.replace(" ", "-")
        fixed = CORPUS, variant, "quick", True, seed, out
        runs[name] = run_experiment(*fixed, overrides=settings, resume=True, test=False)
    for name in SCORED:
        if not is_scored(runs[name].details):
            print(score_test(runs[name].path), "\n")
            runs[name] = Result.read(runs[name].path)
    table = dict(corpus=CORPUS, corpus_sha256=digest(corpus), recipe="quick", short=SHORT)
    table |= dict(hardware=runs["baseline"].details["hardware"])
    table |= {split: london_baseline(getattr(corpus, split)).as_dict() for split in ("dev", "test")}
    table["runs"] = {name: describe(result, corpus) for name, result in runs.items()}
    write_json(TARGET, table)


if __name__ == "__main__":
    main()
