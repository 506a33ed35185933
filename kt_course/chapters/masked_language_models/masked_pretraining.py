"""Train the small models of this chapter: four encoders, and a causal model for comparison."""

from __future__ import annotations

from pathlib import Path

import torch

from kt_core.corpora.loading import Corpus, load_corpus, question_name
from kt_core.corpora.textfiles import Pair
from kt_core.datasets import Mixture, NamePlace, TokenDataset
from kt_core.decoding import answer
from kt_core.devices import choose_device
from kt_core.evaluation import Score, exact_match
from kt_core.models import GPT, GPTConfig
from kt_core.runs.checkpoints import hardware
from kt_core.runs.fitting import fit
from kt_core.runs.recipes import zero_projections
from kt_core.runs.text_rules import name_prefix_end
from kt_core.train_config import TrainConfig
from kt_core.vocab import CharVocab
from kt_course.chapters.masked_language_models.masked_data import (
    MaskedPairs,
    MaskedText,
    SpanWindows,
)
from kt_course.chapters.masked_language_models.masked_decoding import answer_masked
from kt_course.chapters.masked_language_models.next_sentence import LinePairs, group_by_person

PHASES = ("masked_chars", "masked_words", "masked_spans", "masked_nsp", "cut_spans")
PEOPLE = (200, 100)  # how many of the train and of the dev questions; the lines are about them


def select_people(
    corpus: Corpus, train: int = PEOPLE[0], dev: int = PEOPLE[1]
) -> tuple[list[Pair], list[Pair], list[str]]:
    """Return the first train pairs, the first dev pairs, and the lines about these people."""
    train_pairs, dev_pairs = corpus.train[:train], corpus.dev[:dev]
    prefixes = {f"{question_name(question)}. " for question, _ in train_pairs + dev_pairs}
    lines = [line for line in corpus.documents if line[: name_prefix_end(line)] in prefixes]
    return train_pairs, dev_pairs, lines


def pretraining_data(
    phase: str, documents: list[str], pairs: list[Pair], vocab: CharVocab, seed: int
) -> TokenDataset:
    """Return the training data of a phase; `pretrain_masked` describes the phases."""
    if phase == "cut_spans":
        windows = SpanWindows(documents, vocab, seed=seed)
        return Mixture([(windows, 1), (NamePlace(pairs, vocab), 1)])
    units = "spans" if phase == "masked_nsp" else phase.removeprefix("masked_")
    parts = [
        MaskedText(documents, vocab, seed=seed, units=units),
        MaskedPairs(pairs, vocab, seed=seed),
    ]
    if phase == "masked_nsp":
        parts.append(LinePairs(group_by_person(documents), vocab, seed=seed))
    return Mixture([(part, 1) for part in parts])


def answer_score(model: GPT, vocab: CharVocab, pairs: list[Pair]) -> Score:
    """Score the model on questions. An encoder gets one mask per letter of the gold answer."""
    questions, gold = [question for question, _ in pairs], [place for _, place in pairs]
    if model.config.causal:
        return exact_match(answer(model, vocab, questions), gold)
    return exact_match(answer_masked(model, vocab, questions, [len(place) for place in gold]), gold)


def pretrain_masked(
    phase: str = "masked_spans",
    corpus: Corpus | None = None,
    *,
    epochs: float = 40.0,
    people: tuple[int, int] = PEOPLE,
    n_layer: int = 3,
    n_head: int = 4,
    n_embd: int = 96,
    seed: int = 0,
    device: str = "auto",
    state: str | Path | None = None,
) -> tuple[GPT, CharVocab, dict]:
    """Train a small model on the lines about `people` and on their train questions.

    Args:
        phase: "masked_chars", "masked_words" and "masked_spans" are encoders (`MaskedText`).
            "masked_nsp" adds one pair of lines per person and epoch to the last. "cut_spans" is a
            causal model trained on the same windows: the span is cut out and predicted at the end.
        corpus: The bios corpus by default.
        people: How many people of the train and of the dev split.
        state: File with the training state; an interrupted training resumes from it.

    Returns:
        The model, its vocabulary and the card for its checkpoint.
    """
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {phase!r}")
    corpus = corpus or load_corpus("bios")
    train, dev, documents = select_people(corpus, *people)
    data = pretraining_data(phase, documents, train, corpus.vocab, seed)
    shape = dict(n_layer=n_layer, n_head=n_head, n_embd=n_embd, dropout=0.0, qk_norm=True)
    torch.manual_seed(seed)
    causal = phase == "cut_spans"
    model = GPT(GPTConfig(len(corpus.vocab), variant="rope", causal=causal, **shape))
    zero_projections(model)
    rates = dict(optimizer="muon", learning_rate=2e-3, muon_learning_rate=0.01, weight_decay=0.0)
    schedule = dict(epochs=epochs, batch_size=32, schedule="linear", final_fraction=0.0)
    config = TrainConfig(**rates, **schedule, seed=seed, device=device)
    options = dict(state=state, resume=True, save_every=200, precision="native", title=phase)
    last = fit(model, data, config, **options)[-1]
    card = dict(
        corpus=corpus.name,
        variant="rope",
        phase=phase,
        kind="mixed",
        seed=seed,
        people=list(people),
        cost={key: last[key] for key in ("step", "epoch", "characters", "seconds", "loss")},
        dev=answer_score(model, corpus.vocab, dev).as_dict(),
        hardware=hardware(choose_device(device)),
    )
    return model, corpus.vocab, card
