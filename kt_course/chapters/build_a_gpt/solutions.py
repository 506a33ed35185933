"""A whole GPT in one file: the teaching solutions of chapter 2, in the chapter's order.

Shapes: B texts, T positions, C channels (`n_embd`), V characters, d = C / n_head channels per head.
The layers have the names that they have in `kt_core.GPT`, so both models load the same weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


# ======== exercise cross-entropy ========
def cross_entropy(logits, targets):
    """Return the mean of -ln p(target): logits (..., V), targets (...); target 0 is not scored."""
    log_sum = logits.logsumexp(dim=-1)  # ln(sum of e^z_j), from the denominator of softmax
    z_target = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # the logit of the target
    loss = log_sum - z_target  # ln(sum of e^z_j) - z_target = -ln p_target, at each position
    return loss[targets != 0].mean()  # padding is left out


# ======== exercise embedding ========
def embed(idx, token_table, position_table):
    """Return token vector + position vector: idx (B, T), tables (V, C), (n, C) -> (B, T, C)."""
    tokens = token_table[idx]  # E[idx], (B, T, C): row idx[b, t] of the table
    positions = position_table[: idx.size(1)]  # P_t, (T, C): rows 0 ... T - 1
    return tokens + positions  # E[idx] + P_t: the same positions for every text


# ======== exercise attention-module ========
class Attention(nn.Module):
    """Causal self-attention with several heads: (B, T, C) -> (B, T, C)."""

    def __init__(self, n_embd, n_head, qk_norm=False):
        super().__init__()
        self.n_head, self.qk_norm = n_head, qk_norm
        self.query = nn.Linear(n_embd, n_embd)  # the queries of all heads in one matrix
        self.key = nn.Linear(n_embd, n_embd)
        self.value = nn.Linear(n_embd, n_embd)
        self.proj = nn.Linear(n_embd, n_embd)  # mixes the results of the heads

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            layer(x).view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, n_head, T, d)
            for layer in (self.query, self.key, self.value)  # W x + b of each
        )
        if self.qk_norm:  # queries and keys of length sqrt(d)
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # q k^T / sqrt(d), (..., T, T)
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)  # key after query
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)  # e^(-inf) = 0
        context = weights @ v  # softmax(...) v, (B, n_head, T, d)
        return self.proj(context.transpose(1, 2).reshape(B, T, C))  # W_O [head 1; head 2; ...]


# ======== exercise mlp ========
class MLP(nn.Module):
    """Two linear maps with GELU between them, at each position alone: (B, T, C) -> (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)  # W_1 and b_1
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd)  # W_2 and b_2

    def forward(self, x):
        return self.proj(F.gelu(self.up(x)))  # W_2 GELU(W_1 x + b_1) + b_2


# ======== exercise layer-norm-module ========
class LayerNorm(nn.Module):
    """Give each position mean 0 and variance 1 over its channels, then scale and shift."""

    def __init__(self, n_embd):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))  # w
        self.bias = nn.Parameter(torch.zeros(n_embd))  # b

    def forward(self, x):
        centred = x - x.mean(dim=-1, keepdim=True)  # x - mu
        variance = centred.square().mean(dim=-1, keepdim=True)  # sigma^2, divided by C
        return self.weight * centred / torch.sqrt(variance + 1e-5) + self.bias  # epsilon is 1e-5


# ======== exercise block ========
class Block(nn.Module):
    """Add to the residual stream twice: what attention gathers, then what the MLP computes."""

    def __init__(self, config):
        super().__init__()
        self.ln1 = LayerNorm(config.n_embd)
        self.attn = Attention(config.n_embd, config.n_head, config.qk_norm)
        self.ln2 = LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln1(x))  # x + Attention(LayerNorm_1(x))
        return x + self.mlp(self.ln2(x))  # x + MLP(LayerNorm_2(x))


# ======== exercise gpt ========
def init_weights(module):
    """Draw the weights of linear layers and embeddings from N(0, 0.02²); biases start at 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class GPT(nn.Module):
    """Characters in, logits of the next character out: idx (B, T) -> logits (B, T, V), loss."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)  # table E
        self.pos_emb = nn.Parameter(torch.zeros(1, config.block_size, config.n_embd))  # P
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.apply(init_weights)

    def forward(self, idx, targets=None):
        x = embed(idx, self.tok_emb.weight, self.pos_emb[0])  # E[idx] + P_t, (B, T, C)
        for block in self.blocks:
            x = block(x)  # adds attention and MLP to the residual stream
        logits = self.head(self.ln_f(x))  # z, (B, T, V)
        return logits, None if targets is None else cross_entropy(logits, targets)


# ======== exercise training-loop ========
def train(model, batches, rates):
    """Take one AdamW step per batch (x, y) at that step's learning rate; return the losses."""
    optimizer = torch.optim.AdamW(model.parameters())
    model.train()
    losses = []
    for (x, y), rate in zip(batches, rates, strict=False):
        optimizer.param_groups[0]["lr"] = rate  # eta
        _, loss = model(x, y)  # forward: the loss of this batch
        optimizer.zero_grad()  # forget the gradients of the step before
        loss.backward()  # d loss / d parameter, for every parameter
        optimizer.step()  # move each parameter a little downhill
        losses.append(loss.item())  # a plain number, so that the graph can be freed
    return losses


# ======== exercise greedy-continuation ========
@torch.no_grad()
def greedy(model, ids, max_new, stop):
    """Append the most likely next id until it is `stop` or there are `max_new`; return the new."""
    model.eval()
    text, device = list(ids), next(model.parameters()).device
    while len(text) < len(ids) + max_new:
        context = torch.tensor([text[-model.config.block_size :]], device=device)  # (1, T)
        logits, _ = model(context)
        next_id = logits[0, -1].argmax().item()  # argmax of z = argmax of p
        if next_id == stop:
            break
        text.append(next_id)
    return text[len(ids) :]
