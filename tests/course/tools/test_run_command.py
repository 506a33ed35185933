"""`kt run`: the same run as `run_experiment`, and no run is overwritten."""

from __future__ import annotations

import re

import torch

import kt_core as kt
from kt_course.tools.cli import main

OPTIONS = {
    "model.block_size": 64,
    "model.n_embd": 16,
    "pretrain.epochs": 1,
    "pretrain.batch_size": 16,
    "finetune.epochs": 2,
}
CORPUS = "bios:people=20"


def weights(folder):
    return kt.load_checkpoint(folder / "finetuned.safetensors")[0].state_dict()


def test_kt_run_prints_the_scores_and_refuses_to_overwrite(tmp_path, capsys):
    options = dict(recipe="smoke", out=tmp_path / "b", overrides=OPTIONS, device="cpu")
    kt.run_experiment(CORPUS, **options)
    command = ["run", "--corpus", CORPUS, "--recipe", "smoke", "--device", "cpu"]
    command += ["--out", str(tmp_path / "a")]
    for key, value in OPTIONS.items():
        command += ["--set", f"{key}={value}"]
    assert main(command) == 0
    out = capsys.readouterr().out
    interval = r"\(95 % interval \d+\.\d to \d+\.\d%\)"
    assert re.search(rf"^dev: Correct: \d+ out of 5: \d+\.\d% {interval}$", out, re.M)
    assert re.search(r"^test: Correct: \d+ out of 5: ", out, re.M)
    mine, theirs = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert main(command) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--resume", "--seed", "4"]) == 2
    assert "seed was 0, now 4" in capsys.readouterr().err
