"""What every notebook needs around its lesson: checked parameters, models by profile, a result at the end."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kt_core.blocks import VARIANTS
from kt_core.corpora.files import sha256, write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.devices import choose_device
from kt_core.evaluation import Score
from kt_core.models import GPT
from kt_core.runs.checkpoints import load_checkpoint
from kt_core.runs.experiment import run_experiment
from kt_core.runs.recipes import Recipe
from kt_core.runs.recipes import recipe as find_recipe
from kt_core.vocab import CharVocab
from kt_course import shipped as shipping

PROFILES = ("smoke", "quick", "full")
PARAMETERS = {
    "profile": str,
    "corpus": str,
    "variant": str,
    "seed": int,
    "device": str,
    "runs_dir": str,
    "overrides": dict,
}


class Lesson:
    """A notebook's parameters, checked, and what follows from them.

    `namespace` is the notebook's globals(): the parameters are read from it. A name that papermill put there and
    that is no parameter, or a value of the wrong type, is a ValueError that names the known ones.
    """

    def __init__(self, name: str, namespace: dict[str, Any]):
        self.name = name
        _refuse_unknown(namespace)
        given = {key: namespace[key] for key in PARAMETERS if key in namespace}
        for key, value in given.items():
            if not isinstance(value, PARAMETERS[key]) or isinstance(value, bool):
                raise ValueError(
                    f"parameter {key} must be a {PARAMETERS[key].__name__}, not {value!r}"
                )
        self.parameters = given
        self.profile = _one_of("profile", given.get("profile", "quick"), PROFILES)
        self.variant = _one_of("variant", given.get("variant", "vanilla"), VARIANTS)
        self.seed = given.get("seed", 0)
        self.device = choose_device(given.get("device", "auto"))
        self.runs_dir = Path(given.get("runs_dir", "runs/notebooks"))
        self.corpus_name = given.get("corpus", "bios")
        by_corpus = shipping.RECIPE_OF.get(self.corpus_name, "quick")
        self.recipe: Recipe = find_recipe(
            "smoke" if self.profile == "smoke" else by_corpus, **given.get("overrides", {})
        )
        torch.manual_seed(self.seed)

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus that the parameters name."""
        return load_corpus(self.corpus_name, block_size=self.recipe.model.block_size)

    def pick(self, *, smoke, quick, full):
        """One of three values, by profile."""
        return {"smoke": smoke, "quick": quick, "full": full}[self.profile]

    def pretrained(self, variant: str | None = None) -> tuple[GPT, CharVocab, dict]:
        """(model, vocab, card) after pretraining: shipped in quick, trained here from nothing in smoke and full."""
        return self._model(variant or self.variant, "pretrained")

    def finetuned(self, variant: str | None = None) -> tuple[GPT, CharVocab, dict]:
        """(model, vocab, card) after pretraining and finetuning: shipped in quick, trained here in smoke and full."""
        return self._model(variant or self.variant, "finetuned")

    def scratch(self) -> tuple[GPT, CharVocab, dict]:
        """(model, vocab, card) of the vanilla model finetuned without pretraining."""
        return self._model("vanilla", "scratch")

    def curve(self, variant: str | None = None) -> list[dict]:
        """Rows (phase, step, loss, dev, characters ...) of the run behind `finetuned(variant)`; [] if none is kept."""
        variant = variant or self.variant
        if self.profile == "quick":
            _, _, card = self.finetuned(variant)
            return shipping.kept_curve(self.corpus_name, variant, card["seed"])
        kept = self._folder(variant) / "metrics.jsonl"
        return (
            [json.loads(row) for row in kept.read_text(encoding="utf-8").splitlines()]
            if kept.is_file()
            else []
        )

    def _folder(self, variant: str, scratch: bool = False) -> Path:
        """Where smoke and full keep the run of a variant; other settings or another corpus have another folder."""
        told = json.dumps([self.corpus_name, asdict(self.recipe)], sort_keys=True)
        settings = sha256(told.encode())[:8]
        return (
            self.runs_dir
            / f"{variant}{'-scratch' if scratch else ''}-{self.recipe.name}-seed{self.seed}-{settings}"
        )

    def _model(self, variant: str, phase: str) -> tuple[GPT, CharVocab, dict]:
        _one_of("variant", variant, VARIANTS)
        if self.profile == "quick":
            if phase == "pretrained" and not shipping.ships(self.corpus_name, variant, phase):
                print(
                    f"on {self.corpus_name} the finetuned models alone ship: this is that of {variant}"
                )
                phase = "finetuned"
            model, vocab, card = shipping.shipped(self.corpus_name, variant, phase, self.device)
            wanted, has = (
                asdict(self.recipe.model_config(len(vocab), variant)),
                asdict(model.config),
            )
            if other := [f"{key} {value}" for key, value in wanted.items() if has[key] != value]:
                raise ValueError(
                    f"the shipped {variant} model cannot have {', '.join(other)}: profile full trains one that has"
                )
            return model, vocab, card
        scratch = phase == "scratch"
        out = self._folder(variant, scratch)
        run_experiment(
            self.corpus_name,
            variant,
            self.recipe,
            not scratch,
            self.seed,
            out,
            device=str(self.device),
            resume=True,
        )
        return load_checkpoint(
            out / f"{'finetuned' if scratch else phase}.safetensors", self.device
        )

    def result(self, **facts: Any) -> None:
        """Keep what the notebook found in runs_dir/NAME.json, scores with their intervals, and say that it is kept."""
        path = self.runs_dir / f"{self.name}.json"
        facts = {
            key: value.as_dict() if isinstance(value, Score) else value
            for key, value in facts.items()
        }
        write_json(path, {"notebook": self.name, "parameters": self.parameters, "facts": facts})
        print(f"{self.name} ({self.profile}): {len(facts)} results kept in {path.name}")


def start_lesson(name: str, namespace: dict[str, Any]) -> Lesson:
    """Begin a notebook: lesson = start_lesson("01_attention_math", globals()), right behind the parameters cell."""
    return Lesson(name, namespace)


def _one_of(key: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        raise ValueError(
            f"parameter {key} is {value!r}{f', did you mean {near[0]!r}' if near else ''}; it may be {', '.join(known)}"
        )
    return value


def _refuse_unknown(namespace: dict[str, Any]) -> None:
    """ValueError for plain values in a fresh notebook that are no parameters: papermill itself lets typos pass."""
    if any(isinstance(value, Lesson) for value in namespace.values()):
        return  # the cell is run again: later cells have made names of their own
    plain = (str, int, float, bool, dict, list, type(None))
    hidden = {"In", "Out"}
    for key, value in namespace.items():
        if (
            not key.startswith("_")
            and key not in hidden
            and key not in PARAMETERS
            and type(value) in plain
        ):
            near = difflib.get_close_matches(key, PARAMETERS, n=1)
            raise ValueError(
                f"no parameter {key!r}{f', did you mean {near[0]!r}' if near else ''}; there are {', '.join(PARAMETERS)}"
            )
