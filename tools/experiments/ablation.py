"""What is each ingredient of our recipe worth? Change one, train for as many characters, compare.

    python tools/experiments/ablation.py --corpus bios:people=60 --characters 3e5 \
        --out data/results/ablation-bios.json

Every trial is a run of its own (`run_experiment`): the same command continues where it was stopped,
and further seeds or ingredients add to what was trained before. All rows read equally many
characters, not equally many epochs, because an example of a whole line is three times as long as a
window. Answers to dev and test questions, and those of all seeds, are pooled for the interval.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cyclopts

from kt_core.corpora.files import write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.evaluation import Score
from kt_core.runs.experiment import Result, run_experiment
from kt_core.runs.recipes import Recipe, recipe
from kt_course.figures.plots import accuracy_bars
from kt_course.tools.tables import percent, text_table

Names = Annotated[list[str], cyclopts.Parameter(negative=())]


def ingredients() -> dict[str, dict]:
    """Each ingredient's label, settings, variant, and whether it is trained with every seed."""
    path = Path(__file__).with_suffix(".toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def characters_per_epoch(chosen: Recipe, corpus: Corpus) -> int:
    """Characters that one epoch of pretraining reads, without padding."""
    data = chosen.pretrain_data(corpus, corpus.vocab)
    return sum(len(data.tokens(i, 0)[0]) for i in range(len(data)))


def ablate(
    names: Names = (),
    /,
    *,
    corpus: str = "bios:people=200",
    variant: str = "rope",
    base: str = "quick",
    characters: float = 1e6,
    seeds: list[int] = (0, 1, 2),
    runs: Path = Path("runs/ablation"),
    out: Path | None = None,
    device: str = "auto",
) -> dict:
    """Train each ingredient with each seed; print the table and write it.

    Args:
        names: Which ingredients; all by default.
        corpus, variant, base: What is trained, with which recipe as the baseline.
        characters: Read by each pretraining.
        seeds: Rows that are no headline take the first one alone.
        runs: Folder for the runs.
        out: File for the table, as JSON; its figure is written beside it.
    """
    known = ingredients()
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no ingredient {', '.join(unknown)}; there are {', '.join(known)}")
    names, data, recipes = list(names) or list(known), load_corpus(corpus), {}
    for name in names:
        chosen = recipe(base, **known[name].get("settings", {}))
        epochs = round(characters / characters_per_epoch(chosen, data), 3)
        recipes[name] = recipe(chosen, **{"pretrain.epochs": epochs})
    results: dict[str, list[Result]] = {name: [] for name in names}
    for seed in seeds:  # a whole table of one seed first: an early view of all rows
        for name in names:
            if seed == seeds[0] or known[name].get("headline", False):
                which, folder = known[name].get("variant", variant), runs / f"{name}-seed{seed}"
                given = corpus, which, recipes[name], True, seed, folder
                results[name].append(run_experiment(*given, device=device, resume=True))
    rows = [make_row(name, known[name], found) for name, found in results.items()]
    table = dict(corpus=corpus, variant=variant, recipe=base, kind=recipe(base).kind)
    table |= dict(characters=characters, seeds=list(seeds), rows=rows)
    table["hardware"] = results[names[0]][0].details["hardware"]
    print(as_text(table))
    if out:
        write_json(out, table)
        draw(table).savefig(out.with_suffix(".png"), dpi=110)
    return table


def pool(results: Sequence[Result]) -> Score:
    """Correct answers to dev and test questions over several runs."""
    scores = [score for result in results for score in (result.dev, result.test) if score]
    return Score(sum(s.correct for s in scores), sum(s.total for s in scores))


def make_row(name: str, ingredient: dict, results: Sequence[Result]) -> dict:
    """One ingredient's row: pooled score, the accuracy of each seed, cost."""
    details, costs = results[0].details, [r.details["pretraining"] for r in results]
    return dict(
        name=name,
        label=ingredient["label"],
        settings=ingredient.get("settings", {}),
        variant=details["variant"],
        kind=details["kind"],
        score=pool(results).as_dict(),
        trained_with=[result.details["seed"] for result in results],
        seeds=[round(pool([result]).accuracy, 4) for result in results],
        epochs=costs[0]["epochs"],
        characters=costs[0]["characters"],
        seconds=[cost["seconds"] for cost in costs],
        steps=costs[0]["steps"],
    )


def as_text(table: dict) -> str:
    """The rows, best first."""
    lines = []
    for row in sorted(table["rows"], key=lambda row: -row["score"]["accuracy"]):
        score, seeds = row["score"], " ".join(f"{100 * value:.0f}" for value in row["seeds"])
        lines.append([row["label"], percent(score["accuracy"], score["low"], score["high"]), seeds])
    return text_table(["ingredient changed", "correct % [95 % interval]", "seeds"], lines, "lrl")


def draw(table: dict):
    """Bars of all rows."""
    scores = [Score(row["score"]["correct"], row["score"]["total"]) for row in table["rows"]]
    n_questions = scores[0].total // len(table["seeds"])
    title = f"{table['characters'] / 1e6:g} M characters, {n_questions} questions"
    bars = list(zip([row["label"] for row in table["rows"]], scores, strict=True))
    return accuracy_bars(bars, title=f"One ingredient changed: {title}, seeds {table['seeds']}")


if __name__ == "__main__":
    try:
        cyclopts.run(ablate)
    except (ValueError, OSError) as error:
        sys.exit(f"ablation: {error}")
