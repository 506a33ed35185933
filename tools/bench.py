"""`python tools/bench.py`: our speed beside the assignment's way, on one machine, in one run.

Training. The assignment's way: every example padded to the block of 128, batches of 128 in the
order of the file, loss on all characters, attention by the explicit formula, dropout 0.1 at its
four places, AdamW. Ours: the recipe "kt", with batches of similar length, no dropout, Muon, the
fast paths of `kt_core.runs`, compiled blocks, and bfloat16 products where the device has them. Both
train a model of 4 layers, 8 heads and 256 channels through the same `Trainer`; both count useful
characters, those that are not padding.

Answering. The assignment's way: one question at a time, always 32 characters, everything computed
again for each of them (minGPT's `sample`), attention by the explicit formula. Ours: `answer`, all
questions at once with a KV cache; what they begin with is read once, and an answer ends where the
model ends it. Both ask the shipped rope model of `wiki`.

On the corpus wiki the training rates also give hours: how long the assignment's whole recipe takes
here, and how long ours takes until it answers a quarter of the dev questions (after as many
characters as the shipped rope model had read by then, by its learning curve).
"""

from __future__ import annotations

import copy
import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import step_profile
import torch
from cyclopts import App, Parameter
from step_profile import spread, text_table

import kt_core
from kt_core.corpora.files import write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.decoding import answer
from kt_core.devices import choose_device
from kt_core.models import GPT
from kt_core.runs.checkpoints import hardware
from kt_core.runs.fast_paths import use_fast_paths
from kt_core.runs.fitting import step_hooks
from kt_core.runs.recipes import Recipe, recipe
from kt_core.trainer import Trainer
from kt_core.vocab import CharVocab
from kt_course.shipped import learning_curve, shipped
from kt_course.tools import options as opt

N_NEW = 32  # characters that the assignment generates for every question
Work = Callable[[], int]  # does one piece of work and returns its size


def bench_command(
    *,
    corpus: opt.Corpus = "bios",
    seconds: float = 300.0,
    profile_seconds: float = 60.0,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    out: Path | None = None,
) -> None:
    """Measure training and answering beside the assignment's way, on this machine.

    Args:
        seconds: Time for the comparison.
        profile_seconds: Time for the profile of a training step; 0 leaves it out.
        out: File for the figures, as JSON.
    """
    opt.check_output(out)
    figures = bench(corpus, seconds=seconds, seed=seed, device=device)
    print(table(figures), flush=True)
    if profile_seconds > 0:
        figures["costs"] = step_profile.profile_steps(seconds=profile_seconds, device=device)
        print(step_profile.table(figures["costs"]))
    if out:
        write_json(out, figures)


def bench(
    corpus: str = "bios",
    *,
    seconds: float = 300.0,
    rounds: int = 5,
    seed: int = 0,
    device: str = "auto",
    overrides: dict | None = None,
) -> dict:
    """Measure both ways, `rounds` turns each; return rates, settings and hardware, for JSON.

    Args:
        corpus: Name of a corpus with dev questions.
        seconds: Time in all, roughly, two thirds for training; a turn has at least one step.
        overrides: Settings of both recipes (a smaller model for tests).
    """
    if not seconds > 0 or rounds < 1:
        raise ValueError(f"seconds and rounds must be above 0, not {seconds} and {rounds}")
    where, texts, date = choose_device(device), load_corpus(corpus), time.strftime("%Y-%m-%d")
    if not texts.dev:
        raise ValueError(f"corpus {corpus} has no dev split: no questions to answer")
    theirs, ours = recipe("a5", **(overrides or {})), recipe("kt", **(overrides or {}))
    share = seconds / (2 * rounds)  # of one turn of either way
    steps = training_steps(theirs, texts, seed, where, is_fast=False)
    ways = dict(assignment=steps, ours=training_steps(ours, texts, seed, where, is_fast=True))
    training = alternate(ways, rounds, share * 2 / 3)
    answering, answers = measure_answers(texts, where, rounds, share / 3)
    answers |= dict(corpus=corpus, seed=seed, rounds=rounds, seconds=seconds)
    return dict(
        **answers,
        date=date,
        training=training,
        answering=answering,
        to_a_quarter=hours_to_a_quarter(theirs, texts, training) if corpus == "wiki" else None,
        units=dict(training="useful characters per second", answering="questions per second"),
        settings=dict(assignment=dataclasses.asdict(theirs), ours=dataclasses.asdict(ours)),
        **machine(where),
    )


def measure_answers(
    texts: Corpus, where: torch.device, rounds: int, share: float
) -> tuple[dict, dict]:
    """Measure the rates of both ways to answer; return them, and what was asked and generated."""
    questions = [question for question, _ in texts.dev]
    model, vocab, _ = shipped("wiki", "rope", "finetuned", where)
    fast_model = use_fast_paths(copy.deepcopy(model))
    ways = dict(
        assignment=ask_one_by_one(model, vocab, questions),
        ours=lambda: len(answer(fast_model, vocab, questions)),
    )
    length = statistics.mean(map(len, answer(fast_model, vocab, questions)))
    answers = dict(questions=len(questions), parameters=model.n_parameters())
    answers |= dict(new_characters=dict(assignment=N_NEW, ours=round(length + 1, 1)))
    return alternate(ways, rounds, share), answers


def machine(where: torch.device) -> dict:
    """Hardware, threads and versions."""
    versions = dict(kt_core=kt_core.__version__, torch=torch.__version__)
    name, threads = processor_name(), torch.get_num_threads()
    return dict(hardware=hardware(where), processor=name, threads=threads, versions=versions)


def alternate(ways: dict[str, Work], rounds: int, share: float) -> dict:
    """Measure the rates of both ways in turns of `share` seconds: a slower machine slows both.

    The first calls of each are a warm-up, in which blocks are compiled.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for work in list(ways.values()) * 3:
        work()
    for turn in range(rounds):
        for name in list(ways) if turn % 2 == 0 else reversed(list(ways)):
            rates[name].append(step_profile.rate(ways[name], share))
    ratios = [fast / slow for slow, fast in zip(rates["assignment"], rates["ours"], strict=True)]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {name: step_profile.summary(values) for name, values in rates.items()} | dict(
        ratio=round(medians["ours"] / medians["assignment"], 2),
        ratio_low=round(min(ratios), 2),
        ratio_high=round(max(ratios), 2),
    )


def training_steps(
    chosen: Recipe, corpus: Corpus, seed: int, device: torch.device, is_fast: bool
) -> Work:
    """Train one step per call, data and optimiser included; its size is the useful characters."""
    torch.manual_seed(seed)
    size = len(corpus.vocab), "vanilla"
    model = chosen.new_model(*size) if is_fast else GPT(chosen.model_config(*size))
    config, options = chosen.phase("pretrain", seed=seed, device=str(device))
    data = chosen.pretrain_data(corpus, corpus.vocab, seed)
    hooks = step_hooks(**options) if is_fast else []
    trainer = Trainer(model, data, config, hooks=hooks)
    trainer.start()

    def batches() -> Iterator[tuple]:
        while True:
            for batch in trainer.batches():
                yield batch
                trainer.step += 1

    stream = batches()

    def train() -> int:
        before = trainer.characters
        trainer.train_step(next(stream)).item()  # waits for the result, on a GPU too
        return trainer.characters - before

    return train


def ask_one_by_one(model: GPT, vocab: CharVocab, questions: list[str]) -> Work:
    """The assignment's way: the next question per call, everything computed for each character."""
    device, stream = model.head.weight.device, cycle(questions)

    @torch.no_grad()
    def ask() -> int:
        x = torch.tensor([[*vocab.encode(next(stream)), vocab.mask_id]], device=device)
        for _ in range(N_NEW):
            logits, _ = model(x[:, -model.config.block_size :])
            x = torch.cat([x, logits[:, -1].softmax(dim=-1).topk(1).indices], dim=1)
        vocab.decode(x[0].tolist())
        return 1

    return ask


def hours_to_a_quarter(theirs: Recipe, corpus: Corpus, training: dict) -> dict | None:
    """Hours at the measured rates: the assignment's whole pretraining, and ours to 25 % of dev."""
    curve = (row for row in learning_curve("wiki", "rope") if row["phase"] == "pretrain")
    first = next((row for row in curve if row.get("dev", 0) >= 0.25), None)
    if first is None:
        return None
    data, phase = theirs.pretrain_data(corpus, corpus.vocab), theirs.pretrain
    characters = phase.epochs * sum(len(data.tokens(i, 0)[0]) for i in range(len(data)))
    hours = characters / training["assignment"]["median"] / 3600
    our_hours = first["characters"] / training["ours"]["median"] / 3600
    return dict(
        steps=round(phase.epochs) * -(-len(corpus.documents) // phase.batch_size),
        hours=round(hours, 2),
        characters=first["characters"],
        our_hours=round(our_hours, 4),
        ratio=round(hours / our_hours, 1),
        reached=dict(dev=first["dev"], seconds=first["seconds"]),
    )


def table(figures: dict) -> str:
    """Write what `bench` measured: median (lowest-highest) of each way, ratio of the medians."""
    rows = []
    for work in ("training", "answering"):
        rates = figures[work]
        each = [spread(**rates[way]) for way in ("assignment", "ours")]
        rows.append([f"{work}, {figures['units'][work]}", *each, f"{rates['ratio']:.1f}"])
    lines = [text_table(["", "assignment", "ours", "ratio"], rows)]
    if quarter := figures.get("to_a_quarter"):
        lines.append(
            f"the assignment's {quarter['steps']:,} steps: {quarter['hours']:.1f} hours; ours to "
            f"25 % of dev: {60 * quarter['our_hours']:.0f} minutes; ratio {quarter['ratio']:.1f}"
        )
    turns = f"medians (lowest-highest) of {figures['rounds']} turns; {figures['hardware']}"
    return "\n".join([*lines, turns])


def processor_name() -> str:
    """The processor's name where the system has it."""
    try:
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(row.split(":", 1)[1].strip() for row in rows if row.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    app = App(default_command=bench_command, default_parameter=Parameter(negative=()))
    app(argv, result_action="return_value")


if __name__ == "__main__":
    main()
