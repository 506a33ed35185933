"""Answers to the exercises of notebook 10, right and wrong: every mistake gets its name."""

import random

import torch
import torch.nn.functional as F
from checking import Answers, mistakes, notebook_suite, quiz_suite, suite

from kt_course.chapters.masked_language_models import exercises, solutions
from kt_course.chapters.masked_language_models.masked_data import RULE

# ---------------------------------------------------------------- the rule


def stub_hide(ids, units, vocab_size, rng, rule=(0.8, 0.1)): ...


def hiding(mistake=""):
    """The rule, with one mistake built in."""

    def answer(ids, units, vocab_size, rng, rule=RULE):
        if mistake == "rule ignored":
            rule = RULE
        if mistake == "all hidden":
            rule = (1.0, 0.0)
        if mistake == "half random":
            rule = (rule[0], rule[1] + 0.1 * (rule == RULE))
        x = ids if mistake == "in place" else list(ids)
        y = list(ids) if mistake == "everywhere" else [0] * len(ids)
        source = random if mistake == "global" else rng
        if mistake == "own":
            source = random.Random()
        for start, stop in units:
            stop += mistake == "stop too"
            draw = source.random()
            filler = source.randrange(2, vocab_size)
            for j in range(start, min(stop, len(ids))):
                before = ids[j]
                if mistake == "a draw per character":
                    draw = source.random()
                if mistake != "one filler":
                    low, high = {
                        "specials": (0, 2),
                        "beyond": (2, vocab_size + 3),
                        "few": (2, 12),
                    }.get(mistake, (2, vocab_size))
                    filler = source.randrange(low, high)
                if mistake == "mask is 0":
                    x[j] = 0 if draw < rule[0] else x[j]
                elif draw < rule[0]:
                    x[j] = 1
                elif draw < sum(rule):
                    x[j] = filler
                y[j] = {"x": x[j]}.get(mistake, before)
                if mistake == "no loss if unchanged" and draw >= sum(rule):
                    y[j] = 0
        if mistake == "shifted":
            y = [ids[j + 1] if v and j + 1 < len(ids) else 0 for j, v in enumerate(y)]
        if mistake == "outside":
            x[1] = 1
        return x, y

    return answer


def by_one_number(ids, units, vocab_size, rng, rule=RULE):
    """Draws the kinds of all units at once."""
    kinds = rng.choices("mrk", weights=(rule[0], rule[1], 1 - sum(rule)), k=len(units))
    what = {j: kind for (a, b), kind in zip(units, kinds, strict=True) for j in range(a, b)}
    fillers = {
        "m": lambda j: 1,
        "r": lambda j: rng.choice(range(2, vocab_size)),
        "k": lambda j: ids[j],
    }
    x = [fillers[what[j]](j) if j in what else ids[j] for j in range(len(ids))]
    return x, [ids[j] if j in what else 0 for j in range(len(ids))]


RULES = Answers(
    stub=stub_hide,
    wrong={
        "shifted": (hiding("shifted"), "shifted by one"),
        "loss everywhere": (hiding("everywhere"), "not chosen"),
        "no loss if unchanged": (hiding("no loss if unchanged"), "stays as it is"),
        "y is x": (hiding("x"), r"y\[j\] is not ids\[j\]"),
        "all hidden": (hiding("all hidden"), "all chosen positions became"),
        "half random": (hiding("half random"), "80 % and 10 %"),
        "specials": (hiding("specials"), "0, which is padding"),
        "mask is 0": (hiding("mask is 0"), "0, which is padding"),
        "beyond": (hiding("beyond"), "with vocab_size 62 the last one is 61"),
        "few": (hiding("few"), "different characters"),
        "a draw per character": (hiding("a draw per character"), "once per unit"),
        "one filler": (hiding("one filler"), "all the same"),
        "stop too": (hiding("stop too"), "not chosen|range"),
        "outside": (hiding("outside"), "outside the chosen"),
        "in place": (hiding("in place"), "changes the list ids|chosen"),
        "global": (hiding("global"), "global `random`"),
        "own generator": (hiding("own"), "all draws have to come from rng"),
        "rule ignored": (hiding("rule ignored"), "not for another"),
        "x alone": (
            lambda ids, units, size, rng, rule=RULE: hiding()(ids, units, size, rng)[0],
            "two lists",
        ),
        "tensors": (
            lambda ids, units, size, rng, rule=RULE: tuple(
                map(torch.tensor, hiding()(ids, units, size, rng))
            ),
            "x should be a list",
        ),
    },
    right={"the kinds at once": by_one_number, "step by step": hiding()},
    borrowed=lambda ids, units, size, rng, rule=RULE: solutions.hide_units(
        ids, units, size, rng, rule
    ),
)

# ---------------------------------------------------------------- the loss


def stub_kl(logits, targets): ...


def by_its_definition(logits, targets):
    total, n = logits.new_zeros(()), 0
    for row, ids in zip(logits, targets, strict=True):
        for z, v in zip(row, ids.tolist(), strict=True):
            if v:
                total = total - (z[v] - z.logsumexp(0))
                n += 1
    return total / n


def by_pytorch(logits, targets):
    chosen = targets != 0
    p = F.one_hot(targets[chosen], logits.size(-1)).to(logits.dtype)
    return F.kl_div(logits[chosen].log_softmax(-1), p, reduction="batchmean")


def naive(logits, targets):
    chosen = targets != 0
    p, q = F.one_hot(targets[chosen], logits.size(-1)).to(logits.dtype), logits[chosen].softmax(-1)
    return (p * (p / q).log()).sum(-1).mean()


def reversed_kl(logits, targets):
    chosen = targets != 0
    p, q = F.one_hot(targets[chosen], logits.size(-1)).to(logits.dtype), logits[chosen].softmax(-1)
    return (q * (q.log() - p.log())).sum(-1).mean()


def overflowing(logits, targets):
    chosen = targets != 0
    e = logits[chosen].exp()
    return -(e / e.sum(-1, keepdim=True)).gather(-1, targets[chosen][:, None]).log().mean()


def gathered(logits, targets):
    losses = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]  # (B, T)
    return (losses * (targets != 0)).sum() / (targets != 0).sum()


DIVERGENCE = Answers(
    stub=stub_kl,
    wrong={**mistakes(exercises.CHAPTER, "one-hot-kl")}
    | {
        "0 log 0": (naive, "0 log 0"),
        "reversed": (reversed_kl, "infinite"),
        "overflow": (overflowing, "large logits"),
        "detached": (lambda z, y: gathered(z.detach(), y), "cut off"),
        "by PyTorch": (
            lambda z, y: F.cross_entropy(z.flatten(0, 1), y.flatten(), ignore_index=0),
            "PyTorch's own cross_entropy",
        ),
        "a number": (lambda z, y: gathered(z, y).item(), "should be a tensor"),
        "each place": (
            lambda z, y: -z.log_softmax(-1).gather(-1, y[..., None])[..., 0],
            r"shape \(3, 5\)",
        ),
        "a wrong number": (lambda z, y: gathered(z, y) + 0.1, "the solution computes"),
        "another gradient": (lambda z, y: gathered(z, y).detach() + 0 * z.sum(), "cut off"),
        "first row": (
            lambda z, y: gathered(z, y) if len(z) == 3 else gathered(z[:1], y[:1]),
            "other sizes",
        ),
    },
    right={
        "by its definition": by_its_definition,
        "PyTorch's kl_div": by_pytorch,
        "gathered": gathered,
    },
    borrowed=lambda logits, targets: solutions.divergence(logits, targets),
)

# ---------------------------------------------------------------- the training loop


def stub_train(model, draw_windows, vocab_size, epochs, batch_size, peak, rng, rule=(0.8, 0.1)): ...


def with_the_models_own_loss(
    model, draw_windows, vocab_size, epochs, batch_size, peak, rng, rule=RULE
):
    """Adam, the model's own loss, windows in the order of their length."""
    losses, n_read, total = [], 0, None
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        windows = draw_windows(rng)
        total = total or epochs * len(windows)
        while windows:
            batch, windows = windows[:batch_size], windows[batch_size:]
            rows = [hiding()(*window, vocab_size, rng, rule) for window in batch]
            width = max(len(x) for x, _ in rows)
            x, y = (
                torch.tensor([row[k] + [0] * (width - len(row[k])) for row in rows]) for k in (0, 1)
            )
            for group in optimizer.param_groups:
                group["lr"] = peak * (total - n_read) / total
            loss = model(x, y)[1]
            model.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
            n_read += len(batch)
    return losses


def mean_loss(*inputs, **options):
    return sum(losses := with_the_models_own_loss(*inputs, **options)) / len(losses)


TRAIN = Answers(
    stub=stub_train,
    wrong=mistakes(exercises.CHAPTER, "masked-training")
    | {
        "mean": (mean_loss, "a list with the loss of each step"),
        "tensors": (
            lambda *a, **k: list(map(torch.tensor, with_the_models_own_loss(*a, **k))),
            "a list with the loss of each step",
        ),
    },
    right={"the model's own loss": with_the_models_own_loss},
    borrowed=lambda *a, **k: solutions.train_masked(*a, **k),
)

# ---------------------------------------------------------------- two texts


class StubPair(torch.nn.Module):
    def __init__(self, body, n_out): ...

    def forward(self, idx, segments): ...


class BlockByBlock(torch.nn.Module):
    """The same, with the body's blocks one after the other."""

    def __init__(self, body, n_out):
        super().__init__()
        width = body.tok_emb.weight.size(1)
        self.segments = torch.nn.Embedding(2, width, _weight=torch.zeros(2, width))
        self.head = torch.nn.Linear(width, n_out)
        self.body = body

    def forward(self, idx, segments):
        rotation = self.body.rotary(torch.arange(idx.size(1))[None])
        x = self.body.embed(idx, None) + self.segments(segments)
        mask = idx.ne(0).view(len(idx), 1, 1, -1)
        for block in self.body.blocks:
            x = block(x, mask=mask, rotation=(rotation, rotation))
        return self.head(self.body.ln_f(x))


class OtherNames(BlockByBlock):
    def __init__(self, body, n_out):
        super().__init__(body, n_out)
        self.classifier = torch.nn.Linear(2, 2)


PAIR = Answers(
    stub=StubPair,
    wrong=mistakes(exercises.CHAPTER, "pair-model")
    | {
        "no module": (lambda body, n_out: body.config, "an nn.Module"),
        "other names": (OtherNames, "the parameters besides the body"),
    },
    right={"block by block": BlockByBlock},
    borrowed=lambda body, n_out: solutions.PairModel(body, n_out),
)

# ---------------------------------------------------------------- spans


def stub_span(start, end, is_allowed, longest=20): ...


def by_trying(start, end, is_allowed, longest=20):
    spans = [
        (float(start[i] + end[j]), i, j + 1)
        for i in range(len(start))
        for j in range(i, min(i + longest, len(end)))
        if is_allowed[i] and is_allowed[j]
    ]
    return max(spans)[1:]


SPAN = Answers(
    stub=stub_span,
    wrong=mistakes(exercises.CHAPTER, "best-span") | {"one number": (lambda *a: 3, "two numbers")},
    right={"all pairs": by_trying},
    borrowed=lambda *inputs: solutions.best_span(*inputs),
)

ANSWERS = {
    "bert-rule": RULES,
    "one-hot-kl": DIVERGENCE,
    "masked-training": TRAIN,
    "pair-model": PAIR,
    "best-span": SPAN,
}
TestExercises = suite("10_masked_language_models", ANSWERS)
TestQuizzes = quiz_suite("10_masked_language_models")
TestNotebook = notebook_suite("10_masked_language_models", most_lines=15)


def test_the_formulas_of_the_checks_are_the_packages():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 8, generator=generator)
    targets = torch.randint(0, 8, (3, 6), generator=generator)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
    torch.testing.assert_close(solutions.divergence(logits, targets), expected)
