"""Exercises and questions of notebook 4: scoring, the constant answer, intervals, the answer's loss, the loop."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from kt_core.datasets import NamePlace
from kt_core.evaluation import Score, exact_match, london_baseline, wilson_interval
from kt_core.blocks import GPTConfig
from kt_core.models import GPT
from kt_core.train_config import TrainConfig
from kt_core.trainer import Trainer
from kt_core.vocab import MASK, PAD, CharVocab
from kt_course.exercises.assertions import Wrong, describe, expect_value_error, tensor
from kt_course.exercises.random_cases import fresh_random, letters
from kt_course.exercises.registry import Exercise

NOTEBOOK = "04_no_pretrain_baseline"


def counts(result: Any) -> tuple[int, int]:
    """(correct, total) of a Score; Wrong for anything else."""
    if not isinstance(result, Score):
        raise Wrong(
            f"needed is kt.Score(correct, total), which knows its own interval, not {describe(result)}"
        )
    return result.correct, result.total


# ---------------------------------------------------------------- exact match


def check_exact_match(fn: Callable[[list[str], list[str]], Score]) -> str:
    def need(answers: list[str], gold: list[str], right: tuple[int, int], likely: str) -> None:
        if (got := counts(fn(answers, gold))) != right:
            raise Wrong(
                f"answers {answers}, gold {gold}: {got[0]} of {got[1]} instead of {right[0]} of {right[1]}{likely}"
            )

    need(["Oslo", "Rome", "Bonn"], ["Oslo", "Paris", "Bonn"], (2, 3), "")
    need(
        ["Rome", "Oslo"],
        ["Oslo", "Rome"],
        (0, 2),
        ": answer i belongs to question i, compare them one by one",
    )
    need(["oslo"], ["Oslo"], (0, 1), ": an exact match tells small letters from capitals")
    need(["York"], ["New York"], (0, 1), ": a part of the right answer is not the right answer")
    need(
        ["New York City"], ["New York"], (0, 1), ": an answer that goes on is not the right answer"
    )
    need([" Oslo\n"], ["Oslo"], (1, 1), ": white space around an answer does not count")
    need(["NewYork"], ["New York"], (0, 1), ": white space inside an answer does count")
    need([], [], (0, 0), "")
    expect_value_error("two answers for three questions", fn, ["Oslo", "Rome"], ["Oslo", "Rome", "Bonn"])
    expect_value_error("a gold answer that is None (a split without answers)", fn, ["Oslo"], [None])
    rng = fresh_random()
    for _ in range(5):
        gold = [letters(4, rng) for _ in range(20)]
        answers = [g if rng.random() < 0.5 else g[::-1] + "x" for g in gold]
        right = sum(a == g for a, g in zip(answers, gold, strict=True))
        if counts(fn(answers, gold)) != (right, 20):
            raise Wrong(
                "right for the examples, wrong for other answers: count those that equal their gold answer"
            )
    return "one by one, to the letter, white space around it aside; missing answers refused"


# ---------------------------------------------------------------- London


def check_london(fn: Callable[[list[tuple[str, str]]], Score]) -> str:
    def ask(name: str) -> str:
        return f"Where was {name} born?"

    def need(pairs: list[tuple[str, str]], right: tuple[int, int], likely: str) -> None:
        if (got := counts(fn(pairs))) != right:
            raise Wrong(
                f"{got[0]} of {got[1]} instead of {right[0]} of {right[1]} for {[p for _, p in pairs]}{likely}"
            )

    need(
        [(ask("Ada"), "London"), (ask("Bo"), "Oslo"), (ask("Cy"), "Rome"), (ask("Di"), "London")],
        (2, 4),
        "",
    )
    need(
        [(ask("Ada"), "Paris"), (ask("Bo"), "Paris"), (ask("Cy"), "London")],
        (1, 3),
        ": the constant answer is London, chosen before anybody looked at these pairs, not their most frequent place",
    )
    need(
        [(ask("Jack London"), "Oslo"), (ask("Bo"), "Rome")],
        (0, 2),
        ": London is looked for in the question",
    )
    need(
        [(ask("Ada"), "Londonderry"), (ask("Bo"), "East London")],
        (0, 2),
        ": an exact match is asked for",
    )
    expect_value_error("a split without answers (None)", fn, [(ask("Ada"), None)])
    rng = fresh_random()
    for _ in range(5):
        places = [rng.choice(["London", letters(6, rng)]) for _ in range(rng.randint(5, 30))]
        if counts(fn([(ask(letters(4, rng)), place) for place in places])) != (
            places.count("London"),
            len(places),
        ):
            raise Wrong(
                "right for the examples, wrong for other pairs: count the answers that are London"
            )
    return "the share of people who were born in London, as a Score"


# ---------------------------------------------------------------- the interval


def check_wilson(fn: Callable[..., tuple[float, float]]) -> str:
    def interval(correct: int, total: int, **options: float) -> tuple[float, float]:
        result = fn(correct, total, **options)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise Wrong(f"needed are two numbers, (low, high), not {describe(result)}")
        return float(result[0]), float(result[1])

    def same(a: tuple[float, float], b: tuple[float, float], tolerance: float = 1e-4) -> bool:
        return all(
            math.isclose(x, y, rel_tol=0, abs_tol=tolerance) for x, y in zip(a, b, strict=True)
        )

    k, n, z = 13, 250, 1.959964
    p, (low, high) = k / n, wilson_interval(k, n)
    wald, root = (
        z * math.sqrt(p * (1 - p) / n),
        z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
    )
    shrink, shift = 1 + z * z / n, z * z / (2 * n)
    mistakes = (
        ((100 * low, 100 * high), "percentages; fractions 0 ... 1 are needed"),
        ((high, low), "the upper end first; (low, high) is needed"),
        (
            (p - wald, p + wald),
            "the textbook interval p ± z sqrt(p(1-p)/n); Wilson's solves the quadratic for p",
        ),
        ((p + shift - root, p + shift + root), "not divided by 1 + z²/n"),
        (((p - root) / shrink, (p + root) / shrink), "the centre lacks z²/(2n)"),
        (
            ((p + shift - wald) / shrink, (p + shift + wald) / shrink),
            "z²/(4n²) is missing under the root",
        ),
        (
            ((p + shift) / shrink - root, (p + shift) / shrink + root),
            "only the centre is divided by 1 + z²/n",
        ),
        (
            ((p + shift) / shrink, root / shrink),
            "the centre and the half width; the two ends are needed",
        ),
        (
            ((p + shift - root / z) / shrink, (p + shift + root / z) / shrink),
            "z is missing before the root",
        ),
        (
            wilson_interval(k, n, 1.644854),
            "z is that of 90 %, 1.645; for 95 % in two tails it is 1.96",
        ),
    )
    got = interval(k, n)
    if not same(got, (low, high)):
        likely = next((f": {told}" for wrong, told in mistakes if same(got, wrong)), "")
        raise Wrong(
            f"13 of 250 gives {got[0]:.4f} ... {got[1]:.4f} instead of {low:.4f} ... {high:.4f}{likely}"
        )
    if not same(got := interval(0, 0), (0.0, 1.0)):
        raise Wrong(
            f"nothing asked (0 of 0) gives {got[0]:g} ... {got[1]:g}: then nothing is known, (0, 1)"
        )
    for k, n in ((0, 20), (20, 20), (1, 3)):
        if (
            not same(got := interval(k, n), wilson_interval(k, n))
            or not -1e-9 <= got[0] <= got[1] <= 1 + 1e-9
        ):
            low, high = wilson_interval(k, n)
            raise Wrong(
                f"{k} of {n} gives {got[0]:.4f} ... {got[1]:.4f} instead of {low:.4f} ... {high:.4f}"
            )
    if not same(interval(5, 40, z=1.0), wilson_interval(5, 40, 1.0)):
        raise Wrong(
            "another z changes nothing or the wrong thing: use the argument z, 1.96 is only its default"
        )
    rng = fresh_random()
    for _ in range(20):
        n = rng.randint(1, 3000)
        if not same(interval(k := rng.randint(0, n), n), wilson_interval(k, n)):
            raise Wrong(
                "right for the examples, wrong for other counts: compute it from correct, total and z"
            )
    return "Wilson's interval for any count, (0, 1) when nothing was asked"


# ---------------------------------------------------------------- loss on the answer


def check_answer_loss(fn: Callable[..., Any]) -> str:
    vocab, block = CharVocab.from_documents([letters(200) + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]), 48

    def example(pairs: list[tuple[str, str]], i: int, block: int = block) -> tuple[str, str]:
        """x without padding, and y with □ for what is not asked for, as text."""
        data = fn(pairs, vocab, block)
        if (
            not hasattr(data, "__getitem__")
            or not hasattr(data, "__len__")
            or len(data) != len(pairs)
        ):
            raise Wrong(
                f"needed is one (x, y) for each of {len(pairs)} pairs, in a list, not {describe(data)}"
            )
        if not isinstance(data[i], (tuple, list)) or len(data[i]) != 2:
            raise Wrong(f"each example is (x, y), not {describe(data[i])}")
        for name, value in zip("xy", data[i], strict=True):
            tensor(value, (block,), f"{name} for a block of {block}")
            if value.dtype != torch.int64:
                raise Wrong(
                    f"{name} is {str(value.dtype).removeprefix('torch.')}: ids are int64 (torch.long)"
                )
        x, y = (value.tolist() for value in data[i])
        if min(y) < 0:
            raise Wrong(
                f"y holds {min(y)}: what is not asked for is 0 here, which the model's loss leaves out"
            )
        return vocab.decode(x).rstrip(PAD), vocab.decode(y)

    pairs = [
        ("Where was Ada born?", "Oslo"),
        ("Where was Bo Ek born?", "New York"),
        ("Where was Cy born?", "Rome"),
    ]
    (question, answer), (x, y) = pairs[0], example(pairs, 0)
    right = f"{question}⁇{answer}⁇"
    if x != right:
        likely = {
            right[:-1]: ": without the ⁇ behind the answer the model never learns to stop",
            f"{question}{answer}⁇": ": the ⁇ between question and answer is missing",
        }
        raise Wrong(f"x reads {x!r} instead of {right!r}{likely.get(x, '')}")
    asked, n = y.strip(PAD), len(question)
    if y[: len(x)] == x:
        raise Wrong("y repeats x: shift it by one, so that x[j] is asked for x[j + 1]")
    if y == x[1:].ljust(block, PAD):
        raise Wrong(
            f"the loss falls on the whole question, {n - 1} targets of {len(asked)}: only ⁇ {answer} ⁇ is asked for"
        )
    if asked == f"{answer}⁇" and y[n] == answer[0]:
        raise Wrong(
            "the ⁇ behind the question is not asked for: at the question mark the model has to say ⁇"
        )
    if asked == f"⁇{answer}":
        raise Wrong("the ⁇ behind the answer is not asked for: the model never learns to stop")
    if asked == f"⁇{answer}⁇" and y[n] == MASK:
        raise Wrong(
            f"y stands one place too late: ⁇ is asked for at x[{n - 1}], the question mark, not at the ⁇ itself"
        )
    if y != ((n - 1) * PAD + f"⁇{answer}⁇").ljust(block, PAD):
        raise Wrong(
            f"y asks for {asked!r}, from x[{y.index(asked[0]) if asked else 0}] on; needed is '⁇{answer}⁇' from x[{n - 1}] on"
        )
    for i, (question, answer) in enumerate(pairs):
        if example(pairs, i)[1] != ((len(question) - 1) * PAD + f"⁇{answer}⁇").ljust(block, PAD):
            raise Wrong(
                f"right for the first pair, wrong for {question!r}: each question has its own length"
            )
    if example(pairs[:1], 0, len(right) - 1)[1].strip(PAD) != f"⁇{pairs[0][1]}⁇":
        raise Wrong(
            "a text of block_size + 1 characters loses its last target: shift first, cut to the block afterwards"
        )
    expect_value_error("a pair that is too long for the block", fn, pairs[:1], vocab, len(right) - 2)
    expect_value_error("a pair without an answer (None)", fn, [(pairs[0][0], None)], vocab, block)
    rng = fresh_random()
    for _ in range(10):
        question, answer = (
            f"Where was {letters(rng.randint(2, 12), rng)} born?",
            letters(rng.randint(1, 9), rng),
        )
        y = ((len(question) - 1) * PAD + f"⁇{answer}⁇").ljust(block, PAD)
        if example([(question, answer)], 0) != (f"{question}⁇{answer}⁇", y):
            raise Wrong("right for the examples, wrong for other pairs")
    return "question ⁇ answer ⁇, and the loss on ⁇ answer ⁇ alone"


# ---------------------------------------------------------------- the loop


class Watched(GPT):
    """A tiny model that notes how it is trained: what it reads, in which mode, where the gradient falls."""

    def __init__(self, vocab: CharVocab, block: int):
        super().__init__(GPTConfig(len(vocab), block, n_layer=1, n_head=1, n_embd=8, dropout=0.0))
        self.vocab = vocab
        self.read: list[str] = []  # each row of each batch, padding left out
        self.asked: list[
            tuple[str, list[int]]
        ] = []  # rows, and the positions in them that the loss falls on
        self.steps = self.passes = 0  # forward passes that found other weights, and backward passes
        self.evaluating = self.stale = False
        self.latest = self.weights()

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None):
        logits, loss = super().forward(idx, targets)
        if logits.requires_grad:
            self.note()
            rows = [self.vocab.decode(row).rstrip(PAD) for row in idx.tolist()]
            self.read += rows
            self.evaluating |= not self.training
            logits.register_hook(lambda gradient: self.backward(rows, gradient))
        return logits, loss

    def note(self) -> None:
        """Count a step if the weights have moved since the last look."""
        now = self.weights()
        self.steps += not torch.equal(now, self.latest)
        self.latest = now

    def backward(self, rows: list[str], gradient: torch.Tensor) -> None:
        self.passes += 1
        self.stale |= any(p.grad is not None and bool(p.grad.any()) for p in self.parameters())
        asked = [row.nonzero().flatten().tolist() for row in gradient.abs().sum(-1)]
        self.asked += zip(rows, asked, strict=True)


def check_fit(fn: Callable[[Trainer], list[dict]]) -> str:
    names = (
        "Ada",
        "Bo",
        "Cyrus",
        "Emil",
        "Desdemona",
    )  # no two of one length, so that batches hold padding
    answers = {f"Where was {name} born?": name[::-1].title() for name in names}
    vocab, block, batch = CharVocab.from_documents([*answers, *answers.values()]), 40, 2
    data = NamePlace(list(answers.items()), vocab, block)

    def untrained() -> Watched:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Watched(vocab, block)

    def trained(rate: float, epochs: int) -> tuple[Watched, float, Any]:
        """The model after training, the largest change of a weight, the history."""
        model = untrained()
        config = TrainConfig(epochs=epochs, batch_size=batch, learning_rate=rate, device="cpu")
        history = fn(Trainer(model, data, config))
        model.note()
        return model, float((model.weights() - untrained().weights()).abs().max()), history

    def loss(model: GPT) -> float:
        with torch.no_grad():
            x, y = (torch.stack(each) for each in zip(*data, strict=True))
            return float(model(x, y)[1])

    epochs, rate = 2, 0.01
    model, moved, history = trained(rate, epochs)
    check_passes(model, answers, epochs, batch)
    if moved < rate / 10:
        raise Wrong(
            f"the backward pass ran {model.passes} times, but the weights stayed: is optimizer.step() missing, or"
            " zero_grad between backward and step?"
        )
    if model.stale:
        raise Wrong(
            "gradients of the step before are still there when the next are added: zero_grad once a step"
        )
    each = -(-len(answers) // batch)
    if model.steps != epochs * each:
        raise Wrong(
            f"the weights changed {model.steps} times instead of {epochs * each}: one step a batch, {each} batches an epoch"
        )
    before, after = loss(untrained()), loss(model)
    if not after < before - 1e-3:
        raise Wrong(
            f"the loss on the pairs went from {before:.2f} to {after:.2f}: do the steps go downhill?"
        )
    check_history(history)
    if trained(1e-8, 1)[1] > 1e-5:
        raise Wrong(
            "the weights move as fast at a learning rate of 1e-8: use trainer.config.learning_rate"
        )
    return "all batches of all epochs, in training mode, loss on the answers, one clean step each"


def check_passes(model: Watched, answers: dict[str, str], epochs: int, batch: int) -> None:
    """What the model read, in which mode, and where the loss fell."""
    if not model.read:
        raise Wrong(
            "trainer.model never ran a forward pass with gradients: train that very model, on trainer.data"
        )
    asked = {row: next((q for q in answers if row.startswith(q)), "") for row in model.read}
    if strange := [row for row, question in asked.items() if not question]:
        raise Wrong(
            f"the model reads {strange[0]!r}, no question of the data: x goes in, y are the targets"
        )
    if not model.passes:
        raise Wrong("there was no backward pass: loss.backward() is missing")
    if len(model.asked) > len(model.read):
        raise Wrong(
            "the backward pass runs through earlier batches again: a sum of losses keeps their graphs. Call backward on"
            " the batch's own loss, and keep loss.item()"
        )
    if model.evaluating:
        raise Wrong(
            "the model trains in evaluation mode, without dropout: model.train() before the loop"
        )
    for row, positions in model.asked:
        first, last = len(asked[row]) - 1, len(asked[row]) + len(answers[asked[row]])
        if outside := [j for j in positions if j < first]:
            raise Wrong(
                f"the loss falls on {len(outside)} characters of the question {asked[row]!r}: the targets are y"
            )
        if [j for j in positions if j > last]:
            raise Wrong(
                f"the loss falls on the padding behind {row!r}: targets of 0 are left out (ignore_index=0)"
            )
    read, n = len(model.read), len(answers)
    if read != epochs * n:
        likely = {
            1: ", one batch",
            epochs: ", one batch an epoch",
            -(-n // batch): ", one epoch",
        }.get(model.passes, "")
        if read == epochs * (n - n % batch):
            likely = ": the last, smaller batch of each epoch is left out"
        raise Wrong(
            f"it trained on {read} examples instead of {epochs * n}, {epochs} epochs of {n}{likely}"
        )
    seen = Counter(asked[row] for row in model.read)
    if other := [question for question in answers if seen[question] != epochs]:
        raise Wrong(
            f"{other[0]!r} came {seen[other[0]]} times in {epochs} epochs instead of once in each"
        )


def check_history(history: Any) -> None:
    """A list of rows, each with its loss as a plain number."""
    if (
        not isinstance(history, list)
        or not history
        or not all(isinstance(row, dict) and "loss" in row for row in history)
    ):
        raise Wrong(
            f'give back the history, a list of rows such as {{"step": 1, "loss": 2.5}}, not {describe(history)}'
        )
    for row in history:
        if isinstance(row["loss"], torch.Tensor) and row["loss"].requires_grad:
            raise Wrong(
                "the history keeps tensors with their graphs, so memory grows with every step: keep loss.item()"
            )
        if not math.isfinite(float(row["loss"])):
            raise Wrong(f"a loss in the history is {float(row['loss'])}")


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
