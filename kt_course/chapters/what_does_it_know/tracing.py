"""Questions whose parts have known positions, in batches of equal length, and linear probes.

The tools themselves (hooks, lens, patching) are the exercises of the chapter: `solutions.py`.

Sources: Meng et al. 2022, section 2 (causal tracing); Zhang and Nanda 2024 (how to patch); Alain
and Bengio 2016, Hewitt and Liang 2019 (linear probes, and a control for them).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kt_core.corpora.loading import question_name
from kt_core.vocab import MASK, CharVocab
from kt_course._typing import Float, Int, Tensor
from kt_course.chapters.what_does_it_know.solutions import fit_linear


@dataclass(frozen=True)
class Prompt:
    """The text "Where was NAME born?⁇ANSWER".

    `ids` (1, T); `name` holds the positions of the name, `mark` is the position of the ⁇.
    """

    text: str
    ids: Int[Tensor, "1 T"]
    name: range
    mark: int

    @property
    def answer(self) -> str:
        return self.text[self.mark + 1 :]

    @property
    def question_ids(self) -> Int[Tensor, "1 T"]:
        """The ids up to and with the ⁇."""
        return self.ids[:, : self.mark + 1]


def make_prompt(vocab: CharVocab, question: str, answer: str) -> Prompt:
    """Encode a question with its answer. ValueError for another form or an empty answer."""
    name = question_name(question)
    if not answer:
        raise ValueError(f"{question!r} needs an answer whose probability can be followed")
    at, text = question.index(name), f"{question}{MASK}{answer}"
    ids = torch.tensor([vocab.encode(text)])
    return Prompt(text, ids, range(at, at + len(name)), len(question))


def other_name(prompt: Prompt, vocab: CharVocab, name: str) -> Int[Tensor, "1 T"]:
    """Return a prompt's ids with another name of the same length; else it is a ValueError."""
    if len(name) != len(prompt.name):
        counts = f"has {len(name)} characters, the name in {prompt.text!r} {len(prompt.name)}"
        raise ValueError(f"{name!r} {counts}")
    ids = prompt.ids.clone()
    ids[0, prompt.name.start : prompt.name.stop] = torch.tensor(vocab.encode(name))
    return ids


@dataclass(frozen=True)
class Pair:
    """Two questions of equal length whose answers begin with different letters.

    `clean` and `corrupted` (1, T) end with the ⁇; `token` and `other` are the first letters of
    their answers.
    """

    prompt: Prompt
    clean: Int[Tensor, "1 T"]
    corrupted: Int[Tensor, "1 T"]
    token: int
    other: int


def make_pairs(
    people: Sequence[tuple[str, str]], vocab: CharVocab, n: int, seed: int = 0
) -> list[Pair]:
    """Match each of the first people with another one of them; at most n pairs."""
    rng, pairs = random.Random(seed), []
    for question, answer in people:
        fits = [(q, a) for q, a in people if len(q) == len(question) and a[0] != answer[0]]
        if fits and len(pairs) < n:
            prompt = make_prompt(vocab, question, answer)
            other_question, other_answer = rng.choice(fits)
            ids = other_name(prompt, vocab, question_name(other_question))
            first, second = vocab.encode(answer[0] + other_answer[0])
            corrupted = ids[:, : prompt.mark + 1]
            pairs.append(Pair(prompt, prompt.question_ids, corrupted, first, second))
    return pairs


@dataclass(frozen=True)
class Batch:
    """Questions of equal length with their answers.

    `rows` are their indices among all people, `ids` and `targets` (B, T) are shifted by one and
    padded with 0; targets are 0 outside the answers. `mark` is the position of the ⁇, `name_end`
    that of the name's last letter.
    """

    rows: list[int]
    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    mark: int
    name_end: int


def length_batches(people: Sequence[tuple[str, str]], vocab: CharVocab) -> Iterator[Batch]:
    """Group people by the length of their question."""
    groups: dict[int, list[int]] = {}
    for i, (question, _) in enumerate(people):
        groups.setdefault(len(question), []).append(i)
    for mark, rows in sorted(groups.items()):
        texts = [f"{people[i][0]}{MASK}{people[i][1]}{MASK}" for i in rows]
        ids = torch.zeros(len(rows), max(map(len, texts)), dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = torch.tensor(vocab.encode(text))
        targets = ids[:, 1:].clone()
        targets[:, :mark] = 0
        name_end = make_prompt(vocab, *people[rows[0]]).name.stop - 1
        yield Batch(rows, ids[:, :-1], targets, mark, name_end)


def parts_of(prompt: Prompt) -> dict[str, list[int]]:
    """Return the positions of each part of a question: the words, the name's parts, the ⁇."""
    name, before = prompt.name, prompt.text[: prompt.name.stop]
    surname = before.rfind(" ") + 1
    return {
        "Where was": list(range(name.start)),
        "first name": list(range(name.start, surname)),
        "surname": list(range(surname, name.stop)),
        "its last letter": [name.stop - 1],
        "whole name": list(name),
        "born?": list(range(name.stop, prompt.mark)),
        "⁇": [prompt.mark],
    }


# ---------------------------------------------------------------- linear probes


@dataclass(frozen=True)
class Probe:
    """A linear map from a state to classes, by ridge regression on standardised channels.

    Only the slopes are penalised. The intercept is each class's frequency, so that an infinite
    penalty always names the most frequent class.
    """

    mean: Float[Tensor, " C"]
    scale: Float[Tensor, " C"]
    weights: Float[Tensor, "C k"]
    intercept: Float[Tensor, " k"]

    @classmethod
    def fit(
        cls,
        states: Float[Tensor, "n C"],
        classes: Int[Tensor, " m"],
        k: int,
        penalty: float = 100.0,
        solve: Callable[[Tensor, Tensor, float], Tensor] = fit_linear,
    ) -> "Probe":
        """Learn which of `k` classes each state belongs to, by `solve(x, y, penalty)`."""
        if len(states) != len(classes):
            counts = f"{len(states)} states and {len(classes)} classes"
            raise ValueError(f"{counts}: one each is needed")
        mean, scale = states.mean(0), states.std(0) + 1e-6
        x, y = ((states - mean) / scale).double(), F.one_hot(classes, k).double()
        intercept = y.mean(0)  # x has mean 0
        weights = solve(x, y - intercept, penalty)
        return cls(mean, scale, weights.float(), intercept.float())

    def correct(self, states: Float[Tensor, "n C"], classes: Int[Tensor, " n"]) -> list[bool]:
        """Return for each state whether its own class gets the largest number."""
        x = (states - self.mean) / self.scale
        return ((x @ self.weights + self.intercept).argmax(1) == classes).tolist()
