"""Exercises of notebook 10: BERT's rule, loss, training, two segments, spans."""

import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_core.blocks import GPTConfig
from kt_core.models import GPT
from kt_core.trainer import Trainer
from kt_course.chapters.masked_language_models import solutions
from kt_course.exercises.assertions import Wrong, describe, tensor
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.diagnoses import Diagnoses, diagnoses
from kt_course.exercises.random_cases import draw, integers, numbers

CHAPTER = Comparison(solutions, "10_masked_language_models")
TEXTS = CHAPTER.texts

# ---------------------------------------------------------------- BERT's rule


@CHAPTER.checked("bert-rule")
def check_hide_units(fn: Callable) -> str:
    wrong = diagnoses(__file__, "bert-rule")

    def hide(ids: list[int], units: list, vocab_size: int, seed: int = 1, **rule) -> Sequence:
        before, state = list(ids), random.getstate()
        result = fn(ids, units, vocab_size, random.Random(seed), **rule)
        wrong.reject({"global random": random.getstate() != state, "ids changed": ids != before})
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise wrong("not two lists", result=describe(result))
        for name, values in zip("xy", result, strict=True):
            if not isinstance(values, list) or len(values) != len(ids):
                raise wrong("not a list", name=name, n=len(ids), result=describe(values))
        return result

    ids = [2 + j % 60 for j in range(20000)]
    check_single_characters(hide, ids, wrong)
    check_long_units(hide, ids, wrong)
    return (
        "80 % hidden, 10 % random, 10 % kept, one draw per unit, a loss on every chosen character"
    )


def check_single_characters(hide: Callable, ids: list[int], wrong: Diagnoses) -> None:
    """Check the rule where every fifth character is a unit of its own."""
    units = [(j, j + 1) for j in range(0, len(ids), 5)]
    chosen = [start for start, _ in units]
    others = sorted(set(range(len(ids))) - set(chosen))
    x, y = hide(ids, units, 62)
    same = [j for j in chosen if x[j] == ids[j]]  # by the rule, or by a random draw
    hidden = sum(x[j] == 1 for j in chosen) / len(chosen)
    wrong.reject(
        {
            "shifted": all(y[j] == ids[j + 1] for j in chosen),
            "loss elsewhere": any(y[j] for j in others),
            "other positions changed": any(x[j] != ids[j] for j in others),
            "unchanged characters have no loss": sum(not y[j] for j in same) > len(same) / 2,
            "y is not the original": any(y[j] != ids[j] for j in chosen),
            "padding drawn": any(x[j] == 0 for j in chosen),
            "all hidden": hidden == 1,
            "nothing random": all(x[j] in (1, ids[j]) for j in chosen),
        }
    )
    unchanged = len(same) / len(chosen)
    if abs(hidden - 0.8) > 0.04 or abs(unchanged - 0.1) > 0.03:
        raise wrong("shares", hidden=100 * hidden, unchanged=100 * unchanged)
    characters = {x[j] for j in chosen} - {1}
    largest, n = max(characters), len(characters)
    mistakes = {"beyond the vocabulary": largest >= 62, "few characters": n < 50}
    wrong.reject(mistakes, largest=largest, n=n)
    few, _ = hide(ids, units, 4, rule=(0.0, 1.0))
    if missing := {2, 3} - {few[j] for j in chosen}:
        raise wrong("never drawn", missing=missing.pop())
    if list(hide(ids, units, 62)) != [x, y]:
        raise wrong("own generator")


def check_long_units(hide: Callable, ids: list[int], wrong: Diagnoses) -> None:
    """Check that there is one draw for all characters of a unit, and that `rule` is used."""
    units = [(j, j + 5) for j in range(0, len(ids), 10)]
    x, y = hide(ids, units, 62)
    parts = [x[a:b] for a, b in units]
    changed = [x[a:b] for a, b in units if 1 not in x[a:b] and x[a:b] != ids[a:b]]
    wrong.reject(
        {
            "stop": any(any(y[b : b + 5]) or not (y[a] and y[b - 1]) for a, b in units),
            "a draw per character": any(1 in part and part != [1] * 5 for part in parts),
            "one filler": changed and all(len(set(part)) == 1 for part in changed),
        }
    )
    with wrong.fresh_cases("rule unused"):
        for rule in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.3, 0.6)):
            x, _ = hide(ids, units, 99, draw(0, 10**6, 1)[0], rule=rule)
            hidden = sum(x[a:b] == [1] * 5 for a, b in units) / len(units)
            unchanged = sum(x[a:b] == ids[a:b] for a, b in units) / len(units)
            assert abs(hidden - rule[0]) < 0.06 and abs(unchanged - 1 + sum(rule)) < 0.06


# ---------------------------------------------------------------- the loss


TARGETS = torch.tensor([[0, 3, 0, 0, 0], [2, 5, 6, 0, 1], [0, 0, 0, 4, 4]])


@CHAPTER.exercise("one-hot-kl", forbidden=(F.cross_entropy, F.nll_loss))
def loss_of(answer: Callable, seed: int) -> Results:
    results, texts = {}, TEXTS["one-hot-kl"]
    for B, T, V in ((1, 1, 2), (2, 9, 30), (4, 3, 5)) if seed else ((3, 5, 7),):
        logits = (2 * numbers(B, T, V, seed=seed + 1)).requires_grad_()
        targets = integers(0, V - 1, B, T, seed=seed) if seed else TARGETS.clone()
        targets[0, -1] = V - 1
        loss = answer(logits, targets)
        value = tensor(loss, (), "the loss")
        for key, is_made in dict(nan=value.isnan(), infinite=value.isinf()).items():
            if is_made:
                raise Wrong(texts[key])
        if loss.requires_grad:
            loss.backward()
        gradient = torch.zeros_like(logits) if logits.grad is None else logits.grad
        results |= {f"the loss for {B} rows": loss, f"its gradient for {B} rows": gradient}
    large = torch.tensor([[[0.0, 2000.0, 0.0, 1000.0]]])
    return results | {texts["large"]: answer(large, torch.tensor([[3]]))}


# ---------------------------------------------------------------- what is compared with solutions


class WatchedModel(nn.Module):
    """A model whose loss has the gradient 1 in its only parameter; it keeps what it reads.

    A step of AdamW or SGD then moves the parameter by exactly the learning rate.
    """

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros((), dtype=torch.double))
        self.seen, self.values = [], []

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return a loss of 100 + w at each ⁇, and of 50 + w elsewhere, for targets above 2."""
        self.seen.append(idx.clone())
        self.values.append(self.w.detach().clone())
        heights = torch.where(idx == 1, 100.0, 50.0).double() + self.w  # (B, T)
        logits = heights[..., None] * F.one_hot(torch.tensor(2), 12)  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)


@CHAPTER.exercise("masked-training", forbidden=(Trainer.fit,))
def training_of(answer: Callable, seed: int) -> Results:
    """Train a `WatchedModel` on texts that open with their number."""
    n, epochs, batch_size = 7 + seed % 5, 3 + seed % 2, 3
    epochs_drawn = []

    def draw_windows(rng: random.Random) -> list[tuple[list[int], list[tuple[int, int]]]]:
        windows = []
        for i in range(n):
            ids = [3 + i // 8, 3 + i % 8, *[11] * rng.randint(4, 9)]
            start = rng.randrange(2, len(ids) - 1)
            windows.append((ids, [(start, start + 2)]))
        rng.shuffle(windows)
        epochs_drawn.append(windows)
        return windows

    model, rng = WatchedModel(), random.Random(seed)
    losses = answer(model, draw_windows, 12, epochs, batch_size, 0.002, rng, rule=(1.0, 0.0))
    if not isinstance(losses, list) or not all(isinstance(loss, float) for loss in losses):
        raise Wrong(TEXTS["masked-training"]["not_a_list"].format(result=describe(losses)))
    texts = sorted(tuple(row[:2].tolist()) for x in model.seen for row in x)
    values = torch.stack([*model.values, model.w.detach()])
    results: Results = {
        "the number of epochs drawn": torch.tensor(len(epochs_drawn)),
        "the number of steps": torch.tensor(len(model.seen)),
        "the number of windows in each batch": torch.tensor([len(x) for x in model.seen]),
        "the texts read": torch.tensor(texts),
        "the number of ⁇ read": torch.tensor(sum(int((x == 1).sum()) for x in model.seen)),
        "the number of columns that are only padding": torch.tensor(
            sum(int((x == 0).all(0).sum()) for x in model.seen)
        ),
        "the learning rates": values[:-1] - values[1:],
        "the losses": torch.tensor(losses).double(),
    }
    if seed == 0:
        name = "without a rule, the shares of ⁇ and of random characters"
        results[name] = default_shares(answer)
    return results


def default_shares(answer: Callable) -> str:
    """Train without the argument `rule` on 1,000 windows; describe what is read at the units."""
    model = WatchedModel()
    windows = [([11, 11, 11, 11], [(1, 3)])] * 1000
    answer(model, lambda rng: list(windows), 3, 1, 100, 0.002, random.Random(0))
    units = torch.cat(model.seen)[:, 1:3]
    hidden, changed = ((units == id).double().mean().item() for id in (1, 2))  # all random ids: 2
    is_close = abs(hidden - 0.8) < 0.05 and abs(changed - 0.1) < 0.04
    return "about 80 % and 10 %" if is_close else f"{100 * hidden:.0f} % and {100 * changed:.0f} %"


@CHAPTER.exercise("pair-model")
def pair_model_of(answer: Callable, seed: int) -> Results:
    """Run a PairModel with random weights on two texts of different length."""
    torch.manual_seed(seed)
    body = GPT(GPTConfig(9, 32, 2, 2, 8, "rope", dropout=0.0, causal=False))
    n_out, T = 2 + seed % 3, 7 + seed % 4
    model = answer(body, n_out)
    if not isinstance(model, nn.Module):
        raise Wrong(TEXTS["pair-model"]["not_a_module"].format(result=describe(model)))
    names = {name for name, _ in model.named_parameters() if not name.startswith("body.")}
    if names != {"segments.weight", "head.weight", "head.bias"}:
        raise Wrong(TEXTS["pair-model"]["names"].format(names=", ".join(sorted(names)) or "none"))
    start = model.segments.weight.detach().clone()
    generator = torch.Generator().manual_seed(seed)
    for _, p in sorted(model.double().named_parameters()):  # whatever order they were made in
        p.data = 0.6 * torch.randn(p.shape, generator=generator, dtype=torch.double)
    idx = torch.randint(1, 9, (2, T), generator=generator)
    idx[:, 0], idx[1, -3:] = 1, 0
    segments = (torch.arange(T) > 2).long().expand(2, T)
    with torch.no_grad():
        output = tensor(model(idx, segments), (2, T, n_out), "the result, a row per position,")
    text = idx != 0
    return {
        "the segment embedding at the start": start,
        "the output": output[text],
        "the output for exchanged segments": model(idx, 1 - segments).detach()[text],
    }


@CHAPTER.exercise("best-span")
def span_of(answer: Callable, seed: int) -> Results:
    """Find spans of several random scores."""
    spans = []
    for k in range(12):
        T = 6 + (seed + k) % 5
        start, end = numbers(T, seed=31 * seed + k), numbers(T, seed=31 * seed + k + 500)
        is_allowed = torch.arange(T) >= k % 4
        span = answer(start, end, is_allowed, 3)
        if not isinstance(span, tuple | list) or len(span) != 2:
            raise Wrong(TEXTS["best-span"]["not_a_pair"].format(result=describe(span)))
        spans.append([int(value) for value in span])
    rising = torch.arange(40.0)
    default = answer(-rising / 2, rising, rising >= 0)
    return {
        "the spans": torch.tensor(spans),
        "the span where `longest` is left out": torch.tensor([int(value) for value in default]),
    }


EXERCISES = CHAPTER.exercises()
