"""Texts that tell a learner what is wrong, kept in the `diagnoses.toml` beside a chapter's checks.

wrong = diagnoses(__file__, "rotate")       # the table [rotate]
raise wrong("layout unused")                # Wrong with that text
raise wrong("size", n=3)                    # {n} in the text is filled in
recognise(result, expected, slipped, wrong.texts("slips"), "the result")    # [rotate.slips]
"""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any

from kt_course.exercises.assertions import Wrong


class Diagnoses:
    """The texts of one exercise. Calling it with a text's key returns the exception to raise."""

    def __init__(self, texts: dict[str, Any]):
        self._texts = texts

    def __call__(self, key: str, **values: Any) -> Wrong:
        """Return `Wrong` with the text of `key`, its {placeholders} filled in."""
        return Wrong(self._texts[key].format(**values))

    def texts(self, table: str) -> dict[str, str]:
        """Return a table of texts: the name of each typical mistake and its diagnosis."""
        return dict(self._texts[table])


def diagnoses(module_file: str, exercise: str) -> Diagnoses:
    """Read the texts of `exercise` from the `diagnoses.toml` in the folder of `module_file`."""
    return Diagnoses(_tables(Path(module_file).parent)[exercise])


@functools.cache
def _tables(folder: Path) -> dict[str, Any]:
    with (folder / "diagnoses.toml").open("rb") as file:
        return tomllib.load(file)
