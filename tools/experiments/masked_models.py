"""Train chapter 10's small models with several seeds, and measure what they learned.

python tools/experiments/masked_models.py [--seeds 0 1 2] [--out data/results/masked_models.json]

Each seed trains one model per kind of masking, and PairModels on the shipped `masked_spans`. The
file is written after each of them, and what it already holds is not trained again.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from kt_core.corpora.files import write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.evaluation import Score, exact_match
from kt_core.models import GPT
from kt_core.optim import Muon
from kt_core.runs.checkpoints import hardware
from kt_core.vocab import CharVocab
from kt_course.chapters.masked_language_models import masked_pretraining as pretraining
from kt_course.chapters.masked_language_models import masked_scores as scores
from kt_course.chapters.masked_language_models import text_pairs
from kt_course.chapters.masked_language_models.solutions import PairModel
from kt_course.shipped import shipped

PEOPLE, EPOCHS, BATCH_SIZE = (40, 40), 40, 16
NSP_STEPS, SPAN_STEPS, BATCH = 120, 120, 32


def share(score: Score) -> list[int]:
    """Return a score as [correct, total]."""
    return [score.correct, score.total]


def measure(model: GPT, vocab: CharVocab, corpus: Corpus, new_lines: list[str]) -> dict:
    """Measure a pretrained model on the people whose question was not in training."""
    _, dev, lines = pretraining.select_people(corpus, *PEOPLE)
    seen, new = scores.place_windows(lines, dev), scores.place_windows(new_lines, dev)
    result = {
        "seen wording": share(scores.score_windows(model, vocab, seen)),
        "new wording": share(scores.score_windows(model, vocab, new)),
        "question": share(scores.score_questions(model, vocab, dev)),
    }
    if model.config.causal:
        return result
    result["question, no length"] = share(scores.score_questions(model, vocab, dev, False))
    for name, is_stranger in (("own", False), ("stranger", True)):
        result[f"letters, {name}"] = [
            share(scores.score_letters(model, vocab, seen, part, is_stranger))
            for part in (0.0, 0.5, 1.0)
        ]
    return result


def muon_and_adamw(model: PairModel) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the body's blocks, and AdamW for the rest."""
    matrices = [p for p in model.body.blocks.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    return [Muon(matrices, lr=0.01), torch.optim.AdamW(others, lr=2e-3, weight_decay=0.0)]


def adamw(model: PairModel) -> list[torch.optim.Optimizer]:
    """Return AdamW for everything, which changes a pretrained body less."""
    return [torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)]


def train_pairs(
    model: PairModel, optimizers: list, loss_of: Callable, n_steps: int, seed: int
) -> PairModel:
    """Train a PairModel; `loss_of(model, rng)` draws a batch. The notebook shows the same loop."""
    rng, peaks = random.Random(seed), [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    for step in range(n_steps):
        loss = loss_of(model, rng)
        loss.backward()
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * (1 - step / n_steps)
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def next_sentence(body: GPT, vocab: CharVocab, corpus: Corpus, seed: int, names: bool) -> Score:
    """Train next-sentence prediction, and test it on people of the test split."""
    torch.manual_seed(seed)
    _, _, lines = pretraining.select_people(corpus)
    groups = text_pairs.group_by_person(lines)

    def logits_of(model: PairModel, pairs: list) -> torch.Tensor:
        return model(*text_pairs.encode_pairs(vocab, [pair[:2] for pair in pairs]))[:, 0, 0]

    def loss_of(model: PairModel, rng: random.Random) -> torch.Tensor:
        pairs = [text_pairs.draw_line_pair(groups, rng, names=names) for _ in range(BATCH)]
        labels = torch.tensor([float(same) for *_, same in pairs])
        return F.binary_cross_entropy_with_logits(logits_of(model, pairs), labels)

    model = PairModel(copy.deepcopy(body), 1)
    train_pairs(model, muon_and_adamw(model), loss_of, NSP_STEPS, seed)
    strangers = pretraining.lines_about(corpus.documents, corpus.test)
    rng, others = random.Random(seed), text_pairs.group_by_person(strangers)
    pairs = [text_pairs.draw_line_pair(others, rng, names=names) for _ in range(200)]
    with torch.no_grad():
        says_same = logits_of(model, pairs) > 0
    return Score(sum(bool(s) == p[2] for s, p in zip(says_same, pairs, strict=True)), len(pairs))


def extraction(body: GPT, vocab: CharVocab, corpus: Corpus, seed: int) -> Score:
    """Train a span head, and test it on people of the test split."""
    torch.manual_seed(seed)
    train = text_pairs.passages(corpus.documents, corpus.train[: pretraining.PEOPLE[0]])
    test = text_pairs.passages(corpus.documents, corpus.test)[::4]

    def loss_of(model: PairModel, rng: random.Random) -> torch.Tensor:
        batch = rng.sample(train, BATCH)
        idx, segments, spans = text_pairs.encode_passages(vocab, batch)
        logits = model(idx, segments).masked_fill(segments[..., None] == 0, -1e9)  # (B, T, 2)
        return F.cross_entropy(logits, spans)

    model = PairModel(copy.deepcopy(body), 2)
    train_pairs(model, adamw(model), loss_of, SPAN_STEPS, seed)
    return exact_match(text_pairs.extract_answers(model, vocab, test), [a for *_, a in test])


def pair_tasks(corpus: Corpus, seed: int) -> dict:
    """Train and test the PairModels of one seed on the shipped `masked_spans`."""
    body, vocab, _ = shipped("bios", "rope", "masked_spans")
    torch.manual_seed(seed)
    new_body = GPT(body.config)
    return {
        "extraction": share(extraction(body, vocab, corpus, seed)),
        "extraction, new body": share(extraction(new_body, vocab, corpus, seed)),
        "next sentence": share(next_sentence(body, vocab, corpus, seed, True)),
        "next sentence, no names": share(next_sentence(body, vocab, corpus, seed, False)),
    }


def main() -> None:
    """Train with all seeds, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--phases", nargs="+", default=[*pretraining.PHASES, "pairs"])
    parser.add_argument("--out", type=Path, default=Path("data/results/masked_models.json"))
    options = parser.parse_args()
    corpus, more = load_corpus("bios"), load_corpus("bios", lines=8).documents
    known = set(corpus.documents)
    new_lines = [line for line in more if line not in known]  # the same people, other sentences
    done = json.loads(options.out.read_text())["runs"] if options.out.exists() else []
    for seed in options.seeds:
        for phase in options.phases:
            if any((run["seed"], run["phase"]) == (seed, phase) for run in done):
                continue
            began = time.perf_counter()
            if phase == "pairs":
                results = pair_tasks(corpus, seed)
            else:
                settings = dict(epochs=EPOCHS, people=PEOPLE, batch_size=BATCH_SIZE, device="cpu")
                model, vocab, _ = pretraining.pretrain_masked(phase, corpus, seed=seed, **settings)
                results = measure(model, vocab, corpus, new_lines)
            seconds = round(time.perf_counter() - began, 1)
            done.append(dict(seed=seed, phase=phase, results=results, seconds=seconds))
            print(done[-1], flush=True)
            facts = dict(corpus="bios", people=PEOPLE, epochs=EPOCHS, runs=done)
            write_json(options.out, facts | dict(hardware=hardware("cpu")))


if __name__ == "__main__":
    main()
