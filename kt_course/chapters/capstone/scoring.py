"""`kt score`: answer a run's test questions once, and compare the answers with the baseline's."""

import json
import re
import shlex
import time
from dataclasses import asdict
from pathlib import Path

from kt_core.corpora.files import read_json, write_json
from kt_core.corpora.loading import load_corpus
from kt_core.corpora.textfiles import write_predictions
from kt_core.evaluation import exact_match, london_baseline
from kt_core.runs.checkpoints import load_checkpoint
from kt_core.runs.experiment import Result, digest
from kt_core.runs.phases import evaluate
from kt_core.runs.recipes import RECIPES, SECTIONS
from kt_course.shipped import shipped_result
from kt_course.statistics import compare_correct, score_table

BUDGET = 20  # CPU minutes


def score(run: Path, /) -> None:
    """Answer the test questions of a finished run, and print the outcome. It works once per run.

    Args:
        run: The run's folder, trained with `kt run --no-test`.
    """
    print(score_test(run))


def score_test(run: str | Path) -> str:
    """Answer the test questions, keep answers, score and attempt in the run's folder, and report.

    A run that is unfinished or was scored before, or whose corpus has changed, is a ValueError.
    """
    result = Result.read(run)
    details, path = result.details, result.path
    if is_scored(details):
        when = details.get("scored", {}).get("date", "by kt run")
        raise ValueError(
            f"{path.name}: the test questions were answered already ({when}): {result.test}. "
            "Asked again, they would be dev questions"
        )
    corpus = load_corpus(details["corpus"], block_size=details["recipe"]["model"]["block_size"])
    if digest(corpus) != details["corpus_sha256"]:
        raise ValueError(f"{path.name}: {details['corpus']} has changed since the training")
    model, vocab, _ = load_checkpoint(path / "finetuned.safetensors")
    answers, test = evaluate(model, vocab, corpus.test)
    write_predictions(path / "predictions" / "test.txt", answers)
    others = [read_json(other) for other in path.resolve().parent.glob("*/result.json")]
    scored = dict(date=time.strftime("%Y-%m-%d"), attempt=1 + sum(map(is_scored, others)))
    details |= dict(test=test and test.as_dict(), scored=scored)
    write_json(path / "result.json", details)
    scores = {"dev": result.dev, "test": test}
    scores["test, always London"] = test and london_baseline(corpus.test)
    parts = [score_table({name: s for name, s in scores.items() if s}), *paired(corpus, answers)]
    cost = f"attempt {scored['attempt']}, {cpu_minutes(details):.1f} of {BUDGET} CPU minutes"
    return "\n\n".join(map(str, [*parts, cost, toml_entry(path.name, details)]))


def is_scored(details: dict) -> bool:
    """Whether the test questions of a run were answered."""
    return details.get("test") is not None or "scored" in details


def paired(corpus, answers: list[str]) -> list:
    """Compare with the baseline on the same test questions; nothing for another corpus."""
    results = shipped_result("capstone")
    if digest(corpus) != results["corpus_sha256"]:
        return []
    pairs = zip(answers, corpus.test, strict=True)
    correct = [bool(exact_match([answer], [gold]).correct) for answer, (_, gold) in pairs]
    baseline = [mark == "1" for mark in results["runs"]["baseline"]["test_correct"]]
    return [compare_correct({"this run": correct, "the baseline": baseline})]


def cpu_minutes(details: dict) -> float:
    """Return the wall-clock minutes of a run's trainings, times the threads that they used."""
    threads = re.search(r"(\d+) threads", details["hardware"])
    costs = [details[key]["seconds"] for key in ("pretraining", "finetuning") if details.get(key)]
    return int(threads[1]) * sum(costs) / 60 if threads else float("inf")  # a GPU is no CPU


def toml_entry(name: str, details: dict) -> str:
    """Return a scored run's entry for the leaderboard, with the command that trains it again."""
    recipe, named = details["recipe"], asdict(RECIPES[details["recipe"]["name"]])
    words = ["kt", "run", "--corpus", details["corpus"], "--variant", details["variant"]]
    words += ["--recipe", recipe["name"], "--seed", str(details["seed"])]
    words += ["--no-pretrain"] if details["kind"] == "no-pretrain" else []
    for section in SECTIONS:
        new = {key: v for key, v in recipe[section].items() if v != named[section][key]}
        words += [word for k, v in new.items() for word in ("--set", f"{section}.{k}={v}")]
    entry = dict(name=name, by="", command=shlex.join(words), **details["scored"])
    entry["cpu_minutes"] = round(cpu_minutes(details), 1)
    for split in ("dev", "test"):
        entry[split] = [(details[split] or {}).get(key, 0) for key in ("correct", "total")]
    return "\n".join(["[[entries]]", *(f"{k} = {json.dumps(v)}" for k, v in entry.items())])
