"""tools/checkpoints.py: the shipped models trained again, half precision at the end."""

from __future__ import annotations

import json

import checkpoints
import pytest
import torch
from checkpoints import PlannedRun, keep_result, main, planned_runs, retrain, ship

import kt_core as kt
from kt_core.blocks import VARIANTS
from kt_core.runs import hooks
from kt_core.trainer import Trainer
from kt_course import shipped

CORPUS = "bios:people=20"
SMALL = {
    "model.block_size": 64,
    "model.bottleneck": 32,
    "model.n_embd": 16,
    "pretrain.epochs": 1,
    "pretrain.batch_size": 32,
    "finetune.batch_size": 4,
    "scratch.batch_size": 4,
}
TINY = kt.recipe("smoke", **SMALL)


PLAN = [
    PlannedRun(CORPUS, ships=dict(pretrained="pretrained", finetuned="finetuned")),
    PlannedRun(CORPUS, "scratch", TINY, ["vanilla"], False, dict(finetuned="scratch")),
]


@pytest.fixture(autouse=True)
def small_runs(monkeypatch):
    monkeypatch.setitem(shipped.RECIPE_OF, CORPUS, TINY)
    monkeypatch.setattr(checkpoints, "planned_runs", lambda: PLAN)


def test_the_plan_names_recipes_and_phases_once():
    planned, phases = planned_runs(), []
    for run in planned:
        assert kt.recipe(run.recipe or shipped.RECIPE_OF[run.corpus])
        assert set(run.ships) <= {"pretrained", "finetuned"}
        phases += [(run.corpus, variant, p) for variant in run.variants for p in run.ships.values()]
    names = [run.folder_name(variant, 0) for run in planned for variant in run.variants]
    assert len(set(phases)) == len(phases) and len(set(names)) == len(names)
    assert {"bios-rope-seed0", "bios-vanilla-scratch-seed0", "wiki-rope-pure-seed0"} <= set(names)


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_and_back(tmp_path, variant):
    torch.manual_seed(0)
    model, vocab = kt.GPT(kt.GPTConfig(4, 16, 2, 2, 16, variant, 8, 0.0)), kt.CharVocab("ab")
    card = {"seed": 7, "dev": {"correct": 3}}
    ship(model, vocab, card, tmp_path / "a.safetensors", None)
    again, same_vocab, card = kt.load_checkpoint(tmp_path / "a.safetensors")
    assert same_vocab == vocab and again.config == model.config
    assert (card["seed"], card["dev"]["correct"]) == (7, 3)
    for name, tensor in model.state_dict().items():
        loaded = again.state_dict()[name]
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, tensor.half().float())


def test_retrain_makes_every_checkpoint_and_again_trains_nothing(tmp_path, capsys, monkeypatch):
    arguments = (CORPUS, ["vanilla", "rope"], 0, tmp_path / "runs", tmp_path / "out")
    retrain(*arguments)
    out = capsys.readouterr().out
    assert out.count(f"{CORPUS}-vanilla-seed0: dev Correct: ") == 1
    assert out.count(f"{CORPUS}-vanilla-scratch-seed0: dev Correct: ") == 1
    names = "vanilla-pretrained vanilla-finetuned vanilla-scratch rope-pretrained rope-finetuned"
    files = {path.stem: path for path in (tmp_path / "out").glob("*.safetensors")}
    assert set(files) == {f"{CORPUS}-{name}" for name in names.split()}
    contents = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    _, _, card = kt.load_checkpoint(files[f"{CORPUS}-vanilla-scratch"])
    assert (card["kind"], card["phase"]) == ("no-pretrain", "finetune")

    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it is trained already"))
    retrain(*arguments)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == contents


def test_a_stopped_retraining_is_resumed(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    retrain(CORPUS, ["rope"], 0, tmp_path / "a", whole)

    def stop(self, trainer):
        raise hooks.Stopped

    with monkeypatch.context() as patch:
        patch.setattr(hooks.Progress, "on_step", stop)
        with pytest.raises(KeyboardInterrupt):
            retrain(CORPUS, ["rope"], 0, tmp_path / "b", parts)
    assert not parts.exists()
    retrain(CORPUS, ["rope"], 0, tmp_path / "b", parts)
    name = f"{CORPUS}-rope-finetuned.safetensors"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_a_result_is_kept_with_its_learning_curve(tmp_path):
    result = kt.run_experiment(CORPUS, "vanilla", TINY, False, out=tmp_path / "run", device="cpu")
    keep_result(result.path, tmp_path / "kept.json")
    content = json.loads((tmp_path / "kept.json").read_text())
    assert {key: value for key, value in content.items() if key != "curve"} == result.details
    assert {row["phase"] for row in content["curve"]} == {"finetune"}


def test_the_command(tmp_path, monkeypatch):
    calls, folder = [], str(tmp_path)
    monkeypatch.setattr(checkpoints, "retrain", lambda *arguments: calls.append(arguments))
    main(["--variant", "rope", "--runs", folder, "--seed", "3"])
    main(["--corpus", "wiki", "--out", folder, "--runs", folder])
    assert calls[0] == ("bios", ["rope"], 3, tmp_path, None)
    assert calls[1] == ("wiki", VARIANTS, 0, tmp_path, tmp_path)
