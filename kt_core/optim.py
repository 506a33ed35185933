"""Optimisers: AdamW, and Muon for the weight matrices of the blocks."""

import torch
from torch import nn


def orthogonalise(g, steps: int = 5):
    """Push the singular values of matrices (n, rows, cols) towards 1 by Newton–Schulz steps.

    In bfloat16, as a few per cent suffice. Source: Jordan et al. 2024, "Muon".
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):  # x = a x + (b xx + c xx xx) x, in three passes over memory
        xx = x @ x.mT  # (n, rows, rows)
        polynomial = torch.baddbmm(xx, xx, xx, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).type_as(g)


class Muon(torch.optim.Optimizer):
    """Momentum with an orthogonalised update: a matrix moves equally far in every direction.

    For 2-D weights inside the blocks. The step is scaled by sqrt(max(1, rows / cols)); weight decay
    is decoupled, as in AdamW. Matrices of one shape share one batched product.
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
                updates = orthogonalise(torch.stack([self._look_ahead(p, group) for p in params]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)

    def _look_ahead(self, p, group: dict):
        """Update the momentum of `p`; return Nesterov's mix of it with the gradient."""
        momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
        momentum.lerp_(p.grad, 1 - group["momentum"])
        return p.grad.lerp(momentum, group["momentum"])


def make_optimizers(model: nn.Module, config) -> list[torch.optim.Optimizer]:
    """Make AdamW for all parameters, or Muon for the blocks' matrices and AdamW for the rest.

    Weight decay applies to the weights of linear layers; with `config.decay_on` "all" to all
    parameters but biases, as in the assignment.
    """
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    blocks = model.blocks.parameters() if config.optimizer == "muon" else []
    muon_ids, muon = linear & {id(p) for p in blocks}, []
    groups = [dict(params=[], weight_decay=decay) for decay in (config.weight_decay, 0.0)]
    for name, p in params.items():
        decays = id(p) in linear or (config.decay_on == "all" and not name.endswith("bias"))
        (muon if id(p) in muon_ids else groups[not decays]["params"]).append(p)
    fused = all(p.device.type in ("cpu", "cuda") for p in params.values())
    options = dict(lr=config.lr, betas=config.betas, fused=fused)
    adamw = torch.optim.AdamW([group for group in groups if group["params"]], **options)
    if not muon:
        return [adamw]
    return [adamw, Muon(muon, config.muon_lr, weight_decay=config.weight_decay)]
