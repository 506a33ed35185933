"""Exercises of the Vision Transformer: what each answer is run on; texts: exercises.toml."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_core.attention import MultiHeadAttention
from kt_core.models import GPTConfig
from kt_course.chapters.vision_transformer import solutions
from kt_course.exercises.assertions import Wrong, any_tensor
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import numbers, with_weights

CHAPTER = Comparison(solutions, "13_vision_transformer")
ATTENTION = (MultiHeadAttention.forward, F.scaled_dot_product_attention)


@CHAPTER.exercise("patchify")
def patches_of(answer: Callable, seed: int) -> Results:
    rows, columns = 2 + seed % 2, 3 - seed % 2
    grey, colours = numbers(2, 1, rows * 2, columns * 2, seed=seed), numbers(1, 3, 6, 6, seed=seed)
    return {
        "the patches of a grey image": any_tensor(answer(grey, 2), "the result"),
        "the patches of a colour image": any_tensor(answer(colours, 3), "the result"),
    }


@CHAPTER.exercise("patch-convolution")
def embedding_of(answer: Callable, seed: int) -> Results:
    results = {}
    for name, c, p in (("grey", 1, 2), ("colour", 3, 2 + seed % 2)):
        C = 5 + seed % 2
        weight, bias = numbers(C, c * p * p, seed=seed + 1), numbers(C, seed=seed + 2)
        images = numbers(2, c, 2 * p, 3 * p, seed=seed)
        result = answer(images, weight, bias, p)
        results[f"the embedding of {name} images"] = any_tensor(result, "the result")
    return results


@CHAPTER.exercise("full-attention", forbidden=ATTENTION)
def attention_of(answer: Callable, seed: int) -> Results:
    n_head, d, T = 3 + seed % 2, 4 + seed % 2, 5 + seed % 3
    x, like = numbers(2, T, n_head * d, seed=seed), solutions.FullAttention(n_head * d, n_head)
    results = {}
    for qk_norm in (False, True):
        options = {"qk_norm": True} if qk_norm else {}  # False is the default
        layer = with_weights(answer(n_head * d, n_head, **options), like, seed)
        output = layer(x)
        if isinstance(output, Tensor) and not output.requires_grad:
            raise Wrong(CHAPTER.texts["full-attention"]["cut-off"])
        kind = f"with qk_norm={qk_norm}"
        results[f"the output {kind}"] = any_tensor(output, "the output")
        weights = any_tensor(getattr(layer, "weights", None), "self.weights")
        results[f"self.weights {kind}"] = weights
        results[f"a history of self.weights {kind}"] = str(weights.requires_grad)
    return results


@CHAPTER.exercise("vision-transformer")
def logits_of(answer: Callable, seed: int) -> Results:
    p, n_class = 2 + seed % 2, 5
    config = GPTConfig(n_class, 7, 2, 2, 8, dropout=0.0, qk_norm=bool(seed % 2))
    like = solutions.ViT(config, p, n_class)
    model = with_weights(answer(config, p, n_class), like, seed)
    images = numbers(2 + seed % 3, 1, 2 * p, 3 * p, seed=seed)
    return starts_of(answer) | {
        "the result of encode": any_tensor(model.encode(images), "the result of encode"),
        "the logits": any_tensor(model(images), "the result"),
    }


def starts_of(answer: Callable) -> Results:
    """Say for both parameters of a new model whether they have the right spread."""
    torch.manual_seed(0)
    model, starts = answer(GPTConfig(5, 20, 1, 2, 128, dropout=0.0), 2, 5), {}
    for name in ("class_token", "pos_emb"):
        spread = any_tensor(getattr(model, name, None), name).std()
        starts[f"the standard deviation of {name} at the start"] = (
            "about 0.02" if 0.01 < spread < 0.04 else f"{spread:.3f}"
        )
    return starts


@CHAPTER.exercise("attention-rollout")
def rollout_of(answer: Callable, seed: int) -> Results:
    B, L, n_head, T = 2, 3 - seed % 3, 3 - seed % 2, 4 + seed % 2
    maps = list((3 * numbers(L, B, n_head, T, T, seed=seed)).float().softmax(-1))
    return {
        "the rollout": any_tensor(answer(maps), "the result"),
        "the rollout of one layer": any_tensor(answer(maps[:1]), "the result"),
    }


EXERCISES = CHAPTER.exercises()
