"""The benchmark itself: that it measures at all (always), and what it must show (pytest -m bench, a machine at rest)."""

from __future__ import annotations

import json
import re

import pytest
import torch

import kt_course.tools.bench as bench_module
from kt_core.corpora.loading import load_corpus
from kt_core.runs.recipes import recipe
from kt_course.tools.ablation import characters_an_epoch
from kt_course.tools.bench import bench, table, write_bench
from kt_course.tools.cli import main

SMALL = dict(n_embd=16, n_layer=2, n_head=2, block_size=64)


@pytest.fixture(scope="module")
def told():
    return bench("bios:people=20", seconds=0.2, rounds=2, device="cpu", overrides=SMALL)


def test_what_it_tells(told, tmp_path):
    for work in ("training", "answering"):
        for way in ("assignment", "ours"):
            found = told[work][way]
            assert len(found["rates"]) == 2
            assert 0 < found["low"] <= found["median"] <= found["high"]
        assert told[work]["ratio"] == pytest.approx(
            told[work]["ours"]["median"] / told[work]["assignment"]["median"], rel=0.02
        )
        assert 0 < told[work]["ratio_low"] <= told[work]["ratio_high"]
    assert {
        "seed",
        "settings",
        "hardware",
        "processor",
        "threads",
        "versions",
        "date",
        "corpus",
        "parameters",
    } <= set(told)
    assert told["threads"] == torch.get_num_threads()
    assert json.loads(write_bench(told, tmp_path / "b.json").read_text()) == told


def test_each_way_is_what_it_is_called(told):
    theirs, ours = told["settings"]["assignment"], told["settings"]["ours"]
    assert (theirs["dropout"], theirs["bucket"], theirs["pretrain_batch_size"], theirs["crop"]) == (
        0.1,
        False,
        128,
        "prefix",
    )
    assert (theirs["optimizer"], theirs["shuffle"], theirs["spans"], theirs["loss"]) == (
        "adamw",
        False,
        "random",
        "all",
    )
    assert (ours["dropout"], ours["bucket"]) == (0.0, True)


def test_the_assignments_way_never_takes_the_fused_kernel_and_ours_always(monkeypatch):
    from kt_core.corpora.loading import load_corpus
    from kt_core.runs.recipes import recipe

    calls = []
    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *a, **k: (calls.append(1), plain(*a, **k))[1],
    )
    corpus, device = load_corpus("bios:people=20"), torch.device("cpu")
    faster = lambda *_: pytest.fail("a shortcut that the assignment's code does not take")  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr("kt_core.attention.causal_softmax", faster)
        patch.setattr("kt_core.attention.Dropout.forward", faster)
        theirs = bench_module._training(
            recipe("a5", **SMALL), corpus, 0, device, bench_module._as_written
        )
        assert theirs() > 0
    assert calls == []
    assert (
        bench_module._training(recipe("kt", **SMALL | {"precision": "fp32"}), corpus, 0, device)()
        > 0
    )
    assert len(calls) == SMALL["n_layer"]


def test_both_ways_of_answering_say_the_same(monkeypatch):
    """The same greedy characters, one by one without a cache and all at once with it."""
    from kt_core.models import GPT, GPTConfig
    from kt_core.vocab import CharVocab

    torch.manual_seed(0)
    vocab = CharVocab("abcdefghijklmnopqr")
    model = bench_module._endless(GPT(GPTConfig(len(vocab), 64, 2, 2, 16, dropout=0.0))).eval()
    questions, slow, fast = ["abc", "defghi"], [], []
    plain_decode, plain_answer = CharVocab.decode, bench_module.answer
    with monkeypatch.context() as patch:
        patch.setattr(CharVocab, "decode", lambda *a: slow.append(plain_decode(*a)) or slow[-1])
        ask = bench_module._one_by_one(model, vocab, questions)
        assert (ask(), ask()) == (1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(
            bench_module, "answer", lambda *a, **k: fast.extend(plain_answer(*a, **k)) or fast
        )
        assert bench_module._all_at_once(model, vocab, questions, 9)() == 2
    assert [len(text) for text in fast] == [9, 9]
    for question, told, new in zip(questions, slow, fast, strict=True):
        assert len(told) == len(question) + 1 + bench_module.NEW
        assert told.startswith(f"{question}⁇{new}")


def test_the_table_and_the_command(told, tmp_path, monkeypatch, capsys):
    assert re.search(r"^training, useful characters a second .* \d+\.\d$", table(told), re.M)
    assert re.search(r"^answering, questions a second .* \d+\.\d$", table(told), re.M)
    monkeypatch.setattr(
        bench_module, "bench", lambda corpus, **more: told | dict(asked=[corpus, more["seconds"]])
    )
    asked = ["bench", "--corpus", "bios:people=20", "--seconds", "2", "--costs", "0"]
    assert main([*asked, "--out", str(tmp_path / "b.json")]) == 0
    assert capsys.readouterr().out == table(told) + "\n"
    assert json.loads((tmp_path / "b.json").read_text())["asked"] == ["bios:people=20", 2.0]


def test_time_to_a_quarter_is_characters_by_rate(monkeypatch, told):
    rows = [
        dict(phase="pretrain", characters=c, seconds=c / 5, dev=dev)
        for c, dev in ((400, 0.1), (900, 0.26))
    ]
    monkeypatch.setattr(bench_module, "kept_curve", lambda corpus, variant: rows)
    corpus, theirs = load_corpus("bios:people=20"), recipe("a5", pretrain_epochs=7.0)
    training = dict(assignment=dict(median=20.0), ours=dict(median=50.0))
    found = bench_module.to_a_quarter(theirs, corpus, training)
    assert found["hours"] == pytest.approx(
        7 * characters_an_epoch(theirs, corpus) / 20 / 3600, abs=0.01
    )
    assert found["our_hours"] == pytest.approx(900 / 50 / 3600, abs=1e-4)
    assert found["ratio"] == pytest.approx(found["hours"] / found["our_hours"], rel=0.05)
    assert found["steps"] == 7  # 80 lines fit into one batch
    assert "7 steps" in table(told | dict(to_a_quarter=found))
    rows.pop()
    assert bench_module.to_a_quarter(theirs, corpus, training) is None


@pytest.mark.parametrize("wrong", [dict(seconds=0), dict(seconds=-1), dict(rounds=0)])
def test_bad_values(wrong):
    with pytest.raises(ValueError, match="seconds must be above 0 and rounds at least 1"):
        bench("bios:people=20", **wrong)


@pytest.mark.bench
def test_we_are_that_much_faster():
    told = bench("bios", seconds=240)
    print(table(told))
    assert told["training"]["ratio"] >= 3
    assert told["answering"]["ratio"] >= 50
