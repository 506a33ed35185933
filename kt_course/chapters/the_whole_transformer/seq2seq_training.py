"""Training of encoder-decoders with teacher forcing: `seq2seq.Seq2Seq` and `recurrent.Recurrent` alike."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from kt_core._typing import Float, Int, Tensor
from kt_core.runs.devices import choose_device, mixed_precision
from kt_core.runs.progress import Progress
from kt_core.trainer import TrainConfig
from kt_course.chapters.the_whole_transformer.seq2seq_data import TokenVocab


def teacher_forcing(
    target: Int[Tensor, "B T"], start: int = TokenVocab.start_id, end: int = TokenVocab.end_id
) -> tuple[Int[Tensor, "B T1"], Int[Tensor, "B T1"]]:
    """(inputs, labels), each (B, T + 1): the decoder reads ▶ and the right answer, and is asked for what comes next.

    inputs are the target behind `start`, labels the target with `end` right behind its last token; both keep their
    padding (0) on the right. labels[b, t] is the token that follows inputs[b, t].
    """
    inputs = F.pad(target, (1, 0), value=start)
    labels = F.pad(target, (0, 1))
    ends = (target != 0).sum(dim=-1, keepdim=True)  # (B, 1)
    return inputs, labels.scatter(1, ends, end)


def loss_of(
    model: nn.Module, source: Int[Tensor, "B S"], target: Int[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats a target token, ■ included, given the right tokens before it."""
    inputs, labels = teacher_forcing(target)
    logits = model(source, inputs)  # (B, T + 1, V)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0)


def fit(
    model: nn.Module,
    source: Int[Tensor, "N S"],
    target: Int[Tensor, "M T"],
    config: TrainConfig,
    *,
    evaluate: Callable[[nn.Module], dict] | None = None,
    title: str = "training",
) -> list[dict]:
    """Train on N pairs (see `Toy.tensors`) for `config.steps` steps; rows (step, loss, ...) every `config.log_every`.

    A step's batch is drawn with repetition from all pairs, by `config.seed` alone. `evaluate` joins each row. The
    losses of a row are the mean since the row before. ValueError without steps or with sides of unlike length.
    """
    if config.steps is None:
        raise ValueError("fit needs config.steps: its batches are drawn, there are no epochs")
    if len(source) != len(target):
        raise ValueError(f"{len(source)} sources and {len(target)} targets are no pairs")
    device = choose_device(config.device)
    model.to(device).train()
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    optimizers = config.optimizers(model)
    mixed = mixed_precision(config.precision, device)
    history, losses, bar, began = [], [], Progress(config.steps, title), time.perf_counter()
    try:
        for step in range(config.steps):
            rate = config.rate(step, config.steps)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * rate
            rows = torch.randint(len(source), (config.batch_size,), generator=generator)
            x, y = (_trimmed(side[rows]).to(device) for side in (source, target))
            with mixed:
                loss = loss_of(model, x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            bar.update()
            last = step + 1 == config.steps
            if last or (config.log_every and (step + 1) % config.log_every == 0):
                row = dict(step=step + 1, loss=float(torch.stack(losses).mean()))
                losses.clear()
                if evaluate:
                    model.eval()
                    row |= evaluate(model)
                    model.train()
                history.append(row)
                bar.note(f"loss {row['loss']:.3f}", time.perf_counter() - began)
    finally:
        bar.close()
        model.eval()
    return history


def _trimmed(ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T_longest"]:
    """Without the columns that hold padding alone."""
    return ids[:, : int((ids != 0).sum(dim=-1).max())]
