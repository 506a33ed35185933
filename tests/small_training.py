"""A training that takes seconds: a tiny model, ten documents, ten questions."""

from __future__ import annotations

import signal

import torch

from kt_core.blocks import GPTConfig
from kt_core.datasets import NamePlace, SpanCorruption
from kt_core.models import GPT
from kt_core.train_config import TrainConfig
from kt_core.trainer import Hook
from kt_core.vocab import CharVocab

PAIRS = [(f"{name}?", "north" if i % 2 else "south") for i, name in enumerate("abcdefghij")]
DOCUMENTS = [f"{name} lives in the {where}. More of {name}." for name, where in PAIRS]
VOCAB = CharVocab.from_documents([*DOCUMENTS, *(q for q, _ in PAIRS)])


def tiny(variant="vanilla", dropout=0.0, seed=0):
    torch.manual_seed(seed)
    size = dict(block_size=32, n_layer=2, n_head=2, n_embd=16, bottleneck=16)
    return GPT(GPTConfig(vocab_size=len(VOCAB), variant=variant, dropout=dropout, **size))


def pairs():
    return NamePlace(PAIRS, VOCAB, 32)


def lines(seed=0):
    return SpanCorruption(DOCUMENTS, VOCAB, 32, seed)


def config(**more):
    settings = dict(epochs=3.0, batch_size=4, lr=1e-2, device="cpu", log_every=1)
    return TrainConfig(**settings | more)


def same(a, b):
    """Do two models have the same weights?"""
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


class Rows(Hook):
    """Hand each row of the history to a function."""

    def __init__(self, log):
        self.log = log

    def on_log(self, trainer, row):
        self.log(row)


def stop_at(step):
    """A hook that presses Ctrl-C at one step."""

    def log(row):
        if row["step"] == step:
            signal.raise_signal(signal.SIGINT)

    return Rows(log)
