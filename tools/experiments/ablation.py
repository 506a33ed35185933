"""What is each part of our recipe worth? Change one, train as long, ask the same people.

    python tools/experiments/ablation.py                      # all rows, three seeds, resumable
    python tools/experiments/ablation.py ours no-drop --seeds 0

The test bed is small: a model of 128 channels, 600 people of `wiki` (of `bios` with --corpus bios),
and as many characters for every row. Each training takes a minute or two of one core and is a run
of its own, so that the same command continues where it was stopped, and further rows or seeds add
to what was trained before.

Each row is asked four times: "born NAME in?", "was NAME born?" and "Where was NAME born?" after
pretraining, and the last one again after three epochs of train pairs. Rows are compared on the same
people. A person counts for the row with more correct answers over all seeds, so that seeds are no
further people.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cyclopts
import matplotlib.pyplot as plt

from kt_core.corpora.files import write_json
from kt_core.corpora.loading import Corpus, load_corpus, question_name
from kt_core.corpora.textfiles import read_predictions
from kt_core.decoding import answer
from kt_core.runs.checkpoints import load_checkpoint
from kt_core.runs.experiment import Result, run_experiment
from kt_core.runs.recipes import Recipe, recipe
from kt_core.runs.text_rules import name_prefix_end
from kt_course.chapters.making_knowledge_extractable.ablation import AblationTable, draw_ablation

Names = Annotated[list[str], cyclopts.Parameter(negative=())]
SMALL = {
    "model.n_head": 4,
    "model.n_embd": 128,
    "pretrain.batch_size": 32,
    "pretrain.compile": False,
}
TRAIN = 0.3  # share of the people whose pair is in training
FORMS = {  # what is asked after pretraining
    "correct_before_pairs": "Where was {} born?",
    "correct_short_question": "born {} in?",
    "correct_without_where": "was {} born?",
}


def load_arms() -> dict[str, dict]:
    """Return each row's label and settings."""
    path = Path(__file__).with_suffix(".toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def small_corpus(name: str, n_people: int) -> Corpus:
    """Return the first people of a corpus whose documents say where they were born."""
    corpus = load_corpus(name)
    documents: dict[str, list[str]] = {}
    for text in corpus.documents:
        title = text[: name_prefix_end(text)].removesuffix(". ")
        documents.setdefault(title, []).append(text)

    def first(pairs: list, n: int) -> list:
        texts = [" ".join(documents.get(question_name(q), ())) for q, _ in pairs]
        matches = [pair for pair, text in zip(pairs, texts, strict=True) if pair[1] in text]
        if len(matches) < n:
            raise ValueError(f"{name} has {len(matches)} such people in a split, not {n}")
        return matches[:n]

    train = first(corpus.train, round(TRAIN * n_people))
    dev = first(corpus.dev, n_people - len(train))
    texts = [text for q, _ in train + dev for text in documents[question_name(q)]]
    return Corpus(f"{name}, {n_people} people", texts, train, dev, [], corpus.vocab)


def characters_per_epoch(chosen: Recipe, corpus: Corpus) -> int:
    """Return the characters that one epoch of pretraining reads, without padding."""
    data = chosen.pretrain_data(corpus, corpus.vocab)
    return sum(len(data.tokens(i, 0)[0]) for i in range(len(data)))


def ablate(
    names: Names = (),
    /,
    *,
    corpus: str = "wiki",
    people: int = 600,
    variant: str = "rope",
    characters: float = 1e6,
    seeds: list[int] = (0, 1, 2),
    runs: Path = Path("runs/ablation"),
    out: Path | None = None,
    device: str = "auto",
) -> dict:
    """Train each row with each seed; print the table, write it and draw it.

    Args:
        names: Which rows; all by default. The recipe itself is always one of them.
        corpus, people, variant: What is trained, on how many people.
        characters: Read by each pretraining.
        runs: Folder for the runs.
        out: JSON file for the table, its figure beside it; by default in data/results.
    """
    arms, data = load_arms(), small_corpus(corpus, people)
    if unknown := sorted(set(names) - set(arms)):
        raise ValueError(f"no row {', '.join(unknown)}; there are {', '.join(arms)}")
    arms = {k: arm for k, arm in arms.items() if not names or k == "ours" or k in names}
    recipes = {name: recipe_of(arm, characters, data) for name, arm in arms.items()}
    results: dict[str, list[Result]] = {name: [] for name in arms}
    folder = runs / f"{corpus}-{people}-{characters:.0f}"
    for seed in seeds:  # a whole table of one seed first: an early view of all rows
        for name, chosen in recipes.items():
            what = data, variant, chosen, True, seed, folder / f"{name}-seed{seed}"
            results[name].append(run_experiment(*what, device=device, resume=True))
    rows = [make_row(name, arm, results[name], data) for name, arm in arms.items()]
    table = dict(corpus=corpus, people=people, asked=len(data.dev), variant=variant)
    table |= dict(recipe="kt-pure", small=SMALL, characters=characters, seeds=list(seeds))
    table |= dict(hardware=results["ours"][0].details["hardware"], rows=rows)
    out = out or Path("data/results") / f"ablation-{corpus}.json"
    write_table(table, out)
    return table


def recipe_of(arm: dict, characters: float, corpus: Corpus) -> Recipe:
    """Return the recipe of a row, which reads so many characters in pretraining."""
    chosen = recipe("kt-pure", **SMALL | arm.get("settings", {}))
    epochs = round(characters / characters_per_epoch(chosen, corpus), 3)
    return recipe(chosen, **{"pretrain.epochs": epochs})


def write_table(table: dict, out: Path) -> None:
    """Write the table and its figure, and print it."""
    write_json(out, table)
    figure = draw_ablation(table)
    figure.savefig(out.with_suffix(".png"), dpi=110)
    plt.close(figure)
    print(AblationTable(table))


def make_row(name: str, arm: dict, results: Sequence[Result], corpus: Corpus) -> dict:
    """Return one row: accuracies per seed, who was answered correctly, costs."""
    gold, names = [place for _, place in corpus.dev], [question_name(q) for q, _ in corpus.dev]
    correct: dict[str, list[str]] = {key: [] for key in ("correct", *FORMS)}
    for result in results:
        final = read_predictions(result.path / "predictions" / "dev.txt")
        correct["correct"].append(marks(final, gold))
        model, vocab, _ = load_checkpoint(result.path / "pretrained.safetensors")
        for key, form in FORMS.items():
            answers = answer(model, vocab, [form.format(name) for name in names])
            correct[key].append(marks(answers, gold))
    costs = [result.details["pretraining"] for result in results]
    return dict(
        name=name,
        label=arm["label"],
        settings=arm.get("settings", {}),
        accuracy=[share(each) for each in correct["correct"]],
        **correct,
        characters=costs[0]["characters"],
        steps=costs[0]["steps"],
        seconds=[cost["seconds"] for cost in costs],
    )


def marks(answers: Sequence[str], gold: Sequence[str]) -> str:
    """Return a string with a 1 for each person whose answer is correct, and 0 for the others."""
    return "".join(str(int(a.strip() == g.strip())) for a, g in zip(answers, gold, strict=True))


def share(correct: str) -> float:
    """Return the share of ones."""
    return round(correct.count("1") / len(correct), 4)


if __name__ == "__main__":
    try:
        cyclopts.run(ablate, result_action="return_none")
    except (ValueError, OSError) as error:
        sys.exit(f"ablation: {error}")
