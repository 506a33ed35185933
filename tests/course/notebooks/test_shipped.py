"""What ships: checkpoints that load, results, learning curves."""

from __future__ import annotations

import pytest

import kt_core as kt
from kt_course import shipped as shipped_module
from kt_course.shipped import learning_curve, shipped, shipped_cards, shipped_path, shipped_result


def test_names(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped_module, "checkpoints_dir", lambda: tmp_path)
    path = tmp_path / "bios-rope-pretrained.safetensors"
    assert shipped_path("bios", "rope", "pretrained") == path
    with pytest.raises(ValueError, match="wiki, rope, scratch; there are: none"):
        shipped("wiki", "rope", "scratch")
    assert shipped_cards() == {}


def test_the_recipes_are_there():
    assert set(shipped_module.RECIPE_OF.values()) <= set(kt.RECIPES)


def test_what_ships_with_the_project_loads():
    """Every checkpoint that is there is sound, small and belongs to its name."""
    for name, card in shipped_cards().items():
        corpus, variant, phase = name.split("-")
        model, vocab, _ = shipped(corpus, variant, phase)
        assert (model.config.variant, len(vocab)) == (variant, model.config.vocab_size)
        assert card["corpus"] == corpus
        size = shipped_path(corpus, variant, phase).stat().st_size
        assert size <= 2.1 * model.n_parameters() + 20_000  # two bytes per parameter


def test_a_result_is_read_by_name():
    assert shipped_result("bios-rope-seed0")["variant"] == "rope"


def test_the_learning_curve_of_a_run_that_ships_or_none():
    rows = learning_curve("bios", "rope")
    assert {row["phase"] for row in rows} <= {"pretrain", "finetune"}
    assert rows[-1]["characters"] > 0
    assert learning_curve("bios", "rope", seed=77) == []
