"""Optimisers: AdamW with decay groups, and Muon for the weight matrices of the blocks."""

from __future__ import annotations

import torch
from torch import nn

from kt_core._typing import Float, Tensor


def orthogonalise(g: Float[Tensor, "n rows cols"], steps: int = 5) -> Float[Tensor, "n rows cols"]:
    """Push the singular values of each matrix towards 1 by Newton-Schulz steps of a quintic polynomial.

    Coefficients and method: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". bfloat16
    throughout: the result is needed to a few per cent only, and chips multiply it two to ten times as fast.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        xx = x @ x.mT  # (n, rows, rows)
        x = a * x + (b * xx + c * xx @ xx) @ x
    return (x.mT if tall else x).type_as(g)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised: every direction of a weight matrix moves by the same amount.

    For 2-D weights inside the blocks; all of one shape are done in one batched product. The step is scaled by
    sqrt(max(1, rows / cols)); `weight_decay` is decoupled, as in AdamW.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(list(params), dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            by_shape: dict[tuple, list] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for shape, params in by_shape.items():
                updates = []
                for p in params:
                    momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    momentum.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(
                        p.grad.lerp(momentum, group["momentum"])
                    )  # Nesterov's look-ahead
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, orthogonalise(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)


def make_optimizers(
    model: nn.Module,
    optimizer: str,
    lr: float,
    muon_lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    decay_on: str = "linear",
) -> list[torch.optim.Optimizer]:
    """AdamW over all parameters, or Muon over the blocks' weight matrices and AdamW over the rest.

    Weight decay falls on matrices of linear layers only: not on biases, norms, embeddings or position tables. With
    `decay_on` "all" it spares the biases alone, as the assignment does.
    """
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    if decay_on == "all":
        decayed = {id(p) for name, p in model.named_parameters() if not name.endswith("bias")}
    else:
        decayed = linear
    in_blocks = {id(p) for p in model.blocks.parameters() if p.ndim == 2 and id(p) in linear}
    params = [p for p in model.parameters() if p.requires_grad]
    muon = [p for p in params if id(p) in in_blocks] if optimizer == "muon" else []
    taken = {id(p) for p in muon}
    rest = [p for p in params if id(p) not in taken]
    groups = [
        dict(params=[p for p in rest if id(p) in decayed], weight_decay=weight_decay),
        dict(params=[p for p in rest if id(p) not in decayed], weight_decay=0.0),
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in params)
    found = [torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=fused)]
    if muon:
        found.append(Muon(muon, lr=muon_lr, weight_decay=weight_decay))
    for each in found:
        for group in each.param_groups:
            group["base_lr"] = group["lr"]
    return found
