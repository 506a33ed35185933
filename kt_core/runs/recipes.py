"""Named settings for a whole run: model, pretraining, finetuning. Flat, so that any field can be set by its name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kt_core.datasets import Mixture, NamePlace, SpanCorruption
from kt_core.models import GPTConfig
from kt_core.trainer import TrainConfig


def _about(default, text: str):
    return field(default=default, metadata={"about": text})


@dataclass(frozen=True)
class Recipe:
    """All settings of a run but corpus, variant and seed. The defaults are the assignment's (`a5`)."""

    name: str = _about("a5", "what reports call it")
    # model
    n_layer: int = _about(4, "layers")
    n_head: int = _about(8, "heads a layer")
    n_embd: int = _about(256, "channels")
    block_size: int = _about(128, "characters that the model reads at once")
    bottleneck: int = _about(64, "latents of a perceiver at a full block")
    dropout: float = _about(0.1, "share of activations dropped in training")
    qk_norm: bool = _about(False, "queries and keys of unit size")
    activation: str = _about("gelu", "of the MLP: gelu or relu2")
    zero_init: bool = _about(False, "every block starts as the identity")
    random_offset: int = _about(0, "learned positions: each row moved by up to so many places in training")
    # what pretraining sees
    crop: str = _about("prefix", "prefix, line or window of a document")
    whole: float = _about(0.0, "with windows: share of draws that show the whole line")
    plain: float = _about(
        0.0, "with windows: share of draws without the names, dates and numbers around the span"
    )
    drop: float = _about(0.0, "with windows: share of the words around the span that are left out at random")
    head_last: float = _about(0.0, "with windows: share of draws that put the head behind the words")
    ask: float = _about(0.0, "with windows: share of draws put as a question is")
    spans: str = _about("random", "masked spans: random, salient, names or leading names")
    random_share: float = _about(0.0, "with salient spans: share of draws that mask a random span")
    loss: str = _about("all", "loss on all characters, on the body behind the name, or on the masked span")
    end_sentinel: bool = _about(False, "⁇ behind the masked span")
    views: int = _about(1, "times an epoch that pretraining sees each document, another span of it each time")
    mixed_pairs: int = _about(0, "times an epoch that pretraining sees each train pair; 0 is the pure kind")
    # pretraining
    pretrain_epochs: float = _about(650.0, "passes over the documents")
    pretrain_batch_size: int = _about(128, "examples a step")
    pretrain_lr: float = _about(6e-3, "peak learning rate (AdamW)")
    optimizer: str = _about("adamw", "adamw, or muon for the blocks' matrices")
    muon_lr: float = _about(0.02, "peak learning rate of Muon")
    weight_decay: float = _about(0.1, "decoupled, as AdamW has it")
    decay_on: str = _about("linear", "what decays: the matrices of linear layers, or all but biases")
    schedule: str = _about("cosine", "cosine, linear or constant")
    warmup_steps: int = _about(0, "steps of rising rate")
    cooldown_from: float = _about(0.3, "linear: share of the steps before the rate falls")
    final_fraction: float = _about(0.1, "share of the rate at the end")
    bucket: bool = _about(True, "batches of like length, no more padding than that")
    shuffle: bool = _about(True, "a new order each epoch")
    parts: int = _about(
        1, "parts of like length in which a step works through its batch; the same gradient, less padding"
    )
    # finetuning
    finetune_epochs: float = _about(10.0, "passes over the train pairs, after pretraining")
    finetune_batch_size: int = _about(256, "pairs a step")
    finetune_lr: float = _about(6e-4, "peak learning rate after pretraining (AdamW)")
    finetune_muon_lr: float = _about(0.002, "peak learning rate of Muon after pretraining")
    finetune_documents: int = _about(0, "times an epoch that finetuning sees each document too")
    finetune_schedule: str = _about("cosine", "cosine, linear or constant")
    finetune_horizon: int = _about(0, "steps that the cosine is stretched over; 0 for those of the training")
    scratch_epochs: float = _about(75.0, "passes over the train pairs without pretraining")
    scratch_lr: float = _about(6e-4, "learning rate (AdamW) without pretraining")
    precision: str = _about(
        "auto", "fp32, bf16, auto (bf16 on cuda) or native (bf16 where products in it are fast, CPUs too)"
    )

    def __post_init__(self):
        for f in fields(self):
            wanted, value = type(f.default), getattr(self, f.name)
            if wanted is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, f.name, float(value))
            elif type(value) is not wanted:
                raise ValueError(
                    f"recipe field {f.name} must be {wanted.__name__} ({f.metadata['about']}), not {value!r}"
                )
            if wanted is float and not math.isfinite(getattr(self, f.name)):
                raise ValueError(f"recipe field {f.name} must be a finite number, not {value!r}")
        # each part validates its own fields, naming them
        self.model_config(vocab_size=2, variant="vanilla")
        for phase, make in (
            ("pretraining", self.pretrain_config),
            ("finetuning", self.finetune_config),
            ("finetuning without pretraining", lambda: self.finetune_config(pretrained=False)),
        ):
            try:
                make()
            except ValueError as error:
                raise ValueError(f"recipe {self.name}, {phase}: {error}") from None
        self.documents([], None)
        if self.views < 1 or self.mixed_pairs < 0 or self.finetune_documents < 0:
            raise ValueError(
                "recipe fields views must be 1 or more, mixed_pairs and finetune_documents 0 or more"
            )

    @property
    def kind(self) -> str:
        """ "pure": pretraining sees the text alone; "mixed": the train pairs too."""
        return "mixed" if self.mixed_pairs else "pure"

    def model_config(self, vocab_size: int, variant: str) -> GPTConfig:
        """The model's configuration for a vocabulary and a variant."""
        return GPTConfig(
            vocab_size, self.block_size, self.n_layer, self.n_head, self.n_embd, variant, self.bottleneck, self.dropout,
            qk_norm=self.qk_norm, activation=self.activation, zero_init=self.zero_init, random_offset=self.random_offset,
        )

    def documents(self, documents: Sequence[str], vocab, seed: int = 0) -> SpanCorruption:
        """Documents, corrupted as this recipe says."""
        return SpanCorruption(
            documents, vocab, self.block_size, seed, crop=self.crop, spans=self.spans, loss=self.loss,
            end_sentinel=self.end_sentinel, random_share=self.random_share, whole=self.whole, plain=self.plain, drop=self.drop,
            head_last=self.head_last, ask=self.ask,
        )

    def pretrain_data(self, corpus, vocab, seed: int = 0) -> Mixture:
        """What pretraining sees in one epoch: the documents, and the train pairs if this is the mixed kind."""
        pairs = NamePlace(corpus.train, vocab, self.block_size)
        return Mixture(
            [(self.documents(corpus.documents, vocab, seed), self.views), (pairs, self.mixed_pairs)]
        )

    def finetune_data(self, corpus, vocab, seed: int = 0) -> Mixture:
        """What finetuning sees in one epoch: the train pairs, and the documents if the recipe keeps them in."""
        pairs = NamePlace(corpus.train, vocab, self.block_size)
        return Mixture(
            [(pairs, 1), (self.documents(corpus.documents, vocab, seed + 1), self.finetune_documents)]
        )

    def pretrain_config(self, **more) -> TrainConfig:
        """Training settings of pretraining; `more` are further fields of TrainConfig (seed, device ...)."""
        return TrainConfig(**dict(
            epochs=self.pretrain_epochs, batch_size=self.pretrain_batch_size, learning_rate=self.pretrain_lr,
            optimizer=self.optimizer, muon_learning_rate=self.muon_lr, weight_decay=self.weight_decay, decay_on=self.decay_on,
            schedule=self.schedule, warmup_steps=self.warmup_steps, cooldown_from=self.cooldown_from,
            final_fraction=self.final_fraction, bucket=self.bucket, shuffle=self.shuffle, parts=self.parts, precision=self.precision,
        ) | more)

    def finetune_config(self, pretrained: bool = True, **more) -> TrainConfig:
        """Training settings of finetuning, after pretraining or from nothing."""
        return TrainConfig(**dict(
            epochs=self.finetune_epochs if pretrained else self.scratch_epochs, batch_size=self.finetune_batch_size,
            learning_rate=self.finetune_lr if pretrained else self.scratch_lr,
            optimizer=self.optimizer, muon_learning_rate=self.finetune_muon_lr if pretrained else self.muon_lr,
            weight_decay=self.weight_decay, decay_on=self.decay_on, schedule=self.finetune_schedule, horizon=self.finetune_horizon or None,
            cooldown_from=0.0, final_fraction=self.final_fraction, bucket=self.bucket, shuffle=self.shuffle,
            parts=self.parts, precision=self.precision,
        ) | more)


# Ours: short windows around spans that say something, the name always in view, loss on the span, an end sentinel as
# in finetuning, the train pairs seen along the way, Muon, no dropout, a linear cooldown, and a gentle finetuning.
_OURS = dict(
    dropout=0.0, qk_norm=True, zero_init=True, random_offset=16, crop="window", spans="salient", loss="span",
    end_sentinel=True, mixed_pairs=1, pretrain_batch_size=32, pretrain_lr=2e-3, muon_lr=0.01, optimizer="muon",
    weight_decay=0.0, schedule="linear", final_fraction=0.0, finetune_schedule="linear", finetune_epochs=3.0,
    finetune_batch_size=32, finetune_lr=2e-4, finetune_muon_lr=0.001, finetune_documents=1, scratch_epochs=20.0,
    scratch_lr=2e-3,
)

# ... for the assignment's data and model
_KT = _OURS | dict(head_last=0.5, spans="names", views=2, pretrain_epochs=145.0, cooldown_from=0.37, pretrain_batch_size=64,
                   precision="native")

RECIPES: dict[str, Recipe] = {
    # seconds, to see that everything runs; claims nothing
    "smoke": Recipe(name="smoke", **_OURS | dict(n_layer=2, n_head=2, n_embd=32, pretrain_epochs=0.2, finetune_epochs=1.0,
                                                 finetune_documents=0, scratch_epochs=2.0)),
    # our recipe for the embedded corpus: the small model, minutes on two cores
    "quick": Recipe(name="quick", **_OURS | dict(n_head=4, n_embd=128, head_last=0.5, pretrain_epochs=46.0, precision="native")),
    # our recipe for the assignment's data: the assignment's model
    "kt": Recipe(name="kt", **_KT),
    # a later sitting, on from a model that `kt` has pretrained: names, dates and numbers around the gap left out and half of
    # the other words, so that the name alone finds the fact; half of the windows put as questions, so that a question finds
    # it too; the pairs, known by heart by then, are a smaller share
    "kt-more": Recipe(name="kt-more", **_KT | dict(spans="leading", plain=1.0, drop=0.5, ask=0.5, views=4, pretrain_epochs=25.0, pretrain_lr=1e-3,
                                                   muon_lr=5e-3, cooldown_from=0.0)),
    # the assignment as its 2024-25 handout has it: no warm-up in effect (10,240 of 16,384 positions of the first batch),
    # the finetuning's cosine stretched over 200 epochs of the documents (75,187,200 positions), order never shuffled, weight
    # decay on norms and embeddings too (its list of what to spare has other names than its modules)
    "a5": Recipe(name="a5", finetune_horizon=2295, bucket=False, shuffle=False, decay_on="all"),
}


def recipe(name: str | Recipe, /, **overrides: Any) -> Recipe:
    """The recipe of that name with some fields set otherwise; ValueError for an unknown name or field, with the known ones.

    Values may be strings, as a command line gives them: they are read as the field's type.
    """
    if isinstance(name, Recipe):
        found = name
    elif name in RECIPES:
        found = RECIPES[name]
    else:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    known = {f.name: type(f.default) for f in fields(Recipe)}
    for key in overrides:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(
                f"no recipe field {key!r}{f', did you mean {near[0]}' if near else ''}; there are {', '.join(known)}"
            )
    return replace(found, **{key: _read(key, value, known[key]) for key, value in overrides.items()})


def _read(key: str, value: Any, wanted: type) -> Any:
    """A string as the type that a field wants; other values as they are."""
    if not isinstance(value, str) or wanted is str:
        return value
    try:
        if wanted is bool:
            return {"true": True, "false": False}[value.strip().lower()]
        if wanted is int and value.strip().lstrip("+-").isdecimal():
            return int(value)
        number = float(value)
        if wanted is int and number != int(number):
            raise ValueError
        return wanted(number)
    except (KeyError, ValueError, OverflowError):
        shown = "true or false" if wanted is bool else wanted.__name__
        raise ValueError(f"recipe field {key} must be {shown}, not {value!r}") from None
