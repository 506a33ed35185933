"""Exercises of notebook 11: a merge of byte pairs, bits a character, GPT-2's fused attention, padding on the left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kt_core.attention import MultiHeadAttention
from kt_course.chapters.pretrained_models.hub.conversion import gpt2_attention
from kt_course.chapters.pretrained_models.hub.padding import left_aligned
from kt_course.chapters.pretrained_models.hub.tokens import Word, bits_per_character, merge_step
from kt_course.exercises.assertions import Wrong, close, describe, fresh_cases, recognise, tensor
from kt_course.exercises.random_cases import draw, fresh_random, letters, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "11_pretrained_models"


# ---------------------------------------------------------------- a merge

WEIGHED = {
    tuple("the"): 3,
    tuple("to"): 9,
    tuple("thin"): 4,
    tuple("oth"): 1,
}  # t h 8 times, t o 9 times
TIED = {
    tuple("low"): 5,
    tuple("lower"): 2,
    tuple("newest"): 6,
    tuple("widest"): 3,
}  # e s and s t, 9 times each
TWICE = {tuple("banana"): 1, tuple("can"): 5, tuple("ab"): 2}
ROW = {tuple("aaa"): 2, ("b",): 1}
ENDS = {("aa", "b"): 1, ("a", "b"): 5, ("a", "bb"): 1}
SPELLED = {("a", "bc"): 3, ("ab", "c"): 3, ("x", "y"): 4}
MEET = {("a", "b"): 5, ("ab",): 2}


def _merged(fn: Callable, words: dict[Word, int], what: str) -> tuple[Any, dict]:
    """(pair, words) that fn gives back for `words`, in the right form; else Wrong."""
    given = dict(words)
    got = fn(given)
    if given != words:
        raise Wrong(
            "it changes the dict that it is given, which its caller still needs: make a new one"
        )
    if not isinstance(got, tuple) or len(got) != 2:
        raise Wrong(
            f"{what}: it gives back {describe(got)} instead of two things, the pair and the words"
        )
    pair, merged = got
    if isinstance(pair, dict):
        raise Wrong("pair and words are exchanged: the pair comes first")
    if isinstance(pair, str):
        raise Wrong(f"the pair is the string {pair!r}: give its two tokens, a tuple of two strings")
    if not isinstance(merged, dict):
        raise Wrong(f"{what}: the words should be a dict, not {describe(merged)}")
    if any(isinstance(word, str) for word in merged):
        raise Wrong(
            "a word in the result is one string: it stays a tuple of tokens, with two of them made one"
        )
    return pair, merged


def check_merge(fn: Callable) -> str:
    pair, merged = _merged(fn, WEIGHED, "words with t h 8 times and t o 9 times")
    if pair == ("t", "h"):
        raise Wrong(
            "it picks t h, which stands in more words, but t o comes more often: a word counts as often as it comes"
        )
    if pair != ("t", "o"):
        raise Wrong(f"t o comes most often, 9 times, and it picks {pair!r}")
    expected = merge_step(WEIGHED)[1]
    if merged == WEIGHED:
        raise Wrong(
            "the words come back as they were: the two tokens have to become one in each of them"
        )
    if set(merged) == set(expected) and merged != expected:
        raise Wrong("the words are right, how often they come is not: that stays what it was")
    if set(merged) < set(expected):
        raise Wrong("words without the pair are lost: they stay as they are")
    if merged != expected:
        raise Wrong(
            f"after merging t o the words are {sorted(merged)[:3]} ..., not {sorted(expected)[:3]} ..."
        )
    pair, merged = _merged(fn, TWICE, "banana")
    if pair == ("a", "n") and merged.get(("b", "an", "a", "n", "a")):
        raise Wrong(
            "banana keeps its second a n: every one in a word is merged, not the first alone"
        )
    if (pair, merged) != merge_step(TWICE):
        raise Wrong(
            f"banana once, can 5 times, ab twice: the pair is {pair!r} and banana becomes another than b an an a"
        )
    pair, merged = _merged(fn, ROW, "a a a")
    if ("a", "aa") in merged:
        raise Wrong("a a a becomes a aa: merging goes from left to right, aa a")
    if merged != merge_step(ROW)[1]:
        raise Wrong(
            "a a a does not become aa a: after a merge go on behind both tokens, and keep what is left over"
        )
    pair, merged = _merged(fn, TIED, "low, lower, newest, widest")
    if pair == ("s", "t"):
        raise Wrong("e s and s t both come 9 times: of those the first in the alphabet wins, e s")
    if (pair, merged) != merge_step(TIED):
        raise Wrong(
            f"for low, lower, newest, widest the pair is {pair!r}, or the words are not those with es made one"
        )
    pair, merged = _merged(fn, SPELLED, "a bc and ab c")
    if pair != ("x", "y"):
        raise Wrong(
            "a bc and ab c are two pairs, though both spell abc: count pairs of tokens, not their text"
        )
    pair, merged = _merged(fn, ENDS, "aa b")
    if ("aab",) in merged or ("abb",) in merged:
        raise Wrong(
            "for the pair a b, aa b or a bb is merged too: compare whole tokens, not pieces of a text"
        )
    if (pair, merged) != merge_step(ENDS):
        raise Wrong(
            "for aa b, a b, a bb and the pair a b the words are wrong: compare two whole tokens"
        )
    _, merged = _merged(fn, MEET, "a b and ab")
    if merged != {("ab",): 7}:
        raise Wrong("a b and ab become the same word, and their counts, 5 and 2, have to be added")
    if fn({("a",): 3}) != (None, {("a",): 3}):
        raise Wrong("words of one token have no pair: give back (None, the words as they are)")
    rng = fresh_random()
    with fresh_cases("right for the examples, not for other words"):
        words = {
            tuple(letters(rng.randint(1, 6), rng).translate(FEW)): rng.randint(1, 9)
            for _ in range(40)
        }
        for _ in range(6):
            expected = merge_step(words)
            if fn(dict(words)) != expected:
                raise Wrong("")
            words = expected[1]
    return "the pair that comes most often, weighed by words, merged from left to right everywhere"


FEW = str.maketrans(
    "abcdefghijklmnopqrstuvwxyz", "abcd" * 6 + "ab"
)  # four letters alone: pairs repeat


# ---------------------------------------------------------------- bits a character

NATS, TOKENS, CHARACTERS = 1.4, 30, 90
SLIPS = {
    "these are nats a character: divide by ln 2, one bit is 0.693 nats": NATS * TOKENS / CHARACTERS,
    "multiplied by ln 2 instead of divided: a nat is 1.44 bits": NATS
    * TOKENS
    / CHARACTERS
    * math.log(2),
    "these are bits a token: the text has three times as many characters": NATS / math.log(2),
    "tokens and characters are exchanged: 30 tokens spell 90 characters, and a character costs less than a token": (
        NATS * CHARACTERS / TOKENS / math.log(2)
    ),
    "these are the bits of the whole text: divide by its characters": NATS * TOKENS / math.log(2),
    "divided by log10(2): nats are natural logarithms, math.log(2)": NATS
    * TOKENS
    / CHARACTERS
    / math.log10(2),
    "this is a perplexity, a number of choices; bits are its logarithm, so no exp and no power": math.exp(
        NATS * TOKENS / CHARACTERS
    ),
    "it takes a logarithm of the loss, which is one already": math.log2(NATS) * TOKENS / CHARACTERS,
}


def check_bits(fn: Callable) -> str:
    def asked(*given: float) -> float:
        got = fn(*given)
        try:
            return float(got)
        except (TypeError, ValueError):
            raise Wrong(f"it gives back {describe(got)} instead of a number") from None

    got = asked(NATS, TOKENS, CHARACTERS)
    for told, value in SLIPS.items():
        if math.isclose(got, value, rel_tol=1e-4):
            raise Wrong(told)
    right = bits_per_character(NATS, TOKENS, CHARACTERS)
    if not math.isclose(got, right, rel_tol=1e-4):
        raise Wrong(
            f"1.4 nats a token, 30 tokens, 90 characters: {got:.3f} instead of {right:.3f} bits a character"
        )
    with fresh_cases("right for the example, not for other losses and lengths"):
        for tokens, more, loss in zip(
            draw(1, 99, 5), draw(0, 300, 5), draw(1, 900, 5), strict=True
        ):
            given = (loss / 100, tokens, tokens + more)
            if not math.isclose(asked(*given), bits_per_character(*given), rel_tol=1e-4):
                raise Wrong("")
    return "nats of all tokens, over ln 2 and the characters"


# ---------------------------------------------------------------- GPT-2's attention

FUSED = {
    "lying": "each part is nn.Linear's own way up, (out, in): GPT-2 computes x @ W, so transpose them before joining",
    "reshaped": "(3C, C) is reshaped to (C, 3C), which mixes all numbers: transpose it, .T",
    "query key exchanged": "the parts stand as key, query, value: query comes first",
    "value first": "the parts stand as value, key, query or value, query, key: it is query, key, value",
    "query value key": "the parts stand as query, value, key: it is query, key, value",
    "by head": "sorted by head, query, key and value of head 0 first: that is GPT-NeoX; GPT-2 has all queries, all keys, all values",
    "one part": "one of the three stands in all places: query, key, value",
}
ORDERS = {
    "query key exchanged": ("key", "query", "value"),
    "value first": ("value", "key", "query"),
    "query value key": ("query", "value", "key"),
    "one part": ("query", "query", "query"),
}
SHAPES = {
    "c_attn.weight": (1, 3),
    "c_attn.bias": (3,),
    "c_proj.weight": (1, 1),
    "c_proj.bias": (1,),
}  # times C


def fused(layer: MultiHeadAttention, slip: str = "", part: str = "weight") -> Tensor:
    """c_attn.weight (C, 3C) or c_attn.bias (3C,) with one mistake of FUSED built in."""
    order = (
        ("value", "query", "key")
        if slip == "value first, then query"
        else ORDERS.get(slip, ("query", "key", "value"))
    )
    three = [getattr(getattr(layer, name), part).detach() for name in order]
    if slip == "by head":
        rows = torch.stack([one.unflatten(0, (layer.n_head, -1)) for one in three], dim=1).flatten(
            0, 2
        )  # (3C, ...)
        return rows.T if rows.ndim == 2 else rows
    if part == "bias":
        return torch.cat(three)
    if slip == "lying":
        return torch.cat(three, dim=1)
    return (
        torch.cat(three).reshape(three[0].size(0), -1) if slip == "reshaped" else torch.cat(three).T
    )


def check_fused(fn: Callable) -> str:
    def asked(layer: MultiHeadAttention) -> dict[str, Tensor]:
        C, got = layer.query.in_features, fn(layer)
        if not isinstance(got, dict):
            raise Wrong(f"it gives back {describe(got)} instead of a dict of tensors by name")
        if missing := [name for name in SHAPES if name not in got]:
            raise Wrong(f"{missing[0]} is missing; there should be {', '.join(SHAPES)}")
        if more := sorted(map(str, set(got) - set(SHAPES))):
            raise Wrong(
                f"{more[0]} is no name of GPT-2's attention; there should be {', '.join(SHAPES)}"
            )
        shapes = {name: tuple(C * n for n in times) for name, times in SHAPES.items()}
        weight = got["c_attn.weight"]
        if isinstance(weight, Tensor) and tuple(weight.shape) == (3 * C, C):
            raise Wrong(
                f"c_attn.weight is {(3 * C, C)} instead of {(C, 3 * C)}: GPT-2 computes x @ W + b, nn.Linear x @ W.T + b; transpose it"
            )
        return {name: tensor(got[name], shapes[name], name) for name in SHAPES}

    layer = randomise(MultiHeadAttention(12, 3), seed=1)
    got, right = asked(layer), gpt2_attention(layer)
    slips = {**FUSED, "value first, then query": FUSED["value first"]}
    recognise(
        got["c_attn.weight"],
        right["c_attn.weight"],
        lambda slip: fused(layer, slip),
        slips,
        "c_attn.weight",
    )
    if not got["c_attn.bias"].any():
        raise Wrong("the bias of c_attn is 0: the three biases are joined as the weights are")
    told = {
        slip: f"the biases are joined otherwise than the weights: {text}"
        for slip, text in slips.items()
    }
    recognise(
        got["c_attn.bias"],
        right["c_attn.bias"],
        lambda slip: fused(layer, slip, "bias"),
        told,
        "c_attn.bias",
    )
    if close(got["c_proj.weight"], layer.proj.weight.detach()):
        raise Wrong(
            "c_proj.weight is nn.Linear's own, (out, in): it is square, so nothing complains; transpose it too"
        )
    for name in ("c_proj.weight", "c_proj.bias"):
        if not close(got[name], right[name]):
            raise Wrong(f"{name} is not that of layer.proj")
    with fresh_cases("right for 3 heads and 12 channels, not for other sizes"):
        for nh, hs in ((1, 3), (4, 2)):
            layer = randomise(MultiHeadAttention(nh * hs, nh))
            got, right = asked(layer), gpt2_attention(layer)
            if not all(close(got[name], right[name]) for name in SHAPES):
                raise Wrong("")
    return "query, key, value side by side in one (C, 3C), everything for x @ W + b"


# ---------------------------------------------------------------- padding

IDX = torch.tensor(
    [[0, 0, 5, 3, 8, 2], [7, 4, 9, 2, 6, 3], [0, 0, 0, 0, 9, 4]]
)  # padded on the left with 0
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])


def check_padding(fn: Callable) -> str:
    def asked(idx: Tensor, mask: Tensor, what: str) -> tuple[Tensor, Tensor]:
        got = fn(idx, mask)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise Wrong(f"it gives back {describe(got)} instead of two tensors, packed and back")
        packed = tensor(got[0], idx.shape, f"packed, for {what},")
        back = tensor(got[1], idx.shape, f"back, for {what},")
        if back.dtype != torch.int64 or packed.dtype != torch.int64:
            raise Wrong(
                "packed and back hold places and ids: int64 both, or gather cannot use them"
            )
        return packed, back

    def rows_match(packed: Tensor, idx: Tensor, mask: Tensor) -> bool:
        return all(
            torch.equal(row[: real.sum()], ids[real])
            for row, ids, real in zip(packed, idx, mask == 1, strict=True)
        )

    def come_back(packed: Tensor, idx: Tensor, back: Tensor, mask: Tensor) -> bool:
        if back.min() < 0 or back.max() >= idx.size(1):
            raise Wrong(
                f"back holds places from {int(back.min())} to {int(back.max())}; a row has 0 to {idx.size(1) - 1}"
            )
        return torch.equal(packed.gather(1, back)[mask == 1], idx[mask == 1])

    packed, back = asked(IDX, MASK, "rows of 4, 6 and 2 tokens in 6 places")
    if torch.equal(packed, IDX):
        raise Wrong("nothing has moved: row 0 still begins with its padding")
    if torch.equal(packed, IDX.flip(1)):
        raise Wrong("the rows are turned round, last token first: the tokens keep their order")
    if all(torch.equal(row, ids.roll(-2)) for row, ids in zip(packed, IDX, strict=True)):
        raise Wrong(
            "every row is moved by 2 places, as row 0 needs it: each row has its own padding"
        )
    if torch.equal(packed, IDX.sort(dim=1, descending=True).values):
        raise Wrong(
            "the ids are sorted by size: sort the places by whether they are padding, not the ids"
        )
    if all(
        torch.equal(row[:n].sort().values, ids[6 - n :].sort().values)
        for row, ids, n in zip(packed, IDX, (4, 6, 2), strict=True)
    ) and not rows_match(packed, IDX, MASK):
        raise Wrong(
            "the tokens come first, in another order than they had: argsort needs stable=True"
        )
    if not rows_match(packed, IDX, MASK):
        raise Wrong(f"row 0 is {packed[0].tolist()}; it should begin with its tokens, 5, 3, 8, 2")
    if not come_back(packed, IDX, back, MASK):
        if come_back(packed, IDX, back.argsort(dim=1), MASK):
            raise Wrong(
                "back is the way there, not the way back: it should tell where in packed each token is; argsort once more"
            )
        raise Wrong(
            "packed.gather(1, back) is not idx again: back[b, t] is the place in packed of token t of row b"
        )
    zeros = IDX.clone()
    zeros[1, 2] = 0  # a token whose id is that of the padding
    if not rows_match(asked(zeros, MASK, "a row with a token of id 0")[0], zeros, MASK):
        raise Wrong(
            "a token with the id 0 is taken for padding: the mask says what is padding, not the id"
        )
    right, right_mask = IDX.flip(1), MASK.flip(1)
    packed, back = asked(right, right_mask, "rows padded on the right")
    if not rows_match(packed, right, right_mask) or not come_back(packed, right, back, right_mask):
        raise Wrong(
            "right for padding on the left, wrong for padding on the right, where nothing has to move"
        )
    rng = torch.Generator().manual_seed(draw(0, 2**40, 1)[0])
    with fresh_cases("right for the examples, not for other lengths"):
        for B, T in ((1, 1), (5, 9), (3, 40)):
            idx = torch.randint(0, 30, (B, T), generator=rng)
            pads = torch.randint(0, T, (B, 1), generator=rng)
            mask = (torch.arange(T) >= pads).long()
            packed, back = asked(idx, mask, "others")
            expected = left_aligned(idx, mask)[0]
            if not torch.equal(
                packed[mask.flip(1) == 1], expected[mask.flip(1) == 1]
            ) or not come_back(packed, idx, back, mask):
                raise Wrong("")
    return "tokens first and in their order, whatever side the padding was on, and the way back"


EXERCISES = (
    Exercise("bpe-merge", NOTEBOOK, "One merge", 3, 15, merge_step, check_merge),
    Exercise(
        "bits-per-character",
        NOTEBOOK,
        "Losses that can be compared",
        1,
        5,
        bits_per_character,
        check_bits,
    ),
    Exercise(
        "gpt2-attention", NOTEBOOK, "Three matrices in one", 3, 12, gpt2_attention, check_fused
    ),
    Exercise(
        "left-padding", NOTEBOOK, "Padding on the wrong side", 3, 15, left_aligned, check_padding
    ),
)
