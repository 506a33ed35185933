"""The pieces of chapter 12: three heads, the finetuning loop, what is trained, LoRA.

Shapes: B texts, T positions, C channels. A head is a module with the parts `body`, a GPT, and
`head`, a new linear layer. `model(ids, targets)` returns (logits, loss), without targets (logits,
None). ids (B, T) are padded on the right with 0.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn


# ======== exercise classifier ========
class Classifier(nn.Module):
    """One class per text: a linear layer on the hidden state of the text's last character."""

    def __init__(self, body, n_classes):
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.config.n_embd, n_classes)

    def forward(self, ids, targets=None):
        hidden = self.body.hidden(ids)  # (B, T, C)
        last = (ids != 0).sum(dim=1) - 1  # (B,), the position of the last character
        logits = self.head(hidden[torch.arange(len(ids)), last])  # (B, n_classes)
        loss = None if targets is None else F.cross_entropy(logits, targets)
        return logits, loss


# ======== exercise finetune-groups ========
def finetune(model, batches, groups):
    """Train on each batch (ids, targets) once; return the losses. groups: for AdamW, with "lr"."""
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    peaks = [group["lr"] for group in optimizer.param_groups]
    losses, n = [], len(batches)
    for step, (ids, targets) in enumerate(batches):
        share = min(1, (step + 1) / 8, 2 * (n - step) / n)  # 8 steps up, the second half down
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share
        _, loss = model(ids, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


# ======== exercise train-top ========
def train_top(model, n):
    """Train the new head, and the body's last n blocks; return the number of trained parameters.

    With n = 0 the body is frozen. With n = n_layer + 1 the embedding is trained as well.
    """
    body, L = model.body, model.body.config.n_layer
    if not 0 <= n <= L + 1:
        raise ValueError(f"n is 0 ... {L + 1}, not {n}")
    body.requires_grad_(False)
    parts = [*list(body.blocks)[max(L - n, 0) :], body.ln_f] if n > 0 else []  # not [-n:]
    parts += [body.tok_emb] if n == L + 1 else []
    for part in parts:
        part.requires_grad_(True)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# ======== exercise layer-rates ========
def layer_rates(model, peak, factor):
    """Return groups for AdamW: the head and last norm have `peak`, each layer below / factor."""
    body = model.body
    blocks = [[block] for block in reversed(list(body.blocks))]
    top_down = [[model.head, body.ln_f], *blocks, [body.tok_emb]]
    groups = []
    for k, layer in enumerate(top_down):  # k layers below the top
        trained = [p for part in layer for p in part.parameters() if p.requires_grad]
        if trained:
            groups.append({"params": trained, "lr": peak / factor**k})
    return groups


# ======== exercise lora ========
class LoRALinear(nn.Module):
    """A frozen linear layer plus scale * B A x, where A = `down` and B = `up` are trained."""

    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear, self.scale, self.is_on = linear.requires_grad_(False), alpha / rank, True
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))  # 0: the start is the body

    def forward(self, x):
        y = self.linear(x)
        return y + self.scale * (x @ self.down.T) @ self.up.T if self.is_on else y

    @torch.no_grad()
    def merge(self):
        merged = copy.deepcopy(self.linear)
        merged.weight += self.scale * self.up @ self.down
        return merged


# ======== exercise tagger ========
class Tagger(nn.Module):
    """One tag per position: a linear layer on every hidden state. Targets of -1 do not count."""

    def __init__(self, body, n_tags):
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.config.n_embd, n_tags)

    def forward(self, ids, targets=None):
        logits = self.head(self.body.hidden(ids))  # (B, T, n_tags)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


# ======== exercise span-finder ========
class SpanFinder(nn.Module):
    """Where does the answer start and end? Two scores per position, each a choice among all."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.config.n_embd, 2)

    def forward(self, ids, targets=None):
        scores = self.head(self.body.hidden(ids))  # (B, T, 2)
        scores = scores.masked_fill((ids == 0)[..., None], -1e9)  # never at padding
        if targets is None:
            return scores, None
        return scores, F.cross_entropy(scores, targets)  # T classes, two choices: targets (B, 2)
