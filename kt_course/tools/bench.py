"""How fast we are beside the assignment's way of doing it: both on one machine, in one run, turn by turn.

Training. The assignment's way is rebuilt from our parts, and does what its code does: every example padded
to the block of 128, batches of 128 in the order of the file, a prefix of 4 ... 112 characters with a random
span, loss on all characters, attention by the explicit formula (softmax of a T x T matrix), dropout 0.1 at
its four places, AdamW, gradients clipped at 1. On a CPU a model with dropout takes that explicit path by
itself. Ours: recipe "kt", with length-bucketed batches, no dropout, Muon, and bfloat16 products where the
device has them (the fused kernel elsewhere). Both train a 4 x 8 x 256 model and both count useful characters:
those that are no padding.

Answering. The assignment's way: one question at a time, 32 characters always, everything computed anew for
each (minGPT's `sample`), attention by the explicit formula. Ours: `answer`, all questions at once, keys and
values kept, over when the last answer has ended. The slow way answers one question after the other until its
turn is over. Both ask the same untrained model. Its answers would end where chance has it; so the two signs
that end one are made impossible, and the fast way is held to the length of the longest gold answer and its
closing sign: what a trained model takes.

On the corpus wiki the two training rates also give what matters in the end: how long the whole recipe of the
assignment takes here, and how long ours takes until a quarter of the dev questions is answered (the characters
that the shipped rope model had read by then, by its learning curve).
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
from torch import nn

import kt_core
from kt_core.attention import Dropout, MultiHeadAttention, record_attention
from kt_core.corpora.files import write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.datasets import batches
from kt_core.decoding import answer
from kt_core.models import GPT
from kt_core.runs.checkpoints import hardware
from kt_core.runs.devices import choose_device, mixed_precision
from kt_core.runs.recipes import Recipe, recipe
from kt_core.vocab import CharVocab
from kt_course.shipped import kept_curve
from kt_course.tools.ablation import characters_an_epoch

NEW = 32  # characters that the assignment decodes for every question


def bench(
    corpus: str = "bios",
    *,
    seconds: float = 300.0,
    rounds: int = 5,
    seed: int = 0,
    device: str = "auto",
    overrides: dict | None = None,
) -> dict:
    """Measure both ways, `rounds` turns each, in about `seconds` in all; returns what `kt bench` writes.

    Rates are a second: useful characters, questions. Two thirds of the time go to training. `overrides` sets fields
    of both recipes (a smaller model for tests). A turn has at least one step, or question, however short the time.
    """
    if not seconds > 0 or rounds < 1:
        raise ValueError(
            f"seconds must be above 0 and rounds at least 1, not {seconds} and {rounds}"
        )
    where, data, started = choose_device(device), load_corpus(corpus), time.strftime("%Y-%m-%d")
    if not data.dev:
        raise ValueError(f"corpus {corpus} has no dev split: no questions to answer")
    theirs, ours = (
        recipe("a5", **(overrides or {})),
        recipe("kt", **{k: v for k, v in (overrides or {}).items() if k != "dropout"}),
    )
    share = seconds / (2 * rounds)  # seconds a turn of either way, both kinds of work
    training = _alternate(
        {
            "assignment": _training(theirs, data, seed, where, _as_written),
            "ours": _training(ours, data, seed, where),
        },
        rounds,
        share * 2 / 3,
    )
    torch.manual_seed(seed)
    model = _endless(GPT(ours.model_config(len(data.vocab), "vanilla"))).to(where).eval()
    questions = [question for question, _ in data.dev]
    longest = min(NEW, max(len(gold or NEW * " ") for _, gold in data.dev) + 1)
    ask = {
        "assignment": _one_by_one(model, data.vocab, questions),
        "ours": _all_at_once(model, data.vocab, questions, longest),
    }
    answering = _alternate(ask, rounds, share / 3)
    quarter = to_a_quarter(theirs, data, training) if corpus == "wiki" else None
    return dict(
        corpus=corpus,
        seed=seed,
        rounds=rounds,
        seconds=seconds,
        questions=len(questions),
        new_characters=dict(assignment=NEW, ours=longest),
        date=started,
        training=training,
        answering=answering,
        to_a_quarter=quarter,
        units=dict(training="useful characters a second", answering="questions a second"),
        settings={name: _told(each) for name, each in (("assignment", theirs), ("ours", ours))},
        parameters=model.n_parameters(),
        hardware=hardware(where),
        processor=_processor(),
        threads=torch.get_num_threads(),
        versions=dict(
            kt_core=kt_core.__version__, torch=torch.__version__, python=platform.python_version()
        ),
    )


def to_a_quarter(theirs: Recipe, corpus: Corpus, training: dict) -> dict | None:
    """Hours at the measured rates: the assignment's whole pretraining, ours until 25 % of dev; None without a curve."""
    reached = (
        row
        for row in kept_curve("wiki", "rope")
        if row["phase"] == "pretrain" and row.get("dev", 0) >= 0.25
    )
    first = next(reached, None)
    if first is None:
        return None
    whole = theirs.pretrain_epochs * characters_an_epoch(theirs, corpus)
    hours = whole / training["assignment"]["median"] / 3600
    ours = first["characters"] / training["ours"]["median"] / 3600
    steps = round(theirs.pretrain_epochs) * -(-len(corpus.documents) // theirs.pretrain_batch_size)
    return dict(
        steps=steps,
        hours=round(hours, 2),
        characters=first["characters"],
        our_hours=round(ours, 4),
        ratio=round(hours / ours, 1),
        reached=dict(dev=first["dev"], seconds=first["seconds"]),
    )


def table(told: dict) -> str:
    """What `bench` measured, a line each way: median, spread, ratio of the medians."""
    lines = [f"{'':38}{'assignment':>26}{'ours':>26}{'ratio':>8}"]
    for work in ("training", "answering"):
        cells = [told[work][way] for way in ("assignment", "ours")]
        shown = [f"{c['median']:,.1f} ({c['low']:,.1f}-{c['high']:,.1f})" for c in cells]
        lines.append(
            f"{work + ', ' + told['units'][work]:38}{shown[0]:>26}{shown[1]:>26}{told[work]['ratio']:>8.1f}"
        )
    if quarter := told.get("to_a_quarter"):
        lines.append(
            f"the assignment's {quarter['steps']:,} steps: {quarter['hours']:.1f} hours; ours to 25 % of dev "
            f"({quarter['characters']:,} characters): {60 * quarter['our_hours']:.0f} minutes; ratio {quarter['ratio']:.1f}"
        )
    return "\n".join(
        [*lines, f"medians (lowest-highest) of {told['rounds']} turns; {told['hardware']}"]
    )


def write_bench(told: dict, path: str | Path) -> Path:
    """Keep it as JSON."""
    write_json(path, told)
    return Path(path)


def _alternate(ways: dict[str, Callable[[], int]], rounds: int, share: float) -> dict:
    """Rates of both ways: each works for `share` seconds in turn, so that a drift of the machine meets both.

    A way does one unit of work a call and returns how much that was. The first call of each is a warm-up.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for turn in range(rounds):
        for name in list(ways) if turn % 2 == 0 else reversed(list(ways)):
            done, began, spent = 0, time.perf_counter(), 0.0
            while not done or spent < share:
                done += ways[name]()
                spent = time.perf_counter() - began
            rates[name].append(done / spent)
    told = {
        name: dict(
            median=round(statistics.median(found), 2),
            low=round(min(found), 2),
            high=round(max(found), 2),
            rates=[round(rate, 2) for rate in found],
        )
        for name, found in rates.items()
    }
    by_turn = [fast / slow for slow, fast in zip(rates["assignment"], rates["ours"], strict=True)]
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["assignment"])
    return told | dict(
        ratio=round(ratio, 2), ratio_low=round(min(by_turn), 2), ratio_high=round(max(by_turn), 2)
    )


def _as_written(model: GPT) -> GPT:
    """The model as the assignment's code computes it: the explicit formula of attention, torch's own dropout."""
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.recorder = lambda weights: None  # whoever records gets the formula
        for name, child in module.named_children():
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.p))
    return model


def _training(
    chosen: Recipe,
    corpus: Corpus,
    seed: int,
    device: torch.device,
    change: Callable[[GPT], GPT] = lambda model: model,
) -> Callable[[], int]:
    """Something that trains one step a call and returns its useful characters, data and optimiser included."""
    torch.manual_seed(seed)
    model = change(GPT(chosen.model_config(len(corpus.vocab), "vanilla"))).to(device).train()
    c = chosen.pretrain_config(seed=seed)
    optimizers = c.optimizers(model)
    data = chosen.pretrain_data(corpus, corpus.vocab, seed)

    def stream() -> Iterator:
        for epoch in count():
            yield from batches(data, c.batch_size, seed, epoch, bucket=c.bucket, shuffle=c.shuffle)

    found = stream()
    mixed = mixed_precision(c.precision, device)

    def step() -> int:
        x, y = next(found)
        with mixed:
            _, loss = model(x.to(device), y.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()  # the work is done when its result is here, on a GPU too
        return int((x != 0).sum())

    return step


@torch.no_grad()
def _endless(model: GPT) -> GPT:
    """The model with logits of 0 for the two signs that end an answer: some other character always scores higher."""
    model.head.weight[:2] = 0
    return model


def _one_by_one(model: GPT, vocab: CharVocab, questions: list[str]) -> Callable[[], int]:
    """The assignment's decoding: the next question a call, NEW greedy characters, everything recomputed each time."""
    device, turn = model.head.weight.device, count()

    @torch.no_grad()
    def ask() -> int:
        prompt = [*vocab.encode(questions[next(turn) % len(questions)]), vocab.mask_id]
        x = torch.tensor([prompt], device=device)
        with record_attention(model):  # the explicit formula, as in training
            for _ in range(NEW):
                logits, _ = model(x[:, -model.config.block_size :])
                x = torch.cat([x, logits[:, -1].softmax(dim=-1).topk(1).indices], dim=1)
        vocab.decode(x[0].tolist())
        return 1

    return ask


def _all_at_once(
    model: GPT, vocab: CharVocab, questions: list[str], longest: int
) -> Callable[[], int]:
    """Ours: all questions a call, with the cache; every answer has `longest` characters."""

    def ask() -> int:
        return len(answer(model, vocab, questions, max_new=longest))

    return ask


def _told(chosen: Recipe) -> dict:
    names = (
        "name",
        "n_layer",
        "n_head",
        "n_embd",
        "block_size",
        "dropout",
        "crop",
        "spans",
        "loss",
        "bucket",
        "shuffle",
        "optimizer",
        "pretrain_batch_size",
        "mixed_pairs",
        "precision",
    )
    return {name: getattr(chosen, name) for name in names}


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(row.split(":", 1)[1].strip() for row in rows if row.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
