"""Error messages for bad values: one wording, and a suggestion where a name is nearly right."""

import difflib
from collections.abc import Iterable
from typing import Any


def require(owner: object, field: str, is_valid: bool, requirement: str) -> None:
    """Raise ValueError "Owner.field must be requirement, not value" unless `is_valid`."""
    if not is_valid:
        value = getattr(owner, field)
        raise ValueError(f"{type(owner).__name__}.{field} must be {requirement}, not {value!r}")


def require_choice(owner: object, field: str, names: Iterable[str]) -> None:
    """Raise ValueError, as `require` does, unless the field holds one of the known names."""
    value, names = getattr(owner, field), list(names)
    requirement = f"one of {', '.join(names)}{did_you_mean(value, names)}"
    require(owner, field, value in names, requirement)


def is_whole(value: Any, least: int = 1, most: float = float("inf")) -> bool:
    """Is `value` an int from `least` to `most`? Booleans do not count."""
    return is_number(value, least, most) and isinstance(value, int)


def is_number(value: Any, least: float, most: float) -> bool:
    """Is `value` an int or a float from `least` to `most`? Not if a boolean or NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the nearest known name; an empty string if none is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def one_of(what: str, name: str, names: Iterable[str]) -> str:
    """Return `name` if it is known; ValueError names the nearest, or all known ones, otherwise."""
    names = list(names)
    if name not in names:
        hint = did_you_mean(name, names) or f"; known: {', '.join(names)}"
        raise ValueError(f"no {what} {name!r}{hint}")
    return name
