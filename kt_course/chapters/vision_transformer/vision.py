"""A Vision Transformer: an image is cut into patches, each a token, and read by the GPT's blocks.

Axes: B batch, c channels of an image, H and W its sides in pixels, p the side of a patch, G = H / p
patches per side, N = G * G patches, P = c * p * p numbers of a patch, T tokens (N, or N + 1 with a
class token), C channels of a token (n_embd).

Sources: Dosovitskiy et al. 2021, section 3.1 (the model) and figure 7 (learned positions); Abnar
and Zuidema 2020, section 3 (attention rollout); He et al. 2022 and Xie et al. 2022 (pretraining on
hidden patches).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kt_core._validation import is_whole, require
from kt_core.blocks import Block, GPTConfig
from kt_core.evaluation import Score
from kt_course._typing import Bool, Float, Int, Tensor

POOLS, POSITIONS = ("class", "mean"), ("learned", "none")
HIDDEN = -1.0  # the ink of hidden pixels, which no image has: what ⁇ is in a text


@dataclass(frozen=True)
class ViTConfig:
    """Size and kind of a `ViT`; the defaults suit 8 x 8 digits. ValueError names a bad field.

    Args:
        image_size, patch_size: Sides in pixels; the patch's divides the image's.
        pool: "class" puts a learned token first and reads it at the end, as in the paper; "mean"
            takes the mean of all tokens.
        positions: "learned" adds a trained vector per token; "none" makes a bag of patches.
        zero_init: Whether every block starts as the identity.
    """

    image_size: int = 8
    patch_size: int = 2
    channels: int = 1
    n_class: int = 10
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 48
    pool: str = "class"
    positions: str = "learned"
    dropout: float = 0.0
    qk_norm: bool = True
    zero_init: bool = True

    def __post_init__(self):
        for field in "image_size patch_size channels n_class n_layer n_head n_embd".split():
            require(self, field, is_whole(getattr(self, field)), "a whole number of at least 1")
        require(self, "pool", self.pool in POOLS, f"one of {', '.join(POOLS)}")
        require(self, "positions", self.positions in POSITIONS, f"one of {', '.join(POSITIONS)}")
        for field in ("qk_norm", "zero_init"):
            require(self, field, isinstance(getattr(self, field), bool), "True or False")
        is_number = isinstance(self.dropout, int | float)
        require(self, "dropout", is_number and 0.0 <= self.dropout < 1.0, "in [0, 1)")
        divides = self.image_size % self.patch_size == 0
        require(self, "patch_size", divides, f"a divisor of image_size ({self.image_size})")
        fits = self.n_embd % self.n_head == 0
        require(self, "n_embd", fits, f"a multiple of n_head ({self.n_head})")

    @property
    def grid(self) -> int:
        """G: patches per side."""
        return self.image_size // self.patch_size

    @property
    def n_patches(self) -> int:
        """N: patches of an image."""
        return self.grid**2

    @property
    def n_tokens(self) -> int:
        """T: the patches and, if there is one, the class token."""
        return self.n_patches + (self.pool == "class")

    @property
    def block(self) -> GPTConfig:
        """The same sizes for `Block`, the block of the GPT."""
        sizes = (self.n_class, self.n_tokens, self.n_layer, self.n_head, self.n_embd)
        return GPTConfig(*sizes, dropout=self.dropout, qk_norm=self.qk_norm)


# ---------------------------------------------------------------- patches


def patchify(images: Float[Tensor, "B c H W"], patch_size: int) -> Float[Tensor, "B N P"]:
    """Cut images into patches, row by row.

    Returns:
        The pixels of each patch in the order channel, row, column.

    Raises:
        ValueError: If the patches do not fill the image.
    """
    B, c, H, W = images.shape
    p = patch_size
    if p < 1 or H % p or W % p:
        sizes = f"patches of {p} x {p} do not fill an image of {H} x {W} pixels"
        raise ValueError(f"{sizes}: p must divide both")
    x = images.reshape(B, c, H // p, p, W // p, p)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, G, G, c, p, p) -> (B, N, P)


def unpatchify(patches: Float[Tensor, "B N P"], channels: int = 1) -> Float[Tensor, "B c H W"]:
    """Put the patches of square images together again. ValueError if they are not square."""
    B, N, P = patches.shape
    grid, p = math.isqrt(N), math.isqrt(P // channels)
    if grid**2 != N or channels * p**2 != P:
        sizes = f"{N} patches of {P} numbers"
        raise ValueError(f"{sizes} make no square image of {channels} channels")
    x = patches.reshape(B, grid, grid, channels, p, p)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(B, channels, grid * p, grid * p)


def patch_convolution(
    images: Float[Tensor, "B c H W"],
    weight: Float[Tensor, "C P"],
    bias: Float[Tensor, " C"],
    patch_size: int,
) -> Float[Tensor, "B N C"]:
    """Compute patchify(images) @ weight.T + bias as a convolution with a stride of one patch."""
    kernel = weight.reshape(len(weight), images.size(1), patch_size, patch_size)  # (C, c, p, p)
    y = F.conv2d(images, kernel, bias, stride=patch_size)  # (B, C, G, G)
    return y.flatten(2).mT


def permute_patches(
    images: Float[Tensor, "B c H W"], patch_size: int, order: Int[Tensor, "..."]
) -> Float[Tensor, "B c H W"]:
    """Make patch i the old patch order[i]; `order` is (N,), or (B, N) with one order per image."""
    patches = patchify(images, patch_size)
    index = order.expand(len(images), -1).unsqueeze(-1).expand_as(patches)  # (B, N, P)
    return unpatchify(patches.gather(1, index), images.size(1))


def shift_images(images: Float[Tensor, "*B H W"], down: int, right: int) -> Tensor:
    """Move images by whole pixels (negative: up, left); zeros come in, what leaves is lost."""
    H, W = images.shape[-2:]
    most = max(abs(down), abs(right))
    padded = F.pad(images, (most,) * 4)
    return padded[..., most - down :, most - right :][..., :H, :W]


# ---------------------------------------------------------------- the model


class ViT(nn.Module):
    """Patches, a linear map, class token and positions, the GPT's blocks unmasked, a class."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config, c = config, config
        self.patch_emb = nn.Linear(c.channels * c.patch_size**2, c.n_embd)
        self.class_token = self.pos_emb = None
        if c.pool == "class":
            self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, c.n_embd))
        if c.positions == "learned":
            self.pos_emb = nn.Parameter(0.02 * torch.randn(1, c.n_tokens, c.n_embd))
        self.drop = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c.block) for _ in range(c.n_layer))
        self.ln_f = nn.LayerNorm(c.n_embd)
        self.head = nn.Linear(c.n_embd, c.n_class)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.patch_emb.weight, std=0.1)
        nn.init.normal_(self.head.weight, std=0.02)
        for block in self.blocks if c.zero_init else ():
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.proj.weight)

    def n_parameters(self) -> int:
        """Count the trained numbers."""
        return sum(p.numel() for p in self.parameters())

    def embed(self, patches: Float[Tensor, "B N P"]) -> Float[Tensor, "B T C"]:
        """Make the tokens that the first block reads (equation 1 of the paper).

        One linear map for all patches, the class token in front, and a position for every token.
        """
        x = self.patch_emb(patches)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + N, C)
        return x if self.pos_emb is None else x + self.pos_emb

    def encode(self, patches: Float[Tensor, "B N P"]) -> Float[Tensor, "B T C"]:
        """Compute the tokens after the last block and norm. Every token attends to every token."""
        x = self.drop(self.embed(patches))
        for block in self.blocks:
            x = block(x)
        return self.ln_f(x)

    def forward(
        self, images: Float[Tensor, "B c H W"], labels: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B n_class"], Float[Tensor, ""] | None]:
        """Compute the classes' logits, and the mean cross-entropy in nats if there are labels."""
        c = self.config
        expected, shape = (c.channels, c.image_size, c.image_size), tuple(images.shape[1:])
        if shape != expected:
            raise ValueError(
                f"images of {shape} for a ViT of {expected}: "
                "channels, height and width must be the config's"
            )
        x = self.encode(patchify(images, c.patch_size))
        logits = self.head(x[:, 0] if c.pool == "class" else x.mean(dim=1))
        return logits, None if labels is None else F.cross_entropy(logits, labels)


class PatchFiller(nn.Module):
    """Pretraining without labels: a share of the patches is hidden, and the ViT predicts them.

    The hidden patches stay in the sequence, as in Xie et al. 2022 (SimMIM); He et al. 2022 leave
    them out and need a decoder. The loss is the mean squared error of the hidden pixels.
    """

    def __init__(self, vit: ViT, share: float = 0.5):
        super().__init__()
        if not 0.0 < share < 1.0:
            raise ValueError(f"PatchFiller.share must lie between 0 and 1, not {share!r}")
        self.vit, self.share, self.blocks = vit, share, vit.blocks
        self.draw = nn.Linear(vit.config.n_embd, vit.patch_emb.in_features)

    def forward(
        self,
        images: Float[Tensor, "B c H W"],
        labels: Tensor | None = None,
        hidden: Bool[Tensor, "B N"] | None = None,
    ) -> tuple[Float[Tensor, "B N P"], Float[Tensor, ""]]:
        """Compute all patches as the model predicts them, and the loss.

        `hidden` is drawn from torch's global generator if it is None.
        """
        patches = patchify(images, self.vit.config.patch_size)
        if hidden is None:
            hidden = torch.rand(patches.shape[:2], device=patches.device) < self.share
        visible = patches.masked_fill(hidden.unsqueeze(-1), HIDDEN)
        x = self.vit.encode(visible)[:, -patches.size(1) :]  # without the class token
        predicted = self.draw(x)  # (B, N, P)
        error = (predicted - patches).square().mean(-1)
        return predicted, (error * hidden).sum() / hidden.sum().clamp(min=1)


# ---------------------------------------------------------------- attention and positions


def attention_rollout(maps: Sequence[Float[Tensor, "B nh T T"]]) -> Float[Tensor, "B T T"]:
    """Compute which input tokens each token has gathered from, through all layers.

    A layer is the mean of its heads, averaged with the identity for the residual. Layers are
    multiplied, the last one on the left; rows sum to 1. Values, MLPs and signs are left out, so it
    is a picture and no proof of a cause.

    Source: Abnar and Zuidema 2020, equation 1.
    """
    if not len(maps):
        raise ValueError("attention_rollout needs the map of at least one layer")
    identity = torch.eye(maps[0].size(-1)).to(maps[0])
    rollout = identity
    for weights in maps:
        rollout = (0.5 * weights.mean(dim=1) + 0.5 * identity) @ rollout
    return rollout  # (B, T, T)


def grid_correlation(positions: Float[Tensor, "N C"]) -> float:
    """Correlate the similarity of two patches' positions with their distance on the G x G grid.

    Returns:
        Pearson's r over all pairs: near 0 if the vectors know nothing of the image, towards -1 if
        patches that are close have similar vectors.
    """
    N = len(positions)
    grid = math.isqrt(N)
    if grid**2 != N or grid < 2:
        raise ValueError(f"{N} positions fill no square grid: leave the class token out")
    first, second = torch.triu_indices(N, N, 1)
    unit = F.normalize(positions.detach().double().cpu(), dim=-1)
    similarity = (unit[first] * unit[second]).sum(-1)
    at = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).double()  # row, column
    distance = (at[first] - at[second]).norm(dim=-1)
    return float(torch.corrcoef(torch.stack([similarity, distance]))[0, 1])


# ---------------------------------------------------------------- data

Augment = Callable[[Tensor, random.Random], Tensor]  # (image (c, H, W), rng) -> image


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images (n, c, H, W) in 0 ... 1 with their classes, (n,) int64; training data of a `Trainer`.

    `augment` changes each image in each epoch, by draws that depend on `seed`, epoch and index.
    """

    images: Tensor
    labels: Tensor
    augment: Augment | None = None
    seed: int = 0

    block_size = None  # images have no length

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Pictures:
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def augmented(self, augment: Augment | None, seed: int = 0) -> Pictures:
        """Make the same pictures with another augmentation."""
        return replace(self, augment=augment, seed=seed)

    def tokens(self, i: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Give image i, augmented, and its class."""
        image = self.images[i]
        if self.augment is not None:
            image = self.augment(image, random.Random(f"{self.seed} {epoch} {i}"))
        return image, self.labels[i]

    def stack(self, examples: Sequence, length: None = None) -> tuple[Tensor, Tensor]:
        """Put several `tokens` into one batch."""
        images, labels = zip(*examples, strict=True)
        return torch.stack(images), torch.stack(labels)


def load_digits() -> tuple[Pictures, Pictures, Pictures]:
    """Load 8 x 8 handwritten digits from scikit-learn: 1,077 train, 360 dev and 360 test.

    The split is fixed. Train, dev and test share their writers: other people's digits are harder.
    ValueError without scikit-learn.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise ValueError("the digits come with scikit-learn: pip install scikit-learn") from None
    digits = datasets.load_digits()
    # RandomState: numpy keeps its stream as it is
    order = np.random.RandomState(2021).permutation(len(digits.target))
    images = torch.tensor(digits.images[order] / 16, dtype=torch.float32)[:, None]  # (n, 1, 8, 8)
    pictures = Pictures(images, torch.tensor(digits.target[order], dtype=torch.long))
    return pictures[:1077], pictures[1077:1437], pictures[1437:]


def random_shifts(most: int = 1) -> Augment:
    """Make an augmentation that moves each image by -most ... most pixels both ways."""

    def augment(image: Tensor, rng: random.Random) -> Tensor:
        return shift_images(image, rng.randint(-most, most), rng.randint(-most, most))

    return augment


@torch.no_grad()
def classify(model: nn.Module, images: Float[Tensor, "B c H W"]) -> Int[Tensor, " B"]:
    """Find the most likely class of each image, on the CPU; leaves the model in eval mode."""
    device = next(model.parameters()).device
    model.eval()
    return torch.cat([model(part.to(device))[0].argmax(-1).cpu() for part in images.split(512)])


def score_pictures(model: nn.Module, data: Pictures) -> Score:
    """Count the images that get their class."""
    return Score(int((classify(model, data.images) == data.labels.cpu()).sum()), len(data))
