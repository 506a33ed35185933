"""Exercises of notebook 11: what each answer is run on. The texts are in exercises.toml."""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from kt_core.attention import MultiHeadAttention
from kt_course.chapters.pretrained_models import solutions
from kt_course.chapters.pretrained_models.hub.padding import left_aligned
from kt_course.exercises.assertions import Wrong, any_tensor, describe, number_of, parts, tensor
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.diagnoses import Diagnoses
from kt_course.exercises.random_cases import integers, letters, numbers, randomise

CHAPTER = Comparison(solutions, "11_pretrained_models")
TEXTS = CHAPTER.texts
Word = tuple[str, ...]

# ---------------------------------------------------------------- a merge


def words(**counts: int) -> dict[Word, int]:
    """Words with their counts; _ separates tokens of several characters."""
    return {tuple(word.split("_") if "_" in word else word): n for word, n in counts.items()}


CORPORA = {
    "words with t h 8 times and t o 9 times": words(the=3, to=9, thin=4, oth=1),
    "low, lower, newest, widest": words(low=5, lower=2, newest=6, widest=3),  # e s, s t: 9 each
    "banana once, can 5 times, ab twice": words(banana=1, can=5, ab=2),
    "a a a": words(aaa=2, b=1),
    "aa b, a b, a bb": words(aa_b=1, a_b=5, a_bb=1),
    "a bc, ab c, x y": words(a_bc=3, ab_c=3, x_y=4),
    "a b and ab": {("a", "b"): 5, ("ab",): 2},
    "yes, no": words(yes=2, no=2),  # y e is seen first, e s is first in the alphabet
    "a alone": {("a",): 3},
}
FEW = str.maketrans("abcdefghijklmnopqrstuvwxyz", "abcd" * 6 + "ab")  # so that pairs repeat


def random_corpora(seed: int) -> dict[str, dict[Word, int]]:
    """Return random words of four letters, and the same after some merges."""
    rng, corpora = random.Random(seed), {}
    texts = [letters(rng.randint(1, 6), rng).translate(FEW) for _ in range(40)]
    corpus = {tuple(text): rng.randint(1, 9) for text in texts}
    for n in range(6):
        corpora[f"{n} merges"] = corpus
        corpus = solutions.merge(corpus)[1]
    return corpora


@CHAPTER.exercise("bpe-merge")
def merge_of(answer: Callable, seed: int) -> Results:
    results: Results = {}
    for case, corpus in (random_corpora(seed) if seed else CORPORA).items():
        argument = dict(corpus)
        result = answer(argument)
        Diagnoses(TEXTS["bpe-merge"]).reject({"in_place": argument != corpus})
        pair, merged = parts(result, 2, TEXTS["bpe-merge"]["not_two"])
        mistakes = {
            "exchanged": isinstance(pair, dict),
            "string": isinstance(pair, str),
            "no_dict": not isinstance(merged, dict),
            "word_strings": any(isinstance(word, str) for word in merged),
        }
        Diagnoses(TEXTS["bpe-merge"]).reject(mistakes, pair=pair, result=describe(merged))
        results[f"the pair for {case}"] = str(pair)
        results[f"the words for {case}"] = str(sorted(merged.items()))
    return results


# ---------------------------------------------------------------- bits per character


@CHAPTER.exercise("bits-per-character")
def bits_of(answer: Callable, seed: int) -> Results:
    rng = random.Random(seed)
    loss, tokens, characters = 1.4, 30, 90
    if seed:
        loss, tokens = rng.uniform(0.01, 9), rng.randint(1, 99)
        characters = tokens + rng.randint(0, 300)
    result = number_of(answer(loss, tokens, characters), "the result")
    return {"the cost of 1.4 nats per token, 30 tokens and 90 characters": result}


# ---------------------------------------------------------------- GPT-2's attention


@CHAPTER.exercise("gpt2-attention")
def fused_of(answer: Callable, seed: int) -> Results:
    results, texts = {}, TEXTS["gpt2-attention"]
    for n_head, d in ((1, 3), (4, 2)) if seed else ((3, 4),):
        layer = randomise(MultiHeadAttention(n_head * d, n_head), seed + 1)
        fused, names = answer(layer), solutions.fuse(layer).keys()
        if not isinstance(fused, dict):
            raise Wrong(texts["no_dict"].format(result=describe(fused)))
        for key, wrong in (("missing", names - fused.keys()), ("unknown", fused.keys() - names)):
            if wrong:
                raise Wrong(texts[key].format(name=min(map(str, wrong))))
        results |= {f"{name} ({n_head} heads)": any_tensor(fused[name], name) for name in names}
    return results


# ---------------------------------------------------------------- padding

IDX = torch.tensor([[0, 0, 5, 3, 8, 2], [7, 4, 9, 2, 6, 3], [0, 0, 0, 0, 9, 4]])  # 0 is padding
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
WITH_ZERO = IDX.clone()
WITH_ZERO[1, 2] = 0  # a token whose id is that of the padding
BATCHES = {
    "rows of 4, 6 and 2 tokens in 6 positions": (IDX, MASK),
    "a row with a token of id 0": (WITH_ZERO, MASK),
    "rows padded on the right": (IDX.flip(1), MASK.flip(1)),
}


def random_batches(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return random ids, padded on the left by random amounts."""
    batches = {}
    for B, T in ((1, 1), (5, 9), (3, 40)):
        mask = (torch.arange(T) >= integers(0, T - 1, B, 1, seed=seed + 1)).long()
        batches[f"{B} x {T}"] = integers(0, 29, B, T, seed=seed), mask
    return batches


@CHAPTER.exercise("left-padding", forbidden=(left_aligned,))
def packing_of(answer: Callable, seed: int) -> Results:
    results: Results = {}
    for case, (idx, mask) in (random_batches(seed) if seed else BATCHES).items():
        pair = parts(answer(idx, mask), 2, TEXTS["left-padding"]["not_two"])
        names = f"packed, for {case},", f"back, for {case},"
        packed, back = (tensor(x, idx.shape, name) for x, name in zip(pair, names, strict=True))
        low, high, last = int(back.min()), int(back.max()), idx.size(1) - 1
        mistakes = {
            "type": back.dtype != torch.int64 or packed.dtype != torch.int64,
            "range": low < 0 or high > last,
        }
        Diagnoses(TEXTS["left-padding"]).reject(mistakes, low=low, high=high, last=last)
        rows = [row[:n].tolist() for row, n in zip(packed, mask.sum(1), strict=True)]
        results[f"the beginning of each row of {names[0]}"] = str(rows)
        tokens = packed.gather(1, back)[mask == 1]
        results[f"the tokens of packed.gather(1, back), for {case},"] = str(tokens.tolist())
    return results


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
    hidden = tensor(answer(weights, ids, mask, n_head), (2, T, n_head * d), "the result")
    return {"the hidden states of the tokens": hidden[mask == 1]}


@CHAPTER.exercise("mean-pooling")
def pooling_of(answer: Callable, seed: int) -> Results:
    T = 5 if seed == 0 else 3 + seed % 7
    mask = torch.ones(3, T, dtype=torch.long)
    mask[1, T - 2 :] = 0
    return {"the vectors": tensor(answer(numbers(3, T, 4, seed=seed), mask), (3, 4), "the result")}


EXERCISES = CHAPTER.exercises()
