"""Exercises of notebook 4: scoring, the constant answer, intervals, the answer's loss, the loop."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kt_core.blocks import GPTConfig
from kt_core.datasets import NamePlace
from kt_core.evaluation import Score, exact_match, london_baseline, wilson_interval
from kt_core.models import GPT
from kt_core.train_config import TrainConfig
from kt_core.trainer import Trainer
from kt_core.vocab import MASK, PAD, CharVocab
from kt_course.exercises.assertions import Wrong, describe, expect_value_error, tensor
from kt_course.exercises.diagnoses import Diagnoses, diagnoses
from kt_course.exercises.random_cases import fresh_random, letters
from kt_course.exercises.registry import Exercise

NOTEBOOK = "04_no_pretrain_baseline"
Pairs = list[tuple[str, str]]


def counts(result: Any) -> tuple[int, int]:
    """Return (correct, total) of a Score; Wrong for anything else."""
    if not isinstance(result, Score):
        message = "needed is kt.Score(correct, total), which knows its own interval, not "
        raise Wrong(message + describe(result))
    return result.correct, result.total


# ---------------------------------------------------------------- exact match


def check_exact_match(fn: Callable[[list[str], list[str]], Score]) -> str:
    wrong = diagnoses(__file__, "exact-match")
    causes = wrong.texts("causes")
    cases = (  # answers, gold, how many are correct, the likely mistake
        (["Oslo", "Rome", "Bonn"], ["Oslo", "Paris", "Bonn"], 2, ""),
        (["Rome", "Oslo"], ["Oslo", "Rome"], 0, "order"),
        (["oslo"], ["Oslo"], 0, "case"),
        (["York"], ["New York"], 0, "part"),
        (["New York City"], ["New York"], 0, "longer"),
        ([" Oslo\n"], ["Oslo"], 1, "around"),
        (["Oslo"], [" Oslo "], 1, "gold"),
        (["NewYork"], ["New York"], 0, "inside"),
        ([], [], 0, ""),
    )
    for answers, gold, expected, cause in cases:
        correct, total = counts(fn(answers, gold))
        if (correct, total) != (expected, len(gold)):
            values = dict(correct=correct, total=total, expected=expected, n=len(gold))
            raise wrong("value", answers=answers, gold=gold, cause=causes.get(cause, ""), **values)
    answers, gold = ["Oslo", "Rome"], ["Oslo", "Rome", "Bonn"]
    expect_value_error("two answers for three questions", fn, answers, gold)
    expect_value_error("a gold answer that is None (a split without answers)", fn, ["Oslo"], [None])
    rng = fresh_random()
    for _ in range(5):
        gold = [letters(4, rng) for _ in range(20)]
        answers = [g if rng.random() < 0.5 else g[::-1] + "x" for g in gold]
        if counts(fn(answers, gold)) != counts(exact_match(answers, gold)):
            raise wrong("other")
    return "one by one, to the letter, white space around it aside; missing answers refused"


# ---------------------------------------------------------------- London


def check_london(fn: Callable[[Pairs], Score]) -> str:
    wrong = diagnoses(__file__, "london-baseline")
    causes = wrong.texts("causes")

    def question(name: str) -> str:
        return f"Where was {name} born?"

    cases = (
        ([("Ada", "London"), ("Bo", "Oslo"), ("Cy", "Rome"), ("Di", "London")], 2, ""),
        ([("Ada", "Paris"), ("Bo", "Paris"), ("Cy", "London")], 1, "frequent"),
        ([("Jack London", "Oslo"), ("Bo", "Rome")], 0, "question"),
        ([("Ada", "Londonderry"), ("Bo", "East London")], 0, "part"),
    )
    for people, expected, cause in cases:
        correct, total = counts(fn([(question(name), place) for name, place in people]))
        if (correct, total) != (expected, len(people)):
            values = dict(correct=correct, total=total, expected=expected, n=len(people))
            places = [place for _, place in people]
            raise wrong("value", places=places, cause=causes.get(cause, ""), **values)
    expect_value_error("a split without answers (None)", fn, [(question("Ada"), None)])
    rng = fresh_random()
    for _ in range(5):
        places = [rng.choice(["London", letters(6, rng)]) for _ in range(rng.randint(5, 30))]
        pairs = [(question(letters(4, rng)), place) for place in places]
        if counts(fn(pairs)) != (places.count("London"), len(places)):
            raise wrong("other")
    return "the share of people who were born in London, as a Score"


# ---------------------------------------------------------------- the interval


def wilson_mistakes(k: int, n: int, z: float) -> dict[str, tuple[float, float]]:
    """Return the interval with each mistake of `diagnoses.toml` built in."""
    p, (low, high) = k / n, wilson_interval(k, n)
    shrink, shift = 1 + z * z / n, z * z / (2 * n)
    wald = z * math.sqrt(p * (1 - p) / n)
    root = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    over_n = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n))
    centre = p + shift

    def interval(middle: float, half: float, scale: float = shrink) -> tuple[float, float]:
        return (middle - half) / scale, (middle + half) / scale

    return {
        "percentages": (100 * low, 100 * high),
        "reversed": (high, low),
        "textbook": interval(p, wald, 1),
        "not divided": interval(centre, root, 1),
        "centre": interval(p, root),
        "root": interval(centre, wald),
        "root over n": interval(centre, over_n),
        "half divided": interval(centre / shrink, root, 1),
        "two parts": (centre / shrink, root / shrink),
        "no z": interval(centre, root / z),
        "90 %": wilson_interval(k, n, 1.644854),
        "2 z": interval(centre, 2 * root),
    }


def check_wilson(fn: Callable[..., tuple[float, float]]) -> str:
    wrong = diagnoses(__file__, "wilson-interval")

    def interval(correct: int, total: int, **options: float) -> tuple[float, float]:
        result = fn(correct, total, **options)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise wrong("not a pair", result=describe(result))
        return float(result[0]), float(result[1])

    def same(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return all(math.isclose(x, y, rel_tol=0, abs_tol=1e-4) for x, y in zip(a, b, strict=True))

    for k, n in ((13, 250), (0, 20), (20, 20), (1, 3)):
        low, high = result = interval(k, n)
        if not same(result, wilson_interval(k, n)) or not -1e-9 <= low <= high <= 1 + 1e-9:
            expected = "{:.4f} ... {:.4f}".format(*wilson_interval(k, n))
            mistakes = wilson_mistakes(k, n, z=1.959964).items() if k == 13 else ()
            causes = [
                wrong.texts("mistakes")[name] for name, pair in mistakes if same(result, pair)
            ]
            cause = causes[0] if causes else ""
            raise wrong("value", k=k, n=n, low=low, high=high, expected=expected, cause=cause)
        if k == 13 and not same(result := interval(0, 0), (0.0, 1.0)):
            raise wrong("nothing asked", low=result[0], high=result[1])
    if not same(interval(5, 40, z=1.0), wilson_interval(5, 40, 1.0)):
        raise wrong("z")
    rng = fresh_random()
    for _ in range(20):
        n = rng.randint(1, 3000)
        if not same(interval(k := rng.randint(0, n), n), wilson_interval(k, n)):
            raise wrong("other")
    return "Wilson's interval for any count, (0, 1) when nothing was asked"


# ---------------------------------------------------------------- loss on the answer


def expected_targets(question: str, answer: str, block: int) -> str:
    """Return y as text, with □ where there is no loss."""
    return ((len(question) - 1) * PAD + f"⁇{answer}⁇").ljust(block, PAD)


def check_answer_loss(fn: Callable[..., Any]) -> str:
    wrong = diagnoses(__file__, "answer-loss")
    vocab, block = CharVocab.from_documents([letters(200) + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]), 48

    def example(pairs: Pairs, i: int, block: int = block) -> tuple[str, str]:
        """Return x without padding, and y, as text."""
        data = fn(pairs, vocab, block)
        is_dataset = hasattr(data, "__getitem__") and hasattr(data, "__len__")
        if not is_dataset or len(data) != len(pairs):
            raise wrong("not a dataset", n=len(pairs), result=describe(data))
        if not isinstance(data[i], tuple | list) or len(data[i]) != 2:
            raise wrong("not a pair", result=describe(data[i]))
        for name, value in zip("xy", data[i], strict=True):
            tensor(value, (block,), f"{name} for a block of {block}")
            if value.dtype != torch.int64:
                raise wrong("dtype", name=name, dtype=str(value.dtype).removeprefix("torch."))
        x, y = (value.tolist() for value in data[i])
        if min(y) < 0:
            raise wrong("negative", value=min(y))
        return vocab.decode(x).rstrip(PAD), vocab.decode(y)

    pairs = [("Where was Ada born?", "Oslo"), ("Where was Bo Ek born?", "New York")]
    pairs.append(("Where was Cy born?", "Rome"))
    (question, answer), (x, y) = pairs[0], example(pairs, 0)
    check_first_example(wrong, question, answer, x, y)
    for i, (question, answer) in enumerate(pairs):
        if example(pairs, i)[1] != expected_targets(question, answer, block):
            raise wrong("lengths", question=question)
    room = len("Where was Ada born?⁇Oslo⁇") - 1  # the last ⁇ is predicted, never read
    if example(pairs[:1], 0, room)[1].strip(PAD) != "⁇Oslo⁇":
        raise wrong("full")
    expect_value_error("a pair that is too long for the block", fn, pairs[:1], vocab, room - 1)
    expect_value_error("a pair without an answer (None)", fn, [(question, None)], vocab, block)
    rng = fresh_random()
    for _ in range(10):
        question = f"Where was {letters(rng.randint(2, 12), rng)} born?"
        answer = letters(rng.randint(1, 9), rng)
        expected = f"{question}⁇{answer}⁇", expected_targets(question, answer, block)
        if example([(question, answer)], 0) != expected:
            raise wrong("other")
    return "question ⁇ answer ⁇, and the loss on ⁇ answer ⁇ alone"


def check_first_example(wrong: Diagnoses, question: str, answer: str, x: str, y: str) -> None:
    """Check x and y of one pair, and name the mistake."""
    expected, first = f"{question}⁇{answer}⁇", len(question) - 1
    if x != expected:
        causes = {expected[:-1]: "no end", f"{question}{answer}⁇": "no mask"}
        cause = wrong.texts("causes").get(causes.get(x), "")
        raise wrong("x", x=x, expected=expected, cause=cause)
    if y == expected_targets(question, answer, len(y)):
        return
    targets = y.strip(PAD)
    if y[: len(x)] == x:
        raise wrong("not shifted")
    if y == x[1:].ljust(len(y), PAD):
        raise wrong("question", wrong=first, total=len(targets), answer=answer)
    if targets == f"{answer}⁇" and y[first + 1] == answer[0]:
        raise wrong("no first mask")
    if targets == f"⁇{answer}":
        raise wrong("no last mask")
    if targets == f"⁇{answer}⁇" and y[first + 1] == MASK:
        raise wrong("late", first=first)
    start = y.index(targets[0]) if targets else 0
    raise wrong("y", targets=targets, start=start, answer=answer, first=first)


# ---------------------------------------------------------------- the loop


class ObservedGPT(GPT):
    """A tiny model that records how it is trained: what it reads, and where the gradient falls."""

    def __init__(self, vocab: CharVocab, block: int):
        super().__init__(GPTConfig(len(vocab), block, n_layer=1, n_head=1, n_embd=8, dropout=0.0))
        self.vocab = vocab
        self.rows: list[str] = []  # each row of each batch, padding left out
        self.losses: list[tuple[str, list[int]]] = []  # rows, and the positions that have a loss
        self.steps = self.passes = 0  # changes of the weights, and backward passes
        self.was_evaluating = self.has_stale_gradients = False
        self.latest = self.weights()

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])

    def forward(self, idx: Tensor, targets: Tensor | None = None):
        logits, loss = super().forward(idx, targets)
        if logits.requires_grad:
            self.count_step()
            rows = [self.vocab.decode(row).rstrip(PAD) for row in idx.tolist()]
            self.rows += rows
            self.was_evaluating |= not self.training
            logits.register_hook(lambda gradient: self.record_backward(rows, gradient))
        return logits, loss

    def count_step(self) -> None:
        """Count a step if the weights have moved since the last call."""
        weights = self.weights()
        self.steps += not torch.equal(weights, self.latest)
        self.latest = weights

    def record_backward(self, rows: list[str], gradient: Tensor) -> None:
        self.passes += 1
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        self.has_stale_gradients |= any(bool(grad.any()) for grad in gradients)
        positions = [row.nonzero().flatten().tolist() for row in gradient.abs().sum(-1)]
        self.losses += zip(rows, positions, strict=True)


def check_fit(fn: Callable[[Trainer], list[dict]]) -> str:
    wrong = diagnoses(__file__, "finetuning-loop")
    names = "Ada", "Bo", "Cyrus", "Emil", "Desdemona"  # of different lengths: batches hold padding
    answers = {f"Where was {name} born?": name[::-1].title() for name in names}
    vocab, block, batch_size, epochs = (
        CharVocab.from_documents([*answers, *answers.values()]),
        40,
        2,
        2,
    )
    data = NamePlace(list(answers.items()), vocab, block)

    def untrained() -> ObservedGPT:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return ObservedGPT(vocab, block)

    def train(rate: float, epochs: int) -> tuple[ObservedGPT, float, Any]:
        """Return the model, the largest change of a weight, and the history."""
        model = untrained()
        config = TrainConfig(epochs=epochs, batch_size=batch_size, learning_rate=rate, device="cpu")
        history = fn(Trainer(model, data, config))
        model.count_step()
        return model, float((model.weights() - untrained().weights()).abs().max()), history

    def loss(model: GPT) -> float:
        with torch.no_grad():
            x, y = (torch.stack(column) for column in zip(*data, strict=True))
            return float(model(x, y)[1])

    model, change, history = train(0.01, epochs)
    check_passes(model, answers, epochs, batch_size)
    if change < 0.001:
        raise wrong("no step", passes=model.passes)
    if model.has_stale_gradients:
        raise wrong("stale")
    batches = -(-len(answers) // batch_size)
    if model.steps != epochs * batches:
        raise wrong("steps", steps=model.steps, expected=epochs * batches, batches=batches)
    before, after = loss(untrained()), loss(model)
    if not after < before - 1e-3:
        raise wrong("uphill", before=before, after=after)
    check_history(history)
    if train(1e-8, 1)[1] > 1e-5:
        raise wrong("rate")
    return "all batches of all epochs, in training mode, loss on the answers, one clean step each"


def check_passes(model: ObservedGPT, answers: dict[str, str], epochs: int, batch_size: int) -> None:
    """Check what the model read, in which mode, and where the loss fell."""
    wrong = diagnoses(__file__, "finetuning-loop")
    if not model.rows:
        raise wrong("no forward")
    questions = {row: next((q for q in answers if row.startswith(q)), "") for row in model.rows}
    if strange := [row for row, question in questions.items() if not question]:
        raise wrong("not x", row=strange[0])
    if not model.passes:
        raise wrong("no backward")
    if len(model.losses) > len(model.rows):
        raise wrong("old graphs")
    if model.was_evaluating:
        raise wrong("evaluating")
    for row, positions in model.losses:
        question = questions[row]
        if early := [t for t in positions if t < len(question) - 1]:
            raise wrong("question loss", n=len(early), question=question)
        if any(t > len(question) + len(answers[question]) for t in positions):
            raise wrong("padding loss", row=row)
    n, per_epoch = len(model.rows), len(answers)
    if n != epochs * per_epoch:
        batches = -(-per_epoch // batch_size)
        causes = {1: "one batch", epochs: "one batch per epoch", batches: "one epoch"}
        cause = causes.get(model.passes)
        if n == epochs * (per_epoch - per_epoch % batch_size):
            cause = "last batch"
        values = dict(n=n, expected=epochs * per_epoch, epochs=epochs, per_epoch=per_epoch)
        raise wrong("examples", cause=wrong.texts("causes").get(cause, ""), **values)
    times = Counter(questions[row] for row in model.rows)
    if uneven := [question for question in answers if times[question] != epochs]:
        raise wrong("uneven", question=uneven[0], n=times[uneven[0]], epochs=epochs)


def check_history(history: Any) -> None:
    """Check that the history is a list of rows, each with its loss as a plain number."""
    wrong = diagnoses(__file__, "finetuning-loop")
    is_list = isinstance(history, list) and history
    if not is_list or not all(isinstance(row, dict) and "loss" in row for row in history):
        raise wrong("history", result=describe(history))
    for row in history:
        if isinstance(row["loss"], Tensor) and row["loss"].requires_grad:
            raise wrong("graphs")
        if not math.isfinite(float(row["loss"])):
            raise wrong("not finite", loss=float(row["loss"]))


EXERCISES = (
    Exercise(
        "answer-loss", NOTEBOOK, "The loss on the answer alone", 2, 15, NamePlace, check_answer_loss
    ),
    Exercise("exact-match", NOTEBOOK, "Exact match", 1, 5, exact_match, check_exact_match),
    Exercise("london-baseline", NOTEBOOK, "Always London", 1, 5, london_baseline, check_london),
    Exercise(
        "wilson-interval", NOTEBOOK, "Wilson's interval", 2, 10, wilson_interval, check_wilson
    ),
    Exercise("finetuning-loop", NOTEBOOK, "The finetuning loop", 3, 20, Trainer.fit, check_fit),
)
