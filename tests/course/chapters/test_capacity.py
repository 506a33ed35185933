"""Capacity: bits add up, a run's row holds what its model knows, the table can be read again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from experiments import load_experiment

import kt_core as kt
from kt_course.chapters.what_does_it_know import capacity

experiment = load_experiment("capacity")

CORPUS = "bios:people=20,lines=2"


def test_shares_are_shares():
    result = capacity.shares(["Rome", "Lima", "Rome", "Oslo"])
    assert result == {"Rome": 0.5, "Lima": 0.25, "Oslo": 0.25}


@pytest.fixture(scope="module")
def corpus():
    return kt.load_corpus(CORPUS)


def test_who_knows_everything_has_all_bits(corpus, monkeypatch):
    share = capacity.shares(a for _, a in (*corpus.train, *corpus.dev, *corpus.test))
    gold = [a for _, a in corpus.train]
    monkeypatch.setattr(experiment, "answer", lambda model, vocab, questions, max_new: gold)
    monkeypatch.setattr(
        experiment, "answer_probabilities", lambda model, vocab, q, a: torch.ones(len(q))
    )
    result = experiment.knowledge(None, corpus.vocab, corpus.train, share)
    assert result.people == result.right == len(corpus.train)
    assert result.bits == pytest.approx(result.possible)
    assert result.possible == pytest.approx(sum(-math.log2(share[a]) for a in gold))
    guess = torch.tensor([share[a] for a in gold])
    monkeypatch.setattr(experiment, "answer_probabilities", lambda model, vocab, q, a: guess)
    assert experiment.knowledge(None, corpus.vocab, corpus.train, share).bits == pytest.approx(
        0, abs=1e-4
    )
    monkeypatch.setattr(
        experiment, "answer_probabilities", lambda model, vocab, q, a: torch.zeros(len(q))
    )
    assert math.isfinite(experiment.knowledge(None, corpus.vocab, corpus.train, share).bits)
    with pytest.raises(ValueError, match="no share is given for"):
        experiment.knowledge(None, corpus.vocab, corpus.train, {})


def test_random_weights_have_learned_less_than_nothing(corpus):
    torch.manual_seed(0)
    model = kt.GPT(kt.GPTConfig(len(corpus.vocab), 128, 2, 2, 16, "rope"))
    result = experiment.measure(model, corpus.vocab, corpus)
    assert set(result) == {"train", "held out"}
    assert result["held out"].people == len(corpus.dev) + len(corpus.test)
    assert all(one.bits < 0 < one.possible and one.right == 0 for one in result.values())


def test_a_corpus_without_answers_is_refused(corpus):
    import dataclasses

    silent = dataclasses.replace(corpus, dev=[], test=[(q, None) for q, _ in corpus.test])
    with pytest.raises(ValueError, match="answers are needed"):
        experiment.measure(None, corpus.vocab, silent)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    small = kt.recipe("smoke", **{"model.n_embd": 16, "pretrain.epochs": 3.0, "data.views": 2})
    kt.run_experiment(CORPUS, "rope", small, out=folder / "cells" / "one", device="cpu")
    (folder / "cells" / "unfinished").mkdir()
    return folder


def test_a_row_tells_the_runs_settings_and_what_it_knows(runs, corpus):
    row = experiment.measure_run(runs / "cells" / "one")
    assert (row["people"], row["lines"], row["views"], row["epochs"]) == (20, 2, 2, 3)
    assert row["exposures"] == 2 * 2 * 3
    model, vocab, _ = kt.load_checkpoint(runs / "cells" / "one" / "finetuned.safetensors")
    assert row["parameters"] == model.n_parameters()
    measured = experiment.measure(model, vocab, corpus)
    assert row["held out"]["bits"] == pytest.approx(measured["held out"].bits)
    score = capacity.recall_score(row)
    assert (score.correct, score.total) == (row["held out"]["right"], 10)
    both = measured["train"].bits + measured["held out"].bits
    assert capacity.bits_per_parameter(row) == pytest.approx(both / model.n_parameters())
    with pytest.raises(ValueError, match="no finished run"):
        experiment.measure_run(runs / "cells" / "unfinished")


def test_the_command_writes_a_table_that_can_be_read(runs, tmp_path, capsys):
    out = tmp_path / "capacity.json"
    experiment.main([str(runs), "--out", str(out)])
    row = capacity.read_capacity(out)
    assert [each["run"] for each in row["rows"]] == ["one"] and row["published"] == 2.0
    assert "20 people, 2 lines,     12 exposures" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no finished run in there"):
        experiment.main([str(tmp_path), "--out", str(out)])


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"rows": [{"parameters": 3}]}'])
def test_another_file_is_no_table(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a table of measured runs"):
        capacity.read_capacity(path)
    with pytest.raises(ValueError, match="not a table"):
        capacity.read_capacity(tmp_path / "missing.json")


def test_the_shipped_table_has_three_seeds_for_every_setting():
    table = capacity.read_capacity(Path(kt.__file__).parent.parent / "data/results/capacity.json")
    keys = ("people", "lines", "n_embd", "epochs")
    seeds = {}
    for row in table["rows"]:
        seeds.setdefault(tuple(row[key] for key in keys), set()).add(row["seed"])
    settings = {tuple(getattr(one, key) for key in keys) for one in experiment.SETTINGS}
    assert seeds.keys() == settings and all(len(each) >= 3 for each in seeds.values())
    assert max(map(capacity.bits_per_parameter, table["rows"])) < table["published"]


def test_a_setting_is_trained_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(experiment, "run_experiment", lambda *a, **k: calls.append((a, k)))
    experiment.Setting(20, 16, 3, lines=1).train(tmp_path, 7)
    ((arguments, options),) = calls
    assert arguments[0] == "bios:attributes=birth,people=20,lines=1" and options["seed"] == 7
    assert options["resume"] and options["overrides"]["data.views"] == 4
