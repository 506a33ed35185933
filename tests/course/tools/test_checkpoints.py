"""kt checkpoints: the shipped models trained again, in stages, half precision at the end."""

from __future__ import annotations

import json

import pytest
import torch

import kt_core as kt
from kt_core.blocks import VARIANTS
from kt_core.runs import hooks
from kt_core.trainer import Trainer
from kt_course import shipped
from kt_course.tools import checkpoints
from kt_course.tools.checkpoints import keep_result, retrain, ship, training_plan
from kt_course.tools.cli import main

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


@pytest.fixture(autouse=True)
def small_recipe(monkeypatch):
    monkeypatch.setitem(shipped.RECIPE_OF, CORPUS, TINY)


@pytest.fixture
def plan(monkeypatch):
    """A plan of training of our own, empty at first."""
    content = dict(models={}, stages={})
    monkeypatch.setattr(checkpoints, "training_plan", lambda: content)
    return content


def stage(variant, **settings):
    return dict(variant=variant, recipe=TINY, settings=settings)


def test_the_plan_names_recipes_settings_and_stages():
    content = training_plan()
    for model in content["models"].values():
        assert set(model["stages"]) <= set(content["stages"])
    for each in content["stages"].values():
        assert kt.recipe(each["recipe"], **each.get("settings", {}))


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
    given = (CORPUS, ["vanilla", "rope"], 0, tmp_path / "runs", tmp_path / "out")
    retrain(*given)
    out = capsys.readouterr().out
    assert out.count(f"{CORPUS} vanilla: dev Correct: ") == 1
    assert out.count(f"{CORPUS} vanilla without pretraining: dev Correct: ") == 1
    names = "vanilla-pretrained vanilla-finetuned vanilla-scratch rope-pretrained rope-finetuned"
    files = {path.stem: path for path in (tmp_path / "out").glob("*.safetensors")}
    assert set(files) == {f"{CORPUS}-{name}" for name in names.split()}
    contents = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    _, _, card = kt.load_checkpoint(files[f"{CORPUS}-vanilla-scratch"])
    assert (card["kind"], card["phase"]) == ("no-pretrain", "finetune")

    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it is trained already"))
    retrain(*given)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == contents


def test_a_second_stage_continues_from_the_first_which_two_variants_share(
    tmp_path, monkeypatch, plan
):
    plan["stages"]["first"] = stage("rope")
    for variant in ("rope", "perceiver_ar"):
        plan["stages"][variant] = stage(variant, **{"pretrain.epochs": 2})
        plan["models"][f"{CORPUS}-{variant}"] = dict(stages=["first", variant])
    fit, epochs = Trainer.fit, []

    def counting(self):
        epochs.append(self.config.epochs)
        return fit(self)

    monkeypatch.setattr(Trainer, "fit", counting)
    retrain(CORPUS, ["rope", "perceiver_ar"], 0, tmp_path / "runs", tmp_path / "out")
    assert epochs.count(2) == 2 and (tmp_path / "runs" / f"{CORPUS}-rope-stage1-seed0").is_dir()
    for variant in ("rope", "perceiver_ar"):
        path = tmp_path / "out" / f"{CORPUS}-{variant}-pretrained.safetensors"
        _, _, card = kt.load_checkpoint(path)
        assert (card["variant"], card["recipe"]["pretrain"]["epochs"]) == (variant, 2)
        assert (card["cost"]["epochs"], card["cost"]["before"]["epochs"]) == (2, 1)
        assert card["cost"]["before"]["variant"] == "rope"


def test_the_last_stages_may_be_averaged(tmp_path, plan):
    plan["stages"] |= dict(one=stage("rope"), two=stage("rope", **{"pretrain.muon_lr": 1e-3}))
    settings = {"finetune.lr": 1e-5}
    plan["models"][f"{CORPUS}-rope"] = dict(stages=["one", "two"], average=2, settings=settings)
    retrain(CORPUS, ["rope"], 0, tmp_path / "runs", tmp_path / "out")
    ends = [
        tmp_path / "runs" / f"{CORPUS}-rope-stage{n}-seed0" / "pretrained.safetensors"
        for n in (1, 2)
    ]
    _, _, card = kt.load_checkpoint(tmp_path / "out" / f"{CORPUS}-rope-finetuned.safetensors")
    assert card["init"] == " + ".join(map(str, ends)) and card["phase"] == "finetune"
    recipe = card["recipe"]
    assert (recipe["pretrain"]["muon_lr"], recipe["finetune"]["lr"]) == (1e-3, 1e-5)


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
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert {key: value for key, value in kept.items() if key != "curve"} == result.details
    assert {row["phase"] for row in kept["curve"]} == {"finetune"}


def test_the_command(tmp_path, monkeypatch):
    calls, folder = [], str(tmp_path)
    monkeypatch.setattr(checkpoints, "retrain", lambda *given: calls.append(given))
    assert main(["checkpoints", "--variant", "rope", "--runs", folder, "--seed", "3"]) == 0
    assert main(["checkpoints", "--corpus", "wiki", "--out", folder, "--runs", folder]) == 0
    assert calls[0] == ("bios", ["rope"], 3, tmp_path, None)
    assert calls[1] == ("wiki", VARIANTS, 0, tmp_path, tmp_path)
