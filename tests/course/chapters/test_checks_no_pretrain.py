"""The exercises of notebook 4: correct answers pass, each classic mistake is named."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from checking import Answers, notebook_suite, quiz_suite, suite

import kt_core as kt
from kt_core.datasets import collate


@pytest.fixture(scope="module", autouse=True)
def first_optimizer():
    """PyTorch loads half of itself with the first optimiser: not the time of any check."""
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


# ---------------------------------------------------------------- loss on the answer


def question_stub(pairs, vocab, block_size=128):
    """[(x, y), ...]."""
    ...


def examples(
    pairs,
    vocab,
    block_size=128,
    *,
    form="{q}⁇{a}⁇",
    loss=lambda question, answer: (question - 1, question + answer + 1),
    shift=1,
    empty=0,
    cut=False,
    refuses=True,
):
    """(x, y) of each pair, with mistakes to choose from. `loss`: first target, and the end."""
    rows = []
    for question, answer in pairs:
        ids = vocab.encode(form.format(q=question, a=answer))
        if refuses and (answer is None or len(ids) > block_size + 1):
            raise ValueError("an answer is needed, and a pair that fits the block")
        padded = (ids + [0] * (block_size + 1 - len(ids)))[: block_size + 1]
        start, stop = loss(len(question), len(answer or ""))
        following = padded[:-1] + [0] if cut else padded
        y = [following[j + shift] if start <= j < stop else empty for j in range(block_size)]
        rows.append((torch.tensor(padded[:-1]), torch.tensor(y)))
    return rows


def by_collate(pairs, vocab, block_size=128):
    """A tuple instead of a list, the fill by kt_core's collate."""
    rows = []
    for question, answer in pairs:
        if not answer:
            raise ValueError(f"{question} has no answer")
        text = f"{question}⁇{answer}⁇"
        if len(text) > block_size + 1:
            raise ValueError(f"{question} is too long")
        x, y = collate([(vocab.encode(text), len(question))], block_size)
        rows.append((x[0], y[0]))
    return tuple(rows)


class ByItem:
    """A dataset in place of a list."""

    def __init__(self, pairs, vocab, block_size=128):
        self.made = by_collate(pairs, vocab, block_size)

    def __len__(self):
        return len(self.made)

    def __getitem__(self, i):
        x, y = self.made[i]
        return x, torch.where(y > 0, y, 0)


def length_of_the_first(pairs, vocab, block_size=128):
    n = len(pairs[0][0])
    return examples(pairs, vocab, block_size, loss=lambda q, a: (n - 1, n + a + 1))


def stacked(pairs, vocab, block_size=128):
    x, y = zip(*examples(pairs, vocab, block_size), strict=True)
    return torch.stack(x), torch.stack(y)


def examples_with(**options):
    return lambda pairs, vocab, block_size=128: examples(pairs, vocab, block_size, **options)


ANSWER_LOSS = Answers(
    stub=question_stub,
    wrong={
        "on the whole question": (
            examples_with(loss=lambda q, a: (0, 999)),
            "on the whole question, 18 targets of 24",
        ),
        "without the first ⁇": (
            examples_with(loss=lambda q, a: (q, q + a + 1)),
            "at the question mark the model has to say",
        ),
        "without the last ⁇": (
            examples_with(loss=lambda q, a: (q - 1, q + a)),
            "never learns to stop",
        ),
        "never ends": (examples_with(form="{q}⁇{a}"), "without the ⁇ after the answer"),
        "no ⁇ between": (
            examples_with(form="{q}{a}⁇"),
            "the ⁇ between question and answer is missing",
        ),
        "not shifted": (examples_with(shift=0, loss=lambda q, a: (0, 999)), "y repeats x"),
        "one late": (
            examples_with(shift=0, loss=lambda q, a: (q, q + a + 2)),
            "one place too late: .* at x.18.",
        ),
        "pads are -100": (examples_with(empty=-100), "y holds -100: what is not asked for is 0"),
        "last target lost": (examples_with(cut=True), "loses its last target"),
        "the first question's length": (length_of_the_first, "each question has its own length"),
        "no refusal": (
            examples_with(refuses=False),
            "too long for the block gives back a list of 1 without a word",
        ),
        "two big tensors": (stacked, "one .x, y. for each of 3 pairs"),
        "x alone": (
            lambda p, v, b=128: [x for x, _ in examples(p, v, b)],
            "each example is .x, y.",
        ),
        "the answer alone": (examples_with(form="{a}⁇"), "x reads 'Oslo⁇' instead of"),
    },
    right={"lists": examples, "collate": by_collate, "a class": ByItem},
    borrowed=lambda pairs, vocab, block_size=128: kt.NamePlace(pairs, vocab, block_size),
)

# ---------------------------------------------------------------- exact match


def match_stub(answers, gold):
    """kt.Score(correct, total)."""
    ...


def refusing(answers, gold):
    if len(answers) != len(gold) or None in gold:
        raise ValueError("one gold answer a question is needed")


def by_loop(answers, gold):
    refusing(answers, gold)
    correct = 0
    for i in range(len(gold)):
        if answers[i].strip() == gold[i].strip():
            correct += 1
    return kt.Score(correct, len(gold))


def match(equal, refuse=True):
    def fn(answers, gold):
        if refuse:
            refusing(answers, gold)
        return kt.Score(
            sum(bool(equal(a, g)) for a, g in zip(answers, gold, strict=False)), len(gold)
        )

    return fn


EXACT = Answers(
    stub=match_stub,
    wrong={
        "no capitals": (
            match(lambda a, g: a.strip().lower() == g.lower()),
            "small letters from capitals",
        ),
        "part of the answer": (match(lambda a, g: a.strip() in g), "a part of the correct answer"),
        "goes on": (match(lambda a, g: g in a), "an answer that goes on"),
        "white space": (match(lambda a, g: a == g), "white space around an answer"),
        "gold as it is": (match(lambda a, g: a.strip() == g), "around a gold answer"),
        "no white space at all": (
            match(lambda a, g: "".join(a.split()) == "".join(g.split())),
            "white space inside an answer",
        ),
        "as sets": (
            lambda a, g: (
                refusing(a, g),
                kt.Score(sum((Counter(x.strip() for x in a) & Counter(g)).values()), len(g)),
            )[1],
            "compare them one by one",
        ),
        "cut to the shorter": (
            match(lambda a, g: a.strip() == g.strip(), refuse=False),
            "without a word; raise a ValueError",
        ),
        "None": (
            lambda a, g: (
                match(lambda a, g: a.strip() == (g or "").strip(), False)(a, g)
                if len(a) == len(g)
                else refusing(a, g)
            ),
            "a gold answer that is None .* without a word",
        ),
        "a fraction": (lambda a, g: by_loop(a, g).accuracy, "needed is kt.Score"),
        "only the wrong ones": (match(lambda a, g: a.strip() != g), "1 of 3 instead of 2 of 3"),
    },
    right={"a loop": by_loop, "map": match(lambda a, g: a.strip() == g.strip())},
    borrowed=lambda answers, gold: kt.exact_match(answers, gold),
)

# ---------------------------------------------------------------- London


def london_stub(pairs):
    """kt.Score(correct, total)."""
    ...


def london_by_match(pairs):
    return kt.exact_match(["London" for _ in pairs], [answer for _, answer in pairs])


def london_by_count(pairs):
    answers = [answer for _, answer in pairs]
    if None in answers:
        raise ValueError("no answers here")
    return kt.Score(answers.count("London"), len(answers))


def most_frequent(pairs):
    refusing(pairs, [answer for _, answer in pairs])
    return kt.Score(Counter(answer for _, answer in pairs).most_common(1)[0][1], len(pairs))


def counted(says):
    def fn(pairs):
        refusing(pairs, [answer for _, answer in pairs])
        return kt.Score(sum(says(question, answer) for question, answer in pairs), len(pairs))

    return fn


LONDON = Answers(
    stub=london_stub,
    wrong={
        "the most frequent": (most_frequent, "the constant answer is London"),
        "in the question": (
            counted(lambda q, a: "London" in q or a == "London"),
            "looked for in the question",
        ),
        "in the answer": (counted(lambda q, a: "London" in a), "an exact match"),
        "no capitals": (counted(lambda q, a: a == "london"), "0 of 4 instead of 2 of 4"),
        "all others": (
            counted(lambda q, a: a != "London"),
            "1 of 2|instead of|2 of 3 instead of 1 of 3",
        ),
        "no answers": (
            lambda pairs: kt.Score(sum(a == "London" for _, a in pairs), len(pairs)),
            "raise a ValueError",
        ),
        "a percentage": (
            lambda pairs: 100 * london_by_count(pairs).accuracy,
            "needed is kt.Score.*not 50.0",
        ),
        "a table": (
            lambda pairs: kt.Score(2, 4) if len(pairs) == 4 else london_by_count(pairs[:3]),
            "other pairs|instead of",
        ),
    },
    right={"by exact match": london_by_match, "by count": london_by_count},
    borrowed=lambda pairs: kt.london_baseline(pairs),
)

# ---------------------------------------------------------------- the interval


def wilson_stub(correct, total, z=1.96):
    """(low, high)."""
    ...


def by_quadratic(correct, total, z=1.96):
    """(1 + z²/n) p² - (2 k/n + z²/n) p + (k/n)² <= 0, solved for p."""
    if not total:
        return 0.0, 1.0
    share = correct / total
    roots = torch.tensor(
        [1 + z**2 / total, -(2 * share + z**2 / total), share**2], dtype=torch.float64
    )
    a, b, c = roots.tolist()
    half = math.sqrt(max(0.0, b * b - 4 * a * c))
    return max(0.0, (-b - half) / (2 * a)), min(1.0, (-b + half) / (2 * a))


def wilson(correct, total, z=1.96, *, shift=1.0, inside=1.0, shrink=1.0, factor=1.0, given_z=True):
    """By the formula, with parts to leave out."""
    z = z if given_z else 1.96
    if total == 0:
        return [0, 1]
    n, p = total, correct / total
    scale = 1 + shrink * z * z / n
    half = factor * z * (p * (1 - p) / n + inside * z * z / (4 * n * n)) ** 0.5
    centre = p + shift * z * z / (2 * n)
    return [(centre - half) / scale, (centre + half) / scale]


def formula(**parts):
    return lambda correct, total, z=1.96: wilson(correct, total, z, **parts)


def half_divided(correct, total, z=1.96):
    n, p = total, correct / total
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    return centre - half, centre + half


def centre_and_half(correct, total, z=1.96):
    low, high = wilson(correct, total, z)
    return (low + high) / 2, (high - low) / 2


WILSON = Answers(
    stub=wilson_stub,
    wrong={
        "textbook": (formula(shift=0, inside=0, shrink=0), "the textbook interval"),
        "not divided": (formula(shrink=0), "not divided by 1 . z²/n"),
        "no shift": (formula(shift=0), "the centre lacks z²/.2n."),
        "inside": (formula(inside=0), "missing under the root"),
        "half divided": (half_divided, "only the centre is divided"),
        "centre and half width": (centre_and_half, "the two ends are needed"),
        "over n": (formula(inside=250), r"it is z²/.4n²."),
        "two z": (formula(factor=2), "twice as wide"),
        "no z": (formula(factor=1 / 1.96), "z is missing before the root"),
        "90 %": (lambda k, n, z=1.6449: wilson(k, n, z), "that of 90 %"),
        "percentages": (lambda k, n, z=1.96: [100 * v for v in wilson(k, n, z)], "percentages"),
        "upside down": (lambda k, n, z=1.96: wilson(k, n, z)[::-1], "the upper end first"),
        "nothing asked": (
            lambda k, n, z=1.96: wilson(k, n, z) if n else (0.0, 0.0),
            "nothing is known, .0, 1.",
        ),
        "division by zero": (
            lambda k, n, z=1.96: wilson(k, n, z) if n else 1 / n,
            "ZeroDivisionError",
        ),
        "z unused": (formula(given_z=False), "use the argument z"),
        "low alone": (lambda k, n, z=1.96: wilson(k, n, z)[0], "needed are two numbers"),
    },
    right={"the quadratic": by_quadratic, "the formula": wilson},
    borrowed=lambda correct, total, z=1.96: kt.wilson_interval(correct, total, z),
)

# ---------------------------------------------------------------- the loop


def fit_stub(trainer):
    """[{"step": 1, "loss": ...}, ...]."""
    ...


def loop(
    trainer,
    *,
    train=True,
    zero="first",
    backward=True,
    step=True,
    targets=lambda x, y: y,
    epochs=None,
    most=None,
    keep=torch.Tensor.item,
    rate=None,
    uphill=False,
    drop_last=False,
):
    """The loop of the hints, with mistakes to choose from."""
    model, config = trainer.model, trainer.config
    model.train(train)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate or config.learning_rate)
    history = []
    for epoch in range(epochs or round(config.epochs)):
        epoch_batches = list(kt.batches(trainer.data, config.batch_size, config.seed, epoch))
        for x, y in [
            (x, y) for x, y in epoch_batches if not drop_last or len(x) == config.batch_size
        ][:most]:
            if zero == "first":
                optimizer.zero_grad()
            _, loss = model(x, targets(x, y))
            loss = -loss if uphill else loss
            if backward:
                loss.backward()
            if zero == "last":
                optimizer.zero_grad()
            if step:
                optimizer.step()
            history.append({"step": len(history) + 1, "loss": keep(loss)})
    return history


def own_loss(trainer, ignore_index=0):
    """Batches of a DataLoader, the loss from the logits, plain SGD by hand."""
    trainer.model.train()
    history, loader = [], torch.utils.data.DataLoader(trainer.data, trainer.config.batch_size)
    for _ in range(int(trainer.config.epochs)):
        for x, y in loader:
            logits, _ = trainer.model(x)
            loss = F.cross_entropy(logits.transpose(1, 2), y, ignore_index=ignore_index)
            grads = torch.autograd.grad(loss, list(trainer.model.parameters()))
            with torch.no_grad():
                for p, grad in zip(trainer.model.parameters(), grads, strict=True):
                    p -= trainer.config.learning_rate * grad
            history.append({"loss": loss.item()})
    return history


def one_backward_an_epoch(trainer):
    optimizer = torch.optim.AdamW(
        trainer.model.train().parameters(), lr=trainer.config.learning_rate
    )
    for epoch in range(int(trainer.config.epochs)):
        total = 0.0
        for x, y in kt.batches(trainer.data, trainer.config.batch_size, 0, epoch):
            total = total + trainer.model(x, y)[1]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return [{"loss": total.item()}]


def growing_graph(trainer):
    model = trainer.model.train()
    optimizer, total, rows = (
        torch.optim.SGD(model.parameters(), lr=trainer.config.learning_rate),
        0.0,
        [],
    )
    for _ in range(2):
        for x, y in kt.batches(trainer.data, trainer.config.batch_size, 0, 0):
            rows.append((x, y))
    for x, y in rows:
        optimizer.zero_grad()
        total = total + model(x, y)[1]
        total.backward(retain_graph=True)
    optimizer.step()
    return [{"loss": total.item()}]


def own_model(trainer):
    torch.manual_seed(0)
    model = kt.GPT(trainer.model.config)
    _, loss = model(*next(kt.batches(trainer.data, trainer.config.batch_size, 0, 0)))
    loss.backward()
    return [{"loss": loss.item()}]


def one_question_only(trainer):
    model = trainer.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=trainer.config.learning_rate)
    history = []
    for _ in range(6):
        (x, y) = next(kt.batches(trainer.data, trainer.config.batch_size, 0, 0, shuffle=False))
        optimizer.zero_grad()
        _, loss = model(x, y)
        loss.backward()
        optimizer.step()
        history.append({"loss": loss.item()})
    return history


def mistaken(**parts):
    return lambda trainer: loop(trainer, **parts)


LOOP = Answers(
    stub=fit_stub,
    wrong={
        "zero_grad forgotten": (mistaken(zero=""), "gradients of the step before are still there"),
        "zero_grad before the step": (mistaken(zero="last"), "zero_grad between backward and step"),
        "no backward": (mistaken(backward=False), "loss.backward.. is missing"),
        "no step": (mistaken(step=False), "optimizer.step.. missing"),
        "in evaluation mode": (mistaken(train=False), "evaluation mode"),
        "loss on the whole question": (
            mistaken(targets=lambda x, y: F.pad(x[:, 1:], (0, 1))),
            "the loss falls on .* characters of the question",
        ),
        "loss on x": (mistaken(targets=lambda x, y: x), "of the question"),
        "loss on the padding": (
            lambda trainer: own_loss(trainer, -100),
            "characters of the question|on the padding",
        ),
        "pads alone": (mistaken(targets=lambda x, y: torch.where(x == 0, 2, y)), "on the padding"),
        "graphs kept": (mistaken(keep=lambda loss: loss), "keeps tensors with their graphs"),
        "a growing sum": (growing_graph, "runs through earlier batches again"),
        "one backward an epoch": (
            one_backward_an_epoch,
            "the weights changed 2 times instead of 6",
        ),
        "one epoch": (mistaken(epochs=1), "5 examples instead of 10.*one epoch"),
        "one batch per epoch": (mistaken(most=1), "one batch per epoch"),
        "the last batch left out": (mistaken(drop_last=True), "the last, smaller batch"),
        "the same batch": (one_question_only, "12 examples instead of 10|came . times"),
        "another model": (own_model, "never ran a forward pass"),
        "another rate": (mistaken(rate=0.01), "use trainer.config.learning_rate"),
        "uphill": (mistaken(uphill=True), "downhill"),
        "no history": (lambda trainer: loop(trainer)[-1]["loss"], "give back the history"),
        "x and y swapped": (
            lambda trainer: [
                trainer.model.train()(y, x)
                for x, y in kt.batches(trainer.data, trainer.config.batch_size, 0, 0)
            ],
            "x goes in, y are the targets",
        ),
    },
    right={
        "the loop": loop,
        "by hand": own_loss,
        "detached": mistaken(keep=lambda loss: loss.detach()),
    },
    borrowed=lambda trainer: trainer.fit(),
)

ANSWERS = {
    "answer-loss": ANSWER_LOSS,
    "exact-match": EXACT,
    "london-baseline": LONDON,
    "wilson-interval": WILSON,
    "finetuning-loop": LOOP,
}
TestExercises = suite("04_no_pretrain_baseline", ANSWERS)
TestQuizzes = quiz_suite("04_no_pretrain_baseline")
TestNotebook = notebook_suite("04_no_pretrain_baseline")
