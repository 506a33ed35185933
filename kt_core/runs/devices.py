"""Which device trains and answers, and in which precision it multiplies."""

from __future__ import annotations

from contextlib import nullcontext

import torch


def choose_device(device: str = "auto") -> torch.device:
    """ "auto" is cuda where there is one, else mps, else cpu; ValueError for a device that this machine lacks."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or mps, not {device!r}") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, False):
        raise ValueError(f"device {device!r} is not available here; 'auto' takes the best one that is")
    return chosen


def native_bf16(device: torch.device) -> bool:
    """Does the device multiply bfloat16 matrices itself? cuda, and CPUs with AVX-512-BF16 or AMX: there products take
    a quarter of the time; others only imitate it, slowly."""
    if device.type != "cpu":
        return device.type == "cuda"
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for it
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def mixed_precision(precision: str, device: torch.device):
    """The context that forward passes run in: bfloat16 products where TrainConfig.precision asks for them."""
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    bf16 = bf16 or (precision == "native" and native_bf16(device))
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
