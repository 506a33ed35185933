"""The benchmark: that it measures what it says (always), and its claims (pytest -m bench)."""

from __future__ import annotations

import json
import re

import bench as bench_module
import pytest
import torch
from bench import bench, hours_to_a_quarter, table, training_steps

from kt_core.corpora.loading import load_corpus
from kt_core.decoding import answer
from kt_core.runs import fast_paths
from kt_core.runs.recipes import recipe
from kt_core.vocab import CharVocab
from kt_course.shipped import shipped

SMALL = {
    "model.n_embd": 16,
    "model.n_layer": 2,
    "model.n_head": 2,
    "model.block_size": 64,
    "model.bottleneck": 32,
    "pretrain.compile": False,
}


@pytest.fixture(scope="module")
def figures():
    return bench("bios:people=20", seconds=0.2, rounds=2, device="cpu", overrides=SMALL)


def test_rates_and_ratios_belong_together(figures):
    for work in ("training", "answering"):
        rates = figures[work]
        for way in ("assignment", "ours"):
            assert len(rates[way]["rates"]) == 2
            assert 0 < rates[way]["low"] <= rates[way]["median"] <= rates[way]["high"]
        ratio = rates["ours"]["median"] / rates["assignment"]["median"]
        assert rates["ratio"] == pytest.approx(ratio, rel=0.02)
        assert 0 < rates["ratio_low"] <= rates["ratio_high"]
    assert {"seed", "hardware", "processor", "versions", "date", "parameters"} <= set(figures)
    json.dumps(figures)


def test_each_way_is_what_it_is_called(figures):
    theirs, ours = figures["settings"]["assignment"], figures["settings"]["ours"]
    assert (theirs["model"]["dropout"], theirs["data"]["task"]) == (0.1, "span_corruption")
    phase = theirs["pretrain"]
    assert (phase["bucket"], phase["batch_size"], phase["optimizer"]) == (False, 128, "adamw")
    assert (ours["model"]["dropout"], ours["pretrain"]["bucket"]) == (0.0, True)


def test_the_assignments_way_takes_no_fast_path_and_ours_does(monkeypatch):
    calls = []
    fast = fast_paths.fast_attend
    monkeypatch.setattr(
        fast_paths, "fast_attend", lambda *arguments: calls.append(1) or fast(*arguments)
    )
    corpus, device = load_corpus("bios:people=20"), torch.device("cpu")
    assert training_steps(recipe("a5", **SMALL), corpus, 0, device, is_fast=False)() > 0
    assert calls == []
    ours = recipe("kt", **SMALL | {"pretrain.precision": "fp32"})
    assert training_steps(ours, corpus, 0, device, is_fast=True)() > 0
    assert len(calls) == SMALL["model.n_layer"]


def test_both_ways_of_answering_say_the_same(monkeypatch):
    """The same greedy characters, one by one without a cache and all at once with it."""
    model, vocab, _ = shipped("wiki", "rope", "finetuned")
    questions = ["Where was Ada Moor born?", "Where was Blaise Pascal born?"]
    decode, slow = CharVocab.decode, []
    with monkeypatch.context() as patch:
        patch.setattr(CharVocab, "decode", lambda *a: slow.append(decode(*a)) or slow[-1])
        ask = bench_module.ask_one_by_one(model, vocab, questions)
        assert (ask(), ask()) == (1, 1)
    for question, whole, new in zip(questions, slow, answer(model, vocab, questions), strict=True):
        assert len(whole) == len(question) + 1 + bench_module.N_NEW
        assert whole.startswith(f"{question}⁇{new}⁇")


def test_the_table_and_the_command(figures, tmp_path, monkeypatch, capsys):
    text = table(figures)
    assert re.search(r"^training, useful characters per second .* \d+\.\d$", text, re.M)
    assert re.search(r"^answering, questions per second .* \d+\.\d$", text, re.M)
    monkeypatch.setattr(
        bench_module,
        "bench",
        lambda corpus, **more: figures | dict(given=[corpus, more["seconds"]]),
    )
    line = ["--corpus", "bios:people=20", "--seconds", "2", "--profile-seconds", "0"]
    bench_module.main([*line, "--out", str(tmp_path / "b.json")])
    assert capsys.readouterr().out == text + "\n"
    assert json.loads((tmp_path / "b.json").read_text())["given"] == ["bios:people=20", 2.0]


def test_time_to_a_quarter_is_characters_by_rate(monkeypatch, figures):
    rows = [
        dict(phase="pretrain", characters=c, seconds=c / 5, dev=dev)
        for c, dev in ((400, 0.1), (900, 0.26))
    ]
    monkeypatch.setattr(bench_module, "learning_curve", lambda corpus, variant: rows)
    corpus, theirs = load_corpus("bios:people=20"), recipe("a5", **{"pretrain.epochs": 7.0})
    training = dict(assignment=dict(median=20.0), ours=dict(median=50.0))
    quarter = hours_to_a_quarter(theirs, corpus, training)
    data = theirs.pretrain_data(corpus, corpus.vocab)
    characters = sum(len(data.tokens(i, 0)[0]) for i in range(len(data)))
    assert quarter["hours"] == pytest.approx(7 * characters / 20 / 3600, abs=0.01)
    assert quarter["our_hours"] == pytest.approx(900 / 50 / 3600, abs=1e-4)
    assert quarter["ratio"] == pytest.approx(quarter["hours"] / quarter["our_hours"], rel=0.05)
    assert quarter["steps"] == 7  # 80 lines fit into one batch
    assert "7 steps" in table(figures | dict(to_a_quarter=quarter))
    rows.pop()
    assert hours_to_a_quarter(theirs, corpus, training) is None


@pytest.mark.parametrize("wrong", [dict(seconds=0), dict(seconds=-1), dict(rounds=0)])
def test_bad_values(wrong):
    with pytest.raises(ValueError, match="seconds and rounds must be above 0"):
        bench("bios:people=20", **wrong)


@pytest.mark.bench
def test_we_are_that_much_faster():
    figures = bench("bios", seconds=240)
    print(table(figures))
    assert figures["training"]["ratio"] >= 3
    assert figures["answering"]["ratio"] >= 50
