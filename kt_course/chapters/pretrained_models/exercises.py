"""Exercises of notebook 11: BERT from its weights, byte pairs, GPT-2's attention, padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kt_core.attention import MultiHeadAttention
from kt_course.chapters.pretrained_models import solutions
from kt_course.chapters.pretrained_models.hub.conversion import gpt2_attention
from kt_course.chapters.pretrained_models.hub.padding import left_aligned
from kt_course.chapters.pretrained_models.hub.tokens import Word, bits_per_character, merge_step
from kt_course.exercises.assertions import Wrong, close, describe, fresh_cases, tensor
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.diagnoses import Diagnoses, diagnoses
from kt_course.exercises.random_cases import (
    draw,
    fresh_generator,
    fresh_random,
    letters,
    numbers,
    randomise,
)

CHAPTER = Comparison(solutions, "11_pretrained_models")


# ---------------------------------------------------------------- a merge


def words(**counts: int) -> dict[Word, int]:
    """Words with their counts; _ separates tokens of several characters."""
    return {tuple(word.split("_") if "_" in word else word): n for word, n in counts.items()}


WEIGHTED = words(the=3, to=9, thin=4, oth=1)  # t h 8 times, t o 9 times
TIED = words(low=5, lower=2, newest=6, widest=3)  # e s and s t, 9 times each
TWICE = words(banana=1, can=5, ab=2)
ROW = words(aaa=2, b=1)
ENDS = words(aa_b=1, a_b=5, a_bb=1)
SPELLED = words(a_bc=3, ab_c=3, x_y=4)
SAME_WORD = {("a", "b"): 5, ("ab",): 2}
FEW = str.maketrans("abcdefghijklmnopqrstuvwxyz", "abcd" * 6 + "ab")  # so that pairs repeat


def merge_with(fn: Callable, words: dict[Word, int], case: str) -> tuple[Any, dict]:
    """Return (pair, words) that fn gives back for `words`; Wrong if they have another form."""
    wrong, argument = diagnoses(__file__, "bpe-merge"), dict(words)
    got = fn(argument)
    mistakes = {
        "in place": argument != words,
        "not two": not isinstance(got, tuple) or len(got) != 2,
    }
    wrong.reject(mistakes, case=case, got=describe(got))
    pair, merged = got
    mistakes = {
        "exchanged": isinstance(pair, dict),
        "string": isinstance(pair, str),
        "no dict": not isinstance(merged, dict),
        "word strings": any(isinstance(word, str) for word in merged),
    }
    wrong.reject(mistakes, case=case, pair=pair, got=describe(merged))
    return pair, merged


@CHAPTER.checked("bpe-merge", forbidden=(merge_step,))
def check_merge(fn: Callable) -> str:
    wrong = diagnoses(__file__, "bpe-merge")
    pair, merged = merge_with(fn, WEIGHTED, "words with t h 8 times and t o 9 times")
    expected = merge_step(WEIGHTED)[1]
    mistakes = {
        "not weighed": pair == ("t", "h"),
        "pair": pair != ("t", "o"),
        "untouched": merged == WEIGHTED,
        "counts": set(merged) == set(expected) and merged != expected,
        "lost": set(merged) < set(expected),
        "words": merged != expected,
    }
    wrong.reject(mistakes, pair=pair, words=sorted(merged)[:3], expected=sorted(expected)[:3])
    pair, merged = merge_with(fn, TWICE, "banana")
    first = pair == ("a", "n") and merged.get(("b", "an", "a", "n", "a"))
    wrong.reject({"first": first, "banana": (pair, merged) != merge_step(TWICE)}, pair=pair)
    _, merged = merge_with(fn, ROW, "a a a")
    wrong.reject({"from right": ("a", "aa") in merged, "row": merged != merge_step(ROW)[1]})
    pair, merged = merge_with(fn, TIED, "low, lower, newest, widest")
    mistakes = {"last of tie": pair == ("s", "t"), "tie": (pair, merged) != merge_step(TIED)}
    wrong.reject(mistakes, pair=pair)
    pair, _ = merge_with(fn, SPELLED, "a bc and ab c")
    wrong.reject({"spelling": pair != ("x", "y")})
    pair, merged = merge_with(fn, ENDS, "aa b")
    pieces = ("aab",) in merged or ("abb",) in merged
    wrong.reject({"pieces": pieces, "ends": (pair, merged) != merge_step(ENDS)})
    _, merged = merge_with(fn, SAME_WORD, "a b and ab")
    wrong.reject({"overwritten": merged != {("ab",): 7}})
    wrong.reject({"no pair": fn({("a",): 3}) != (None, {("a",): 3})})
    with fresh_cases("right for the examples, not for other words"):
        rng = fresh_random()
        texts = [letters(rng.randint(1, 6), rng).translate(FEW) for _ in range(40)]
        corpus = {tuple(text): rng.randint(1, 9) for text in texts}
        for _ in range(6):
            expected = merge_step(corpus)
            assert fn(dict(corpus)) == expected
            corpus = expected[1]
    return "the pair that comes most often, weighed by words, merged from left to right everywhere"


# ---------------------------------------------------------------- bits per character

NATS, TOKENS, CHARACTERS = 1.4, 30, 90
PER_CHARACTER = NATS * TOKENS / CHARACTERS
BITS_MISTAKES = {
    "nats": PER_CHARACTER,
    "times": PER_CHARACTER * math.log(2),
    "token": NATS / math.log(2),
    "exchanged": NATS * CHARACTERS / TOKENS / math.log(2),
    "text": NATS * TOKENS / math.log(2),
    "log10": PER_CHARACTER / math.log10(2),
    "perplexity": math.exp(PER_CHARACTER),
    "log": math.log2(NATS) * TOKENS / CHARACTERS,
}


@CHAPTER.checked("bits-per-character", forbidden=(bits_per_character,))
def check_bits(fn: Callable) -> str:
    wrong = diagnoses(__file__, "bits-per-character")

    def answer(*args: float) -> float:
        got = fn(*args)
        try:
            return float(got)
        except (TypeError, ValueError):
            raise wrong("no number", got=describe(got)) from None

    got, right = answer(NATS, TOKENS, CHARACTERS), bits_per_character(NATS, TOKENS, CHARACTERS)
    for mistake, text in wrong.texts("values").items():
        if math.isclose(got, BITS_MISTAKES[mistake], rel_tol=1e-4):
            raise Wrong(text)
    wrong.reject({"value": not math.isclose(got, right, rel_tol=1e-4)}, got=got, right=right)
    with fresh_cases("right for the example, not for other losses and lengths"):
        sizes = zip(draw(1, 99, 5), draw(0, 300, 5), draw(1, 900, 5), strict=True)
        for tokens, more, loss in sizes:
            args = (loss / 100, tokens, tokens + more)
            assert math.isclose(answer(*args), bits_per_character(*args), rel_tol=1e-4)
    return "nats of all tokens, over ln 2 and the characters"


# ---------------------------------------------------------------- GPT-2's attention

# Shapes, times C.
SHAPES = {
    "c_attn.weight": (1, 3),
    "c_attn.bias": (3,),
    "c_proj.weight": (1, 1),
    "c_proj.bias": (1,),
}


def attention_weights_of(
    fn: Callable, layer: MultiHeadAttention, wrong: Diagnoses
) -> dict[str, Tensor]:
    """Return the dict that fn gives back for `layer`; Wrong if names or shapes are not GPT-2's."""
    C, got, names = layer.query.in_features, fn(layer), ", ".join(SHAPES)
    wrong.reject({"no dict": not isinstance(got, dict)}, got=describe(got))
    missing, unknown = [n for n in SHAPES if n not in got], sorted(map(str, set(got) - set(SHAPES)))
    wrong.reject({"missing": missing}, name=(missing or [""])[0], names=names)
    wrong.reject({"unknown": unknown}, name=(unknown or [""])[0], names=names)
    weight, expected = got["c_attn.weight"], {n: tuple(C * k for k in SHAPES[n]) for n in SHAPES}
    is_linear = isinstance(weight, Tensor) and tuple(weight.shape) == (3 * C, C)
    wrong.reject({"orientation": is_linear}, shape=(3 * C, C), expected=expected["c_attn.weight"])
    return {name: tensor(got[name], expected[name], name) for name in SHAPES}


@CHAPTER.checked("gpt2-attention", forbidden=(gpt2_attention,))
def check_gpt2_attention(fn: Callable) -> str:
    wrong = diagnoses(__file__, "gpt2-attention")
    layer = randomise(MultiHeadAttention(12, 3), seed=1)
    got, right = attention_weights_of(fn, layer, wrong), gpt2_attention(layer)
    weight, bias = got["c_attn.weight"], got["c_attn.bias"]
    wrong.compare(gpt2_attention, weight, lambda f: f(layer)["c_attn.weight"], "c_attn.weight")
    wrong.reject({"no bias": not bias.any()})
    try:
        wrong.compare(gpt2_attention, bias, lambda f: f(layer)["c_attn.bias"], "c_attn.bias")
    except Wrong as error:
        raise wrong("biases", text=error) from None
    wrong.reject({"square": close(got["c_proj.weight"], layer.proj.weight.detach())})
    for name in ("c_proj.weight", "c_proj.bias"):
        wrong.reject({"proj": not close(got[name], right[name])}, name=name)
    with fresh_cases("right for 3 heads and 12 channels, not for other sizes"):
        for n_head, head_dim in ((1, 3), (4, 2)):
            layer = randomise(MultiHeadAttention(n_head * head_dim, n_head))
            got, right = attention_weights_of(fn, layer, wrong), gpt2_attention(layer)
            assert all(close(got[name], right[name]) for name in SHAPES)
    return "query, key, value side by side in one (C, 3C), everything for x @ W + b"


# ---------------------------------------------------------------- padding

IDX = torch.tensor([[0, 0, 5, 3, 8, 2], [7, 4, 9, 2, 6, 3], [0, 0, 0, 0, 9, 4]])  # 0 is padding
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])


def rows_match(packed: Tensor, idx: Tensor, mask: Tensor) -> bool:
    """Does each row of `packed` begin with the row's tokens, in their order?"""
    rows = zip(packed, idx, mask == 1, strict=True)
    return all(torch.equal(row[: real.sum()], ids[real]) for row, ids, real in rows)


def tokens_match(packed: Tensor, idx: Tensor, mask: Tensor) -> bool:
    """Does each row of `packed` begin with the row's tokens, in any order?"""
    rows = zip(packed, idx, mask == 1, strict=True)
    return all(
        torch.equal(row[: r.sum()].sort().values, ids[r].sort().values) for row, ids, r in rows
    )


@CHAPTER.checked("left-padding", forbidden=(left_aligned,))
def check_padding(fn: Callable) -> str:
    wrong = diagnoses(__file__, "left-padding")

    def answer(idx: Tensor, mask: Tensor, case: str) -> tuple[Tensor, Tensor]:
        got = fn(idx, mask)
        is_pair = isinstance(got, (tuple, list)) and len(got) == 2
        wrong.reject({"not two": not is_pair}, got=describe(got))
        packed = tensor(got[0], idx.shape, f"packed, for {case},")
        back = tensor(got[1], idx.shape, f"back, for {case},")
        wrong.reject({"type": back.dtype != torch.int64 or packed.dtype != torch.int64})
        return packed, back

    def comes_back(packed: Tensor, idx: Tensor, back: Tensor, mask: Tensor) -> bool:
        low, high, last = int(back.min()), int(back.max()), idx.size(1) - 1
        wrong.reject({"range": low < 0 or high > last}, low=low, high=high, last=last)
        return torch.equal(packed.gather(1, back)[mask == 1], idx[mask == 1])

    packed, back = answer(IDX, MASK, "rows of 4, 6 and 2 tokens in 6 positions")
    matches = rows_match(packed, IDX, MASK)
    mistakes = {
        "nothing moved": torch.equal(packed, IDX),
        "reversed": torch.equal(packed, IDX.flip(1)),
        "all by two": torch.equal(packed, IDX.roll(-2, dims=1)),
        "sorted": torch.equal(packed, IDX.sort(dim=1, descending=True).values),
        "order": tokens_match(packed, IDX, MASK) and not matches,
        "tokens": not matches,
    }
    wrong.reject(mistakes, row=packed[0].tolist())
    if not comes_back(packed, IDX, back, MASK):
        is_inverse = comes_back(packed, IDX, back.argsort(dim=1), MASK)
        raise wrong("inverse" if is_inverse else "back")
    zeros = IDX.clone()
    zeros[1, 2] = 0  # a token whose id is that of the padding
    packed, _ = answer(zeros, MASK, "a row with a token of id 0")
    wrong.reject({"id 0": not rows_match(packed, zeros, MASK)})
    idx, mask = IDX.flip(1), MASK.flip(1)
    packed, back = answer(idx, mask, "rows padded on the right")
    is_right = rows_match(packed, idx, mask) and comes_back(packed, idx, back, mask)
    wrong.reject({"right padding": not is_right})
    with fresh_cases("right for the examples, not for other lengths"):
        rng = fresh_generator()
        for B, T in ((1, 1), (5, 9), (3, 40)):
            idx = torch.randint(0, 30, (B, T), generator=rng)
            mask = (torch.arange(T) >= torch.randint(0, T, (B, 1), generator=rng)).long()
            packed, back = answer(idx, mask, "others")
            is_token, expected = mask.flip(1) == 1, left_aligned(idx, mask)[0]
            assert torch.equal(packed[is_token], expected[is_token])
            assert comes_back(packed, idx, back, mask)
    return "tokens first and in their order, whatever side the padding was on, and the way back"


# ---------------------------------------------------------------- BERT


def bert_weights(seed: int, C: int, n_layer: int) -> dict[str, Tensor]:
    """Return random weights with the names of a BertModel, in float64."""
    sizes = {
        "attention.self.query": (C, C),
        "attention.self.key": (C, C),
        "attention.self.value": (C, C),
        "attention.output.dense": (C, C),
        "intermediate.dense": (3 * C, C),
        "output.dense": (C, 3 * C),
        "attention.output.LayerNorm": (C,),
        "output.LayerNorm": (C,),
    }
    layers = {f"encoder.layer.{i}.{k}": v for i in range(n_layer) for k, v in sizes.items()}
    weights = {}
    for k, (name, shape) in enumerate((layers | {"embeddings.LayerNorm": (C,)}).items()):
        weights[f"{name}.weight"] = numbers(*shape, seed=seed + 2 * k)
        weights[f"{name}.bias"] = numbers(shape[0], seed=seed + 2 * k + 1)
    for k, (name, rows) in enumerate({"word": 9, "position": 12, "token_type": 2}.items()):
        # small, so that LayerNorm's epsilon shows
        weights[f"embeddings.{name}_embeddings.weight"] = 3e-3 * numbers(rows, C, seed=seed - k - 1)
    return weights


@CHAPTER.exercise("bert-forward")
def bert_of(answer: Callable, seed: int) -> Results:
    n_head, d, T = (2, 3, 6) if seed == 0 else (1 + seed % 3, 2 + seed % 4, 3 + seed % 8)
    weights = bert_weights(1000 + seed, n_head * d, 2)
    ids = torch.randint(9, (2, T), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(2, T, dtype=torch.long)
    mask[1, T - 2 :] = 0
    hidden = answer(weights, ids, mask, n_head)
    if not isinstance(hidden, Tensor) or hidden.shape != (2, T, n_head * d):
        raise Wrong(f"hidden should be a tensor (B, T, C), not {describe(hidden)}")
    return {"the hidden states of the tokens": hidden[mask == 1]}


@CHAPTER.exercise("mean-pooling")
def pooling_of(answer: Callable, seed: int) -> Results:
    T = 5 if seed == 0 else 3 + seed % 7
    mask = torch.ones(3, T, dtype=torch.long)
    mask[1, T - 2 :] = 0
    return {"the vectors": tensor(answer(numbers(3, T, 4, seed=seed), mask), (3, 4), "the result")}


EXERCISES = CHAPTER.exercises()
