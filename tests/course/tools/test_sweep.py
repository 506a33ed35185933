"""kt sweep: cells checked before anything starts, failures that harm no other cell, one table."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys

import pytest

import kt_core as kt
from kt_core.runs.recipes import recipe_options
from kt_course.tools import sweep as sweep_module
from kt_course.tools.cli import main
from kt_course.tools.sweep import make_cells, run_cell, sweep
from kt_course.tools.sweep_results import chart, markdown, over_seeds, read_values, write_results

RUN = ("run", "--corpus", "bios:people=20", "--recipe", "smoke", "--device", "cpu")
TINY = {
    "model.block_size": 64,
    "model.bottleneck": 32,
    "model.n_embd": 16,
    "pretrain.epochs": 1,
    "pretrain.batch_size": 16,
    "finetune.epochs": 1,
}


# ---------------------------------------------------------------- cells


def test_cells_are_all_combinations_as_commands():
    grid = ["people=20,40", "seed=3,4", "data.drop=0, .5", "pretrain=true,false"]
    cells = make_cells(("run", "--recipe", "smoke"), grid)
    assert len(cells) == 16
    settings, command = list(cells.values())[-1]
    assert settings == {"people": "40", "seed": "4", "data.drop": ".5", "pretrain": "false"}
    assert command[:4] == ["run", "--recipe", "smoke", "--corpus=bios:people=40"]
    assert {"--seed=4", "--set=data.drop=.5", "--pretrain=false"} <= set(command)


def test_a_folders_name_follows_from_the_command():
    def name(*more):
        return next(iter(make_cells((*RUN, *more), ["seed=0"])))

    others = [name(), name("--variant", "rope"), name("--set", "data.drop=0.1")]
    assert name() == others[0] and len(set(others)) == 3
    assert all(folder.startswith("seed-0_") for folder in others)
    (long,) = make_cells(RUN, [f"{key}={field.default}" for key, field in TINY_FIELDS.items()])
    assert len(long) < 100


TINY_FIELDS = {key: recipe_options()[key] for key in TINY}


@pytest.mark.parametrize(
    ("command", "grid", "words"),
    [
        (RUN, ["seed"], "--grid seed: write KEY=VALUE"),
        (RUN, ["seed=0", "seed=1"], "--grid seed is given twice"),
        (RUN, ["sede=0"], "--sede"),
        (RUN, ["data.nam_last=0"], "--data.nam-last|--data.nam_last"),
        (RUN, ["seed=0,x"], "--seed"),
        (RUN, ["data.drop=0,much"], "drop"),
        (RUN, ["data.drop=0,2"], "drop"),
        (RUN, ["model.n_head=3"], "n_head"),
        (RUN, ["variant=rop"], "--variant"),
        (RUN, ["recipe=quick,fast"], "--recipe"),
        (RUN, ["people=30"], "--corpus"),
        (("run",), ["people=20,3"], "people"),
        (("run",), ["attributes=birth+shoes"], "attributes"),
        (("run",), ["corpus=bios,nowhere"], "nowhere: no such corpus"),
        (("notebook", "77"), ["variant=rop"], "variant"),
        (("train",), ["seed=0"], "no command to sweep 'train'"),
        ((), ["seed=0"], "no command to sweep"),
    ],
)
def test_bad_keys_and_values_are_refused_before_anything_starts(
    command, grid, words, tmp_path, capsys
):
    options = [word for pair in grid for word in ("--grid", pair)]
    assert main(["sweep", *command, *options, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("kt sweep: ") and message.count("\n") == 1
    assert any(word in message for word in words.split("|"))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- running them


def score(correct, total=100):
    s = kt.Score(correct, total)
    return dict(dev=s.accuracy, dev_low=s.low, dev_high=s.high)


class Pretended:
    """Replaces the cells' processes: a function of the command, and what was run."""

    work = staticmethod(lambda command: {})
    commands: list = []


def pretended_cell(command, folder, n_threads):
    """Stands for run_cell; Dask pickles it by its name."""
    Pretended.commands.append(command)
    try:
        return dict(values=Pretended.work(command), error=None, seconds=1.0)
    except ValueError as error:
        return dict(values={}, error=str(error), seconds=1.0)


@pytest.fixture
def pretend(monkeypatch):
    """A function that lets `work(command)` replace a cell's process; returns what was run."""

    def replace(work):
        monkeypatch.setattr(Pretended, "work", staticmethod(work))
        monkeypatch.setattr(Pretended, "commands", [])
        monkeypatch.setattr(sweep_module, "run_cell", pretended_cell)
        return Pretended.commands

    return replace


def test_done_cells_stay_failed_ones_are_tried_again_and_grids_grow(pretend, tmp_path, capsys):
    broken = {"--seed=1"}

    def work(command):
        if broken & set(command):
            raise ValueError("no | luck")
        return score(10 * int(command[-1][-1])) | dict(london=0.05)

    commands = pretend(work)
    assert sweep(*RUN, grid=["seed=0,1,2"], out=tmp_path, jobs=2) == 1
    printed = capsys.readouterr()
    assert "1 of 3 cells failed" in printed.err
    assert " 2 of 3 |" in printed.out and "1 no \\| luck" in printed.out
    assert len(commands) == 3
    broken.clear()
    assert sweep(*RUN, grid=["seed=0,1,2,3"], out=tmp_path) == 0
    assert [command[-1] for command in commands[3:]] in (
        ["--seed=1", "--seed=3"],
        ["--seed=3", "--seed=1"],
    )
    assert "4 cells, 2 of them done before" in capsys.readouterr().out
    cells = json.loads((tmp_path / "sweep.json").read_text())["cells"]
    assert [cell["values"]["dev"] for cell in cells] == [0.0, 0.1, 0.2, 0.3]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_an_outcome_that_a_crash_has_cut_is_made_again(pretend, tmp_path):
    commands = pretend(lambda command: score(1))
    sweep(*RUN, grid=["seed=0"], out=tmp_path)
    (path,) = tmp_path.rglob("cell.json")
    path.write_text('{"error": nul')
    sweep(*RUN, grid=["seed=0"], out=tmp_path)
    assert len(commands) == 2


def test_after_ctrl_c_the_table_has_what_is_done(pretend, tmp_path, monkeypatch):
    pretend(lambda command: score(30))
    write, rows = sweep_module.write_json, []

    def stop_after_two(path, row):
        write(path, row)
        rows.append(row)
        if len(rows) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(sweep_module, "write_json", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        sweep(*RUN, grid=["seed=0,1,2,3,4"], out=tmp_path)
    assert "not run" in (tmp_path / "sweep.md").read_text(encoding="utf-8")
    assert len(list(tmp_path.rglob("cell.json"))) == 2


def test_a_bad_x_starts_nothing(pretend, tmp_path):
    commands = pretend(lambda command: score(1))
    with pytest.raises(ValueError, match="no key of the grid 'people'"):
        sweep(*RUN, grid=["seed=0"], out=tmp_path / "out", x="people")
    assert not commands and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_real_cells_give_what_kt_run_gives_and_a_failing_one_harms_no_other(tmp_path, capsys):
    settings = [f"--set={key}={value}" for key, value in TINY.items()]
    command = ["sweep", *RUN, *settings, "--grid", "pretrain.lr=1e30,1e-3", "--jobs", "2"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert "the loss is nan" in capsys.readouterr().out
    failed, done = json.loads((tmp_path / "out" / "sweep.json").read_text())["cells"]
    assert failed["error"] and done["error"] is None
    alone = kt.run_experiment(
        "bios:people=20",
        "vanilla",
        "smoke",
        out=tmp_path / "alone",
        device="cpu",
        overrides=TINY | {"pretrain.lr": 1e-3},
    )
    values = done["values"]
    assert values["dev"] == pytest.approx(alone.dev.accuracy)
    assert values["held out"] == pytest.approx(
        (alone.dev.correct + alone.test.correct) / (alone.dev.total + alone.test.total)
    )
    assert values["pretraining loss"] == pytest.approx(
        alone.details["pretraining"]["loss"], abs=1e-3
    )
    assert kt.Result.read(done["folder"]).dev == alone.dev  # the cell's folder is a run's


@pytest.mark.slow
def test_a_schedulers_workers_run_the_cells(tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    settings = [f"--set={key}={value}" for key, value in TINY.items()]
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False) as cluster:
        address = cluster.scheduler_address
        assert sweep(*RUN, *settings, grid=["seed=0"], out=tmp_path, dask=address) == 0
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        with pytest.raises(ValueError, match="has no workers"):
            sweep(*RUN, grid=["seed=1"], out=tmp_path, dask=cluster.scheduler_address)
    with pytest.raises(OSError, match="127.0.0.1:1"):
        sweep(*RUN, grid=["seed=1"], out=tmp_path, dask="tcp://127.0.0.1:1")


@pytest.mark.parametrize(("script", "words"), [("exit 3", "status 3"), ("kill -9 $$", "status -9")])
def test_a_process_that_dies_is_an_error(monkeypatch, tmp_path, script, words):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho last words\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    outcome = run_cell(["run"], str(tmp_path / "cell"), 1)
    assert outcome["values"] == {} and outcome["error"] == f"last words ({words})"


def test_values_of_a_workbook_are_those_of_its_notebooks(tmp_path):
    facts = dict(rope=dict(correct=3, total=10), steps=dict(a=1.5), note="x", flag=True)
    results = dict(parameters={}, notebooks={"01_one": dict(facts=facts, seconds=3.0)})
    (tmp_path / "results.json").write_text(json.dumps(results))
    values = read_values(tmp_path)
    assert values["01 one rope"] == 0.3 and values["01 one steps a"] == 1.5
    assert values["01 one rope_low"] == pytest.approx(kt.Score(3, 10).low)
    assert len(values) == 4


# ---------------------------------------------------------------- table and plot


@pytest.fixture
def rows():
    """Rows of a grid in which one cell has failed."""
    cells = []
    for people, epochs, seed in itertools.product((50, 100, 400), (5, 20), (0, 1)):
        correct = 60 - people // 10 + epochs // 2 + 8 * seed
        values = score(correct) | dict(london=0.05, loss=2.0 + seed)
        error = "out of memory" if (people, epochs, seed) == (100, 5, 1) else None
        settings = {"people": str(people), "pretrain.epochs": str(epochs), "seed": str(seed)}
        values = {} if error else values
        cells.append(dict(settings=settings, values=values, error=error, seconds=1.0, folder="x"))
    return cells


NAMES = ["dev", "dev_low", "dev_high", "london", "loss"]


def test_seeds_share_a_row_and_errors_are_in_it(rows):
    lines = markdown(rows, NAMES).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["people", "pretrain.epochs", "seeds", "dev %", "loss", "errors"]
    assert ["50", "5", "2 of 2", "61.0 [57.0, 65.0]", "2.5", ""] in cells
    low, high = kt.wilson_interval(52, 100)
    single = f"52.0 [{100 * low:.1f}, {100 * high:.1f}]"
    assert ["100", "5", "1 of 2", single, "2", "1 out of memory"] in cells


def test_means_are_over_seeds_and_a_number_has_no_interval(rows):
    cells = [row for row in rows if row["settings"]["people"] == "400"]
    assert over_seeds(cells[:2], "dev") == pytest.approx((0.26, 0.22, 0.30))
    assert over_seeds(cells[:1], "dev") == pytest.approx((0.22, *kt.wilson_interval(22, 100)))
    assert over_seeds(cells[:1], "loss") == (2.0, None, None)
    assert over_seeds([], "dev") == (None, None, None)


def test_the_csv_has_a_line_per_cell(rows, tmp_path):
    write_results(rows, tmp_path, "title", None, None)
    text = (tmp_path / "sweep.csv").read_text(encoding="utf-8")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 12 and lines[0]["people"] == "50" and lines[0]["dev"] == "0.57"
    (failed,) = [line for line in lines if line["error"]]
    assert (failed["people"], failed["seed"], failed["dev"]) == ("100", "1", "")


def test_the_plot_has_a_line_for_each_other_setting(rows):
    figure = chart(rows, NAMES, "title", None, None)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["always London", "pretrain.epochs 5", "pretrain.epochs 20"]
    assert figure.axes[0].get_xlabel() == "people"
    for x, y in (("pretrain.epochs", "loss"), ("seed", "dev")):
        assert chart(rows, NAMES, "title", x, y).axes[0].get_xlabel() == x
    with pytest.raises(ValueError, match="--y bleu: no such value; there are dev"):
        chart(rows, NAMES, "title", None, "bleu")


def test_nothing_done_gives_a_table_and_no_plot(rows, tmp_path):
    failed = [row | dict(values={}, error="no luck") for row in rows]
    assert "no luck" in write_results(failed, tmp_path, "title", None, None)
    assert not (tmp_path / "sweep.png").exists()
