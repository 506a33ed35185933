"""Positions: the sinusoids that are added to embeddings, the rotations that turn queries and keys.

Sources: Vaswani et al. 2017, section 3.5; Su et al. 2021, "RoFormer", sections 3.2 to 3.4.
"""

import torch
from torch import nn


def sinusoidal_positions(T: int, n_embd: int, base: float = 10000.0):
    """Interleave sin and cos of t / base^(2i/C) over the channels (Vaswani et al. 2017, 3.5)."""
    angle = torch.arange(T)[:, None] * rotary_frequencies(n_embd, base)  # (T, C/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (T, C)


def rotary_frequencies(head_dim: int, base: float = 10000.0):
    """Return θ_i = base^(-2i/d) for i = 0 ... d/2 - 1, d = head_dim (Su et al. 2021, 3.2.2)."""
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"positions take channels in pairs: give an even number, not {head_dim}")
    return base ** (-torch.arange(0, head_dim, 2).float() / head_dim)


def rotary_table(positions, head_dim: int, base: float = 10000.0):
    """Return cos and sin of position × θ_i, each (..., T, head_dim / 2), in float32."""
    angle = positions.unsqueeze(-1) * rotary_frequencies(head_dim, base).to(positions.device)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin, layout: str = "half"):
    """Rotate each pair of channels by its angle: (a + ib) e^(i t θ) without complex numbers.

    Args:
        x: Queries or keys, (..., T, hs).
        cos, sin: From `rotary_table`, broadcastable to (..., T, hs / 2).
        layout: "half" pairs x[i] with x[i + hs/2], as our models do; "interleaved" pairs x[2i] with
            x[2i + 1], as in the paper. Both give the same scores.
    """
    if layout == "half":
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(x)
    if layout == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)
    raise ValueError(f"layout must be 'half' or 'interleaved', not {layout!r}")


class Rotary(nn.Module):
    """The rotary table of a model: cos and sin for each of its positions."""

    def __init__(self, head_dim: int, n_positions: int, base: float = 10000.0):
        super().__init__()
        cos, sin = rotary_table(torch.arange(n_positions), head_dim, base)  # (n_positions, hs/2)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, positions):
        """Return (cos, sin) at `positions`, each (B or 1, 1, T, hs/2): the 1 is for the heads."""
        positions = positions.clamp(min=0)  # the null latent of perceiver_ar has reach -1
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
