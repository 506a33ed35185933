"""Exercises of "Finetuning without pretraining": what answers are run on. See exercises.toml."""

import random
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_core import decoding, evaluation
from kt_core.datasets import TokenDataset
from kt_core.trainer import Trainer
from kt_core.vocab import PAD, CharVocab
from kt_course import statistics
from kt_course.chapters.no_pretrain_baseline import solutions
from kt_course.exercises.assertions import Wrong, describe, parts
from kt_course.exercises.comparison import Comparison, Results

CHAPTER = Comparison(solutions, "04_no_pretrain_baseline")
TEXTS = CHAPTER.texts


# ---------------------------------------------------------------- finetune


class Spy(nn.Module):
    """A model with one weight that counts its steps; the loss is the mean of (weight x - y)²."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5]))
        self.config = SimpleNamespace(block_size=12)
        self.steps = 0

    def forward(self, x: Tensor, targets: Tensor) -> tuple[None, Tensor]:
        self.steps += 1
        return None, ((self.weight * x - targets) / 50).square().mean()


class Examples(TokenDataset):
    """n examples of three ids."""

    block_size = 12

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        return [2 + (5 * i + j) % 90 for j in range(3)], 1


@CHAPTER.exercise("finetune", forbidden=(Trainer.fit,), is_piece=True)
def finetune_of(answer: Callable, seed: int) -> Results:
    rng = random.Random(seed)
    n = rng.randint(7, 30) if seed else 11
    epochs = rng.randint(2, 6) if seed else 4
    results: Results = {}
    cases = ("", 0, {}), (" with seed 3", 1, {"seed": 3}), (" with measure", 0, None)
    for name, more, options in cases:
        model, calls = Spy(), []
        if options is None:
            options = {"measure": lambda epoch, m=model, c=calls: c.append((epoch, m.steps))}
        losses = answer(model, Examples(n + more), epochs, 4, 0.05, **options)
        if not isinstance(losses, list):
            raise Wrong(TEXTS["finetune"]["not_a_list"].format(result=describe(losses)))
        results |= {
            f"the number of losses{name}": torch.tensor(len(losses)),
            f"the number of steps{name}": torch.tensor(model.steps),
            f"the weight after training{name}": model.weight.detach(),
            f"the losses{name}": torch.tensor([float(loss) for loss in losses]),
        }
        if calls or "measure" in options:
            texts = [f"epoch {epoch} after {steps} steps" for epoch, steps in calls]
            results["the calls of measure"] = ", ".join(texts) or "none"
    return results


# ---------------------------------------------------------------- evaluate


class Parrot(nn.Module):
    """A model that answers some questions with some texts."""

    def __init__(self, vocab: CharVocab, answers: dict[str, str]):
        super().__init__()
        self.head = nn.Linear(1, 1)  # its device is the model's
        self.config = SimpleNamespace(block_size=64)
        self.vocab = vocab
        self.texts = [f"{question}⁇{answer}⁇{40 * PAD}" for question, answer in answers.items()]

    def forward(self, idx: Tensor, targets: None = None) -> tuple[Tensor, None]:
        ids = [self.next_id(self.vocab.decode(row)) for row in idx.tolist()]
        logits = F.one_hot(torch.tensor(ids), len(self.vocab)).float()
        return logits[:, None].expand(-1, idx.size(1), -1), None  # (B, T, V)

    def next_id(self, text: str) -> int:
        """Return what follows a text; a letter if no question begins so."""
        letters = (whole[len(text)] for whole in self.texts if whole.startswith(text) and text)
        return self.vocab.encode(next(letters, "x"))[0]


@CHAPTER.exercise("evaluate", forbidden=(decoding.answer, evaluation.exact_match), is_piece=True)
def evaluate_of(answer: Callable, seed: int) -> Results:
    pairs = [
        *(("Oslo", "Oslo"), ("New York", "York"), ("Rome", " Rome "), (" Quito ", "Quito")),
        *(("San Francisco", "San Francisco"), ("Lima", "Lima Peru"), ("Cairo", "CAIRO")),
        *(("Santa Fe", "Santa"), ("Las Vegas", "LasVegas"), ("Delhi", "delhi")),
        *(
            ("Buenos Aires", "Bonn"),
            ("Bath", "in Bath"),
            ("Thurso", "Wick, in the north of Scotland, by the sea"),
        ),
    ]
    pairs = random.Random(seed).sample(pairs, 6) if seed else pairs
    answers, score = ask(answer, pairs)
    results: Results = {"the list of answers": " | ".join(a.strip() for a in answers)}
    results["the score"] = str(score)
    for pair in pairs:
        name = "the score of the answer {1!r}, where {0!r} is correct,".format(*pair)
        results[name] = str(ask(answer, [pair])[1])
    return results


def ask(answer: Callable, pairs: list[tuple[str, str]]) -> tuple[list[str], evaluation.Score]:
    """Evaluate a model by an answer; `pairs` holds (correct answer, what the model says)."""
    gold, replies = zip(*pairs, strict=True)
    questions = [f"Where was {chr(65 + i)} born?" for i in range(len(gold))]
    vocab = CharVocab.from_documents([*questions, *gold, *replies, "x"])
    model = Parrot(vocab, dict(zip(questions, replies, strict=True)))
    result = answer(model, vocab, list(zip(questions, gold, strict=True)))
    texts = TEXTS["evaluate"]
    answers, score = parts(result, 2, texts["not_a_pair"])
    if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
        raise Wrong(texts["not_answers"].format(result=describe(answers)))
    if not isinstance(score, evaluation.Score):
        raise Wrong(texts["not_a_score"].format(result=describe(score)))
    return answers, score


# ---------------------------------------------------------------- statistics


@CHAPTER.exercise("wilson-interval", forbidden=(evaluation.wilson_interval,))
def wilson_of(answer: Callable, seed: int) -> Results:
    cases = [(13, 250, {}), (0, 20, {}), (20, 20, {}), (1, 3, {}), (0, 0, {}), (5, 40, {"z": 1.0})]
    if seed:
        n = random.Random(seed).randint(1, 3000)
        cases = [(random.Random(seed + 1).randint(0, n), n, {})]
    results: Results = {}
    for correct, total, options in cases:
        result = answer(correct, total, **options)
        pair = parts(result, 2, TEXTS["wilson-interval"]["not_a_pair"])
        name = f"the interval for {correct} of {total}" + (" with z = 1" if options else "")
        results[name] = torch.tensor([float(end) for end in pair])
    return results


@CHAPTER.exercise("sign-test", forbidden=(statistics.sign_test,))
def sign_test_of(answer: Callable, seed: int) -> Results:
    cases = [(9, 1), (1, 9), (6, 0), (5, 5), (20, 8), (0, 0)]
    if seed:
        cases = [(random.Random(seed).randint(0, 60), random.Random(seed + 1).randint(0, 60))]
    results: Results = {}
    for wins, losses in cases:
        p = answer(wins, losses)
        if not isinstance(p, int | float):
            raise Wrong(TEXTS["sign-test"]["not_a_number"].format(result=describe(p)))
        results[f"p for {wins} wins and {losses} losses"] = torch.tensor(float(p))
    return results


EXERCISES = CHAPTER.exercises()
