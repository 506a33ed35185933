"""Shipped checkpoints: names, half precision and back, and the command that trains them again."""

from __future__ import annotations

import json

import pytest
import torch

import kt_core as kt
from kt_core.models import VARIANTS
from kt_core.trainer import Trainer
from kt_course import shipped as shipping
from kt_course.shipped import shipped, shipped_cards
from kt_course.tools.cli import main

CORPUS = "bios:people=20"
TINY = kt.recipe(
    "smoke",
    block_size=64,
    n_embd=16,
    pretrain_epochs=1,
    pretrain_batch_size=32,
    finetune_batch_size=4,
)


@pytest.fixture(autouse=True)
def small_recipe(monkeypatch):
    monkeypatch.setitem(shipping.RECIPE_OF, CORPUS, TINY)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that checkpoints ship from, an empty one."""
    monkeypatch.setattr(shipping, "checkpoints_dir", lambda: tmp_path / "ship")
    return tmp_path / "ship"


def test_names(folder):
    assert (
        shipping.shipped_path("bios", "rope", "pretrained")
        == folder / "bios-rope-pretrained.safetensors"
    )
    with pytest.raises(ValueError, match="pretrained, finetuned, scratch, not 'trained'"):
        shipping.shipped_path("bios", "rope", "trained")


def test_the_recipes_are_there():
    assert shipping.RECIPE_OF["bios"] in kt.RECIPES
    assert shipping.RECIPE_OF["wiki"] in kt.RECIPES
    assert {recipe for told in shipping.SITTINGS.values() for _, recipe, _ in told} <= set(
        kt.RECIPES
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_and_back(folder, tmp_path, variant):
    torch.manual_seed(0)
    model, vocab = kt.GPT(kt.GPTConfig(4, 16, 2, 2, 16, variant, 8, 0.0)), kt.CharVocab("ab")
    source = kt.save_checkpoint(
        tmp_path / "run.safetensors", model, vocab, {"seed": 7, "dev": {"correct": 3}}
    )
    shipping.ship(source, shipping.shipped_path("bios", variant, "finetuned"))
    again, same_vocab, card = shipped("bios", variant, "finetuned")
    assert same_vocab == vocab
    assert (card["seed"], card["dev"]["correct"]) == (7, 3)
    assert again.config == model.config
    for name, t in model.state_dict().items():
        got = again.state_dict()[name]
        assert got.dtype == torch.float32
        assert torch.equal(got, t.half().float())
    ids = torch.randint(0, 4, (2, 16))
    assert torch.allclose(again(ids)[0], model.eval()(ids)[0], atol=2e-3)
    sizes = [p.stat().st_size for p in (source, folder / f"bios-{variant}-finetuned.safetensors")]
    assert sizes[1] < 0.8 * sizes[0]
    assert set(shipped_cards()) == {f"bios-{variant}-finetuned"}


def test_what_does_not_ship_is_told_with_what_does(folder):
    with pytest.raises(ValueError, match="wiki, rope, scratch; there are: none"):
        shipped("wiki", "rope", "scratch")
    assert shipped_cards() == {}


def test_what_ships_with_the_project_loads():
    """Every checkpoint that is there is sound, small and belongs to its name."""
    for name, card in shipped_cards().items():
        corpus, variant, phase = name.split("-")
        model, vocab, _ = shipped(corpus, variant, phase)
        assert (model.config.variant, len(vocab)) == (variant, model.config.vocab_size)
        assert card["corpus"] == corpus
        path = shipping.shipped_path(corpus, variant, phase)
        assert path.stat().st_size <= 2.1 * model.n_parameters() + 20_000  # two bytes a value


def test_retrain_makes_every_checkpoint_and_again_trains_nothing(tmp_path, capsys, monkeypatch):
    given = (CORPUS, ["vanilla", "rope"], 0, tmp_path / "runs", tmp_path / "out")
    shipping.retrain(*given)
    out = capsys.readouterr().out
    assert out.count(f"{CORPUS} vanilla: dev Correct: ") == 1
    assert out.count(f"{CORPUS} vanilla without pretraining: dev Correct: ") == 1
    names = {
        "vanilla-pretrained",
        "vanilla-finetuned",
        "vanilla-scratch",
        "rope-pretrained",
        "rope-finetuned",
    }
    assert {
        p.stem.removeprefix(f"{CORPUS}-") for p in (tmp_path / "out").glob("*.safetensors")
    } == names
    made = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    _, _, card = kt.load_checkpoint(tmp_path / "out" / f"{CORPUS}-vanilla-scratch.safetensors")
    assert (card["kind"], card["phase"], card["recipe"]["n_embd"]) == (
        "no-pretrain",
        "finetune",
        16,
    )

    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it is trained already"))
    shipping.retrain(*given)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == made


def test_a_second_sitting_goes_on_from_the_first_which_two_variants_share(tmp_path, monkeypatch):
    first = ("rope", TINY, {})
    for variant in ("rope", "perceiver_ar"):
        more = (first, (variant, TINY, dict(pretrain_epochs=2)))
        monkeypatch.setitem(shipping.SITTINGS, (CORPUS, variant), more)
    plain, trained = Trainer.fit, []

    def counting(self, resume=False):
        trained.append((self.title, self.config.epochs))
        return plain(self, resume)

    monkeypatch.setattr(Trainer, "fit", counting)
    shipping.retrain(CORPUS, ["rope", "perceiver_ar"], 0, tmp_path / "runs", tmp_path / "out")
    assert [epochs for title, epochs in trained if title == "pretrain"] == [1, 2, 2]
    for variant in ("rope", "perceiver_ar"):
        _, _, card = kt.load_checkpoint(
            tmp_path / "out" / f"{CORPUS}-{variant}-pretrained.safetensors"
        )
        assert (card["variant"], card["recipe"]["pretrain_epochs"]) == (variant, 2)
        assert (card["cost"]["epochs"], card["cost"]["before"]["epochs"]) == (2, 1)
        assert card["cost"]["before"]["variant"] == "rope"


def test_the_last_sittings_may_be_averaged(tmp_path, monkeypatch):
    monkeypatch.setitem(
        shipping.SITTINGS,
        (CORPUS, "rope"),
        (("rope", TINY, {}), ("rope", TINY, dict(muon_lr=1e-3))),
    )
    monkeypatch.setitem(shipping.AVERAGED, (CORPUS, "rope"), (2, dict(finetune_lr=1e-5)))
    shipping.retrain(CORPUS, ["rope"], 0, tmp_path / "runs", tmp_path / "out")
    ends = [
        tmp_path / "runs" / f"{CORPUS}-rope-sitting{n}-seed0" / "pretrained.safetensors"
        for n in (1, 2)
    ]
    _, _, card = kt.load_checkpoint(tmp_path / "out" / f"{CORPUS}-rope-finetuned.safetensors")
    assert card["init"] == " + ".join(map(str, ends)) and card["phase"] == "finetune"
    assert (card["recipe"]["muon_lr"], card["recipe"]["finetune_lr"]) == (1e-3, 1e-5)


def test_a_stopped_retraining_goes_on(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    shipping.retrain(CORPUS, ["rope"], 0, tmp_path / "a", whole)
    plain, seen = Trainer.fit, []

    def stopping(self, resume=False):
        seen.append(self.title)
        if self.title == "finetune":
            raise KeyboardInterrupt
        return plain(self, resume)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", stopping)
        with pytest.raises(KeyboardInterrupt):
            shipping.retrain(CORPUS, ["rope"], 0, tmp_path / "b", parts)
    assert seen == ["pretrain", "finetune"]
    assert not parts.exists()
    shipping.retrain(CORPUS, ["rope"], 0, tmp_path / "b", parts)
    name = f"{CORPUS}-rope-finetuned.safetensors"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_a_result_keeps_its_learning_curve(tmp_path):
    result = kt.run_experiment(CORPUS, "vanilla", TINY, False, out=tmp_path / "run", device="cpu")
    shipping.keep_result(result.path, tmp_path / "kept.json")
    told = json.loads((tmp_path / "kept.json").read_text())
    assert {k: v for k, v in told.items() if k != "curve"} == result.told
    assert [row["phase"] for row in told["curve"]] == ["finetune"] * len(told["curve"])


def test_the_command(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shipping, "retrain", lambda *given: asked.append(given))
    assert main(["checkpoints", "--variant", "rope", "--runs", str(tmp_path), "--seed", "3"]) == 0
    assert (
        main(["checkpoints", "--corpus", "wiki", "--out", str(tmp_path), "--runs", str(tmp_path)])
        == 0
    )
    assert asked == [
        ("bios", ["rope"], 3, tmp_path, None),
        ("wiki", list(VARIANTS), 0, tmp_path, tmp_path),
    ]


def test_the_curve_of_a_later_sitting_goes_on_from_those_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "data_dir", lambda: tmp_path)
    results = tmp_path / "results"
    results.mkdir()

    def keep(name, before, *rows):
        curve = [dict(phase=phase, characters=c, seconds=s) for phase, c, s in rows]
        cost = dict(
            characters=rows[-2][1], seconds=rows[-2][2], **({"before": before} if before else {})
        )
        (results / f"wiki-{name}-seed0.json").write_text(
            json.dumps(dict(pretraining=cost, curve=curve))
        )
        return cost

    def read(variant):
        return [tuple(row.values()) for row in shipping.kept_curve("wiki", variant)]

    first = keep("rope", None, ("pretrain", 50, 4.0), ("pretrain", 100, 9.0), ("finetune", 7, 1.0))
    assert read("rope") == [("pretrain", 50, 4.0), ("pretrain", 100, 9.0), ("finetune", 7, 1.0)]
    (results / "wiki-rope-seed0.json").rename(results / "wiki-rope-sitting1-seed0.json")
    second = keep("rope-sitting2", first, ("pretrain", 30, 2.0), ("finetune", 8, 1.0))
    third = keep("rope", second, ("pretrain", 5, 1.0), ("finetune", 9, 1.0))
    assert [cost["characters"] for cost in shipping.sittings_before(third)] == [30, 100]
    pretrained = [
        ("pretrain", 50, 4.0),
        ("pretrain", 100, 9.0),
        ("pretrain", 130, 11.0),
        ("pretrain", 135, 12.0),
    ]
    assert read("rope") == [*pretrained, ("finetune", 9, 1.0)]
    keep("perceiver_ar", first, ("pretrain", 30, 2.0), ("finetune", 8, 1.0))
    # its first sitting was rope's
    assert read("perceiver_ar") == [("pretrain", 130, 11.0), ("finetune", 8, 1.0)]
    assert read("vanilla") == []
