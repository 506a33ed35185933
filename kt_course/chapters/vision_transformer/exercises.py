"""Exercises of the Vision Transformer: what each answer is run on; texts: exercises.toml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kt_core.attention import MultiHeadAttention
from kt_core.models import GPTConfig
from kt_course.chapters.vision_transformer import solutions
from kt_course.exercises.assertions import Wrong, describe
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import numbers, randomise
from kt_course.exercises.registry import Exercise

CHAPTER = Comparison(solutions)
TEXTS = CHAPTER.texts


def tensor_of(result: Any, what: str) -> Tensor:
    """Return an answer's tensor; Wrong if it is none."""
    if not isinstance(result, Tensor):
        raise Wrong(f"{what} should be a tensor, not {describe(result)}")
    return result.detach()


def patches_of(answer: Callable, seed: int) -> Results:
    rows, columns = 2 + seed % 2, 3 - seed % 2
    grey, colours = numbers(2, 1, rows * 2, columns * 2, seed=seed), numbers(1, 3, 6, 6, seed=seed)
    return {
        "the patches of a grey image": tensor_of(answer(grey, 2), "the result"),
        "the patches of a colour image": tensor_of(answer(colours, 3), "the result"),
    }


def embedding_of(answer: Callable, seed: int) -> Results:
    results = {}
    for name, c, p in (("grey", 1, 2), ("colour", 3, 2 + seed % 2)):
        C = 5 + seed % 2
        weight, bias = numbers(C, c * p * p, seed=seed + 1), numbers(C, seed=seed + 2)
        images = numbers(2, c, 2 * p, 3 * p, seed=seed)
        result = answer(images, weight, bias, p)
        results[f"the embedding of {name} images"] = tensor_of(result, "the result")
    return results


def attention_of(answer: Callable, seed: int) -> Results:
    n_head, d, T = 3 + seed % 2, 4 + seed % 2, 5 + seed % 3
    x, like = numbers(2, T, n_head * d, seed=seed), solutions.FullAttention(n_head * d, n_head)
    results = {}
    for qk_norm in (False, True):
        layer = with_weights(answer(n_head * d, n_head, qk_norm=qk_norm), like, seed)
        output = layer(x)
        if isinstance(output, Tensor) and not output.requires_grad:
            raise Wrong(TEXTS["full-attention"]["cut-off"])
        kind = f"with qk_norm={qk_norm}"
        results[f"the output {kind}"] = tensor_of(output, "the output")
        results[f"self.weights {kind}"] = tensor_of(getattr(layer, "weights", None), "self.weights")
    return results


def logits_of(answer: Callable, seed: int) -> Results:
    p, n_class = 2 + seed % 2, 5
    config = GPTConfig(n_class, 7, 2, 2, 8, dropout=0.0, qk_norm=bool(seed % 2))
    like = solutions.ViT(config, p, n_class)
    model = with_weights(answer(config, p, n_class), like, seed)
    images = numbers(2 + seed % 3, 1, 2 * p, 3 * p, seed=seed)
    return {
        "the result of encode": tensor_of(model.encode(images), "the result of encode"),
        "the logits": tensor_of(model(images), "the result"),
    }


def with_weights(module: Any, like: nn.Module, seed: int) -> nn.Module:
    """Give an answer's module random weights; Wrong unless it has the parameters of `like`."""
    have = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    want = {name: tuple(value.shape) for name, value in like.state_dict().items()}
    if have != want:
        name = min({name for name in have | want if have.get(name) != want.get(name)})
        raise Wrong(f"{name} has the shape {have.get(name)} instead of {want.get(name)}")
    module.load_state_dict(randomise(like, seed).state_dict())
    return module.double().eval()


def rollout_of(answer: Callable, seed: int) -> Results:
    B, L, n_head, T = 2, 3 - seed % 3, 2 + seed % 2, 4 + seed % 2
    maps = list((3 * numbers(L, B, n_head, T, T, seed=seed)).softmax(-1))
    return {"the rollout": tensor_of(answer(maps), "the result")}


# exercise: teaching solution, what it is compared on, what grading does not let an answer call
ANSWERS: dict[str, tuple[Any, Callable, tuple]] = {
    "patchify": (solutions.patchify, patches_of, ()),
    "patch-convolution": (solutions.embed_by_convolution, embedding_of, ()),
    "full-attention": (
        solutions.FullAttention,
        attention_of,
        (MultiHeadAttention.forward, F.scaled_dot_product_attention),
    ),
    "vision-transformer": (solutions.ViT, logits_of, ()),
    "attention-rollout": (solutions.attention_rollout, rollout_of, ()),
}
EXERCISES = tuple(
    Exercise(
        id,
        "13_vision_transformer",
        *(TEXTS[id][key] for key in ("title", "difficulty", "minutes")),
        reference,
        CHAPTER.check(id, reference.__name__, compute),
        forbidden,
    )
    for id, (reference, compute, forbidden) in ANSWERS.items()
)
