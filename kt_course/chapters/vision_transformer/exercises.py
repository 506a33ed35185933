"""Exercises of notebook 13: tokens of a picture, patches, patches by convolution, the first tokens, attention rollout."""

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
from kt_course.exercises.random_cases import draw, numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "13_vision_transformer"


def check_tokens(fn: Callable) -> str:
    def asked(image: int, patch: int, pool: str, **more: int) -> int:
        got = fn(ViTConfig(image, patch, n_layer=1, n_head=1, n_embd=4, pool=pool, **more))
        try:
            return operator.index(got)
        except TypeError:
            raise Wrong(
                f"a number of tokens is a whole number, not {describe(got)}: divide with //"
            ) from None

    got = asked(12, 3, "class")  # 16 patches and the class token
    slips = {
        4: "4 is the number of patches along one side: a picture has rows and columns of them",
        5: "5 is the patches along one side and the class token: a picture has rows and columns of them",
        16: "the 16 patches are right; with pool class the class token is one more",
        48: "48 = 144 / 3: a patch has 3 x 3 pixels, not 3",
        49: "49 = 144 / 3 + 1: a patch has 3 x 3 pixels, not 3",
        144: "144 is the number of pixels: a patch of them is one token",
        145: "145 counts the pixels: a patch of them is one token",
    }
    if got != 17:
        raise Wrong(
            slips.get(
                got, f"12 x 12 pixels in patches of 3 x 3, and a class token, make 17, not {got}"
            )
        )
    if (got := asked(12, 3, "mean")) != 16:
        raise Wrong(
            f"with pool mean it gives {got} instead of 16: the mean of the patches is taken, there is no class token"
        )
    if (got := asked(12, 3, "mean", channels=3)) != 16:
        raise Wrong(
            f"with 3 channels it gives {got} instead of 16: the channels of a pixel lie in the same patch"
        )
    with fresh_cases(
        "right for 12 x 12 pixels, not for other sizes: (image_size // patch_size) ** 2"
    ):
        for grid, p in zip(draw(1, 9, 6), draw(1, 7, 6), strict=True):
            assert (
                asked(grid * p, p, "class") == grid**2 + 1 and asked(grid * p, p, "mean") == grid**2
            )
    return "(image_size / patch_size) squared, one more with a class token"


def patches_of(images: Tensor, p: int, slip: str = "") -> Tensor:
    """Patches one by one, with one mistake built in."""
    B, c, H, W = images.shape
    if slip == "strips":
        return images.reshape(B, (H // p) * (W // p), c * p * p)
    places = [(i, j) for i in range(0, H, p) for j in range(0, W, p)]
    if slip == "columns first":
        places = [(i, j) for j in range(0, W, p) for i in range(0, H, p)]
    cut = [images[:, :, i : i + p, j : j + p] for i, j in places]  # (B, c, p, p) each
    order = {"channels last": (0, 2, 3, 1), "turned": (0, 1, 3, 2)}.get(slip, (0, 1, 2, 3))
    return torch.stack([each.permute(order).reshape(B, -1) for each in cut], dim=1)


def check_patchify(fn: Callable) -> str:
    def asked(images: Tensor, p: int) -> Tensor:
        B, c, H, W = images.shape
        shape, told = (
            (B, H * W // p**2, c * p * p),
            f"pictures of {tuple(images.shape)} in patches of {p}",
        )
        got = fn(images, p)
        if (
            isinstance(got, Tensor)
            and got.ndim == 3
            and shape != got.shape == (B, shape[2], shape[1])
        ):
            raise Wrong(f"{told} give {tuple(got.shape)}: transposed; a row is a patch, {shape}")
        if isinstance(got, Tensor) and got.ndim > 3 and got.numel() == images.numel():
            raise Wrong(
                f"{told} give {tuple(got.shape)}: the numbers of a patch belong in one row, {shape}"
            )
        return tensor(got, shape, f"the result for {told}")

    slips = {
        "strips": "numbers that follow each other in memory are cut, strips of rows: a patch is a square. Split H and W, then permute",
        "columns first": "the patches come column by column: number them as one reads, row by row",
        "turned": "each patch is mirrored: inside a patch rows come first, then columns",
        "channels last": "a patch's numbers are in the order row, column, channel: channel comes first, as in the picture",
    }
    for shape, p in (((2, 1, 4, 6), 2), ((1, 3, 6, 6), 3)):
        images = numbers(*shape, seed=p)
        recognise(
            asked(images, p),
            patches_of(images, p),
            lambda slip, i=images, p=p: patches_of(i, p, slip),
            slips,
            "the patches",
        )
    with fresh_cases("right for the examples, not for other pictures and patches"):
        for p, rows, columns, c in zip(
            draw(1, 4, 4), draw(1, 4, 4), draw(1, 4, 4), draw(1, 3, 4), strict=True
        ):
            images = numbers(2, c, rows * p, columns * p)
            assert close(asked(images, p), patches_of(images, p))
    return "squares row by row, in each channel, row, column"


def convolved(images: Tensor, weight: Tensor, bias: Tensor, p: int, slip: str = "") -> Tensor:
    """The linear map of patches as a convolution, with one mistake built in."""
    C, c = len(weight), images.size(1)
    kernel = (
        weight.reshape(C, p, p, c).permute(0, 3, 1, 2)
        if slip == "channels last"
        else weight.reshape(C, c, p, p)
    )
    kernel = {"flipped": kernel.flip(-1, -2), "turned": kernel.mT}.get(slip, kernel)
    y = F.conv2d(images, kernel, None if slip == "no bias" else bias, stride=p)  # (B, C, G, G)
    if slip == "columns first":
        y = y.mT
    return y.flatten(2).reshape(len(y), -1, C) if slip == "reshaped" else y.flatten(2).mT


def check_convolution(fn: Callable) -> str:
    def asked(images: Tensor, weight: Tensor, bias: Tensor, p: int) -> Tensor:
        got, (B, _, H, W), C = fn(images, weight, bias, p), images.shape, len(weight)
        N, told = (
            H * W // p**2,
            f"pictures of {tuple(images.shape)} in patches of {p}, {C} channels out,",
        )
        if isinstance(got, Tensor) and (B, N, C) != got.shape in (
            (B, C, H // p, W // p),
            (B, C, N),
        ):
            raise Wrong(
                f"{told} give {tuple(got.shape)}: the grid has to become a sequence, one row a patch, {(B, N, C)}"
            )
        if isinstance(got, Tensor) and got.numel() == B * C * (H - p + 1) * (W - p + 1) > B * C * N:
            raise Wrong(
                f"{told} give {tuple(got.shape)}: the kernel moves pixel by pixel; it has to move by a whole patch"
            )
        return tensor(got, (B, N, C), f"the result for {told[:-1]}")

    slips = {
        "no bias": "the bias is missing",
        "channels last": "the kernel mixes channels and pixels up: a row of the weight is ordered channel, row, column",
        "flipped": "the kernel is flipped: what PyTorch calls a convolution does not flip, so nothing is to be undone",
        "turned": "rows and columns of the kernel are swapped",
        "columns first": "the patches come column by column: number them as one reads, row by row",
        "reshaped": "a reshape mixes channels and patches: flatten the grid, (B, C, N), then transpose",
    }
    for shape, p, C in (((2, 1, 4, 8), 2, 5), ((1, 3, 6, 6), 3, 7)):
        given = (
            numbers(*shape, seed=p),
            numbers(C, shape[1] * p * p, seed=p + 1),
            numbers(C, seed=p + 2),
        )
        by_hand = patches_of(given[0], p) @ given[1].mT + given[2]
        recognise(
            asked(*given, p),
            by_hand,
            lambda slip, g=given, p=p: convolved(*g, p, slip),
            slips,
            "the result",
        )
    with fresh_cases("right for the examples, not for other pictures, patches and widths"):
        for p, grid, c, C in zip(
            draw(1, 3, 3), draw(1, 3, 3), draw(1, 3, 3), draw(1, 6, 3), strict=True
        ):
            given = numbers(2, c, grid * p, grid * p), numbers(C, c * p * p), numbers(C)
            assert close(asked(*given, p), patches_of(given[0], p) @ given[1].mT + given[2])
    return "the linear map of every patch, as a convolution with a stride of one patch"


def first_tokens(model: ViT, patches: Tensor, slip: str = "") -> Tensor:
    """What the first block gets, with one mistake built in."""
    pos, token = model.pos_emb, model.class_token
    x = patches @ model.patch_emb.weight.mT + (0 if slip == "no bias" else model.patch_emb.bias)
    if token is None:
        return x if pos is None or slip == "no positions" else x + pos
    front = token.expand(len(x), -1, -1)
    if slip == "token added":
        return x + token + (0 if pos is None else pos[:, 1:])
    if slip == "at the end":
        x = torch.cat([x, front], 1)
        return x if pos is None else x + pos
    if pos is None or slip == "no positions":
        return torch.cat([front, x], 1)
    if slip == "token without":
        return torch.cat([front, x + pos[:, 1:]], 1)
    if slip == "one too early":
        return torch.cat([front, x + pos[:, :-1]], 1)
    if slip == "one vector":
        return torch.cat([front, x], 1) + pos[:, :1]
    return torch.cat([front, x], 1) + (pos * {"times": 0, "twice": 2}.get(slip, 1))


def check_embed(fn: Callable) -> str:
    def made(seed: int | None = None, **kind: str) -> ViT:
        return randomise(ViT(ViTConfig(4, 2, n_layer=1, n_head=1, n_embd=6, **kind)), seed)

    slips = {
        "no bias": "the bias of the patch embedding is missing: call model.patch_emb",
        "no positions": "positions are not added: the picture is a bag of patches",
        "token without": "the class token has a position of its own, row 0: put it in front first, then add all positions",
        "one too early": "patch 0 gets the class token's position: put the token in front first, then add all positions",
        "at the end": "the class token stands at the end: it is token 0, and row 0 of the positions is its own",
        "token added": "the class token is added to every patch: it is a token of its own, put in front",
        "one vector": "every token gets the position of token 0: row t of the table belongs to token t",
        "twice": "positions are added twice",
    }
    for kind in ({}, {"pool": "mean"}, {"positions": "none"}):
        model, patches = made(1, **kind), numbers(3, 4, 4, seed=2)
        told = ", ".join(f"{key} {value}" for key, value in kind.items()) or "the default kind"
        expected = first_tokens(model, patches)
        got = fn(model, patches)
        if isinstance(got, Tensor) and got.shape == (3, 4, 6) and len(expected[0]) == 5:
            if close(got.detach(), first_tokens(model, patches, "token added")):
                raise Wrong(slips["token added"])
            raise Wrong(
                f"{told}: 4 tokens for 4 patches; the class token, model.class_token, is one more, in front"
            )
        got = tensor(got, expected.shape, f"{told}: the result for 3 pictures of 4 patches")
        other = {
            key: why
            for key, why in slips.items()
            if not close(first_tokens(model, patches, key), expected)
        }
        recognise(
            got,
            expected,
            lambda slip, m=model, p=patches: first_tokens(m, p, slip),
            other,
            f"{told}: the result",
        )
    with fresh_cases("right for 3 pictures, not for another number of them"):
        for B in (1, 5):
            model, patches = made(), numbers(B, 4, 4)
            assert close(fn(model, patches).detach(), first_tokens(model, patches))
    return "patches by one linear map, the class token in front, a position for each, of every kind"


def rolled_out(maps: list[Tensor], slip: str = "") -> Tensor:
    """Attention rollout, with one mistake built in."""
    one = torch.eye(maps[0].size(-1), dtype=maps[0].dtype)
    total = one.expand(len(maps[0]), -1, -1)
    if slip == "last layer":
        maps = maps[-1:]
    if slip == "backwards":
        maps = maps[::-1]
    for weights in maps:
        a = {"sum": weights.sum(1), "max": weights.amax(1), "first head": weights[:, 0]}.get(
            slip, weights.mean(1)
        )
        a = {"no residual": a, "whole": a + one}.get(slip, (a + one) / 2)
        total = a * total if slip == "entries" else a @ total
    if slip == "mean":
        return torch.stack([(m.mean(1) + one) / 2 for m in maps]).mean(0)
    return total.mT if slip == "transposed" else total


def check_rollout(fn: Callable) -> str:
    def maps_of(B: int, L: int, nh: int, T: int, seed: int | None = None) -> list[Tensor]:
        return list((3 * numbers(L, B, nh, T, T, seed=seed)).softmax(-1))

    slips = {
        "no residual": "the residual is missing: a layer is half attention, half identity",
        "whole": "rows do not sum to 1: attention plus identity has to be halved",
        "sum": "heads are summed: take their mean",
        "max": "the largest head is taken: take the mean of the heads",
        "first head": "one head alone is used: take the mean of the heads",
        "backwards": "the layers are multiplied in the wrong order: the last layer stands on the left, the first on the right",
        "transposed": "transposed: a row is the token that asks, a column one of the input",
        "entries": "entries are multiplied one by one: a way through two layers is a matrix product, @",
        "last layer": "the last layer alone is used: multiply all layers",
        "mean": "the layers are averaged: what layer 2 reads has been mixed by layer 1 already, so multiply",
    }
    maps = maps_of(2, 3, 2, 4, seed=1)
    got = tensor(fn(maps), (2, 4, 4), "the result for 3 layers of (2, 2, 4, 4)")
    recognise(got, rolled_out(maps), lambda slip: rolled_out(maps, slip), slips, "the rollout")
    with fresh_cases("right for 3 layers, not for other numbers of layers, heads and tokens"):
        for B, L, nh, T in ((1, 1, 1, 3), (3, 4, 3, 5)):
            maps = maps_of(B, L, nh, T)
            assert close(tensor(fn(maps), (B, T, T), "the result"), rolled_out(maps))
    return "mean of the heads, half of the residual, the layers multiplied in order, rows sum to 1"


EXERCISES = (
    Exercise(
        "vit-tokens",
        NOTEBOOK,
        "How many tokens is a picture?",
        1,
        3,
        ViTConfig.n_tokens.fget,
        check_tokens,
    ),
    Exercise("patchify", NOTEBOOK, "Cut a picture into patches", 3, 12, patchify, check_patchify),
    Exercise(
        "patch-convolution",
        NOTEBOOK,
        "The same as a convolution",
        3,
        10,
        patch_convolution,
        check_convolution,
    ),
    Exercise("vit-embed", NOTEBOOK, "The first tokens", 2, 8, ViT.embed, check_embed),
    Exercise(
        "attention-rollout",
        NOTEBOOK,
        "Attention through all layers",
        4,
        15,
        attention_rollout,
        check_rollout,
    ),
)
