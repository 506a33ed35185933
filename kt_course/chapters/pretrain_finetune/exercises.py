"""Exercises of notebook 5: training windows, learning rate, loss, next character, answers."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_core.blocks import GPTConfig
from kt_core.decoding import generate, pick_next
from kt_core.models import GPT
from kt_core.runs.windows import KnowledgeWindows
from kt_core.train_config import TrainConfig
from kt_core.vocab import CharVocab
from kt_course.exercises.assertions import close, describe, tensor
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.random_cases import draw, fresh_generator, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "05_pretrain_finetune"

# ---------------------------------------------------------------- what pretraining shows


def count_words(
    fn: Callable, data: KnowledgeWindows, line: str, start: int, stop: int, seed: int
) -> tuple[int, int]:
    """Return how many words one draw shows before and after the gap; Wrong if it is no window."""
    wrong = diagnoses(__file__, "window")
    result = fn(data, line, start, stop, random.Random(seed))
    if not isinstance(result, tuple | list) or [type(part) for part in result] != [str] * 3:
        raise wrong("not three", result=describe(result))
    prefix, masked, suffix = result
    name, room = line[:10], data.block_size + 1 - 2 - data.end_sentinel
    if masked != line[start:stop]:
        raise wrong("masked", masked=masked, expected=line[start:stop])
    if not prefix.startswith(name):
        raise wrong("no name", start=prefix[:10], name=name)
    before, text_before, text_after = prefix[10:], line[10:start], line[stop:]
    if not text_before.endswith(before):
        is_space = text_before.strip().endswith(before.strip())
        raise wrong("space" if is_space else "words", side="before", words=before)
    if not text_after.startswith(suffix):
        is_space = text_after.strip().startswith(suffix.strip())
        raise wrong("space" if is_space else "words", side="after", words=suffix)
    n = len(prefix + masked + suffix)
    if n > room:
        raise wrong("long", n=n, block_size=data.block_size, room=room)
    left_out = text_before[: len(text_before) - len(before)], text_after[len(suffix) :]
    if room > 100 and not (left_out[0][-1:] in ("", " ") and left_out[1][:1] in ("", " ")):
        raise wrong("cut word", before=before, after=suffix)
    return len(before.split()), len(suffix.split())


def check_window(fn: Callable) -> str:
    wrong = diagnoses(__file__, "window")
    line = "Ada Moor. She was born in the harbour town of Oslo on a cold and windy morning in May."
    vocab = CharVocab.from_documents([line])
    start = line.index("Oslo")
    stop = start + len("Oslo")
    data = KnowledgeWindows([line], vocab, 128, spans="salient", end_sentinel=False)
    windows = [count_words(fn, data, line, start, stop, seed) for seed in range(150)]
    if {before for before, _ in windows} == {8}:
        raise wrong("whole line")
    if len(set(windows)) == 1:
        raise wrong("constant", before=windows[0][0], after=windows[0][1])
    if [count_words(fn, data, line, start, stop, seed) for seed in range(150)] != windows:
        raise wrong("unstable")
    for side, column, most in (("before", 0, 4), ("after", 1, 2)):
        numbers_of_words = {window[column] for window in windows}
        if numbers_of_words != set(range(most + 1)):
            least, highest = min(numbers_of_words), max(numbers_of_words)
            raise wrong("range", least=least, most=highest, side=side, expected=most)
    small = KnowledgeWindows([line], vocab, 32, spans="salient")
    for seed in range(50):
        count_words(fn, small, line, start, stop, seed)
    words = line.split(" ")
    for seed in draw(0, 2**40, 30):  # other gaps
        i = 2 + seed % (len(words) - 3)
        start = len(" ".join(words[:i])) + 1
        before, after = count_words(fn, data, line, start, start + len(words[i]), seed)
        if before > min(4, i - 2) or after > min(2, len(words) - 1 - i):
            raise wrong("other")
    return "the name, 0 to 4 words, the gap, 0 to 2 words, drawn again each time, within the block"


# ---------------------------------------------------------------- the learning rate


def cooldown(
    c: TrainConfig, step: float, total: int, start: float | None = None, end: float | None = None
) -> float:
    """Return the share of the peak after the warm-up; `start`, `end` override the config."""
    start = c.cooldown_from if start is None else start
    end = c.final_fraction if end is None else end
    return 1 - (1 - end) * max(0.0, step / total - start) / max(1e-9, 1 - start)


RATE_MISTAKES: dict[str, Callable[[TrainConfig, int, int], float]] = {
    "constant": lambda c, n, total: 1.0,
    "at once": lambda c, n, total: cooldown(c, n, total, 0.0),
    "to zero": lambda c, n, total: cooldown(c, n, total, end=0.0),
    "by": lambda c, n, total: cooldown(c, n, total, end=1 - c.final_fraction),
    "rate": lambda c, n, total: c.learning_rate * cooldown(c, n, total),
    "jump": lambda c, n, total: 1.0 if n < 5 else cooldown(c, n, total, 0.0),
    "last step": lambda c, n, total: cooldown(c, n, total - 1),
    "cooldown to last step": lambda c, n, total: cooldown(c, max(0, n - 5), total - 6, 0.0),
    "ahead": lambda c, n, total: cooldown(c, n + 1, total),
    "steps": lambda c, n, total: cooldown(c, n, total, c.cooldown_from / total),
}


def check_rate(fn: Callable) -> str:
    wrong = diagnoses(__file__, "learning-rate")

    def rates(config: TrainConfig, total: int, rate: Callable = fn) -> Tensor:
        values = [rate(config, step, total) for step in range(total)]
        try:
            return torch.tensor([float(value) for value in values]).double()
        except (TypeError, ValueError):
            raise wrong("not a number", result=describe(values[0])) from None

    options = dict(schedule="linear", cooldown_from=0.5, final_fraction=0.3)
    config = TrainConfig(**options, learning_rate=0.01)
    result, expected = rates(config, 10), rates(config, 10, cooldown)
    if not close(result, expected):
        wrong.blame(result, {name: rates(config, 10, f) for name, f in RATE_MISTAKES.items()})
        step = int((result - expected).abs().gt(1e-5).nonzero()[0])
        raise wrong("value", step=step, rate=result[step], expected=expected[step])
    warmup = rates(TrainConfig(**options, warmup_steps=3), 20)[:4].tolist()
    if warmup[0] == 0.0:
        raise wrong("cold start")
    if warmup == [1.0] * 4:
        raise wrong("no warm-up")
    if not close(torch.tensor(warmup), torch.tensor([0.25, 0.5, 0.75, 1.0])):
        raise wrong("warm-up", rates=", ".join(f"{rate:.2f}" for rate in warmup))
    cases = draw(0, 100, 8), draw(0, 100, 8), draw(5, 60, 8), draw(0, 3, 8)
    for start, end, total, steps in zip(*cases, strict=True):
        options = dict(cooldown_from=start / 100, final_fraction=end / 100, warmup_steps=steps)
        config = TrainConfig(schedule="linear", **options)
        if not close(rates(config, total)[steps:], rates(config, total, cooldown)[steps:]):
            raise wrong("other")
    return "warm-up, flat, then a straight line to final_fraction"


# ---------------------------------------------------------------- the loss


class GivenLogits:
    """Takes the place of a GPT whose logits are given: the loss alone is judged."""

    def __init__(self, logits: Tensor):
        self.logits, self.config = logits, GPTConfig(logits.size(-1), block_size=logits.size(1))

    def __call__(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, None]:
        if targets is not None:
            raise diagnoses(__file__, "masked-loss")("by the model")
        return self.logits, None

    forward = __call__

    def hidden(self, idx: Tensor) -> Tensor:
        return self.logits

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


def losses_with_mistakes(logits: Tensor, idx: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return the loss with each mistake of `diagnoses.toml` built in, and under "" the loss."""
    flat = targets.flatten()
    log_p = logits.log_softmax(-1)
    each = F.cross_entropy(logits.flatten(0, 1), flat, reduction="none").view_as(targets)
    is_target = (targets != 0).double()
    each_target, n = each * is_target, is_target.sum()
    p = log_p.exp().gather(-1, targets[..., None])[..., 0] * is_target
    shifted = logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten()
    loss = each_target.sum() / n
    return {
        "": loss,
        "everything": each.mean(),
        "idx": each[idx != 0].mean(),
        "divided by all": each_target.mean(),
        "sum": each_target.sum(),
        "per example": each_target.sum() / len(targets),
        "rows": (each_target.sum(1) / is_target.sum(1)).mean(),
        "shifted": F.cross_entropy(*shifted, ignore_index=0),
        "two softmaxes": F.cross_entropy(logits.softmax(-1).flatten(0, 1), flat, ignore_index=0),
        "bits": loss / math.log(2),
        "sign": -loss,
        "probability": 1 - p.sum() / n,
    }


def check_loss(fn: Callable) -> str:
    wrong = diagnoses(__file__, "masked-loss")

    def loss_of(logits: Tensor, idx: Tensor, targets: Tensor) -> Tensor:
        result = fn(GivenLogits(logits), idx, targets)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise wrong("not a pair", result=describe(result))
        tensor(result[0], logits.shape, "the first of the two, the logits,")
        loss = result[1]
        if isinstance(loss, float) or isinstance(loss, Tensor) and not loss.requires_grad:
            raise wrong("detached")
        return tensor(loss, (), "the loss")

    logits = numbers(2, 4, 5, seed=3).mul(2).requires_grad_()
    idx = torch.tensor([[2, 3, 4, 1], [3, 1, 4, 0]])  # row 1 ends in a pad
    targets = torch.tensor([[0, 4, 1, 2], [0, 4, 0, 0]])  # 4 of 8 positions have a target
    outcomes = losses_with_mistakes(logits.detach(), idx, targets)
    loss, expected = loss_of(logits, idx, targets), outcomes.pop("")
    if not close(loss, expected):
        wrong.blame(loss, outcomes)
        each = -logits.log_softmax(-1)[targets != 0].gather(1, targets[targets != 0][:, None])
        losses = ", ".join(f"{value:.3f}" for value in each[:, 0].tolist())
        raise wrong("value", loss=loss, expected=expected, losses=losses)
    large = (1000 * logits.detach()).requires_grad_()
    if not close(loss_of(large, idx, targets), losses_with_mistakes(large, idx, targets)[""], 1e-3):
        raise wrong("large logits")
    pair = fn(GivenLogits(logits), idx, None)
    if not isinstance(pair, tuple | list) or len(pair) != 2 or pair[1] is not None:
        raise wrong("no targets")
    for B, T in ((1, 6), (4, 3)):
        logits = numbers(B, T, 7).requires_grad_()
        targets = torch.randint(1, 7, (B, T), generator=fresh_generator())
        targets[:, 0] = 0
        expected = losses_with_mistakes(logits.detach(), targets, targets)[""]
        if not close(loss_of(logits, targets, targets), expected):
            raise wrong("other")
    return "the mean of -log p over what is asked for, nothing else"


# ---------------------------------------------------------------- the next character

PROBABILITIES = torch.tensor([0.6, 0.3, 0.1])
ORDER = torch.tensor([2, 0, 1])  # of the characters in every second row, whose logits are higher


def draw_shares(fn: Callable, temperature: float, top_k: int | None, seed: int | None = 0):
    """Draw from 8,000 rows; return the shares of the characters, (2, 3).

    Row 0 has the even rows. Row 1 has the odd rows, whose characters are in another order: it
    counts them in the order of PROBABILITIES.
    """
    logits = PROBABILITIES.log()
    rows = torch.stack([logits, 5 + logits[ORDER]]).repeat(4000, 1)
    generator = fresh_generator() if seed is None else torch.Generator().manual_seed(seed)
    ids = tensor(fn(rows, temperature, top_k, generator), (8000,), "the choice for 8000 rows")
    counts = [torch.bincount(ids[i::2], minlength=3).double() / 4000 for i in (0, 1)]
    return torch.stack([counts[0], counts[1][ORDER.argsort()]])


def are_shares(shares: Tensor, expected: Tensor) -> bool:
    """Whether the shares are as expected, within six standard errors."""
    return bool(((shares - expected / expected.sum()).abs() < 0.05).all())


def check_pick(fn: Callable) -> str:
    wrong = diagnoses(__file__, "next-character")
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0], [3.0, 0.0, 0.5, 1.0], [-1.0, 0.2, 0.1, 0.3]])
    ids = fn(logits, 0.0, None, None)
    if isinstance(ids, Tensor) and ids.shape == (4,):
        raise wrong("columns")
    ids = tensor(ids, (3,), "the choice for 3 rows")
    if ids.dtype != torch.int64:
        raise wrong("dtype", dtype=ids.dtype)
    if ids.tolist() != [1, 0, 3]:
        raise wrong("argmin" if ids.tolist() == [3, 1, 0] else "greedy", ids=ids.tolist())
    p = PROBABILITIES
    shares, expected = draw_shares(fn, 0.5, None), p**2 / (p**2).sum()
    known = {"multiplied": p.sqrt(), "no temperature": p, "even": torch.ones(3)}
    for mistake, mistaken in known.items():
        if are_shares(shares, mistaken):
            raise wrong.mistake(mistake)
    if (shares == 1).any():
        raise wrong("always")
    if not are_shares(shares, expected):
        raise wrong("share", share=100 * shares[0, 0], expected=100 * expected[0])
    check_top_k(fn)
    if not torch.equal(draw_shares(fn, 2.0, 9), draw_shares(fn, 2.0, 9)):
        raise wrong("generator")
    for temperature in (1.0, 3.0):
        if not are_shares(draw_shares(fn, temperature, 9, None), p ** (1 / temperature)):
            raise wrong("other")
    return "the likeliest at 0, else drawn from softmax(logits / temperature) over the k likeliest"


def check_top_k(fn: Callable) -> None:
    wrong = diagnoses(__file__, "next-character")
    shares = draw_shares(fn, 1.0, 2)
    if are_shares(shares, PROBABILITIES):
        raise wrong("top none")
    if (shares[:, 0] == 0).all():
        raise wrong("top least")
    if are_shares(shares, torch.tensor([1.0, 0, 0])):
        raise wrong("top one")
    expected = torch.tensor([0.6, 0.3, 0.0])
    if are_shares(shares, expected):
        return
    if are_shares(shares[1][ORDER], expected):
        raise wrong("top index")
    if are_shares(shares[0], expected):
        raise wrong("top rows")
    raise wrong("top", shares=", ".join(f"{100 * share:.0f}" for share in shares[0]))


# ---------------------------------------------------------------- greedy answers


@torch.no_grad()
def continue_alone(model: GPT, prompt: Sequence[int], most: int = 99) -> list[int]:
    """Continue one prompt greedily up to `most` ids or the block's end, without a cache."""
    ids, new = list(prompt), []
    while len(new) < most:
        new.append(int(model(torch.tensor([ids]))[0][0, -1].argmax()))
        if len(ids) == model.config.block_size:
            break
        ids.append(new[-1])
    return new


def cut_at(ids: Sequence[int], stop: Sequence[int]) -> list[int]:
    """Return the ids up to the first one in `stop`, without that one."""
    return list(itertools.takewhile(lambda i: i not in stop, ids))


def check_generate(fn: Callable) -> str:
    wrong = diagnoses(__file__, "greedy-answers")

    def ask(model: GPT, prompts: list[list[int]], stop: tuple[int, ...], most: int | None) -> list:
        result: Any = fn(model, [list(p) for p in prompts], stop=stop, max_new=most)
        if not isinstance(result, list | tuple) or len(result) != len(prompts):
            raise wrong("not lists", n=len(prompts), result=describe(result))
        try:
            return [[int(i) for i in row] for row in result]
        except (TypeError, ValueError):
            raise wrong("not ids", result=describe(result[0])) from None

    # a seed whose rows continue differently, stop at different lengths, and depend on pads
    model = randomise(GPT(GPTConfig(9, 12, 1, 2, 8, dropout=0.5)), seed=2273)
    prompts = [[2, 3, 4], [5, 2, 7, 3, 6], [8, 2]]
    room = 12 - max(map(len, prompts))  # a last id after that, which nobody reads, may be there
    free = [continue_alone(model, p, room + 1) for p in prompts]
    stop = (free[0][2],)
    model.train()
    rows = ask(model, prompts, stop, None)
    expected = [cut_at(row, stop) for row in free]
    if rows != expected and ask(model, prompts, stop, None) != rows:
        raise wrong("unstable")
    model.eval()
    check_rows(model, prompts, free, stop, rows)
    few = ask(model, prompts, (), 2)
    if [len(row) for row in few] != [2, 2, 2]:
        raise wrong("max_new", lengths=", ".join(str(len(row)) for row in few))
    (long,) = ask(model, prompts[1:2], (), None)
    if long not in (free[1], free[1][:room]):
        raise wrong("no stop", n=len(long), room=room)
    model = randomise(GPT(GPTConfig(9, 12, 1, 2, 8, dropout=0.0)))
    prompts = [draw(2, 8, n) for n in (4, 1, 6)]
    expected = [cut_at(continue_alone(model, p, 2), (0, 1)) for p in prompts]
    if ask(model, prompts, (0, 1), 2) != expected:
        raise wrong("other")
    return "the likeliest each time, every row at its own place, stopped for itself"


def check_rows(model: GPT, prompts: list, free: list, stop: tuple[int], rows: list) -> None:
    """Compare continuations with the expected ones; `free` are those that nothing stops."""
    wrong = diagnoses(__file__, "greedy-answers")
    expected = [cut_at(row, stop) for row in free]
    longest = max(map(len, prompts))
    room = 12 - longest
    outcomes = {
        "prompts": [p + row for p, row in zip(prompts, expected, strict=True)],
        "stop": [f[: len(row) + 1] for f, row in zip(free, expected, strict=True)],
        "together": [row[: min(map(len, expected))] for row in expected],
        "never": free,
        "fixed": [cut_at(row, (0, 1)) for row in free],
        "first": [row[1:] for row in expected],
    }
    for mistake, outcome in outcomes.items():
        is_same = [row[:room] for row in rows] == [row[:room] for row in outcome]
        if is_same and rows != expected:
            raise wrong.mistake(mistake)
    for i, (row, right, prompt) in enumerate(zip(rows, expected, prompts, strict=True)):
        if row in (right, right[: 12 - len(prompt)]):
            continue
        padded = prompt + [0] * (longest - len(prompt))
        after_pads = cut_at(continue_alone(model, padded), stop)
        if len(prompt) < longest and row[:room] == after_pads[:room]:
            raise wrong("pads")
        raise wrong("value", row=i, prompt=prompt, ids=row, expected=right, stop=stop[0])


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
    Exercise("next-character", NOTEBOOK, "Draw the next character", 3, 12, pick_next, check_pick),
)
