"""Command-line options that several commands share, as annotated types."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token, validators

from kt_core.runs.settings import parse_value

Profile = Literal["smoke", "quick", "full"]
Variant = Literal["vanilla", "rope", "perceiver", "perceiver_ar"]
Corpus = Annotated[str, Parameter(help="bios, bios:people=300,lines=8, wiki, or your own folder")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda or mps")]
RecipeName = Annotated[str, Parameter(help="smoke, quick, live, partial, kt, kt-pure or a5")]


def _read_whole(kind: type, tokens: Sequence[Token]) -> int:
    """A whole number; cyclopts would round 1.5."""
    return parse_value(tokens[0].value, int)


_SEED, _COUNT = validators.Number(gte=0, lt=2**63), validators.Number(gte=1, lte=10**9)
_SEED_HELP = "seed of weights, data order and dropout"
_SETTINGS_HELP = "KEY=VALUE, a setting of the recipe; may be repeated"
Seed = Annotated[int, Parameter(converter=_read_whole, validator=_SEED, help=_SEED_HELP)]
Count = Annotated[int, Parameter(converter=_read_whole, validator=_COUNT)]
Settings = Annotated[list[str], Parameter("--set", help=_SETTINGS_HELP)]


def parse_settings(pairs: Sequence[str], option: str = "--set") -> dict[str, str]:
    """Split the arguments of an option, KEY=VALUE each, into a dict.

    Raises:
        ValueError: An argument has no equals sign, or a key is given twice.
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise ValueError(
                f"{option} {pair or repr('')}: write KEY=VALUE, as in {option} pretrain.epochs=5"
            )
        if key in settings:
            raise ValueError(f"{option} {key} is given twice")
        settings[key] = value
    return settings


def check_output(path: Path | None, option: str = "--out") -> None:
    """Raise ValueError, before the work begins, for a file that cannot be written at its end."""
    if path is None:
        return
    if path.exists() and not path.is_file():
        raise ValueError(f"{option} {path}: not a plain file; name another one")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{option} {path}: no file can be written in {folder}")
