"""Several processes train as one would: the same losses and weights, one that writes, all that stop together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

import kt_core as kt
from kt_core.runs import distributed
from kt_core.trainer import Trainer
from kt_course.tools.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
from test_trainer import config, lines, same, tiny, without_seconds  # noqa: E402

HERE = Path(__file__).resolve().parent
gloo = pytest.mark.skipif(
    os.name == "nt" or not (dist.is_available() and dist.is_gloo_available()),
    reason="needs torchrun with gloo",
)
# name: model, dropout, settings of the training; five rows a batch leave one process without a row at an epoch's end
CASES = {
    "vanilla": ("vanilla", 0.0, dict(batch_size=3)),
    "rope": ("rope", 0.0, dict(batch_size=4, bucket=False)),
    "parts": ("vanilla", 0.0, dict(batch_size=8, bucket=False, parts=3)),
    "perceiver": ("perceiver", 0.0, dict(batch_size=5)),
    "perceiver_ar": ("perceiver_ar", 0.0, dict(batch_size=9)),
    "muon": ("rope", 0.0, dict(batch_size=4, optimizer="muon")),
}
RUN = [
    "run",
    "--corpus",
    "bios:people=20",
    "--recipe",
    "smoke",
    "--variant",
    "rope",
    "--device",
    "cpu",
    *"--set block_size=64 --set n_embd=16 --set pretrain_epochs=1 --set pretrain_batch_size=16".split(),
    *"--set finetune_epochs=2 --set optimizer=adamw".split(),
]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("KT_PROGRESS", "off")


def train(case):
    """(history, model) of a case, in however many processes."""
    variant, dropout, settings = CASES[case]
    model = tiny(variant, dropout)
    return Trainer(model, lines(), config(**settings)).fit(), model


# ---------------------------------------------------------------- two processes


def script(folder):
    """What each of the two processes does."""
    first = os.environ["RANK"] == "0"
    told = {}
    for case in CASES:
        history, model = train(case)
        told[case] = without_seconds(history)
        torch.save(model.state_dict(), folder / f"{case}-{os.environ['RANK']}.pt")

    evaluated = []
    settings = config(eval_every=2, save_every=4)
    whole = tiny(dropout=0.2)
    trainer = Trainer(
        whole, lines(), settings, evaluate=lambda m: evaluated.append(1) or dict(dev=0.5)
    )
    told["whole"] = without_seconds(trainer.fit())
    told["evaluated"] = len(evaluated)

    clip, steps = torch.nn.utils.clip_grad_norm_, []

    def interrupted(*given):
        steps.append(1)
        if not first and len(steps) == 4:
            signal.raise_signal(signal.SIGINT)
        return clip(*given)

    torch.nn.utils.clip_grad_norm_ = interrupted
    parts = dict(evaluate=lambda m: dict(dev=0.5), state=folder / f"state-{os.environ['RANK']}")
    try:
        Trainer(tiny(dropout=0.2), lines(), settings, **parts).fit()
    except KeyboardInterrupt:
        told["stopped at"] = len(steps)
    torch.nn.utils.clip_grad_norm_ = clip
    resumed = tiny(dropout=0.2, seed=5 + int(os.environ["RANK"]))
    told["resumed"] = without_seconds(Trainer(resumed, lines(), settings, **parts).fit(resume=True))
    told["as if never stopped"] = same(resumed, whole)
    try:
        Trainer(tiny(), lines(), config(learning_rate=1.0), **parts).fit(resume=True)
    except ValueError as error:
        told["refused"] = str(error)

    told["status"] = [main([*RUN, "--out", str(folder / "run")])]
    try:
        told["status"].append(main([*RUN, "--out", str(folder / "run")]))
    except SystemExit as error:
        told["status"].append(f"exit {error.code}")
    told["result"] = kt.run_experiment(
        "bios:people=20",
        "rope",
        "smoke",
        out=folder / "run",
        resume=True,
        device="cpu",
        overrides=dict(pair.split("=") for pair in RUN if "=" in pair and ":" not in pair),
    ).told["parameters"]
    (folder / f"told-{os.environ['RANK']}.json").write_text(json.dumps(told))


def torchrun(*command, **more):
    """Two processes of that command, in a process group of their own."""
    root = str(HERE.parents[1])
    environment = {k: v for k, v in os.environ.items() if k not in distributed._ADDRESS}
    environment |= dict(OMP_NUM_THREADS="1", KT_PROGRESS="lines", PYTHONPATH=root)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*start, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        **more,
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(folder, what the first process told, what the other told, standard output, standard error)"""
    folder = tmp_path_factory.mktemp("two")
    out, error = torchrun(str(Path(__file__).resolve()), str(folder)).communicate(timeout=600)
    assert (folder / "told-1.json").exists(), error
    told = [json.loads((folder / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    return folder, *told, out, error


@gloo
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_one_process(two, case):
    folder, told, other, _, _ = two
    history, model = train(case)
    # Newton-Schulz steps in bfloat16 blow a last bit up to a bfloat16's; see the module
    near = 1e-5 if case != "muon" else 2e-3
    for row, mine in zip(history, told[case], strict=True):
        assert mine["loss"] == pytest.approx(row["loss"], abs=near)
        assert {k: mine[k] for k in ("step", "epoch", "rate", "characters")} == {
            k: row[k] for k in ("step", "epoch", "rate", "characters")
        }
    assert told[case] == other[case]
    weights = [torch.load(folder / f"{case}-{rank}.pt") for rank in (0, 1)]
    for name, here in model.state_dict().items():
        assert torch.equal(weights[0][name], weights[1][name])  # the processes never part
        if case != "muon":
            assert torch.allclose(weights[0][name], here, atol=2e-4), name


@gloo
@pytest.mark.slow
def test_the_first_process_alone_evaluates_and_writes(two):
    folder, told, other, out, error = two
    assert told["evaluated"] == 5 and other["evaluated"] == 0  # steps 2, 4, 6, 8 and the last, 9
    assert ["dev" in row for row in told["whole"]].count(True) == 5
    assert (folder / "state-0").exists() and not (folder / "state-1").exists()
    assert out.count("dev: Correct:") == 1 and out.count("kept in") == 1
    assert out.count("finetune: step 2/2") == 1
    assert "deprecated" not in error and "strides" not in error


@gloo
@pytest.mark.slow
def test_an_interrupt_of_one_stops_all_at_the_same_step_and_resuming_ends_as_if_never_stopped(two):
    _, told, other, _, _ = two
    assert told["stopped at"] == other["stopped at"] == 4
    assert told["as if never stopped"] and other["as if never stopped"]
    assert told["resumed"] == told["whole"]


@gloo
@pytest.mark.slow
def test_errors_are_shared_and_told_once(two):
    _, told, other, _, error = two
    assert "other settings or data" in told["refused"] and told["refused"] == other["refused"]
    assert told["status"] == [0, 1] and other["status"] == [0, "exit 1"]
    assert error.count("holds a run already") == 1
    assert told["result"] == other["result"]  # a finished run gives its result to all


@gloo
@pytest.mark.slow
def test_a_run_of_two_processes_is_a_run_like_any(two, tmp_path):
    folder = two[0] / "run"
    assert main([*RUN, "--out", str(tmp_path / "one")]) == 0
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {
        str(p.relative_to(tmp_path / "one")) for p in (tmp_path / "one").rglob("*") if p.is_file()
    }
    losses = [
        [json.loads(row)["loss"] for row in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (folder, tmp_path / "one")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert "2 processes" in json.loads((folder / "config.json").read_text())["hardware"]
    assert "processes" not in json.loads((tmp_path / "one" / "config.json").read_text())["hardware"]


@gloo
@pytest.mark.slow
def test_ctrl_c_on_torchrun_leaves_a_run_that_one_process_can_finish(tmp_path):
    more = ["--out", str(tmp_path / "run"), "--set", "pretrain_epochs=10"]
    process = torchrun("-m", "kt_course.tools.cli", *RUN, *more)
    for line in process.stdout:
        if "pretrain: step 6/" in line:
            break
    os.killpg(
        process.pid, signal.SIGINT
    )  # as a terminal does; torchrun sends its processes another
    out, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "pretrain stopped at step" in out and error.count("kt run: stopped") == 1
    assert (tmp_path / "run" / "pretrain.state").exists()
    assert (tmp_path / "run" / "pretrain-stopped.safetensors.json").exists()

    assert main([*RUN, *more, "--resume"]) == 0
    assert main([*RUN, "--set", "pretrain_epochs=10", "--out", str(tmp_path / "whole")]) == 0
    histories = [
        [json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "whole")
    ]
    for mine, row in zip(*histories, strict=True):
        assert mine["step"] == row["step"] and mine["loss"] == pytest.approx(row["loss"], abs=1e-3)


# ---------------------------------------------------------------- one process


def member(rank, size):
    """One of a team that nobody has started."""
    team = distributed.Team.__new__(distributed.Team)
    team.rank, team.size, team.leading, team.interrupted, team.busy = (
        rank,
        size,
        False,
        False,
        False,
    )
    return team


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [1, 2, 4, 7])
def test_shares_add_up_to_the_batch_and_its_mean_loss(size, rows):
    generator = torch.Generator().manual_seed(10 * size + rows)
    x = torch.randint(1, 9, (rows, 6), generator=generator)
    y = torch.randint(1, 9, (rows, 6), generator=generator)
    y[torch.rand(rows, 6, generator=generator) < 0.7] = 0
    y[0, 0] = 3  # something is asked
    x[:, 0] = torch.arange(rows) + 100  # each row is known by its first character
    logits = torch.randn(rows, 6, 9, generator=generator)

    def loss(of, targets):
        return F.cross_entropy(of.flatten(0, 1), targets.flatten(), ignore_index=0)

    parts = [member(rank, size).share(x, y) for rank in range(size)]
    counted = sorted(int(row) for mine, _, weight in parts if weight for row in mine[:, 0])
    silent = {row + 100 for row in range(rows) if not y[row].any()}
    assert set(counted) | silent == {row + 100 for row in range(rows)} and len(set(counted)) == len(
        counted
    )
    losses = [loss(logits[mine[:, 0] - 100], targets) * weight for mine, targets, weight in parts]
    assert all(torch.isfinite(part) for part in losses)
    assert float(sum(losses) / size) == pytest.approx(float(loss(logits, y)), abs=1e-5)


def test_shares_are_of_like_length():
    x = torch.ones(8, 10, dtype=torch.long)
    for row, length in enumerate([9, 1, 8, 2, 7, 3, 6, 4]):
        x[row, length:] = 0
    lengths = [[int(n) for n in (member(rank, 2).share(x, x)[0] != 0).sum(1)] for rank in (0, 1)]
    assert lengths == [[1, 3, 6, 8], [2, 4, 7, 9]]


def test_a_process_alone_joins_nobody(monkeypatch):
    for name in distributed._ADDRESS:
        monkeypatch.delenv(name, raising=False)
    assert distributed.join() is None and not distributed.launched()
    assert distributed.first() and distributed.processes() == 1
    for name, value in dict(
        RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="1"
    ).items():
        monkeypatch.setenv(name, value)
    assert (
        distributed.join() is None and distributed.processes() == 1
    )  # torchrun --nproc-per-node 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_PORT")
    assert distributed.join() is None  # a cluster's own WORLD_SIZE says nothing of torchrun
    assert not dist.is_initialized()


def test_who_is_first(monkeypatch):
    for name, value in dict(
        RANK="1", WORLD_SIZE="3", MASTER_ADDR="localhost", MASTER_PORT="1"
    ).items():
        monkeypatch.setenv(name, value)
    assert distributed.launched() and distributed.processes() == 3 and not distributed.first()
    monkeypatch.setenv("RANK", "0")
    assert distributed.first()


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_devices_that_cannot_serve_are_refused(device):
    trainer = SimpleNamespace(device=torch.device(device))
    with (
        pytest.raises(ValueError, match="--device cpu or cuda"),
        member(0, 2).training(trainer, False),
    ):
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    trainer = SimpleNamespace(device=torch.device("cuda"))
    with (
        pytest.raises(ValueError, match="--nproc-per-node 1"),
        member(1, 2).training(trainer, False),
    ):
        pass


def test_an_interrupt_waits_and_the_handler_before_comes_back():
    team, before = member(0, 2), signal.getsignal(signal.SIGINT)
    with team.training(SimpleNamespace(device=torch.device("cpu")), False):
        signal.raise_signal(signal.SIGINT)
        assert team.interrupted and team.busy
    assert signal.getsignal(signal.SIGINT) is before and not team.busy


def test_random_draws_are_the_first_ones_own_and_differ_between_steps_and_processes():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    member(0, 2).seed(0, 1)
    assert torch.equal(torch.get_rng_state(), before)
    draws = set()
    for rank, step, seed in ((1, 1, 0), (1, 2, 0), (2, 1, 0), (1, 1, 1)):
        member(rank, 3).seed(seed, step)
        draws.add(float(torch.rand(())))
    assert len(draws) == 4
    member(1, 3).seed(0, 1)
    assert float(torch.rand(())) in draws


if __name__ == "__main__":
    script(Path(sys.argv[1]))
