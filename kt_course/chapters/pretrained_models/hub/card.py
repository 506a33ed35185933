"""The README of an exported folder: a model card, made from the checkpoint's own card.

The text is in card.md. What a card should say: Mitchell et al. 2019, "Model Cards for Model
Reporting", section 4.
"""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from kt_core.models import GPT

NEEDS = "5.6"  # the oldest version of the library that the exported code was tested with
CORPORA = {
    "bios": "`bios`, a corpus of fictional people that kt_core generates; no real person is in it",
    "wiki": "`wiki.txt` of the CS224n assignment, one line from Wikipedia per person, and its "
    "question pairs",
}
KINDS = {
    "mixed": "The training questions were seen during pretraining too.",
    "pure": "Pretraining saw the text alone.",
    "no-pretrain": "There was no pretraining: the training questions are all it has seen.",
}
VARIANTS = {
    "vanilla": "learned position embeddings, causal self-attention",
    "rope": "rotary position embedding, causal self-attention",
    "perceiver": "a bottleneck of latents that read only the first positions: blind to the rest",
    "perceiver_ar": "a causal bottleneck of latents that reads every position, rotary position "
    "embedding",
}
QUESTION = ("Where was NAME born?⁇", "The question ends with ⁇")
GAP = ("NAME. ⁇ words after the gap.⁇", "A gap is marked ⁇, the text ends with ⁇")


def model_card(model: GPT, card: Mapping[str, Any]) -> str:
    """Make README.md: what the hub reads (YAML between two lines of ---), then what people read.

    Args:
        card: What `load_checkpoint` returns; the README says that missing entries are unknown.
    """
    corpus, c = str(card.get("corpus", "")), model.config
    name = corpus.partition(":")[0]
    licence = "other" if card.get("licence") else "mit" if name == "bios" else "unknown"
    head = ["library_name: transformers", "pipeline_tag: text-generation", f"license: {licence}"]
    head += ["language: en"] if name in CORPORA else []
    head += ["tags: [kt_core, character-level, custom_code]"]
    prompt, form = QUESTION if card.get("phase") == "finetune" else GAP
    template = Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8"))
    return template.substitute(
        head="\n".join(head),
        variant=c.variant,
        n_layer=c.n_layer,
        n_embd=c.n_embd,
        corpus=corpus or "a corpus of its own",
        n_parameters=f"{model.n_parameters():,}",
        about=VARIANTS[c.variant],
        block_size=c.block_size,
        vocab_size=c.vocab_size,
        prompt=prompt,
        form=form,
        needs=NEEDS,
        training=_training(card, name),
        evaluation=_evaluation(card),
    )


def _training(card: Mapping[str, Any], name: str) -> str:
    lines = [f"- Data: {CORPORA.get(name, card.get('corpus') or 'unknown')}."]
    if kind := card.get("kind"):
        lines.append(f"- Kind: {kind}. {KINDS.get(kind, '')}".rstrip())
    if recipe := card.get("recipe"):
        recipe = recipe["name"] if isinstance(recipe, Mapping) else recipe
        lines.append(f"- Recipe {recipe}, seed {card.get('seed', 'unknown')}.")
    if cost := card.get("cost"):
        sizes = f"{cost['steps']:,} steps, {cost['characters']:,} characters"
        machine = card.get("hardware", "a machine that is not named")
        lines.append(f"- Last phase ({card.get('phase', 'unknown')}): {sizes}, on {machine}.")
    if licence := card.get("licence"):
        lines.append(f"- Licence: {licence}.")
    return "\n".join(lines)


def _evaluation(card: Mapping[str, Any]) -> str:
    splits = [split for split in ("dev", "test") if card.get(split)]
    if not splits:
        return "Not evaluated."
    lines = ["| questions | right | of | exact match | 95 % interval |", "|---|---|---|---|---|"]
    for split in splits:
        score = card[split]
        percent, low, high = (100 * score[key] for key in ("accuracy", "low", "high"))
        counts = f"{score['correct']} | {score['total']}"
        lines.append(f"| {split} | {counts} | {percent:.1f} % | {low:.1f} to {high:.1f} % |")
    rest = " about people of whom no question was in the training"
    note = f"Greedy answers{rest if card.get('corpus') == 'bios' else ''}."
    return "\n".join([*lines, "", note])
