"""Pairs of sequences: their tokens, and where each token of an answer comes from."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from kt_course._typing import Int, Tensor

PAD, START, END = "□", "▶", "■"  # ids 0, 1, 2 of every vocabulary


class TokenVocab:
    """One id per token, a character or a word: □ pad 0, ▶ start 1, ■ end 2, then `tokens`.

    Raises ValueError for a token that comes twice, is empty, or is one of the three.
    """

    pad_id, start_id, end_id = 0, 1, 2

    def __init__(self, tokens: Iterable[str]):
        self.tokens = (PAD, START, END, *tokens)
        self.id_of = {token: i for i, token in enumerate(self.tokens)}
        if "" in self.id_of or len(self.id_of) != len(self.tokens):
            bad = next(t for i, t in enumerate(self.tokens) if not t or t in self.tokens[:i])
            rule = f"is empty, comes twice or is one of {PAD} {START} {END}"
            raise ValueError(f"TokenVocab: token {bad!r} {rule}")

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Look up the ids of `tokens`; ValueError names an unknown one and its position."""
        for i, token in enumerate(tokens):
            if token not in self.id_of:
                raise ValueError(
                    f"token {token!r} at position {i} is not in this vocabulary of {len(self)}"
                )
        return [self.id_of[token] for token in tokens]

    def decode(self, ids: Iterable[int]) -> tuple[str, ...]:
        """Look up the tokens of `ids` (ints or a 1-d tensor); ValueError for an unknown id."""
        ids = [int(i) for i in ids]
        if outside := [i for i in ids if not 0 <= i < len(self)]:
            raise ValueError(f"id {outside[0]}: ids of this vocabulary are 0 to {len(self) - 1}")
        return tuple(self.tokens[i] for i in ids)

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Pair:
    """Source and target tokens; `alignment[j]` holds the source positions that make target[j]."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    alignment: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        if len(self.alignment) != len(self.target):
            sizes = f"{len(self.alignment)} entries for {len(self.target)} target tokens"
            raise ValueError(f"alignment has {sizes}")


@dataclass(frozen=True)
class Toy:
    """A task: `draw` makes one pair from a generator; `between` separates tokens in a text."""

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
        """Draw n pairs; the same ones for the same seed, on every machine."""
        rng = random.Random(f"{self.name} {seed}")
        return [self.draw(rng) for _ in range(n)]

    def split(self, n_train: int, n_test: int, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
        """Draw training and test pairs; every test source is new, or it is a ValueError."""
        train, test = self.pairs(n_train, seed), []
        sources = {pair.source for pair in train}
        rng = random.Random(f"{self.name} test {seed}")
        for _ in range(100 * n_test):
            if len(test) == n_test:
                break
            pair = self.draw(rng)
            if pair.source not in sources:
                sources.add(pair.source)
                test.append(pair)
        if len(test) < n_test:
            count = f"only {len(test)} of {n_test} test pairs are new"
            raise ValueError(f"{self.name}: {count}: ask for fewer, or train on fewer")
        return train, test

    def text(self, tokens: Sequence[str]) -> str:
        """Join tokens to a text."""
        return self.between.join(tokens)

    def tensors(self, pairs: Sequence[Pair]) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B T"]]:
        """Encode both sides of `pairs`, padded on the right with 0; without ▶ and ■."""
        return (
            pad_rows([self.source_vocab.encode(pair.source) for pair in pairs]),
            pad_rows([self.target_vocab.encode(pair.target) for pair in pairs]),
        )


def pad_rows(rows: Sequence[Sequence[int]]) -> Int[Tensor, "B T"]:
    """Put rows of ids into one tensor, as wide as the longest row, with 0 after the others."""
    if not rows:
        raise ValueError("no rows: a batch needs at least one")
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
