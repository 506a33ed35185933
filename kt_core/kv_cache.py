"""The KV cache: keys and values of earlier characters, so that decoding computes each only once."""

import torch
import torch.nn.functional as F

from kt_core.models import GPT


class Slots:
    """Where a cache keeps keys, and the reach of each: the newest input that it contains."""

    def __init__(self, batch: int, n_slots: int, never: int, device: torch.device):
        self.reach = torch.full((batch, n_slots), never, device=device)  # empty: nobody attends
        self.latest, self.n_used = None, 0
        self.prompt_ends = None  # in a prompt: where each row ends and its output is read, (B,)

    def place(self, slots, reach):
        """Note the slots (B, T) and reaches of new keys; return all reaches, (B, n_used)."""
        self.latest = slots.expand(self.reach.size(0), -1)
        self.reach.scatter_(1, self.latest, reach.expand_as(self.latest))
        self.n_used = max(self.n_used, int(slots.max()) + 1)
        return self.reach[:, : self.n_used]


class LayerCache:
    """The keys and values of one layer, (B, n_head, n_slots, head_dim) each."""

    def __init__(self, slots: Slots, n_head: int, head_dim: int, like):
        self.slots = slots
        self.key = like.new_zeros(len(slots.reach), n_head, 0, head_dim)
        self.value = self.key

    def update(self, key, value):
        """Store the newest keys and values, (B, n_head, T, head_dim); return all of them."""
        n = self.slots.n_used
        if n > self.key.size(2):  # make room for 16 steps more
            room = (0, 0, 0, n + 16 - self.key.size(2))
            self.key, self.value = F.pad(self.key, room), F.pad(self.value, room)
        index = self.slots.latest[:, None, :, None].expand_as(key)
        self.key.scatter_(2, index, key.to(self.key.dtype))  # autocast computes them in bfloat16
        self.value.scatter_(2, index, value.to(self.value.dtype))
        return self.key[:, :, :n], self.value[:, :, :n]


class KVCache:
    """What a `GPT` remembers between steps of decoding. Each row has its own position.

    Layers that read the inputs share the slots `inputs`, one per position. A perceiver's middle
    layers use `latents`, its last layer `outputs` (the latents after a slot for the null latent).
    """

    def __init__(self, model: GPT, batch: int):
        c, like = model.config, model.head.weight
        if not c.causal:
            raise ValueError("an encoder (causal=False) keeps no cache: every output changes")
        never = 2 * c.block_size
        self.inputs = Slots(batch, c.block_size, never, like.device)
        self.latents = Slots(batch, c.n_latents + 1, never, like.device)
        self.outputs = Slots(batch, c.n_latents + 1, never, like.device)
        slots_of_layers = [self.inputs] * c.n_layer
        if c.has_latents:
            slots_of_layers[1:] = [*[self.latents] * (c.n_layer - 2), self.outputs]
        heads = c.n_head, c.n_embd // c.n_head
        self.layers = [LayerCache(slots, *heads, like) for slots in slots_of_layers]
        self.embedded = like.new_zeros(batch, c.block_size if c.has_latents else 0, c.n_embd)
        self.prompts_are_read = False  # once they are, one character at a time follows

    def recent_inputs(self, x, positions, n: int):
        """Remember the embedded inputs x; return them, and in later steps the n before them too."""
        self.embedded.scatter_(1, positions[..., None].expand_as(x), x)
        if not self.prompts_are_read:
            return x
        at = positions + torch.arange(-n, 1, device=x.device)  # (B, n + 1)
        index = at.clamp(min=0)[..., None].expand(-1, -1, x.size(-1))
        return self.embedded.gather(1, index) * (at >= 0)[..., None]

    def keep_rows(self, rows: list[int]) -> None:
        """Make these rows the batch, each as often as it is named; forget all others."""
        for slots in (self.inputs, self.latents, self.outputs):
            slots.reach = slots.reach[rows]
        for layer in self.layers:
            layer.key, layer.value = layer.key[rows], layer.value[rows]
        self.embedded = self.embedded[rows]
