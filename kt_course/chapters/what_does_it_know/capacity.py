"""How much a model knows, in bits: what it saves in foretelling the birthplaces beside somebody who knows no names.

A fact is worth the surprise that it spares. Who knows how often each city comes, but no person, pays -log2 share(city)
bits for a birthplace; the model pays its own loss, in bits. The difference, summed over all people, is what it has
learned, and divided by its parameters it can be held against the 2 bits a parameter of Allen-Zhu and Li 2024 (Physics
of Language Models, part 3.3, sections 2 and 4; 1 bit where each fact was met 100 times only).

    kt sweep run ... --out runs/capacity/people                 # runs with other people, views, exposures, sizes
    python -m kt_course.chapters.what_does_it_know.capacity runs/capacity --out data/results/capacity.json     # a row a run, measured
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kt_core._typing import Float, Tensor
from kt_core.corpora.files import write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.decoding import answer
from kt_core.evaluation import exact_match
from kt_core.models import GPT
from kt_core.runs.checkpoints import hardware, load_checkpoint
from kt_core.vocab import CharVocab
from kt_course.chapters.what_does_it_know.confidence import answer_probabilities

PUBLISHED = 2.0  # bits a parameter, after 1000 exposures of each fact (Allen-Zhu and Li 2024)


def learned_bits(nats: Float[Tensor, " n"], share: Float[Tensor, " m"]) -> float:
    """Bits that the model saves over all n facts: sum of -log2 share - loss in bits.

    nats: the model's loss for each fact, -ln of the probability that it gives it. share: how often the fact's value
    comes at all, the probability that a guess without the name would give it. A model that is surely wrong about some
    people pays for it: single terms may be below 0, and so may the sum. ValueError for lists of different lengths.
    """
    if nats.shape != share.shape:
        raise ValueError(
            f"one share a fact is needed: {tuple(share.shape)} for {tuple(nats.shape)}"
        )
    return float((-share.double().log2() - nats.double() / math.log(2)).sum())


def shares(answers: Iterable[str]) -> dict[str, float]:
    """How often each answer comes among all of them, as a share."""
    counts = Counter(answers)
    return {place: n / counts.total() for place, n in counts.items()}


@dataclass(frozen=True)
class Knowledge:
    """What a model knows of one group of people: `bits` learned of the `possible` ones, `right` answers of `people`."""

    people: int
    right: int
    bits: float
    possible: float


def knowledge(
    model: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str]], share: dict[str, float]
) -> Knowledge:
    """Ask a model for the birthplaces of `pairs`: greedy answers, and the bits that its probabilities are worth.

    `share`: of each birthplace among all people, `shares(...)`. ValueError for a birthplace that it lacks.
    """
    questions, gold = [q for q, _ in pairs], [a for _, a in pairs]
    if missing := sorted(set(gold) - set(share)):
        raise ValueError(f"no share is given for {', '.join(missing[:5])}")
    loss = -answer_probabilities(model, vocab, questions, gold).double().clamp(min=1e-30).log()
    chance = torch.tensor([share[place] for place in gold], dtype=torch.double)
    right = exact_match(answer(model, vocab, questions, max_new=40), gold).correct
    return Knowledge(len(gold), right, learned_bits(loss, chance), float(-chance.log2().sum()))


def measure(model: GPT, vocab: CharVocab, corpus: Corpus) -> dict[str, Knowledge]:
    """`knowledge` of the people whose questions were trained on ("train"), and of all others ("held out").

    ValueError for a corpus without answers for them.
    """
    held_out = [pair for pair in (*corpus.dev, *corpus.test) if pair[1] is not None]
    if not corpus.train or not held_out:
        raise ValueError(f"{corpus.name}: train and dev answers are needed to say what is known")
    share = shares(place for _, place in (*corpus.train, *held_out))
    return {
        "train": knowledge(model, vocab, corpus.train, share),
        "held out": knowledge(model, vocab, held_out, share),
    }


# ---------------------------------------------------------------- a table of runs


def row(folder: str | Path) -> dict:
    """One finished run, measured: its settings, the exposures of each person, what it knows. ValueError if unfinished.

    exposures: windows of a person's lines that pretraining has read, lines x views x epochs.
    """
    folder = Path(folder)
    if not (folder / "result.json").is_file():
        raise ValueError(f"{folder}: no result.json, so no finished run")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fields = config["recipe"]
    model, vocab, _ = load_checkpoint(folder / "finetuned.safetensors")
    corpus = load_corpus(config["corpus"], block_size=fields["block_size"])
    people = len(corpus.train) + len(corpus.dev) + len(corpus.test)
    lines = len(corpus.documents) / people
    return dict(
        run=folder.name,
        corpus=config["corpus"],
        variant=config["variant"],
        seed=config["seed"],
        kind=config["kind"],
        people=people,
        lines=round(lines, 3),
        views=fields["views"],
        epochs=fields["pretrain_epochs"],
        exposures=round(lines * fields["views"] * fields["pretrain_epochs"]),
        n_embd=fields["n_embd"],
        n_layer=fields["n_layer"],
        parameters=model.n_parameters(),
        **{name: asdict(found) for name, found in measure(model, vocab, corpus).items()},
    )


def gather(folders: Sequence[str | Path]) -> dict:
    """Every finished run in or below `folders` as one table. ValueError if there is none."""
    found = sorted(
        {path.parent for folder in folders for path in Path(folder).rglob("result.json")}
    )
    runs = [folder for folder in found if (folder / "finetuned.safetensors").is_file()]
    if not runs:
        raise ValueError(f"{', '.join(map(str, folders))}: no finished run in there")
    return dict(hardware=hardware(), published=PUBLISHED, rows=[row(folder) for folder in runs])


def bits_a_parameter(told: dict) -> float:
    """Of a row of the table: all bits learned, of train and held-out people, by the parameters."""
    return (told["train"]["bits"] + told["held out"]["bits"]) / told["parameters"]


def recall(told: dict) -> float:
    """Of a row of the table: the share of held-out people whose birthplace is answered rightly."""
    return told["held out"]["right"] / told["held out"]["people"]


def read_capacity(path: str | Path) -> dict:
    """A table that this module wrote; ValueError if the file holds none."""
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        for each in told["rows"]:
            bits_a_parameter(each), recall(each), each["exposures"]
        if not told["rows"]:
            raise KeyError("rows")
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path}: not a table of kt_course.chapters.what_does_it_know.capacity ({error!r})"
        ) from None
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """python -m kt_course.chapters.what_does_it_know.capacity RUNS ... --out FILE"""
    parser = argparse.ArgumentParser(
        prog="python -m kt_course.chapters.what_does_it_know.capacity",
        description="Measure runs in bits: a row each, into one JSON file.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="folders with runs in or below them"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the table, as JSON"
    )
    given = parser.parse_args(arguments)
    told = gather(given.runs)
    write_json(given.out, told)
    for each in told["rows"]:
        print(
            f"{each['people']:5d} people, {each['lines']:g} lines, {each['exposures']:6d} exposures, "
            f"{each['parameters']:8,d} parameters: held out {100 * recall(each):5.1f} %, "
            f"{bits_a_parameter(each):7.4f} bits a parameter"
        )


if __name__ == "__main__":
    main()
