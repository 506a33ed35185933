"""The mechanism of the exercises: verdicts, blank and borrowed answers, limits, the record."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checking import blanks, is_not_attempted, is_right, is_seen_as_borrowed, is_wrong, judged

import kt_core as kt
import kt_course
from kt_course import exercises as checks
from kt_course.exercises import guard
from kt_course.exercises import progress_store as record
from kt_course.exercises.core import (
    Exercise,
    Wrong,
    by_id,
    close,
    describe,
    library,
    tensor,
    unforeseen,
)
from kt_course.exercises.judge import judge
from kt_course.exercises.quizzes import quizzes


def double(x):
    """The reference of the exercise below."""
    return x * 2


def check_double(fn):
    given = torch.arange(3.0)
    result = tensor(fn(given), (3,), "the doubled row")
    if not close(result, double(given)):
        raise Wrong(f"1 becomes {result[1]:g},\n   not 2")
    return "twice the\n number"


DOUBLE = Exercise("double", "01_attention_math", "Doubling", 1, 1, double, check_double)


class Counter:
    """The reference of the exercise on classes."""

    def __init__(self, start):
        self.at = start

    def step(self):
        self.at += 1
        return self.at


def check_counter(make):
    counter = make(3)
    if counter.step() != 4 or Counter(0).step() != 1:
        raise Wrong("from 3 it should step to 4")
    return "counts by one"


COUNTER = Exercise("counter", "01_attention_math", "Counting", 1, 1, Counter, check_counter)


# ---------------------------------------------------------------- the library


def test_chapters_are_imported_only_when_exercises_are_asked_for():
    code = "import sys, kt_course; name = 'kt_course.chapters.attention_math.exercises'; "
    code += "print(name in sys.modules, kt_course.exercise_ids()[:1], name in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False ['additive-score'] True\n", done.stderr


def test_every_notebook_has_exercises_in_order():
    found = [library()[id].notebook for id in checks.exercise_ids()]
    assert found == sorted(found)
    assert (
        checks.exercise_ids("01_attention_math")
        == checks.exercise_ids()[: found.count("01_attention_math")]
    )
    with pytest.raises(
        ValueError, match="no notebook '01' with exercises; there are 01_attention_math"
    ):
        checks.exercise_ids("01")


def test_an_unknown_id_names_the_nearest():
    for use in (lambda id: checks.check(id, double), checks.exercise, checks.solution):
        with pytest.raises(
            ValueError, match="no exercise 'casual-mask', did you mean 'causal-mask'"
        ):
            use("casual-mask")


def test_ids_are_given_once_and_difficulty_has_five_steps():
    with pytest.raises(ValueError, match="two have the id 'double'"):
        by_id([DOUBLE, DOUBLE])
    with pytest.raises(ValueError, match="difficulty is 1 ... 5, not 6"):
        Exercise("x", "n", "t", 6, 1, double, check_double)
    assert not set(library()) & set(quizzes())


# ---------------------------------------------------------------- verdicts


def test_right_wrong_and_the_one_line():
    assert str(judge(DOUBLE, lambda x: x + x)) == "double: right. twice the number"
    assert str(judge(DOUBLE, lambda x: x * 3)) == "double: wrong. 1 becomes 3, not 2"
    stub = "double: not attempted yet. The notebook goes on with kt_core's own double."
    assert str(judge(DOUBLE, None)) == stub
    assert "kt_core's own double: now write yours" in judge(DOUBLE, double).diagnosis


def test_blank_answers_of_every_kind():
    for exercise in (DOUBLE, COUNTER):
        for stub in blanks(exercise.reference):
            is_not_attempted(exercise, stub)


def test_a_stub_that_begins_is_blank_until_its_dots_are_gone():
    def dots_in_the_middle(x):
        y = ...
        return y * x

    def no_return(x):
        x * 2

    is_not_attempted(DOUBLE, dots_in_the_middle)
    assert "`...` is left" in judge(DOUBLE, dots_in_the_middle).diagnosis
    is_not_attempted(DOUBLE, no_return)
    assert "`return` missing" in judge(DOUBLE, no_return).diagnosis
    assert "return" not in judge(DOUBLE, lambda x: None).diagnosis


def test_a_class_with_one_method_left_blank_is_not_attempted():
    class Half:
        def __init__(self, start):
            self.at = start

        def step(self): ...

    class Never(Half):
        def step(self):
            return self.at

    is_not_attempted(COUNTER, Half)
    is_wrong(COUNTER, Never, "from 3 it should step to 4")


def test_an_error_names_itself_and_the_learners_line():
    def helper(x):
        return x[7]  # too far

    def answer(x):
        return helper(x)

    is_wrong(
        DOUBLE,
        answer,
        r"your code raised IndexError: .*index 7.*, at line \d+: return x\[7\] # too far",
    )
    is_wrong(DOUBLE, lambda x: exit("bye"), "your code raised SystemExit: bye")


def test_a_type_without_a_kernel_is_an_error_and_no_blank():
    """PyTorch raises NotImplementedError itself."""
    with pytest.raises(NotImplementedError):
        torch.ones(2, dtype=torch.bool).softmax(0)
    is_wrong(
        DOUBLE, lambda x: x.bool().softmax(0), "your code raised NotImplementedError: .*softmax"
    )


def test_a_class_that_misses_a_method_is_told_so():
    is_wrong(
        COUNTER,
        type("Empty", (), {"__init__": lambda self, start: setattr(self, "a", start)}),
        "no attribute 'step'",
    )


def test_a_call_that_does_not_fit_is_told_as_such():
    is_wrong(DOUBLE, lambda x, y: x, "cannot be called as the exercise says: .*missing 1 required")
    with pytest.raises(ValueError, match="exercise double wants a function, not 3"):
        judge(DOUBLE, 3)


def test_a_result_that_cannot_be_used_is_described():
    is_wrong(DOUBLE, lambda x: "four", "the doubled row should be a tensor, not 'four'")
    is_wrong(DOUBLE, lambda x: x[:2], r"the doubled row has the shape \(2,\) instead of \(3,\)")
    exercise = Exercise("odd", "n", "t", 1, 1, double, lambda fn: str(fn(1) + 1))
    lists = eval(
        "lambda x: [x]"
    )  # its code stands in another file than the check's, as in a notebook
    is_wrong(exercise, lists, r"it gave back a list of 1, which the check cannot use \(TypeError")


def test_an_argument_changed_in_place_is_seen():
    def answer(x):
        x *= 2
        return x

    is_wrong(DOUBLE, answer, "changes its argument x in place")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.zeros(2, 3), "a tensor of shape (2, 3), float32"),
        (None, "None"),
        (7, "7"),
        ("x" * 50, "a str"),
        ((1, 2), "a tuple of 2"),
        (object(), "a object"),
    ],
)
def test_values_in_a_few_words(value, told):
    assert describe(value) == told


def test_close_takes_any_float_type_and_no_nan():
    a = torch.tensor([1.0, 2.0])
    assert close(a, a.double() + 1e-7) and not close(a, a + 1e-3) and not close(a, a[:1])
    assert not close(torch.tensor([torch.nan]), torch.tensor([torch.nan]))


def test_fresh_cases_tell_no_numbers():
    with pytest.raises(Wrong, match="^wrong for other sizes$"), unforeseen("wrong for other sizes"):
        raise RuntimeError("size 17")


# ---------------------------------------------------------------- borrowed answers


def test_borrowing_is_seen_however_it_is_done():
    def through_another(x):
        return list(map(double, [x]))[0]

    class Callable_:
        def __call__(self, x):
            return double(x)

    for answer in (lambda x: double(x), functools.partial(double), through_another, Callable_()):
        is_seen_as_borrowed(DOUBLE, answer)


def test_what_the_check_itself_calls_is_not_the_answers():
    is_right(DOUBLE, lambda x: x + x)  # its check calls double
    is_right(COUNTER, Mine)


class Mine:
    """Counts by adding to what it was given."""

    def __init__(self, start):
        self.start, self.steps = start, 0

    def step(self):
        self.steps += 1
        return self.start + self.steps


def test_classes_that_borrow_are_seen():
    class Inherits(Counter):
        pass

    class Wraps:
        def __init__(self, start):
            self.inner = Counter(start)

        def step(self):
            return self.inner.step()

    for answer in (Inherits, Wraps, lambda start: Counter(start)):
        is_seen_as_borrowed(COUNTER, answer)


def test_a_function_in_c_can_be_forbidden():
    def check(fn):
        fn(torch.ones(1, 2, 2))
        return "done"

    exercise = Exercise(
        "c", "n", "t", 1, 1, double, check, forbidden=(F.scaled_dot_product_attention,)
    )
    is_wrong(
        exercise,
        lambda x: F.scaled_dot_product_attention(x, x, x),
        "this calls PyTorch's own scaled_dot_product_attention: write",
    )
    is_right(exercise, lambda x: x)


def test_a_profiler_that_runs_already_goes_on():
    seen = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, arg: seen.append(event))
    try:
        judge(DOUBLE, lambda x: x + x)
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(before)
    assert seen


# ---------------------------------------------------------------- limits


def endless(x):
    while True:
        pass


def refusing(x):
    while True:
        try:
            endless(x)
        except Exception:
            pass


@pytest.mark.parametrize("answer", [endless, refusing])
def test_an_endless_loop_is_stopped(answer):
    began = time.monotonic()
    verdict = judge(DOUBLE, answer, seconds=0.3)
    assert verdict.status == "wrong" and "stopped after 0.3 seconds" in verdict.diagnosis
    assert time.monotonic() - began < 5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer's signal on this platform")
def test_the_timer_comes_again_and_leaves_another_one_running():
    came = []
    before = signal.signal(signal.SIGALRM, lambda *where: came.append(1))
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:

        def at_most_twice(x, tries=[]):  # noqa: B006  counts over calls
            while len(tries) < 2:
                try:
                    endless(x)
                except BaseException:
                    tries.append(1)
            endless(x)

        assert "stopped after" in judge(DOUBLE, at_most_twice, seconds=0.2).diagnosis
        assert 30 < signal.getitimer(signal.ITIMER_REAL)[0] < 60
        assert signal.getsignal(signal.SIGALRM)(0, 0) is None and came == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_endless_loop_is_stopped_outside_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(judge(DOUBLE, endless, seconds=0.2)))
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and "stopped after 0.2 seconds" in found[0].diagnosis


def test_an_endless_loop_is_stopped_without_a_timer(monkeypatch):
    monkeypatch.delattr(signal, "setitimer")
    assert "stopped after 0.2 seconds" in judge(DOUBLE, endless, seconds=0.2).diagnosis
    is_right(DOUBLE, lambda x: x + x)


def hoard(x):
    kept = []
    while True:
        kept.append(torch.ones(2_000_000))


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own limit is Linux'")
@pytest.mark.parametrize(
    "answer",
    [hoard, lambda x: torch.ones(10**12), lambda x: [0] * 10**11],
    ids=["tensors", "one", "list"],
)
def test_a_runaway_allocation_is_refused(answer):
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    verdict = judge(DOUBLE, answer, gigabytes=0.25)
    assert verdict.status == "wrong" and "more than 0.25 GB of memory" in verdict.diagnosis
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.skipif(guard.resource is None, reason="this platform does not tell its memory")
def test_memory_is_watched_where_the_system_has_no_limit(monkeypatch):
    monkeypatch.setattr(guard, "sys", types.SimpleNamespace(platform="other"))
    # a peak that rises: of the process itself it would not, after tests that took more
    peaks = iter(range(10**6))
    monkeypatch.setattr(guard, "_peak", lambda: next(peaks) * 2.0**28)
    assert "more than 1 GB of memory" in judge(DOUBLE, endless).diagnosis


def test_random_states_stay():
    def answer(x):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        torch.rand(3), np.random.rand(3), random.random()
        return x * 2

    is_right(DOUBLE, answer)  # judged() compares the states


def test_ctrl_c_is_no_verdict():
    def answer(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(DOUBLE, answer)


# ---------------------------------------------------------------- the decorator and the record


def test_the_decorator_prints_one_line_and_gives_back_what_the_notebook_uses(capsys):
    for _ in range(2):  # a cell can be run again

        @checks.exercise("causal-mask")
        def right(T):
            return torch.ones(T, T).tril() > 0

        @checks.exercise("causal-mask")
        def blank(T): ...

        @checks.exercise("causal-mask")
        def wrong(T):
            return torch.ones(T, T).triu() > 0

        assert right.__name__ == "right" and right is not kt.causal_mask
        assert blank is kt.causal_mask and wrong is kt.causal_mask
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(". ")[0] for line in lines] == [
            "causal-mask: right",
            "causal-mask: not attempted yet",
            "causal-mask: wrong",
        ]


def test_check_judges_a_script_the_same_way(progress_path):
    verdict = kt_course.exercises.check("causal-mask", lambda T: torch.ones(T, T).tril() > 0)
    assert (verdict.id, verdict.status) == ("causal-mask", "right")
    assert json.loads(progress_path.read_text()) == {"causal-mask": "right"}
    assert judged("causal-mask", kt.causal_mask).status == "right"


def test_answers_are_kept_and_blanks_and_the_reference_are_not(progress_path, capsys):
    checks.check("causal-mask", None)
    checks.check("causal-mask", kt.causal_mask)
    assert not progress_path.exists()
    checks.check("causal-mask", lambda T: torch.ones(T, T))
    checks.check("scaled-score", lambda q, k: q @ k.mT / q.size(-1) ** 0.5)
    assert json.loads(progress_path.read_text()) == {
        "causal-mask": "wrong",
        "scaled-score": "right",
    }
    checks.check("causal-mask", None)  # the notebook opened anew
    assert record.remembered()["causal-mask"] == "wrong"
    checks.progress()
    head, first, *_ = capsys.readouterr().out.splitlines()
    asked = len(checks.exercise_ids("01_attention_math"))
    asked += sum(quiz.notebook == "01_attention_math" for quiz in quizzes().values())
    assert head.split() == ["notebook", "done", "wrong", "open", "next"]
    assert first.split() == ["01_attention_math", "1", "1", str(asked - 2), "additive-score"]


def test_progress_says_when_all_is_done(progress_path, capsys):
    progress_path.parent.mkdir()
    progress_path.write_text(json.dumps({id: "right" for id in (*library(), *quizzes())}))
    checks.progress()
    rows = capsys.readouterr().out.splitlines()[1:]
    assert rows and all(row.endswith("all done") for row in rows)


@pytest.mark.parametrize("content", ["{not json", "[1, 2]", "3", "\xff"])
def test_a_broken_record_is_begun_anew(progress_path, content):
    progress_path.parent.mkdir()
    progress_path.write_text(content, encoding="latin-1")
    assert record.remembered() == {}
    record.remember("causal-mask", "right")
    assert record.remembered() == {"causal-mask": "right"}


def test_a_record_that_cannot_be_written_stops_no_lesson(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KT_PROGRESS_FILE", str(tmp_path / "file" / "progress.json"))
    assert checks.check("causal-mask", lambda T: torch.ones(T, T)).status == "wrong"
    assert (tmp_path / "file").read_text() == "in the way"


def test_where_the_record_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("KT_PROGRESS_FILE", "off")
    assert record.progress_file() is None
    record.remember("causal-mask", "right")
    assert record.remembered() == {}
    monkeypatch.delenv("KT_PROGRESS_FILE")
    monkeypatch.setattr(record, "sys", types.SimpleNamespace(platform="linux"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert record.progress_file() == tmp_path / "kt-core" / "progress.json"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert record.progress_file() == tmp_path / ".local" / "share" / "kt-core" / "progress.json"


def test_solution_shows_kt_cores_own_source(capsys):
    checks.solution("causal-mask")
    told = capsys.readouterr().out
    assert told.startswith("def causal_mask(T: int") and ".tril()" in told
    checks.solution("multi-head")  # a method: not indented
    assert capsys.readouterr().out.startswith("def forward(")


def test_solution_is_highlighted_in_a_notebook(displayed):
    checks.solution("causal-mask")
    assert displayed[0].data.startswith("```python\ndef causal_mask(") and displayed[
        0
    ].data.endswith("\n```")
