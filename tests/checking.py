"""What holds for every exercise, asserted in one place for the test files of all notebooks.

ANSWERS = {
    "causal-mask": Answers(
        stub=blank_mask,                                       # as in the notebook
        wrong={"triu": (upper, "leak from the future"), ...},  # name: (answer, its diagnosis)
        right={"by comparing": compared, ...},                 # correct, written in another way
        borrowed=lambda T: kt.causal_mask(T),                  # calls kt_core's own
    ),
}
TestExercises = suite("01_attention_math", ANSWERS)
    TestQuizzes = quiz_suite("01_attention_math")
    TestNotebook = notebook_suite("01_attention_math")
"""

from __future__ import annotations

import functools
import inspect
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
import torch

from kt_course import exercises as checks
from kt_course.exercises.check import STATUSES, Verdict, judge
from kt_course.exercises.comparison import Comparison
from kt_course.exercises.quizzes import quizzes
from kt_course.exercises.registry import Exercise, library
from kt_course.exercises.solutions import teaching_solution
from kt_course.grading.borrowed import judge_strictly
from kt_course.tools.workbook import execute

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
BEGAN = time.time()  # of this process, before its first test
MANY = 5  # wrong answers per exercise, at least


@dataclass(frozen=True)
class Answers:
    """Answers to one exercise. A diagnosis is a regular expression; its case does not matter."""

    stub: Callable
    wrong: dict[str, tuple[Callable, str]]
    right: dict[str, Callable]
    borrowed: Callable


@functools.cache
def cells(notebook: str) -> dict[str, nbformat.NotebookNode]:
    """The cells of a notebook of the course, by their ids."""
    return {cell.id: cell for cell in nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", 4).cells}


def facts_of(notebook: str, folder: Path) -> dict:
    """What a notebook of the course keeps in its last cell.

    It is from nbval's run if these tests began with one, else from a run in `folder`.
    """
    path = NOTEBOOKS / "runs" / "notebooks" / f"{notebook}.json"  # where nbval's run writes it
    if not path.is_file() or path.stat().st_mtime < BEGAN:
        path = folder / f"{notebook}.json"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KT_MY_GPT", "off")
            parameters = {"runs_dir": str(folder)}
            source, out = NOTEBOOKS / f"{notebook}.ipynb", folder / "ran.ipynb"
            ran = execute(source, out, parameters, folder)
        assert ran.error is None
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["parameters"]["profile"] == "quick"
    return result["facts"]


def stub(notebook: str, solutions: ModuleType, id: str) -> Callable:
    """The blank answer to an exercise, as the notebook has it."""
    namespace = vars(solutions) | {"exercise": lambda id: lambda fn: fn}
    exec(cells(notebook)[f"answer-{id}"].source, namespace)
    return namespace[library()[id].name]


def mistakes(chapter: Comparison, id: str) -> dict[str, tuple[Callable, str]]:
    """The solution with each mistake of exercises.toml, and the diagnosis that it must get."""
    return {
        name: (chapter.execute(source, library()[id].name), re.escape(text))
        for name, source, text in chapter.mistakes(id)
    }


def _states() -> tuple:
    numpy_state = np.random.get_state()
    return (
        torch.get_rng_state().tolist(),
        numpy_state[1].tolist(),
        numpy_state[2:],
        random.getstate(),
    )


def judged(exercise: Exercise | str, fn: Callable) -> Verdict:
    """Return the verdict, and assert what holds for every one.

    It is one line, comes in time, and leaves the random states as they were. Nothing is recorded.
    """
    exercise = library()[exercise] if isinstance(exercise, str) else exercise
    before = _states()
    # calls of what an exercise forbids are seen by grading alone
    check = judge_strictly if exercise.forbidden else judge
    for _ in range(2):  # an earlier test's thread may have taken the time of the first try
        began = time.process_time()
        verdict = check(exercise, fn)
        seconds = time.process_time() - began
        if seconds < 2:
            break
    assert seconds < 2, f"the check of {exercise.id} is too slow"
    assert _states() == before, f"the check of {exercise.id} changes a global random state"
    assert verdict.id == exercise.id and verdict.status in STATUSES
    line = str(verdict)
    assert "\n" not in line and line.startswith(f"{exercise.id}: ") and len(line) < 400, line
    assert not re.search(r"\b0x[0-9a-f]{6,}|/(tmp|home|work|root)/", line), line
    return verdict


def reference_passes(exercise: Exercise) -> None:
    """The check on its own, and the whole way."""
    result = exercise.check(exercise.reference)
    assert isinstance(result, str) and result and "\n" not in result
    verdict = judged(exercise, exercise.reference)
    assert verdict.status == "right", verdict


def is_not_attempted(exercise: Exercise | str, fn: Callable) -> None:
    verdict = judged(exercise, fn)
    assert verdict.status == "not attempted", verdict
    assert ": not attempted yet. " in str(verdict)


def is_wrong(exercise: Exercise | str, fn: Callable, diagnosis: str) -> Verdict:
    """Assert that an answer is wrong with that diagnosis; return the verdict."""
    verdict = judged(exercise, fn)
    assert verdict.status == "wrong", verdict
    assert re.search(diagnosis, verdict.diagnosis, re.IGNORECASE), (
        f"{verdict} does not match {diagnosis!r}"
    )
    return verdict


def is_right(exercise: Exercise | str, fn: Callable) -> None:
    """Assert that an answer is right, and that the line is the very same a second time."""
    first, second = judged(exercise, fn), judged(exercise, fn)
    assert first.status == "right", first
    assert str(first) == str(second), "the printed line differs from run to run"


def is_seen_as_borrowed(exercise: Exercise | str, fn: Callable) -> None:
    exercise = library()[exercise] if isinstance(exercise, str) else exercise
    verdict = judge_strictly(exercise, fn)
    assert verdict.status == "wrong" and re.match(r"this calls .+: write ", verdict.diagnosis)


def blanks(reference: Callable) -> list[Callable]:
    """Stubs of the usual kinds; classes where the reference is one."""

    def dots(*args, **kwargs):
        """With a docstring."""
        ...

    def passes(*args, **kwargs):
        pass

    def raises(*args, **kwargs):
        raise NotImplementedError("your turn")

    def gives_dots(*args, **kwargs):
        answer = ...
        return answer

    if inspect.isclass(reference):
        return [type("Mine", (), {"__init__": stub}) for stub in (dots, passes, raises)]
    return [dots, passes, raises, gives_dots, None, ...]


def suite(notebook: str, answers: dict[str, Answers]) -> type:
    """A test class over all exercises of a notebook; every one of them needs its answers."""
    wrong = [(id, name) for id, a in answers.items() for name in a.wrong]
    right = [(id, name) for id, a in answers.items() for name in a.right]

    class TestExercises:
        def test_each_exercise_has_its_answers(self):
            assert list(answers) == checks.exercise_ids(notebook)
            assert not [id for id, a in answers.items() if len(a.wrong) < MANY or not a.right]

        @pytest.mark.parametrize("id", answers)
        def test_the_reference_passes(self, id):
            reference_passes(library()[id])

        @pytest.mark.parametrize("id", answers)
        def test_the_reference_is_kt_cores_own_and_can_be_shown(self, id):
            reference = inspect.unwrap(library()[id].reference)
            assert reference.__module__.startswith(("kt_core.", "kt_course.chapters."))
            assert inspect.getsource(reference)

        @pytest.mark.parametrize("id", answers)
        def test_blank_answers_are_not_attempted(self, id):
            for fn in (answers[id].stub, *blanks(library()[id].reference)):
                is_not_attempted(id, fn)

        @pytest.mark.parametrize(("id", "name"), wrong, ids=[f"{id}: {name}" for id, name in wrong])
        def test_a_wrong_answer_is_named(self, id, name):
            verdict = is_wrong(id, *answers[id].wrong[name])
            if name == next(iter(answers[id].wrong)):
                second = judged(id, answers[id].wrong[name][0])
                assert str(verdict) == str(second), "the printed line differs from run to run"

        @pytest.mark.parametrize(("id", "name"), right, ids=[f"{id}: {name}" for id, name in right])
        def test_an_answer_written_differently_is_right(self, id, name):
            is_right(id, answers[id].right[name])

        @pytest.mark.parametrize("id", answers)
        def test_calling_kt_cores_own_is_seen(self, id):
            is_seen_as_borrowed(id, answers[id].borrowed)

    return TestExercises


def quiz_suite(notebook: str) -> type:
    """A test class over a notebook's questions: each choice has an explanation."""
    questions = [quiz for quiz in quizzes().values() if quiz.notebook == notebook]

    class TestQuizzes:
        def test_there_are_some(self):
            assert questions

        @pytest.mark.parametrize("quiz", questions, ids=[quiz.id for quiz in questions])
        def test_every_choice_is_explained(self, quiz, capsys, monkeypatch):
            monkeypatch.setenv("KT_PROGRESS_FILE", "off")
            for letter, choice in zip(quiz.letters, quiz.choices, strict=True):
                checks.quiz(quiz.id, letter)
                expected = f"{letter} is {'right' if choice.correct else 'wrong'}. {choice.why}\n"
                assert capsys.readouterr().out == expected
                assert len(choice.why) > 20 and choice.why[-1] in ".?!)"
            checks.quiz(quiz.id)
            assert all(choice.text in capsys.readouterr().out for choice in quiz.choices[:1])

    return TestQuizzes


def notebook_suite(notebook: str, most_lines: int = 32) -> type:
    """A test class over how the notebook poses its exercises and questions, and solves them.

    `most_lines` is the longest that a teaching solution may be.
    """
    path = NOTEBOOKS / f"{notebook}.ipynb"
    posed = [exercise for exercise in library().values() if exercise.notebook == notebook]

    class TestNotebook:
        def test_it_asks_every_exercise_and_question_once_in_order(self):
            code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
            tagged = [c for c in code if "exercise" in c.metadata.get("tags", [])]
            ids = [
                re.findall(r'^@(?:kt\.checks\.)?exercise\("(.+)"\)', c.source, re.M) for c in tagged
            ]
            assert ids == [[exercise.id] for exercise in posed]
            questions = re.findall(
                r'^(?:kt\.checks\.)?quiz\("(.+)"\)', "\n".join(c.source for c in code), re.M
            )
            assert sorted(questions) == sorted(
                q.id for q in quizzes().values() if q.notebook == notebook
            )

        @pytest.mark.parametrize("number", range(1, len(posed) + 1), ids=[e.id for e in posed])
        def test_an_exercise_is_posed_with_hints_and_left_blank(self, number):
            cells, exercise = nbformat.read(path, as_version=4).cells, posed[number - 1]
            at = next(i for i, c in enumerate(cells) if f'exercise("{exercise.id}")' in c.source)
            text = cells[at - 1].source
            dots = "●" * exercise.difficulty + "○" * (5 - exercise.difficulty)
            assert f"### Exercise {number} · {exercise.title}\n" in text
            assert f"difficulty {dots} · about {exercise.minutes} minutes\n" in text
            folded = re.findall(r"<details><summary>(.+?)</summary>\n\n", text)
            assert [summary.split(":")[0] for summary in folded] == [
                "Hint 1",
                "Hint 2",
                "It does not work?",
            ]
            assert text.count("</details>") == len(folded)
            printed = cells[at].outputs[0].text
            assert printed.startswith(f"{exercise.id}: not attempted yet. ")

        @pytest.mark.parametrize("exercise", posed, ids=[e.id for e in posed])
        def test_a_teaching_solution_is_short_and_is_the_one_on_the_page(self, exercise):
            section, page = teaching_solution(exercise), cells(notebook)[f"solution-{exercise.id}"]
            assert 0 < len(section.splitlines()) <= most_lines
            assert page.metadata["tags"] == ["solution"] and page.source.startswith("<details>")
            assert f"```python\n{section}```" in page.source

    return TestNotebook
