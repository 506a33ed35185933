"""Exercises of notebook 10: BERT's rule, the loss, the padding mask, filling, pairs of lines."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_core.attention import causal_mask, padding_mask
from kt_course.chapters.masked_language_models.masked_data import hide_units, one_hot_kl
from kt_course.chapters.masked_language_models.masked_decoding import fill_masks
from kt_course.chapters.masked_language_models.next_sentence import draw_line_pair
from kt_course.exercises.assertions import (
    Wrong,
    close,
    describe,
    expect_close,
    fresh_cases,
    recognise,
    tensor,
)
from kt_course.exercises.diagnoses import Diagnoses, diagnoses
from kt_course.exercises.random_cases import draw, fresh_random, numbers
from kt_course.exercises.registry import Exercise

NOTEBOOK = "10_masked_language_models"
KL_MISTAKES = diagnoses(__file__, "one-hot-kl").texts("mistakes")
FILL_MISTAKES = diagnoses(__file__, "fill-masks").texts("mistakes")

# ---------------------------------------------------------------- BERT's rule


def check_hide_units(fn: Callable) -> str:
    wrong = diagnoses(__file__, "bert-rule")

    def hide(ids: list[int], units: list, vocab_size: int, seed: int = 1, **rule) -> Sequence:
        before, state = list(ids), random.getstate()
        result = fn(ids, units, vocab_size, random.Random(seed), **rule)
        if random.getstate() != state:
            raise wrong("global random")
        if ids != before:
            raise wrong("ids changed")
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
        }
    )
    unchanged = len(same) / len(chosen)
    if abs(hidden - 0.8) > 0.04 or abs(unchanged - 0.1) > 0.03:
        raise wrong("shares", hidden=100 * hidden, unchanged=100 * unchanged)
    characters = {x[j] for j in chosen} - {1}
    if max(characters) >= 62:
        raise wrong("beyond the vocabulary", largest=max(characters))
    if len(characters) < 50:
        raise wrong("few characters", n=len(characters))
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


def kl_with(logits: Tensor, targets: Tensor, mistake: str = "") -> Tensor:
    """Compute the loss with one mistake built in."""
    log_q = logits.log_softmax(1 if mistake == "axis" else -1)
    log_q = logits if mistake == "no softmax" else log_q
    loss = -log_q.gather(-1, targets[..., None])[..., 0]  # (B, T)
    loss = loss * {"sign": -1, "bits": 1 / math.log(2)}.get(mistake, 1)
    if mistake == "everywhere":
        return loss.mean()
    chosen = targets != 0
    loss = loss * chosen
    means = {
        "all positions": loss.sum() / targets.numel(),
        "sum": loss.sum(),
        "rows": (loss.sum(1) / chosen.sum(1)).mean(),
        "vocabulary": loss.sum() / chosen.sum() / logits.size(-1),
    }
    return means.get(mistake, loss.sum() / chosen.sum())


def check_one_hot_kl(fn: Callable) -> str:
    wrong = diagnoses(__file__, "one-hot-kl")
    logits = 2 * numbers(3, 5, 7, seed=1)
    targets = torch.tensor([[0, 3, 0, 0, 0], [2, 5, 6, 0, 1], [0, 0, 0, 4, 4]])
    leaf = logits.clone().requires_grad_()
    result = fn(leaf, targets)
    loss = tensor(result, (), "the loss").double()
    wrong.reject({"nan": loss.isnan(), "infinite": loss.isinf()})
    mistakes = {name: kl_with(logits, targets, name) for name in KL_MISTAKES}
    recognise(loss, kl_with(logits, targets), mistakes.get, KL_MISTAKES, "the loss")
    if not result.requires_grad:
        raise wrong("detached")
    result.backward()
    gradient = torch.autograd.grad(kl_with(leaf, targets), leaf)[0]
    if leaf.grad is None or not close(leaf.grad, gradient):
        raise wrong("gradient")
    large = torch.tensor([[[0.0, 2000.0, 0.0, 1000.0]]])
    with wrong.fresh_cases("large logits"):
        expect_close(fn(large, torch.tensor([[3]])), torch.tensor(1000.0))
    with fresh_cases("right for the example, not for other sizes and targets"):
        for B, T, V in ((1, 1, 2), (2, 9, 30), (4, 3, 5)):
            logits, targets = numbers(B, T, V), torch.tensor(draw(0, V - 1, B * T)).view(B, T)
            targets[0, 0] = V - 1
            expect_close(fn(logits, targets), kl_with(logits, targets))
    return "the mean KL at the chosen positions, equal to the cross-entropy, with its gradient"


# ---------------------------------------------------------------- the padding mask


def check_padding_mask(fn: Callable) -> str:
    wrong = diagnoses(__file__, "padding-mask")

    def mask_of(idx: Tensor, heads: int) -> Tensor:
        """The answer's mask, (B, heads, T, T)."""
        (B, T), result = idx.shape, fn(idx)
        if not isinstance(result, Tensor):
            raise wrong("not a tensor", result=describe(result))
        if result.dtype != torch.bool:
            raise wrong("not boolean", dtype=str(result.dtype).removeprefix("torch."))
        try:
            return result.broadcast_to(B, heads, T, T)
        except RuntimeError:
            shapes = dict(shape=tuple(result.shape), wanted=(B, heads, T, T))
            raise wrong("shape", **shapes) from None

    def errors(idx: Tensor, heads: int) -> Tensor:
        """Where the mask differs; what padding itself attends to does not matter."""
        text = idx != 0
        return (mask_of(idx, heads) != text[:, None, None]) & text[:, None, :, None]

    idx = torch.tensor([[5, 1, 4, 3, 1, 0], [6, 2, 1, 0, 0, 0], [3, 9, 8, 4, 7, 2]])
    mask, keys = mask_of(idx, 4), (idx != 0)[:, None, None]
    mistakes = {
        "inverted": ~keys,
        "rows": keys.mT,
        "triangle": keys & causal_mask(6),
        "⁇ masked": (idx > 1)[:, None, None],
        "all allowed": torch.ones(1, 1, 1, 6, dtype=torch.bool),
    }
    wrong.blame(mask, {name: other.expand_as(mask) for name, other in mistakes.items()})
    for row, head, q, k in errors(idx, 4).nonzero().tolist()[:1]:
        may = "may" if mask[row, head, q, k] else "may not"
        raise wrong("one key", row=row, query=q, may=may, key=k, id=int(idx[row, k]))
    # as many rows as heads and positions, where exchanged axes raise no error
    idx = torch.tensor([[4, 4, 0], [4, 0, 0], [4, 4, 4]])
    if errors(idx, 3).any():
        raise wrong("heads for rows")
    with fresh_cases("right for the examples, not for other batches"):
        for B, T, heads in ((1, 4, 1), (5, 2, 5), (2, 9, 3)):
            assert not errors(torch.tensor(draw(0, 3, B * T)).view(B, T), heads).any()
    return "every key that holds text, ⁇ included, for all heads and queries; no padding"


# ---------------------------------------------------------------- filling


class ToyEncoder(nn.Module):
    """A tiny encoder: logits (B, T, V) depend strongly on the position and on its neighbours."""

    def __init__(self, vocab_size: int, seed: int | None):
        super().__init__()
        self.weights = numbers(4, vocab_size, vocab_size, seed=seed)
        self.positions = 0.5 * numbers(16, vocab_size, seed=seed)

    def forward(self, idx: Tensor) -> tuple[Tensor, None]:
        own, left, right, out = self.weights
        x = F.one_hot(idx, len(own)).double()  # (B, T, V)
        hidden = x @ own + x.roll(1, 1) @ left + x.roll(-1, 1) @ right
        return (hidden + self.positions[: idx.size(1)]).tanh() @ out, None


def fill_with(model: Callable, idx: Tensor, rounds: int, mistake: str = "") -> Tensor:
    """Fill masks in rounds, with one mistake built in."""
    idx, n_masks = idx.clone(), (idx == 1).sum(1).tolist()
    for r in range(1, rounds + 1):
        logits = model(idx)[0].detach().clone()
        if mistake not in ("specials", "after the softmax"):
            logits[..., :2] = float("-inf")
        q = logits.softmax(-1)
        if mistake == "after the softmax":
            q[..., :2] = -1.0
        confidence, best = q.max(-1)
        order = {
            "left to right": -torch.arange(idx.size(1)).expand_as(confidence),
            "least confident": -confidence,
        }.get(mistake, confidence)  # the highest comes first
        for row, n in enumerate(n_masks):
            masks = (idx[row] == 1).nonzero()[:, 0]
            target = {"floor": n * r // rounds, "one per round": r, "at once": n}
            k = target.get(mistake, math.ceil(n * r / rounds)) - (n - len(masks))
            for j in masks[order[row, masks].argsort(descending=True)][: max(0, k)]:
                idx[row, j] = best[row, j]
    return idx


def check_fill_masks(fn: Callable) -> str:
    wrong = diagnoses(__file__, "fill-masks")

    def fill(model: ToyEncoder, idx: Tensor, rounds: int) -> Tensor:
        what = f"the text after {rounds} round{'s' * (rounds > 1)}"
        result = tensor(fn(model, idx, rounds), idx.shape, what)
        if result.dtype != torch.int64:
            raise wrong("dtype", what=what, dtype=str(result.dtype).removeprefix("torch."))
        return result

    model = ToyEncoder(9, seed=12)  # a seed for which every typical mistake changes the result
    rows = [[4, 1, 1, 1, 1, 1, 5, 0, 0], [1, 6, 1, 3, 1, 1, 1, 1, 2], [7, 3, 1, 2, 0, 0, 0, 0, 0]]
    idx = torch.tensor(rows)
    for rounds in (1, 3, 2, 9):
        result, expected = fill(model, idx, rounds), fill_with(model, idx, rounds)
        if torch.equal(result, expected):
            continue
        if not torch.equal(result[idx != 1], idx[idx != 1]):
            raise wrong("others changed", rounds=rounds)
        for mistake, text in FILL_MISTAKES.items():
            other = fill_with(model, idx, rounds, mistake)
            if torch.equal(result, other) and not torch.equal(other, expected):
                raise Wrong(f"with rounds={rounds}: {text}")
        if (result == 1).any():
            raise wrong("masks left", rounds=rounds)
        if torch.equal(torch.cat([fill(model, row[None], rounds) for row in idx]), expected):
            raise wrong("rows together", rounds=rounds)
        n_different = int((result != expected).sum())
        raise wrong("other", rounds=rounds, n=n_different, total=int((idx == 1).sum()))
    with fresh_cases("right for the examples, not for other models and texts"):
        for rounds in (1, 2, 4):
            model, rng = ToyEncoder(12, seed=None), fresh_random()
            idx = torch.tensor([rng.choices((1, 1, 1, 4, 7, 9), k=10) for _ in range(3)])
            assert torch.equal(fill(model, idx, rounds), fill_with(model, idx, rounds))
    return "the most confident first, ceil(n r / rounds) after round r, each round reads the text"


# ---------------------------------------------------------------- pairs of lines


def check_line_pair(fn: Callable) -> str:
    wrong = diagnoses(__file__, "line-pairs")

    def pairs_of(lines: Sequence, i: int, n: int) -> list[tuple[str, str, bool]]:
        rng, state, pairs = random.Random(i), random.getstate(), []
        for _ in range(n):
            result = fn(lines, i, rng)
            is_triple = isinstance(result, tuple | list) and len(result) == 3
            if not is_triple or not all(isinstance(line, str) for line in result[:2]):
                raise wrong("not two lines", result=describe(result))
            if not isinstance(result[2], bool):
                raise wrong("label type", result=describe(result[2]))
            pairs.append(tuple(result))
        if random.getstate() != state:
            raise wrong("global random")
        return pairs

    counts = dict(a=3, b=4, c=2, d=5, e=3)  # the lines of person "b" are b0 ... b3
    lines = [[f"{name}{k}" for k in range(n)] for name, n in counts.items()]
    pairs = pairs_of(lines, 1, 600)
    labels, same = [label for *_, label in pairs], [second[0] == "b" for _, second, _ in pairs]
    share, strangers = sum(same) / len(same), {second for _, second, label in pairs if not label}
    wrong.reject(
        {
            "first line of another": any(first[0] != "b" for first, _, _ in pairs),
            "itself": any(first == second for first, second, _ in pairs),
            "labels inverted": labels == [not is_same for is_same in same],
            "stranger is person i": labels != same,
            "few of one person": share < 0.3,
            "not half": not 0.4 < share < 0.6,
            "first line fixed": len({first for first, _, _ in pairs}) < 4,
            "few strangers": len({line[0] for line in strangers}) < 4,
            "strangers' lines": len(strangers) < sum(counts.values()) - counts["b"],
            "few pairs": len({(first, second) for first, second, label in pairs if label}) < 9,
            "own generator": pairs_of(lines, 1, 600) != pairs,
        },
        share=100 * share,
        n=len({line[0] for line in strangers}),
    )
    with fresh_cases("right for the example, not for other persons and lines"):
        lines = [[f"{name}{k}" for k in range(2)] for name in "pqr"]
        for i, name in enumerate("pqr"):
            pairs = pairs_of(lines, i, 120)
            assert all((b[0] == a[0]) == same and a != b and a[0] == name for a, b, same in pairs)
            assert 30 < sum(same for *_, same in pairs) < 90
            assert len({second for _, second, same in pairs if not same}) == 4
    return "two lines of one person or of two, half of the time each, never the same line twice"


EXERCISES = (
    Exercise("bert-rule", NOTEBOOK, "Hide by BERT's rule", 2, 12, hide_units, check_hide_units),
    Exercise(
        "one-hot-kl",
        NOTEBOOK,
        "The loss as a divergence",
        2,
        12,
        one_hot_kl,
        check_one_hot_kl,
        (F.cross_entropy, F.nll_loss),
    ),
    Exercise(
        "padding-mask",
        NOTEBOOK,
        "Both ways, but not at padding",
        1,
        6,
        padding_mask,
        check_padding_mask,
    ),
    Exercise("fill-masks", NOTEBOOK, "The surest first", 4, 25, fill_masks, check_fill_masks),
    Exercise("line-pairs", NOTEBOOK, "One person or two", 2, 10, draw_line_pair, check_line_pair),
)
