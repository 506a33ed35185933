"""Runs killed at random moments (SIGKILL, up to four times) and resumed: the same bytes at the end.

The runs are forks of this process, so that a start costs no imports. Half of them
are of another variant and optimiser, and a state is saved at every third step.
"""

import json
import os
import random
import signal
import time
import warnings

import pytest
import torch
import torch._dynamo  # noqa: F401 - every optimiser imports it, which would take most of a run

from kt_core.corpora.files import sha256
from kt_core.runs.experiment import run_experiment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: Linux or macOS"),
]
N_RUNS = 9
SETTINGS = {
    "model.n_layer": 2,
    "model.n_head": 2,
    "model.n_embd": 16,
    "model.block_size": 64,
    "model.dropout": 0.1,
    "pretrain.epochs": 1,
    "pretrain.batch_size": 16,
    "finetune.epochs": 3,
    "finetune.batch_size": 4,
}


def start(folder, variant, optimizer):
    """Fork a process that runs or resumes; return its id."""
    with warnings.catch_warnings(action="ignore"):
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        torch.set_num_threads(1)
        overrides = SETTINGS | {"pretrain.optimizer": optimizer}
        run_experiment(
            "bios:people=20",
            variant,
            "smoke",
            out=folder,
            overrides=overrides,
            device="cpu",
            resume=True,
            save_every=3,
        )
        status = 0
    finally:
        os._exit(status)


def finish(pid):
    """Wait for a process; return how it ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fingerprint(folder):
    """Digests of all that a run leaves and that must not depend on kills."""
    names = ["pretrained.safetensors", "finetuned.safetensors"]
    names += ["predictions/dev.txt", "predictions/test.txt"]
    digests = {name: sha256((folder / name).read_bytes()) for name in names}
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    digests["metrics"] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    result = json.loads((folder / "result.json").read_text())
    return digests | {split: result[split] for split in ("dev", "test", "london")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs by (variant, optimiser): what they leave, and how long they took."""
    runs = {}
    assert finish(start(tmp_path_factory.mktemp("warm") / "run", "rope", "muon")) == 0
    for key in (("rope", "muon"), ("vanilla", "adamw")):
        folder, began = tmp_path_factory.mktemp("whole") / "run", time.monotonic()
        assert finish(start(folder, *key)) == 0
        runs[key] = fingerprint(folder), time.monotonic() - began
    return runs


@pytest.mark.parametrize("number", range(N_RUNS))
def test_a_killed_run_ends_as_if_it_had_never_been_killed(tmp_path, whole, number):
    rng = random.Random(number)
    key = list(whole)[number % 2]
    expected, seconds = whole[key]
    for _ in range(rng.randint(1, 4)):
        pid = start(tmp_path / "run", *key)
        time.sleep(rng.uniform(0, 0.6 * seconds))
        os.kill(pid, signal.SIGKILL)
        if finish(pid) == 0:  # it was quicker
            break
    assert finish(start(tmp_path / "run", *key)) == 0
    assert fingerprint(tmp_path / "run") == expected
    left = {path.name for path in (tmp_path / "run").iterdir() if path.suffix == ".state"}
    assert not left
