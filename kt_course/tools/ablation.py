"""What each ingredient of our recipe is worth: take it out, train for the same number of characters, compare.

Every trial is a run of its own (`run_experiment`), so an ablation that was stopped goes on where it was. All rows are
trained on equally many characters, not equally many epochs: an example of whole lines is three times as long as one
of windows. Answers of dev and test are pooled, and those of all seeds, for the interval.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kt_core.corpora.files import write_json
from kt_core.corpora.loading import load_corpus
from kt_core.evaluation import Score
from kt_core.runs.checkpoints import hardware
from kt_core.runs.devices import choose_device
from kt_core.runs.experiment import describe, run_experiment
from kt_core.runs.recipes import Recipe
from kt_core.runs.recipes import recipe as find_recipe


@dataclass(frozen=True)
class Ingredient:
    """One change to the recipe: what it is called, which fields it sets, on which variant if not the baseline's.

    headline: it is trained with every seed; the others with the first alone.
    """

    label: str
    overrides: dict = field(default_factory=dict)
    variant: str | None = None
    headline: bool = False


_CUT = dict(crop="prefix", spans="random", loss="all")  # the assignment's examples

INGREDIENTS: dict[str, Ingredient] = {
    "ours": Ingredient("the whole recipe", headline=True),
    # what pretraining sees
    "head-first": Ingredient("name always in front", dict(head_last=0.0), headline=True),
    "plain": Ingredient("other names and dates left out", dict(plain=1.0)),
    "drop": Ingredient("half of the words around left out", dict(drop=0.5)),
    "ask": Ingredient("half of the windows put as questions", dict(ask=0.5), headline=True),
    "names": Ingredient("names alone, no dates and numbers", dict(spans="names")),
    "leading": Ingredient("names alone, none behind another and a comma", dict(spans="leading")),
    "random-spans": Ingredient("random spans", dict(spans="random"), headline=True),
    "lines": Ingredient("whole lines, no windows", dict(crop="line"), headline=True),
    "prefix": Ingredient("the assignment's crop", dict(crop="prefix")),
    "loss-all": Ingredient("loss on all characters", dict(loss="all")),
    "cut": Ingredient("the assignment's crop, spans and loss", _CUT, headline=True),
    "no-sentinel": Ingredient("no end sentinel", dict(end_sentinel=False)),
    "pure": Ingredient("pairs not mixed in (pure)", dict(mixed_pairs=0), headline=True),
    "pure-ask": Ingredient(
        "not mixed in, half put as questions", dict(mixed_pairs=0, ask=0.5), headline=True
    ),
    "pairs-twice": Ingredient("pairs mixed in twice", dict(mixed_pairs=2)),
    # the model
    "no-qk-norm": Ingredient("no QK-norm", dict(qk_norm=False)),
    "no-zero-init": Ingredient("no zero-initialised projections", dict(zero_init=False)),
    "relu2": Ingredient("squared ReLU instead of GELU", dict(activation="relu2")),
    "learned-positions": Ingredient(
        "learned positions, random offset", variant="vanilla", headline=True
    ),
    "fixed-positions": Ingredient(
        "learned positions, no offset", dict(random_offset=0), "vanilla", headline=True
    ),
    # how it is trained
    "adamw": Ingredient("AdamW alone", dict(optimizer="adamw"), headline=True),
    "dropout": Ingredient("dropout 0.1", dict(dropout=0.1)),
    "weight-decay": Ingredient("weight decay 0.1", dict(weight_decay=0.1)),
    "no-cooldown": Ingredient("no cooldown", dict(schedule="constant")),
    "batch-128": Ingredient("batches of 128", dict(pretrain_batch_size=128)),
    "hard-finetuning": Ingredient(
        "finetuning as the assignment's",
        dict(finetune_epochs=10.0, finetune_lr=6e-4, finetune_muon_lr=0.01, finetune_documents=0),
    ),
    "assignment": Ingredient(
        "all as the assignment has it",
        {
            **_CUT,
            "mixed_pairs": 0,
            "optimizer": "adamw",
            "qk_norm": False,
            "zero_init": False,
            "dropout": 0.1,
            "weight_decay": 0.1,
            "decay_on": "all",
            "pretrain_lr": 6e-3,
            "pretrain_batch_size": 128,
            "schedule": "cosine",
            "final_fraction": 0.1,
            "end_sentinel": False,
            "finetune_epochs": 10.0,
            "finetune_lr": 6e-4,
            "finetune_batch_size": 256,
            "finetune_documents": 0,
        },
        headline=True,
    ),
}


def characters_an_epoch(chosen: Recipe, corpus) -> int:
    """Characters that one epoch of pretraining reads, padding left out."""
    data = chosen.pretrain_data(corpus, corpus.vocab)
    data.set_epoch(0)
    return sum(len(data.tokens(i)[0]) for i in range(len(data)))


def ablate(
    corpus: str = "bios:people=200",
    variant: str = "rope",
    recipe: str | Recipe = "quick",
    *,
    characters: float = 1e6,
    seeds: Sequence[int] = (0, 1, 2),
    names: Sequence[str] = (),
    runs: str | Path = "runs/ablation",
    overrides: dict | None = None,
    device: str = "auto",
) -> dict:
    """Train each of `names` (all of INGREDIENTS if none) with each seed; returns the table as `kt ablate` writes it.

    `characters`: how many each pretraining reads. Rows that are no headline take the first seed alone. `overrides`
    holds for all rows. ValueError for an unknown name.
    """
    names = list(names) or list(INGREDIENTS)
    for name in names:
        if name not in INGREDIENTS:
            raise ValueError(f"no ingredient {name!r}; there are {', '.join(INGREDIENTS)}")
    if not characters > 0 or not seeds:
        raise ValueError(
            f"characters must be above 0 and a seed given, not {characters} and {list(seeds)}"
        )
    data = load_corpus(corpus)
    recipes = {}
    for name in names:
        chosen = find_recipe(recipe, **{**(overrides or {}), **INGREDIENTS[name].overrides})
        epochs = round(characters / characters_an_epoch(chosen, data), 3)
        recipes[name] = find_recipe(chosen, pretrain_epochs=epochs)
    found: dict[str, list[dict]] = {name: [] for name in names}
    for seed in seeds:  # a whole table of one seed first: an early look at all rows
        for name in names:
            if seed != seeds[0] and not INGREDIENTS[name].headline:
                continue
            result = run_experiment(
                corpus,
                INGREDIENTS[name].variant or variant,
                recipes[name],
                True,
                seed,
                Path(runs) / f"{name}-seed{seed}",
                device=device,
                resume=True,
            )
            found[name].append(result.told)
            shown = _pooled([result.told])
            print(
                f"{name}, seed {seed}: {shown.correct} of {shown.total}, {100 * shown.accuracy:.1f}%",
                flush=True,
            )
    base = find_recipe(recipe, **(overrides or {}))
    return dict(
        corpus=corpus,
        variant=variant,
        recipe=base.name,
        kind=base.kind,
        characters=characters,
        seeds=list(seeds),
        overrides=overrides or {},
        hardware=hardware(choose_device(device)),
        rows=[_row(name, told) for name, told in found.items()],
    )


def _pooled(told: Sequence[dict]) -> Score:
    """Right answers of dev and test over several runs."""
    parts = [run[split] for run in told for split in ("dev", "test") if run[split]]
    return Score(sum(p["correct"] for p in parts), sum(p["total"] for p in parts))


def _row(name: str, told: Sequence[dict]) -> dict:
    """One ingredient's row: pooled score, the seeds and the accuracy of each, what the runs cost."""
    each = INGREDIENTS[name]
    return dict(
        name=name,
        label=each.label,
        overrides=each.overrides,
        variant=told[0]["variant"],
        kind=told[0]["kind"],
        score=describe(_pooled(told)),
        trained_with=[run["seed"] for run in told],
        seeds=[round(_pooled([run]).accuracy, 4) for run in told],
        epochs=told[0]["pretraining"]["epochs"],
        characters=told[0]["pretraining"]["characters"],
        seconds=[run["pretraining"]["seconds"] for run in told],
        steps=told[0]["pretraining"]["steps"],
    )


def join(before: dict, now: dict) -> dict:
    """Two tables of the same settings as one: rows of the same name, of other seeds then, are pooled.

    ValueError where the settings differ or a row has a seed in both.
    """
    for key in ("corpus", "variant", "recipe", "characters", "overrides"):
        if before[key] != now[key]:
            raise ValueError(
                f"tables that differ in {key} are no one table: {before[key]!r} and {now[key]!r}"
            )
    rows = {row["name"]: row for row in before["rows"]}
    shared = {
        row["name"]: set(rows[row["name"]]["trained_with"]) & set(row["trained_with"])
        for row in now["rows"]
        if row["name"] in rows
    }
    if both := set().union(*shared.values()):
        twice = ", ".join(name for name, seeds in shared.items() if min(both) in seeds)
        raise ValueError(
            f"seed {min(both)} of {twice} is in both tables: its runs would count twice"
        )
    for row in now["rows"]:
        old = rows.get(row["name"])
        if old is None:
            rows[row["name"]] = row
            continue
        score = Score(*(old["score"][key] + row["score"][key] for key in ("correct", "total")))
        lists = {key: old[key] + row[key] for key in ("trained_with", "seeds", "seconds")}
        rows[row["name"]] = {**old, "score": describe(score), **lists}
    seeds = before["seeds"] + [seed for seed in now["seeds"] if seed not in before["seeds"]]
    return {**before, "seeds": seeds, "rows": list(rows.values())}


def table(told: dict) -> str:
    """The rows as text, best first: accuracy with its interval, each seed, steps."""
    lines = [f"{'':46}{'held-out answers right':>26}   seeds"]
    for row in sorted(told["rows"], key=lambda row: -row["score"]["accuracy"]):
        score = row["score"]
        shown = (
            f"{100 * score['accuracy']:.1f} % [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
        )
        seeds = " ".join(f"{100 * accuracy:.0f}" for accuracy in row["seeds"])
        lines.append(f"{row['label']:46}{shown:>26}   {seeds}")
    return "\n".join(lines)


def read_ablation(path: str | Path) -> dict:
    """A table that `kt ablate` wrote; ValueError if the file holds none."""
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        told["rows"][0]["score"]["low"]
        told["rows"][0]["trained_with"]
    except (json.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path}: not a table of kt ablate ({error!r})") from None
    return told


def write_ablation(told: dict, path: str | Path) -> None:
    """Keep it as JSON, and beside it the figure (the same name with .png)."""
    from kt_course.figures.plots import accuracy_bars

    write_json(path, told)
    rows = [
        (row["label"], Score(row["score"]["correct"], row["score"]["total"]))
        for row in told["rows"]
    ]
    asked = rows[0][1].total // len(told["seeds"])
    title = f"One ingredient changed: {told['characters'] / 1e6:g} M characters, {asked} questions, seeds {told['seeds']}"
    accuracy_bars(rows, title=title).savefig(Path(path).with_suffix(".png"), dpi=110)
