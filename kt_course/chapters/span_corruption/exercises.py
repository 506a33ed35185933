"""Exercises of "Span corruption": what each answer is run on. The texts are in exercises.toml."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kt_core import datasets
from kt_core.vocab import CharVocab
from kt_course.chapters.span_corruption import solutions
from kt_course.exercises.assertions import Wrong, any_tensor, describe, parts
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import letters

CHAPTER = Comparison(solutions, "03_span_corruption")
TEXTS = CHAPTER.texts
VOCAB = CharVocab("abcdefghijklmnopqrstuvwxyz")


def x_and_y(result: Any, message: str) -> tuple[Tensor, Tensor]:
    """Return a pair of tensors of ids; Wrong for anything else."""
    for name, value in zip("xy", parts(result, 2, message), strict=True):
        if any_tensor(value, name).dtype != torch.int64:
            dtype = str(value.dtype).removeprefix("torch.")
            raise Wrong(TEXTS["shift-and-pad"]["dtype"].format(name=name, dtype=dtype))
    return result[0], result[1]


@CHAPTER.exercise("shift-and-pad", forbidden=(datasets.collate,), is_piece=True)
def collate_of(answer: Callable, seed: int) -> Results:
    rng = random.Random(seed)
    cases = {"[5, 6, 7, 8], loss from index 2": ([([5, 6, 7, 8], 2)], 6)}
    cases["[5, 6, 7, 8, 9], loss from index 1"] = [([5, 6, 7, 8, 9], 1)], 4
    lists = [[rng.randint(1, 90) for _ in range(rng.randint(2, 9))] for _ in range(4)]
    cases["a batch of 4"] = [(ids, rng.randint(1, len(ids) - 1)) for ids in lists], 8
    results = {}
    for name, (examples, length) in cases.items():
        result = answer([(list(ids), first) for ids, first in examples], length)
        x, y = x_and_y(result, TEXTS["shift-and-pad"]["not_a_pair"])
        results |= {f"x of {name}, length {length},": x, f"y of {name}, length {length},": y}
    return results


@CHAPTER.exercise("cut-a-span", forbidden=(datasets.SpanCorruption.pieces,), is_piece=True)
def cut_of(answer: Callable, seed: int) -> Results:
    results, texts = {}, TEXTS["cut-a-span"]
    sizes = [(300, 128), (60, 128), (300, 64), (300, 8), (6, 128), (2, 128), (1, 128)]
    for n, block in sizes:
        for k in range(6):
            document, rng = letters(n, random.Random(n)), random.Random(f"{seed} {n} {k}")
            start = rng.getstate()
            pieces = answer(document, block, rng)
            if not isinstance(pieces, tuple | list) or [type(p) for p in pieces] != [str] * 3:
                raise Wrong(texts["not_three"].format(result=describe(pieces)))
            if rng.getstate() == start:
                raise Wrong(texts["no_rng"])
            name = f"cut number {k} of {n} characters ({document[:6]}...) in a block of {block}"
            results[name] = " | ".join(pieces)
    return results


@CHAPTER.exercise("span-corruption", forbidden=(datasets.SpanCorruption,), is_piece=True)
def tokens_of(answer: Callable, seed: int) -> Results:
    rng, results = random.Random(seed), {}
    documents = [letters(rng.randint(20, 60), rng) for _ in range(3)]
    for dataset_seed in (seed, seed + 1):
        data = answer(documents, VOCAB, 48, dataset_seed)
        for epoch in range(2):
            for i in range(3):
                result = data.tokens(i, epoch)
                if data.tokens(i, epoch) != result:
                    raise Wrong(TEXTS["span-corruption"]["not_repeated"])
                ids, first = ids_and_first(result)
                name = f"document {i} in epoch {epoch}, seed {dataset_seed},"
                results[name] = f"{VOCAB.decode(ids)} (loss from {first})"
    data = answer(documents, VOCAB)
    ids, first = ids_and_first(data.tokens(1))
    results["document 1 with the seed and epoch left out"] = VOCAB.decode(ids)
    x = y = torch.zeros(0)
    if first == 1:  # otherwise collate cannot use it
        x, y = x_and_y(data[1], "data[1] should be the pair (x, y), not {result}")
    return results | {
        "the number of documents, len(data)": str(len(data)),
        "x of data[1] with the block size left out": x,
        "y of data[1] with the block size left out": y,
    }


def ids_and_first(result: Any) -> tuple[list[int], int]:
    """Return what `tokens` gives; Wrong unless it is a list of ids and an index."""
    texts = TEXTS["span-corruption"]
    if not isinstance(result, tuple | list) or len(result) != 2 or not isinstance(result[1], int):
        raise Wrong(texts["not_a_pair"].format(result=describe(result)))
    ids, first = result
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        raise Wrong(texts["not_ids"].format(result=describe(ids)))
    return ids, first


class Examples(datasets.TokenDataset):
    """Examples of given lengths, with new ids in every epoch."""

    block_size = 20

    def __init__(self, lengths: list[int]):
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        return [2 + (7 * i + 13 * epoch + j) % 90 for j in range(self.lengths[i])], 1


@CHAPTER.exercise("batches", forbidden=(datasets.batches,), is_piece=True)
def batches_of(answer: Callable, seed: int) -> Results:
    rng = random.Random(seed)
    data = Examples([rng.choice([3, 5, 5, 5, 9, 12]) for _ in range(21 + seed % 7)])
    results = {}
    for epoch in (0, 1):
        pairs = [
            x_and_y(batch, TEXTS["batches"]["not_pairs"])
            for batch in answer(data, 4, seed + 3, epoch)
        ]
        if not pairs:
            raise Wrong(TEXTS["batches"]["nothing"])
        n, shapes = len(data), ", ".join(str(tuple(x.shape)) for x, _ in pairs)
        results[f"the shapes of the batches of {n} examples in epoch {epoch}"] = shapes
        for name, columns in zip("xy", zip(*pairs, strict=True), strict=False):
            ids = torch.cat([column.flatten() for column in columns])
            results[f"{name} of all batches, one after the other, in epoch {epoch}"] = ids
    return results


EXERCISES = CHAPTER.exercises()
