"""Ways to finetune one body, as the table of chapter 12 compares them.

data/results/finetuning.json holds the comparison; tools/experiments/finetuning_techniques.py wrote
it. A learning rate is chosen on dev people with seed 0; the other seeds are tested on others.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kt_core.decoding import answer
from kt_core.evaluation import Score, exact_match
from kt_core.models import GPT
from kt_core.vocab import CharVocab
from kt_course.chapters.finetuning_techniques import solutions, tasks

LINEAR = ("query", "key", "value", "proj", "up")  # the linear maps of a block
RANK, ALPHA = 8, 16.0
STEPS, BATCH_SIZE = 75, 16
LONGEST = 24  # characters of a birthplace


@dataclass(frozen=True)
class Technique:
    """A way of finetuning.

    Attributes:
        rates: The peak learning rates that it tries.
        top: How many blocks are trained (`solutions.train_top`); None for everything.
        factor: Of `solutions.layer_rates`.
        has_lora, is_pretrained: LoRA beside a frozen body; False re-initialises the body.
    """

    label: str
    rates: tuple[float, ...]
    top: int | None = None
    factor: float = 1.0
    has_lora: bool = False
    is_pretrained: bool = True


TECHNIQUES = {
    "scratch": Technique("from scratch", (1e-3, 3e-3), is_pretrained=False),
    "frozen": Technique("frozen body", (3e-2, 1e-1), top=0),
    "top2": Technique("top 2 blocks", (1e-3, 2e-3), top=2),
    "layers": Technique("a rate per layer", (2e-3, 4e-3), factor=2.6),
    "all": Technique("everything", (1e-4, 3e-4, 1e-3, 3e-3)),
    "lora": Technique("LoRA, rank 8", (4e-3, 8e-3), has_lora=True),
}


def add_lora(model: nn.Module, rank: int = RANK, alpha: float = ALPHA, layer=None) -> list:
    """Freeze a model's body, put LoRA layers into its blocks, and return these layers.

    Args:
        layer: The class, `solutions.LoRALinear` or a learner's.
    """
    model.body.requires_grad_(False)
    added = []
    for module in list(model.body.blocks.modules()):
        for name, child in list(module.named_children()):
            if name in LINEAR and isinstance(child, nn.Linear):
                setattr(module, name, (layer or solutions.LoRALinear)(child, rank, alpha))
                added.append(getattr(module, name))
    return added


def switch(layers: Sequence[nn.Module], is_on: bool) -> None:
    """Switch LoRA layers on or off."""
    for layer in layers:
        layer.is_on = is_on


def merge_all(body: GPT) -> None:
    """Replace every LoRA layer of a body by its merged linear layer."""
    for module in list(body.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "merge"):
                setattr(module, name, child.merge())


def new_body(body: GPT, seed: int, is_pretrained: bool = True) -> GPT:
    """Return a copy of a body, or one of the same shape with random weights."""
    torch.manual_seed(seed)
    return copy.deepcopy(body) if is_pretrained else GPT(body.config)


def tune(
    technique: Technique, body: GPT, rows: Sequence, *, rate: float, seed: int, steps: int = STEPS
) -> tuple[nn.Module, list]:
    """Finetune a classifier of regions on a copy of `body`.

    Returns:
        The classifier, and its LoRA layers (none without LoRA).
    """
    copied = new_body(body, seed, technique.is_pretrained)
    model = solutions.Classifier(copied, len(tasks.REGIONS))
    added = add_lora(model) if technique.has_lora else []
    if not added:
        L = body.config.n_layer
        solutions.train_top(model, L + 1 if technique.top is None else min(technique.top, L))
    groups = solutions.layer_rates(model, rate, technique.factor)
    solutions.finetune(model.train(), tasks.batch_list(rows, steps, BATCH_SIZE, seed), groups)
    return model.eval(), added


def ask(body: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Let a body answer the questions of pairs."""
    return answer(body, vocab, [text for text, _ in pairs], max_new=LONGEST)


def classify(
    model: nn.Module, vocab: CharVocab, pairs: Sequence[tuple[str, str]], answers: Sequence[str]
) -> list[bool]:
    """Return, for each person, whether the region is correct, after these answers."""
    rows = tasks.region_rows(vocab, pairs, answers)
    outputs = tasks.logits_of(model, rows)
    return [int(z.argmax()) == target for z, (_, target) in zip(outputs, rows, strict=True)]


def retained(before: Sequence[str], after: Sequence[str], gold: Sequence[str]) -> Score:
    """Count, of the answers that were correct before, those that are correct afterwards."""
    indices = [i for i, place in enumerate(gold) if before[i].strip() == place.strip()]
    matches = exact_match([after[i] for i in indices], [gold[i] for i in indices])
    return Score(matches.correct, len(indices))


def measure(
    model: nn.Module, layers: Sequence, vocab: CharVocab, pairs: Sequence, before: Sequence[str]
) -> dict[str, Any]:
    """Measure a finetuned classifier on pairs (question, birthplace).

    Args:
        layers: The model's LoRA layers, if it has some.
        before: What the body answered before the finetuning.

    Returns:
        Counts: `alone`, correct regions if the finetuned model first answers the question itself
        (LoRA is switched off for that); `assisted`, the same after the answers `before`; `kept` of
        `known` birthplaces, and `kept_off` without LoRA; `total`.
    """
    gold = [place for _, place in pairs]
    after = ask(model.body, vocab, pairs)
    switch(layers, False)
    own = ask(model.body, vocab, pairs) if layers else after
    switch(layers, True)
    score = retained(before, after, gold)
    return dict(
        alone=sum(classify(model, vocab, pairs, own)),
        assisted=sum(classify(model, vocab, pairs, before)),
        kept=score.correct,
        known=score.total,
        kept_off=retained(before, own, gold).correct,
        total=len(pairs),
    )


# ---------------------------------------------------------------- the file of results


def chosen_rate(rows: Sequence[Mapping], name: str, key="technique", score="alone") -> float:
    """Find the rate that is best on dev, of the rows with this name; of equal ones the smallest."""
    candidates = [row for row in rows if row[key] == name]
    if not candidates:
        raise ValueError(f"no row of {key} {name!r} to choose a rate from")
    return max(candidates, key=lambda row: (row[score], -row["rate"]))["rate"]


def rows_of(table: Mapping, name: str, rate: float | None = None) -> list[dict]:
    """Return a technique's rows, one per seed, with the chosen rate or another one."""
    rate = rate or chosen_rate(table["choosing"], name)
    rows = [row for row in table["rows"] if (row["technique"], row["rate"]) == (name, rate)]
    return sorted(rows, key=lambda row: row["seed"])


def shares(rows: Sequence[Mapping], counted: str) -> list[float]:
    """Return a share per seed: of `alone`, `assisted` or `kept`."""
    of = "known" if counted.startswith("kept") else "total"
    return [row[counted] / max(row[of], 1) for row in rows]
