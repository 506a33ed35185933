"""What notebooks share: parameters that cannot be mistyped, models by profile, results."""

from __future__ import annotations

import json

import pytest
import torch

import kt_core as kt
from kt_core.trainer import Trainer
from kt_course import shipped as shipping
from kt_course.lesson import start_lesson

TINY = {
    "model.block_size": 64,
    "model.bottleneck": 32,
    "model.n_embd": 16,
    "pretrain.epochs": 1,
    "pretrain.batch_size": 32,
}


@pytest.fixture
def cell(tmp_path):
    """A notebook's globals right behind its parameters cell."""
    return dict(
        __name__="__main__",
        _=None,
        In=["", "import kt_core as kt"],
        Out={},
        kt=kt,
        profile="smoke",
        corpus="bios:people=20",
        variant="rope",
        seed=2,
        device="cpu",
        runs_dir=str(tmp_path / "runs"),
        overrides=dict(TINY),
    )


# ---------------------------------------------------------------- parameters


def test_what_the_parameters_say(cell, tmp_path):
    lesson = start_lesson("06_perceiver_ar", cell)
    assert (lesson.profile, lesson.variant, lesson.seed, str(lesson.device)) == (
        "smoke",
        "rope",
        2,
        "cpu",
    )
    assert lesson.recipe == kt.recipe("smoke", **TINY)
    assert lesson.runs_dir == tmp_path / "runs"
    assert len(lesson.corpus.documents) == 80
    assert lesson.corpus is lesson.corpus
    assert [lesson.pick(smoke=1, quick=2, full=3)] == [1]


def test_defaults():
    lesson = start_lesson("01_attention_math", {})
    assert (lesson.profile, lesson.variant, lesson.seed, lesson.corpus_name) == (
        "quick",
        "vanilla",
        0,
        "bios",
    )
    assert lesson.recipe == kt.recipe("quick")
    assert lesson.pick(smoke=1, quick=2, full=3) == 2


@pytest.mark.parametrize(
    ("corpus", "profile", "name"),
    [
        ("bios", "quick", "quick"),
        ("wiki", "quick", "kt"),
        ("wiki", "full", "kt"),
        ("wiki", "smoke", "smoke"),
        ("mine", "full", "quick"),
    ],
)
def test_the_recipe_follows_the_corpus_and_the_profile(corpus, profile, name):
    lesson = start_lesson("x", dict(profile=profile, corpus=corpus))
    assert lesson.recipe.name == name
    assert lesson.pick(smoke="s", quick="q", full="f") == profile[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            dict(profil="quick"),
            r"no parameter 'profil', did you mean 'profile'\? known: profile, corpus, variant",
        ),
        (dict(sede=3), r"did you mean 'seed'"),
        (dict(zzz=3), r"no parameter 'zzz'; known: "),
        (dict(profile="fast"), r"no profile 'fast'.*smoke, quick, full"),
        (dict(profile="ful"), r"did you mean 'full'"),
        (dict(variant="perceiverar"), r"did you mean 'perceiver_ar'"),
        (dict(device="gpu"), r"device"),
        (dict(seed="3"), r"parameter seed must be a int, not '3'"),
        (dict(seed=1.0), r"parameter seed must be"),
        (dict(seed=True), r"parameter seed must be"),
        (dict(profile=None), r"parameter profile must be"),
        (dict(overrides="{}"), r"parameter overrides must be a dict"),
        (dict(overrides={"finetune.epoch": 5}), r"did you mean 'finetune.epochs'"),
        (dict(overrides={"finetune.epochs": "long"}), r"epochs"),
        (dict(overrides={"model.n_embd": 15}), r"n_embd"),
    ],
)
def test_wrong_parameters_name_the_known_ones(cell, change, words):
    with pytest.raises(ValueError, match=words):
        start_lesson("x", cell | change)


def test_an_unknown_corpus_is_told_when_it_is_loaded():
    with pytest.raises(ValueError, match="no such corpus"):
        _ = start_lesson("x", dict(corpus="nowhere")).corpus


def test_the_cell_can_be_run_again_when_later_cells_have_made_names(cell):
    cell["lesson"] = start_lesson("x", cell)
    cell |= dict(accuracy=0.5, rows=[1], title="t")
    cell["lesson"] = start_lesson("x", cell)
    assert cell["lesson"].seed == 2


def test_it_seeds_torch(cell):
    numbers = []
    for _ in range(2):
        start_lesson("x", cell)
        numbers.append(torch.rand(3))
    assert torch.equal(*numbers)


# ---------------------------------------------------------------- models by profile


def test_smoke_models_are_trained_once_and_used_again(cell, monkeypatch):
    lesson = start_lesson("x", cell)
    model, vocab, card = lesson.pretrained()
    assert (model.config.variant, model.config.n_embd, card["phase"], card["seed"]) == (
        "rope",
        16,
        "pretrain",
        2,
    )
    assert vocab == lesson.corpus.vocab
    start = kt.GPT(model.config)
    assert not torch.equal(model.tok_emb.weight, start.tok_emb.weight)
    assert card["cost"]["steps"] == 3

    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it is trained already"))
    again, _, _ = start_lesson("another", cell).pretrained("rope")
    assert torch.equal(again.head.weight, model.head.weight)
    tuned, _, card = lesson.finetuned()
    assert card["phase"] == "finetune"
    assert not torch.equal(tuned.head.weight, model.head.weight)


def test_scratch_is_the_vanilla_model_without_pretraining(cell):
    model, _, card = start_lesson("x", cell).scratch()
    assert (model.config.variant, card["kind"], card["phase"]) == (
        "vanilla",
        "no-pretrain",
        "finetune",
    )


@pytest.mark.parametrize("ask", ["pretrained", "finetuned"])
def test_an_unknown_variant_is_refused(cell, ask):
    with pytest.raises(ValueError, match="did you mean 'vanilla'"):
        getattr(start_lesson("x", cell), ask)("vanila")


def test_quick_takes_what_ships_and_names_it_when_it_does_not(cell, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "checkpoints_dir", lambda: tmp_path)
    lesson = start_lesson("x", cell | dict(profile="quick"))
    with pytest.raises(
        ValueError,
        match="no checkpoint ships for bios:people=20, rope, pretrained; there are: none",
    ):
        lesson.pretrained()
    vocab = kt.CharVocab("ab")
    for name in ("bios:people=20-rope-pretrained", "bios-vanilla-scratch"):
        kt.save_checkpoint(
            tmp_path / f"{name}.safetensors",
            kt.GPT(kt.recipe("quick", **TINY).model_config(4, "rope")),
            vocab,
            {"is": name},
        )
    assert lesson.pretrained()[2]["is"] == "bios:people=20-rope-pretrained"
    other = start_lesson("x", cell | dict(profile="quick", overrides=TINY | {"model.n_layer": 3}))
    with pytest.raises(
        ValueError, match="the shipped rope model cannot have n_layer 3: profile full"
    ):
        other.pretrained()
    with pytest.raises(
        ValueError, match="there are: bios-vanilla-scratch, bios:people=20-rope-pretrained"
    ):
        lesson.finetuned()
    with pytest.raises(ValueError, match="perceiver"):
        lesson.pretrained("perceiver")


def test_where_the_finetuned_models_alone_ship_they_stand_in_and_it_is_said(
    cell, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(shipping, "checkpoints_dir", lambda: tmp_path)
    model = kt.GPT(kt.recipe("quick", **TINY).model_config(4, "rope"))
    kt.save_checkpoint(
        tmp_path / "bios:people=20-rope-finetuned.safetensors",
        model,
        kt.CharVocab("ab"),
        {"is": "it"},
    )
    assert start_lesson("x", cell | dict(profile="quick")).pretrained()[2]["is"] == "it"
    assert (
        "on bios:people=20 the finetuned models alone ship: this is that of rope"
        in capsys.readouterr().out
    )


# ---------------------------------------------------------------- the last cell


def test_the_result_file(cell, tmp_path, capsys):
    lesson = start_lesson("04_no_pretrain_baseline", cell)
    for _ in range(2):  # cells can be run twice
        lesson.result(score=kt.Score(3, 60), above="no", curve=[1.0, 0.5])
        assert (
            capsys.readouterr().out
            == "04_no_pretrain_baseline (smoke): 3 results kept in 04_no_pretrain_baseline.json\n"
        )
    result = json.loads((tmp_path / "runs" / "04_no_pretrain_baseline.json").read_text())
    assert result["notebook"] == "04_no_pretrain_baseline"
    assert result["parameters"]["overrides"] == TINY
    assert result["facts"]["above"] == "no"
    assert result["facts"]["score"] == {
        "correct": 3,
        "total": 60,
        "accuracy": 0.05,
        "low": 0.0171,
        "high": 0.137,
    }
