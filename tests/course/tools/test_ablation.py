"""kt ablate: one ingredient changed at a time, equally many characters, a table that can be gone on with."""

from __future__ import annotations

import json

import pytest

from kt_core.corpora.loading import load_corpus
from kt_core.runs.recipes import recipe
from kt_course.tools.ablation import (
    INGREDIENTS,
    ablate,
    characters_an_epoch,
    join,
    read_ablation,
    table,
)
from kt_course.tools.cli import main

SMALL = dict(corpus="bios:people=40", recipe="smoke", characters=6000, seeds=(0,))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    runs = tmp_path_factory.mktemp("ablation")
    return runs, ablate(**SMALL, names=["ours", "lines", "fixed-positions", "pure"], runs=runs)


def test_rows_change_one_thing_and_read_as_much(told):
    _, found = told
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["ours", "lines", "fixed-positions", "pure"]
    assert [rows[name]["variant"] for name in rows] == ["rope", "rope", "vanilla", "rope"]
    assert [rows[name]["kind"] for name in rows] == ["mixed", "mixed", "mixed", "pure"]
    for row in rows.values():
        assert 0.8 * 6000 < row["characters"] < 1.3 * 6000
    assert rows["lines"]["epochs"] < rows["ours"]["epochs"]  # whole lines are longer: fewer of them
    corpus = load_corpus("bios:people=40")
    assert rows["ours"]["score"]["total"] == len(corpus.dev) + len(corpus.test)


def test_going_on_trains_nothing_twice(told):
    runs, found = told
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")}
    assert len(before) == 4
    again = ablate(**SMALL, names=["ours", "lines", "fixed-positions", "pure"], runs=runs)
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")} == before


def test_tables_of_other_seeds_are_pooled(told):
    _, found = told
    more = json.loads(json.dumps(found)) | dict(
        seeds=[4], rows=json.loads(json.dumps(found["rows"][1:2]))
    )
    more["rows"][0]["score"] |= dict(correct=2, total=8, accuracy=0.25)
    more["rows"][0] |= dict(trained_with=[4], seeds=[0.25], seconds=[7.0])
    both = join(found, more)
    assert both["seeds"] == [0, 4]
    old, new = found["rows"][1], both["rows"][1]
    assert new["score"]["correct"] == old["score"]["correct"] + 2
    assert new["score"]["total"] == old["score"]["total"] + 8
    assert new["score"]["accuracy"] == pytest.approx(
        new["score"]["correct"] / new["score"]["total"], abs=1e-4
    )
    assert new["trained_with"] == [0, 4]
    assert (new["seeds"], new["seconds"]) == (old["seeds"] + [0.25], old["seconds"] + [7.0])
    assert [row for row in both["rows"] if row["name"] != "lines"] == [
        row for row in found["rows"] if row["name"] != "lines"
    ]
    with pytest.raises(ValueError, match="seed 0 of ours, lines, fixed-positions, pure is in both"):
        join(found, found)
    with pytest.raises(ValueError, match="seed 4 of lines is in both"):
        join(both, more)
    late = more["rows"][0] | dict(name="ours")  # a seed that another row has, but not this one
    assert join(both, more | dict(rows=[late]))["rows"][0]["trained_with"] == [0, 4]
    other = found | dict(rows=[found["rows"][0] | dict(name="other")])
    assert join(found, other)["seeds"] == [0]  # another row may have the same seed
    assert [row["name"] for row in join(found, other)["rows"]][-1] == "other"
    with pytest.raises(ValueError, match="differ in characters"):
        join(found, more | dict(characters=7))


def test_the_command_joins_a_seed_to_the_table_that_is_there(told, tmp_path, capsys):
    out = tmp_path / "a.json"
    out.write_text(json.dumps(told[1]))
    asked = [
        "ablate",
        "pure",
        "--corpus",
        "bios:people=40",
        "--recipe",
        "smoke",
        "--characters",
        "6000",
    ]
    assert (
        main(
            [*asked, "--seeds", "1", "--runs", str(tmp_path / "runs"), "--out", str(out), "--join"]
        )
        == 0
    )
    found = read_ablation(out)
    assert found["seeds"] == [0, 1] and len(found["rows"]) == 4
    assert [len(row["seeds"]) for row in found["rows"]] == [1, 1, 1, 2]
    assert main([*asked, "--join"]) != 0
    assert "--join adds to the table that --out names" in capsys.readouterr().err


def test_the_table_is_best_first(told):
    _, found = told
    found = json.loads(json.dumps(found))
    for row, right in zip(found["rows"], (3, 9, 1, 5), strict=True):
        row["score"] |= dict(correct=right, accuracy=right / 20)
    lines = table(found).splitlines()[1:]
    order = [
        "whole lines",
        "pairs not mixed in",
        "the whole recipe",
        "learned positions, no offset",
    ]
    assert [line.strip().startswith(name) for line, name in zip(lines, order, strict=True)] == [
        True
    ] * 4


@pytest.mark.parametrize("name", INGREDIENTS)
def test_every_ingredient_is_a_change_that_the_recipe_knows(name):
    each = INGREDIENTS[name]
    changes = [recipe(base, **each.overrides) != recipe(base) for base in ("quick", "kt")]
    assert any(changes) == bool(each.overrides)
    assert name == "ours" or each.overrides or each.variant


def test_characters_an_epoch_count_no_padding():
    corpus = load_corpus("bios:people=40")
    chosen = recipe("smoke", mixed_pairs=0)
    data = chosen.pretrain_data(corpus, corpus.vocab)
    assert characters_an_epoch(chosen, corpus) == sum(int((x != 0).sum()) for x, _ in data)


def test_bad_names_and_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no ingredient 'colour'; there are ours, head-first"):
        ablate(names=["colour"], runs=tmp_path)
    with pytest.raises(ValueError, match="characters must be above 0"):
        ablate(characters=0, runs=tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="not a table of kt ablate"):
        read_ablation(tmp_path / "x.json")


def test_the_command_writes_table_and_figure(told, tmp_path, capsys):
    runs, found = told
    out = tmp_path / "ablation.json"
    command = [
        "ablate",
        "ours",
        "pure",
        "--corpus",
        "bios:people=40",
        "--recipe",
        "smoke",
        "--characters",
        "6000",
    ]
    assert main([*command, "--seeds", "0", "--runs", str(runs), "--out", str(out)]) == 0
    assert "pairs not mixed in (pure)" in capsys.readouterr().out
    assert read_ablation(out)["rows"] == [found["rows"][0], found["rows"][3]]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
