"""The profile of a training step: that its parts are the whole; its claims (pytest -m bench)."""

from __future__ import annotations

import json

import pytest
import torch
from step_profile import BLOCKS, Step, profile_steps, table

from kt_core.runs.fitting import fit
from kt_core.runs.recipes import recipe

SMALL = {
    "model.n_embd": 32,
    "model.n_layer": 2,
    "model.n_head": 2,
    "model.block_size": 64,
    "model.bottleneck": 32,
    "pretrain.precision": "fp32",
    "pretrain.compile": False,
}


@pytest.fixture(scope="module")
def costs():
    return profile_steps(seconds=0.4, rounds=2, device="cpu", overrides=SMALL)


def test_the_parts_of_a_step_are_the_whole(costs):
    step = costs["step"]
    shares = step["shares"]
    assert sum(shares.values()) == pytest.approx(1, abs=0.01) and min(shares.values()) >= 0
    assert shares["matrix products"] > 0.05 and shares["optimisers"] > 0
    ratio = step["gflops"] / step["limit_gflops"]
    assert step["gflops"] > 0 and step["of_limit"] == pytest.approx(ratio, rel=0.05)
    json.dumps(costs)


def test_rates_of_variants_and_sizes(costs):
    assert list(costs["variants"]) == ["rope", "perceiver_ar, s = 2", "perceiver_ar, s = 4"]
    assert costs["variants"]["rope"]["ratio"] == 1
    assert [row["value"] for row in costs["block"]] == list(BLOCKS)
    for row in (*costs["variants"].values(), *costs["block"], *costs["width"]):
        assert 0 < row["low"] <= row["median"] <= row["high"] and len(row["rates"]) == 2
    text = table(costs)
    for words in ("one step of", "matrix products", "perceiver_ar, s = 4", "block 256", "width 64"):
        assert words in text


def test_a_step_is_that_of_a_training(monkeypatch):
    """The same weights after one step as after `fit` with the same batch."""
    chosen = recipe("kt", **SMALL)
    step = Step(chosen, "rope", torch.device("cpu"))
    torch.manual_seed(0)
    model = chosen.new_model(256, "rope")
    monkeypatch.setattr("kt_core.trainer.batches", lambda *a, **k: iter([step.batch]))
    more = dict(steps=1, schedule="constant", device="cpu")
    config, options = chosen.phase("pretrain", **more)
    fit(model, range(1), config, **options)
    step()
    for mine, theirs in zip(step.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_bad_values():
    with pytest.raises(ValueError, match="seconds and rounds must be above 0"):
        profile_steps(seconds=0)


@pytest.mark.bench
def test_perceiver_ar_is_that_much_faster():
    variants = profile_steps(seconds=60)["variants"]
    assert variants["perceiver_ar, s = 2"]["ratio"] >= 1.35
    assert variants["perceiver_ar, s = 4"]["ratio"] >= 1.8
