"""Two perceivers: the middle blocks run on fewer latents than there are inputs.

perceiver     The assignment's: m learned latents read inputs 0 ... m - 1 and are blind to the rest.
perceiver_ar  Causal and complete: latent i reads inputs 0 ... s(i + 1) - 1. The newest of them is
              its *reach*. Output t reads the latents with a reach of at most t (`reach_mask`).
              With s = 2 the reaches are 1, 3, 5 ...: output 4 reads latents 0 and 1, inputs 0 to 3.
Sources: Jaegle et al. 2021, "Perceiver"; Hawthorne et al. 2022; Nawrot et al. 2021, "Hourglass".
"""

import torch
import torch.nn.functional as F
from torch import nn

from kt_core.blocks import Block, GPTConfig, mask_and_rotation


class DownProjectBlock(Block):
    """From T inputs to the latents: each gathers from the inputs within its reach."""

    def __init__(self, config: GPTConfig):
        super().__init__(config, cross=True)
        if config.variant == "perceiver":
            self.latents = nn.Parameter(torch.empty(1, config.bottleneck, config.n_embd))
            nn.init.xavier_uniform_(self.latents)


class UpProjectBlock(Block):
    """From the latents back to T outputs: each input reads the latents within its reach.

    In `perceiver_ar` the first s - 1 outputs have no latent to read but `null`, a learned one.
    `local` weights the newest inputs, which are in no latent yet (`newest_inputs`).
    """

    def __init__(self, config: GPTConfig):
        super().__init__(config, cross=True)
        if config.variant == "perceiver_ar":
            self.null = nn.Parameter(0.02 * torch.randn(1, 1, config.n_embd))
            self.local = nn.Parameter(0.1 * torch.randn(max(config.stride - 2, 0), config.n_embd))


def newest_inputs(local, x):
    """Sum local[k - 1] * x[t - k] over k = 1 ... s - 2, for every t; before the first x there is 0.

    `local` is (s - 2, C), x and the sum (B, T, C).
    """
    total = torch.zeros_like(x)
    for k in range(1, local.size(0) + 1):
        total = total + local[k - 1] * F.pad(x, (0, 0, k, 0))[:, : x.size(1)]
    return total


class PerceiverStack(nn.ModuleList):
    """The blocks of the assignment's perceiver: down to the latents, along, and up again."""

    def __init__(self, config: GPTConfig):
        super().__init__([DownProjectBlock(config)])
        self.extend(Block(config) for _ in range(config.n_layer - 2))
        self.append(UpProjectBlock(config))
        self.config = config

    def forward(self, x, positions, rotary=None, cache=None):
        """Run all blocks over the embedded inputs `x` at `positions`."""
        down, *middle, up = self
        layers = [None] * len(self) if cache is None else cache.layers
        index = self.latent_index(positions, stepping=cache is not None and cache.prompts_are_read)
        reach = self.config.stride * (index + 1) - 1  # the newest input of each latent: (B or 1, n)
        # decoding a character after the first m of `perceiver`: nobody reads its dummy latent
        reach = reach.masked_fill(index >= self.config.n_latents, 2 * self.config.block_size)
        z = self.first_latents(x, index, reach)  # (B, n, C)
        args = mask_and_rotation(reach, positions, rotary, cache and cache.inputs, positions)
        z = down(z, x, **args, cache=layers[0])
        args = mask_and_rotation(reach, reach, rotary, cache and cache.latents, index)
        for block, layer in zip(middle, layers[1:-1], strict=True):
            z = block(z, **args, cache=layer)
        x, z, index, reach = self.before_up(x, z, index, reach, positions, cache)
        args = mask_and_rotation(positions, reach, rotary, cache and cache.outputs, index)
        return up(x, z, **args, cache=layers[-1])

    def latent_index(self, positions, stepping: bool):
        """Which latents to compute: all that the inputs touch, or the one of the newest input."""
        s, m = self.config.stride, self.config.n_latents
        if stepping:
            return (positions // s).clamp(max=m)  # m is a dummy
        n = min(m, -(-positions.size(1) // s))
        return torch.arange(n, device=positions.device).expand(positions.size(0), -1)

    def first_latents(self, x, index, reach):
        """What each latent is before it reads: a learned vector."""
        latents = self[0].latents[0]  # (m, C)
        return latents[index.clamp(max=latents.size(0) - 1)].expand(x.size(0), -1, -1)

    def before_up(self, x, z, index, reach, positions, cache):
        """Prepare the inputs x and the latents (z, index, reach) for the block up."""
        return x, z, index, reach


class PerceiverARStack(PerceiverStack):
    """The blocks of perceiver_ar, which sees every input and none from the future."""

    def first_latents(self, x, index, reach):
        """What each latent is before it reads: the newest input within its reach."""
        if x.size(1) == 1:
            return x  # decoding: the latent starts again from its newest input so far
        return x[:, reach[0].clamp(max=x.size(1) - 1)]

    def before_up(self, x, z, index, reach, positions, cache):
        """Add the newest inputs to x, and the null latent in front of the others (slot 0)."""
        local, null = self[-1].local, self[-1].null
        stepping = cache is not None and cache.prompts_are_read
        recent = x if cache is None else cache.recent_inputs(x, positions, local.size(0))
        x = x + newest_inputs(local, recent)[:, -x.size(1) :]
        if stepping:
            return x, z, index + 1, reach
        z = torch.cat([null.expand(x.size(0), -1, -1), z], dim=1)  # (B, 1 + n, C)
        return x, z, F.pad(index + 1, (1, 0), value=0), F.pad(reach, (1, 0), value=-1)
