"""The attention maps of a text, and which characters their rows and columns belong to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kt_core.attention import reach_mask, record_attention
from kt_core.models import GPT, GPTConfig
from kt_core.vocab import MASK, CharVocab
from kt_course._typing import Float
from kt_course.figures.style import visible


@dataclass(frozen=True, eq=False)
class Side:
    """The queries or keys of a layer: characters, or latents by the newest character they know.

    signs: one character each, to be drawn. names: for sentences. at: (n,) positions, -1 for
    the null latent. reach: (n,) the newest position that each may know.
    """

    signs: list[str]
    names: list[str]
    at: np.ndarray
    reach: np.ndarray


@dataclass(frozen=True, eq=False)
class Layer:
    """weights: (n_head, T_query, T_key). allowed: (T_query, T_key) bool, where a query may look."""

    weights: np.ndarray
    allowed: np.ndarray
    queries: Side
    keys: Side

    def over_text(
        self, weights: Float[np.ndarray, " T_key"], query: int, T: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put one query's weights on the text: (T,) weights, and (T,) bool, which
        characters the query may know of at all. The null latent's weight is on none."""
        on_text = np.zeros(T)
        known = self.keys.at >= 0
        np.add.at(on_text, self.keys.at[known], weights[known])
        return on_text, np.arange(T) <= self.queries.reach[query]

    def writer(self, T: int) -> int:
        """Return the query that predicts the character after the text: the last, or newest
        latent."""
        whole = np.flatnonzero(self.queries.reach < T)
        return int(whole[-1]) if len(whole) else 0


@dataclass(frozen=True, eq=False)
class Reading:
    """A text as far as the model reads it, its maps, and a notice where it was truncated."""

    text: str
    layers: list[Layer]
    notice: str = ""

    @property
    def signs(self) -> list[str]:
        """The characters, with signs for white space."""
        return visible(self.text)


def _characters(text: str) -> Side:
    place = np.arange(len(text))
    signs = visible(text)
    return Side(signs, [f"“{sign}” at {i}" for i, sign in enumerate(signs)], place, place)


def _latents(text: str, reach: np.ndarray, null: bool = False) -> Side:
    newest = reach.clip(max=len(text) - 1)
    signs = visible([text[i] for i in newest])
    names = [
        f"latent {i} (up to “{sign}” at {at})"
        for i, (sign, at) in enumerate(zip(signs, newest, strict=True))
    ]
    if null:
        signs, names = ["∅", *signs], ["the null latent", *names]
        newest, reach = np.insert(newest, 0, -1), np.insert(reach, 0, -1)
    return Side(signs, names, newest, reach)


def typed(text: str) -> str:
    """Replace ?? by ⁇, which no keyboard has (in ??? the last two); ValueError if empty."""
    text = re.sub(r"\?\?(?!\?)", MASK, text)
    if not text:
        raise ValueError("The text is empty: type at least one character.")
    return text


@torch.no_grad()
def read(model: GPT, vocab: CharVocab, text: str) -> Reading:
    """Read `text`, as much of it as fits the block, and keep all attention weights.

    ValueError for an empty text, an unknown character, or a vocabulary of another model.
    """
    if len(vocab) != model.config.vocab_size:
        raise ValueError(
            f"the model has {model.config.vocab_size} characters, the vocabulary {len(vocab)}: "
            "they do not belong together"
        )
    ids = vocab.encode(typed(text))
    block = model.config.block_size
    notice = ""
    if len(ids) > block:
        notice = (
            f"The text has {len(ids)} characters, the model reads {block}: the rest is cut off."
        )
    ids = ids[:block]
    text, was_training = vocab.decode(ids), model.training
    model.eval()
    try:
        with record_attention(model) as maps:
            model(torch.tensor([ids], device=model.head.weight.device))
    finally:
        model.train(was_training)
    return explain(model.config, text, [m[0].float().cpu().numpy() for m in maps], notice)


def explain(
    config: GPTConfig, text: str, weights: Sequence[np.ndarray], notice: str = ""
) -> Reading:
    """Return the maps of the layers, (n_head, T_query, T_key) each, with their two sides."""
    characters = _characters(text)
    if not config.causal:  # reads both ways: every query looks at the whole text
        whole = replace(characters, reach=np.full(len(text), len(text) - 1))
        sides = [(whole, characters)] * len(weights)
    elif not config.has_latents:
        sides = [(characters, characters)] * len(weights)
    else:
        reach = config.stride * (np.arange(weights[0].shape[1]) + 1) - 1
        latents = _latents(text, reach)
        read_by_up = _latents(text, reach, null=weights[-1].shape[2] > len(reach))
        sides = [
            (latents, characters),
            *[(latents, latents)] * (len(weights) - 2),
            (characters, read_by_up),
        ]
    layers = []
    for each, (queries, keys) in zip(weights, sides, strict=True):
        allowed = reach_mask(torch.tensor(queries.reach), torch.tensor(keys.reach)).numpy()
        layers.append(Layer(each, allowed, queries, keys))
    return Reading(text, layers, notice)
