"""Recipes: all settings of a run but corpus, variant and seed, by name."""

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kt_core._validation import one_of
from kt_core.blocks import GPTConfig
from kt_core.datasets import Mixture, NamePlace, SpanCorruption, TokenDataset
from kt_core.models import GPT
from kt_core.runs.checkpoints import require_memory
from kt_core.runs.fast_paths import use_fast_paths
from kt_core.runs.question_windows import QuestionWindows
from kt_core.runs.settings import DataSettings, ModelSettings, TrainSettings, parse_value
from kt_core.train_config import TrainConfig

PHASES = ("pretrain", "finetune", "scratch")
SECTIONS = {"model": ModelSettings, "data": DataSettings, **dict.fromkeys(PHASES, TrainSettings)}


@dataclass(frozen=True)
class Recipe:
    """All settings of a run, see `recipe_options`; `scratch` is finetuning without pretraining."""

    name: str
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    pretrain: TrainSettings = TrainSettings()
    finetune: TrainSettings = TrainSettings()
    scratch: TrainSettings = TrainSettings()

    def __post_init__(self):
        self.model_config(vocab_size=2, variant="vanilla")  # each part validates its fields
        self.documents([], None)  # QuestionWindows validates the options of the data
        for phase in PHASES:
            if phase != "finetune" or self.finetune.epochs:  # 0: no finetuning
                self.phase(phase)

    @property
    def kind(self) -> str:
        """ "pure": pretraining sees the text alone; "mixed": the train pairs too."""
        return "mixed" if self.data.mixed_pairs else "pure"

    def model_config(self, vocab_size: int, variant: str) -> GPTConfig:
        """Return the model's configuration for a vocabulary and a variant."""
        with dotted_names(f"recipe {self.name}: model"):
            return GPTConfig(vocab_size, variant=variant, **self.model.arguments(GPTConfig))

    def new_model(self, vocab_size: int, variant: str) -> GPT:
        """Return a model with random weights, drawn from torch's random state."""
        config = self.model_config(vocab_size, variant)
        require_memory(config)
        return use_fast_paths(GPT(config))

    def documents(self, documents: Sequence[str], vocab, seed: int = 0) -> TokenDataset:
        """Return the documents as examples of this recipe's pretraining task."""
        size = self.model.block_size
        if self.data.task == "span_corruption":
            return SpanCorruption(documents, vocab, size, seed)
        options = self.data.arguments(QuestionWindows)
        return QuestionWindows(documents, vocab, size, seed, **options)

    def pretrain_data(self, corpus, vocab, seed: int = 0) -> Mixture:
        """Return what pretraining sees: the documents, and the train pairs of the mixed kind."""
        documents = self.documents(corpus.documents, vocab, seed)
        pairs = self.finetune_data(corpus, vocab)
        return Mixture([(documents, self.data.views), (pairs, self.data.mixed_pairs)])

    def finetune_data(self, corpus, vocab) -> NamePlace:
        """Return what finetuning sees: the train pairs."""
        return NamePlace(corpus.train, vocab, self.model.block_size)

    def phase(self, name: str, **more: Any) -> tuple[TrainConfig, dict[str, Any]]:
        """Return how a phase trains: its config, with `more` fields of it, and options of `fit`."""
        settings: TrainSettings = getattr(self, one_of("phase", name, PHASES))
        chosen = settings.arguments(TrainConfig)
        options = {key: getattr(settings, key) for key in ("precision", "micro_batches", "compile")}
        options["random_offset"] = self.model.random_offset
        with dotted_names(f"recipe {self.name}: {name}"):
            return TrainConfig(**chosen | more), options


@contextmanager
def dotted_names(section: str) -> Iterator[None]:
    """Call a setting by its section and name in a ValueError, instead of by its class and name."""
    try:
        yield
    except ValueError as error:
        message = f"{section}.{str(error).partition('.')[2]}"
        raise ValueError(message.replace("model.variant", "variant")) from None


def recipe_options() -> dict[str, Field]:
    """Return all options by their dotted names, with default and type."""
    return {f"{section}.{f.name}": f for section, cls in SECTIONS.items() for f in fields(cls)}


def recipe(name: str | Recipe, /, **overrides: Any) -> Recipe:
    """Return a recipe with some options changed: recipe("kt", **{"pretrain.lr": 0.001}).

    Strings are read as the option's type. ValueError for an unknown recipe or option (the message
    suggests one), or a value that no run can have.
    """
    chosen = name if isinstance(name, Recipe) else RECIPES[one_of("recipe", name, RECIPES)]
    options = recipe_options()
    changes: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        if key not in options:
            raise ValueError(f"no recipe option {key!r}{_suggestion(key)}")
        section, _, option = key.partition(".")
        try:
            if isinstance(value, str):
                value = parse_value(value, type(options[key].default))
        except ValueError as error:
            raise ValueError(f"recipe option {key} {error}") from None
        changes.setdefault(section, {})[option] = value
    parts = {}
    for section, new in changes.items():
        with dotted_names(f"recipe option {section}"):
            parts[section] = replace(getattr(chosen, section), **new)
    return replace(chosen, **parts)


def _suggestion(key: str) -> str:
    """The option that is meant, perhaps by its last part or with "_" for the dot, or all."""
    spellings: dict[str, str] = {}
    for option in recipe_options():
        for spelling in (option, option.replace(".", "_"), option.partition(".")[2]):
            spellings.setdefault(spelling, option)
    if near := get_close_matches(key, spellings, n=1):
        return f", did you mean {spellings[near[0]]!r}?"
    parts = {"model": ModelSettings, "data": DataSettings, "/".join(PHASES): TrainSettings}
    lists = (f"{part}.({', '.join(f.name for f in fields(c))})" for part, c in parts.items())
    return f"; known: {', '.join(lists)}"


def _load_recipes() -> dict[str, Recipe]:
    """The recipes of recipes.toml, each with the options of the one that it comes `from`."""
    text = (Path(__file__).parent / "recipes.toml").read_text(encoding="utf-8")
    recipes: dict[str, Recipe] = {}
    for name, sections in tomllib.loads(text).items():
        base = recipes[sections.pop("from")] if "from" in sections else Recipe("")
        parts = {key: replace(getattr(base, key), **new) for key, new in sections.items()}
        recipes[name] = replace(base, name=name, **parts)
    return recipes


RECIPES = _load_recipes()
