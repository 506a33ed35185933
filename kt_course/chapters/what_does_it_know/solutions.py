"""The tools of chapter 14, each on a few lines: hooks, patching, attribution, calibration.

Shapes: B texts, T positions, C channels, V characters, d = C / n_head channels per head. A module
has the name that PyTorch gives it, such as "blocks.0.attn.proj". Everything here runs on a
learner's GPT and on `kt_core.GPT` alike, since both have the same modules.
"""

import math

import torch


# ======== exercise record-inputs ========
@torch.no_grad()
def record_inputs(model, ids, names):
    """Run model(ids) once; return the logits and {name: the input of the module `name`}."""
    inputs, handles = {}, []
    for name in names:

        def hook(module, args, name=name):  # a default argument keeps this turn's name
            inputs[name] = args[0]

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    try:
        logits, _ = model(ids)
    finally:  # also after an error
        for handle in handles:
            handle.remove()
    return logits, inputs


# ======== exercise run-with-edits ========
@torch.no_grad()
def run_with_edits(model, ids, edits):
    """Run model(ids), giving each module `name` the input edits[name](x) for x; return logits."""
    handles = []
    for name, edit in edits.items():

        def hook(module, args, edit=edit):
            return (edit(args[0].clone()), *args[1:])  # edit a copy

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    try:
        logits, _ = model(ids)
    finally:
        for handle in handles:
            handle.remove()
    return logits


# ======== exercise induction-score ========
def induction_score(weights, period):
    """Return each head's mean weight from t to t - period + 1: (B, n_head, T, T) -> (n_head,)."""
    stripe = weights.diagonal(offset=1 - period, dim1=-2, dim2=-1)  # (B, n_head, T - period + 1)
    return stripe[..., 1:].mean(dim=(0, 2))  # queries t = period, period + 1, ...


# ======== exercise head-output ========
def head_output(model, z, layer, head):
    """Return what a head adds to the stream: z (B, T, C) is the input of its layer's attn.proj."""
    d = z.size(-1) // model.config.n_head
    own = slice(head * d, (head + 1) * d)  # the channels of this head
    proj = model.blocks[layer].attn.proj
    return z[..., own] @ proj.weight[:, own].T  # z_h W_hᵀ: (B, T, d) @ (d, C)


# ======== exercise path-patch ========
def patch_path(model, ids, other, sender, receiver):
    """Return the logits for `ids` if one path carries what it carries for the texts `other`.

    sender is (layer, head); receiver is (later layer, "query", "key" or "value").
    """
    (layer, head), (later, part) = sender, receiver
    proj, block = f"blocks.{layer}.attn.proj", f"blocks.{later}"
    _, here = record_inputs(model, ids, [proj, block])
    _, there = record_inputs(model, other, [proj])
    written = head_output(model, here[proj], layer, head)
    instead = head_output(model, there[proj], layer, head)
    stream = here[block] - written + instead  # exchange one term
    x = model.blocks[later].ln1(stream).detach()  # what query, key and value read
    return run_with_edits(model, ids, {f"{block}.attn.{part}": lambda _: x})


# ======== exercise logit-attribution ========
@torch.no_grad()
def logit_contribution(model, part, stream, token, other):
    """Return how much `part`, a term of the final `stream` (..., C), adds to a logit difference."""
    direction = model.head.weight[token] - model.head.weight[other]  # (C,)
    size = (stream.var(dim=-1, correction=0) + 1e-5).sqrt()  # (...)
    centred = part - part.mean(dim=-1, keepdim=True)
    return (centred * model.ln_f.weight) @ direction / size  # (...)


# ======== exercise logit-lens ========
@torch.no_grad()
def logit_lens(model, states):
    """Return the next character's probabilities if `states` were the last: (..., C) -> (..., V)."""
    return model.head(model.ln_f(states)).softmax(dim=-1)  # ln_f: the size that head expects


# ======== exercise patch-state ========
def patch_state(model, clean, corrupted, name, positions):
    """Return the logits for `corrupted` if module `name` reads `positions` of the clean run."""
    _, inputs = record_inputs(model, clean, [name])

    def restore(x):
        x[:, positions] = inputs[name][:, positions]  # the rest stays corrupted
        return x

    return run_with_edits(model, corrupted, {name: restore})


# ======== exercise head-effects ========
def head_effects(model, clean, corrupted, token, other):
    """Return the share of a logit difference that each head brings back: (n_layer, n_head)."""
    n_layer, n_head = model.config.n_layer, model.config.n_head
    names = [f"blocks.{layer}.attn.proj" for layer in range(n_layer)]
    clean_logits, z = record_inputs(model, clean, names)
    corrupted_logits, _ = record_inputs(model, corrupted, [])

    def difference(logits):
        return logits[0, -1, token] - logits[0, -1, other]

    low, high = difference(corrupted_logits), difference(clean_logits)
    effects = torch.zeros(n_layer, n_head)
    for layer, name in enumerate(names):
        d = z[name].size(-1) // n_head
        for head in range(n_head):

            def restore(x, own=slice(head * d, (head + 1) * d), name=name):
                x[:, -1, own] = z[name][:, -1, own]  # one head, at the last position
                return x

            patched = difference(run_with_edits(model, corrupted, {name: restore}))
            effects[layer, head] = (patched - low) / (high - low)
    return effects


# ======== exercise ridge-probe ========
def fit_linear(x, y, penalty):
    """Return the W (d, k) that minimises |x W - y|² + penalty |W|², for x (n, d) and y (n, k)."""
    square = x.T @ x + penalty * torch.eye(x.size(1), dtype=x.dtype)  # (d, d)
    return torch.linalg.solve(square, x.T @ y)  # solves square @ W = xᵀ y


# ======== exercise answer-probability ========
def log_probability_of(logits, ids, start):
    """Return ln of the probability of ids[start:], given ids[:start]: logits (T, V), ids (T,)."""
    n = len(ids)
    log_p = logits[start - 1 : n - 1].log_softmax(dim=-1)  # row t predicts the character at t + 1
    return log_p.gather(-1, ids[start:, None]).sum()


# ======== exercise calibration-error ========
def calibration_error(confidence, correct, bins=10):
    """Return the expected calibration error of n answers: confidence (n,), correct (n,) bool."""
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)  # bin of each answer
    error = 0.0
    for b in index.unique():
        inside = index == b
        gap = correct[inside].double().mean() - confidence[inside].mean()
        error += float(inside.double().mean() * gap.abs())  # weighted by the bin's share
    return error


# ======== exercise abstention-threshold ========
def lowest_threshold(confidence, correct, accuracy):
    """Return the lowest confidence from which on the answers reach `accuracy`; inf if none does."""
    right = torch.as_tensor(correct).double()
    reached = [float(t) for t in confidence if right[confidence >= t].mean() >= accuracy - 1e-9]
    return min(reached, default=math.inf)


# ======== exercise learned-bits ========
def bits_learned(nats, share):
    """Return the bits saved over n facts: the model's losses (n,) in nats, the shares (n,)."""
    without = -share.log2()  # bits of a guess by frequency
    return float((without - nats / math.log(2)).sum())
