"""Which device trains and answers."""

import torch


def choose_device(device: str = "auto") -> torch.device:
    """Choose a device that this machine has; "auto" is cuda where there is one, else mps or cpu."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name in has if has[name]))
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or mps, not {device!r}") from None
    if not has.get(chosen.type, False):
        raise ValueError(f"device {device!r} is not available here; 'auto' takes the best one")
    return chosen
