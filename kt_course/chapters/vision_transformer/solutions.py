"""The teaching solutions of chapter 13, in its order.

Shapes: B images of c channels, H x W pixels; p pixels per side of a patch, N patches; T = N + 1
tokens, C channels per token, d = C / n_head channels per head.
In the notebook `Attention` and `Block` are the learner's own; here they are kt_core's.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from kt_core import blocks
from kt_core.attention import MultiHeadAttention as Attention


class Block(blocks.Block):
    """The block of chapter 2, which calls its attention with `x` alone."""

    def forward(self, x):
        """Add what attention gathers, then what the MLP computes."""
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


def make_block(config):
    """Return a block whose attention has no mask, and which starts as the identity."""
    block = Block(config)
    block.attn = FullAttention(config.n_embd, config.n_head, config.qk_norm)
    nn.init.zeros_(block.attn.proj.weight)
    nn.init.zeros_(block.mlp.proj.weight)
    return block


# ======== exercise patchify ========
def patchify(images, patch_size):
    """Cut images (B, c, H, W) into patches (B, N, c * p * p), row by row."""
    B, c, H, W = images.shape
    p = patch_size
    x = images.reshape(B, c, H // p, p, W // p, p)  # split both sides of the image
    x = x.permute(0, 2, 4, 1, 3, 5)  # (B, H/p, W/p, c, p, p): the patches come first
    return x.flatten(3).flatten(1, 2)  # pixels of a patch in one row, patches in one sequence


# ======== exercise patch-convolution ========
def embed_by_convolution(images, weight, bias, patch_size):
    """Compute patchify(images) @ weight.T + bias as a convolution: (B, N, C)."""
    kernel = weight.reshape(len(weight), images.size(1), patch_size, patch_size)  # (C, c, p, p)
    grid = F.conv2d(images, kernel, bias, stride=patch_size)  # (B, C, H/p, W/p)
    return grid.flatten(2).transpose(1, 2)


# ======== exercise full-attention ========
class FullAttention(Attention):
    """Self-attention without a mask, which keeps its weights: (B, T, C) -> (B, T, C)."""

    def __init__(self, n_embd, n_head, qk_norm=False):
        super().__init__(n_embd, n_head, qk_norm=qk_norm)  # query, key, value and proj
        self.n_head, self.qk_norm = n_head, qk_norm

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            layer(x).view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, n_head, T, d)
            for layer in (self.query, self.key, self.value)
        )
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # (B, n_head, T, T)
        weights = scores.softmax(dim=-1)  # no mask: every token attends to every token
        self.weights = weights.detach()  # to look at later
        return self.proj((weights @ v).transpose(1, 2).reshape(B, T, C))


# ======== exercise vision-transformer ========
class ViT(nn.Module):
    """Grey images (B, 1, H, W) in, logits of the classes out: (B, n_class)."""

    def __init__(self, config, patch_size, n_class):
        super().__init__()
        self.config, self.patch_size = config, patch_size
        self.patch_emb = nn.Linear(patch_size**2, config.n_embd)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, config.n_embd))
        self.pos_emb = nn.Parameter(0.02 * torch.randn(1, config.block_size, config.n_embd))
        self.blocks = nn.ModuleList(make_block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, n_class)

    def encode(self, images):
        x = self.patch_emb(patchify(images, self.patch_size))  # (B, N, C)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)  # (B, T, C)
        x = x + self.pos_emb  # row 0 belongs to the class token
        for block in self.blocks:
            x = block(x)
        return self.ln_f(x)

    def forward(self, images):
        return self.head(self.encode(images)[:, 0])  # only the class token is read


# ======== exercise attention-rollout ========
def attention_rollout(maps):
    """Follow attention through all layers: maps (B, n_head, T, T) of each layer -> (B, T, T)."""
    identity = torch.eye(maps[0].size(-1)).to(maps[0])
    rollout = identity
    for weights in maps:  # from the first layer to the last
        layer = 0.5 * weights.mean(dim=1) + 0.5 * identity  # half attention, half residual
        rollout = layer @ rollout  # the later layer on the left
    return rollout
