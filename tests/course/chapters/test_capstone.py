"""Chapter 15: the exercise, scoring once, the leaderboard, and the page's claims."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from checking import Answers, cells, mistakes, notebook_suite, quiz_suite, suite

import kt_core as kt
from kt_core.runs.experiment import Result, run_experiment
from kt_course.chapters.capstone import exercises, leaderboard, scoring, solutions
from kt_course.grading.written import written_questions
from kt_course.shipped import shipped_result
from kt_course.tools.cli import main, make_app

NAME = "15_capstone"
NOTEBOOK = Path(__file__).resolve().parents[3] / "notebooks" / f"{NAME}.ipynb"
ID = "compare-recipes"


# ---------------------------------------------------------------- the exercise


def stub(first, second): ...


def by_columns(first, second):
    pairs = [(sum(a), sum(b)) for a, b in zip(zip(*first), zip(*second))]  # noqa: B905
    return sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)


def as_list(first, second):
    return list(by_columns(first, second))


def one_number(first, second):
    return by_columns(first, second)[0]


def fixed_people(first, second):
    return by_columns([row[:12] for row in first], [row[:12] for row in second])


WRONG = {
    "one number": (one_number, r"return two numbers, \(wins, losses\), not"),
    "twelve people": (fixed_people, "not for others"),
}
WRONG |= mistakes(exercises.CHAPTER, ID)
ANSWERS = {
    ID: Answers(
        stub,
        WRONG,
        {"by columns": by_columns, "as a list": as_list},
        lambda *recipes: solutions.compare_recipes(*recipes),
    )
}
TestExercises = suite(NAME, ANSWERS)
TestQuizzes = quiz_suite(NAME)
TestNotebook = notebook_suite(NAME, most_lines=15)


# ---------------------------------------------------------------- scoring once


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two small runs beside each other whose test questions are unanswered, and one that is not."""
    runs = tmp_path_factory.mktemp("runs")
    small = {"pretrain.epochs": 0.1, "finetune.epochs": 0.1}
    for name, seed, test in (("first", 0, False), ("second", 1, False), ("by-run", 0, True)):
        fixed = "bios:people=40,lines=1", "vanilla", "smoke", True, seed, runs / name
        run_experiment(*fixed, overrides=small, test=test)
    return runs


def test_the_test_questions_are_answered_once(folder, capsys):
    first = Result.read(folder / "first")
    assert first.test is None and not (first.path / "predictions" / "test.txt").exists()
    assert main(["score", str(first.path)]) == 0
    printed = capsys.readouterr().out
    scored = Result.read(first.path)
    assert scored.test.total == 10 and scored.details["scored"]["attempt"] == 2  # after by-run
    assert "attempt 2" in printed and "of 20 CPU minutes" in printed
    assert len((first.path / "predictions" / "test.txt").read_text().splitlines()) == 10
    assert main(["score", str(first.path)]) == 2
    assert "answered already" in capsys.readouterr().err
    with pytest.raises(ValueError, match="by kt run"):
        scoring.score_test(folder / "by-run")
    assert "attempt 3" in scoring.score_test(folder / "second")


def test_the_entry_of_a_run_is_one_of_the_leaderboard(folder, tmp_path):
    details = Result.read(folder / "by-run").details
    details["scored"] = dict(date="2026-11-29", attempt=1)
    text = scoring.toml_entry("mine", details)
    (tmp_path / "board.toml").write_text(text, encoding="utf-8")
    (entry,) = leaderboard.leaderboard(tmp_path / "board.toml").entries
    assert entry.test == kt.Score(details["test"]["correct"], 10)
    assert "--set pretrain.epochs=0.1" in entry.command and "--recipe smoke" in entry.command
    assert parse(entry.command)["corpus"] == "bios:people=40,lines=1"


def test_a_run_on_a_gpu_has_no_cpu_minutes():
    cost = dict(seconds=60)
    threads = dict(hardware="x86_64 CPU, 2 threads, torch 2.13", pretraining=cost)
    assert scoring.cpu_minutes(threads) == 2
    assert scoring.cpu_minutes(dict(hardware="NVIDIA", pretraining=cost)) == float("inf")


# ---------------------------------------------------------------- the leaderboard


def parse(command: str) -> dict:
    """The arguments of a kt command, with its corpus and recipe checked."""
    program, *tokens = shlex.split(command)
    assert program == "kt"
    function, bound, _ = make_app().parse_args(tokens, exit_on_error=False, print_error=False)
    assert function.__name__ == "run"
    settings = dict(pair.split("=", 1) for pair in bound.arguments.get("settings", ()))
    kt.recipe(bound.arguments["recipe"], **settings)
    kt.load_corpus(bound.arguments["corpus"])
    return bound.arguments


def test_each_entry_can_be_reproduced_and_is_within_the_budget():
    board = leaderboard.leaderboard()
    assert len(board.entries) >= 3 and "CPU minutes" in str(board)
    corpus = shipped_result("capstone")["corpus"]
    for entry in board.entries:
        assert parse(entry.command)["corpus"] == corpus
        assert entry.dev.total == entry.test.total == 500 and entry.attempt >= 1
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry.date) and entry.by


def test_the_reference_entries_are_those_of_the_results_file():
    results = {
        tuple(run["test"].values()): run
        for run in shipped_result("capstone")["runs"].values()
        if "test" in run
    }
    for entry in leaderboard.leaderboard().entries:
        run = results[tuple(entry.test.as_dict().values())]
        assert entry.dev.correct == run["dev"]["correct"]
        assert abs(entry.cpu_minutes - run["cpu_minutes"]) < 0.1
        assert run["test_correct"].count("1") == entry.test.correct


@pytest.mark.parametrize(
    ("change", "message"),
    [('attempt = "x"\nbest = 1', "best"), ("", "dev"), ("dev = [1, 2]\ncpu_minutes = 21", "above")],
)
def test_an_entry_that_is_none_is_refused(change, message, tmp_path):
    row = 'name = "x"\nby = "y"\ncommand = "kt run"\ndate = "2026-11-29"\ntest = [1, 2]\n'
    keys = [line.split(" = ")[0] for line in change.splitlines()]
    if "attempt" not in keys:
        row += "attempt = 1\n"
    if "cpu_minutes" not in keys:
        row += "cpu_minutes = 1\n"
    if "best" in keys:
        row += "dev = [1, 2]\n"
    (tmp_path / "b.toml").write_text(f"[[entries]]\n{row}{change}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        leaderboard.leaderboard(tmp_path / "b.toml")


# ---------------------------------------------------------------- the page's claims


def test_what_the_page_says_of_the_reference_runs():
    results = shipped_result("capstone")
    runs, london = results["runs"], results["dev"]
    assert runs["baseline"]["dev"]["low"] > london["high"]  # there is something to beat
    assert runs["baseline"]["dev"]["high"] < 0.8  # and room above it
    plateau = [share for minutes, share in runs["baseline"]["curve"] if minutes < 1]
    assert plateau and max(plateau) < london["high"]
    assert max(run["cpu_minutes"] for run in runs.values()) <= scoring.BUDGET / 2
    groups = [
        [runs[f"{name} {s}"]["dev"]["correct"] for s in range(3)] for name in ("rope", "vanilla")
    ]
    assert min(groups[0]) > max(groups[1])


def test_the_report_is_graded_with_twenty_points():
    posed = [q for q in written_questions().values() if q.notebook == NAME]
    assert sum(q.points for q in posed) == 20
    rows = re.findall(r"^\| \d (.+?) \|.*\| (\d) \|$", cells(NAME)["report"].source, re.M)
    template = (NOTEBOOK.parents[1] / "docs" / "capstone-report.md").read_text(encoding="utf-8")
    assert [(q.title, f"{q.points:g}") for q in posed] == rows
    assert re.findall(r"^## \d (.+) \((\d) points\)$", template, re.M) == rows


def test_the_corpus_of_the_leaderboard_is_unchanged():
    from kt_core.runs.experiment import digest

    results = shipped_result("capstone")
    assert digest(kt.load_corpus(results["corpus"])) == results["corpus_sha256"]
    path = leaderboard.data_dir() / "leaderboard.toml"
    assert tomllib.loads(path.read_text(encoding="utf-8"))["entries"]
