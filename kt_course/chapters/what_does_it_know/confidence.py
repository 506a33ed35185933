"""How confident a model is, whether that may be believed, and what follows: "I don't know".

Sources: Naeini et al. 2015 and Guo et al. 2017, section 2 (reliability diagram, expected
calibration error); El-Yaniv and Wiener 2010, Geifman and El-Yaniv 2017 (risk and coverage of a
model that may abstain); Kadavath et al. 2022 (language models on what they know).
"""

import math
import os.path
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kt_core.datasets import collate
from kt_core.decoding import answer, eval_mode, next_logits
from kt_core.evaluation import Score
from kt_core.kv_cache import KVCache
from kt_core.models import GPT
from kt_core.vocab import CharVocab
from kt_course._typing import Bool, Float, Tensor
from kt_course.chapters.what_does_it_know.solutions import log_probability_of
from kt_course.lesson import Lesson
from kt_course.shipped import shipped, shipped_path

# ---------------------------------------------------------------- probabilities of answers


def answer_probabilities(
    model: GPT,
    vocab: CharVocab,
    questions: Sequence[str],
    answers: Sequence[str],
    batch_size: int = 128,
) -> Float[Tensor, " n"]:
    """Compute the probability of each whole answer with its closing ⁇, given "question ⁇".

    An answer that fills the block has no room for the ⁇, which then does not count.

    Returns:
        (n,), on the CPU.

    Raises:
        ValueError: For lists of different lengths, or an answer that does not fit the block.
    """
    if len(questions) != len(answers):
        counts = f"{len(answers)} answers for {len(questions)} questions"
        raise ValueError(f"{counts}: one each is needed")
    most, examples = model.config.block_size + 1, []
    for question, text in zip(questions, answers, strict=True):
        prompt = [*vocab.encode(question), vocab.mask_id]
        ids = [*prompt, *vocab.encode(text)]
        if len(ids) > most:
            count = f"takes {len(ids)} characters; the model holds {most}"
            raise ValueError(f"{question!r} with {text!r} {count}")
        examples.append(([*ids, vocab.mask_id][:most], len(prompt)))
    order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]))
    probabilities = torch.zeros(len(examples))
    with eval_mode(model) as device:
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            longest = max(len(examples[i][0]) for i in rows)
            x, _ = collate([examples[i] for i in rows], longest - 1)
            logits = model(x.to(device))[0].float().cpu()
            for i, row in zip(rows, logits, strict=True):
                ids, start = examples[i]
                probabilities[i] = log_probability_of(row, torch.tensor(ids), start).exp()
    return probabilities


@dataclass(frozen=True)
class Answers:
    """What a model answered to n questions, how confident it was, and which answers are correct."""

    answers: list[str]
    confidence: Float[Tensor, " n"]
    correct: Bool[Tensor, " n"]

    @classmethod
    def of(cls, model: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str | None]]) -> "Answers":
        """Ask all questions; an answer about a person without a birthplace (None) is wrong."""
        questions = [question for question, _ in pairs]
        answers = answer(model, vocab, questions, max_new=40)
        confidence = answer_probabilities(model, vocab, questions, answers)
        correct = [a == gold for a, (_, gold) in zip(answers, pairs, strict=True)]
        return cls(answers, confidence, torch.tensor(correct))

    def __add__(self, other: "Answers") -> "Answers":
        confidence = torch.cat([self.confidence, other.confidence])
        correct = torch.cat([self.correct, other.correct])
        return Answers(self.answers + other.answers, confidence, correct)

    def __getitem__(self, rows: slice) -> "Answers":
        return Answers(self.answers[rows], self.confidence[rows], self.correct[rows])

    def given(self, threshold: float) -> Score:
        """How many of the answers with at least this confidence are correct."""
        is_answered = self.confidence >= threshold
        return Score(int(self.correct[is_answered].sum()), int(is_answered.sum()))

    @property
    def score(self) -> Score:
        """How many answers are correct."""
        return Score(int(self.correct.sum()), len(self.answers))


def probability_table(
    model: GPT, vocab: CharVocab, questions: Sequence[str], candidates: Sequence[str]
) -> Float[Tensor, "n_questions n_candidates"]:
    """Compute the probability of each candidate as the whole answer to each question.

    All questions are read at once, and each prefix that candidates share is computed once: the
    cache is overwritten after the prompt for each branch.

    Raises:
        ValueError: For no candidates, one that comes twice or one that is too long.
    """
    if not candidates or len(set(candidates)) != len(candidates):
        raise ValueError("candidates must be given, each of them once")
    prompts = [[*vocab.encode(q), vocab.mask_id] for q in questions]
    longest, most = max(map(len, prompts)) + max(map(len, candidates)), model.config.block_size
    if longest > most:
        raise ValueError(f"the longest takes {longest} characters; the model reads {most}")
    texts = [[*vocab.encode(c), vocab.mask_id] for c in candidates]
    table, path = torch.zeros(len(prompts), len(texts)), []
    with eval_mode(model):
        cache = KVCache(model, len(prompts))
        steps = [next_logits(model, prompts, cache).log_softmax(-1)]  # after d characters of path
        totals = [torch.zeros_like(steps[0][:, 0])]  # log-probability of those d characters
        for i in sorted(range(len(texts)), key=lambda i: texts[i]):  # shared prefixes together
            text = texts[i]
            shared = min(len(os.path.commonprefix([path, text])), len(text) - 1)
            path, steps, totals = text[:shared], steps[: shared + 1], totals[: shared + 1]
            for character in text[shared:]:
                totals.append(totals[-1] + steps[-1][:, character])
                path.append(character)
                if len(path) < len(text):
                    logits = next_logits(model, [prompt + path for prompt in prompts], cache)
                    steps.append(logits.log_softmax(-1))
            table[:, i] = totals[-1].exp().cpu()
    return table


# ---------------------------------------------------------------- calibration


@dataclass(frozen=True)
class Bin:
    """Answers with a confidence in (low, high]: their mean confidence and their score."""

    low: float
    high: float
    confidence: float
    score: Score


def _as_tensors(
    confidence: Float[Tensor, " n"], right: Sequence[bool] | Tensor
) -> tuple[Tensor, Tensor]:
    confidence, right = torch.as_tensor(confidence).double(), torch.as_tensor(right).bool()
    if confidence.shape != right.shape or confidence.ndim != 1:
        shapes = f"{tuple(confidence.shape)} for {tuple(right.shape)}"
        raise ValueError(f"one confidence per answer is needed: {shapes}")
    if not len(confidence):
        raise ValueError("no answer is given")
    return confidence, right


def reliability(
    confidence: Float[Tensor, " n"], right: Sequence[bool] | Tensor, bins: int = 10
) -> list[Bin]:
    """Make a reliability diagram: equally wide bins (low, high] of confidence, no empty ones.

    Args:
        confidence: Probabilities, 0 ... 1.
        right: Which answers are correct.
    """
    confidence, right = _as_tensors(confidence, right)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    if confidence.min() < 0 or confidence.max() > 1:
        raise ValueError("a confidence is a probability, 0 ... 1")
    index = ((confidence * bins).ceil() - 1).clamp(0, bins - 1)  # 0 itself is in the first bin
    diagram = []
    for i in index.unique().int().tolist():
        inside = index == i
        score = Score(int(right[inside].sum()), int(inside.sum()))
        diagram.append(Bin(i / bins, (i + 1) / bins, float(confidence[inside].mean()), score))
    return diagram


def auroc(positive: Float[Tensor, " n"], negative: Float[Tensor, " m"]) -> float:
    """Compute how often a positive has the higher confidence than a negative, ties half.

    This is the area under the ROC curve: 1 separates the groups perfectly, 0.5 is chance.
    """
    if not len(positive) or not len(negative):
        raise ValueError("both groups need an answer")
    a, b = positive.double()[:, None], negative.double()[None]
    return float(((a > b).double() + 0.5 * (a == b).double()).mean())


# ---------------------------------------------------------------- abstaining


def risk_coverage(
    confidence: Float[Tensor, " n"], right: Sequence[bool] | Tensor
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Compute the curve of a model that answers only where confidence >= threshold.

    Returns:
        thresholds, each confidence once, from the highest; coverage, the share of questions that
        are answered; risk, the share of these answers that are wrong.
    """
    confidence, right = _as_tensors(confidence, right)
    ranked, order = confidence.sort(descending=True, stable=True)
    n_wrong = (~right[order]).double().cumsum(0)
    n_answered = torch.arange(1, len(ranked) + 1, dtype=torch.double)
    is_last = torch.ones_like(right)
    is_last[:-1] = ranked[1:] != ranked[:-1]  # equal confidences pass a threshold together
    return ranked[is_last], n_answered[is_last] / len(ranked), (n_wrong / n_answered)[is_last]


def cautious_threshold(
    confidence: Float[Tensor, " n"], right: Sequence[bool] | Tensor, accuracy: float
) -> float:
    """Find the lowest threshold at which the 95 % interval of the answers given reaches `accuracy`.

    The exercise's threshold asks this of the answers themselves; of many, the one that just passes
    was lucky (after Geifman and El-Yaniv 2017). It is inf if none is strict enough.
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must lie in 0 ... 1, not {accuracy}")
    thresholds, coverage, risk = risk_coverage(confidence, right)
    answered = (coverage * len(confidence)).round().long().tolist()
    rows = list(zip(thresholds.tolist(), answered, risk.tolist(), strict=True))
    enough = [t for t, n, r in rows if Score(round((1 - r) * n), n).low >= accuracy - 1e-12]
    return min(enough, default=math.inf)


# ---------------------------------------------------------------- people who are not in the text


def recombined_names(names: Sequence[str], n: int, seed: int = 0) -> list[str]:
    """Make n new names of a first name and a surname of `names` that do not occur together.

    ValueError if there are not so many.
    """
    parts = [name.split() for name in names if len(name.split()) > 1]
    first, last = sorted({p[0] for p in parts}), sorted({p[-1] for p in parts})
    used = {(p[0], p[-1]) for p in parts}
    if n > len(first) * len(last) - len(used):
        sizes = f"{len(first)} first names and {len(last)} surnames"
        raise ValueError(f"{n} new names cannot be made of {sizes}")
    rng, recombined = random.Random(f"recombined {seed}"), []
    while len(recombined) < n:
        pair = (rng.choice(first), rng.choice(last))
        if pair not in used:
            used.add(pair)
            recombined.append(" ".join(pair))
    return recombined


ONSETS = "b d f g k l m n p r s t v z ch sh br dr gr kl pr st tr".split()
VOWELS = "a e i o u ai ea ou".split()
CODAS = ["", "", "n", "l", "r", "x", "sk"]


def coined_names(n: int, seed: int = 0) -> list[str]:
    """Make n names that nobody has: two words of two or three random syllables, plain letters."""
    rng, names = random.Random(f"coined {seed}"), []

    def word() -> str:
        syllables = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice((2, 2, 3)))]
        return ("".join(syllables) + rng.choice(CODAS)).capitalize()

    while len(names) < n:
        name = f"{word()} {word()}"
        if name not in names:
            names.append(name)
    return names


# ---------------------------------------------------------------- a model that knows half


def partial_model(lesson: Lesson) -> tuple[GPT, CharVocab]:
    """Load a model that answers about half of the held-out questions correctly, if one ships.

    Other corpora and profiles use the lesson's finetuned model.
    """
    if lesson.profile == "quick" and shipped_path(lesson.corpus_name, "rope", "partial").exists():
        model, vocab, _ = shipped(lesson.corpus_name, "rope", "partial", lesson.device)
    else:
        model, vocab, _ = lesson.finetuned("rope")
    return model, vocab
