"""What every notebook begins with: checked parameters, models by profile, a results file."""

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from kt_core._validation import did_you_mean, one_of
from kt_core.blocks import VARIANTS
from kt_core.corpora.files import sha256, write_json
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.devices import choose_device
from kt_core.evaluation import Score
from kt_core.models import GPT
from kt_core.runs.checkpoints import load_checkpoint
from kt_core.runs.experiment import run_experiment
from kt_core.runs.recipes import Recipe, recipe
from kt_core.vocab import CharVocab
from kt_course import shipped

PROFILES = ("smoke", "quick", "full")
PARAMETERS = dict(
    profile=str, corpus=str, variant=str, seed=int, device=str, runs_dir=str, overrides=dict
)


class Lesson:
    """A notebook's parameters, checked, and what follows from them.

    Args:
        name: The notebook's name, such as "01_attention_math".
        namespace: The notebook's `globals()`, from which the parameters are read.
    """

    def __init__(self, name: str, namespace: dict[str, Any]):
        self.name = name
        _refuse_unknown(namespace)
        parameters = {key: namespace[key] for key in PARAMETERS if key in namespace}
        for key, value in parameters.items():
            if not isinstance(value, PARAMETERS[key]) or isinstance(value, bool):
                kind = PARAMETERS[key].__name__
                raise ValueError(f"parameter {key} must be a {kind}, not {value!r}")
        self.parameters = parameters
        self.profile = one_of("profile", parameters.get("profile", "quick"), PROFILES)
        self.variant = one_of("variant", parameters.get("variant", "vanilla"), VARIANTS)
        self.seed = parameters.get("seed", 0)
        self.device = choose_device(parameters.get("device", "auto"))
        self.runs_dir = Path(parameters.get("runs_dir", "runs/notebooks"))
        self.corpus_name = parameters.get("corpus", "bios")
        by_corpus = shipped.RECIPE_OF.get(self.corpus_name, "quick")
        by_profile = "smoke" if self.profile == "smoke" else by_corpus
        self.recipe: Recipe = recipe(by_profile, **parameters.get("overrides", {}))
        torch.manual_seed(self.seed)

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus that the parameters name."""
        return load_corpus(self.corpus_name, block_size=self.recipe.model.block_size)

    def pick(self, *, smoke, quick, full):
        """One of three values, by profile."""
        return {"smoke": smoke, "quick": quick, "full": full}[self.profile]

    def pretrained(self, variant: str | None = None) -> tuple[GPT, CharVocab, dict]:
        """(model, vocab, card) after pretraining: shipped in quick, trained in smoke and full."""
        return self._model(variant or self.variant, "pretrained")

    def finetuned(self, variant: str | None = None) -> tuple[GPT, CharVocab, dict]:
        """(model, vocab, card) after finetuning: shipped in quick, trained in smoke and full."""
        return self._model(variant or self.variant, "finetuned")

    def scratch(self) -> tuple[GPT, CharVocab, dict]:
        """(model, vocab, card) of the vanilla model finetuned without pretraining."""
        return self._model("vanilla", "scratch")

    def result(self, **facts: Any) -> None:
        """Write what the notebook found to runs_dir/NAME.json, scores with their intervals."""
        path = self.runs_dir / f"{self.name}.json"
        facts = {k: v.as_dict() if isinstance(v, Score) else v for k, v in facts.items()}
        write_json(path, {"notebook": self.name, "parameters": self.parameters, "facts": facts})
        print(f"{self.name} ({self.profile}): {len(facts)} results kept in {path.name}")

    def _folder(self, variant: str, phase: str = "") -> Path:
        """The run's folder in smoke and full; other settings or corpora have other folders."""
        settings = json.dumps([self.corpus_name, asdict(self.recipe)], sort_keys=True)
        scratch = "-scratch" if phase == "scratch" else ""
        name = f"{variant}{scratch}-{self.recipe.name}-seed{self.seed}"
        return self.runs_dir / f"{name}-{sha256(settings.encode())[:8]}"

    def _model(self, variant: str, phase: str) -> tuple[GPT, CharVocab, dict]:
        one_of("variant", variant, VARIANTS)
        if self.profile == "quick":
            return self._shipped(variant, phase)
        out, is_scratch = self._folder(variant, phase), phase == "scratch"
        out.parent.mkdir(parents=True, exist_ok=True)
        options = dict(device=str(self.device), resume=True)
        run = self.corpus_name, variant, self.recipe, not is_scratch, self.seed, out
        with FileLock(f"{out}.lock"):  # another notebook may need the same run
            run_experiment(*run, **options)
        return load_checkpoint(
            out / f"{'finetuned' if is_scratch else phase}.safetensors", self.device
        )

    def _shipped(self, variant: str, phase: str) -> tuple[GPT, CharVocab, dict]:
        """The shipped model; ValueError if `overrides` ask for another shape."""
        paths = {
            p: shipped.shipped_path(self.corpus_name, variant, p) for p in (phase, "finetuned")
        }
        if phase == "pretrained" and not paths[phase].exists() and paths["finetuned"].exists():
            only = f"on {self.corpus_name} the finetuned models alone ship"
            print(f"{only}: this is that of {variant}")
            phase = "finetuned"
        model, vocab, card = shipped.shipped(self.corpus_name, variant, phase, self.device)
        config_values = asdict(self.recipe.model_config(len(vocab), variant))
        has = asdict(model.config)
        if other := [f"{key} {value}" for key, value in config_values.items() if has[key] != value]:
            raise ValueError(
                f"the shipped {variant} model cannot have {', '.join(other)}: "
                "profile full trains one that has"
            )
        return model, vocab, card


def start_lesson(name: str, namespace: dict[str, Any]) -> Lesson:
    """Begin a notebook, right after its cell of parameters.

    lesson = start_lesson("01_attention_math", globals())
    """
    return Lesson(name, namespace)


def _refuse_unknown(namespace: dict[str, Any]) -> None:
    """ValueError for plain values in a fresh notebook that are not parameters.

    papermill itself accepts mistyped names.
    """
    if any(isinstance(value, Lesson) for value in namespace.values()):
        return  # the cell is run again: later cells have defined names of their own
    plain = (str, int, float, bool, dict, list, type(None))
    for key, value in namespace.items():
        is_hidden = key.startswith("_") or key in ("In", "Out")
        if not is_hidden and key not in PARAMETERS and type(value) in plain:
            near = did_you_mean(key, PARAMETERS) or ";"
            raise ValueError(f"no parameter {key!r}{near} known: {', '.join(PARAMETERS)}")
