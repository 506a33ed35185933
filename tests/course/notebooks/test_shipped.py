"""What ships: checkpoints that load, results, learning curves over several stages."""

from __future__ import annotations

import json

import pytest

import kt_core as kt
from kt_course import shipped as shipped_module
from kt_course.shipped import (
    costs_before,
    learning_curve,
    shipped,
    shipped_cards,
    shipped_path,
    shipped_result,
)


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


def test_the_curve_of_a_later_stage_continues_those_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped_module, "data_dir", lambda: tmp_path)
    results = tmp_path / "results"
    results.mkdir()

    def keep(name, before, *rows):
        curve = [dict(phase=phase, characters=c, seconds=s) for phase, c, s in rows]
        cost = dict(characters=rows[-2][1], seconds=rows[-2][2])
        cost |= dict(before=before) if before else {}
        text = json.dumps(dict(pretraining=cost, curve=curve))
        (results / f"wiki-{name}-seed0.json").write_text(text)
        return cost

    def read(variant):
        return [tuple(row.values()) for row in learning_curve("wiki", variant)]

    first = keep("rope", None, ("pretrain", 50, 4.0), ("pretrain", 100, 9.0), ("finetune", 7, 1.0))
    assert read("rope") == [("pretrain", 50, 4.0), ("pretrain", 100, 9.0), ("finetune", 7, 1.0)]
    (results / "wiki-rope-seed0.json").rename(results / "wiki-rope-stage2-seed0.json")
    second = keep("rope-stage10", first, ("pretrain", 30, 2.0), ("finetune", 8, 1.0))
    third = keep("rope", second, ("pretrain", 5, 1.0), ("finetune", 9, 1.0))
    assert [cost["characters"] for cost in costs_before(third)] == [30, 100]
    pretrained = [(50, 4.0), (100, 9.0), (130, 11.0), (135, 12.0)]
    assert read("rope") == [*(("pretrain", *pair) for pair in pretrained), ("finetune", 9, 1.0)]
    keep("perceiver_ar", first, ("pretrain", 30, 2.0), ("finetune", 8, 1.0))
    # its first stage was rope's
    assert read("perceiver_ar") == [("pretrain", 130, 11.0), ("finetune", 8, 1.0)]
    assert read("vanilla") == []
