"""The README of an exported folder: a model card, made from the checkpoint's own card.

What such a card should tell: Mitchell et al. 2019, "Model Cards for Model Reporting", section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kt_core.models import GPT

NEEDS = "5.6"  # the oldest version of the library that the exported code was tested with
DATA = {
    "bios": "`bios`, a corpus of fictional people that kt_core generates; no real person is described",
    "wiki": "`wiki.txt` of the CS224n assignment, a line from Wikipedia about each of its people, and its question pairs",
}
KINDS = {
    "mixed": "The training questions were seen during pretraining too.",
    "pure": "Pretraining saw the text alone.",
    "no-pretrain": "There was no pretraining: the training questions are all it has seen.",
}
VARIANTS = {
    "vanilla": "learned position embeddings, causal self-attention",
    "rope": "rotary position embedding, causal self-attention",
    "perceiver": "a bottleneck of latents that read the first positions alone: blind to what stands behind them",
    "perceiver_ar": "a causal bottleneck of latents that reads every position, rotary position embedding",
}


def model_card(model: GPT, card: Mapping[str, Any]) -> str:
    """README.md: what the hub reads (YAML between two lines of ---), then what people read.

    `card` is what `load_checkpoint` gives back; what it does not hold is said to be unknown.
    """
    corpus = str(card.get("corpus", ""))
    name = corpus.partition(":")[0]
    licence = "other" if card.get("licence") else "mit" if name == "bios" else "unknown"
    head = ["library_name: transformers", "pipeline_tag: text-generation", f"license: {licence}"]
    head += ["language: en"] if name in DATA else []
    head += ["tags: [kt_core, character-level, custom_code]"]
    c = model.config
    parts = [
        "---\n" + "\n".join(head) + "\n---",
        f"# {c.variant}, {c.n_layer} layers of {c.n_embd} channels, on {corpus or 'a corpus of its own'}",
        f"A character-level GPT of the kt_core workbook with {model.n_parameters():,} parameters: {VARIANTS[c.variant]}. "
        f"It reads {c.block_size} characters at most and knows {c.vocab_size}, □ (padding) and ⁇ among them.",
        "## Use\n\n" + _use(str(card.get("phase", ""))),
        "## Training\n\n" + _training(card, name),
        "## Evaluation\n\n" + _evaluation(card),
        "## Limits\n\n"
        "- It has no way to say that it does not know: for a name that it never met it makes up a place, as surely as for others.\n"
        "- It knows the form of question that it was trained on, and the people of its corpus. It is no source of facts.\n"
        "- A character outside its vocabulary is an error.\n"
        "- `generate` reads the whole text again for each new character; there is no cache.\n"
        "- The code in this folder is run on your machine by `trust_remote_code=True`: read it first, and name a `revision`.",
    ]
    return "\n\n".join(parts) + "\n"


def _use(phase: str) -> str:
    prompt = "Where was NAME born?⁇" if phase == "finetune" else "NAME. ⁇ words behind the gap.⁇"
    told = (
        "The question ends with ⁇"
        if phase == "finetune"
        else "A gap is marked ⁇, the text ends with ⁇"
    )
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

here = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(here, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(here, trust_remote_code=True)
asked = tokenizer(["{prompt}"], return_tensors="pt", padding=True)
told = model.generate(**asked)[:, asked.input_ids.shape[1] :]
print(tokenizer.batch_decode(told, skip_special_tokens=True))
```

{told}; what is wanted comes behind it, up to the next ⁇. Decoding is greedy. It needs torch and transformers {NEEDS}
or newer, nothing else."""


def _training(card: Mapping[str, Any], name: str) -> str:
    lines = [f"- Data: {DATA.get(name, card.get('corpus') or 'unknown')}."]
    if kind := card.get("kind"):
        lines.append(f"- Kind: {kind}. {KINDS.get(kind, '')}".rstrip())
    if recipe := card.get("recipe"):
        told = recipe["name"] if isinstance(recipe, Mapping) else recipe
        lines.append(f"- Recipe {told}, seed {card.get('seed', 'unknown')}.")
    if cost := card.get("cost"):
        lines.append(
            f"- Last phase ({card.get('phase', 'unknown')}): {cost['steps']:,} steps, {cost['characters']:,} characters, "
            f"on {card.get('hardware', 'a machine that is not named')}."
        )
    if licence := card.get("licence"):
        lines.append(f"- Licence: {licence}.")
    return "\n".join(lines)


def _evaluation(card: Mapping[str, Any]) -> str:
    rows = [(split, card[split]) for split in ("dev", "test") if card.get(split)]
    if not rows:
        return "Not evaluated."
    table = ["| questions | right | of | exact match | 95 % interval |", "|---|---|---|---|---|"]
    for split, score in rows:
        table.append(
            f"| {split} | {score['correct']} | {score['total']} | {100 * score['accuracy']:.1f} % "
            f"| {100 * score['low']:.1f} to {100 * score['high']:.1f} % |"
        )
    told = "Greedy answers."
    if card.get("corpus") == "bios":
        told = "Greedy answers about people of whom no question was in the training."
    return "\n".join([*table, "", told])
