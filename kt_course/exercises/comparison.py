"""Checks that compare an answer with the teaching solution, and recognise typical mistakes.

A check runs the answer and the solution on the same inputs. If their results differ, it runs the
solution with one line changed, for each mistake in the chapter's exercises.toml. The mistake that
computes what the answer computes, or raises its error, gives the diagnosis:

    [block.mistakes.same-norm]
    line = "self.ln2(x)"                # occurs once in the solution (comments do not count)
    instead = "self.ln1(x)"
    text = "ln1 is used twice: the MLP has its own norm, ln2"

Several changes are a table: changes = { "old" = "new", ... }, wherever the old text occurs. If no
mistake of the chapter fits, the slips of slips.toml are tried at every place of the solution.

A chapter's `exercises.py` says what an answer is run on; the rest is in its exercises.toml:

    CHAPTER = Comparison(solutions, "02_build_a_gpt")

    @CHAPTER.exercise("mlp", forbidden=(blocks.MLP,))
    def mlp_of(answer: Callable, seed: int) -> Results: ...

    EXERCISES = CHAPTER.exercises()
"""

import functools
import re
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from kt_course.exercises.assertions import CUT_OFF, Wrong, close, flows, fresh_cases
from kt_course.exercises.limits import TimeLimit, not_timed, time_limit
from kt_course.exercises.random_cases import draw
from kt_course.exercises.registry import DIFFERENTIABLE, Exercise
from kt_course.exercises.solutions import split_sections

Results = dict[str, Tensor | str]  # what an answer computes, by name
SLIPS = tomllib.loads(Path(__file__).with_name("slips.toml").read_text("utf-8"))["slips"]
UNSTABLE = """the same call gives another result the second time: nothing may be drawn at random
(the most likely is not a sample) or be left over from an earlier call"""


class Comparison:
    """The solutions of one chapter, and the typical mistakes in its exercises.toml.

    Attributes:
        solutions: The chapter's module `solutions`.
        notebook: The chapter's notebook.
        texts: The content of exercises.toml: one table per exercise, with `title`, `difficulty` and
            `minutes`, `mistakes`, `verified` (for a correct answer) and `other` (correct for the
            fixed inputs only).
        sources: The source of each solution, by exercise, in the chapter's order.
    """

    def __init__(self, solutions: ModuleType, notebook: str):
        self.solutions, self.notebook = solutions, notebook
        path = Path(solutions.__file__)
        self.texts = tomllib.loads(path.with_name("exercises.toml").read_text("utf-8"))
        self.sources = split_sections(path.read_text("utf-8"))
        self._exercises: dict[str, Exercise] = {}

    def name(self, id: str) -> str:
        """Return the name of an exercise's solution: the last function or class of its section."""
        return re.findall(r"^(?:def|class) (\w+)", self.sources[id], re.MULTILINE)[-1]

    def exercises(self) -> tuple[Exercise, ...]:
        """Return the exercises in the chapter's order."""
        return tuple(self._exercises[id] for id in self.sources if id in self._exercises)

    def exercise(self, id: str, reference: Any = None, **options: Any) -> Callable:
        """Decorate what an answer is run on, `compute(answer, seed)`; see `check`.

        Args:
            id: The exercise.
            reference: What the notebook uses instead of an answer, if not the teaching solution.
            options: `forbidden` and `is_piece`, see `Exercise`.
        """
        make = lambda compute: dict(check=self.check(id, compute), compute=compute)  # noqa: E731
        return self._adding(make, id, reference, options)

    def checked(self, id: str, reference: Any = None, **options: Any) -> Callable:
        """Decorate a whole check, for an exercise with more than one correct result."""
        return self._adding(lambda check: dict(check=check), id, reference, options)

    def _adding(self, make: Callable, id: str, reference: Any, options: dict) -> Callable:
        reference = reference or getattr(self.solutions, self.name(id))
        header = [self.texts[id][key] for key in ("title", "difficulty", "minutes")]

        def add(function: Callable) -> Callable:
            parts = make(function) | options
            self._exercises[id] = Exercise(id, self.notebook, *header, reference, **parts)
            return function

        return add

    @functools.cache  # noqa: B019
    def mistakes(self, id: str) -> list[tuple[str, str, str]]:
        """Return (mistake, source of the solution with that mistake, diagnosis) for each one."""
        source, rows = without_comments(self.sources[id]), []
        for name, mistake in self.texts[id]["mistakes"].items():
            changed, where = source, f"{id}.mistakes.{name}"
            changes = mistake.get("changes") or {mistake["line"]: mistake["instead"]}
            for old, new in changes.items():
                old = without_comments(old)
                if "line" in mistake and source.count(old) != 1:
                    raise ValueError(f"the line of {where} is not in the solution once")
                if old not in changed:
                    raise ValueError(f"{where}: {old!r} is not in the solution")
                changed = changed.replace(old, new)
            rows.append((name, changed, mistake["text"]))
        return rows

    @functools.cache  # noqa: B019
    def outcomes(self, id: str, compute: Callable) -> list[tuple[str, Results | str]]:
        """Return (diagnosis, what the solution with that mistake computes, or its error)."""
        return [(text, self.outcome(id, compute, source)) for _, source, text in self.mistakes(id)]

    @functools.cache  # noqa: B019
    def slips(self, id: str, compute: Callable) -> list[tuple[str, Results | str]]:
        """Return the same for each slip of slips.toml, at every place in the solution."""
        source, rows = without_comments(self.sources[id]), {}
        for pattern, instead, kind in SLIPS if "while " not in source else []:  # it must end
            for match in re.finditer(pattern, source, re.MULTILINE):
                before, new = source[: match.start()], match.expand(instead)
                word = re.search(r"[\w.=]*$", before)[0]  # what stands directly before the slip
                how = f"{(word + new).strip()} instead of {(word + match[0]).strip()}"
                text = f"{kind}: the solution computes this with {how}"
                rows.setdefault(before + new + source[match.end() :], text)
        return [(text, self.outcome(id, compute, changed)) for changed, text in rows.items()]

    def outcome(self, id: str, compute: Callable, source: str) -> Results | str:
        """Return what a changed solution computes, or the error that it raises."""
        try:
            with time_limit(10), warnings.catch_warnings(action="ignore"):
                return detached(compute(self.execute(source, self.name(id)), 0))
        except (Exception, TimeLimit) as error:
            return str(error) or type(error).__name__

    def execute(self, source: str, name: str) -> Any:
        """Return the function or class `name` of a changed solution."""
        namespace = dict(vars(self.solutions))
        exec(source, namespace)
        return namespace[name]

    def check(self, id: str, compute: Callable[[Any, int], Results]) -> Callable:
        """Return the check of an exercise.

        Args:
            id: The exercise.
            compute: Runs an answer on the inputs of a seed; 0 is the fixed case, with diagnoses.
        """
        solution = getattr(self.solutions, self.name(id))

        def check(answer: Callable) -> str:
            try:
                results = compute(answer, 0)
            except Exception as error:
                with not_timed():
                    for text, others in self.outcomes(id, compute):
                        if others == str(error):
                            error.add_note(text)
                raise
            expected = compute(solution, 0)
            is_cut_off = any(flows(expected[key]) and not flows(results[key]) for key in expected)
            results, expected = detached(results), detached(expected)
            different = [key for key in expected if not same(results[key], expected[key])]
            if different:
                with not_timed():
                    diagnosis = self.explain(id, compute, results, expected, different)
                if not diagnosis:
                    again, first = detached(compute(answer, 0)), different[0]
                    if not all(same(again[key], value) for key, value in results.items()):
                        raise Wrong(UNSTABLE)
                    diagnosis = difference(first, results[first], expected[first])
                raise Wrong(diagnosis)
            if id in DIFFERENTIABLE and is_cut_off:
                raise Wrong(CUT_OFF)
            with fresh_cases(self.texts[id]["other"]):
                for seed in draw(1, 10**6, 3):
                    results, expected = compute(answer, seed), compute(solution, seed)
                    assert all(same(results[key], expected[key]) for key in expected)
            return self.texts[id]["verified"]

        return check

    def explain(
        self, id: str, compute: Callable, results: Results, expected: Results, different: list[str]
    ) -> str:
        """Say which mistake computes these results; "" if none does.

        A mistake that computes the different ones alone counts too, unless these are bare truth
        values, or the first of them if it has many numbers, or most of many texts.

        Args:
            id, compute: See `check`.
            results, expected: What the answer and the solution compute.
            different: The keys under which these are not the same.
        """
        first, groups = different[0], [list(results)]
        if not all(str(results[key]) in ("True", "False") for key in different):
            numbers = [key for key in different if isinstance(results[key], Tensor)]
            groups += [different, numbers or different]
        if isinstance(results[first], Tensor) and results[first].numel() > 8:
            groups.append([first])
        texts = [key for key in different if isinstance(results[key], str)]
        is_long = len(texts) >= 8 and results[texts[0]] not in ("True", "False")
        for find in (self.outcomes, self.slips):
            mistakes = [(text, o) for text, o in find(id, compute) if isinstance(o, dict)]
            for keys in groups:
                for text, others in mistakes:
                    if all(same(results[key], others[key]) for key in keys):
                        is_whole = find == self.outcomes and len(keys) == len(results)
                        return text if is_whole else f"{first}: {text}"
            for text, others in mistakes if is_long else []:
                if sum(results[key] == others[key] for key in texts) > 0.7 * len(texts):
                    return text
        return ""


def detached(results: Results) -> Results:
    """The same values without gradients."""
    return {k: v.detach() if isinstance(v, Tensor) else v for k, v in results.items()}


def without_comments(code: str) -> str:
    """Return code without the comments at the ends of its lines."""
    return re.sub(r"  #.*$", "", code, flags=re.MULTILINE)


def same(a: Tensor | str, b: Tensor | str) -> bool:
    """Compare texts, or shapes and values of tensors; NaN equals NaN."""
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a == b
    return a.shape == b.shape and close(a.double().nan_to_num(9e9), b.double().nan_to_num(9e9))


def difference(key: str, result: Tensor | str, expected: Tensor | str) -> str:
    """Describe how a result differs from the expected one."""
    if isinstance(result, str):
        return f"{key} is {result!r}, the solution gives {expected!r}"
    if result.shape != expected.shape:
        return f"{key} has the shape {tuple(result.shape)} instead of {tuple(expected.shape)}"
    if result.isnan().any():
        return f"{key} contains NaN: a division 0 / 0, or infinity minus infinity"
    i = int((result.double() - expected).abs().argmax())
    value, solution = (float(numbers.flatten()[i]) for numbers in (result, expected))
    if result.numel() == 1:
        return f"{key} is {value:.4g}, the solution computes {solution:.4g}"
    where = pattern(result.double(), expected.double())
    return f"{key} differs{where}: one number is {value:.4g}, the solution computes {solution:.4g}"


def pattern(result: Tensor, expected: Tensor) -> str:
    """Say what would make the whole result from the expected one, or where alone they differ."""
    factor = float((result * expected).sum() / expected.square().sum().clamp(min=1e-9))
    patterns = {
        "by its sign": -expected,
        f"by a factor of {factor:.4g}": factor * expected,
        "by an equal amount everywhere": expected + (result - expected).mean(),
    }
    axes = {"last": -1, "last but one": -2} if result.dim() > 1 else {"only": -1}
    for name, axis in axes.items():
        pairs = zip(result.unbind(axis), expected.unbind(axis), strict=True)
        wrong = [i for i, (a, b) in enumerate(pairs) if not same(a, b)]
        where = f"only at {', '.join(map(str, wrong))} of the {name} axis"
        patterns |= {where: result} if len(wrong) < result.size(axis) else {}
    return next((f", {text}" for text, other in patterns.items() if same(result, other)), "")
