"""Train the small models of this chapter: encoders, and a causal model for comparison."""

from pathlib import Path

import torch

from kt_core.corpora.loading import Corpus, load_corpus, question_name
from kt_core.corpora.textfiles import Pair
from kt_core.datasets import Mixture, NamePlace, TokenDataset
from kt_core.devices import choose_device
from kt_core.models import GPT, GPTConfig
from kt_core.runs.checkpoints import hardware
from kt_core.runs.fitting import fit
from kt_core.runs.text_rules import name_prefix_end
from kt_core.train_config import TrainConfig
from kt_core.vocab import CharVocab
from kt_course.chapters.masked_language_models.masked_data import (
    MaskedPairs,
    MaskedText,
    SpanWindows,
)
from kt_course.chapters.masked_language_models.masked_scores import score_questions

PHASES = ("masked_chars", "masked_spans", "cut_spans")
RATES = dict(optimizer="muon", lr=2e-3, muon_lr=0.01, weight_decay=0.0)
RATES |= dict(schedule="linear", cooldown_from=0.3, final_fraction=0.0)
PEOPLE = (200, 100)  # how many of the train and of the dev questions; the lines are about them


def select_people(
    corpus: Corpus, train: int = PEOPLE[0], dev: int = PEOPLE[1]
) -> tuple[list[Pair], list[Pair], list[str]]:
    """Return the first train pairs, the first dev pairs, and the lines about these people."""
    train_pairs, dev_pairs = corpus.train[:train], corpus.dev[:dev]
    return train_pairs, dev_pairs, lines_about(corpus.documents, train_pairs + dev_pairs)


def lines_about(documents: list[str], pairs: list[Pair]) -> list[str]:
    """Return the lines about the people of some questions."""
    prefixes = {f"{question_name(question)}. " for question, _ in pairs}
    return [line for line in documents if line[: name_prefix_end(line)] in prefixes]


def pretraining_data(
    phase: str, documents: list[str], pairs: list[Pair], vocab: CharVocab, seed: int
) -> TokenDataset:
    """Return the training data of a phase; `pretrain_masked` describes the phases."""
    if phase == "cut_spans":
        windows = SpanWindows(documents, vocab, seed=seed)
        return Mixture([(windows, 1), (NamePlace(pairs, vocab), 1)])
    text = MaskedText(documents, vocab, seed=seed, units=phase.removeprefix("masked_"))
    return Mixture([(text, 1), (MaskedPairs(pairs, vocab, seed=seed), 1)])


def new_model(phase: str, vocab: CharVocab, seed: int, **shape: int) -> GPT:
    """Return an encoder with random weights, or for the phase "cut_spans" a causal model."""
    causal = phase == "cut_spans"
    options = dict(variant="rope", causal=causal, dropout=0.0, qk_norm=True)
    torch.manual_seed(seed)
    model = GPT(GPTConfig(len(vocab), **options, **shape))
    for block in model.blocks:  # each starts as the identity
        torch.nn.init.zeros_(block.attn.proj.weight)
        torch.nn.init.zeros_(block.mlp.proj.weight)
    return model


def pretrain_masked(
    phase: str = "masked_spans",
    corpus: Corpus | None = None,
    *,
    epochs: float = 40.0,
    batch_size: int = 32,
    people: tuple[int, int] = PEOPLE,
    n_layer: int = 3,
    n_head: int = 4,
    n_embd: int = 96,
    seed: int = 0,
    device: str = "auto",
    state: str | Path | None = None,
) -> tuple[GPT, CharVocab, dict]:
    """Train a small model on the lines about `people` and on their train questions.

    Returns the model, its vocabulary and the card for its checkpoint.

    Args:
        phase: "masked_chars" and "masked_spans" are encoders (`MaskedText`). "cut_spans" is a
            causal model trained on the same windows: the span is predicted at the end.
        corpus: The bios corpus by default.
        people: How many people of the train and of the dev split.
        state: File with the training state; an interrupted training resumes from it.
    """
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {phase!r}")
    corpus = corpus or load_corpus("bios")
    train, dev, documents = select_people(corpus, *people)
    data = pretraining_data(phase, documents, train, corpus.vocab, seed)
    shape = dict(n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    model = new_model(phase, corpus.vocab, seed, **shape)
    config = TrainConfig(epochs=epochs, batch_size=batch_size, seed=seed, device=device, **RATES)
    options = dict(state=state, resume=True, save_every=200, precision="native", title=phase)
    last = fit(model, data, config, **options)[-1]
    card = dict(corpus=corpus.name, variant="rope", phase=phase, kind="mixed", seed=seed)
    cost = {key: last[key] for key in ("step", "epoch", "characters", "seconds", "loss")}
    card |= dict(people=list(people), cost=cost)
    card |= dict(dev=score_questions(model, corpus.vocab, dev).as_dict())
    return model, corpus.vocab, card | dict(hardware=hardware(choose_device(device)))
