"""A Vision Transformer: a picture is cut into patches, each patch is a token, and the blocks are the GPT's, unmasked.

Axes: B batch, c channels of a picture, H and W its sides in pixels, p the side of a patch, G = H / p patches a side,
N = G * G patches, T tokens (N, and one more with a class token), C channels of a token (n_embd).
Sources: Dosovitskiy et al. 2021, section 3.1 (the model) and figure 7 (learned positions); Abnar & Zuidema 2020,
section 3 (attention rollout); He et al. 2022 and Xie et al. 2022 (pretraining on hidden patches).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kt_core._typing import Bool, Float, Int, Tensor
from kt_core.evaluation import Score
from kt_core.models import ACTIVATIONS, Block, GPTConfig
from kt_core.runs.devices import choose_device
from kt_core.runs.progress import Progress
from kt_core.trainer import TrainConfig

POOLS, POSITIONS = ("class", "mean"), ("learned", "none")
HIDDEN = -1.0  # ink that no picture has: what ⁇ is in a text


@dataclass(frozen=True)
class ViTConfig:
    """Size and kind of a `ViT`; the defaults suit 8 x 8 digits. ValueError names a field that no model can have.

    image_size, patch_size  sides in pixels; a patch's divides the picture's.
    pool       "class": a learned token is put in front and read at the end (the paper's); "mean": the mean of all tokens.
    positions  "learned": a trained vector a token, added; "none": the picture becomes a bag of patches.
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
    activation: str = "gelu"
    qk_norm: bool = True
    zero_init: bool = True

    def __post_init__(self):
        def need(field: str, right: bool, what: str) -> None:
            if not right:
                raise ValueError(f"ViTConfig.{field} must {what}, not {getattr(self, field)!r}")

        for field in (
            "image_size",
            "patch_size",
            "channels",
            "n_class",
            "n_layer",
            "n_head",
            "n_embd",
        ):
            value = getattr(self, field)
            need(field, type(value) is int and value >= 1, "be a whole number of at least 1")
        for field, known in (
            ("pool", POOLS),
            ("positions", POSITIONS),
            ("activation", tuple(ACTIVATIONS)),
        ):
            need(field, getattr(self, field) in known, f"be one of {', '.join(known)}")
        for field in ("qk_norm", "zero_init"):
            need(field, isinstance(getattr(self, field), bool), "be True or False")
        need(
            "dropout",
            isinstance(self.dropout, int | float) and 0.0 <= self.dropout < 1.0,
            "lie in [0, 1)",
        )
        need(
            "patch_size",
            self.image_size % self.patch_size == 0,
            f"divide image_size ({self.image_size})",
        )
        need("n_embd", self.n_embd % self.n_head == 0, f"be a multiple of n_head ({self.n_head})")

    @property
    def grid(self) -> int:
        """G: patches along a side."""
        return self.image_size // self.patch_size

    @property
    def n_patches(self) -> int:
        """N: patches of a picture."""
        return self.grid**2

    @property
    def n_tokens(self) -> int:
        """T: what the blocks work on, the patches and, if there is one, the class token."""
        return self.n_patches + (self.pool == "class")

    @property
    def block(self) -> GPTConfig:
        """The same sizes for `models.Block`, the block of the GPT."""
        return GPTConfig(
            self.n_class,
            self.n_tokens,
            self.n_layer,
            self.n_head,
            self.n_embd,
            dropout=self.dropout,
            activation=self.activation,
            qk_norm=self.qk_norm,
        )


# ---------------------------------------------------------------- patches


def patchify(images: Float[Tensor, "B c H W"], patch_size: int) -> Float[Tensor, "B N P"]:
    """Cut pictures into patches, row by row: (B, N, c * p * p), a patch's pixels in the order channel, row, column.

    ValueError if the patches do not fill the picture.
    """
    B, c, H, W = images.shape
    p = patch_size
    if p < 1 or H % p or W % p:
        raise ValueError(
            f"patches of {p} x {p} do not fill a picture of {H} x {W} pixels: p must divide both"
        )
    x = images.reshape(B, c, H // p, p, W // p, p)
    return (
        x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    )  # (B, G, G, c, p, p) -> (B, N, c * p * p)


def unpatchify(patches: Float[Tensor, "B N P"], channels: int = 1) -> Float[Tensor, "B c H W"]:
    """The square pictures that `patchify` cut into these patches. ValueError if N or P / c is no square number."""
    B, N, P = patches.shape
    grid, p = math.isqrt(N), math.isqrt(P // channels)
    if grid**2 != N or channels * p**2 != P:
        raise ValueError(
            f"{N} patches of {P} numbers make no square picture of {channels} channels"
        )
    x = patches.reshape(B, grid, grid, channels, p, p)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(B, channels, grid * p, grid * p)


def patch_convolution(
    images: Float[Tensor, "B c H W"],
    weight: Float[Tensor, "C P"],
    bias: Float[Tensor, " C"],
    patch_size: int,
) -> Float[Tensor, "B N C"]:
    """patchify(images) @ weight.T + bias, written as a convolution: a kernel as large as a patch, moved by a patch."""
    kernel = weight.reshape(len(weight), images.size(1), patch_size, patch_size)  # (C, c, p, p)
    return (
        F.conv2d(images, kernel, bias, stride=patch_size).flatten(2).mT
    )  # (B, C, G, G) -> (B, N, C)


def permute_patches(
    images: Float[Tensor, "B c H W"], patch_size: int, order: Int[Tensor, "..."]
) -> Float[Tensor, "B c H W"]:
    """Pictures whose patch i is the old patch order[i]; `order` is (N,), or (B, N) for an order of each picture's own."""
    patches = patchify(images, patch_size)
    index = order.expand(len(images), -1).unsqueeze(-1).expand_as(patches)  # (B, N, P)
    return unpatchify(patches.gather(1, index), images.size(1))


def shift_images(
    images: Float[Tensor, "B c H W"], down: Int[Tensor, " B"], right: Int[Tensor, " B"]
) -> Float[Tensor, "B c H W"]:
    """Each picture moved by its own number of pixels (negative: up, left); zeros come in, what leaves is lost."""
    B, c, H, W = images.shape
    most = int(torch.stack([down, right]).abs().max()) if B else 0
    padded = F.pad(images, (most,) * 4)
    rows = (
        torch.arange(H, device=images.device) + most - down[:, None]
    )  # (B, H): which row comes here
    columns = torch.arange(W, device=images.device) + most - right[:, None]
    batch = torch.arange(B, device=images.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None]].movedim(
        -1, 1
    )  # (B, H, W, c) -> (B, c, H, W)


# ---------------------------------------------------------------- the model


class ViT(nn.Module):
    """Patches -> linear map -> class token in front, positions added -> the GPT's blocks without a mask -> a class."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config, c = config, config
        self.patch_emb = nn.Linear(c.channels * c.patch_size**2, c.n_embd)
        self.class_token = (
            nn.Parameter(0.02 * torch.randn(1, 1, c.n_embd)) if c.pool == "class" else None
        )
        self.pos_emb = (
            nn.Parameter(0.02 * torch.randn(1, c.n_tokens, c.n_embd))
            if c.positions == "learned"
            else None
        )
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
        if c.zero_init:
            for block in self.blocks:  # every block starts as the identity
                nn.init.zeros_(block.attn.proj.weight)
                nn.init.zeros_(block.mlp.proj.weight)

    def n_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters())

    def embed(self, patches: Float[Tensor, "B N P"]) -> Float[Tensor, "B T C"]:
        """The tokens that the first block gets (equation 1 of the paper): each patch by one linear map, the class token
        in front of them, and to every token, that one too, its position."""
        x = self.patch_emb(patches)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + N, C)
        return x if self.pos_emb is None else x + self.pos_emb

    def encode(self, patches: Float[Tensor, "B N P"]) -> Float[Tensor, "B T C"]:
        """The tokens after the last block, normed. No mask: every token reads every token."""
        x = self.drop(self.embed(patches))
        for block in self.blocks:
            x = block(x)
        return self.ln_f(x)

    def forward(
        self, images: Float[Tensor, "B c H W"], labels: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B n_class"], Float[Tensor, ""] | None]:
        """Logits of the classes, and the mean cross-entropy in nats if there are labels. ValueError for other pictures."""
        c = self.config
        if images.shape[1:] != (c.channels, c.image_size, c.image_size):
            raise ValueError(
                f"pictures of {tuple(images.shape[1:])} for a ViT of {(c.channels, c.image_size, c.image_size)}: "
                "channels, height and width must be the config's"
            )
        x = self.encode(patchify(images, c.patch_size))
        logits = self.head(x[:, 0] if c.pool == "class" else x.mean(dim=1))
        return logits, None if labels is None else F.cross_entropy(logits, labels)


class PatchFiller(nn.Module):
    """Pretraining without labels: a share of the patches is hidden, and the ViT has to draw them.

    The hidden patches stay in the sequence, as in Xie et al. 2022 (SimMIM); He et al. 2022 leave them out and need a
    decoder. The loss is the mean squared error of the hidden pixels. `vit` is trained along, its head is not.
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
        """All patches as the model draws them, and the loss. `hidden` is drawn from torch's global generator if None."""
        patches = patchify(images, self.vit.config.patch_size)
        if hidden is None:
            hidden = torch.rand(patches.shape[:2], device=patches.device) < self.share
        seen = patches.masked_fill(hidden.unsqueeze(-1), HIDDEN)
        x = self.vit.encode(seen)[:, -patches.size(1) :]  # without the class token
        drawn = self.draw(x)  # (B, N, P)
        error = (drawn - patches).square().mean(-1)
        return drawn, (error * hidden).sum() / hidden.sum().clamp(min=1)


# ---------------------------------------------------------------- what it looks at, what it learned


def attention_rollout(maps: Sequence[Float[Tensor, "B nh T T"]]) -> Float[Tensor, "B T T"]:
    """Which tokens of the input each token has gathered from, through all layers (Abnar & Zuidema 2020, equation 1).

    A layer is the mean of its heads, half and half with the identity for the residual; layers are multiplied, the last
    one on the left. Rows sum to 1. It knows of no values, no MLPs and no signs: a picture, not a cause.
    """
    if not len(maps):
        raise ValueError("attention_rollout needs the map of one layer at least")
    rolled = torch.eye(maps[0].size(-1), dtype=maps[0].dtype, device=maps[0].device)
    for weights in maps:
        rolled = (
            0.5 * weights.mean(dim=1) + 0.5 * torch.eye(weights.size(-1)).to(weights)
        ) @ rolled
    return rolled  # (B, T, T)


def grid_correlation(positions: Float[Tensor, "N C"]) -> float:
    """Pearson's r between the cosine of two patches' position vectors and their distance on the G x G grid, all pairs.

    Near 0 where the vectors know nothing of the picture, towards -1 where near patches have similar vectors.
    """
    grid = math.isqrt(len(positions))
    if grid**2 != len(positions) or grid < 2:
        raise ValueError(
            f"{len(positions)} positions fill no square grid: leave the class token out"
        )
    first, second = torch.triu_indices(len(positions), len(positions), 1)
    unit = F.normalize(positions.detach().double(), dim=-1)
    place = torch.cartesian_prod(
        torch.arange(grid), torch.arange(grid)
    ).double()  # (N, 2): row, column
    alike = (unit[first] * unit[second]).sum(-1).cpu()
    return float(
        torch.corrcoef(torch.stack([alike, (place[first] - place[second]).norm(dim=-1)]))[0, 1]
    )


# ---------------------------------------------------------------- data and training


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures with their classes: images (N, c, H, W) in 0 ... 1, labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Pictures:
        return Pictures(self.images[rows], self.labels[rows])

    def to(self, device: torch.device | str) -> Pictures:
        return Pictures(self.images.to(device), self.labels.to(device))


def load_digits() -> tuple[Pictures, Pictures, Pictures]:
    """(train, dev, test): 1,077 + 360 + 360 of the 1,797 handwritten 8 x 8 digits that come with scikit-learn.

    The split is drawn once and for all. Train, dev and test share their writers: new hands are harder. ValueError
    without scikit-learn.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise ValueError("the digits come with scikit-learn: pip install scikit-learn") from None
    found = datasets.load_digits()
    order = np.random.RandomState(2021).permutation(
        len(found.target)
    )  # a stream that numpy keeps as it is
    images = torch.tensor(found.images[order] / 16, dtype=torch.float32)[:, None]  # (N, 1, 8, 8)
    every = Pictures(images, torch.tensor(found.target[order], dtype=torch.long))
    return every[:1077], every[1077:1437], every[1437:]


def random_shifts(most: int = 1) -> Callable[[Tensor, torch.Generator], Tensor]:
    """An `augment` for `fit_pictures`: every picture moved by -most ... most pixels each way, anew each time."""

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        down, right = torch.randint(-most, most + 1, (2, len(images)), generator=generator).to(
            images.device
        )
        return shift_images(images, down, right)

    return augment


def fit_pictures(
    model: nn.Module,
    data: Pictures,
    config: TrainConfig,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    title: str = "training",
) -> list[dict]:
    """Train `model`, model(images, labels) -> (_, loss), in place; rows of step, epoch, loss (nats) and seconds, one an epoch.

    The `Trainer` batches texts; this loop takes its settings (precision, saving, logging aside) for pictures. Muon takes
    the matrices in `model.blocks`. Seeds torch's global generator, which dropout and hidden patches draw from; order and
    `augment` draw from a generator of that seed. FloatingPointError if the loss is no number.
    """
    device = choose_device(config.device)
    model, data = model.to(device).train(), data.to(device)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    optimizers = config.optimizers(model)
    an_epoch = -(-len(data) // config.batch_size)
    total = config.steps or max(1, round(config.epochs * an_epoch))
    history, losses, began, bar = [], [], time.perf_counter(), Progress(total, title)
    for step in range(total):
        at = step % an_epoch
        if at == 0:
            order = torch.randperm(len(data), generator=generator).to(device)
        batch = data[order[at * config.batch_size : (at + 1) * config.batch_size]]
        images = augment(batch.images, generator) if augment else batch.images
        _, loss = model(images, batch.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * config.rate(step, total)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        bar.update()
        if at == an_epoch - 1 or step == total - 1:
            mean = float(torch.stack(losses).mean())
            if not math.isfinite(mean):
                raise FloatingPointError(
                    f"the loss is {mean} at step {step + 1}: lower the learning rate"
                )
            spent = time.perf_counter() - began
            row = dict(
                step=step + 1, epoch=(step + 1) / an_epoch, loss=mean, seconds=round(spent, 3)
            )
            history.append(row)
            losses.clear()
    bar.close()
    model.eval()
    return history


@torch.no_grad()
def classify(model: nn.Module, images: Float[Tensor, "B c H W"]) -> Int[Tensor, " B"]:
    """The likeliest class of each picture, on the CPU; the model is left in eval mode."""
    device = next(model.parameters()).device
    model.eval()
    return torch.cat([model(part.to(device))[0].argmax(-1).cpu() for part in images.split(512)])


def score_pictures(model: nn.Module, data: Pictures) -> Score:
    """How many pictures get their class, with the interval."""
    return Score(int((classify(model, data.images) == data.labels.cpu()).sum()), len(data))
