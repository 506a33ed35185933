"""Several processes train as one would: the same losses and weights, and one that writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from small_training import config, lines, same, tiny, without_seconds

import kt_core as kt
from kt_core.runs import distributed

TESTS = Path(__file__).resolve().parents[1]
gloo = pytest.mark.skipif(
    os.name == "nt" or not (dist.is_available() and dist.is_gloo_available()),
    reason="needs torchrun with gloo",
)
# variant, settings and options; a batch of five rows leaves one process without a row at the end
CASES = {
    "vanilla": ("vanilla", dict(batch_size=3), {}),
    "rope": ("rope", dict(batch_size=4, bucket=False), {}),
    "parts": ("vanilla", dict(batch_size=8, bucket=False), dict(micro_batches=3)),
    "perceiver": ("perceiver", dict(batch_size=5), {}),
    "perceiver_ar": ("perceiver_ar", dict(batch_size=9), {}),
    "muon": ("rope", dict(batch_size=4, optimizer="muon"), {}),
}
OVERRIDES = {
    "model.block_size": 64,
    "model.n_embd": 16,
    "pretrain.epochs": 1,
    "pretrain.batch_size": 16,
    "finetune.epochs": 2,
    "pretrain.optimizer": "adamw",
    "finetune.optimizer": "adamw",
}


def train(case):
    """(history, model) of a case, in however many processes."""
    variant, settings, options = CASES[case]
    model = tiny(variant)
    return kt.fit(model, lines(), config(**settings), **options), model


def run(folder, epochs=1, **more):
    options = dict(overrides=OVERRIDES | {"pretrain.epochs": epochs}, device="cpu", **more)
    return kt.run_experiment("bios:people=20", "rope", "smoke", out=folder, **options)


# ---------------------------------------------------------------- two processes


def script(folder):
    """What each of the two processes does."""
    rank, results = int(os.environ["RANK"]), {}
    for case in CASES:
        history, model = train(case)
        results[case] = without_seconds(history)
        torch.save(model.state_dict(), folder / f"{case}-{rank}.pt")

    options = dict(evaluate=lambda m: dict(dev=0.5), save_every=4, state=folder / "state")
    whole = tiny(dropout=0.2)
    results["whole"] = without_seconds(kt.fit(whole, lines(), config(eval_every=2), **options))
    clip, steps = torch.nn.utils.clip_grad_norm_, []

    def interrupted(*arguments):
        steps.append(1)
        if rank and len(steps) == 4:
            signal.raise_signal(signal.SIGINT)
        return clip(*arguments)

    torch.nn.utils.clip_grad_norm_ = interrupted
    try:
        kt.fit(tiny(dropout=0.2), lines(), config(eval_every=2), **options)
    except KeyboardInterrupt:
        results["stopped at"] = len(steps)
    torch.nn.utils.clip_grad_norm_ = clip
    options["resume"] = True
    resumed = tiny(dropout=0.2, seed=5 + rank)
    results["resumed"] = without_seconds(kt.fit(resumed, lines(), config(eval_every=2), **options))
    results["as if never stopped"] = same(resumed, whole)
    try:
        kt.fit(tiny(), lines(), config(lr=1.0), **options)
    except ValueError as error:
        results["refused"] = str(error)

    results["parameters"] = run(folder / "run").details["parameters"]
    try:
        run(folder / "run")
    except ValueError as error:
        results["refused run"] = str(error)
    results["finished run"] = run(folder / "run", resume=True).details["parameters"]
    (folder / f"results-{rank}.json").write_text(json.dumps(results))


def torchrun(*command):
    """Two processes of that command, in a process group of their own."""
    environment = {k: v for k, v in os.environ.items() if k not in distributed.ADDRESS}
    environment |= dict(OMP_NUM_THREADS="1")
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    return subprocess.Popen([*start, *command], env=environment, **pipes)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(folder, results of the first process, results of the other, standard output and error)"""
    folder = tmp_path_factory.mktemp("two")
    out, error = torchrun(str(Path(__file__).resolve()), str(folder)).communicate(timeout=600)
    assert (folder / "results-1.json").exists(), error
    results = [json.loads((folder / f"results-{rank}.json").read_text()) for rank in (0, 1)]
    return folder, *results, out, error


@gloo
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_one_process(two, case):
    folder, first, other, _, _ = two
    history, model = train(case)
    # Newton-Schulz steps in bfloat16 make more of a rounding error
    tolerance = 1e-5 if case != "muon" else 2e-3
    for row, mine in zip(history, first[case], strict=True):
        assert mine["loss"] == pytest.approx(row["loss"], abs=tolerance)
        keys = ("step", "epoch", "rate", "characters")
        assert {k: mine[k] for k in keys} == {k: row[k] for k in keys}
    assert first[case] == other[case]
    weights = [torch.load(folder / f"{case}-{rank}.pt") for rank in (0, 1)]
    for name, here in model.state_dict().items():
        assert torch.equal(weights[0][name], weights[1][name])  # the processes agree exactly
        if case != "muon":
            assert torch.allclose(weights[0][name], here, atol=2e-4), name


@gloo
@pytest.mark.slow
def test_an_interrupt_of_one_stops_all_at_the_same_step_and_resuming_ends_as_if_never_stopped(two):
    _, first, other, out, _ = two
    assert first["stopped at"] == other["stopped at"] == 4
    assert first["as if never stopped"] and other["as if never stopped"]
    assert first["resumed"] == first["whole"] == other["resumed"]
    assert out.count("training stopped at step 4 of 9") == 1  # the first process alone prints


@gloo
@pytest.mark.slow
def test_errors_and_results_are_the_same_in_all_processes(two):
    _, first, other, _, error = two
    assert "other settings or data" in first["refused"] and first["refused"] == other["refused"]
    assert "holds a run already" in first["refused run"]
    assert first["refused run"] == other["refused run"]
    assert first["parameters"] == first["finished run"] == other["finished run"]
    assert "deprecated" not in error and "strides" not in error


@gloo
@pytest.mark.slow
def test_a_run_of_two_processes_is_a_run_like_any(two, tmp_path):
    folders = two[0] / "run", run(tmp_path / "one").path
    files = [{str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in folders]
    assert files[0] == files[1]
    losses = [
        [json.loads(row)["loss"] for row in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in folders
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    hardware = [json.loads((f / "config.json").read_text())["hardware"] for f in folders]
    assert "2 processes" in hardware[0] and "processes" not in hardware[1]


@gloo
@pytest.mark.slow
def test_ctrl_c_on_torchrun_leaves_a_run_that_one_process_can_finish(tmp_path):
    process = torchrun(str(Path(__file__).resolve()), str(tmp_path / "run"), "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"step": 6' in metrics.read_text()):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does; torchrun adds signals of its own
    out, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert out.count("pretrain stopped at step") == 1, error
    assert (tmp_path / "run" / "pretrain.state").exists()
    assert (tmp_path / "run" / "pretrain-stopped.safetensors.json").exists()

    run(tmp_path / "run", epochs=10, resume=True)
    run(tmp_path / "whole", epochs=10)
    histories = [
        [json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "whole")
    ]
    for mine, row in zip(*histories, strict=True):
        assert mine["step"] == row["step"] and mine["loss"] == pytest.approx(row["loss"], abs=1e-3)


# ---------------------------------------------------------------- one process


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [1, 2, 4, 7])
def test_shares_add_up_to_the_batch_and_its_mean_loss(size, rows):
    generator = torch.Generator().manual_seed(10 * size + rows)
    x = torch.randint(1, 9, (rows, 6), generator=generator)
    y = torch.randint(1, 9, (rows, 6), generator=generator)
    y[torch.rand(rows, 6, generator=generator) < 0.7] = 0
    y[0, 0] = 3  # something has a loss
    x[:, 0] = torch.arange(rows) + 100  # each row is known by its first character
    logits = torch.randn(rows, 6, 9, generator=generator)

    def loss(of, targets):
        return F.cross_entropy(of.flatten(0, 1), targets.flatten(), ignore_index=0)

    parts = [distributed.share(x, y, rank, size) for rank in range(size)]
    counted = sorted(int(row) for (mine, _), weight in parts if weight for row in mine[:, 0])
    silent = {row + 100 for row in range(rows) if not y[row].any()}
    assert set(counted) | silent == {row + 100 for row in range(rows)}
    assert len(set(counted)) == len(counted)
    losses = [loss(logits[mine[:, 0] - 100], targets) * weight for (mine, targets), weight in parts]
    assert all(torch.isfinite(part) for part in losses)
    assert float(sum(losses) / size) == pytest.approx(float(loss(logits, y)), abs=1e-5)


def test_shares_are_of_similar_length():
    x = torch.ones(8, 10, dtype=torch.long)
    for row, length in enumerate([9, 1, 8, 2, 7, 3, 6, 4]):
        x[row, length:] = 0
    shares = [distributed.share(x, x, rank, 2)[0][0] for rank in (0, 1)]
    assert [(rows != 0).sum(1).tolist() for rows in shares] == [[1, 3, 6, 8], [2, 4, 7, 9]]


@pytest.fixture
def torchruns(monkeypatch):
    """Set what torchrun sets: torchruns(rank, size)."""

    def pretend(rank, size):
        values = (str(rank), str(size), "localhost", "1")
        for name, value in zip(distributed.ADDRESS, values, strict=True):
            monkeypatch.setenv(name, value)

    for name in distributed.ADDRESS:
        monkeypatch.delenv(name, raising=False)
    return pretend


def test_a_process_alone_joins_nobody(torchruns, monkeypatch):
    assert distributed.is_first() and distributed.processes() == 1
    assert distributed.anywhere(True) and not distributed.anywhere()
    torchruns(0, 1)  # torchrun --nproc-per-node 1
    assert distributed.anywhere(True) and distributed.processes() == 1
    torchruns(1, 2)
    monkeypatch.delenv("MASTER_PORT")  # a cluster's own WORLD_SIZE is not torchrun's
    assert distributed.processes() == 1 and distributed.is_first()
    assert not dist.is_initialized()


def test_who_is_first(torchruns):
    torchruns(1, 3)
    assert distributed.processes() == 3 and not distributed.is_first()
    torchruns(0, 3)
    assert distributed.is_first()


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_devices_that_cannot_serve_are_refused(device):
    trainer = SimpleNamespace(device=torch.device(device))
    with pytest.raises(ValueError, match="use cpu or cuda"):
        distributed.DataParallel().on_start(trainer)


def test_more_processes_than_gpus_are_refused(torchruns, monkeypatch):
    torchruns(1, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="--nproc-per-node 1"):
        distributed.DataParallel().on_start(SimpleNamespace(device=torch.device("cuda")))


if __name__ == "__main__":
    if sys.argv[2:] == ["run"]:
        run(Path(sys.argv[1]), epochs=10)
    else:
        script(Path(sys.argv[1]))
