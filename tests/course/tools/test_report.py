"""The report: right numbers, kinds kept apart, means over seeds, broken folders named."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

import kt_core as kt
from kt_course.tools.cli import main
from kt_course.tools.report import gather, write_report


def make(
    folder: Path,
    *,
    corpus="bios",
    variant="vanilla",
    recipe="quick",
    kind="mixed",
    seed=0,
    correct=50,
    test=40,
    **more,
) -> Path:
    folder.mkdir(parents=True)
    details = dict(
        corpus=corpus,
        variant=variant,
        kind=kind,
        seed=seed,
        recipe=asdict(kt.recipe(recipe)),
        dev=kt.Score(correct, 100).as_dict(),
        test=test and kt.Score(test, 100).as_dict(),
        london=kt.Score(5, 100).as_dict(),
        pretraining=dict(characters=1000, seconds=90.0),
        finetuning=dict(characters=500, seconds=30.0),
        hardware="a machine",
        **more,
    )
    (folder / "config.json").write_text("{}")
    (folder / "result.json").write_text(json.dumps(details))
    return folder


def test_rows_tell_what_the_runs_found_best_first_with_london(tmp_path):
    make(tmp_path / "a", correct=30)
    make(tmp_path / "b", variant="rope", correct=80)
    rows, problems = gather([tmp_path])
    assert problems == {}
    assert [(row.variant, row.dev.accuracy) for row in rows] == [
        ("rope", 0.8),
        ("vanilla", 0.3),
        ("always London", 0.05),
    ]
    best = rows[0]
    assert (best.dev.low, best.dev.high) == pytest.approx(kt.wilson_interval(80, 100))
    assert (best.characters, best.minutes, best.hardware) == (1500, 2.0, "a machine")
    assert best.test.accuracy == 0.4


def test_seeds_of_the_same_settings_get_a_mean_row_and_kinds_are_never_merged(tmp_path):
    for seed, correct in enumerate((40, 60)):
        make(tmp_path / f"mixed{seed}", seed=seed, correct=correct)
        make(tmp_path / f"pure{seed}", seed=seed, correct=correct - 30, kind="pure")
    make(tmp_path / "none", kind="no-pretrain", correct=4)
    rows, _ = gather([tmp_path])
    means = {row.kind: row.dev for row in rows if row.seed.startswith("mean")}
    assert means == {
        "mixed": pytest.approx((0.5, 0.4, 0.6)),
        "pure": pytest.approx((0.2, 0.1, 0.3)),
    }


def test_other_settings_are_told_and_not_averaged(tmp_path):
    make(tmp_path / "a")
    other = make(tmp_path / "b", seed=1)
    details = json.loads((other / "result.json").read_text())
    details["recipe"]["pretrain"]["epochs"] = 5.0
    (other / "result.json").write_text(json.dumps(details))
    rows, _ = gather([tmp_path])
    assert {row.recipe for row in rows if row.kind == "mixed"} == {
        "quick",
        "quick (pretrain.epochs=5.0)",
    }
    assert not any(row.seed.startswith("mean") for row in rows)


def test_unfinished_and_damaged_runs_are_named(tmp_path):
    make(tmp_path / "good")
    for name, text in {
        "half": None,
        "cut": '{"dev": ',
        "odd": '{"dev": null, "test": null}',
        "list": "[1]",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        if text:
            (tmp_path / name / "result.json").write_text(text)
    text = write_report([tmp_path], tmp_path / "out")
    assert len(gather([tmp_path])[1]) == 4
    below = text.split("Not in the table:")[1]
    assert all(f"/{name}: " in below for name in ("half", "cut", "odd", "list"))
    assert "--resume" in below


def test_a_path_without_runs_is_refused_and_a_run_given_twice_counts_once(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        gather([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no run in it"):
        gather([tmp_path / "empty"])
    run = make(tmp_path / "a")
    assert len(gather([run, tmp_path / "a", run])[0]) == 2


def test_pass_marks_are_for_pretrained_models_on_wiki_alone(tmp_path):
    make(tmp_path / "a", corpus="wiki", variant="rope", correct=19, test=None)
    make(tmp_path / "b", corpus="wiki", variant="vanilla", correct=10)
    make(tmp_path / "c", corpus="wiki", variant="vanilla", correct=4, kind="no-pretrain")
    make(tmp_path / "d", corpus="bios", correct=90)
    table = write_report([tmp_path], tmp_path / "out")

    def line(*parts):
        lines = (re.sub(" +", " ", row) for row in table.splitlines())
        return next(row for row in lines if all(part in row for part in parts))

    assert "below the mark" in line("| rope |")
    assert " passes" in line("| wiki | vanilla", "mixed")
    assert "mark" not in line("no-pretrain") and " passes" not in line("no-pretrain")
    assert " passes" not in line("| bios | vanilla")
    assert "vanilla 10 %, rope 20 %, perceiver 6 %" in table


def test_three_files_and_the_command(tmp_path, capsys):
    make(tmp_path / "runs" / "a", correct=30)
    make(tmp_path / "runs" / "b", corpus="wiki", variant="perceiver", correct=7)
    out = tmp_path / "report"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    printed = re.sub(" +", " ", capsys.readouterr().out)
    assert "| bios | vanilla | quick | mixed | 0 | 30.0 [21.9, 39.6] |" in printed
    assert (out / "report.md").read_text(encoding="utf-8").startswith("# Runs\n")
    with (out / "report.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["corpus"], row["variant"], row["dev"]) for row in rows] == [
        ("bios", "vanilla", "0.3000"),
        ("bios", "always London", "0.0500"),
        ("wiki", "perceiver", "0.0700"),
        ("wiki", "always London", "0.0500"),
    ]
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", str(tmp_path / "nothing"), "--out", str(out)]) == 2
