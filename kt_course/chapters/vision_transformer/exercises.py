"""Exercises of notebook 13: tokens, patches, patches by convolution, the first tokens, rollout."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kt_course.chapters.vision_transformer.vision import (
    ViT,
    ViTConfig,
    attention_rollout,
    patch_convolution,
    patchify,
)
from kt_course.exercises.assertions import Wrong, close, describe, fresh_cases, recognise, tensor
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


def patchify_with(images: Tensor, p: int, mistake: str = "") -> Tensor:
    """Patches one by one, with one mistake built in."""
    B, c, H, W = images.shape
    if mistake == "strips":
        return images.reshape(B, (H // p) * (W // p), c * p * p)
    corners = [(i, j) for i in range(0, H, p) for j in range(0, W, p)]
    if mistake == "columns first":
        corners = [(i, j) for j in range(0, W, p) for i in range(0, H, p)]
    squares = [images[:, :, i : i + p, j : j + p] for i, j in corners]  # (B, c, p, p) each
    axes = {"channels last": (0, 2, 3, 1), "turned": (0, 1, 3, 2)}.get(mistake, (0, 1, 2, 3))
    return torch.stack([square.permute(axes).reshape(B, -1) for square in squares], dim=1)


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
        images = numbers(*shape, seed=p)
        got, expected = answer(images, p), patchify_with(images, p)
        known, args = wrong.texts("mistakes"), (images, p)
        recognise(got, expected, lambda m, a=args: patchify_with(*a, m), known, "the patches")
    with fresh_cases("right for the examples, not for other images and patches"):
        sizes = zip(draw(1, 4, 4), draw(1, 4, 4), draw(1, 4, 4), draw(1, 3, 4), strict=True)
        for p, rows, columns, c in sizes:
            images = numbers(2, c, rows * p, columns * p)
            assert close(answer(images, p), patchify_with(images, p))
    return "squares row by row, in each channel, row, column"


def convolution_with(
    images: Tensor, weight: Tensor, bias: Tensor, p: int, mistake: str = ""
) -> Tensor:
    """The linear map of patches as a convolution, with one mistake built in."""
    C, c = len(weight), images.size(1)
    kernel = weight.reshape(C, c, p, p)
    if mistake == "channels last":
        kernel = weight.reshape(C, p, p, c).permute(0, 3, 1, 2)
    kernel = {"flipped": kernel.flip(-1, -2), "turned": kernel.mT}.get(mistake, kernel)
    y = F.conv2d(images, kernel, None if mistake == "no bias" else bias, stride=p)  # (B, C, G, G)
    y = y.mT if mistake == "columns first" else y
    return y.flatten(2).reshape(len(y), -1, C) if mistake == "reshaped" else y.flatten(2).mT


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
        expected = patchify_with(args[0], p) @ weight.mT + bias
        known = wrong.texts("mistakes")
        recognise(
            answer(*args), expected, lambda m, a=args: convolution_with(*a, m), known, "the result"
        )
    with fresh_cases("right for the examples, not for other images, patches and widths"):
        sizes = zip(draw(1, 3, 3), draw(1, 3, 3), draw(1, 3, 3), draw(1, 6, 3), strict=True)
        for p, grid, c, C in sizes:
            images = numbers(2, c, grid * p, grid * p)
            weight, bias = numbers(C, c * p * p), numbers(C)
            expected = patchify_with(images, p) @ weight.mT + bias
            assert close(answer(images, weight, bias, p), expected)
    return "the linear map of every patch, as a convolution with a stride of one patch"


# ---------------------------------------------------------------- the first tokens


def embed_with(model: ViT, patches: Tensor, mistake: str = "") -> Tensor:
    """The input of the first block, with one mistake built in."""
    pos, token = model.pos_emb, model.class_token
    x = patches @ model.patch_emb.weight.mT + (0 if mistake == "no bias" else model.patch_emb.bias)
    if token is None:
        return x if pos is None or mistake == "no positions" else x + pos
    front = token.expand(len(x), -1, -1)
    if mistake == "token added":
        return x + token + (0 if pos is None else pos[:, 1:])
    if mistake == "at the end":
        x = torch.cat([x, front], 1)
        return x if pos is None else x + pos
    if pos is None or mistake == "no positions":
        return torch.cat([front, x], 1)
    added = {"token without": pos[:, 1:], "one too early": pos[:, :-1]}
    if mistake in added:
        return torch.cat([front, x + added[mistake]], 1)
    added = {"one vector": pos[:, :1], "twice": 2 * pos}
    return torch.cat([front, x], 1) + added.get(mistake, pos)


def check_embed(fn: Callable) -> str:
    wrong = diagnoses(__file__, "vit-embed")
    texts = wrong.texts("mistakes")

    def random_model(seed: int | None = None, **kind: str) -> ViT:
        return randomise(ViT(ViTConfig(4, 2, n_layer=1, n_head=1, n_embd=6, **kind)), seed)

    for kind in ({}, {"pool": "mean"}, {"positions": "none"}):
        model, patches = random_model(1, **kind), numbers(3, 4, 4, seed=2)
        name = ", ".join(f"{key} {value}" for key, value in kind.items()) or "the default kind"
        expected, got = embed_with(model, patches), fn(model, patches)
        if isinstance(got, Tensor) and got.shape == (3, 4, 6) and len(expected[0]) == 5:
            if close(got.detach(), embed_with(model, patches, "token added")):
                raise Wrong(texts["token added"])
            raise wrong("no token", kind=name)
        got = tensor(got, expected.shape, f"{name}: the result for 3 images of 4 patches")
        args, what = (model, patches), f"{name}: the result"
        differing = {m: t for m, t in texts.items() if not close(embed_with(*args, m), expected)}
        recognise(got, expected, lambda m, a=args: embed_with(*a, m), differing, what)
    with fresh_cases("right for 3 images, not for another number of them"):
        for B in (1, 5):
            model, patches = random_model(), numbers(B, 4, 4)
            assert close(fn(model, patches).detach(), embed_with(model, patches))
    return "patches by one linear map, the class token in front, a position for each, of every kind"


# ---------------------------------------------------------------- rollout


def rollout_with(maps: list[Tensor], mistake: str = "") -> Tensor:
    """Attention rollout, with one mistake built in."""
    one = torch.eye(maps[0].size(-1), dtype=maps[0].dtype)
    total = one.expand(len(maps[0]), -1, -1)
    maps = {"last layer": maps[-1:], "backwards": maps[::-1]}.get(mistake, maps)
    for weights in maps:
        heads = {"sum": weights.sum(1), "max": weights.amax(1), "first head": weights[:, 0]}
        a = heads.get(mistake, weights.mean(1))
        a = {"no residual": a, "whole": a + one}.get(mistake, (a + one) / 2)
        total = a * total if mistake == "entries" else a @ total
    if mistake == "mean":
        return torch.stack([(m.mean(1) + one) / 2 for m in maps]).mean(0)
    return total.mT if mistake == "transposed" else total


def check_rollout(fn: Callable) -> str:
    def random_maps(B: int, L: int, nh: int, T: int, seed: int | None = None) -> list[Tensor]:
        return list((3 * numbers(L, B, nh, T, T, seed=seed)).softmax(-1))

    maps, known = random_maps(2, 3, 2, 4, seed=1), diagnoses(__file__, "attention-rollout")
    got = tensor(fn(maps), (2, 4, 4), "the result for 3 layers of (2, 2, 4, 4)")
    texts, expected = known.texts("mistakes"), rollout_with(maps)
    recognise(got, expected, lambda m: rollout_with(maps, m), texts, "the rollout")
    with fresh_cases("right for 3 layers, not for other numbers of layers, heads and tokens"):
        for B, L, nh, T in ((1, 1, 1, 3), (3, 4, 3, 5)):
            maps = random_maps(B, L, nh, T)
            assert close(tensor(fn(maps), (B, T, T), "the result"), rollout_with(maps))
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
