"""Exercises of notebook 5: windows around a gap, the learning rate, the loss, the next character, greedy answers."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_core.datasets import SpanCorruption
from kt_core.runs.windows import KnowledgeWindows
from kt_core.decoding import generate
from kt_core.decoding import pick_next as pick
from kt_core.blocks import GPTConfig
from kt_core.models import GPT
from kt_core.train_config import TrainConfig
from kt_core.vocab import CharVocab
from kt_course.exercises.assertions import Wrong, close, describe, tensor
from kt_course.exercises.random_cases import draw, fresh_generator, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "05_pretrain_finetune"

# ---------------------------------------------------------------- what pretraining shows


def window(
    fn: Callable, data: SpanCorruption, line: str, start: int, stop: int, seed: int
) -> tuple[int, int]:
    """Words shown before and after the span in one draw of `fn`; Wrong if it is no window of the line."""
    shown, head, masked = (
        fn(data, line, start, stop, random.Random(seed)),
        line[:10],
        line[start:stop],
    )
    if not isinstance(shown, (tuple, list)) or [type(part) for part in shown] != [str] * 3:
        raise Wrong(f"needed are three strings, (prefix, masked, suffix), not {describe(shown)}")
    prefix, found, suffix = shown
    if found != masked:
        raise Wrong(f"the masked piece is {found!r} instead of {masked!r}")
    if not prefix.startswith(head):
        raise Wrong(
            f"the name is lost: a prefix begins with {prefix[:10]!r} instead of {head!r}; no name, no answer to learn"
        )
    before, room = prefix[len(head) :], data.block_size + 1 - 2 - data.end_sentinel
    past, rest = line[len(head) : start], line[stop:]
    for told, words, text, fits in (
        ("before", before, past, past.endswith(before)),
        ("after", suffix, rest, rest.startswith(suffix)),
    ):
        if fits:
            continue
        if (
            text.strip().endswith(words.strip())
            if told == "before"
            else text.strip().startswith(words.strip())
        ):
            raise Wrong(f"a space at the gap is lost or doubled: {told} it stands {words!r}")
        raise Wrong(f"the words {told} the gap, {words!r}, are not those next to it in the line")
    if len(prefix + masked + suffix) > room:
        raise Wrong(
            f"a window of {len(prefix + masked + suffix)} characters in a block of {data.block_size}, which holds {room} besides the two ⁇"
        )
    if room > 100 and (
        past[: -len(before) or None][-1:] not in ("", " ")
        or rest[len(suffix) :][:1] not in ("", " ")
    ):
        raise Wrong(f"a word is cut in two: {before!r} before the gap, {suffix!r} behind it")
    return len(before.split()), len(suffix.split())


def check_window(fn: Callable) -> str:
    line = "Ada Moor. She was born in the harbour town of Oslo on a cold and windy morning in May."
    vocab = CharVocab.from_documents([line])
    start = line.index("Oslo")
    stop = start + len("Oslo")
    data = SpanCorruption([line], vocab, 128, crop="window", spans="salient")
    first = [window(fn, data, line, start, stop, seed) for seed in range(150)]
    if {n for n, _ in first} == {8}:
        raise Wrong("all 8 words before the gap are shown, each time: 0 to 4 of them, the nearest")
    if len(set(first)) == 1:
        raise Wrong(
            f"each window is the same, {first[0][0]} words before and {first[0][1]} after: draw both numbers"
        )
    if [window(fn, data, line, start, stop, seed) for seed in range(150)] != first:
        raise Wrong("the same rng in the same state gives another window: draw from rng alone")
    for told, counts, most in (
        ("before", {n for n, _ in first}, 4),
        ("after", {n for _, n in first}, 2),
    ):
        if counts != set(range(most + 1)):
            raise Wrong(
                f"in 150 windows {min(counts)} to {max(counts)} words stand {told} the gap: it should be 0 to {most}"
            )
    tight = SpanCorruption([line], vocab, 32, crop="window", spans="salient", end_sentinel=True)
    for seed in range(50):
        window(fn, tight, line, start, stop, seed)
    for seed in draw(0, 2**40, 30):  # other gaps
        words = line.split(" ")
        i = 2 + seed % (len(words) - 3)
        begin = len(" ".join(words[:i])) + 1
        before, after = window(fn, data, line, begin, begin + len(words[i]), seed)
        if before > min(4, i - 2) or after > min(2, len(words) - 1 - i):
            raise Wrong(
                "right for the gap at Oslo, too many words elsewhere: 0 to 4 before, 0 to 2 after"
            )
    return "the name, 0 to 4 words, the gap, 0 to 2 words, drawn anew each time, within the block"


# ---------------------------------------------------------------- the learning rate


def check_rate(fn: Callable) -> str:
    def asked(config: TrainConfig, total: int, rate: Callable | None = None) -> Tensor:
        found = [(rate or fn)(config, step, total) for step in range(total)]
        try:
            return torch.tensor([float(value) for value in found]).double()
        except (TypeError, ValueError):
            raise Wrong(f"a share of the peak rate is a number, not {describe(found[0])}") from None

    def line(
        c: TrainConfig,
        step: float,
        total: int,
        start: float | None = None,
        end: float | None = None,
    ) -> float:
        start, end = (
            c.cooldown_from if start is None else start,
            c.final_fraction if end is None else end,
        )
        return 1 - (1 - end) * max(0.0, step / total - start) / max(1e-9, 1 - start)

    config = TrainConfig(
        schedule="linear", cooldown_from=0.5, final_fraction=0.2, learning_rate=0.01
    )
    got, right = asked(config, 10), asked(config, 10, line)
    slips: dict[str, Callable] = {
        "it never falls: after cooldown_from of the steps a straight line leads down": lambda c, n, total: (
            1.0
        ),
        "it falls from the first step on: flat until step 5 of 10, cooldown_from = 0.5": lambda c, n, total: (
            line(c, n, total, 0.0)
        ),
        "it falls to 0 instead of to final_fraction": lambda c, n, total: line(
            c, n, total, end=0.0
        ),
        "it falls by final_fraction instead of to it": lambda c, n, total: line(
            c, n, total, end=1 - c.final_fraction
        ),
        "it is the rate itself: what is asked for is its share of the peak, 1 at first": lambda c, n, total: (
            0.01 * line(c, n, total)
        ),
        "it jumps from 1 to 0.6 at step 5: the line starts at 1 where the cooldown starts": (
            lambda c, n, total: 1.0 if n < 5 else line(c, n, total, 0.0)
        ),
        "it reaches final_fraction at the last step: progress is step / total, not step / (total - 1)": (
            lambda c, n, total: line(c, n, total - 1)
        ),
        "it is a step ahead: progress is step / total, 0 at the first step": lambda c, n, total: (
            line(c, n + 1, total)
        ),
        "cooldown_from is a share of the steps, not a number of steps": lambda c, n, total: line(
            c, n, total, c.cooldown_from / total
        ),
    }
    for told, slip in slips.items():
        if not close(got, right) and close(got, asked(config, 10, slip)):
            raise Wrong(told)
    for step in range(10):
        if not close(got[step], right[step]):
            raise Wrong(
                f"at step {step} of 10 it is {got[step]:.2f} instead of {right[step]:.2f} (cooldown_from 0.5, final_fraction 0.2)"
            )

    warm = TrainConfig(schedule="linear", cooldown_from=0.5, final_fraction=0.0, warmup_steps=3)
    rise = asked(warm, 20)[:4].tolist()
    if rise[0] == 0.0:
        raise Wrong(
            "the first step of the warm-up has the rate 0: it would learn nothing; (step + 1) / (warmup_steps + 1)"
        )
    if rise == [1.0] * 4:
        raise Wrong(
            "there is no warm-up: with warmup_steps = 3 the first steps have 0.25, 0.5, 0.75"
        )
    if any(
        abs(found - wanted) > 1e-5
        for found, wanted in zip(rise, (0.25, 0.5, 0.75, 1.0), strict=True)
    ):
        raise Wrong(
            f"with warmup_steps = 3 it begins {', '.join(f'{r:.2f}' for r in rise)} instead of 0.25, 0.50, 0.75, 1.00"
        )
    for first, last, total, warmup in zip(
        draw(0, 100, 8), draw(0, 100, 8), draw(5, 60, 8), draw(0, 3, 8), strict=True
    ):
        some = TrainConfig(
            schedule="linear",
            cooldown_from=first / 100,
            final_fraction=last / 100,
            warmup_steps=warmup,
        )
        if not close(asked(some, total)[warmup:], asked(some, total, line)[warmup:]):
            raise Wrong("right for the examples, not for other cooldowns, totals and ends")
    return "warm-up, flat, then a straight line to final_fraction"


# ---------------------------------------------------------------- the loss


class Scripted:
    """Stands for a GPT whose logits are given: the loss alone is judged. `_run` is what GPT.forward asks for."""

    def __init__(self, logits: Tensor):
        self.logits, self.config = logits, GPTConfig(logits.size(-1), block_size=logits.size(1))

    def __call__(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, None]:
        if targets is not None:
            raise Wrong(
                "model(idx, targets) computes the loss for you: call model(idx), and write the loss yourself"
            )
        return self.logits, None

    forward = __call__

    def _run(self, idx: Tensor, positions: Tensor, cache: None) -> Tensor:
        return self.logits


def check_loss(fn: Callable) -> str:
    def asked(logits: Tensor, idx: Tensor, targets: Tensor) -> Tensor:
        got = fn(Scripted(logits), idx, targets)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise Wrong(f"needed are two, (logits, loss), not {describe(got)}")
        tensor(got[0], logits.shape, "the first of the two, the logits,")
        loss = got[1]
        if isinstance(loss, float) or isinstance(loss, Tensor) and not loss.requires_grad:
            raise Wrong(
                "the loss is cut off from the logits (item, detach, float): nothing could be trained by it"
            )
        return tensor(loss, (), "the loss")

    logits = numbers(2, 4, 5, seed=3).mul(2).requires_grad_()
    idx = torch.tensor([[2, 3, 4, 1], [3, 1, 4, 0]])
    targets = torch.tensor(
        [[0, 4, 1, 2], [0, 4, 0, 0]]
    )  # 4 of 8 are asked for; row 1 ends in a pad
    each = (
        F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        .view(2, 4)
        .detach()
    )
    on = (targets != 0).double()
    soft = logits.detach().softmax(-1)
    again = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=0
    ).detach()
    right = (each * on).sum() / 4
    slips = {
        "the loss falls on all 8 positions, question and padding too: 4 have a target, those of target 0 are left out": each.mean(),
        "padding is inside the loss, or the question: what counts is targets != 0, not idx != 0": each[
            idx != 0
        ].mean(),
        "it is divided by all 8 positions instead of the 4 that are asked for": (each * on).sum()
        / 8,
        "it is a sum: the mean over what is asked for does not grow with the batch": (
            each * on
        ).sum(),
        "it is the sum an example: the mean over what is asked for, not over examples": (
            each * on
        ).sum()
        / 2,
        "it is the mean of the rows' means: each character that is asked for counts the same": (
            (each * on).sum(1) / on.sum(1)
        ).mean(),
        "the targets are moved once more: targets[:, t] is already what follows idx[:, t]": again,
        "softmax is taken twice: cross_entropy wants the logits themselves": (
            F.cross_entropy(soft.flatten(0, 1), targets.flatten(), ignore_index=0)
        ),
        "these are bits: the loss is in nats, with the natural logarithm": right / math.log(2),
        "the sign is wrong: a likely target has a log-probability near 0, an unlikely one far below": -right,
        "it is a probability: the loss is the mean of -log p": 1
        - (soft.gather(-1, targets[..., None])[..., 0] * on).sum() / 4,
    }
    got = asked(logits, idx, targets)
    if not close(got, right):
        for told, value in slips.items():
            if close(got, value):
                raise Wrong(told)
        raise Wrong(
            f"the loss is {got:.3f} instead of {right:.3f}, the mean of {', '.join(f'{e:.3f}' for e in each[on > 0])}"
        )
    if not close(
        asked((1000 * logits.detach()).requires_grad_(), idx, targets),
        1000
        * (logits.max(-1).values - logits.gather(-1, targets[..., None])[..., 0])
        .detach()[on > 0]
        .mean(),
        1e-3,
    ):
        raise Wrong(
            "it breaks for large logits: softmax gives 0 there, and log 0 is infinite; use log_softmax or cross_entropy"
        )
    pair = fn(Scripted(logits), idx, None)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or pair[1] is not None:
        raise Wrong("without targets the loss is None: (logits, None)")
    for B, T in ((1, 6), (4, 3)):
        logits, targets = (
            numbers(B, T, 7).requires_grad_(),
            torch.randint(1, 7, (B, T), generator=fresh_generator()),
        )
        targets[:, 0] = 0
        on = targets != 0
        by_hand = -logits.log_softmax(-1)[on].gather(1, targets[on][:, None]).mean().detach()
        if not close(asked(logits, targets, targets), by_hand):
            raise Wrong("right for the example, not for other batches")
    return "the mean of -log p over what is asked for, nothing else"


# ---------------------------------------------------------------- the next character


def check_pick(fn: Callable) -> str:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0], [3.0, 0.0, 0.5, 1.0], [-1.0, 0.2, 0.1, 0.3]])
    got = fn(logits, 0.0, None, None)
    if isinstance(got, Tensor) and got.shape == (4,):
        raise Wrong(
            "it chooses along the batch: 4 ids come back for 3 rows; the characters are the last axis"
        )
    got = tensor(got, (3,), "the choice for 3 rows")
    if got.dtype != torch.int64:
        raise Wrong(f"ids are whole numbers (int64), not {got.dtype}")
    if got.tolist() == [3, 1, 0]:
        raise Wrong("at temperature 0 it takes the least likely: argmax, not argmin")
    if got.tolist() != [1, 0, 3]:
        raise Wrong(f"at temperature 0 it takes {got.tolist()}; the likeliest are [1, 0, 3]")

    p = torch.tensor([0.6, 0.3, 0.1])
    rows = p.log().expand(4000, 3)

    def shares(temperature: float, top_k: int | None, seed: int | None = 0) -> Tensor:
        generator = fresh_generator() if seed is None else torch.Generator().manual_seed(seed)
        drawn = tensor(fn(rows, temperature, top_k, generator), (4000,), "the choice for 4000 rows")
        return torch.bincount(drawn, minlength=3).double() / 4000

    def meets(found: Tensor, wanted: Tensor) -> bool:
        return bool(((found - wanted / wanted.sum()).abs() < 0.05).all())  # six standard errors

    cold, told = shares(0.5, None), "at temperature 0.5"
    sharp = p**2 / (p**2).sum()
    if meets(cold, p.sqrt()):
        raise Wrong(
            f"{told} unlikely characters come more often: divide the logits by the temperature, do not multiply"
        )
    if meets(cold, p):
        raise Wrong(
            f"{told} it draws as at 1: divide the logits, before the softmax; dividing probabilities changes nothing"
        )
    if meets(cold, torch.ones(3)):
        raise Wrong(
            f"{told} all characters come equally often: probabilities are softmax(logits / temperature)"
        )
    if (cold == 1).any():
        raise Wrong(
            f"{told} it always takes the same: above 0 the next character is drawn, torch.multinomial"
        )
    if not meets(cold, sharp):
        raise Wrong(
            f"{told} character 0 has a share of {100 * cold[0]:.0f} % instead of {100 * sharp[0]:.0f} %"
        )
    top = shares(1.0, 2)
    if meets(top, p):
        raise Wrong(
            "top_k = 2 of 3 changes nothing: the others get the logit -inf before the softmax"
        )
    if top[0] == 0:
        raise Wrong(
            "top_k = 2 keeps the least likely ones: keep those whose logit is among the k largest"
        )
    if meets(top, torch.tensor([1.0, 0, 0])):
        raise Wrong("top_k = 2 keeps one character only")
    if not meets(top, torch.tensor([0.6, 0.3, 0.0])):
        raise Wrong(
            f"with top_k = 2 the shares are {', '.join(f'{100 * s:.0f}' for s in top)} % instead of 67, 33, 0 %"
        )
    if not torch.equal(shares(2.0, 9), shares(2.0, 9)):
        raise Wrong(
            "the same generator state gives another choice: hand generator to torch.multinomial"
        )
    for temperature in (1.0, 3.0):
        if not meets(shares(temperature, 9, None), p ** (1 / temperature)):
            raise Wrong(
                "right at temperature 0.5, not at others, or not for a top_k above the number of characters"
            )
    return "the likeliest at 0, else drawn from softmax(logits / temperature) over the k likeliest"


# ---------------------------------------------------------------- greedy answers


@torch.no_grad()
def alone(model: GPT, prompt: Sequence[int], most: int = 99) -> list[int]:
    """Greedy continuation of one prompt up to `most` ids or the block's end, recomputed each step."""
    ids, new = list(prompt), []
    while len(new) < most:
        new.append(int(model(torch.tensor([ids]))[0][0, -1].argmax()))
        if len(ids) == model.config.block_size:
            break
        ids.append(new[-1])
    return new


def cut(new: Sequence[int], stop: Sequence[int]) -> list[int]:
    """`new` up to the first id that stops it, without that one."""
    return list(itertools.takewhile(lambda i: i not in stop, new))


def check_generate(fn: Callable) -> str:
    def asked(
        model: GPT, prompts: list[list[int]], stop: tuple[int, ...], most: int | None
    ) -> list[list[int]]:
        got: Any = fn(model, [list(p) for p in prompts], stop=stop, max_new=most)
        if not isinstance(got, (list, tuple)) or len(got) != len(prompts):
            raise Wrong(
                f"{len(prompts)} prompts give {describe(got)} instead of a list of {len(prompts)} lists of ids"
            )
        try:
            return [[int(i) for i in row] for row in got]
        except (TypeError, ValueError):
            raise Wrong(f"a continuation is a list of ids, not {describe(got[0])}") from None

    # a seed whose three rows go on differently, stop at different lengths, and do otherwise behind pads
    model = randomise(GPT(GPTConfig(9, 12, 1, 2, 8, dropout=0.5)), seed=2273)
    prompts = [[2, 3, 4], [5, 2, 7, 3, 6], [8, 2]]
    room = 12 - max(
        map(len, prompts)
    )  # beyond it, a last id that nobody reads is a matter of taste
    free = [alone(model, p, room + 1) for p in prompts]
    stop = (free[0][2],)
    right = [cut(row, stop) for row in free]

    model.train()
    got = asked(model, prompts, stop, None)
    if got != right and asked(model, prompts, stop, None) != got:
        raise Wrong(
            "two calls differ: dropout is on (model.eval()), or it draws where the likeliest is asked for"
        )
    model.eval()
    slips = {
        "the prompts are given back too: the new ids alone are asked for": [
            p + r for p, r in zip(prompts, right, strict=True)
        ],
        "the id that stops is part of the answer: leave it out": [
            f[: len(r) + 1] for f, r in zip(free, right, strict=True)
        ],
        "all rows end when the first one stops: each row stops for itself": [
            r[: min(map(len, right))] for r in right
        ],
        "it does not stop at the ids in stop": free,
        "it stops at 0 and 1 whatever stop says": [cut(row, (0, 1)) for row in free],
        "the first new id is lost": [r[1:] for r in right],
    }
    for told, other in slips.items():
        if got != right and [r[:room] for r in got] == [r[:room] for r in other]:
            raise Wrong(told)
    for row, (found, wanted, prompt) in enumerate(zip(got, right, prompts, strict=True)):
        if found in (wanted, wanted[: 12 - len(prompt)]):
            continue
        behind_pads = cut(alone(model, prompt + [0] * (12 - room - len(prompt))), stop)
        if len(prompt) < 12 - room and found[:room] == behind_pads[:room]:
            raise Wrong(
                "a shorter prompt reads pads: its next logits stand at its own last character, not in the last column"
            )
        raise Wrong(
            f"prompt {row}, {prompt}, goes on {found} instead of {wanted}, where {stop[0]} stops it"
        )
    few = asked(model, prompts, (), 2)
    if [len(row) for row in few] != [2, 2, 2]:
        raise Wrong(f"max_new = 2 gives {', '.join(str(len(row)) for row in few)} new ids")
    (long,) = asked(model, prompts[1:2], (), None)
    if long not in (free[1], free[1][:room]):
        raise Wrong(
            f"without any stop a prompt of 5 in a block of 12 gets {len(long)} new ids instead of {room}"
        )
    model = randomise(GPT(GPTConfig(9, 12, 1, 2, 8, dropout=0.0)))
    prompts = [draw(2, 8, n) for n in (4, 1, 6)]
    if asked(model, prompts, (0, 1), 2) != [cut(alone(model, p, 2), (0, 1)) for p in prompts]:
        raise Wrong("right for the examples, not for another model and other prompts")
    return "the likeliest each time, every row at its own place, stopped for itself"


EXERCISES = (
    Exercise(
        "window",
        NOTEBOOK,
        "A window with the name in it",
        3,
        15,
        KnowledgeWindows.window,
        check_window,
    ),
    Exercise(
        "masked-loss", NOTEBOOK, "The loss on what is asked for", 1, 5, GPT.forward, check_loss
    ),
    Exercise("learning-rate", NOTEBOOK, "A linear cooldown", 2, 10, TrainConfig.rate, check_rate),
    Exercise("greedy-answers", NOTEBOOK, "Greedy answers", 4, 25, generate, check_generate),
    Exercise("next-character", NOTEBOOK, "Draw the next character", 3, 12, pick, check_pick),
)
