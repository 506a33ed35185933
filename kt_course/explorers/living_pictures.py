"""Pictures for the explorers of a living page where nothing runs: GitHub, untrusted notebooks."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from kt_core.attention import record_attention
from kt_core.models import GPT
from kt_core.vocab import MASK, CharVocab
from kt_course.explorers.beam_search import top_answers
from kt_course.figures.style import BLUE, in_style, visible

Models = Mapping[str, tuple[GPT, CharVocab]]
OTHER = "#9AA3AD"  # bars of wrong answers


def draw_view(view: str, models: Models, question: str, truth: str) -> Figure:
    """The state in which a view opens, as a figure: "attention", "ask" or "lens"."""
    figure = {"attention": _attention, "ask": _ask, "lens": _lens}[view](models, question, truth)
    plt.close(figure)  # so that a notebook does not show it a second time
    return figure


@in_style
def _ask(models: Models, question: str, truth: str) -> Figure:
    """The five likeliest answers of each model as bars."""
    figure, axes = plt.subplots(1, len(models), figsize=(9, 2.4), sharex=True, squeeze=False)
    for ax, (name, (model, vocab)) in zip(axes[0], models.items(), strict=True):
        answers = top_answers(model, vocab, question)[::-1]
        names = [answer or "(empty)" for answer, _ in answers]
        colours = [BLUE if name == truth else OTHER for name in names]
        ax.barh(range(len(names)), [p for _, p in answers], color=colours)
        ax.set_yticks(range(len(names)), names)
        ax.set(title=name, xlim=(0, 1), xlabel="probability of the answer")
    figure.suptitle(f"{question} (correct: {truth})")
    return figure


@in_style
def _attention(models: Models, question: str, truth: str) -> Figure:
    """All heads of the first model as small maps."""
    name, (model, vocab) = next(iter(models.items()))
    text = question + MASK if model.config.causal else question
    with torch.no_grad(), record_attention(model) as maps:
        model(torch.tensor([vocab.encode(text)]))
    rows, columns = model.config.n_layer, model.config.n_head
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.6 * rows), squeeze=False)
    for layer, row in enumerate(axes):
        for head, ax in enumerate(row):
            ax.imshow(maps[layer][0, head].numpy(), cmap="Blues", vmin=0, aspect="auto")
            ax.set(xticks=[], yticks=[], title=f"layer {layer}, head {head}")
    figure.suptitle(f"Attention of {name} over\n“{text}”", fontsize=11)
    figure.supxlabel("rows attend to columns; darkest: the head's largest weight", fontsize=9)
    return figure


@in_style
def _lens(models: Models, question: str, truth: str) -> Figure:
    """The logit lens of the first vanilla or rope model."""
    model, vocab = next(pair for pair in models.values() if not pair[0].config.has_latents)
    shares = _lens_shares(model, vocab.encode(question + MASK))
    top = shares.max(-1)
    figure, ax = plt.subplots(figsize=(9, 2.6))
    image = ax.imshow(
        top.values.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower"
    )
    for state, row in enumerate(top.indices.tolist()):
        for position, letter in enumerate(visible(vocab.decode(row))):
            colour = "white" if float(top.values[state, position]) > 0.6 else "black"
            ax.text(position, state, letter, ha="center", va="center", fontsize=8, color=colour)
    names = ["embedding", *[f"after block {i}" for i in range(model.config.n_layer)]]
    ax.set_yticks(range(len(names)), names)
    ax.set_xticks(range(len(question) + 1), visible(question + MASK), fontsize=8)
    title = "Logit lens: the likeliest next character, read off each state"
    ax.set(title=title, xlabel="character read")
    figure.colorbar(image, label="probability")
    return figure


@torch.no_grad()
def _lens_shares(model: GPT, ids: list[int]) -> torch.Tensor:
    """Next-character probabilities read off each state: (n_layer + 1, T, V)."""
    states: list[torch.Tensor] = []
    layers = (model.drop, *model.blocks)
    handles = [each.register_forward_hook(lambda _, __, out: states.append(out)) for each in layers]
    model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return torch.stack([model.head(model.ln_f(state[0])).softmax(-1) for state in states])
