"""Where a step's time goes: that the parts are a whole (always), and what they must show (pytest -m bench, a machine at rest)."""

from __future__ import annotations

import json

import pytest
import torch

from kt_core.runs.recipes import recipe
from kt_course.tools.step_profile import BLOCKS, Step, costs, table

SMALL = dict(n_embd=32, n_layer=2, n_head=2, block_size=64, precision="fp32")


@pytest.fixture(scope="module")
def told():
    return costs(seconds=0.4, rounds=2, device="cpu", overrides=SMALL)


def test_the_parts_of_a_step_are_the_whole(told):
    step = told["step"]
    assert (
        sum(step["shares"].values()) == pytest.approx(1, abs=0.01)
        and min(step["shares"].values()) >= 0
    )
    assert step["shares"]["matrix products"] > 0.05 and step["shares"]["optimisers"] > 0
    assert 0 < step["gflops"] and step["of_limit"] == pytest.approx(
        step["gflops"] / step["limit_gflops"], rel=0.05
    )
    json.dumps(told)


def test_rates_of_variants_and_sizes(told):
    assert list(told["variants"]) == ["rope", "perceiver_ar, s = 2", "perceiver_ar, s = 4"]
    assert told["variants"]["rope"]["ratio"] == 1
    assert [row["value"] for row in told["block"]] == list(BLOCKS)
    for row in (*told["variants"].values(), *told["block"], *told["width"]):
        assert 0 < row["low"] <= row["median"] <= row["high"] and len(row["rates"]) == 2
    shown = table(told)
    for words in ("one step of", "matrix products", "perceiver_ar, s = 4", "block 256", "width 64"):
        assert words in shown


def test_a_step_is_the_trainers(monkeypatch):
    """The same weights after one step as one step of the Trainer on the same batch."""
    from kt_core import Trainer
    from kt_core.models import GPT

    chosen = recipe("kt", **SMALL)
    step = Step(chosen, "rope", torch.device("cpu"))
    torch.manual_seed(0)
    model = GPT(chosen.model_config(256, "rope"))
    monkeypatch.setattr("kt_core.trainer.batches", lambda *a, **k: iter([(step.x, step.y)]))

    class Data(list):
        def set_epoch(self, epoch): ...

        def tokens(self, i):
            return [1], 1

    config = chosen.pretrain_config(steps=1, schedule="constant", device="cpu")
    Trainer(model, Data([0]), config).fit()
    step()
    for mine, theirs in zip(step.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_bad_values():
    with pytest.raises(ValueError, match="seconds must be above 0"):
        costs(seconds=0)


@pytest.mark.bench
def test_perceiver_ar_is_that_much_faster():
    told = costs(seconds=60)["variants"]
    assert told["perceiver_ar, s = 2"]["ratio"] >= 1.35
    assert told["perceiver_ar, s = 4"]["ratio"] >= 1.8
