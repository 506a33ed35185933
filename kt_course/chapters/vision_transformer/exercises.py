"""Exercises of notebook 13: tokens, patches, patches by convolution, the first tokens, rollout."""

from __future__ import annotations

import operator
from collections.abc import Callable

from torch import Tensor

from kt_course.chapters.vision_transformer.vision import (
    ViT,
    ViTConfig,
    attention_rollout,
    patch_convolution,
    patchify,
)
from kt_course.exercises.assertions import Wrong, close, describe, fresh_cases, tensor
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.random_cases import draw, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "13_vision_transformer"


def check_tokens(fn: Callable) -> str:
    wrong = diagnoses(__file__, "vit-tokens")

    def count(image: int, patch: int, pool: str, **changes: int) -> int:
        got = fn(ViTConfig(image, patch, n_layer=1, n_head=1, n_embd=4, pool=pool, **changes))
        try:
            return operator.index(got)
        except TypeError:
            raise wrong("no number", got=describe(got)) from None

    got = count(12, 3, "class")  # 16 patches and the class token
    if text := wrong.texts("counts").get(str(got)):
        raise Wrong(text)
    wrong.reject({"other": got != 17}, got=got)
    got = count(12, 3, "mean")
    wrong.reject({"mean": got != 16}, got=got)
    got = count(12, 3, "mean", channels=3)
    wrong.reject({"channels": got != 16}, got=got)
    rule = "(image_size // patch_size) ** 2"
    with fresh_cases(f"right for 12 x 12 pixels, not for other sizes: {rule}"):
        for grid, p in zip(draw(1, 9, 6), draw(1, 7, 6), strict=True):
            assert count(grid * p, p, "class") == grid**2 + 1
            assert count(grid * p, p, "mean") == grid**2
    return "(image_size / patch_size) squared, one more with a class token"


# ---------------------------------------------------------------- patches


def check_patchify(fn: Callable) -> str:
    wrong = diagnoses(__file__, "patchify")

    def answer(images: Tensor, p: int) -> Tensor:
        (B, c, H, W), got = images.shape, fn(images, p)
        case = f"pictures of {tuple(images.shape)} in patches of {p}"
        expected = (B, H * W // p**2, c * p * p)
        if isinstance(got, Tensor):
            swapped = (B, expected[2], expected[1])
            mistakes = {
                "transposed": tuple(got.shape) == swapped != expected,
                "not flat": got.ndim > 3 and got.numel() == images.numel(),
            }
            wrong.reject(mistakes, case=case, shape=tuple(got.shape), expected=expected)
        return tensor(got, expected, f"the result for {case}")

    for shape, p in (((2, 1, 4, 6), 2), ((1, 3, 6, 6), 3)):
        args = (numbers(*shape, seed=p), p)
        wrong.compare(patchify, answer(*args), lambda f, args=args: f(*args), "the patches")
    with fresh_cases("right for the examples, not for other images and patches"):
        sizes = zip(draw(1, 4, 4), draw(1, 4, 4), draw(1, 4, 4), draw(1, 3, 4), strict=True)
        for p, rows, columns, c in sizes:
            images = numbers(2, c, rows * p, columns * p)
            assert close(answer(images, p), patchify(images, p))
    return "squares row by row, in each channel, row, column"


def check_convolution(fn: Callable) -> str:
    wrong = diagnoses(__file__, "patch-convolution")

    def answer(images: Tensor, weight: Tensor, bias: Tensor, p: int) -> Tensor:
        got, (B, _, H, W), C = fn(images, weight, bias, p), images.shape, len(weight)
        case = f"pictures of {tuple(images.shape)} in patches of {p}, {C} channels out,"
        expected = (B, H * W // p**2, C)
        if isinstance(got, Tensor):
            shape, steps = tuple(got.shape), (H - p + 1) * (W - p + 1)
            grids = ((B, C, H // p, W // p), (B, C, expected[1]))
            mistakes = {
                "grid": shape in grids and shape != expected,
                "stride": got.numel() == B * C * steps > B * C * expected[1],
            }
            wrong.reject(mistakes, case=case, shape=shape, expected=expected)
        return tensor(got, expected, f"the result for {case[:-1]}")

    for shape, p, C in (((2, 1, 4, 8), 2, 5), ((1, 3, 6, 6), 3, 7)):
        weight, bias = numbers(C, shape[1] * p * p, seed=p + 1), numbers(C, seed=p + 2)
        args = (numbers(*shape, seed=p), weight, bias, p)
        wrong.compare(patch_convolution, answer(*args), lambda f, a=args: f(*a), "the result")
    with fresh_cases("right for the examples, not for other images, patches and widths"):
        sizes = zip(draw(1, 3, 3), draw(1, 3, 3), draw(1, 3, 3), draw(1, 6, 3), strict=True)
        for p, grid, c, C in sizes:
            images = numbers(2, c, grid * p, grid * p)
            weight, bias = numbers(C, c * p * p), numbers(C)
            expected = patchify(images, p) @ weight.mT + bias
            assert close(answer(images, weight, bias, p), expected)
    return "the linear map of every patch, as a convolution with a stride of one patch"


# ---------------------------------------------------------------- the first tokens


def check_embed(fn: Callable) -> str:
    wrong = diagnoses(__file__, "vit-embed")
    variants = wrong.variants(ViT.embed)

    def random_model(seed: int | None = None, **kind: str) -> ViT:
        return randomise(ViT(ViTConfig(4, 2, n_layer=1, n_head=1, n_embd=6, **kind)), seed)

    for kind in ({}, {"pool": "mean"}, {"positions": "none"}):
        args = model, patches = random_model(1, **kind), numbers(3, 4, 4, seed=2)
        name = ", ".join(f"{key} {value}" for key, value in kind.items()) or "the default kind"
        n_tokens, got = model.config.n_tokens, fn(*args)
        if isinstance(got, Tensor) and got.shape == (3, 4, 6) and n_tokens == 5:
            variant, text = variants["token added"]
            raise (
                Wrong(text) if close(got.detach(), variant(*args)) else wrong("no token", kind=name)
            )
        got = tensor(got, (3, n_tokens, 6), f"{name}: the result for 3 images of 4 patches")
        wrong.compare(ViT.embed, got, lambda f, args=args: f(*args).detach(), f"{name}: the result")
    with fresh_cases("right for 3 images, not for another number of them"):
        for B in (1, 5):
            model, patches = random_model(), numbers(B, 4, 4)
            assert close(fn(model, patches).detach(), model.embed(patches).detach())
    return "patches by one linear map, the class token in front, a position for each, of every kind"


# ---------------------------------------------------------------- rollout


def check_rollout(fn: Callable) -> str:
    def random_maps(B: int, L: int, nh: int, T: int, seed: int | None = None) -> list[Tensor]:
        return list((3 * numbers(L, B, nh, T, T, seed=seed)).softmax(-1))

    maps, wrong = random_maps(2, 3, 2, 4, seed=1), diagnoses(__file__, "attention-rollout")
    got = tensor(fn(maps), (2, 4, 4), "the result for 3 layers of (2, 2, 4, 4)")
    wrong.compare(attention_rollout, got, lambda f: f(maps), "the rollout")
    with fresh_cases("right for 3 layers, not for other numbers of layers, heads and tokens"):
        for B, L, nh, T in ((1, 1, 1, 3), (3, 4, 3, 5)):
            maps = random_maps(B, L, nh, T)
            assert close(tensor(fn(maps), (B, T, T), "the result"), attention_rollout(maps))
    return "mean of the heads, half of the residual, the layers multiplied in order, rows sum to 1"


convolution, rollout, n_tokens = patch_convolution, attention_rollout, ViTConfig.n_tokens.fget
EXERCISES = tuple(
    Exercise(id, NOTEBOOK, *details)
    for id, *details in (
        ("vit-tokens", "How many tokens is a picture?", 1, 3, n_tokens, check_tokens),
        ("patchify", "Cut a picture into patches", 3, 12, patchify, check_patchify),
        ("patch-convolution", "The same as a convolution", 3, 10, convolution, check_convolution),
        ("vit-embed", "The first tokens", 2, 8, ViT.embed, check_embed),
        ("attention-rollout", "Attention through all layers", 4, 15, rollout, check_rollout),
    )
)
