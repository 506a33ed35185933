"""Training replay: a run that was recorded step by step, to be scrubbed through.

The replay that ships was made by record_replay().save("data/results/replay-tiny.npz"), defaults and all.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from kt_core.corpora.files import write_atomically
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.corpora.paths import data_dir
from kt_core.decoding import answer
from kt_core.evaluation import Score, exact_match, london_baseline
from kt_core.models import GPT, GPTConfig
from kt_core.runs.beam import top_answers
from kt_core.runs.checkpoints import hardware
from kt_core.runs.recipes import Recipe, recipe
from kt_core.trainer import Trainer
from kt_core.vocab import MASK
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

# Small enough to be trained in seconds, large enough that plateau, drop and recall can be seen.
TINY_CORPUS = "bios:people=60,attributes=birth+work"
TINY = dict(n_layer=2, n_head=4, n_embd=64)
_STEPS = 254  # weights are kept as bytes, square roots in 254 steps


@dataclass(frozen=True, eq=False)
class Replay:
    """A recorded run.

    frames: what was kept at each of the chosen steps, {"step", "dev", "answers": [[text, probability], ...]}.
    curve: (step, loss in nats) pairs, more of them. london: always answering London, {"correct", "total"}. maps: for each
    layer (n_frames, n_head, T_query, T_key) weights in 0 ... 1 while `text`, a question and ⁇, is read; [] if none is kept.
    config: the model's. made: recipe, seed, hardware and what else it was recorded with.
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
        """Write it as one small file (.npz); weights are rounded to square roots in 254 steps."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "maps"}
        arrays = {
            f"layer{i}": np.round(_STEPS * np.sqrt(m)).astype(np.uint8)
            for i, m in enumerate(self.maps)
        }
        held = io.BytesIO()
        np.savez_compressed(held, about=np.array(json.dumps(told, ensure_ascii=False)), **arrays)
        write_atomically(path, held.getvalue())
        return Path(path)


def load_replay(path: str | Path) -> Replay:
    """A replay that `Replay.save` wrote; ValueError if the file is none."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            about = json.loads(str(kept["about"]))
            layers = [kept[f"layer{i}"] for i in range(len(kept.files) - 1)]
        return Replay(**about, maps=[(m / _STEPS).astype(np.float32) ** 2 for m in layers])
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such replay; record_replay(...).save({str(path)!r}) writes one"
        ) from None
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no replay that Replay.save wrote: {error}") from None


def shipped_replay() -> Replay:
    """The replay that ships with the project: what `record_replay()` made."""
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
    """Train a small model for some seconds and keep, at `frames` evenly spaced steps and before the first, what shows.

    settings: the recipe of pretraining; the `quick` one with 2 layers of 4 heads and 64 channels if None.
    asked: the number of the dev person whose answers and maps are kept.
    The defaults recall most of the dev people (30, dev and test together) at the end, whose questions no training saw.
    """
    named = corpus if isinstance(corpus, str) else corpus.name
    corpus = load_corpus(corpus) if isinstance(corpus, str) else corpus
    held_back = [(q, told) for q, told in [*corpus.dev, *corpus.test] if told is not None]
    if not 0 <= asked < len(corpus.dev):
        raise ValueError(f"asked must lie in 0 ... {len(corpus.dev) - 1}, not {asked}")
    if not 1 <= frames <= steps:
        raise ValueError(f"frames must lie in 1 ... steps ({steps}), not {frames}")
    held_back = held_back[:200]
    chosen = settings or recipe("quick", **TINY)
    vocab, (question, right) = corpus.vocab, corpus.dev[asked]
    kept, maps = [], []

    def look(model: GPT) -> dict[str, float]:
        told = answer(model, vocab, [q for q, _ in held_back], max_new=32)
        dev = exact_match(told, [gold for _, gold in held_back]).accuracy
        best = top_answers(model, vocab, question, 3, max_new=32)
        kept.append(dict(dev=dev, answers=[[text, round(p, 4)] for text, p in best]))
        maps.append([layer.weights for layer in read(model, vocab, question + MASK).layers])
        return {"dev": dev}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(chosen.model_config(len(vocab), variant)).to(device)
        look(model)
        every = -(-steps // frames)
        config = chosen.pretrain_config(
            seed=seed, device=device, steps=steps, eval_every=every, log_every=max(1, every // 4)
        )
        history = Trainer(
            model, chosen.pretrain_data(corpus, vocab, seed), config, evaluate=look, title="replay"
        ).fit()
    at = [0, *[row["step"] for row in history if "dev" in row]]
    return Replay(
        title=f"{variant} on {corpus.name}, {len(corpus.documents)} lines, {model.n_parameters():,} parameters",
        text=question + MASK,
        right=right,
        frames=[dict(step=step, **frame) for step, frame in zip(at, kept, strict=True)],
        curve=[[row["step"], round(row["loss"], 4)] for row in history],
        london=asdict(london_baseline(held_back)),
        maps=[np.stack(each) for each in zip(*maps, strict=True)],
        config=asdict(model.config),
        made=dict(
            corpus=named,
            variant=variant,
            recipe=asdict(chosen),
            steps=steps,
            frames=frames,
            asked=asked,
            seed=seed,
            hardware=hardware(device),
        ),
    )


def replay_of_curve(
    title: str, rows: Sequence[Mapping[str, float]], london: Score | None = None
) -> Replay:
    """What is left of a run whose curve alone was kept (`lesson.curve()`): loss and dev accuracy, phases in a row."""
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


def _charts(replay: Replay) -> tuple[Chart, Chart]:
    """Loss and accuracy over the steps."""

    def loss(ax: Axes) -> None:
        if replay.curve:
            ax.plot(*zip(*replay.curve, strict=True), color=BLUE)
        ax.set(xlabel="step", ylabel="nats a character", ylim=(0, None))

    def accuracy(ax: Axes) -> None:
        steps, right = zip(
            *[(frame["step"], 100 * frame["dev"]) for frame in replay.frames], strict=True
        )
        ax.plot(steps, right, color=BLUE, marker="o", ms=3.5)
        if replay.london:
            london = Score(**replay.london).accuracy
            ax.axhline(100 * london, color=VERMILION, ls="--", lw=1.2, label="always London")
            ax.legend(fontsize=8, loc="upper left")
        ax.set(xlabel="step", ylabel="right answers (%)", ylim=(0, 104))

    return chart(4.2, 2.5, loss, "Loss"), chart(
        4.2, 2.5, accuracy, "People whose question was held back"
    )


def _loss_at(replay: Replay, step: int) -> list[tuple[float, float]]:
    """The point of the loss curve nearest to a step; none if no curve was kept."""
    return (
        [tuple(min(replay.curve, key=lambda point: abs(point[0] - step)))] if replay.curve else []
    )


def explore_replay(replays: Replay | Sequence[Replay]) -> Any:
    """Scrub through the steps of a recorded run (or of several): loss, dev accuracy, one person's answer, one head's map.

    A replay without maps (`replay_of_curve`) shows its loss and its accuracy.
    """
    runs = {run.title: run for run in ([replays] if isinstance(replays, Replay) else replays)}
    if not runs:
        raise ValueError("explore_replay needs at least one replay: record_replay() makes one")

    @lru_cache(maxsize=64)
    def reading_of(title: str, at: int) -> Reading:
        run = runs[title]
        return explain(GPTConfig(**run.config), run.text, [layer[at] for layer in run.maps])

    @lru_cache(maxsize=len(runs))
    def charts_of(title: str) -> tuple[Chart, Chart]:
        return _charts(runs[title])

    def progress(ax: Axes, run: Replay, frame: dict) -> None:
        loss, accuracy = charts_of(run.title)
        loss.put(ax, 0.15, 0.1, _loss_at(run, frame["step"]))
        accuracy.put(ax, 4.6, 0.1, [(frame["step"], 100 * frame["dev"])])

    def draw(state: Mapping[str, Any], changed: str | None) -> View:
        run = runs[state.get("run", next(iter(runs)))]
        at = min(state["moment"], len(run.frames) - 1)
        frame = run.frames[at]
        note = f"Step {frame['step']}: {100 * frame['dev']:.0f} % of the held-back questions are answered rightly"
        if not run.maps:
            figure, ax = page(9, 2.7)
            progress(ax, run, frame)
            return View(
                figure,
                f"{note}. This run kept its curve alone.",
                limits=dict(moment=len(run.frames) - 1),
            )
        reading = reading_of(run.title, at)
        i = min(state["layer"], len(reading.layers) - 1)
        layer = reading.layers[i]
        head = min(state["head"], len(layer.weights) - 1)
        query = layer.writer(len(run.text))
        figure, ax = page(9, 7.05 + HIGH * -(-len(run.text) // LINE))
        progress(ax, run, frame)
        ax.text(0.75, 2.95, f"Layer {i}, head {head}, at step {frame['step']}", fontsize=11)
        grids = [head_map(ax, layer, head, query, 0.75, 3.1, 3.0)]
        ax.text(
            4.9,
            2.95,
            "What it answers" + (f" (right: {run.right})" if run.right else ""),
            fontsize=11,
        )
        answer_bars(ax, [(text, p) for text, p in frame["answers"]], run.right, 4.7, 3.1, 4.0)
        grids.append(gallery(ax, reading, i, head, 5.55, 4.25, 3.1, 1.6))
        ax.text(
            0.3, 6.72, "Where ⁇ looks as it writes the first character of the answer", fontsize=10
        )
        weights, seen = layer.over_text(layer.weights[head, query], query, len(run.text))
        on_text(ax, reading.signs, weights, seen, int(layer.queries.at[query]), 0.3, 6.8)
        scale(ax, 5.55, 6.0, 2.9)
        grids[0] = replace(grids[0], click=(None, None))
        said, p = frame["answers"][0]
        note += f"; {run.text.rstrip(MASK)} is answered by “{said}” ({100 * p:.0f} %). Layer {i}, head {head}: {role(layer, head)}."
        limits = dict(
            moment=len(run.frames) - 1, layer=len(reading.layers) - 1, head=len(layer.weights) - 1
        )
        return View(figure, note, grids=grids, limits=limits, values=dict(layer=i, head=head))

    first = next(iter(runs.values()))
    controls = dict(moment=Slider("moment", len(first.frames) - 1, len(first.frames) - 1))
    if len(runs) > 1:
        controls = dict(run=Choice("run", list(runs))) | controls
    if shown := [run for run in runs.values() if run.maps]:
        controls |= dict(
            layer=Slider("layer", len(shown[0].maps) - 1, max(len(run.maps) for run in shown) - 1),
            head=Slider("head", 0, max(m.shape[1] for run in shown for m in run.maps) - 1),
        )
    return explorer("training replay", draw, controls)
