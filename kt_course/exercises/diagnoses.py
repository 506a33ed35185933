"""Texts that tell a learner what is wrong, kept in the `diagnoses.toml` beside a chapter's checks.

wrong = diagnoses(__file__, "rotate")       # the table [rotate]
raise wrong("layout unused")                # Wrong with that text
raise wrong("size", n=3)                    # {n} in the text is filled in
with wrong.fresh_cases("sizes"):            # any failure inside raises Wrong with that text
wrong.blame(result, {"no tanh": outcome})   # texts in [rotate.mistakes]
recognise(result, expected, with_mistake, wrong.texts("mistakes"), "the result")
wrong.reject({"size": n != 3, "leak": mask[0, 1]}, n=n)     # the first one that is true

A typical mistake can be a change to the reference's source. The check then finds out by itself what
the mistake computes:

[rotate.mistakes.backwards]
changes = { "a * sin" = "-a * sin" }        # text in the reference -> what stands there instead
text = "the angle has the other sign"

wrong.compare(rotate, result, lambda f: f(x, cos, sin), "the result")
"""

import __future__

import functools
import inspect
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from kt_course.exercises.assertions import Wrong, close, fresh_cases, recognise


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

    def blame(self, result: Tensor, outcomes: Mapping[str, Tensor], tolerance=1e-5) -> None:
        """Raise `Wrong` for the first of the `mistakes` whose outcome equals `result`."""
        for mistake, outcome in outcomes.items():
            if close(result, outcome, tolerance):
                raise Wrong(self._texts["mistakes"][mistake])

    def variants(self, reference: Callable, table="mistakes") -> dict[str, tuple[Callable, str]]:
        """Return (the reference with that mistake, its diagnosis) for each mistake of a table."""
        return {
            mistake: (change_source(reference, entry["changes"]), entry["text"])
            for mistake, entry in self._texts[table].items()
        }

    def compare(
        self,
        reference: Callable,
        result: Tensor,
        compute: Callable[[Callable], Tensor],
        what: str,
        table: str = "mistakes",
    ) -> None:
        """Raise `Wrong` unless `result` is what the reference computes; see `recognise`.

        Args:
            compute: Computes the tensor that belongs to a function: the reference, or a variant.
            what: Names the result where no known mistake explains it.
        """
        variants = self.variants(reference, table)
        texts = {mistake: text for mistake, (_, text) in variants.items()}
        recognise(result, compute(reference), lambda m: compute(variants[m][0]), texts, what)


def change_source(function: Callable, changes: Mapping[str, str]) -> Callable:
    """Return the function with parts of its source replaced; ValueError if one is not there."""
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in changes.items():
        if old not in source:
            raise ValueError(f"{function.__qualname__} does not contain {old!r}")
        source = source.replace(old, new)
    namespace = dict(function.__globals__)
    flags = __future__.annotations.compiler_flag  # annotations are not evaluated
    exec(compile(source, f"<{function.__qualname__} changed>", "exec", flags), namespace)
    return namespace[function.__name__]


def diagnoses(module_file: str, exercise: str) -> Diagnoses:
    """Read the texts of `exercise` from the `diagnoses.toml` in the folder of `module_file`."""
    return Diagnoses(_tables(Path(module_file).parent)[exercise])


@functools.cache
def _tables(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "diagnoses.toml").read_text(encoding="utf-8"))
