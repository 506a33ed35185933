"""Pairs of sequences: their tokens, where each token of an answer comes from, and tasks that draw pairs by rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from kt_core._typing import Int, Tensor

PAD, START, END = "□", "▶", "■"  # ids 0, 1, 2 of every vocabulary


class TokenVocab:
    """One id a token, a character or a word: □ pad 0, ▶ start 1, ■ end 2, then `tokens` in their order.

    Raises ValueError for a token that comes twice, is empty, or is one of the three.
    """

    pad_id, start_id, end_id = 0, 1, 2

    def __init__(self, tokens: Iterable[str]):
        self.tokens = (PAD, START, END, *tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if "" in self._ids or len(self._ids) != len(self.tokens):
            odd = next(t for i, t in enumerate(self.tokens) if not t or t in self.tokens[:i])
            raise ValueError(
                f"TokenVocab: token {odd!r} is empty, comes twice or is one of {PAD} {START} {END}"
            )

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Ids of `tokens`; ValueError names an unknown one and its place."""
        for at, token in enumerate(tokens):
            if token not in self._ids:
                raise ValueError(
                    f"token {token!r} at place {at} is not among the {len(self)} of this vocabulary"
                )
        return [self._ids[token] for token in tokens]

    def decode(self, ids: Iterable[int]) -> tuple[str, ...]:
        """Tokens of `ids` (whole numbers or a 1-d tensor), the three special ones too; ValueError for others."""
        ids = [int(i) for i in ids]
        if outside := [i for i in ids if not 0 <= i < len(self)]:
            raise ValueError(f"id {outside[0]}: ids of this vocabulary are 0 to {len(self) - 1}")
        return tuple(self.tokens[i] for i in ids)

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Pair:
    """Source and target tokens; `alignment[j]`: the places of the source that target[j] is made of, () if of none."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    alignment: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        if len(self.alignment) != len(self.target):
            raise ValueError(
                f"alignment has {len(self.alignment)} entries for {len(self.target)} target tokens"
            )


@dataclass(frozen=True)
class Toy:
    """A task: `draw` makes one pair from a generator; `between` is what stands between tokens of a written text."""

    name: str
    draw: Callable[[random.Random], Pair]
    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]
    between: str = ""

    @cached_property
    def source_vocab(self) -> TokenVocab:
        return TokenVocab(self.source_tokens)

    @cached_property
    def target_vocab(self) -> TokenVocab:
        return TokenVocab(self.target_tokens)

    def pairs(self, n: int, seed: int = 0) -> list[Pair]:
        """n pairs; the same ones for the same seed, on every machine."""
        rng = random.Random(f"{self.name} {seed}")
        return [self.draw(rng) for _ in range(n)]

    def split(self, n_train: int, n_test: int, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
        """(train, test): no source of the test is in train, and none comes twice in the test."""
        train = self.pairs(n_train, seed)
        known, test, rng = (
            {pair.source for pair in train},
            [],
            random.Random(f"{self.name} test {seed}"),
        )
        for _ in range(100 * n_test):
            if len(test) == n_test:
                break
            pair = self.draw(rng)
            if pair.source not in known:
                known.add(pair.source)
                test.append(pair)
        if len(test) < n_test:
            raise ValueError(
                f"{self.name}: only {len(test)} of {n_test} test pairs are new: ask for fewer, or train on fewer"
            )
        return train, test

    def text(self, tokens: Sequence[str]) -> str:
        """Tokens as a text to read."""
        return self.between.join(tokens)

    def tensors(self, pairs: Sequence[Pair]) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B T"]]:
        """Ids of both sides, (B, S) and (B, T), padded on the right with 0; without ▶ and ■."""
        source = [self.source_vocab.encode(pair.source) for pair in pairs]
        target = [self.target_vocab.encode(pair.target) for pair in pairs]
        return padded(source), padded(target)


def padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "B T"]:
    """Rows of ids as one tensor, as wide as the longest row, 0 behind the others."""
    if not rows:
        raise ValueError("no rows: a batch needs one at least")
    out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for filled, row in zip(out, rows, strict=True):
        filled[: len(row)] = torch.tensor(row, dtype=torch.long)
    return out
