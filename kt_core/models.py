"""A character-level GPT in four variants (after minGPT and the CS224n assignment on self-attention and pretraining).

vanilla       learned position embeddings, causal self-attention in every layer.
rope          no position embeddings; queries and keys are rotated (Su et al. 2021).
perceiver     the assignment's: a learned bottleneck of m latents reads inputs 0 ... m - 1; blind to the rest.
perceiver_ar  causal AND complete, after Perceiver AR (Hawthorne et al. 2022) and Hourglass (Nawrot et al. 2021):
              latent i reads inputs 0 ... s(i+1) - 1, output t reads the latents that hold nothing newer than t.

Everything about who sees what is told by two numbers, the last input that a query may know of and the last one that
went into a key: see `attention.reach_mask`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from kt_core._typing import Float, Int, Tensor
from kt_core.attention import (
    Dropout,
    KeyValueCache,
    MultiHeadAttention,
    padding_mask,
    reach_mask,
    rotary_table,
)

VARIANTS = ("vanilla", "rope", "perceiver", "perceiver_ar")
ACTIVATIONS = {"gelu": F.gelu, "relu2": lambda x: F.relu(x).square()}


@dataclass(frozen=True)
class GPTConfig:
    """Size and variant of a `GPT`; the defaults are the assignment's model (3,323,392 parameters at vocabulary 256).

    `bottleneck` (m) is the number of latents of a perceiver; for perceiver_ar it is that of a full block, so that
    the stride is s = ceil(block_size / bottleneck) and a batch of length T has ceil(T / s) latents.
    `random_offset` (variants with learned positions): in training each row is moved by 0 ... random_offset positions,
    so that a name is known wherever it stands; questions and documents put it at different places.
    `causal`: False lets every position look both ways, an encoder for masked language models (see `kt_course.chapters.masked_language_models.masked`).
    Raises ValueError for a value that no model can have, naming the field.
    """

    vocab_size: int
    block_size: int = 128
    n_layer: int = 4
    n_head: int = 8
    n_embd: int = 256
    variant: str = "vanilla"
    bottleneck: int = 64
    dropout: float = 0.1
    rope_base: float = 10000.0
    qk_norm: bool = False
    activation: str = "gelu"
    zero_init: bool = False
    random_offset: int = 0
    causal: bool = True

    def __post_init__(self):
        for field in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "bottleneck"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"GPTConfig.{field} must be a whole number of at least 1, not {value!r}"
                )
        for field in ("dropout", "rope_base"):
            value = getattr(self, field)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(f"GPTConfig.{field} must be a number, not {value!r}")
        for field in ("qk_norm", "zero_init", "causal"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(
                    f"GPTConfig.{field} must be True or False, not {getattr(self, field)!r}"
                )
        if type(self.random_offset) is not int or not 0 <= self.random_offset < self.block_size:
            raise ValueError(
                f"GPTConfig.random_offset must be a whole number in 0 ... block_size - 1, not {self.random_offset!r}"
            )
        if self.variant not in VARIANTS:
            raise ValueError(
                f"GPTConfig.variant must be one of {', '.join(VARIANTS)}, not {self.variant!r}"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"GPTConfig.activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}"
            )
        if self.n_embd % self.n_head:
            raise ValueError(
                f"GPTConfig.n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})"
            )
        if self.rotary and (self.n_embd // self.n_head) % 2:
            raise ValueError(
                f"{self.variant} rotates pairs: n_embd / n_head must be even, not {self.n_embd // self.n_head}"
            )
        if self.latent and self.n_layer < 2:
            raise ValueError(f"{self.variant} needs n_layer >= 2: one block down, one block up")
        if self.latent and self.bottleneck > self.block_size:
            raise ValueError(
                f"GPTConfig.bottleneck ({self.bottleneck}) must not exceed block_size ({self.block_size})"
            )
        if self.latent and not self.causal:
            raise ValueError(
                f"{self.variant} is causal: only vanilla and rope can look both ways (causal=False)"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"GPTConfig.dropout must lie in [0, 1), not {self.dropout!r}")
        if not self.rope_base > 1.0:
            raise ValueError(f"GPTConfig.rope_base must be above 1, not {self.rope_base!r}")

    @property
    def rotary(self) -> bool:
        """Do queries and keys turn with their position?"""
        return self.variant in ("rope", "perceiver_ar")

    @property
    def latent(self) -> bool:
        """Do the middle layers run on latents instead of on the inputs?"""
        return self.variant in ("perceiver", "perceiver_ar")

    @property
    def stride(self) -> int:
        """s: inputs a latent of perceiver_ar. 1 for the others."""
        return -(-self.block_size // self.bottleneck) if self.variant == "perceiver_ar" else 1


class MLP(nn.Module):
    """Two linear maps with a non-linearity between, at each position alone: C -> 4C -> C."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.activation = ACTIVATIONS[config.activation]
        self.drop = Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        return self.drop(self.proj(self.activation(self.up(x))))


class Block(nn.Module):
    """Pre-norm Transformer block: x + attention(norm x), then x + MLP(norm x). Cross-attention if given a source."""

    def __init__(self, config: GPTConfig, cross: bool = False):
        super().__init__()
        self.ln1 = nn.LayerNorm(config.n_embd)
        self.ln_source = nn.LayerNorm(config.n_embd) if cross else None
        self.attn = MultiHeadAttention(config.n_embd, config.n_head, config.dropout, config.qk_norm)
        self.drop = Dropout(config.dropout)
        self.ln2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        source: Float[Tensor, "B T_source C"] | None = None,
        **where,
    ) -> Float[Tensor, "B T C"]:
        """`where`: mask, rotations and cache, handed to `MultiHeadAttention`."""
        normed = None if source is None else self.ln_source(source)
        x = x + self.drop(self.attn(self.ln1(x), normed, **where))
        return x + self.mlp(self.ln2(x))


class DownProjectBlock(Block):
    """From T inputs to the latents. Each latent starts as a learned vector (perceiver: latent i is row i of `latents`)
    or as the newest input that it reads (perceiver_ar), then gathers from the inputs within its reach."""

    def __init__(self, config: GPTConfig):
        super().__init__(config, cross=True)
        if config.variant == "perceiver":
            self.latents = nn.Parameter(torch.empty(1, config.bottleneck, config.n_embd))
            nn.init.xavier_uniform_(self.latents)


class UpProjectBlock(Block):
    """From the latents back to T outputs: each input asks the latents within its reach; its own residual is kept.

    For perceiver_ar the first s - 1 outputs have no latent to read: a learned `null` latent, legal for everybody,
    keeps their row from being empty. With s > 2 up to s - 2 of the newest inputs are in no legal latent yet;
    `local`, weights a channel, adds them to the residual, so that nothing is lost.
    """

    def __init__(self, config: GPTConfig):
        super().__init__(config, cross=True)
        if config.variant == "perceiver_ar":
            self.null = nn.Parameter(0.02 * torch.randn(1, 1, config.n_embd))
            self.local = nn.Parameter(0.1 * torch.randn(max(config.stride - 2, 0), config.n_embd))


class Cache:
    """What `GPT` keeps between steps of decoding: keys and values a layer, and the embedded inputs.

    While it is `empty`, attention runs over the prompt alone, as in training.
    """

    def __init__(self, model: GPT, batch: int):
        c, like = model.config, model.head.weight
        self.empty = True
        spare = model.n_latents + 1  # one slot more: the null latent's, or one that nobody reads
        slots = (
            [c.block_size] * c.n_layer
            if not c.latent
            else [c.block_size] + [spare] * (c.n_layer - 1)
        )
        self.layers = [KeyValueCache(batch, c.n_head, n, c.n_embd // c.n_head, like) for n in slots]
        self.inputs = like.new_zeros(batch, c.block_size, c.n_embd)

    def keep(self, rows: Int[Tensor, " B_kept"]) -> None:
        """Forget all rows of the batch but these: the others' texts have ended."""
        for layer in self.layers:
            layer.keep(rows)
        self.inputs = self.inputs[rows]


class GPT(nn.Module):
    """Decoder-only Transformer over characters; see `GPTConfig` for the variants."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.pos_emb = (
            None
            if config.rotary
            else nn.Parameter(torch.zeros(1, config.block_size, config.n_embd))
        )
        self.drop = Dropout(config.dropout)
        middle = config.n_layer - 2
        kinds = (
            [DownProjectBlock, *[Block] * middle, UpProjectBlock]
            if config.latent
            else [Block] * config.n_layer
        )
        self.blocks = nn.ModuleList(kind(config) for kind in kinds)
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.apply(self._init_weights)
        if config.zero_init:
            for block in self.blocks:  # every block starts as the identity
                nn.init.zeros_(block.attn.proj.weight)
                nn.init.zeros_(block.mlp.proj.weight)
        if config.rotary:
            positions = torch.arange(
                config.block_size + config.stride
            )  # a last, partial latent may point past the block
            cos, sin = rotary_table(positions, config.n_embd // config.n_head, config.rope_base)
            self.register_buffer("cos", cos, persistent=False)  # (positions, hs/2)
            self.register_buffer("sin", sin, persistent=False)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def n_latents(self) -> int:
        """Latents of a full block: m for perceiver, ceil(block_size / s) for perceiver_ar."""
        c = self.config
        return c.bottleneck if c.variant == "perceiver" else -(-c.block_size // c.stride)

    def n_parameters(self) -> int:
        """Number of trained values."""
        return sum(p.numel() for p in self.parameters())

    def forward(
        self, idx: Int[Tensor, "B T"], targets: Int[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B T V"], Float[Tensor, ""] | None]:
        """Logits of the next character at each position, and the mean cross-entropy in nats where targets are not 0.

        `idx`: (B, T) int64 with T <= block_size, else ValueError. The loss is None without `targets`.
        """
        B, T = idx.shape
        if T > self.config.block_size:
            raise ValueError(
                f"{T} characters do not fit a block of {self.config.block_size}: shorten the text or raise block_size"
            )
        logits = self._run(idx, torch.arange(T, device=idx.device)[None], None)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)

    def start_cache(self, idx: Int[Tensor, "B T"]) -> tuple[Float[Tensor, "B T V"], Cache]:
        """Read a batch of prompts, padded on the right, and keep what later steps need: (logits, cache)."""
        if not self.config.causal:
            raise ValueError(
                "an encoder (causal=False) keeps no cache: every character changes all outputs"
            )
        cache = Cache(self, idx.size(0))
        positions = torch.arange(idx.size(1), device=idx.device).expand_as(idx)
        logits = self._run(idx, positions, cache)
        cache.empty = False
        return logits, cache

    def step(
        self, idx: Int[Tensor, " B"], positions: Int[Tensor, " B"], cache: Cache
    ) -> Float[Tensor, "B V"]:
        """Logits after one more character a row, row b's standing at `positions[b]`. Updates the cache."""
        return self._run(idx[:, None], positions[:, None], cache)[:, -1]

    # ------------------------------------------------------------ inside

    def _placed(self, positions: Int[Tensor, "B_or_1 T"], idx: Int[Tensor, "B T"]) -> Tensor:
        """Rows of the position table: `positions`, in training moved by a random offset a row if so configured."""
        most = min(
            self.config.random_offset, self.config.block_size - idx.size(1)
        )  # the row must fit the table
        if not self.training or most == 0:
            return positions
        offsets = torch.randint(most + 1, (idx.size(0), 1), device=idx.device)
        return positions + offsets  # (B, T)

    def _rotation(self, reach: Int[Tensor, "B_or_1 T"]) -> tuple[Tensor, Tensor] | None:
        """cos and sin for queries or keys that stand at `reach`, broadcasting over the heads."""
        if not self.config.rotary:
            return None
        at = reach.clamp(min=0)  # the null latent, whose reach is -1, stands at 0
        return self.cos[at].unsqueeze(1), self.sin[at].unsqueeze(1)  # (B or 1, 1, T, hs/2)

    def _run(
        self, idx: Int[Tensor, "B T"], positions: Int[Tensor, "B_or_1 T"], cache: Cache | None
    ) -> Tensor:
        """The forward pass over inputs that stand at `positions`, (1, T) for all rows alike or (B, T) a row each."""
        x = self.tok_emb(idx)
        if self.pos_emb is not None:
            x = x + self.pos_emb[0, self._placed(positions, idx)]
        x = self.drop(x)
        if self.config.latent:
            x = self._through_latents(x, positions, cache)
        else:
            where = self._where(positions, positions, positions, cache)
            if not self.config.causal:
                where |= dict(is_causal=False, mask=padding_mask(idx))
            for i, block in enumerate(self.blocks):
                x = block(x, **where, cache=cache and cache.layers[i])
        return self.head(self.ln_f(x))

    def _where(
        self, query_reach, source_reach, slots, cache: Cache | None, slot_reach=None
    ) -> dict:
        """Mask, rotations and slots for one layer: queries that may know `query_reach`, keys that know `source_reach`.

        Once a cache is filled the keys are its slots, up to the last one in use; slot j knows inputs up to
        `slot_reach[j]` (j if None).
        """
        where = dict(
            query_rotation=self._rotation(query_reach), key_rotation=self._rotation(source_reach)
        )
        if cache is not None:
            where |= dict(slots=slots)
            if not cache.empty:
                used = int(slots.max()) + 1
                known = (
                    torch.arange(used, device=slots.device)
                    if slot_reach is None
                    else slot_reach[:used]
                )
                return where | dict(
                    mask=reach_mask(query_reach, known[None]).unsqueeze(1), n_slots=used
                )
        if query_reach is source_reach:  # self-attention in order of position
            return where | dict(is_causal=True)
        return where | dict(
            mask=reach_mask(query_reach, source_reach).unsqueeze(1)
        )  # (B or 1, 1, T_query, T_key)

    def _through_latents(
        self, x: Float[Tensor, "B T C"], positions: Tensor, cache: Cache | None
    ) -> Tensor:
        """Down to the latents, through the middle blocks, up to the outputs (both perceivers)."""
        c, (down, *middle, up) = self.config, self.blocks
        B, T, _ = x.shape
        s, m = c.stride, self.n_latents
        stepping = cache is not None and not cache.empty
        # which latents this pass computes, (B or 1, n), and the last input that each reads
        if stepping:
            index = (positions // s).clamp(
                max=m
            )  # latent m: one that nobody reads (perceiver, past its bottleneck)
        else:
            index = torch.arange(min(m, -(-T // s)), device=x.device).expand(positions.size(0), -1)
        reach = s * (index + 1) - 1
        slot_reach = s * (torch.arange(m + 1, device=x.device) + 1) - 1
        slot_reach[m] = c.block_size * s  # beyond every query
        layers = cache.layers if cache is not None else [None] * c.n_layer

        if c.variant == "perceiver":
            start = down.latents[0, index.clamp(max=m - 1)].expand(B, -1, -1)  # (B, n, C)
        else:
            start = (
                x if stepping else x[:, reach[0].clamp(max=T - 1)]
            )  # the newest input of each latent
        z = down(start, x, **self._where(reach, positions, positions, cache), cache=layers[0])
        where = self._where(reach, reach, index, cache, slot_reach)
        for block, layer in zip(middle, layers[1:-1], strict=True):
            z = block(z, **where, cache=layer)

        if c.variant == "perceiver_ar":
            x = x + self._newest(up.local, x, positions, cache)
            slot_reach = F.pad(slot_reach[:m], (1, 0), value=-1)  # slot 0 holds the null latent
            index = index + 1
            if not stepping:
                z = torch.cat([up.null.expand(B, -1, -1), z], dim=1)  # (B, 1 + n, C)
                reach, index = F.pad(reach, (1, 0), value=-1), F.pad(index, (1, 0), value=0)
        return up(x, z, **self._where(positions, reach, index, cache, slot_reach), cache=layers[-1])

    def _newest(
        self,
        local: Float[Tensor, "n C"],
        x: Float[Tensor, "B T C"],
        positions: Tensor,
        cache: Cache | None,
    ):
        """Sum over k = 1 ... s - 2 of local[k - 1] * x[t - k]: the inputs that no legal latent holds yet."""
        if cache is not None:
            cache.inputs.scatter_(1, positions[..., None].expand_as(x), x)
        total = torch.zeros_like(x)
        for k in range(1, local.size(0) + 1):
            if cache is None:
                earlier = F.pad(x, (0, 0, k, 0))[:, : x.size(1)]  # x[t - k], 0 before the start
            else:
                at = (positions - k)[..., None].expand_as(x)
                earlier = cache.inputs.gather(1, at.clamp(min=0)) * (at >= 0)
            total = total + local[k - 1] * earlier
        return total
