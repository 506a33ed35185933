"""Teaching solutions of chapter 11. Shapes: B texts, T tokens, C channels, V tokens in all."""

import math
from collections import Counter

import torch
import torch.nn.functional as F


# ======== exercise bert-forward ========
def bert_hidden(weights, ids, mask, n_head):
    """Compute BERT's last hidden states from its weights: ids, mask (B, T) -> (B, T, C)."""

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name, x):
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], scale, shift, eps=1e-12)

    (B, T), embedding = ids.shape, "embeddings"
    x = weights[f"{embedding}.word_embeddings.weight"][ids]
    x = x + weights[f"{embedding}.position_embeddings.weight"][:T]
    x = norm(f"{embedding}.LayerNorm", x + weights[f"{embedding}.token_type_embeddings.weight"][0])
    padding, i = (mask == 0)[:, None, None], 0  # (B, 1, 1, T): keys that nobody may attend to
    while f"encoder.layer.{i}.output.dense.weight" in weights:
        layer = f"encoder.layer.{i}"
        q, k, v = (
            linear(f"{layer}.attention.self.{part}", x).view(B, T, n_head, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )  # (B, n_head, T, d)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # both directions: no causal mask
        context = scores.masked_fill(padding, float("-inf")).softmax(dim=-1) @ v
        context = linear(
            f"{layer}.attention.output.dense", context.transpose(1, 2).reshape(B, T, -1)
        )
        x = norm(f"{layer}.attention.output.LayerNorm", x + context)  # post-norm
        middle = F.gelu(linear(f"{layer}.intermediate.dense", x))  # (B, T, 4C)
        x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", middle))
        i += 1
    return x


# ======== exercise mean-pooling ========
def mean_pool(hidden, mask):
    """Average the vectors of each text's tokens: hidden (B, T, C), mask (B, T) -> (B, C)."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)  # 1 at a token, 0 at padding
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


# ======== exercise bpe-merge ========
def merge(words):
    """Return the most frequent pair of neighbours, and the words with it joined."""
    pairs = Counter()
    for word, count in words.items():
        for pair in zip(word, word[1:], strict=False):
            pairs[pair] += count  # a word that occurs 9 times counts 9 times
    if not pairs:
        return None, dict(words)
    best = min(pairs, key=lambda pair: (-pairs[pair], pair))  # ties: first in the alphabet
    merged = Counter()
    for word, count in words.items():
        tokens, i = [], 0
        while i < len(word):
            is_pair = word[i : i + 2] == best
            tokens.append("".join(best) if is_pair else word[i])
            i += 2 if is_pair else 1
        merged[tuple(tokens)] += count  # words that become equal are added up
    return best, dict(merged)


# ======== exercise bits-per-character ========
def bits(loss, tokens, characters):
    """Convert a loss in nats per token to bits per character."""
    return loss * tokens / math.log(2) / characters


# ======== exercise gpt2-attention ========
def fuse(layer):
    """Return GPT-2's c_attn and c_proj, weights and biases, for one of our attention layers."""
    parts = layer.query, layer.key, layer.value
    return {
        "c_attn.weight": torch.cat([part.weight.detach().T for part in parts], dim=1),  # (C, 3C)
        "c_attn.bias": torch.cat([part.bias.detach() for part in parts]),
        "c_proj.weight": layer.proj.weight.detach().T.contiguous(),
        "c_proj.bias": layer.proj.bias.detach(),
    }


# ======== exercise left-padding ========
def pack(idx, mask):
    """Move each row's tokens to its beginning; return them and where each position went."""
    order = (mask == 0).long().argsort(dim=1, stable=True)  # tokens first, in their order
    return idx.gather(1, order), order.argsort(dim=1)  # the inverse of a permutation
