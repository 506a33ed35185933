"""The teaching solutions of chapter 10, in the chapter's order."""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence


def pad_rows(rows):
    """Stack lists of ids into (B, T), padded with □ (0) to the longest."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


# ======== exercise bert-rule ========
def hide_units(ids, units, vocab_size, rng, rule=(0.8, 0.1)):
    """Return (x, y): the chosen units hidden, random or unchanged in x, and all in y."""
    x, y = list(ids), [0] * len(ids)  # 0: no loss
    for start, stop in units:
        draw = rng.random()  # one draw for the whole unit
        for j in range(start, stop):
            y[j] = ids[j]  # the original, whatever x shows
            if draw < rule[0]:
                x[j] = 1  # ⁇
            elif draw < rule[0] + rule[1]:
                x[j] = rng.randrange(2, vocab_size)
    return x, y


# ======== exercise one-hot-kl ========
def divergence(logits, targets):
    """Return the mean KL from one-hot targets to softmax(logits) where targets is not 0."""
    chosen = targets != 0  # (B, T)
    log_q = logits[chosen].log_softmax(-1)  # (n, V)
    p = torch.zeros_like(log_q)
    p[torch.arange(len(p)), targets[chosen]] = 1  # one-hot
    return (torch.special.xlogy(p, p) - p * log_q).sum(-1).mean()  # 0 log 0 is 0


# ======== exercise masked-training ========
def train_masked(model, draw_windows, vocab_size, epochs, batch_size, peak, rng, rule=(0.8, 0.1)):
    """Train with new masks in each epoch; return the loss of each step."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.0), []
    for epoch in range(epochs):
        windows = draw_windows(rng)  # (ids, units) of each
        for first in range(0, len(windows), batch_size):
            pairs = [hide_units(*w, vocab_size, rng, rule) for w in windows[first:][:batch_size]]
            x, y = map(pad_rows, zip(*pairs, strict=True))
            optimizer.param_groups[0]["lr"] = peak * (1 - (epoch + first / len(windows)) / epochs)
            loss = divergence(model(x)[0], y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


# ======== exercise pair-model ========
class PairModel(nn.Module):
    """An encoder of two texts, told apart by their segments: n_out numbers per position."""

    def __init__(self, body, n_out):
        super().__init__()
        self.body, n_embd = body, body.config.n_embd
        self.segments, self.head = nn.Embedding(2, n_embd), nn.Linear(n_embd, n_out)
        nn.init.zeros_(self.segments.weight)  # so that the body first reads what it knows

    def forward(self, idx, segments):
        x = self.body.tok_emb(idx) + self.segments(segments)  # (B, T, C)
        positions, keys = torch.arange(idx.size(1))[None], (idx != 0)[:, None, None]
        x = self.body.blocks(x, positions, self.body.rotary, mask=keys)
        return self.head(self.body.ln_f(x))  # (B, T, n_out)


# ======== exercise best-span ========
def best_span(start, end, is_allowed, longest=20):
    """Return (start, stop) of the span with the highest start[i] + end[j]; stop is j + 1."""
    scores = start[:, None] + end[None, :]  # (T, T): every start with every end
    i = torch.arange(len(start))
    length = i[None, :] - i[:, None] + 1
    is_span = (length >= 1) & (length <= longest) & is_allowed[:, None] & is_allowed[None, :]
    best = int(scores.masked_fill(~is_span, -torch.inf).argmax())
    first, last = divmod(best, len(start))
    return first, last + 1
