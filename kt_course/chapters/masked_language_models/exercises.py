"""Exercises and questions of notebook 10: the rule of the masks, their loss, padding, filling, pairs of lines."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_core.attention import padding_mask
from kt_course.chapters.masked_language_models.masked import hide, one_hot_kl
from kt_course.chapters.masked_language_models.masked_decoding import fill
from kt_course.chapters.masked_language_models.next_sentence import line_pair
from kt_course.exercises.assertions import Wrong, close, describe, fresh_cases, tensor
from kt_course.exercises.random_cases import draw, fresh_random, numbers
from kt_course.exercises.registry import Exercise

NOTEBOOK = "10_masked_language_models"

# ---------------------------------------------------------------- the rule


def check_hide(fn: Callable) -> str:
    def both(
        ids: list[int], units: list, size: int, seed: int = 1, **rule: Any
    ) -> tuple[list, list]:
        before, state = list(ids), random.getstate()
        result = fn(ids, units, size, random.Random(seed), **rule)
        if random.getstate() != state:
            raise Wrong("it draws from the global `random`: draw from the rng that is given")
        if ids != before:
            raise Wrong(
                "it changes the list ids itself, which its caller still needs: begin with x = list(ids)"
            )
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise Wrong(f"needed are two lists, (x, y), not {describe(result)}")
        for name, found in zip("xy", result, strict=True):
            if not isinstance(found, list) or len(found) != len(ids):
                raise Wrong(f"{name} should be a list of {len(ids)} ids, not {describe(found)}")
        return result[0], result[1]

    # letters alone: every tenth place of a long text
    ids = [2 + j % 60 for j in range(20000)]
    units = [(j, j + 1) for j in range(0, 20000, 5)]
    x, y = both(ids, units, 62)
    chosen = [start for start, _ in units]
    others = sorted(set(range(len(ids))) - set(chosen))
    if y == [*ids[1:], 0] or all(y[j] == ids[j + 1] for j in chosen[:-1]):
        raise Wrong(
            "y is shifted by one: a masked model answers at the place itself, y[j] is ids[j]"
        )
    if any(y[j] for j in others):
        raise Wrong(
            "y asks for characters that were not chosen: it is 0 there, and no loss falls on them"
        )
    if any(x[j] != ids[j] for j in others):
        raise Wrong("x differs from ids outside the chosen units: only they may change")
    kept = [j for j in chosen if x[j] == ids[j]]
    if (
        sum(not y[j] for j in kept) > len(kept) / 2
    ):  # a random character may be the old one by chance
        raise Wrong(
            "y is 0 where a chosen character stays as it is: it is asked for like the others"
        )
    if any(y[j] != ids[j] for j in chosen):
        raise Wrong(
            "y[j] is not ids[j] at a chosen place: y holds what stood there, whatever x shows now"
        )
    hidden = sum(x[j] == 1 for j in chosen) / len(chosen)
    if any(x[j] == 0 for j in chosen):
        raise Wrong(
            "a chosen place became 0, which is padding: ⁇ has the id 1, random characters begin at 2"
        )
    if hidden == 1:
        raise Wrong(
            "all chosen places became ⁇: one unit of ten stays, one of ten becomes random characters"
        )
    told = f"of the chosen {100 * hidden:.0f} % became ⁇ and {100 * len(kept) / len(chosen):.0f} % stayed"
    if abs(hidden - 0.8) > 0.04:
        raise Wrong(f"{told}; with the rule (0.8, 0.1) it is 80 % and 10 %")
    if abs(len(kept) / len(chosen) - 0.1) > 0.03:
        raise Wrong(
            f"{told}; with the rule (0.8, 0.1) it is 80 % and 10 %, the rest random characters"
        )
    drawn = {x[j] for j in chosen} - {1}
    if max(drawn) >= 62:
        raise Wrong(
            f"a random character has the id {max(drawn)}: with vocab_size 62 the last one is 61"
        )
    if len(drawn) < 50:
        raise Wrong(
            f"only {len(drawn)} different characters take the others' place: draw from all, 2 ... vocab_size - 1"
        )
    if both(ids, units, 62) != (x, y):
        raise Wrong("two calls with equal generators differ: all draws have to come from rng")
    # whole units: one draw for all of their characters
    units = [(j, j + 5) for j in range(0, 20000, 10)]
    x, y = both(ids, units, 62)
    if any(y[j] for a, b in units for j in range(b, b + 5)) or not all(
        y[a] and y[b - 1] for a, b in units
    ):
        raise Wrong(
            "a unit (start, stop) holds the places start ... stop - 1, as in range(start, stop)"
        )
    parts = [x[a:b] for a, b in units]
    if any(1 in part and part != [1] * 5 for part in parts):
        raise Wrong(
            "one unit is partly ⁇: draw once a unit, not once a character, and treat all of it alike"
        )
    drawn = [
        part
        for part, (a, b) in zip(parts, units, strict=True)
        if 1 not in part and part != ids[a:b]
    ]
    if drawn and all(len(set(part)) == 1 for part in drawn):
        raise Wrong("a unit's random characters are all the same: draw anew for each of its places")
    with fresh_cases("right for the rule (0.8, 0.1), not for another: use the argument rule"):
        for rule in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.3, 0.6)):
            x, y = both(ids, units, 99, draw(0, 10**6, 1)[0], rule=rule)
            shares = [
                sum(x[a:b] == [1] * 5 for a, b in units),
                sum(x[a:b] == ids[a:b] for a, b in units),
            ]
            if any(
                abs(n / len(units) - p) > 0.06
                for n, p in zip(shares, (rule[0], 1 - sum(rule)), strict=True)
            ):
                raise Wrong("rule")
    return "80 % hidden, 10 % random, 10 % kept, one draw a unit, every chosen character asked for"


# ---------------------------------------------------------------- the loss


def kl_with(logits: Tensor, targets: Tensor, slip: str = "") -> Tensor:
    """The loss with one mistake built in."""
    asked = targets != 0
    log_q = logits.log_softmax(-1)
    if slip == "axis":
        log_q = logits.log_softmax(1)
    if slip == "no softmax":
        log_q = logits
    each = -log_q.gather(-1, targets[..., None])[..., 0]  # (B, T)
    if slip == "minus":
        each = -each
    if slip == "bits":
        each = each / math.log(2)
    if slip == "everywhere":
        return each.mean()
    each = each * asked
    if slip == "all places":
        return each.sum() / targets.numel()
    if slip == "sum":
        return each.sum()
    if slip == "rows":
        return (each.sum(1) / asked.sum(1)).mean()
    if slip == "vocabulary":
        return each.sum() / asked.sum() / logits.size(-1)
    return each.sum() / asked.sum()


KL = {
    "everywhere": "the places that are not asked for count too, as if □ (0) were their right answer: leave out targets of 0",
    "all places": "the sum is right and is divided by all places: divide by the number of those that are asked for",
    "sum": "this is the sum over the asked places: take their mean, or the loss grows with the length of the text",
    "rows": "this is a mean over rows of means: every asked place counts alike, whatever row it stands in",
    "vocabulary": "a mean over the characters too: KL sums over them, the mean is over places",
    "minus": "the sign is turned: KL is never below 0",
    "bits": "this is in bits: nats are asked for, the natural logarithm",
    "axis": "the softmax runs over the places: it runs over the characters, the last axis",
    "no softmax": "q has to be a distribution: the logits go through a softmax first",
}


def check_one_hot_kl(fn: Callable) -> str:
    logits = 2 * numbers(3, 5, 7, seed=1)
    targets = torch.tensor([[0, 3, 0, 0, 0], [2, 5, 6, 0, 1], [0, 0, 0, 4, 4]])
    leaf = logits.clone().requires_grad_()
    result = fn(leaf, targets)
    got = tensor(result, (), "the loss").double()
    if got.isnan():
        raise Wrong(
            "the loss is not a number: 0 times log 0 is 0 here, yet a computer says nan. torch.special.xlogy, "
            "or sum only where p is above 0"
        )
    if got.isinf():
        raise Wrong(
            "the loss is infinite: KL(q || p) divides by the zeros of p. The target p comes first, KL(p || q)"
        )
    right = kl_with(logits, targets)
    if not close(got, right, 1e-5):
        for slip, told in KL.items():
            if close(got, kl_with(logits, targets, slip), 1e-5):
                raise Wrong(told)
        raise Wrong(f"the loss of the example is {got:.4f} instead of {right:.4f}")
    if not result.requires_grad:
        raise Wrong("the loss is cut off from the logits (detach, item): nothing could be trained")
    result.backward()
    expected = torch.autograd.grad(kl_with(leaf, targets), leaf)[0]
    if leaf.grad is None or not close(leaf.grad, expected):
        raise Wrong(
            "the number is right, its gradient is not: compute it from the logits, without a detach"
        )
    huge = torch.tensor([[[0.0, 2000.0, 0.0, 1000.0]]])
    if not close(
        tensor(fn(huge, torch.tensor([[3]])), (), "the loss").double(), torch.tensor(1000.0)
    ):
        raise Wrong(
            "large logits break it (exp overflows): take log_softmax instead of the log of a softmax"
        )
    with fresh_cases("right for the example, not for other sizes and targets"):
        for B, T, V in ((1, 1, 2), (2, 9, 30), (4, 3, 5)):
            logits, targets = numbers(B, T, V), torch.tensor(draw(0, V - 1, B * T)).view(B, T)
            targets[0, 0] = V - 1
            if not close(tensor(fn(logits, targets), (), "the loss"), kl_with(logits, targets)):
                raise Wrong("other")
    return "the mean KL over the asked places, equal to the cross-entropy, with its gradient"


# ---------------------------------------------------------------- padding


def check_padding_mask(fn: Callable) -> str:
    def asked(idx: Tensor, heads: int, what: str) -> Tensor:
        (B, T), got = idx.shape, fn(idx)
        if not isinstance(got, Tensor):
            raise Wrong(f"{what}: needed is a tensor, not {describe(got)}")
        if got.dtype != torch.bool:
            raise Wrong(
                f"{what}: the mask is {str(got.dtype).removeprefix('torch.')}: True or False is asked for, a comparison's result"
            )
        try:
            full = got.broadcast_to(B, heads, T, T)
        except RuntimeError:
            raise Wrong(
                f"{what}: {tuple(got.shape)} does not broadcast to (B, nh, T_query, T_key) = {(B, heads, T, T)}: "
                "put axes for the heads and the queries between B and T_key"
            ) from None
        return full

    def right(idx: Tensor, heads: int) -> Tensor:
        text = idx != 0
        return (text[:, None, None] & text[:, None, :, None]).expand(-1, heads, -1, -1)

    def same(got: Tensor, idx: Tensor, heads: int) -> bool:
        queries = (idx != 0)[:, None, :, None]  # what padding itself looks at does not matter
        return torch.equal(got & queries, right(idx, heads))

    idx = torch.tensor([[5, 1, 4, 3, 1, 0], [6, 2, 1, 0, 0, 0], [3, 9, 8, 4, 7, 2]])
    got, text = asked(idx, 4, "3 rows, 4 heads"), idx != 0
    slips = {
        "it is turned round: True is where a query may look": ~text[:, None, None],
        "the rows of padding are masked, not its columns: a query of the text still looks at padding": text[
            :, None, :, None
        ],
        "a triangle is left in it: an encoder looks ahead, too": text[:, None, None]
        & torch.ones(6, 6).tril().bool(),
        "⁇ is masked too: a hidden place (id 1) is a key like any other, only padding (id 0) is not": (
            idx > 1
        )[:, None, None],
        "all keys are allowed: padding has to be False": torch.ones(1, 1, 1, 6, dtype=torch.bool),
    }
    for told, other in slips.items():
        if torch.equal(got, other.expand_as(got)):
            raise Wrong(told)
    if not same(got, idx, 4):
        row, _, q, k = (got & text[:, None, :, None] != right(idx, 4)).nonzero()[0].tolist()
        raise Wrong(
            f"row {row}: query {q} {'may' if got[row, 0, q, k] else 'may not'} look at key {k}, whose id is {idx[row, k]}"
        )
    idx = torch.tensor(
        [[4, 4, 0], [4, 0, 0], [4, 4, 4]]
    )  # as many rows as heads and places: mix-ups are silent
    if not same(asked(idx, 3, "3 rows, 3 heads, 3 places"), idx, 3):
        raise Wrong(
            "right for 3 rows and 4 heads, not for 3 and 3: row b's padding has to go to row b, not to head b. (B, 1, 1, T)"
        )
    with fresh_cases("right for the examples, not for other batches"):
        for B, T, heads in ((1, 4, 1), (5, 2, 5), (2, 9, 3)):
            idx = torch.tensor(draw(0, 3, B * T)).view(B, T)
            if not same(asked(idx, heads, "a batch"), idx, heads):
                raise Wrong("other")
    return "every key that holds text, ⁇ included, for all heads and queries; no padding"


# ---------------------------------------------------------------- filling


class Toy(nn.Module):
    """A tiny encoder: logits (B, T, V) from the place and the characters there and on both sides, strongly."""

    def __init__(self, size: int, seed: int | None):
        super().__init__()
        self.weights = numbers(4, size, size, seed=seed)
        self.places = 0.5 * numbers(16, size, seed=seed)

    def forward(self, idx: Tensor) -> tuple[Tensor, None]:
        own, left, right, out = self.weights
        x = F.one_hot(idx, len(own)).double()  # (B, T, V)
        hidden = x @ own + x.roll(1, 1) @ left + x.roll(-1, 1) @ right
        return (hidden + self.places[: idx.size(1)]).tanh() @ out, None


def filled(model: Callable, idx: Tensor, rounds: int, slip: str = "") -> Tensor:
    """Masks filled in rounds, with one mistake built in."""
    idx, n = idx.clone(), (idx == 1).sum(1).tolist()
    for r in range(1, rounds + 1):
        logits = model(idx)[0].detach().clone()
        if slip not in ("specials", "late"):
            logits[..., :2] = float("-inf")
        q = logits.softmax(-1)
        if slip == "late":
            q[..., :2] = -1.0
        sure, best = q.max(-1)
        places = torch.arange(idx.size(1)).expand_as(sure)
        first = {"left to right": -places, "least sure": -sure}.get(
            slip, sure
        )  # the highest goes first
        for row, total in enumerate(n):
            left = (idx[row] == 1).nonzero()[:, 0]
            due = {"floor": total * r // rounds, "one a round": r, "at once": total}
            k = due.get(slip, math.ceil(total * r / rounds)) - (total - len(left))
            for j in left[first[row, left].argsort(descending=True)][: max(0, k)]:
                idx[row, j] = best[row, j]
    return idx


FILLING = {
    "at once": "the same as if all masks were filled in the first round: fix ceil(n r / rounds) of n by the end of round r, "
    "and let the model read anew what is filled by then",
    "least sure": "the least sure places are fixed first: the model's own doubts would guide it",
    "left to right": "the masks are fixed from left to right: the surest place comes first, wherever it stands",
    "one a round": "one mask a round, and those that no round is left for stay: ceil(n r / rounds) after round r",
    "floor": "too few are fixed in the early rounds: round n r / rounds up",
    "specials": "□ or ⁇ stands in the answer: set their logits to -inf before the softmax",
    "late": "□ and ⁇ are ruled out after the softmax, so that the others do not sum to 1 and the order of the surest is "
    "another: set their logits to -inf before it",
}


def check_fill(fn: Callable) -> str:
    def asked(model: Toy, idx: Tensor, rounds: int, what: str) -> Tensor:
        got = tensor(fn(model, idx, rounds), idx.shape, what)
        if got.dtype != torch.int64:
            raise Wrong(f"{what} is {str(got.dtype).removeprefix('torch.')}: ids are int64")
        return got

    model = Toy(9, 12)  # a seed at which every mistake of FILLING shows
    idx = torch.tensor(
        [[4, 1, 1, 1, 1, 1, 5, 0, 0], [1, 6, 1, 3, 1, 1, 1, 1, 2], [7, 3, 1, 2, 0, 0, 0, 0, 0]]
    )
    for rounds in (1, 3, 2, 9):
        what = f"the text after {rounds} round{'s' * (rounds > 1)}"
        got, right = asked(model, idx, rounds, what), filled(model, idx, rounds)
        if torch.equal(got, right):
            continue
        if not torch.equal(got[idx != 1], idx[idx != 1]):
            raise Wrong(
                f"{what} has other characters where none were hidden: only ⁇ (id 1) is replaced"
            )
        for slip, told in FILLING.items():
            if torch.equal(got, filled(model, idx, rounds, slip)) and not torch.equal(
                filled(model, idx, rounds, slip), right
            ):
                raise Wrong(f"{rounds} round{'s' * (rounds > 1)}: {told}")
        if (got == 1).any():
            raise Wrong(f"{what} still holds ⁇: after the last round every mask is filled")
        alone = torch.cat([asked(model, row[None], rounds, what) for row in idx])
        if torch.equal(alone, right):
            raise Wrong(
                f"{rounds} rounds: right for one row, wrong for three: the surest are counted in each row by itself"
            )
        raise Wrong(
            f"{what} differs from the recipe's at {int((got != right).sum())} of {int((idx == 1).sum())} masks: "
            "look at the order and the number fixed in each round"
        )
    with fresh_cases("right for the examples, not for other models and texts"):
        for rounds in (1, 2, 4):
            model, rng = Toy(12, None), fresh_random()
            idx = torch.tensor(
                [[rng.choice((1, 1, 1, 4, 7, 9)) for _ in range(10)] for _ in range(3)]
            )
            if not torch.equal(asked(model, idx, rounds, "the text"), filled(model, idx, rounds)):
                raise Wrong("other")
    return "the surest first, ceil(n r / rounds) after round r, the text so far read anew"


# ---------------------------------------------------------------- pairs of lines


def check_line_pair(fn: Callable) -> str:
    lines = [
        [f"{name}{k}" for k in range(n)] for name, n in zip("abcde", (3, 4, 2, 5, 3), strict=True)
    ]

    def drawn(
        i: int, n: int = 600, told: Sequence[Sequence[str]] = lines
    ) -> list[tuple[str, str, bool]]:
        rng, state, found = random.Random(i), random.getstate(), []
        for _ in range(n):
            result = fn(told, i, rng)
            if (
                not isinstance(result, (tuple, list))
                or len(result) != 3
                or [type(r) for r in result[:2]] != [str] * 2
            ):
                raise Wrong(f"needed are two lines and a truth value, not {describe(result)}")
            if not isinstance(result[2], bool):
                raise Wrong(
                    f"the third result is {describe(result[2])}: True for two lines of one person, else False"
                )
            found.append(tuple(result))
        if random.getstate() != state:
            raise Wrong("it draws from the global `random`: draw from the rng that is given")
        return found

    pairs = drawn(1)
    if any(first[0] != "b" for first, _, _ in pairs):
        raise Wrong("the first line is not always one of person i")
    if any(first == second for first, second, _ in pairs):
        raise Wrong(
            "a line is paired with itself: such a pair is told by its equal letters; draw two different lines"
        )
    same = [second[0] == "b" for _, second, _ in pairs]
    if [label for *_, label in pairs] == [not s for s in same]:
        raise Wrong("the labels are turned round: True is for two lines of one person")
    if any(label != s for (*_, label), s in zip(pairs, same, strict=True)):
        raise Wrong(
            'lines of one person are labelled False at times: "somebody else" must not be person i'
        )
    share = sum(same) / len(same)
    if not 0.4 < share < 0.6:
        likely = ": is everybody drawn alike, person i too?" if share < 0.3 else ""
        raise Wrong(f"{100 * share:.0f} % of the pairs are of one person instead of half{likely}")
    if len({first for first, _, _ in pairs}) < 4:
        raise Wrong("the first line is not drawn from all lines of person i")
    others = {second for first, second, label in pairs if not label}
    if {second[0] for second in others} != set("acde"):
        raise Wrong(
            f"the others are drawn from {len({s[0] for s in others})} of 4 persons: everybody else alike likely"
        )
    if len(others) < sum(len(told) for told in lines) - 4:
        raise Wrong("somebody else's line is not drawn from all of that person's lines")
    if len({(first, second) for first, second, label in pairs if label}) < 9:
        raise Wrong(
            "of person i's lines only some are paired: every other line may be the second, not the next one alone"
        )
    if drawn(1) != pairs:
        raise Wrong("two calls with equal generators differ: all draws have to come from rng")
    with fresh_cases("right for the example, not for other persons and lines"):
        for i in range(3):
            told = [[f"{name}{k}" for k in range(2)] for name in "pqr"]
            pairs = drawn(i, 120, told)
            if any((s[0] == f[0]) != label or f == s or f[0] != "pqr"[i] for f, s, label in pairs):
                raise Wrong("other")
            if (
                not 30 < sum(label for *_, label in pairs) < 90
                or len({s for _, s, label in pairs if not label}) < 4
            ):
                raise Wrong("other")
    return "two lines of one person, or of two, half and half, nobody paired with a copy"


EXERCISES = (
    Exercise("bert-rule", NOTEBOOK, "Hide by BERT's rule", 2, 12, hide, check_hide),
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
    Exercise("fill-masks", NOTEBOOK, "The surest first", 4, 25, fill, check_fill),
    Exercise("line-pairs", NOTEBOOK, "One person or two", 2, 10, line_pair, check_line_pair),
)
