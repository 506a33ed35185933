"""Techniques of finetuning, and their comparison: rates chosen on dev alone, resumable tables."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from experiments import load_experiment

import kt_core as kt
from kt_core.corpora.paths import data_dir
from kt_course.chapters.finetuning_techniques.sentiment import load_task, sentences
from kt_course.chapters.finetuning_techniques.techniques import (
    TECHNIQUES,
    Birthplaces,
    Technique,
    chosen_rate,
    interval,
    summary,
    tune,
)

experiment = load_experiment("finetuning_techniques")
compare = experiment.compare

PEOPLE = [("Where was Ann born?", "Rome"), ("Where was Bob born?", "Oslo")]
VOCAB = kt.CharVocab.from_documents([s.text for s in sentences(60)] + [q + a for q, a in PEOPLE])
SIZES = dict(n_train=12, n_dev=8, n_test=10, n_new=4)


def body(n_layer=2):
    torch.manual_seed(0)
    return kt.GPT(kt.GPTConfig(len(VOCAB), 64, n_layer, 2, 16, "rope", dropout=0.0)).eval()


def test_train_and_dev_share_no_sentence_and_test_has_none_of_them():
    task = load_task(1)
    parts = [{s.text for s in part} for part in (task.train, task.dev, task.test, task.new)]
    assert [len(part) for part in parts] == [600, 200, 300, 100]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert not {s.text for s in load_task(0).test} & parts[0]


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_leaves_the_body_that_it_was_given(name):
    if TECHNIQUES[name].rank:
        pytest.importorskip("peft")
    model = body()
    before = copy.deepcopy(model.state_dict())
    task = load_task(0, **SIZES)
    tuned, adapter, history = tune(
        TECHNIQUES[name], model, VOCAB, task.train, rate=1e-2, old=PEOPLE, steps=2, warmup_steps=0
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert history[-1]["step"] == 2 and (adapter is not None) == bool(TECHNIQUES[name].rank)
    moved = [not torch.equal(p, before[n]) for n, p in tuned.body.named_parameters() if n in before]
    assert any(moved) == (name not in ("probe", "lora"))


def test_from_scratch_is_another_body_for_each_seed():
    model, train = body(), load_task(0, **SIZES).train
    weights = [
        tune(TECHNIQUES["scratch"], model, VOCAB, train, rate=1e-9, seed=seed, steps=1)[
            0
        ].body.tok_emb.weight
        for seed in (1, 1, 2)
    ]
    assert torch.allclose(weights[0], weights[1]) and not torch.allclose(
        weights[0], weights[2], atol=1e-3
    )
    assert not torch.allclose(weights[0], model.tok_emb.weight, atol=1e-3)


def test_known_is_what_was_right_before():
    model = body()
    places = Birthplaces(model, VOCAB, PEOPLE)
    places.gold = [places.before[0], "x"]
    score = places.retained(model)
    assert (score.correct, score.total) == (1, 1)


def test_the_rate_is_devs_and_the_smaller_of_equals():
    rows = [
        dict(technique="a", rate=r, dev=d, test=t)
        for r, d, t in ((1, 0.5, 1), (3, 0.9, 0), (2, 0.9, 0))
    ]
    assert chosen_rate(rows, "a") == 2
    with pytest.raises(ValueError, match="no row of technique 'b'"):
        chosen_rate(rows, "b")


@pytest.fixture
def short(monkeypatch):
    """Two techniques of two rates, trained for two steps."""
    some = {name: replace(TECHNIQUES[name], rates=(1e-3, 1e-2)) for name in ("probe", "all")}
    monkeypatch.setattr(experiment, "TECHNIQUES", some)
    return dict(seeds=(1, 2), sizes=SIZES, steps=2, names=tuple(some))


def test_a_table_is_complete_and_can_be_resumed(short):
    tables = []
    table = compare(
        body(), VOCAB, PEOPLE, save=lambda t: tables.append(json.loads(json.dumps(t))), **short
    )
    assert [(r["technique"], r["rate"]) for r in table["choosing"]] == [
        ("probe", 1e-3),
        ("probe", 1e-2),
        ("all", 1e-3),
        ("all", 1e-2),
    ]
    assert not any("test" in row for row in table["choosing"]), (
        "test sentences are not looked at to choose"
    )
    assert [(r["technique"], r["seed"]) for r in table["rows"]] == [
        ("probe", 1),
        ("all", 1),
        ("probe", 2),
        ("all", 2),
    ]
    assert all(
        row["rate"] == chosen_rate(table["choosing"], row["technique"]) for row in table["rows"]
    )
    stopped, again = tables[4], []
    more = compare(body(), VOCAB, PEOPLE, table=stopped, save=again.append, **short)
    assert len(again) == 3

    def figures(table):
        return [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in table["choosing"] + table["rows"]
        ]

    assert figures(more) == figures(table)


def test_a_row_with_a_rate_that_is_not_chosen_any_more_is_measured_again(short):
    table = compare(body(), VOCAB, PEOPLE, **short)
    table["rows"][0]["rate"] = 7.0
    again = []
    compare(
        body(),
        VOCAB,
        PEOPLE,
        table=table,
        save=lambda t: again.append(t["rows"][-1]["technique"]),
        **short,
    )
    assert again == ["probe"] and 7.0 not in [row["rate"] for row in table["rows"]]


def test_a_summary_is_over_seeds(short):
    table = compare(body(), VOCAB, PEOPLE, **short)
    result = summary(table)
    tests = [row["test"] for row in table["rows"] if row["technique"] == "all"]
    assert list(result) == ["probe", "all"]
    assert result["all"]["test"] == interval(tests)
    assert result["all"]["test"][0] == pytest.approx(sum(tests) / 2)
    assert result["probe"]["trained"] == 34


@pytest.mark.parametrize("values", [[0.9, 0.95, 0.85], [0.1, 0.5], [0.3] * 4 + [0.7] * 6])
def test_the_interval_over_seeds_is_students(values):
    middle, low, high = interval(values)
    n, quantile = len(values), {3: 4.303, 2: 12.706, 10: 2.262}[len(values)]
    half = quantile * torch.tensor(values).double().std().item() / n**0.5
    assert middle == pytest.approx(sum(values) / n)
    expected = (max(middle - half, 0.0), min(middle + half, 1.0))
    assert (low, high) == pytest.approx(expected, abs=1e-3)


def test_an_interval_stays_between_0_and_1():
    assert interval([0.9, 1.0])[2] == 1.0 and interval([0.0, 0.1])[1] == 0.0
    assert interval([0.4]) == (0.4, 0.4, 0.4)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no technique 'laura'"):
        compare(body(), VOCAB, PEOPLE, names=("laura",))
    with pytest.raises(ValueError, match="seed 0 chooses the rates"):
        compare(body(), VOCAB, PEOPLE, seeds=(0, 1))
    with pytest.raises(SystemExit):
        experiment.main(["--out", "x.json", "--seeds", "0"])


def test_every_technique_says_what_it_is():
    assert all(isinstance(t, Technique) and t.label and t.rates for t in TECHNIQUES.values())
    assert len({t.label for t in TECHNIQUES.values()}) == len(TECHNIQUES)


def test_the_shipped_table_has_all_techniques_with_equal_seeds():
    path = data_dir() / "results" / "finetuning.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    result = {
        name: [row for row in table["rows"] if row["technique"] == name] for name in TECHNIQUES
    }
    assert all([row["seed"] for row in rows] == table["seeds"] for rows in result.values())
    assert all(
        {row["rate"] for row in rows} == {chosen_rate(table["choosing"], n)}
        for n, rows in result.items()
    )
    assert {r["rate"] for r in table["choosing"] if r["technique"] == "all"} == set(
        TECHNIQUES["all"].rates
    )
    assert all(row["switched_off_as_before"] for row in result["lora"])
    assert all(row["kept"] == row["known"] == table["known"] for row in result["probe"])
    assert table["hardware"] and table["body"] and table["body_seed"] is not None
