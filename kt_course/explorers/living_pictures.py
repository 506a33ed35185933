"""Pictures for the explorers of a living page where nothing runs: GitHub, untrusted notebooks."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from kt_core.models import GPT
from kt_core.runs.attention_maps import record_attention
from kt_core.vocab import MASK, CharVocab
from kt_course.explorers.beam_search import top_answers
from kt_course.figures.alt_text import replace_mask
from kt_course.figures.gpt_figures import attention_head
from kt_course.figures.style import BLUE, SKY, in_style, visible

Models = Mapping[str, tuple[GPT, CharVocab]]
OTHER = "#9AA3AD"  # bars of wrong answers


def draw_view(view: str, models: Models, question: str, truth: str, **start: Any) -> Figure:
    """The state in which a view opens, as a figure: "attention", "ask", "lens" or "replay"."""
    draw = {"attention": _attention, "ask": _ask, "lens": _lens, "replay": _replay}[view]
    figure = draw(models, question, truth, **start)
    replace_mask(figure)
    plt.close(figure)  # so that a notebook does not show it a second time
    return figure


@in_style
def _ask(models: Models, question: str, truth: str, **start: Any) -> Figure:
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


@torch.no_grad()
def _attention(models: Models, question: str, truth: str, **start: Any) -> Figure:
    """The head on which the view opens, with a note on what the last row attends to."""
    _, (model, vocab) = next(iter(models.items()))
    text = question + MASK if model.config.causal else question
    with record_attention(model) as maps:
        model(torch.tensor([vocab.encode(text)]))
    row = text.index(MASK) if MASK in text else len(text) - 1
    layer, head = start.get("layer"), start.get("head")
    if layer is None or head is None:
        layer, head = _telling_head(maps, text, row)
    weights = maps[layer][0, head]  # (T_query, T_key)
    queries, keys = _axis(model, text, weights.size(0)), _axis(model, text, weights.size(1))
    row = min(row, len(queries) - 1)
    share, key = weights[row].max(-1)
    note = f"{queries[row]} gives {100 * share:.0f} % of its weight to {visible(keys)[key]}"
    title = f"Layer {layer}, head {head}: what {queries[row]} attends to in “{text}”"
    return attention_head(weights, queries, keys, title, (row, int(key), note))


def _telling_head(maps: list[torch.Tensor], text: str, row: int) -> tuple[int, int]:
    """The layer and head that attend most from `row` to the name; of square maps only."""
    first = len("Where was ") if text.startswith("Where was ") else 0
    last = text.find(" born") if " born" in text else len(text)
    on_name = torch.stack([m[0, :, min(row, m.size(2) - 1), first:last].sum(-1) for m in maps])
    return divmod(int(on_name.argmax()), on_name.size(1))


def _axis(model: GPT, text: str, n: int) -> list[str]:
    """Names of n rows or columns: characters, or latents by their newest character."""
    if n == len(text):
        return list(text)
    stride = model.config.stride
    newest = [text[min(stride * (i + 1), len(text)) - 1] for i in range(-(-len(text) // stride))]
    return ["∅"] * (n - len(newest)) + newest[:n]


@in_style
def _replay(models: Models, question: str, truth: str, record: dict, **start: Any) -> Figure:
    """The curves of a recorded training; dots are the snapshots."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8))
    curve, total = record["curve"], record["total"]
    steps = [point["step"] for point in curve]
    left.plot(steps, [point["loss"] for point in curve], color=BLUE)
    left.set(title="Loss", xlabel="training step", ylabel="nats per character", ylim=(0, None))
    for name, colour in (("windows", SKY), ("questions", BLUE)):
        right.plot(steps, [100 * point[name] / total for point in curve], color=colour, label=name)
        for shot in record["snapshots"]:
            right.plot(shot["step"], 100 * shot[name] / total, "o", color=colour, ms=5)
    right.set(title="Correct answers", xlabel="training step", ylabel=f"% of {total} people")
    right.set_ylim(0, 100)
    right.legend()
    return figure


@in_style
def _lens(models: Models, question: str, truth: str, **start: Any) -> Figure:
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
