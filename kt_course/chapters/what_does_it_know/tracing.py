"""Where a fact is in a model: read its residual stream, cut its attention, patch states, probe.

The residual stream is what the blocks hand on: (B, T, C), after the embedding and after each block,
n_layer + 1 states in all. Everything here works from outside, by hooks that a `with` block sets and
removes. It is for vanilla and rope models: the middle layers of a perceiver hold latents, which
belong to no single character.

Sources: nostalgebraist 2020 (logit lens); Alain and Bengio 2016, Hewitt and Liang 2019 (linear
probes, and a control for them); Meng et al. 2022, section 2 (causal tracing); Geva et al. 2023,
section 3 (attention knock-out); Zhang and Nanda 2024 (how to patch).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kt_core.attention import causal_mask
from kt_core.corpora.loading import question_name
from kt_core.models import GPT
from kt_core.vocab import MASK, CharVocab
from kt_course._typing import Bool, Float, Int, Tensor

# ---------------------------------------------------------------- a question and its parts


@dataclass(frozen=True)
class Prompt:
    """The text "Where was NAME born?⁇ANSWER".

    `ids` (1, T); `name` holds the positions of the name, `mark` is the position of the ⁇.
    """

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
        """Compute the probability of the answer's characters, or of the first `letters` of them."""
        answer = self.ids[0, self.mark + 1 :][:letters].to(logits.device)
        steps = logits[:, self.mark : self.mark + len(answer)].log_softmax(-1)  # (B, letters, V)
        return steps.gather(-1, answer.expand(len(steps), -1)[..., None]).sum((1, 2)).exp()


def make_prompt(vocab: CharVocab, question: str, answer: str) -> Prompt:
    """Encode a question with its answer. ValueError for another form or an empty answer."""
    name = question_name(question)
    if not answer:
        raise ValueError(f"{question!r} needs an answer whose probability can be followed")
    at, text = question.index(name), f"{question}{MASK}{answer}"
    ids = torch.tensor([vocab.encode(text)])
    return Prompt(text, ids, range(at, at + len(name)), len(question))


# ---------------------------------------------------------------- hooks


def _check_traceable(model: GPT) -> None:
    if model.config.has_latents:
        variant = f"{model.config.variant} has latents in its middle layers"
        raise ValueError(f"{variant}: trace a vanilla or a rope model")


def _stream(model: GPT) -> list[torch.nn.Module]:
    """The modules whose outputs are the n_layer + 1 states of the residual stream."""
    _check_traceable(model)
    return [model.drop, *model.blocks]


@contextmanager
def record_residuals(model: GPT) -> Iterator[list[Tensor | None]]:
    """Record the residual stream of the forward passes inside the block.

    Yields:
        A list of n_layer + 1 states, (B, T, C) each, detached: after the embedding, after block 0,
        ... It holds the latest forward pass and stays filled after the block.
    """
    states: list[Tensor | None] = [None] * (model.config.n_layer + 1)

    def record(i: int, state: Tensor) -> Tensor:
        states[i] = state.detach()
        return state

    with edit_residuals(model, record):
        yield states


@contextmanager
def edit_residuals(model: GPT, edit: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Within the block, replace each state (B, T, C) of the residual stream by edit(i, state)."""
    with ExitStack() as hooks:
        for i, layer in enumerate(_stream(model)):
            hook = layer.register_forward_hook(lambda _, inputs, state, i=i: edit(i, state))
            hooks.callback(hook.remove)
        yield


def cut_mask(T: int, queries: Sequence[int], keys: Sequence[int]) -> Bool[Tensor, "T T"]:
    """Make a causal mask in which `queries` cannot attend to `keys`, True where it is allowed.

    A position may always attend to itself, so that no row is empty.
    """
    cut = torch.zeros(T, T, dtype=torch.bool)
    rows, columns = (torch.tensor(list(at), dtype=torch.long) for at in (queries, keys))
    cut[rows[:, None], columns] = True
    return causal_mask(T) & ~cut | torch.eye(T, dtype=torch.bool)


@contextmanager
def limit_attention(model: GPT, masks: Sequence[Bool[Tensor, "..."] | None]) -> Iterator[None]:
    """Within the block, layer i may attend only where masks[i] is True; None changes nothing.

    A mask broadcasts to (B, n_head, T, T). It can only forbid: the model's own mask holds too.
    """
    _check_traceable(model)
    if len(masks) != model.config.n_layer:
        counts = f"{len(masks)} masks for {model.config.n_layer} layers"
        raise ValueError(f"{counts}: one each, None where nothing is cut")

    def limit(mask: Tensor) -> Callable:
        def hook(attention, args, kwargs):
            call = inspect.signature(attention.forward).bind(*args, **kwargs)
            own, limited = call.arguments.get("mask"), mask.to(args[0].device)
            call.arguments["mask"] = limited if own is None else own & limited
            return call.args, call.kwargs

        return hook

    with ExitStack() as hooks:
        for block, mask in zip(model.blocks, masks, strict=True):
            if mask is not None:
                hook = block.attn.register_forward_pre_hook(limit(mask), with_kwargs=True)
                hooks.callback(hook.remove)
        yield


# ---------------------------------------------------------------- the logit lens


@torch.no_grad()
def logit_lens(
    model: GPT, states: Sequence[Float[Tensor, "B T C"]]
) -> Float[Tensor, "states B T V"]:
    """Compute what each state would predict if it were the last (nostalgebraist 2020).

    The final norm and the head, made for the last state, are applied to every one.
    """
    return torch.stack([model.head(model.ln_f(state)).softmax(-1) for state in states])


# ---------------------------------------------------------------- knock-out and patching


@dataclass(frozen=True)
class Cells:
    """One number per (row, position), and the 5 most likely characters there."""

    value: Float[Tensor, "rows T"]
    ids: Int[Tensor, "rows T 5"]
    shares: Float[Tensor, "rows T 5"]

    @classmethod
    def of(cls, value: Tensor, probabilities: Tensor, rows: int) -> Cells:
        """Arrange values and the next character's probabilities (rows * T, V) in a grid."""
        top = probabilities.cpu().topk(5)
        ids, shares = top.indices.view(rows, -1, 5), top.values.view(rows, -1, 5)
        return cls(value.cpu().view(rows, -1), ids, shares)


@torch.no_grad()
def knock_out(model: GPT, prompt: Prompt, letters: int | None = 1) -> Cells:
    """Cut one connection at a time: in layer l the ⁇ cannot attend to position t.

    The letters of the answer after the ⁇ are cut off from t as well. In the last column ⁇ keeps
    attending to itself, so it is the unchanged model.

    Returns:
        The answer's probability, (n_layer, mark + 1), and the characters that ⁇ predicts.
    """
    L, T, mark = model.config.n_layer, prompt.ids.size(1), prompt.mark
    cuts = [cut_mask(T, range(mark, T), [t] if t < mark else []) for t in range(mark + 1)]
    masks = torch.stack(cuts)[:, None]  # (mark + 1, 1, T, T)
    idx = prompt.ids.to(model.head.weight.device).expand(mark + 1, -1)
    parts = []
    for i in range(L):
        with limit_attention(model, [masks if i == layer else None for layer in range(L)]):
            parts.append(model(idx)[0])
    logits = torch.cat(parts)
    return Cells.of(prompt.probability(logits, letters), logits[:, mark].softmax(-1), L)


def other_name(prompt: Prompt, vocab: CharVocab, name: str) -> Int[Tensor, "1 T"]:
    """Put another name of the same length into the ids of a prompt, or it is a ValueError."""
    if len(name) != len(prompt.name):
        counts = f"has {len(name)} characters, the name in {prompt.text!r} {len(prompt.name)}"
        raise ValueError(f"{name!r} {counts}")
    ids = prompt.ids.clone()
    ids[0, prompt.name.start : prompt.name.stop] = torch.tensor(vocab.encode(name))
    return ids


@torch.no_grad()
def restore(
    model: GPT,
    prompt: Prompt,
    corrupted: Int[Tensor, "1 T"],
    window: int = 1,
    letters: int | None = 1,
) -> Cells:
    """Patch activations: the model reads the `corrupted` text, and some states are restored.

    Args:
        corrupted: Ids of another name with the true answer after the ⁇; see `other_name`.
        window: How many neighbouring positions are restored together.

    Returns:
        Row l, position t of (n_layer + 1, mark + 1): the probability of the true answer when state
        l of the true text is put in place at t and its neighbours, up to the ⁇.

    Source: Meng et al. 2022, section 2.1.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be 1, 3, 5 ..., so that it has a middle, not {window}")
    if corrupted.shape != prompt.ids.shape:
        shapes = f"{tuple(corrupted.shape)} for {tuple(prompt.ids.shape)}"
        raise ValueError(f"both texts must be equally long: {shapes}")
    device, T = model.head.weight.device, prompt.mark + 1
    with record_residuals(model) as clean:
        model(prompt.ids.to(device))
    n_states, at = len(clean), torch.arange(T, device=device)
    near = ((at[:, None] - at).abs() <= window // 2)[..., None]  # (T rows, T positions, 1)

    def edit(i: int, state: Tensor) -> Tensor:
        state, rows = state.clone(), slice(i * T, (i + 1) * T)  # these rows restore state i
        state[rows, :T] = torch.where(near, clean[i][0, :T], state[rows, :T])
        return state

    with edit_residuals(model, edit):
        logits = model(corrupted.to(device).expand(n_states * T, -1))[0]
    value = prompt.probability(logits, letters)
    return Cells.of(value, logits[:, prompt.mark].softmax(-1), n_states)


@torch.no_grad()
def lens_cells(model: GPT, prompt: Prompt) -> Cells:
    """Apply the logit lens up to the ⁇: how likely each state makes the answer's first letter."""
    with record_residuals(model) as states:
        model(prompt.ids.to(model.head.weight.device))
    shares = logit_lens(model, states)[:, 0, : prompt.mark + 1]  # (states, T, V)
    first = int(prompt.ids[0, prompt.mark + 1])
    return Cells.of(shares[..., first], shares.flatten(0, 1), len(states))


def by_role(
    grids: Sequence[Float[Tensor, "rows _"]], prompts: Sequence[Prompt], letters: int = 10
) -> tuple[Float[Tensor, "rows columns"], list[str]]:
    """Average the grids of questions whose names have different lengths.

    Args:
        letters: How many of a name's last characters get a column of their own.

    Returns:
        The mean grid and the names of its columns: the text before the name, the name's first
        characters in one column, its last ones, the text after it, the ⁇.
    """
    columns = []
    for grid, prompt in zip(grids, prompts, strict=True):
        name = list(prompt.name)
        early, late = name[:-letters], name[-letters:]
        empty = torch.full((len(grid), 1), torch.nan)
        parts = [grid[:, : prompt.name.start]]
        parts.append(grid[:, early].mean(1, keepdim=True) if early else empty)
        parts += [empty] * (letters - len(late))
        parts.append(grid[:, late])
        parts.append(grid[:, prompt.name.stop : prompt.mark + 1])
        columns.append(torch.cat(parts, 1))
    first = prompts[0]
    names = [*first.text[: first.name.start], "…", *(str(k) for k in range(-letters, 0))]
    return torch.stack(columns).nanmean(0), [*names, *first.text[first.name.stop : first.mark + 1]]


# ---------------------------------------------------------------- linear probes


@torch.no_grad()
def states_at(
    model: GPT,
    vocab: CharVocab,
    questions: Sequence[str],
    positions: Sequence[Callable[[Prompt], int]],
) -> Float[Tensor, "n positions states C"]:
    """Read the residual stream of each question at some positions, given as position(prompt).

    Nothing after the ⁇ is read. Questions of equal length share a forward pass.
    """
    prompts = [make_prompt(vocab, question, MASK) for question in questions]
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt.mark, []).append(i)
    n_states, C = model.config.n_layer + 1, model.config.n_embd
    result = torch.empty(len(prompts), len(positions), n_states, C)
    for mark, group in groups.items():
        idx = torch.cat([prompts[i].ids[:, : mark + 1] for i in group])
        with record_residuals(model) as states:
            model(idx.to(model.head.weight.device))
        read = torch.stack(states).float().cpu()  # (states, B, T, C)
        for row, i in enumerate(group):
            result[i] = torch.stack([read[:, row, position(prompts[i])] for position in positions])
    return result


def ridge(x: Float[Tensor, "n d"], y: Float[Tensor, "n k"], penalty: float) -> Float[Tensor, "d k"]:
    """Find the W that minimises |x W - y|² + penalty |W|²: (xᵀx + penalty I)⁻¹ xᵀy.

    Source: Hoerl and Kennard 1970.
    """
    return torch.linalg.solve(x.T @ x + penalty * torch.eye(x.size(1), dtype=x.dtype), x.T @ y)


def _standardise(states: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Standardise the channels and add a column of ones, for the classes' frequencies."""
    return F.pad((states - mean) / scale, (0, 1), value=1.0)


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
        """Learn which of `k` classes each state belongs to, by `solve(x, one-hot y, penalty)`."""
        if len(states) != len(classes):
            counts = f"{len(states)} states and {len(classes)} classes"
            raise ValueError(f"{counts}: one each is needed")
        mean, scale = states.mean(0), states.std(0) + 1e-6
        x, y = _standardise(states, mean, scale).double(), F.one_hot(classes, k).double()
        return cls(mean, scale, solve(x, y, penalty).float())

    def accuracy(self, states: Float[Tensor, "n C"], classes: Int[Tensor, " n"]) -> float:
        """Compute the share of the states whose own class gets the largest number."""
        largest = (_standardise(states, self.mean, self.scale) @ self.weights).argmax(1)
        return float((largest == classes).float().mean())
