"""Where a fact lives in a model: read its residual stream, cut what it looks at, put back what was lost, probe it.

The residual stream is what the blocks hand on: (B, T, C), once after the embedding and once after each block, n_layer + 1
states in all. Everything here works from outside, by hooks that a `with` block sets and takes away again.
For vanilla and rope models: the middle layers of a perceiver hold latents, which stand for no single character.

Sources: nostalgebraist 2020 (logit lens); Alain and Bengio 2016, Hewitt and Liang 2019 (linear probes, and a control
for them); Meng et al. 2022, section 2 (causal tracing); Geva et al. 2023, section 3 (attention knock-out); Zhang and
Nanda 2024 (how to patch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kt_core._typing import Bool, Float, Int, Tensor
from kt_core.attention import causal_mask
from kt_core.corpora.loading import question_name
from kt_core.models import GPT
from kt_core.vocab import MASK, CharVocab

# ---------------------------------------------------------------- a question and where its parts stand


@dataclass(frozen=True)
class Asked:
    """The text "Where was NAME born?⁇ANSWER": its ids (1, T), where the name stands, where the ⁇ stands."""

    text: str
    ids: Int[Tensor, "1 T"]
    name: range
    mark: int

    @property
    def answer(self) -> str:
        return self.text[self.mark + 1 :]

    def probability(
        self, logits: Float[Tensor, "B T V"], letters: int | None = None
    ) -> Float[Tensor, " B"]:
        """Probability of the answer's characters, all or the first `letters` of them, each given those before it."""
        wanted = self.ids[0, self.mark + 1 :][:letters].to(logits.device)
        steps = logits[:, self.mark : self.mark + len(wanted)].log_softmax(-1)  # (B, letters, V)
        return steps.gather(-1, wanted.expand(len(steps), -1)[..., None]).sum((1, 2)).exp()


def ask(vocab: CharVocab, question: str, answer: str) -> Asked:
    """A question with its answer as the model reads the two. ValueError for another form or an empty answer."""
    name = question_name(question)
    if not answer:
        raise ValueError(f"{question!r} needs an answer whose probability can be followed")
    at, text = question.index(name), f"{question}{MASK}{answer}"
    return Asked(text, torch.tensor([vocab.encode(text)]), range(at, at + len(name)), len(question))


# ---------------------------------------------------------------- hooks


def _traceable(model: GPT) -> None:
    if model.config.latent:
        raise ValueError(
            f"{model.config.variant} has latents in its middle layers: trace a vanilla or a rope model"
        )


def _layers(model: GPT) -> list[torch.nn.Module]:
    """The modules whose outputs are the n_layer + 1 states of the residual stream."""
    _traceable(model)
    return [model.drop, *model.blocks]


@contextmanager
def _hooked(handles: list) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_residuals(model: GPT) -> Iterator[list[Tensor | None]]:
    """Record the residual stream of the forward passes inside the block.

    Gives a list of n_layer + 1 states, (B, T, C) each, detached: after the embedding, after block 0, ... It holds the
    latest forward pass and stays filled after the block.
    """
    states: list[Tensor | None] = [None] * (model.config.n_layer + 1)

    def keep(i: int) -> Callable:
        return lambda module, given, out: states.__setitem__(i, out.detach())

    with _hooked([layer.register_forward_hook(keep(i)) for i, layer in enumerate(_layers(model))]):
        yield states


@contextmanager
def edit_residuals(model: GPT, edit: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Within the block, each state (B, T, C) of the residual stream is replaced by edit(number of the state, state)."""

    def change(i: int) -> Callable:
        return lambda module, given, out: edit(i, out)

    with _hooked(
        [layer.register_forward_hook(change(i)) for i, layer in enumerate(_layers(model))]
    ):
        yield


def cut_mask(T: int, queries: Sequence[int], keys: Sequence[int]) -> Bool[Tensor, "T T"]:
    """Causal attention without the looks from `queries` at `keys`: (T, T), True where looking is still allowed.

    A position may always look at itself, so that no row is left empty.
    """
    mask = causal_mask(T)
    cut = torch.zeros(T, T, dtype=torch.bool)
    cut[
        torch.tensor(list(queries), dtype=torch.long)[:, None],
        torch.tensor(list(keys), dtype=torch.long),
    ] = True
    return mask & ~cut | torch.eye(T, dtype=torch.bool)


@contextmanager
def limit_attention(model: GPT, masks: Sequence[Bool[Tensor, "..."] | None]) -> Iterator[None]:
    """Within the block, layer i may look only where masks[i] is True; None leaves a layer as it is.

    A mask broadcasts to (B, n_head, T, T). It can forbid, not allow: the model's own mask holds as well.
    """
    _traceable(model)
    if len(masks) != model.config.n_layer:
        raise ValueError(
            f"{len(masks)} masks for {model.config.n_layer} layers: one each, None where nothing is cut"
        )

    def limited(mask: Tensor) -> Callable:
        def change(module, given, where):
            own = (
                causal_mask(given[0].size(1), given[0].device)
                if where.get("is_causal")
                else where.get("mask")
            )
            both = mask.to(given[0].device) if own is None else own & mask.to(own.device)
            return given, {**where, "is_causal": False, "mask": both}

        return change

    with _hooked(
        [
            block.attn.register_forward_pre_hook(limited(mask), with_kwargs=True)
            for block, mask in zip(model.blocks, masks, strict=True)
            if mask is not None
        ]
    ):
        yield


# ---------------------------------------------------------------- the logit lens


@torch.no_grad()
def logit_lens(
    model: GPT, states: Sequence[Float[Tensor, "B T C"]]
) -> Float[Tensor, "states B T V"]:
    """What each state would say if it were the last: probabilities of the next character (nostalgebraist 2020).

    The final norm and the head, meant for the last state, are put on every one.
    """
    return torch.stack([model.head(model.ln_f(state)).softmax(-1) for state in states])


# ---------------------------------------------------------------- knock-out and patching


@dataclass(frozen=True)
class Cells:
    """One number for each (row, position), and the likeliest characters there: ids and probabilities, 5 a cell."""

    value: Float[Tensor, "rows T"]
    ids: Int[Tensor, "rows T 5"]
    shares: Float[Tensor, "rows T 5"]


def _cells(value: Tensor, next_character: Tensor, rows: int) -> Cells:
    top = next_character.cpu().topk(5)
    shape = (rows, -1, 5)
    return Cells(value.cpu().view(rows, -1), top.indices.view(shape), top.values.view(shape))


@torch.no_grad()
def knock_out(model: GPT, asked: Asked, letters: int | None = 1) -> Cells:
    """Probability of the answer with one look cut: row l, position t, the ⁇ may not look at t in layer l.

    (n_layer, mark + 1); the letters of the answer behind ⁇ are cut off from t as well. The last column, where ⁇ keeps
    looking at itself, is the untouched model. The characters are those foretold by ⁇.
    """
    L, T, mark, device = (
        model.config.n_layer,
        asked.ids.size(1),
        asked.mark,
        model.head.weight.device,
    )
    masks = torch.stack(
        [cut_mask(T, range(mark, T), [t] if t < mark else []) for t in range(mark + 1)]
    )[:, None]
    found = []
    for i in range(L):
        with limit_attention(model, [masks if i == layer else None for layer in range(L)]):
            found.append(model(asked.ids.to(device).expand(mark + 1, -1))[0])
    logits = torch.cat(found)
    return _cells(asked.probability(logits, letters), logits[:, mark].softmax(-1), L)


def other_name(asked: Asked, vocab: CharVocab, name: str) -> Int[Tensor, "1 T"]:
    """The ids of `asked` with another name of the same length in it. ValueError for one of another length."""
    if len(name) != len(asked.name):
        raise ValueError(
            f"{name!r} has {len(name)} characters, the name in {asked.text!r} {len(asked.name)}"
        )
    ids = asked.ids.clone()
    ids[0, asked.name.start : asked.name.stop] = torch.tensor(vocab.encode(name))
    return ids


@torch.no_grad()
def restore(
    model: GPT,
    asked: Asked,
    corrupted: Int[Tensor, "1 T"],
    window: int = 1,
    letters: int | None = 1,
) -> Cells:
    """Activation patching (Meng et al. 2022, section 2.1): the model reads the `corrupted` text, and one place is put back.

    Row l, position t of (n_layer + 1, mark + 1): the probability of the true answer if state l of the true text is put
    in place of the corrupted one at t and its neighbours, `window` positions in all, up to the ⁇. All else is computed
    from there on. The corrupted text holds the true answer's letters behind the ⁇, as `asked` does.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be 1, 3, 5 ..., so that it has a middle, not {window}")
    if corrupted.shape != asked.ids.shape:
        raise ValueError(
            f"both texts must be as long: {tuple(corrupted.shape)} for {tuple(asked.ids.shape)}"
        )
    device, T = model.head.weight.device, asked.mark + 1
    with record_residuals(model) as clean:
        model(asked.ids.to(device))
    states, at = len(clean), torch.arange(T)
    put_back = ((at[:, None] - at).abs() <= window // 2)[..., None].to(
        device
    )  # (T places, T positions, 1)

    def edit(i: int, state: Tensor) -> Tensor:
        state, rows = (
            state.clone(),
            slice(i * T, (i + 1) * T),
        )  # these rows of the batch restore state i
        state[rows, :T] = torch.where(put_back, clean[i][0, :T], state[rows, :T])
        return state

    with edit_residuals(model, edit):
        logits = model(corrupted.to(device).expand(states * T, -1))[0]
    return _cells(asked.probability(logits, letters), logits[:, asked.mark].softmax(-1), states)


@torch.no_grad()
def lens_cells(model: GPT, asked: Asked) -> Cells:
    """The logit lens up to the ⁇: what each state foretells at each position, and how likely it makes the answer's
    first letter, (n_layer + 1, mark + 1)."""
    with record_residuals(model) as states:
        model(asked.ids.to(model.head.weight.device))
    shares = logit_lens(model, states)[:, 0, : asked.mark + 1]  # (states, T, V)
    first = int(asked.ids[0, asked.mark + 1])
    return _cells(shares[..., first], shares.flatten(0, 1), len(states))


def by_role(
    grids: Sequence[Float[Tensor, "rows _"]], asked: Sequence[Asked], letters: int = 10
) -> tuple[Float[Tensor, "rows columns"], list[str]]:
    """Grids of questions with names of any length as one mean grid, and the names of its columns.

    Columns: the text before the name, the name's first characters in one column (their mean), its last `letters`
    characters, the text behind it, the ⁇. Shorter names count where they have characters.
    """
    columns: list[list[Tensor]] = []
    for grid, one in zip(grids, asked, strict=True):
        own = list(one.name)[-letters:]
        early = [t for t in one.name if t not in own]
        parts = [grid[:, t] for t in range(one.name.start)]
        parts.append(grid[:, early].mean(1) if early else torch.full((len(grid),), torch.nan))
        parts += [torch.full((len(grid),), torch.nan)] * (letters - len(own)) + [
            grid[:, t] for t in own
        ]
        parts += [grid[:, t] for t in range(one.name.stop, one.mark + 1)]
        columns.append(parts)
    mean = torch.stack([torch.stack(parts, 1) for parts in columns]).nanmean(0)
    one = asked[0]
    names = [*one.text[: one.name.start], "…", *[str(k) for k in range(-letters, 0)]]
    return mean, [*names, *one.text[one.name.stop : one.mark + 1]]


# ---------------------------------------------------------------- linear probes


@torch.no_grad()
def states_at(
    model: GPT, vocab: CharVocab, questions: Sequence[str], places: Sequence[Callable[[Asked], int]]
) -> Float[Tensor, "n places states C"]:
    """The residual stream of each question at some positions, place(asked) each; nothing behind the ⁇ is read.

    Questions of one length share a forward pass.
    """
    asked = [ask(vocab, question, MASK) for question in questions]
    groups: dict[int, list[int]] = {}
    for i, one in enumerate(asked):
        groups.setdefault(one.mark, []).append(i)
    found = torch.empty(len(asked), len(places), model.config.n_layer + 1, model.config.n_embd)
    for mark, group in groups.items():
        with record_residuals(model) as states:
            model(
                torch.cat([asked[i].ids[:, : mark + 1] for i in group]).to(model.head.weight.device)
            )
        read = torch.stack(states).float().cpu()  # (states, B, T, C)
        for row, i in enumerate(group):
            found[i] = torch.stack([read[:, row, place(asked[i])] for place in places])
    return found


def ridge(x: Float[Tensor, "n d"], y: Float[Tensor, "n k"], penalty: float) -> Float[Tensor, "d k"]:
    """The W that makes |x W - y|^2 + penalty |W|^2 smallest: (x^T x + penalty I)^-1 x^T y (Hoerl and Kennard 1970)."""
    return torch.linalg.solve(x.T @ x + penalty * torch.eye(x.size(1), dtype=x.dtype), x.T @ y)


@dataclass(frozen=True)
class Probe:
    """A linear map from a state to classes, fitted by ridge regression on standardised channels."""

    mean: Float[Tensor, " C"]
    scale: Float[Tensor, " C"]
    weights: Float[Tensor, "C_and_1 k"]

    @classmethod
    def fit(
        cls,
        states: Float[Tensor, "n C"],
        classes: Int[Tensor, " m"],
        k: int,
        penalty: float = 100.0,
        solve: Callable[[Tensor, Tensor, float], Tensor] = ridge,
    ) -> Probe:
        """Learn which of `k` classes each state belongs to, by `solve(x, y, penalty)` with y (n, k) 1 at the class.

        ValueError if there is not one class a state.
        """
        if len(states) != len(classes):
            raise ValueError(f"{len(states)} states and {len(classes)} classes: one each is needed")
        mean, scale = states.mean(0), states.std(0) + 1e-6
        x = F.pad(
            (states - mean) / scale, (0, 1), value=1.0
        )  # a column of ones: each class' own share
        return cls(mean, scale, solve(x.double(), F.one_hot(classes, k).double(), penalty).float())

    def accuracy(self, states: Float[Tensor, "n C"], classes: Int[Tensor, " n"]) -> float:
        """Share of the states whose class gets the largest number."""
        x = F.pad((states - self.mean) / self.scale, (0, 1), value=1.0)
        return float(((x @ self.weights).argmax(1) == classes).float().mean())
