"""Exercises of notebook 12: answers in other words, typical mistakes, the teaching solutions."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from checking import Answers, notebook_suite, quiz_suite, suite
from torch import nn

from kt_course.chapters.finetuning_techniques import exercises, solutions
from kt_course.exercises.registry import exercise_ids, library

NAME = "12_finetuning_techniques"
NOTEBOOK = Path(__file__).resolve().parents[3] / "notebooks" / f"{NAME}.ipynb"
IDS = exercise_ids(NAME)


def cells() -> dict[str, nbformat.NotebookNode]:
    return {cell.id: cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells}


def stub(id: str):
    """The blank answer, as the notebook has it."""
    namespace = vars(solutions) | {"exercise": lambda id: lambda fn: fn}
    exec(cells()[f"answer-{id}"].source, namespace)
    return namespace[library()[id].name]


# ---------------------------------------------------------------- answers in other words


class Head(nn.Module):
    """What the three heads share, with another way to apply the layer."""

    def __init__(self, body, n=2):
        super().__init__()
        self.body, self.head = body, nn.Linear(body.tok_emb.embedding_dim, n)

    def at_all(self, ids):
        return self.body.hidden(ids) @ self.head.weight.mT + self.head.bias


class ClassifierByLoop(Head):
    def forward(self, ids, targets=None):
        lengths = [int(row.count_nonzero()) for row in ids]
        logits = torch.stack([z[n - 1] for z, n in zip(self.at_all(ids), lengths, strict=True)])
        return logits, None if targets is None else F.cross_entropy(logits, targets)


class TaggerByChoice(Head):
    def forward(self, ids, targets=None):
        logits = self.at_all(ids)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits[targets >= 0], targets[targets >= 0])


class SpansByLogs(Head):
    def forward(self, ids, targets=None):
        scores = torch.where(ids.eq(0)[..., None], -torch.inf, self.at_all(ids))
        if targets is None:
            return scores, None
        logs = scores.log_softmax(1).gather(1, targets[:, None])
        return scores, -logs.mean()


def finetune_with_a_scheduler(model, batches, groups):
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    n = len(batches)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1, (k + 1) / 8, 2 * (n - k) / n)
    )
    losses = []
    for batch in batches:
        model.zero_grad()
        loss = model(*batch)[1]
        loss.backward()
        nn.utils.clip_grad_norm_(list(model.parameters()), max_norm=1)
        optimizer.step()
        scheduler.step()
        losses += [float(loss.detach())]
    return losses


def train_top_by_name(model, n):
    L = len(model.body.blocks)
    if n not in range(L + 2):
        raise ValueError("n")
    for name, p in model.body.named_parameters():
        block = int(name.split(".")[1]) if name.startswith("blocks.") else None
        is_top = n > 0 and (name.startswith("ln_f") or (block is not None and block >= L - n))
        p.requires_grad = is_top or (n > L and name.startswith("tok_emb"))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def rates_by_name(model, peak, factor):
    L, layers = len(model.body.blocks), {}
    for name, p in model.named_parameters():
        if p.requires_grad and not name.startswith("body.head"):
            k = L - int(name.split(".")[2]) if "blocks." in name else L + 1
            layers.setdefault(0 if name.startswith(("head", "body.ln_f")) else k, []).append(p)
    return [dict(params=layers[k], lr=peak * factor**-k) for k in sorted(layers)]


class LoRAByMerging(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.weight, self.bias = linear.weight.detach(), linear.bias.detach()
        self.alpha, self.is_on = alpha, True
        self.down = nn.Parameter(0.3 * torch.randn(rank, linear.weight.size(1)))
        self.up = nn.Parameter(torch.zeros(linear.weight.size(0), rank))

    def forward(self, x):
        change = self.alpha / len(self.down) * self.up @ self.down
        return F.linear(x, self.weight + change if self.is_on else self.weight, self.bias)

    def merge(self):
        linear = nn.Linear(self.weight.size(1), self.weight.size(0)).to(self.weight)
        linear.weight.data = self.weight + self.alpha / len(self.down) * self.up @ self.down
        linear.bias.data = self.bias
        return linear


RIGHT = {
    "classifier": ClassifierByLoop,
    "finetune-groups": finetune_with_a_scheduler,
    "train-top": train_top_by_name,
    "layer-rates": rates_by_name,
    "lora": LoRAByMerging,
    "tagger": TaggerByChoice,
    "span-finder": SpansByLogs,
}
OTHERS = {
    "classifier": {
        "no pair": (
            type("One", (Head,), {"forward": lambda self, ids, targets=None: self.at_all(ids)}),
            "two things",
        )
    },
    "layer-rates": {"rates alone": (lambda model, peak, factor: [peak], "list of dicts")},
}


def borrow(id: str):
    """Call the solution itself."""
    return lambda *inputs: getattr(solutions, library()[id].name)(*inputs)


def mistakes(id: str):
    """The solution with each mistake of exercises.toml, and the diagnosis that it must get."""
    for name, source, text in exercises.CHAPTER.mistakes(id):
        yield name, (exercises.CHAPTER.execute(source, library()[id].name), re.escape(text))


ANSWERS = {
    id: Answers(
        stub(id), OTHERS.get(id, {}) | dict(mistakes(id)), {"other words": RIGHT[id]}, borrow(id)
    )
    for id in IDS
}
TestExercises = suite(NAME, ANSWERS)
TestQuizzes = quiz_suite(NAME)
TestNotebook = notebook_suite(NAME)


@pytest.mark.slow
@pytest.mark.notebook(NAME)
def test_what_the_page_says_of_its_measurements(facts):
    """The trainings that nbval does not compare, and the claims, with room for other machines."""
    frozen, everything, lora = (facts[name] for name in ("frozen", "everything", "lora"))
    assert frozen["kept"] == frozen["known"] and lora["kept_off"] == lora["known"]
    assert everything["kept"] < 0.8 * everything["known"]
    assert everything["assisted"] > everything["alone"] + 10
    assert lora["alone"] == lora["assisted"] > everything["alone"]
    assert facts["tagging_f1"] > 0.3
