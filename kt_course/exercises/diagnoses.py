"""Texts that tell a learner what is wrong, kept in the `diagnoses.toml` beside a chapter's checks.

wrong = diagnoses(__file__, "rotate")       # the table [rotate]
raise wrong("layout unused")                # Wrong with that text
raise wrong("size", n=3)                    # {n} in the text is filled in
with wrong.fresh_cases("sizes"):            # any failure inside raises Wrong with that text
wrong.reject({"size": n != 3, "leak": mask[0, 1]}, n=n)     # the first one that is true
"""

import functools
import tomllib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from kt_course.exercises.assertions import Wrong, fresh_cases


class Diagnoses:
    """The texts of one exercise. Calling it with a text's key returns the exception to raise."""

    def __init__(self, texts: dict[str, Any]):
        self._texts = texts

    def __call__(self, key: str, /, **values: Any) -> Wrong:
        """Return `Wrong` with the text of `key`, its {placeholders} filled in."""
        return Wrong(self._texts[key].format(**values))

    def reject(self, mistakes: Mapping[str, Any], **values: Any) -> None:
        """Raise the text of the first mistake that is true; list the likeliest one first."""
        for key, is_made in mistakes.items():
            if is_made:
                raise self(key, **values)

    def texts(self, table: str) -> dict[str, str]:
        """Return a table of texts: the name of each typical mistake and its diagnosis."""
        return dict(self._texts[table])

    def fresh_cases(self, key: str) -> AbstractContextManager[None]:
        """Turn any failure in the block into the text of `key`; see `assertions.fresh_cases`."""
        return fresh_cases(self._texts[key])


def diagnoses(module_file: str, exercise: str) -> Diagnoses:
    """Read the texts of `exercise` from the `diagnoses.toml` in the folder of `module_file`."""
    return Diagnoses(_tables(Path(module_file).parent)[exercise])


@functools.cache
def _tables(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "diagnoses.toml").read_text(encoding="utf-8"))
