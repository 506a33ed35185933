"""Training replay: a run recorded step by step, to be looked at step by step.

The replay that ships is what record_replay().save("data/results/replay-tiny.npz") writes.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from kt_core.blocks import GPTConfig
from kt_core.corpora.files import write_atomically
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.corpora.paths import data_dir
from kt_core.decoding import answer
from kt_core.evaluation import Score, exact_match, london_baseline
from kt_core.models import GPT
from kt_core.runs.checkpoints import hardware
from kt_core.runs.fitting import fit
from kt_core.runs.recipes import Recipe, recipe
from kt_core.vocab import MASK
from kt_course.explorers.beam_search import top_answers
from kt_course.explorers.panels import (
    HIGH,
    LINE,
    Chart,
    answer_bars,
    chart,
    gallery,
    head_map,
    on_text,
    role,
    scale,
)
from kt_course.explorers.reading import Reading, explain, read
from kt_course.explorers.shell import Choice, Slider, View, explorer, page
from kt_course.figures.style import BLUE, VERMILION

# Small enough to train in seconds, large enough to show the plateau, the drop and recall.
TINY_CORPUS = "bios:people=60,attributes=birth+work"
TINY = {"model.n_layer": 2, "model.n_head": 4, "model.n_embd": 64}
BYTE_STEPS = 254  # a file holds square roots of weights in this many steps


@dataclass(frozen=True, eq=False)
class Replay:
    """A recorded run.

    Attributes:
        title, text, right: Of the run; a question and ⁇; its correct answer.
        frames: One per recorded step: {"step", "dev", "answers": [[text, probability], ...]}.
        curve: (step, loss in nats) pairs, more of them than frames.
        london: The score of always answering London, {"correct", "total"}.
        maps: For each layer the weights while `text` is read, (n_frames, n_head, T_query, T_key);
            [] if none were recorded.
        config: The model's.
        made: Recipe, seed, hardware and what else it was recorded with.
    """

    title: str
    text: str
    right: str | None
    frames: list[dict]
    curve: list[list[float]]
    london: dict | None
    maps: list[np.ndarray]
    config: dict | None = None
    made: dict | None = None

    def save(self, path: str | Path) -> Path:
        """Write it as one small file (.npz), with the weights rounded."""
        about = {name: value for name, value in vars(self).items() if name != "maps"}
        arrays = {
            f"layer{i}": np.round(BYTE_STEPS * np.sqrt(weights)).astype(np.uint8)
            for i, weights in enumerate(self.maps)
        }
        content = io.BytesIO()
        np.savez_compressed(
            content, about=np.array(json.dumps(about, ensure_ascii=False)), **arrays
        )
        write_atomically(path, content.getvalue())
        return Path(path)


def load_replay(path: str | Path) -> Replay:
    """Read a replay that `Replay.save` wrote; ValueError if the file is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            layers = [file[f"layer{i}"] for i in range(len(file.files) - 1)]
        maps = [(layer / BYTE_STEPS).astype(np.float32) ** 2 for layer in layers]
        return Replay(**about, maps=maps)
    except FileNotFoundError:
        advice = f"record_replay(...).save({str(path)!r}) writes one"
        raise ValueError(f"{path}: no such replay; {advice}") from None
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no replay that Replay.save wrote: {error}") from None


def shipped_replay() -> Replay:
    """Read the replay that ships with the project: what `record_replay()` made."""
    return load_replay(data_dir() / "results" / "replay-tiny.npz")


def record_replay(
    corpus: Corpus | str = TINY_CORPUS,
    variant: str = "rope",
    settings: Recipe | None = None,
    *,
    steps: int = 800,
    frames: int = 20,
    asked: int = 0,
    seed: int = 0,
    device: str = "cpu",
) -> Replay:
    """Train a small model for some seconds, and record it before the first step and on the way.

    By default it recalls most of the 30 people of dev and test at the end, whose questions were
    not in the training data.

    Args:
        corpus, variant: What to train on, and which model.
        settings: The recipe of pretraining; `quick` with a tiny model if None.
        steps, frames: Optimiser steps, and how many evenly spaced ones to record.
        asked: The number of the dev person whose answers and maps are recorded.
        seed, device: Of the training.
    """
    name = corpus if isinstance(corpus, str) else corpus.name
    corpus = load_corpus(corpus) if isinstance(corpus, str) else corpus
    if not 0 <= asked < len(corpus.dev):
        raise ValueError(f"asked must lie in 0 ... {len(corpus.dev) - 1}, not {asked}")
    if not 1 <= frames <= steps:
        raise ValueError(f"frames must lie in 1 ... steps ({steps}), not {frames}")
    settings = settings or recipe("quick", **TINY)
    vocab, (question, right) = corpus.vocab, corpus.dev[asked]
    pairs = [pair for pair in [*corpus.dev, *corpus.test] if pair[1] is not None][:200]
    recorded, maps = [], []

    def record(model: GPT) -> dict[str, float]:
        answers = answer(model, vocab, [q for q, _ in pairs], max_new=32)
        dev = exact_match(answers, [gold for _, gold in pairs]).accuracy
        best = top_answers(model, vocab, question, 3, max_new=32)
        recorded.append(dict(dev=dev, answers=[[text, round(p, 4)] for text, p in best]))
        maps.append([layer.weights for layer in read(model, vocab, question + MASK).layers])
        return {"dev": dev}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = settings.new_model(len(vocab), variant).to(device)
        record(model)
        every = -(-steps // frames)
        log_every = max(1, every // 4)
        config, options = settings.phase(
            "pretrain", seed=seed, device=device, steps=steps, eval_every=every, log_every=log_every
        )
        data = settings.pretrain_data(corpus, vocab, seed)
        history = fit(model, data, config, evaluate=record, title="replay", **options)
    moments = [0, *[row["step"] for row in history if "dev" in row]]
    size = f"{len(corpus.documents)} lines, {model.n_parameters():,} parameters"
    made = dict(corpus=name, variant=variant, recipe=asdict(settings), steps=steps, frames=frames)
    return Replay(
        title=f"{variant} on {corpus.name}, {size}",
        text=question + MASK,
        right=right,
        frames=[dict(step=step, **row) for step, row in zip(moments, recorded, strict=True)],
        curve=[[row["step"], round(row["loss"], 4)] for row in history],
        london=asdict(london_baseline(pairs)),
        maps=[np.stack(layer) for layer in zip(*maps, strict=True)],
        config=asdict(model.config),
        made=made | dict(asked=asked, seed=seed, hardware=hardware(device)),
    )


def replay_of_curve(
    title: str, rows: Sequence[Mapping[str, float]], london: Score | None = None
) -> Replay:
    """Return a run of which only the curve is left (`lesson.curve()`), with its phases in a row."""
    curve, frames, before, last = [], [], 0, 0
    phase = rows[0].get("phase") if rows else None
    for row in rows:
        if row.get("phase") != phase:
            phase, before = row.get("phase"), last
        last = before + row["step"]
        curve.append([last, row["loss"]])
        if "dev" in row:
            frames.append(dict(step=last, dev=row["dev"], answers=[]))
    if not frames:
        raise ValueError(f"{title}: no row of this curve has a dev accuracy")
    return Replay(title, "", None, frames, curve, None if london is None else asdict(london), [])


# ---------------------------------------------------------------- the explorer


def explore_replay(replays: Replay | Sequence[Replay]) -> Any:
    """Look at a recorded run (or several) at each of its steps.

    It shows the loss, the dev accuracy, one person's answers and one head's map. A replay without
    maps (`replay_of_curve`) shows its loss and its accuracy.
    """
    runs = {run.title: run for run in ([replays] if isinstance(replays, Replay) else replays)}
    if not runs:
        raise ValueError("explore_replay needs at least one replay: record_replay() makes one")

    @lru_cache(maxsize=64)
    def reading_of(title: str, moment: int) -> Reading:
        run = runs[title]
        weights = [layer[moment] for layer in run.maps]
        return explain(GPTConfig(**run.config), run.text, weights)

    @lru_cache(maxsize=len(runs))
    def charts_of(title: str) -> tuple[Chart, Chart]:
        return make_charts(runs[title])

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        run = runs[state.get("run", next(iter(runs)))]
        moment = min(state["moment"], len(run.frames) - 1)
        charts = charts_of(run.title)
        if not run.maps:
            return draw_curve(run, moment, charts)
        return draw_moment(run, moment, charts, reading_of(run.title, moment), state)

    first = next(iter(runs.values()))
    controls: dict[str, Any] = {}
    if len(runs) > 1:
        controls["run"] = Choice("run", list(runs))
    controls["moment"] = Slider("moment", len(first.frames) - 1, len(first.frames) - 1)
    if with_maps := [run for run in runs.values() if run.maps]:
        most_layers = max(len(run.maps) for run in with_maps)
        most_heads = max(layer.shape[1] for run in with_maps for layer in run.maps)
        controls["layer"] = Slider("layer", len(with_maps[0].maps) - 1, most_layers - 1)
        controls["head"] = Slider("head", 0, most_heads - 1)
    return explorer("training replay", draw, controls)


def make_charts(run: Replay) -> tuple[Chart, Chart]:
    """Draw the loss and the accuracy over the steps."""

    def loss(ax: Axes) -> None:
        if run.curve:
            ax.plot(*zip(*run.curve, strict=True), color=BLUE)
        ax.set(xlabel="step", ylabel="nats per character", ylim=(0, None))

    def accuracy(ax: Axes) -> None:
        steps = [frame["step"] for frame in run.frames]
        ax.plot(steps, [100 * frame["dev"] for frame in run.frames], color=BLUE, marker="o", ms=3.5)
        if run.london:
            london = Score(**run.london).accuracy
            ax.axhline(100 * london, color=VERMILION, ls="--", lw=1.2, label="always London")
            ax.legend(fontsize=8, loc="upper left")
        ax.set(xlabel="step", ylabel="correct answers (%)", ylim=(0, 104))

    title = "People whose question was held out"
    return chart(4.2, 2.5, loss, "Loss"), chart(4.2, 2.5, accuracy, title)


def put_charts(ax: Axes, run: Replay, frame: dict, charts: tuple[Chart, Chart]) -> str:
    """Put both charts on a page, with marks at the frame's step; return a sentence about it."""
    step, accuracy = frame["step"], 100 * frame["dev"]
    nearest = min(run.curve, key=lambda point: abs(point[0] - step), default=None)
    charts[0].put(ax, 0.15, 0.1, [tuple(nearest)] if nearest else [])
    charts[1].put(ax, 4.6, 0.1, [(step, accuracy)])
    return f"Step {step}: {accuracy:.0f} % of the held-out questions are answered correctly"


def draw_curve(run: Replay, moment: int, charts: tuple[Chart, Chart]) -> View:
    """Draw one moment of a run without maps."""
    figure, ax = page(9, 2.7)
    note = put_charts(ax, run, run.frames[moment], charts)
    limits = dict(moment=len(run.frames) - 1)
    return View(figure, f"{note}. This run has its curve alone.", limits=limits)


def draw_moment(
    run: Replay, moment: int, charts: tuple[Chart, Chart], reading: Reading, state: Mapping
) -> View:
    """Draw one moment of a run: charts, answers, and the map of one head."""
    frame = run.frames[moment]
    i = min(state["layer"], len(reading.layers) - 1)
    layer = reading.layers[i]
    head = min(state["head"], len(layer.weights) - 1)
    query = layer.writer(len(run.text))
    figure, ax = page(9, 7.05 + HIGH * -(-len(run.text) // LINE))
    note = put_charts(ax, run, frame, charts)
    ax.text(0.75, 2.95, f"Layer {i}, head {head}, at step {frame['step']}", fontsize=11)
    grid = head_map(ax, layer, head, query, 0.75, 3.1, 3.0)
    answers = "What it answers" + (f" (correct: {run.right})" if run.right else "")
    ax.text(4.9, 2.95, answers, fontsize=11)
    answer_bars(ax, [(text, p) for text, p in frame["answers"]], run.right, 4.7, 3.1, 4.0)
    heads = gallery(ax, reading, i, head, 5.55, 4.25, 3.1, 1.6)
    title = "What ⁇ attends to as it writes the first character of the answer"
    ax.text(0.3, 6.72, title, fontsize=10)
    weights, known = layer.over_text(layer.weights[head, query], query, len(run.text))
    on_text(ax, reading.signs, weights, known, int(layer.queries.at[query]), 0.3, 6.8)
    scale(ax, 5.55, 6.0, 2.9)
    text, p = frame["answers"][0]
    note += f"; {run.text.rstrip(MASK)} is answered by “{text}” ({100 * p:.0f} %)."
    note += f" Layer {i}, head {head}: {role(layer, head)}."
    last = len(run.frames) - 1, len(reading.layers) - 1, len(layer.weights) - 1
    limits = dict(zip(("moment", "layer", "head"), last, strict=True))
    grids = [replace(grid, click=(None, None)), heads]
    return View(figure, note, grids=grids, limits=limits, values=dict(layer=i, head=head))
