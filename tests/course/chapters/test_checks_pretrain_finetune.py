"""Answers to the exercises of notebook 5, right and wrong: every mistake gets its name."""

import math
import random

import torch
import torch.nn.functional as F
from checking import Answers, quiz_suite, suite

import kt_core as kt
from kt_core.decoding import pick_next
from kt_core.models import GPT
from kt_course.chapters.pretrain_finetune.exercises import continue_alone, cut_at
from kt_course.exercises.random_cases import randomise

# ---------------------------------------------------------------- windows


def stub_window(data, line, start, stop, rng): ...


def window(
    before=lambda words, n: words[len(words) - n :],
    after=lambda words, n: words[:n],
    most=(4, 2),
    **change,
):
    """The name, the words before the gap, the gap, the words after it, with parts to change."""
    head_of = change.get("head", lambda line: line[: line.index(". ") + 2])
    join, gap, fit = change.get("join", " "), change.get("gap", " "), change.get("fit", True)

    def answer(data, line, start, stop, rng):
        head = head_of(line)
        draw = (change.get("rng") or rng).randint
        past, rest = line[line.index(". ") + 2 : start].split(), line[stop:].split()
        past = before(past, min(draw(0, most[0]), len(past)))
        rest = after(rest, draw(change.get("least", 0), most[1]))
        before_gap = join.join(past) + (gap if past else "")
        behind = (
            "".join(f" {word}" for word in rest)
            if line[stop : stop + 1] == " "
            else join.join(rest)
        )
        room = data.block_size - 1 - data.end_sentinel - (stop - start) - len(head)
        if fit:
            before_gap = before_gap[-room:] if room else ""
            behind = behind[: room - len(before_gap)]
        return head + before_gap, line[start:stop], behind

    return answer


def by_search(data, line, start, stop, rng):
    """By places of the spaces in the line."""
    head = line.index(". ") + 2
    spaces = [head, *[i + 1 for i in range(head, start) if line[i] == " "]]
    begin = spaces[max(0, len(spaces) - 1 - rng.choice(range(5)))]
    ends = [i for i in range(stop, len(line)) if line[i] == " " and i > stop] + [len(line)]
    end = [stop, *ends][rng.choice(range(3))] if len(ends) > 1 else stop
    room = data.block_size - 1 - data.end_sentinel
    begin = max(begin, stop + head - room)
    end = min(end, begin - head + room)
    return line[:head] + line[begin:start], line[start:stop], line[stop:end]


def whole_line(data, line, start, stop, rng):
    return line[:start], line[start:stop], line[stop:]


WINDOW = Answers(
    stub=stub_window,
    wrong={
        "no name": (window(head=lambda line: ""), "name is lost"),
        "first name": (window(head=lambda line: line[:4]), "name is lost"),
        "the first words": (window(before=lambda words, n: words[:n]), "not those next to it"),
        "the last words": (
            window(after=lambda words, n: words[len(words) - n :]),
            "not those next to it",
        ),
        "space lost": (window(gap=""), "space at the gap"),
        "whole line": (lambda d, line, a, b, r: (line[:a], line[a:b], ""), "all 8 words"),
        "everything": (whole_line, "all 8 words|characters in a block|to 8"),
        "one window": (window(most=(0, 0)), "each window is the same, 0 words before"),
        "always a word after": (window(least=1), "1 to 2 words stand after"),
        "too many": (window(most=(6, 2)), "0 to 6 words stand before"),
        "own rng": (window(rng=random.Random()), "rng alone"),
        "too long": (window(fit=False), "characters in a block of 32"),
        "swapped": (lambda *a: (lambda p, m, s: (p, s, m))(*window()(*a)), "masked piece is"),
        "characters": (
            lambda d, line, a, b, r: (
                line[:10] + line[max(10, a - r.randint(0, 9)) : a],
                line[a:b],
                "",
            ),
            "cut in two",
        ),
        "two": (lambda *a: window()(*a)[:2], "three strings"),
    },
    right={"words": window(), "places": by_search},
    borrowed=lambda data, line, start, stop, rng: data.window(line, start, stop, rng),
)

# ---------------------------------------------------------------- the learning rate


def stub_rate(config, step, total): ...


def rate(
    progress=lambda n, total: n / total,
    flat=lambda c, total: c.cooldown_from,
    end=lambda c: c.final_fraction,
    warm=lambda n, w: (n + 1) / (w + 1),
    times=lambda c: 1.0,
):
    def answer(config, step, total):
        if step < config.warmup_steps:
            return warm(step, config.warmup_steps)
        first = flat(config, total)
        done = (progress(step, total) - first) / (1 - first) if first < 1 else 0
        return times(config) * (1 - (1 - end(config)) * min(1, max(0, done)))

    return answer


def by_interpolation(config, step, total):
    if step < config.warmup_steps:
        return torch.linspace(0, 1, config.warmup_steps + 2)[step + 1]
    begin, last = config.cooldown_from * total, config.final_fraction
    if step <= begin:
        return 1
    return ((total - step) + last * (step - begin)) / (total - begin)


def jumping(config, step, total):
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    return (
        1 if step < config.cooldown_from * total else 1 - (1 - config.final_fraction) * step / total
    )


RATE = Answers(
    stub=stub_rate,
    wrong={
        "constant": (lambda c, n, total: 1.0, "never falls"),
        "at once": (rate(flat=lambda c, total: 0.0), "first step on"),
        "to zero": (rate(end=lambda c: 0.0), "to 0 instead of to final_fraction"),
        "by the fraction": (rate(end=lambda c: 1 - c.final_fraction), "by final_fraction"),
        "the rate": (rate(times=lambda c: c.learning_rate), "share of the peak"),
        "jump": (jumping, "jumps from 1 to 0.65 at step 5"),
        "last step": (rate(lambda n, total: n / (total - 1)), "progress is step / total"),
        "cooldown to the last step": (
            lambda c, n, total: (
                1 - (1 - c.final_fraction) * max(0, n - total // 2) / (total // 2 - 1)
            ),
            "final_fraction at the last step",
        ),
        "ahead": (rate(lambda n, total: (n + 1) / total), "a step ahead"),
        "steps": (rate(flat=lambda c, total: c.cooldown_from / total), "not a number of steps"),
        "cold start": (rate(warm=lambda n, w: n / w), "would learn nothing"),
        "short warm-up": (
            rate(warm=lambda n, w: (n + 1) / w),
            "begins 0.33, 0.67, 1.00, 1.00 instead of",
        ),
        "no warm-up": (rate(warm=lambda n, w: 1.0), "no warm-up"),
        "cosine": (
            lambda c, n, total: 0.5 + 0.5 * math.cos(math.pi * n / total),
            "at step 1 of 10 it is 0.98",
        ),
        "text": (lambda c, n, total: "1.0 of the peak", "is a number"),
    },
    right={"interpolation": by_interpolation, "with knobs": rate()},
    borrowed=lambda config, step, total: config.rate(step, total),
)

# ---------------------------------------------------------------- the loss


def stub_loss(model, idx, targets=None): ...


def loss(of):
    def answer(model, idx, targets=None):
        logits, _ = model(idx)
        return logits, None if targets is None else of(logits, idx, targets)

    return answer


def each(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(
        targets
    )


def by_gather(logits, idx, targets):
    p = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return -(p * (targets != 0)).sum() / (targets != 0).sum()


def row_by_row(logits, idx, targets):
    positions = [
        (b, t) for b in range(len(targets)) for t in range(targets.size(1)) if targets[b, t]
    ]
    return sum(logits[b, t].logsumexp(0) - logits[b, t, targets[b, t]] for b, t in positions) / len(
        positions
    )


LOSS = Answers(
    stub=stub_loss,
    wrong={
        "everything": (loss(lambda z, x, y: each(z, y).mean()), "all 8 positions"),
        "pads of x": (loss(lambda z, x, y: each(z, y)[x != 0].mean()), "not idx != 0"),
        "divided by all": (
            loss(lambda z, x, y: (each(z, y) * (y != 0)).mean()),
            "divided by all 8",
        ),
        "sum": (loss(lambda z, x, y: (each(z, y) * (y != 0)).sum()), "it is a sum:"),
        "an example": (
            loss(lambda z, x, y: (each(z, y) * (y != 0)).sum() / len(y)),
            "sum per example",
        ),
        "rows": (
            loss(lambda z, x, y: ((each(z, y) * (y != 0)).sum(1) / (y != 0).sum(1)).mean()),
            "rows' means",
        ),
        "shifted": (
            loss(
                lambda z, x, y: F.cross_entropy(
                    z[:, :-1].flatten(0, 1), y[:, 1:].flatten(), ignore_index=0
                )
            ),
            "moved once more",
        ),
        "softmax twice": (
            loss(
                lambda z, x, y: F.cross_entropy(
                    z.softmax(-1).flatten(0, 1), y.flatten(), ignore_index=0
                )
            ),
            "softmax is taken twice",
        ),
        "bits": (loss(lambda z, x, y: by_gather(z, x, y) / math.log(2)), "bits"),
        "sign": (loss(lambda z, x, y: -by_gather(z, x, y)), "sign"),
        "probability": (
            loss(lambda z, x, y: 1 - z.softmax(-1).gather(-1, y[..., None])[..., 0][y != 0].mean()),
            "probability",
        ),
        "log of softmax": (
            loss(
                lambda z, x, y: -z.softmax(-1).log().gather(-1, y[..., None])[..., 0][y != 0].mean()
            ),
            "large logits",
        ),
        "item": (loss(lambda z, x, y: by_gather(z, x, y).item()), "cut off"),
        "detached": (loss(lambda z, x, y: by_gather(z.detach(), x, y)), "cut off"),
        "loss alone": (
            lambda m, x, y=None: by_gather(m(x)[0], x, y),
            r"return two, \(logits, loss\)",
        ),
        "by the model": (
            lambda model, idx, targets=None: model(idx, targets),
            "computes the loss for you",
        ),
        "always": (
            lambda model, idx, targets=None: (
                model(idx)[0],
                by_gather(model(idx)[0], idx, 1 * idx if targets is None else targets),
            ),
            "without targets",
        ),
    },
    right={
        "ignore_index": loss(lambda z, x, y: F.cross_entropy(z.transpose(1, 2), y, ignore_index=0)),
        "gather": loss(by_gather),
        "one by one": loss(row_by_row),
    },
    borrowed=lambda model, idx, targets=None: GPT.forward(model, idx, targets),
)

# ---------------------------------------------------------------- the next character


def stub_pick(logits, temperature, top_k, generator): ...


def picking(
    change=lambda logits, t: logits / t, keep=None, draw=None, cold=lambda logits: logits.argmax(-1)
):
    def answer(logits, temperature, top_k, generator):
        if temperature == 0:
            return cold(logits)
        logits = change(logits, temperature)
        if top_k is not None:
            logits = (keep or largest)(logits, min(top_k, logits.size(-1)))
        p = logits.softmax(-1)
        return (draw or (lambda p, g: torch.multinomial(p, 1, generator=g)[:, 0]))(p, generator)

    return answer


def largest(logits, k):
    masked_logits = torch.full_like(logits, -torch.inf)
    at = logits.topk(k).indices
    return masked_logits.scatter(-1, at, logits.gather(-1, at))


def smallest(logits, k):
    masked_logits = largest(-logits, k)
    return torch.where(masked_logits == -torch.inf, masked_logits, -masked_logits)


def by_gumbel(logits, temperature, top_k, generator):
    if temperature == 0:
        return logits.max(-1).indices
    if top_k is not None:
        rank = logits.argsort(-1, descending=True).argsort(-1)
        logits = torch.where(rank < top_k, logits, -1e9)
    noise = -torch.log(-torch.log(torch.rand(logits.shape, generator=generator)))
    return (logits / temperature + noise).argmax(-1)


def by_cumulation(logits, temperature, top_k, generator):
    if temperature == 0:
        return logits.argmax(-1)
    p = (logits.double() / temperature).softmax(-1)
    if top_k is not None and top_k < p.size(-1):
        p = torch.where(p >= p.sort(-1).values[:, -top_k][:, None], p, 0.0)
        p = p / p.sum(-1, keepdim=True)
    u = torch.rand(len(p), 1, generator=generator, dtype=torch.double)
    return (p.cumsum(-1) < u).sum(-1).clamp(max=p.size(-1) - 1)


def sharpest(p, generator):
    return p.argmax(-1)


NEXT = Answers(
    stub=stub_pick,
    wrong={
        "along the batch": (picking(cold=lambda logits: logits.argmax(0)), "along the batch"),
        "least likely": (picking(cold=lambda logits: logits.argmin(-1)), "argmax, not argmin"),
        "draws at 0": (
            picking(cold=lambda logits: torch.tensor([1, 0, 1])),
            "at temperature 0 it takes",
        ),
        "probabilities": (picking(cold=lambda logits: logits.max(-1).values), "float32"),
        "multiplied": (picking(lambda logits, t: logits * t), "do not multiply"),
        "no temperature": (picking(lambda logits, t: logits), "draws as at 1"),
        "even": (picking(lambda logits, t: 0 * logits), "equally often"),
        "greedy": (picking(draw=sharpest), "always takes the same"),
        "squared": (picking(lambda logits, t: logits / t**2), "instead of 78 %"),
        "no top_k": (picking(keep=lambda logits, k: logits), "changes nothing"),
        "bottom_k": (picking(keep=smallest), "least likely ones"),
        "top 1": (picking(keep=lambda logits, k: largest(logits, 1)), "one character only"),
        "index in top k": (
            picking(keep=lambda logits, k: logits.topk(k).values),
            "positions among the k largest",
        ),
        "row 0's threshold": (
            picking(keep=lambda z, k: z.masked_fill(z < z[0].topk(k).values[-1], -torch.inf)),
            "right for row 0 and wrong for others",
        ),
        "global": (picking(draw=lambda p, g: torch.multinomial(p, 1)[:, 0]), "hand generator"),
        "k too large": (picking(keep=lambda logits, k: largest(logits, 2)), "not at others"),
        "a column": (
            picking(cold=lambda logits: logits.argmax(-1, keepdim=True)),
            r"\(3, 1\) instead of \(3,\)",
        ),
    },
    right={"usual": picking(), "Gumbel": by_gumbel, "cumulation": by_cumulation},
    borrowed=lambda logits, temperature, top_k, generator: pick_next(
        logits, temperature, top_k, generator
    ),
)

# ---------------------------------------------------------------- greedy answers


def stub_generate(model, prompts, stop=(0, 1), max_new=None): ...


def one_by_one(
    choose=lambda logits: int(logits.argmax()),
    leave=True,
    own_stop=None,
    change=lambda p, new: new,
    more=0,
):
    """A row at a time, with parts to be exchanged for wrong ones."""

    @torch.no_grad()
    def answer(model, prompts, stop=(0, 1), max_new=None):
        if leave:
            model.eval()
        continuations = []
        for prompt in prompts:
            ids, new = list(prompt), []
            limit = (99 if max_new is None else max_new) + more
            while len(new) < limit and len(ids) < model.config.block_size:
                best = choose(model(torch.tensor([ids]))[0][0, -1])
                if best in (stop if own_stop is None else own_stop):
                    break
                new.append(best)
                ids.append(best)
            continuations.append(change(prompt, new))
        return continuations

    return answer


@torch.no_grad()
def in_a_batch(model, prompts, stop=(0, 1), max_new=None, last_column=False, together=False):
    """All rows at once, each at its own end."""
    model.eval()
    block = model.config.block_size
    idx = torch.zeros(len(prompts), block, dtype=torch.long)
    longest = max(map(len, prompts))
    end = torch.tensor([longest if last_column else len(p) for p in prompts])
    for row, prompt in enumerate(prompts):
        idx[row, : len(prompt)] = torch.tensor(prompt)
    rows, done, new = (
        torch.arange(len(prompts)),
        torch.zeros(len(prompts), dtype=torch.bool),
        [[] for _ in prompts],
    )
    for _ in range(block if max_new is None else max_new):
        best = model(idx)[0][rows, end - 1].argmax(-1)
        done = done | torch.isin(best, torch.tensor(list(stop), dtype=torch.long))
        if done.all() or together and done.any():
            break
        for row in (~done).nonzero()[:, 0].tolist():
            new[row].append(best[row].item())
        done = done | (end >= block)
        idx[rows[~done], end[~done]] = best[~done]
        end = (end + 1).clamp(max=block)
    return new


def with_the_stop(model, prompts, stop=(0, 1), max_new=None):
    free, right = (
        one_by_one()(model, prompts, (), max_new),
        one_by_one()(model, prompts, stop, max_new),
    )
    return [f[: len(r) + 1] for f, r in zip(free, right, strict=True)]


GREEDY = Answers(
    stub=stub_generate,
    wrong={
        "with the prompt": (one_by_one(change=lambda p, new: p + new), "prompts are given back"),
        "with the stop": (with_the_stop, "id that stops is part"),
        "together": (
            lambda *a, **k: in_a_batch(*a, **k, together=True),
            "each row stops for itself",
        ),
        "no stop": (one_by_one(own_stop=()), "does not stop"),
        "0 and 1": (one_by_one(own_stop=(0, 1)), "whatever stop says"),
        "first lost": (one_by_one(change=lambda p, new: new[1:]), "first new id is lost"),
        "last column": (lambda *a, **k: in_a_batch(*a, **k, last_column=True), "reads pads"),
        "dropout": (one_by_one(leave=False), "dropout is on"),
        "drawn": (
            one_by_one(lambda logits: int(torch.multinomial(logits.softmax(0), 1))),
            "two calls differ",
        ),
        "least likely": (
            one_by_one(lambda logits: int(logits.argmin())),
            r"prompt 0, \[2, 3, 4\], continues",
        ),
        "one more": (one_by_one(more=1), "max_new = 2 gives 3, 3, 3"),
        "max_new ignored": (one_by_one(more=9), r"max_new = 2 gives \d+"),
        "half a block": (
            one_by_one(change=lambda p, new: new[: 6 - len(p) // 2]),
            "continues|without any stop",
        ),
        "one list": (lambda model, prompts, stop=(0, 1), max_new=None: [2, 3, 4], "list of ids"),
        "the first": (lambda model, prompts, stop=(0, 1), max_new=None: [[2, 3]], "3 prompts give"),
    },
    right={"one by one": one_by_one(), "in a batch": in_a_batch},
    borrowed=lambda model, prompts, stop=(0, 1), max_new=None: kt.generate(
        model, prompts, stop=stop, max_new=max_new
    ),
)

ANSWERS = {
    "window": WINDOW,
    "masked-loss": LOSS,
    "learning-rate": RATE,
    "greedy-answers": GREEDY,
    "next-character": NEXT,
}
TestExercises = suite("05_pretrain_finetune", ANSWERS)
TestQuizzes = quiz_suite("05_pretrain_finetune")


def test_the_slow_greedy_loop_of_the_checks_is_generates():
    for seed in range(3):
        model = randomise(GPT(kt.GPTConfig(9, 12, 1, 2, 8, dropout=0.0)), seed)
        prompts = [[2, 3], [4, 5, 6, 7, 8], [2] * 12]
        for stop, most in (((), 99), ((3, 4, 5), 99), ((), 3)):
            assert kt.generate(model, prompts, stop=stop, max_new=most) == [
                cut_at(continue_alone(model, p, most), stop) for p in prompts
            ]
