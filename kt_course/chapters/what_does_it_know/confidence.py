"""How sure a model is of its answers, whether that may be believed, and what follows: saying "I don't know".

Sources: Naeini et al. 2015 and Guo et al. 2017, section 2 (reliability diagram, expected calibration error);
El-Yaniv and Wiener 2010, Geifman and El-Yaniv 2017 (risk and coverage of a model that may abstain); Lakshminarayanan
et al. 2017 (disagreement of an ensemble); Kadavath et al. 2022 (language models on what they know).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kt_core._typing import Float, Int, Tensor
from kt_core.datasets import collate
from kt_core.decoding import answer
from kt_core.evaluation import Score
from kt_core.models import GPT
from kt_core.vocab import CharVocab

UNKNOWN = "I don't know"

# ---------------------------------------------------------------- probabilities of answers


def answer_log_probability(
    logits: Float[Tensor, "T V"], ids: Int[Tensor, " T_text"], start: int
) -> Float[Tensor, ""]:
    """Natural log of the probability that the model writes ids[start:], given ids[:start].

    logits[t] foretells ids[t + 1], so there may be one row less than ids. ValueError for a start outside 1 ... T_text.
    """
    n = ids.size(0)
    if not 1 <= start <= n:
        raise ValueError(
            f"the answer must begin at 1 ... {n}, behind something that foretells it, not at {start}"
        )
    steps = logits[start - 1 : n - 1].log_softmax(-1)  # (answer's length, V)
    return steps.gather(-1, ids[start:, None]).sum()


@torch.no_grad()
def answer_probabilities(
    model: GPT,
    vocab: CharVocab,
    questions: Sequence[str],
    answers: Sequence[str],
    batch_size: int = 128,
) -> Float[Tensor, " n"]:
    """Probability of each whole answer with its closing ⁇, given "question ⁇": (n,), on the CPU.

    An answer that fills the block has no room for the ⁇, which then does not count. ValueError for lists of different
    lengths, unknown characters or an answer that does not fit.
    """
    if len(questions) != len(answers):
        raise ValueError(
            f"{len(answers)} answers for {len(questions)} questions: one each is needed"
        )
    room, examples = model.config.block_size + 1, []
    for question, told in zip(questions, answers, strict=True):
        prompt = [*vocab.encode(question), vocab.mask_id]
        ids = [*prompt, *vocab.encode(told)]
        if len(ids) > room:
            raise ValueError(
                f"{question!r} with {told!r} takes {len(ids)} characters; the model holds {room}"
            )
        examples.append(([*ids, vocab.mask_id][:room], len(prompt)))
    order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]))
    found = torch.zeros(len(examples))
    was_training, device = model.training, model.head.weight.device
    model.eval()
    try:
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            x, _ = collate([examples[i] for i in rows], max(len(examples[i][0]) for i in rows) - 1)
            logits = model(x.to(device))[0].float().cpu()
            for i, row in zip(rows, logits, strict=True):
                ids, start = examples[i]
                found[i] = answer_log_probability(row, torch.tensor(ids), start).exp()
    finally:
        model.train(was_training)
    return found


def confident_answers(
    model: GPT, vocab: CharVocab, questions: Sequence[str], *, max_new: int | None = 40
) -> tuple[list[str], Float[Tensor, " n"]]:
    """Greedy answers, and the probability that the model gives each of them: its confidence."""
    answers = answer(model, vocab, questions, max_new=max_new)
    return answers, answer_probabilities(model, vocab, questions, answers)


@torch.no_grad()
def probability_table(
    model: GPT, vocab: CharVocab, questions: Sequence[str], candidates: Sequence[str]
) -> Float[Tensor, "n_questions n_candidates"]:
    """Probability of each candidate as the whole answer to each question; a row sums to 1 at most.

    All questions at once, each prefix that candidates share computed once: the cache's slots behind the prompt are
    written anew on the way down each branch. ValueError for no candidates, one that comes twice or one too long.
    """
    if not candidates or len(set(candidates)) != len(candidates):
        raise ValueError("candidates must be given, each of them once")
    prompts = [[*vocab.encode(q), vocab.mask_id] for q in questions]
    longest = max(map(len, prompts)) + max(map(len, candidates))
    if longest > model.config.block_size:
        raise ValueError(
            f"the longest takes {longest} characters; the model reads {model.config.block_size}"
        )
    texts = [[*vocab.encode(c), vocab.mask_id] for c in candidates]
    order = sorted(
        range(len(texts)), key=lambda i: texts[i]
    )  # those that share a beginning stand together
    device = model.head.weight.device
    idx, _ = collate([(p, 1) for p in prompts], max(map(len, prompts)))
    at, rows = (
        torch.tensor([len(p) for p in prompts], device=device),
        torch.arange(len(prompts), device=device),
    )
    was_training = model.training
    model.eval()
    try:
        logits, cache = model.start_cache(idx.to(device))
        steps = [
            logits[rows, at - 1].log_softmax(-1)
        ]  # steps[d]: log-probabilities behind d characters
        total, path = [torch.zeros(len(prompts), device=device)], []
        table = torch.zeros(len(prompts), len(texts))
        for i in order:
            shared = next(
                (d for d, (a, b) in enumerate(zip(path, texts[i], strict=False)) if a != b),
                len(path),
            )
            shared = min(shared, len(texts[i]) - 1)
            path, steps, total = texts[i][:shared], steps[: shared + 1], total[: shared + 1]
            for d in range(shared, len(texts[i])):
                character = texts[i][d]
                total.append(total[d] + steps[d][:, character])
                path.append(character)
                if d + 1 < len(texts[i]):
                    new = torch.full_like(at, character)
                    steps.append(model.step(new, at + d, cache).log_softmax(-1))
            table[:, i] = total[-1].exp().cpu()
        return table
    finally:
        model.train(was_training)


# ---------------------------------------------------------------- may the confidence be believed?


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence lies in (low, high]: their mean confidence, and how many are right."""

    low: float
    high: float
    confidence: float
    score: Score


def _checked(
    confidence: Float[Tensor, " n"], right: Sequence[bool] | Tensor
) -> tuple[Tensor, Tensor]:
    confidence, right = torch.as_tensor(confidence).double(), torch.as_tensor(right).bool()
    if confidence.shape != right.shape or confidence.ndim != 1:
        raise ValueError(
            f"one confidence an answer is needed: {tuple(confidence.shape)} for {tuple(right.shape)}"
        )
    if not len(confidence):
        raise ValueError("no answer is given")
    return confidence, right


def reliability(
    confidence: Float[Tensor, " n"], right: Sequence[bool] | Tensor, bins: int = 10
) -> list[Bin]:
    """The bars of a reliability diagram: equally wide bins (low, high] of confidence, without the empty ones.

    ValueError for lists of different lengths, no answer at all or a confidence outside 0 ... 1.
    """
    confidence, right = _checked(confidence, right)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    if confidence.min() < 0 or confidence.max() > 1:
        raise ValueError("a confidence is a probability, 0 ... 1")
    where = ((confidence * bins).ceil() - 1).clamp(0, bins - 1)  # 0 itself belongs to the first
    found = []
    for i in range(bins):
        inside = where == i
        if inside.any():
            score = Score(int(right[inside].sum()), int(inside.sum()))
            found.append(Bin(i / bins, (i + 1) / bins, float(confidence[inside].mean()), score))
    return found


def expected_calibration_error(
    confidence: Float[Tensor, " n"], right: Sequence[bool] | Tensor, bins: int = 10
) -> float:
    """Mean distance between confidence and accuracy over the bins, each weighing as many answers as it holds.

    ECE = sum over bins of n_bin / n * |accuracy - mean confidence| (Guo et al. 2017, equation 3); 0 is calibrated.
    """
    found = reliability(confidence, right, bins)
    total = sum(b.score.total for b in found)
    return sum(b.score.total / total * abs(b.score.accuracy - b.confidence) for b in found)


def separation(sure: Float[Tensor, " n"], unsure: Float[Tensor, " m"]) -> float:
    """How often a random one of `sure` has the higher confidence than one of `unsure`, ties half: the area under the
    ROC curve. 1 parts the two groups, 0.5 tells nothing. ValueError for an empty group."""
    if not len(sure) or not len(unsure):
        raise ValueError("both groups need an answer")
    a, b = sure.double()[:, None], unsure.double()[None]
    return float(((a > b).double() + 0.5 * (a == b).double()).mean())


# ---------------------------------------------------------------- abstaining


def risk_coverage(
    confidence: Float[Tensor, " n"], right: Sequence[bool] | Tensor
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"], Float[Tensor, " k"]]:
    """(thresholds, coverage, risk), a point a distinct confidence, from the highest: answer where confidence >= threshold.

    coverage: share of the questions that are answered; risk: share of wrong ones among these answers.
    """
    confidence, right = _checked(confidence, right)
    sorted_, order = confidence.sort(descending=True, stable=True)
    wrong = (~right[order]).double().cumsum(0)
    answered = torch.arange(1, len(sorted_) + 1, dtype=torch.double)
    last = torch.ones_like(right)
    last[:-1] = sorted_[1:] != sorted_[:-1]  # equal confidences pass a threshold together
    return sorted_[last], answered[last] / len(sorted_), (wrong / answered)[last]


def choose_threshold(
    confidence: Float[Tensor, " n"],
    right: Sequence[bool] | Tensor,
    accuracy: float,
    cautious: bool = False,
) -> float:
    """The lowest threshold at which the share of right answers, among those with confidence >= it, is `accuracy`.

    The lowest one answers most. inf, which answers nothing, if no threshold is strict enough. `cautious` asks for more:
    the lower end of the share's 95 % interval must be `accuracy` (after Geifman and El-Yaniv 2017), for of many
    thresholds the one that just passes had luck. ValueError for an `accuracy` outside 0 ... 1.
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must lie in 0 ... 1, not {accuracy}")
    thresholds, coverage, risk = risk_coverage(confidence, right)
    share = 1 - risk
    if cautious:
        answered = (coverage * len(confidence)).round().long().tolist()
        scores = [Score(round(s * n), n) for s, n in zip(share.tolist(), answered, strict=True)]
        share = torch.tensor([score.low for score in scores], dtype=torch.double)
    enough = (share >= accuracy - 1e-12).nonzero()
    return float(thresholds[enough[-1, 0]]) if len(enough) else math.inf


def abstain(answers: Sequence[str], confidence: Float[Tensor, " n"], threshold: float) -> list[str]:
    """The answers whose confidence is at least `threshold`; the others become "I don't know"."""
    _checked(confidence, [True] * len(answers))
    return [
        a if c >= threshold else UNKNOWN for a, c in zip(answers, confidence.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Abstention:
    """What an abstaining model did: `answered` of `asked` questions, `right` of those; `coverage` and `accuracy`."""

    asked: int
    answered: int
    right: int

    @classmethod
    def of(cls, answers: Sequence[str], gold: Sequence[str | None]) -> Abstention:
        """Count them; an answer about a person without a known birthplace (None) is wrong."""
        if len(answers) != len(gold):
            raise ValueError(
                f"{len(answers)} answers for {len(gold)} questions: one each is needed"
            )
        given = [(a, g) for a, g in zip(answers, gold, strict=True) if a != UNKNOWN]
        return cls(
            len(answers),
            len(given),
            sum(g is not None and a.strip() == g.strip() for a, g in given),
        )

    @property
    def coverage(self) -> float:
        return self.answered / self.asked if self.asked else 0.0

    @property
    def accuracy(self) -> Score:
        """Of the answers given, with its interval."""
        return Score(self.right, self.answered)


def vote(answers: Sequence[Sequence[str]]) -> tuple[list[str], Float[Tensor, " n"]]:
    """What most models say, question by question, and the share of them that says it.

    `answers` holds each model's list. Where several answers have equally many votes the earliest model's counts.
    """
    if not answers or len({len(one) for one in answers}) != 1:
        raise ValueError("each model must give one answer a question")
    said, shares = [], []
    for given in zip(*answers, strict=True):
        best = max(given, key=given.count)  # the first of the most frequent
        said.append(best)
        shares.append(given.count(best) / len(given))
    return said, torch.tensor(shares)


# ---------------------------------------------------------------- people who are not in the text


def recombined_names(names: Sequence[str], n: int, seed: int = 0) -> list[str]:
    """n new names, each a first name and a surname of `names` that do not stand together there.

    ValueError if there are not so many.
    """
    parts = [name.split() for name in names if len(name.split()) > 1]
    first, last = sorted({p[0] for p in parts}), sorted({p[-1] for p in parts})
    taken = {(p[0], p[-1]) for p in parts}
    if n > len(first) * len(last) - len(taken):
        raise ValueError(
            f"{n} new names cannot be made of {len(first)} first names and {len(last)} surnames"
        )
    rng, made = random.Random(f"recombined {seed}"), []
    while len(made) < n:
        pair = (rng.choice(first), rng.choice(last))
        if pair not in taken:
            taken.add(pair)
            made.append(" ".join(pair))
    return made


_ONSETS = "b d f g k l m n p r s t v z ch sh br dr gr kl pr st tr".split()
_VOWELS = "a e i o u ai ea ou".split()
_CODAS = ["", "", "n", "l", "r", "x", "sk"]


def coined_names(n: int, seed: int = 0) -> list[str]:
    """n names that nobody has, syllables drawn at random: two words of two or three syllables, plain letters."""
    rng, made = random.Random(f"coined {seed}"), []

    def word() -> str:
        syllables = [
            rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 2, 3)))
        ]
        return ("".join(syllables) + rng.choice(_CODAS)).capitalize()

    while len(made) < n:
        name = f"{word()} {word()}"
        if name not in made:
            made.append(name)
    return made
