"""What a sweep goes over: keys with their values become cells, each with all settings, checked before anything starts.

A key is a field of the recipe; an option of a run (corpus, variant, recipe, seed, pretrain) or a parameter of the
notebook (profile, corpus, variant, seed ...); or a knob of the bios corpus (people, lines, attributes).
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kt_core.corpora.files import sha256
from kt_core.corpora.loading import Corpus, load_corpus
from kt_core.models import VARIANTS
from kt_core.runs.recipes import RECIPES, Recipe
from kt_core.runs.recipes import recipe as find_recipe

KNOBS = ("people", "lines", "attributes")
RUN_OPTIONS = ("corpus", "variant", "recipe", "seed", "pretrain")
FIELDS = tuple(f.name for f in dataclasses.fields(Recipe) if f.name != "name")


@dataclass(frozen=True)
class Cell:
    """One point of a grid: what is swept with its values here, and everything that its process needs, as JSON holds it."""

    settings: dict[str, Any]
    spec: dict[str, Any] = field(repr=False)

    @property
    def folder(self) -> str:
        """The name of its folder: readable, and another one for any other settings."""
        plain = "_".join(f"{key}-{value}" for key, value in self.settings.items())
        plain = re.sub(r"[^\w.+-]+", "-", plain)[:80]
        same = {key: value for key, value in self.spec.items() if key not in ("device", "notebook")}
        return f"{plain}_{sha256(json.dumps(same, sort_keys=True).encode())[:8]}"


def parse_grid(pairs: Sequence[str]) -> dict[str, list[str]]:
    """KEY=VALUE,VALUE strings as lists; ValueError for a missing sign or value, and for a key that is given twice."""
    grid: dict[str, list[str]] = {}
    for pair in pairs:
        key, sign, values = pair.partition("=")
        key, found = key.strip(), [value.strip() for value in values.split(",")]
        if not sign or not key or not all(found):
            raise ValueError(f"--grid {pair}: write KEY=VALUE,VALUE, as in --grid seed=0,1,2")
        if key in grid:
            raise ValueError(
                f"--grid {key} is given twice: all its values go into one, as in {key}=0,1,2"
            )
        grid[key] = found
    return grid


def run_cells(
    grid: Mapping[str, Sequence[Any]],
    *,
    corpus: str = "bios",
    variant: str = "vanilla",
    recipe: str = "quick",
    seed: int = 0,
    pretrain: bool = True,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """The cells of a grid over `run_experiment`; `settings` hold for all cells, as --set gives them.

    ValueError for a key that is none, for a value that cannot be read or is out of range, for a cell that is there twice.
    """
    base = dict(corpus=corpus, variant=variant, recipe=recipe, seed=seed, pretrain=pretrain)
    corpora: dict[tuple, Corpus] = {}

    def cell(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        options = base | {key: value for key, value in given.items() if key in RUN_OPTIONS}
        options["seed"] = _whole("seed", options["seed"])
        options["pretrain"] = _truth("pretrain", options["pretrain"])
        _known("variant", options["variant"], VARIANTS)
        _known("recipe", options["recipe"], RECIPES)
        chosen = find_recipe(
            options["recipe"], **{key: value for key, value in given.items() if key in FIELDS}
        )
        options["corpus"] = with_knobs(options["corpus"], given)
        loaded = _load(corpora, options["corpus"], chosen.block_size)
        chosen.documents([], loaded.vocab)  # its shares lie in 0 ... 1
        chosen.model_config(len(loaded.vocab), options["variant"])
        if not loaded.train:
            raise ValueError(
                f"corpus {options['corpus']} has no train pairs: nothing to finetune on"
            )
        told = (
            options
            | dataclasses.asdict(chosen)
            | {k: _number(v) for k, v in given.items() if k in KNOBS}
        )
        if "corpus" in given:
            told["corpus"] = given["corpus"]
        spec = options | dict(kind="run", recipe=dataclasses.asdict(chosen), device=device)
        return told, spec

    return _cells(grid, settings or {}, (*RUN_OPTIONS, *KNOBS, *FIELDS), cell)


def notebook_cells(
    notebook: str | Path,
    grid: Mapping[str, Sequence[Any]],
    *,
    settings: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> list[Cell]:
    """The cells of a grid over a notebook, a file or one of the project's by number or name.

    `parameters` (profile, corpus, variant, seed, device) go to a notebook that has them; None leaves its own value.
    Recipe fields go into its `overrides`. ValueError as for `run_cells`, and for a notebook that is not there.
    """
    from kt_course.lesson import PROFILES
    from kt_course.shipped import RECIPE_OF
    from kt_course.tools.workbook import find_notebooks, known_parameters

    path = Path(notebook) if str(notebook).endswith(".ipynb") and Path(notebook).is_file() else None
    path = (path or find_notebooks([str(notebook)])[0]).resolve()
    own = {name: _literal(default) for name, default in known_parameters(path).items()}
    plain = [name for name in own if name not in ("overrides", "runs_dir")]
    keys = [*plain, *(KNOBS if "corpus" in own else ()), *(FIELDS if "overrides" in own else ())]
    base = {
        name: value for name, value in parameters.items() if name in plain and value is not None
    }
    source = [cell.get("source") for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    corpora: dict[tuple, Corpus] = {}

    def cell(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        values = base | {
            key: _like(key, value, own[key]) for key, value in given.items() if key in plain
        }
        for key, known in (("variant", VARIANTS), ("profile", PROFILES)):
            _known(key, values.get(key, known[0]), known)
        fields = {key: value for key, value in given.items() if key in FIELDS}
        smoke = values.get("profile", own.get("profile")) == "smoke"
        if "corpus" in own:
            # as the notebooks choose it
            name = with_knobs(values.get("corpus", own["corpus"]), given)
            chosen = find_recipe("smoke" if smoke else RECIPE_OF.get(name, "quick"), **fields)
            _load(corpora, name, chosen.block_size)
            values["corpus"] = name
        else:
            chosen = find_recipe("smoke" if smoke else "quick", **fields)
        overrides = {key: getattr(chosen, key) for key in fields}
        told = values | overrides | {k: _number(v) for k, v in given.items() if k in KNOBS}
        if "corpus" in given:
            told["corpus"] = given["corpus"]
        # `notebook` is no part of a cell's name, but what stands in it is
        extra = dict(overrides=overrides) if "overrides" in own else {}
        extra |= dict(runs_dir="runs") if "runs_dir" in own else {}
        spec = dict(kind="notebook", notebook=str(path), source=sha256(json.dumps(source).encode()))
        return told, spec | dict(parameters=values | extra)

    return _cells(grid, settings or {}, keys, cell)


def with_knobs(corpus: str, given: Mapping[str, Any]) -> str:
    """The corpus with knobs of `given` in its name: "bios:people=300,lines=8"; a folder gets its full path."""
    knobs = {key: given[key] for key in KNOBS if key in given}
    if not knobs:
        return str(Path(corpus).resolve()) if Path(corpus).is_dir() else corpus
    name, _, inside = corpus.partition(":")
    if name != "bios":
        raise ValueError(f"{', '.join(knobs)}: a knob of bios, which {corpus} has not")
    before = {part.partition("=")[0].strip() for part in inside.split(",")}
    if twice := sorted(before & set(knobs)):
        raise ValueError(f"{', '.join(twice)} is given twice: in {corpus} and as a key of its own")
    return f"{name}:" + ",".join([*filter(None, [inside]), *(f"{k}={v}" for k, v in knobs.items())])


def _cells(
    grid: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any],
    keys: Sequence[str],
    make: Callable[[dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]],
) -> list[Cell]:
    """Every combination, a whole table of one seed first; `make` turns keys and values into (values read, spec)."""
    if not grid:
        raise ValueError("nothing to sweep: give a key with its values, as in --grid seed=0,1,2")
    for where, given in (("--grid", grid), ("--set", settings)):
        for key in given:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                hint = f", did you mean {near[0]}" if near else ""
                raise ValueError(f"{where} {key}: no such key{hint}; there are {', '.join(keys)}")
    if both := sorted(set(grid) & set(settings)):
        raise ValueError(f"{', '.join(both)}: given by --grid and by --set; one of them is enough")
    order = sorted(grid, key=lambda key: key != "seed")  # the last key turns fastest
    found: dict[str, Cell] = {}
    for combination in itertools.product(*(grid[key] for key in order)):
        given = dict(zip(order, combination, strict=True))
        told, spec = make({**settings, **given})
        cell = Cell({key: told[key] for key in grid}, spec)
        if cell.folder in found:
            raise ValueError(f"--grid: {given} is there twice; its values must differ")
        found[cell.folder] = cell
    return list(found.values())


def _load(loaded: dict[tuple, Corpus], name: str, block_size: int) -> Corpus:
    """The corpus, loaded once for all cells that share it."""
    if (name, block_size) not in loaded:
        loaded[name, block_size] = load_corpus(name, block_size=block_size)
    return loaded[name, block_size]


def _known(key: str, value: Any, known: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in known:
        near = difflib.get_close_matches(str(value), list(known), n=1)
        hint = f", did you mean {near[0]}" if near else ""
        raise ValueError(f"{key} {value!r}: no such {key}{hint}; there are {', '.join(known)}")


def _whole(key: str, value: Any) -> int:
    if not isinstance(value, bool) and re.fullmatch(r"[+-]?\d+", str(value)):
        return int(value)
    raise ValueError(f"{key} must be a whole number, not {value!r}")


def _truth(key: str, value: Any) -> bool:
    found = {"true": True, "false": False}.get(str(value).lower())
    if found is None:
        raise ValueError(f"{key} must be true or false, not {value!r}")
    return found


def _number(value: Any) -> Any:
    """A knob as the corpus reads it: whole numbers are numbers."""
    return int(value) if re.fullmatch(r"-?\d+", str(value)) else value


def _literal(default: str) -> Any:
    """A parameter's default from its source; None if it is no plain value."""
    try:
        return ast.literal_eval(default)
    except (ValueError, SyntaxError):
        return None


def _like(key: str, value: Any, default: Any) -> Any:
    """A value of the type of the notebook's own one; a string is read, as a command line gives it."""
    if isinstance(default, bool):
        return _truth(key, value)
    if isinstance(default, int):
        return _whole(key, value)
    if isinstance(default, float):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{key} must be a number, not {value!r}") from None
    if isinstance(default, str) or not isinstance(value, str):
        return value
    found = _literal(value)
    return value if found is None else found
