"""kt sweep: grids checked before anything starts, cells that fail or stop alone, workers here and on Dask, one table."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import kt_core as kt
from kt_core.runs.experiment import describe
from kt_course.tools import sweep as sweeping
from kt_course.tools import sweep_cell
from kt_course.tools.cli import main
from kt_course.tools.grid import notebook_cells, parse_grid, run_cells, with_knobs
from kt_course.tools.sweep import sweep
from kt_course.tools.sweep_cell import run_cell
from kt_course.tools.sweep_results import (
    _axis,
    _lines,
    as_csv,
    chart,
    markdown,
    numbers,
    over_seeds,
)

TINY = dict(block_size=64, n_embd=16, pretrain_epochs=1, pretrain_batch_size=16, finetune_epochs=1)
RUNS = dict(corpus="bios:people=20", recipe="smoke", device="cpu")
posix = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")


def cells_of(settings=None, **grid):
    return run_cells(grid, settings=settings or {}, **RUNS)


# ---------------------------------------------------------------- grids over runs


def test_a_grid_is_read_from_the_command_line():
    found = parse_grid(["seed=0,1,2", "attributes=birth+work,birth", "head_last= 0, .5"])
    assert found == dict(
        seed=["0", "1", "2"], attributes=["birth+work", "birth"], head_last=["0", ".5"]
    )


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["seed"], "--grid seed: write KEY=VALUE,VALUE"),
        (["seed="], "write KEY=VALUE"),
        (["seed=0,,1"], "write KEY=VALUE"),
        (["=1"], "write KEY=VALUE"),
        (["seed=0", "seed=1"], "seed is given twice"),
    ],
)
def test_a_grid_that_cannot_be_read_is_refused(pairs, words):
    with pytest.raises(ValueError, match=words):
        parse_grid(pairs)


def test_cells_are_all_combinations_with_everything_that_a_run_needs():
    grid = parse_grid(["people=20,40", "seed=3,4", "head_last=0,.5", "bucket=true,false"])
    found = run_cells(grid, settings=dict(TINY, variant="rope", lines="2"), recipe="smoke")
    assert len(found) == len({cell.folder for cell in found}) == 16
    assert [cell.settings["seed"] for cell in found] == [3] * 8 + [
        4
    ] * 8  # a whole table of one seed first
    assert found[0].settings == dict(people=20, seed=3, head_last=0.0, bucket=True)
    assert [type(value) for value in found[0].settings.values()] == [int, int, float, bool]
    spec = found[-1].spec
    assert spec["corpus"] == "bios:people=40,lines=2" and spec["variant"] == "rope"
    wanted = kt.recipe("smoke", **TINY, head_last=0.5, bucket=False)
    assert kt.Recipe(**spec["recipe"]) == wanted
    assert json.loads(json.dumps(spec)) == spec


def test_a_folder_is_told_by_all_settings_but_the_device():
    name = lambda **more: run_cells(dict(seed=["0"]), **RUNS | more)[0].folder  # noqa: E731
    assert name() == name() == name(device="cuda")
    others = [
        name(),
        name(variant="rope"),
        name(pretrain=False),
        name(corpus="bios:people=21"),
        name(settings=dict(head_last="0.1")),
        name(recipe="quick"),
    ]
    assert len(set(others)) == 6
    assert all(folder.startswith("seed-0_") for folder in others)
    long = run_cells(
        {key: [value] for key, value in kt.recipe("smoke").__dict__.items() if key != "name"},
        **RUNS,
    )
    assert len(long[0].folder) < 100


@pytest.mark.parametrize(
    ("corpus", "given", "wanted"),
    [
        ("bios", {}, "bios"),
        ("bios", dict(people="50"), "bios:people=50"),
        ("bios:seed=3", dict(lines=8, people="50"), "bios:seed=3,people=50,lines=8"),
    ],
)
def test_knobs_go_into_the_corpus_name(corpus, given, wanted):
    assert with_knobs(corpus, given) == wanted


@pytest.mark.parametrize(
    ("grid", "more", "words"),
    [
        ({}, {}, "nothing to sweep"),
        (
            dict(peple=["20"]),
            {},
            "--grid peple: no such key, did you mean people; there are corpus, variant",
        ),
        (
            dict(seed=["0"]),
            dict(settings=dict(hed_last="1")),
            "--set hed_last: no such key, did you mean head_last",
        ),
        (dict(name=["a", "b"]), {}, "--grid name: no such key"),
        (dict(seed=["0"]), dict(settings=dict(seed="1")), "seed: given by --grid and by --set"),
        (dict(seed=["0", "x"]), {}, "seed must be a whole number, not 'x'"),
        (dict(seed=["1", "1"]), {}, "'seed': '1'} is there twice"),
        (dict(head_last=["0.5", ".5"]), {}, "there twice"),
        (dict(head_last=["0", "much"]), {}, "recipe field head_last must be float, not 'much'"),
        (dict(head_last=["0", "2"]), {}, "head_last must lie in 0 ... 1"),
        (dict(n_head=["3"]), {}, "must be a multiple of n_head"),
        (dict(variant=["rop"]), {}, "variant 'rop': no such variant, did you mean rope"),
        (dict(recipe=["quick", "fast"]), {}, "recipe 'fast': no such recipe"),
        (dict(pretrain=["maybe"]), {}, "pretrain must be true or false, not 'maybe'"),
        (dict(people=["20", "3"]), dict(corpus="bios"), "people=3 must be 20 to"),
        (dict(people=["20", "many"]), dict(corpus="bios"), "people='many'"),
        (dict(attributes=["birth+shoes"]), {}, "unknown attributes"),
        (dict(people=["20"]), {}, "people is given twice: in bios:people=20"),
        (dict(people=["20"]), dict(corpus="wiki"), "a knob of bios, which wiki has not"),
        (dict(corpus=["bios", "nowhere"]), {}, "nowhere: no such corpus"),
        (dict(block_size=["16"]), {}, "takes|block"),
    ],
)
def test_bad_keys_and_values_are_refused_before_anything_starts(grid, more, words):
    with pytest.raises(ValueError, match=words):
        run_cells(grid, **RUNS | more)


# ---------------------------------------------------------------- grids over notebooks


PARAMETERS = """profile: str = "quick"
seed: int = 0
rate: float = 0.5
loud: bool = False
word = "a"
runs_dir: str = "elsewhere"
"""


def notebook(path, *sources, parameters=PARAMETERS):
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    made = new_notebook(cells=[first, *map(new_code_cell, sources)])
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, path)
    return path


def test_notebooks_of_the_project_take_parameters_knobs_and_recipe_fields():
    grid = dict(variant=["rope", "vanilla"], people=["50"], head_last=["0", ".5"])
    found = notebook_cells(
        "4", grid, profile="smoke", seed=2, device=None, settings=dict(finetune_epochs="3")
    )
    assert len(found) == 4
    assert found[1].settings == dict(variant="rope", people=50, head_last=0.5)
    assert Path(found[1].spec["notebook"]).name == "05_pretrain_finetune.ipynb"
    assert found[1].spec["parameters"] == dict(
        profile="smoke",
        seed=2,
        variant="rope",
        corpus="bios:people=50",
        runs_dir="runs",
        overrides=dict(head_last=0.5, finetune_epochs=3.0),
    )


@pytest.mark.parametrize(
    ("name", "grid", "words"),
    [
        (
            "06_perceiver_ar",
            dict(variant=["rope"]),
            "--grid variant: no such key.*there are profile, corpus, seed",
        ),
        ("06_perceiver_ar", dict(botleneck=["8"]), "did you mean bottleneck"),
        ("06_perceiver_ar", dict(runs_dir=["x"]), "no such key"),
        ("06_perceiver_ar", dict(profile=["fast"]), "profile 'fast'"),
        ("06_perceiver_ar", dict(bottleneck=["many"]), "recipe field bottleneck must be int"),
        ("01", dict(head_last=["0"]), "no such key"),  # it has no overrides
        ("77", dict(seed=["0"]), "no notebook '77'"),
    ],
)
def test_bad_keys_and_values_of_notebooks_are_refused(name, grid, words):
    with pytest.raises(ValueError, match=words):
        notebook_cells(name, grid)


def test_values_take_the_type_of_a_notebooks_own_parameters(tmp_path):
    path = notebook(tmp_path / "mine.ipynb", "1")
    grid = dict(rate=["1", "2e-3"], loud=["true"], word=["3"], seed=["7"])
    found = notebook_cells(path, grid)
    assert found[1].settings == dict(rate=0.002, loud=True, word="3", seed=7)
    for key, value in (("rate", "x"), ("loud", "1"), ("seed", "1.5")):
        with pytest.raises(ValueError, match=f"{key} must be"):
            notebook_cells(path, {key: [value]})
    notebook(path, "2")  # what stands in it has changed: its results are no longer these
    assert notebook_cells(path, grid)[1].folder != found[1].folder


# ---------------------------------------------------------------- many cells, without processes


def score(right, total=100):
    return describe(kt.Score(right, total))


def pretend(monkeypatch, do):
    """Let `do(spec)` stand for a cell's process; returns the list of specs that were done."""
    done = []

    def fake(folder, spec, threads, stopped, every=0.2):
        Path(folder).mkdir(parents=True, exist_ok=True)
        done.append(spec)
        told = dict(status="done", values={}, error=None, seconds=1.0)
        try:
            told |= dict(values=do(spec, stopped))
        except ValueError as error:
            told |= dict(status="failed", error=str(error))
        if stopped():
            return told | dict(status="stopped")
        (Path(folder) / "outcome.json").write_text(json.dumps(told))
        return told

    monkeypatch.setattr(sweeping, "run_cell", fake)
    return done


def test_what_is_done_is_skipped_what_failed_is_tried_again_and_grids_grow(
    monkeypatch, tmp_path, capsys
):
    bad = {1}

    def do(spec, stopped):
        if spec["seed"] in bad:
            raise ValueError("no luck")
        return dict(dev=score(10 * spec["seed"]))

    done = pretend(monkeypatch, do)
    told = sweep(cells_of(seed=["0", "1", "2"]), tmp_path / "out")
    assert [cell["status"] for cell in told["cells"]] == ["done", "failed", "done"]
    assert told["cells"][1]["error"] == "no luck" and len(done) == 3
    bad.clear()
    told = sweep(cells_of(seed=["0", "1", "2", "3"]), tmp_path / "out")
    assert [spec["seed"] for spec in done[3:]] == [1, 3]
    assert [cell["values"]["dev"]["correct"] for cell in told["cells"]] == [0, 10, 20, 30]
    assert "4 cells, 2 of them done before" in capsys.readouterr().out
    sweep(cells_of(seed=["0", "1"]), tmp_path / "out")
    assert len(done) == 5
    sweep(
        cells_of(dict(head_last="0.5"), seed=["0"]), tmp_path / "out"
    )  # other settings are other cells
    assert len(done) == 6


def test_an_outcome_that_a_crash_has_cut_is_made_again(monkeypatch, tmp_path):
    done = pretend(monkeypatch, lambda spec, stopped: dict(dev=score(1)))
    (cell,) = cells_of(seed=["0"])
    sweep([cell], tmp_path)
    (tmp_path / "cells" / cell.folder / "outcome.json").write_text('{"status": "do')
    sweep([cell], tmp_path)
    assert len(done) == 2


@pytest.mark.parametrize("jobs", [1, 3])
def test_as_many_at_a_time_as_asked_for(monkeypatch, tmp_path, jobs):
    here, most, lock = [0], [0], threading.Lock()
    together = threading.Barrier(jobs)

    def do(spec, stopped):
        with lock:
            here[0] += 1
            most[0] = max(most[0], here[0])
        together.wait(60)  # breaks unless so many come
        with lock:
            here[0] -= 1
        return dict(dev=score(1))

    pretend(monkeypatch, do)
    told = sweep(cells_of(seed=list("012345")), tmp_path, jobs=jobs)
    assert most[0] == jobs and all(cell["status"] == "done" for cell in told["cells"])


@posix
def test_ctrl_c_leaves_what_is_done_and_stops_the_rest(monkeypatch, tmp_path):
    asked = []

    def do(spec, stopped):
        if spec["seed"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
            until = time.monotonic() + 60
            while not stopped() and time.monotonic() < until:
                time.sleep(0.01)
            asked.append(stopped())
        return dict(dev=score(30))

    done = pretend(monkeypatch, do)
    with pytest.raises(KeyboardInterrupt):
        sweep(cells_of(seed=list("01234")), tmp_path)
    assert asked == [True] and len(done) == 3  # those that wait do not begin
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert [cell["status"] for cell in told["cells"]] == [
        "done",
        "done",
        "not run",
        "not run",
        "not run",
    ]
    assert "| 2 of 5 |" in (tmp_path / "sweep.md").read_text(encoding="utf-8")
    assert (tmp_path / "sweep.png").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (dict(jobs=0), "jobs must be at least 1"),
        (dict(threads=0), "threads must be at least 1"),
        (dict(x="people"), "--x people: not a key of the grid; there are seed"),
        (dict(y="bleu"), "--y bleu: no such figure of a run; there are dev"),
    ],
)
def test_bad_options_start_nothing(monkeypatch, tmp_path, more, words):
    done = pretend(monkeypatch, lambda spec, stopped: {})
    with pytest.raises(ValueError, match=words):
        sweep(cells_of(seed=["0", "1"]), tmp_path / "out", **more)
    assert not done and not (tmp_path / "out").exists()


def test_a_sweep_under_torchrun_is_refused(monkeypatch, tmp_path):
    for name, value in dict(
        RANK="0", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1"
    ).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="start it without torchrun"):
        sweep(cells_of(seed=["0"]), tmp_path / "out")


def test_the_command_tells_failures_and_ends_with_1(monkeypatch, tmp_path, capsys):
    def do(spec, stopped):
        if spec["seed"] == 1:
            raise ValueError("a | b\nc")
        return dict(dev=score(40), london=score(5))

    pretend(monkeypatch, do)
    command = [
        "sweep",
        "run",
        "--recipe",
        "smoke",
        "--variant",
        "rope",
        "--out",
        str(tmp_path),
        "--set",
        "pretrain_epochs=2",
        "--grid",
        "people=20,40",
        "--grid",
    ]
    assert main([*command, "seed=0"]) == 0
    assert "bios, rope, smoke, pretrain_epochs 2" in capsys.readouterr().out
    assert main([*command, "seed=0,1"]) == 1
    told = capsys.readouterr()
    assert "| 20 | 1 of 2 | 40.0 [30.9, 49.8] | seed 1: a \\| b c |" in told.out
    assert told.err.startswith("kt sweep: 2 of 4 cells failed") and told.err.count("\n") == 1
    assert (
        (tmp_path / "sweep.md")
        .read_text(encoding="utf-8")
        .startswith("# Sweep\n\nbios, rope, smoke")
    )
    for wrong in (["--grid", "sed=0"], ["--grid", "seed=0", "--dask", "tcp://127.0.0.1:1"]):
        if "--dask" in wrong:
            pytest.importorskip("dask.distributed")
        assert main(["sweep", "run", *wrong, "--out", str(tmp_path / "none")]) == 1
        assert capsys.readouterr().err.startswith("kt sweep: ") and not (tmp_path / "none").exists()


# ---------------------------------------------------------------- one cell in its process


@pytest.mark.slow
def test_real_cells_give_what_kt_run_gives_and_one_that_fails_harms_no_other(tmp_path, capsys):
    settings = [f"--set={key}={value}" for key, value in TINY.items()]
    command = [
        "sweep",
        "run",
        "--corpus",
        RUNS["corpus"],
        "--recipe",
        "smoke",
        "--device",
        "cpu",
        *settings,
    ]
    more = [
        "--grid",
        "pretrain_lr=1e30,1e-3",
        "--jobs",
        "2",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*command, *more]) == 1
    assert "FloatingPointError: the loss is nan" in capsys.readouterr().out
    failed, done = json.loads((tmp_path / "out" / "sweep.json").read_text())["cells"]
    assert (failed["status"], done["status"]) == ("failed", "done")
    folder = tmp_path / "out" / done["folder"]
    assert ", 1 threads" in json.loads((folder / "config.json").read_text())["hardware"]
    assert "Traceback" in (tmp_path / "out" / failed["folder"] / "log.txt").read_text()

    alone = kt.run_experiment(
        RUNS["corpus"],
        "vanilla",
        "smoke",
        out=tmp_path / "alone",
        device="cpu",
        overrides=TINY | dict(pretrain_lr=1e-3),
    )
    assert done["values"]["dev"] == describe(alone.dev)
    both = done["values"]["held_out"]
    assert both["total"] == alone.dev.total + alone.test.total
    assert both["correct"] == alone.dev.correct + alone.test.correct
    assert done["values"]["loss"] == pytest.approx(alone.told["pretraining"]["loss"], abs=1e-3)
    assert done["values"]["kind"] == "mixed"
    assert kt.Result.read(folder).dev == alone.dev  # the cell's folder is a run's


@pytest.mark.slow
@posix
def test_a_cell_that_is_stopped_saves_its_training_and_goes_on(tmp_path):
    (cell,) = cells_of(TINY | dict(pretrain_epochs=400), seed=["0"])
    place = tmp_path / "cell"

    def stopped():
        return (place / "metrics.jsonl").exists() and (place / "metrics.jsonl").stat().st_size > 0

    told = run_cell(str(place), cell.spec, 1, stopped)
    assert (told["status"], told["error"]) == ("stopped", "stopped")
    assert (place / "pretrain.state").exists() and not (place / "outcome.json").exists()
    assert "its state is kept" in (place / "log.txt").read_text()


@posix
@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("kill -9 $$", "killed by signal 9"),
        ("exit 3", "ended with status 3"),
        ("true", "ended with status 0"),
    ],
)
def test_a_process_that_dies_is_told(monkeypatch, tmp_path, does, words):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{does}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    told = run_cell(str(tmp_path / "cell"), dict(kind="run"), 1, lambda: False, every=0.05)
    assert told["status"] == "failed" and words in told["error"] and "log.txt" in told["error"]


@posix
def test_a_process_that_ignores_ctrl_c_is_ended(monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\ntrap '' INT\necho $OMP_NUM_THREADS\nexec sleep 600\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(sweep_cell, "GRACE", 0.2)
    log = tmp_path / "cell" / "log.txt"
    told = run_cell(str(tmp_path / "cell"), {}, 3, lambda: log.read_text() == "3\n", every=0.05)
    assert told["status"] == "stopped" and told["seconds"] < 300


@pytest.mark.slow
def test_a_notebook_is_swept_and_its_facts_are_the_figures(tmp_path):
    keep = (
        "import json, os\n"
        "assert seed != 1, 'no luck'\n"
        "facts = dict(rope=dict(correct=int(rate * 10), total=10), steps=dict(a=seed + 0.5), note='x')\n"
        "json.dump(dict(facts=facts), open(f'{runs_dir}/mine.json', 'w'))\n"
        "print(os.environ['OMP_NUM_THREADS'], profile)"
    )
    path = notebook(tmp_path / "mine.ipynb", keep)
    cells = notebook_cells(path, dict(seed=["0", "1"], rate=["0.3"]), profile="smoke")
    told = sweep(cells, tmp_path / "out", jobs=2, threads=1)
    done, failed = told["cells"]
    assert done["values"] == {"rope": score(3, 10), "steps a": 0.5}
    assert failed["status"] == "failed" and "AssertionError: no luck" in failed["error"]
    ran = nbformat.read(tmp_path / "out" / done["folder"] / "mine.ipynb", as_version=4)
    assert "1 smoke" in "".join(o.get("text", "") for c in ran.cells for o in c.get("outputs", []))
    with pytest.raises(ValueError, match="--y dev: no such figure; there are rope, steps a"):
        chart(told, y="dev")


@pytest.mark.slow
@posix
def test_a_notebook_that_is_stopped_leaves_no_kernel(tmp_path):
    told = tmp_path / "pid"
    path = notebook(
        tmp_path / "mine.ipynb",
        f"import os, time\nopen({str(told)!r}, 'w').write(str(os.getpid()))",
        "time.sleep(600)",
    )
    (cell,) = notebook_cells(path, dict(seed=["0"]))
    outcome = run_cell(
        str(tmp_path / "cell"), cell.spec, 1, lambda: told.exists() and told.read_text() != ""
    )
    assert outcome["status"] == "stopped"
    until = time.monotonic() + 60
    while alive(int(told.read_text())) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(int(told.read_text()))


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# ---------------------------------------------------------------- Dask


@pytest.fixture(scope="module")
def cluster():
    """A real cluster on this machine: a scheduler, and two workers in processes of their own."""
    distributed = pytest.importorskip("dask.distributed")
    with pytest.MonkeyPatch.context() as patch:
        root = str(Path(kt.__file__).resolve().parent.parent)
        patch.setenv(
            "PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        )
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as found:
            found.wait_for_workers(2, timeout=120)
            yield found


@pytest.mark.slow
def test_a_dask_cluster_does_the_cells_two_at_a_time(cluster, tmp_path):
    cells = cells_of(TINY, pretrain_lr=["1e-3", "1e30"])
    told = sweep(cells, tmp_path / "out", dask=cluster.scheduler_address)
    done, failed = told["cells"]
    assert done["status"] == "done" and done["values"]["dev"]["total"] == 5
    assert "FloatingPointError" in failed["error"]
    places = [tmp_path / "out" / cell["folder"] for cell in told["cells"]]
    begun = [(place / "cell.json").stat().st_mtime for place in places]
    ended = [begin + cell["seconds"] for begin, cell in zip(begun, told["cells"], strict=True)]
    assert max(begun) < min(ended)  # both workers at once
    assert ", 1 threads" in json.loads((places[0] / "config.json").read_text())["hardware"]
    before = (places[0] / "outcome.json").stat().st_mtime_ns
    again = sweep(cells[:1], tmp_path / "out", dask=cluster.scheduler_address)
    assert again["cells"][0] == done and (places[0] / "outcome.json").stat().st_mtime_ns == before


@pytest.mark.slow
@posix
def test_ctrl_c_stops_the_cells_on_a_dask_cluster(cluster, tmp_path):
    cells = cells_of(TINY | dict(pretrain_epochs=400), seed=list("012"))
    places = [tmp_path / "cells" / cell.folder for cell in cells]

    def press():
        until = time.monotonic() + 300
        while (
            time.monotonic() < until
            and sum((place / "metrics.jsonl").exists() for place in places) < 2
        ):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sweep(cells, tmp_path, dask=cluster.scheduler_address)
    thread.join()
    assert [(place / "pretrain.state").exists() for place in places].count(True) == 2
    assert not any((place / "outcome.json").exists() for place in places)
    assert "not run" in (tmp_path / "sweep.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_cluster_that_cannot_serve_is_refused(tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    cells = cells_of(seed=["0"])
    with pytest.raises(ValueError, match="no Dask scheduler at tcp://127.0.0.1:1"):
        sweep(cells, tmp_path / "out", dask="tcp://127.0.0.1:1")
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty:
        with pytest.raises(ValueError, match="has no workers"):
            sweep(cells, tmp_path / "out", dask=empty.scheduler_address)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- table and plot


def told_of(rows, keys, about="bios, rope"):
    """What sweep.json holds, from (settings, values or an error)."""
    cells = [
        dict(
            settings=dict(zip(keys, at, strict=True)),
            seconds=1.0,
            folder="cells/x",
            **(
                dict(status="failed", values={}, error=found)
                if isinstance(found, str)
                else dict(status="done", values=found, error=None)
            ),
        )
        for at, found in rows
    ]
    return dict(about=about, keys=list(keys), cells=cells)


@pytest.fixture
def told():
    rows = []
    for people, epochs, seed in itertools.product((50, 100, 400), (5, 20), (0, 1)):
        right = 60 - people // 10 + epochs // 2 + 8 * seed
        found = dict(
            dev=score(right), test=score(right + 10), london=score(5), loss=2.0 + seed, minutes=1.5
        )
        rows.append(
            (
                (people, epochs, seed),
                found if (people, epochs, seed) != (100, 5, 1) else "out of memory",
            )
        )
    return told_of(rows, ("people", "pretrain_epochs", "seed"))


def test_seeds_share_a_row_and_errors_stand_in_it(told):
    lines = markdown(told).splitlines()
    assert lines[0] == "bios, rope"
    assert (
        lines[2]
        == "| people | pretrain_epochs | seeds | dev % | test % | loss | minutes | problems |"
    )
    assert len([line for line in lines if line.startswith("|")]) == 2 + 6
    assert "| 50 | 5 | 2 | 61.0 [57.0, 65.0] | 71.0 [67.0, 75.0] | 2.5 | 1.5 |  |" in lines
    low, high = kt.wilson_interval(52, 100)
    row = f"| 100 | 5 | 1 of 2 | 52.0 [{100 * low:.1f}, {100 * high:.1f}] |"
    assert any(
        line.startswith(row) and line.endswith("| seed 1: out of memory |") for line in lines
    )


def test_means_are_over_seeds_and_a_number_has_no_interval(told):
    cells = [cell for cell in told["cells"] if cell["settings"]["people"] == 400]
    assert over_seeds(cells[:2], "dev") == pytest.approx((0.26, 0.22, 0.30))
    assert over_seeds(cells[:1], "dev") == pytest.approx(
        (0.22, *kt.wilson_interval(22, 100)), abs=1e-4
    )
    assert over_seeds(cells[:1], "loss") == (2.0, None, None)
    assert over_seeds(cells[:2], "loss") == (2.5, 2.0, 3.0)
    assert over_seeds([], "dev") is None and over_seeds(cells, "nothing") is None


def test_the_csv_has_a_line_a_cell(told):
    rows = list(csv.DictReader(io.StringIO(as_csv(told))))
    assert len(rows) == 12
    assert rows[0] | dict(people="50", dev="0.57", loss="2.0", status="done", error="") == rows[0]
    assert float(rows[0]["dev_low"]) < 0.57 < float(rows[0]["dev_high"])
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert (failed["people"], failed["seed"], failed["dev"], failed["error"]) == (
        "100",
        "1",
        "",
        "out of memory",
    )


def test_the_plot_has_a_line_for_each_other_setting(told):
    assert _axis(told) == "people"
    lines = _lines(told, "people")
    assert list(lines) == ["5 epochs of pretraining", "20 epochs of pretraining"]
    assert {value: len(cells) for value, cells in lines["5 epochs of pretraining"].items()} == {
        50: 2,
        100: 1,
        400: 2,
    }
    assert list(_lines(told, "pretrain_epochs")) == [
        "50 people in the corpus",
        "100 people in the corpus",
        "400 people in the corpus",
    ]
    for x, y in ((None, None), ("pretrain_epochs", "loss"), ("seed", "test")):
        assert chart(told, x, y).startswith(b"\x89PNG")
    assert chart(told, "people") != chart(told, "pretrain_epochs")
    with pytest.raises(
        ValueError, match="--y bleu: no such figure; there are dev, test, london, loss, minutes"
    ):
        chart(told, y="bleu")


def test_names_along_the_axis_and_a_single_cell_can_be_drawn():
    names = told_of(
        [((v, s), dict(dev=score(40 + s))) for v in ("rope", "vanilla") for s in (0, 1)],
        ("variant", "seed"),
    )
    assert _axis(names) == "variant" and chart(names).startswith(b"\x89PNG")
    one = told_of([((0,), dict(dev=score(40), london=score(5)))], ("seed",))
    assert _axis(one) == "seed" and chart(one).startswith(b"\x89PNG")
    assert _axis(told_of([((v, 1), {}) for v in ("a", "b")], ("word", "people"))) == "word"


def test_nothing_done_gives_a_table_and_no_plot():
    none = told_of([((0,), "no luck")], ("seed",))
    assert chart(none) is None and chart(none, y="dev") is None
    assert "| 0 of 1 | seed 0: no luck |" in markdown(none)
    assert "no luck" in as_csv(none)


def test_numbers_of_a_notebooks_facts():
    facts = dict(a=1, b=dict(c_d=0.5, e=dict(correct=1, total=2)), f="x", g=True, h=[1], i=None)
    assert dict(numbers(facts)) == {"a": 1, "b c d": 0.5}
