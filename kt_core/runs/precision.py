"""In which precision a device multiplies."""

from __future__ import annotations

from contextlib import nullcontext

import torch


def multiplies_bf16(device: torch.device) -> bool:
    """Does the device multiply bfloat16 matrices itself?

    cuda does, and CPUs with AVX-512-BF16 or AMX: products take a quarter of the time there. Other
    CPUs only imitate it, slowly.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name
    return any(getattr(torch.cpu, name, bool)() for name in names)


def mixed_precision(precision: str, device: torch.device):
    """Return the context for forward passes: bfloat16 products where `precision` asks for them.

    Args:
        precision: "fp32", "bf16", "auto" (bf16 on cuda), or "native" (bf16 wherever it is fast).
        device: Where the model is.
    """
    uses_bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    uses_bf16 = uses_bf16 or (precision == "native" and multiplies_bf16(device))
    return torch.autocast(device.type, torch.bfloat16) if uses_bf16 else nullcontext()
