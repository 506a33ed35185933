"""Chapter 8: its exercises and their mistakes, the counts of windows, the ablation's table."""

from __future__ import annotations

import json
import random
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from checking import Answers, notebook_suite, quiz_suite, suite
from experiments import load_experiment

import kt_core as kt
from kt_core.evaluation import Score
from kt_core.runs.recipes import recipe
from kt_course.chapters.making_knowledge_extractable import solutions
from kt_course.chapters.making_knowledge_extractable.ablation import (
    AblationTable,
    compare_rows,
    describe_ablation,
    draw_ablation,
)
from kt_course.chapters.making_knowledge_extractable.window_counts import (
    OFF,
    count_options,
    count_windows,
)
from kt_course.exercises.registry import library
from kt_course.exercises.solutions import teaching_solution

NAME = "08_making_knowledge_extractable"
RESULTS = Path(__file__).resolve().parents[3] / "data" / "results"

# ---------------------------------------------------------------- stored and retrieved


def stored_stub(filled, answers, gold):
    """Return three scores: (stored, retrieved, guessed)."""
    ...


def counted(keep, right=lambda f, a, g: a == g, total=None, pair=Score):
    """(stored, retrieved, guessed) by hand; `keep` says who is stored."""

    def answer(filled, answers, gold):
        texts = ([text.strip() for text in part] for part in (filled, answers, gold))
        rows = list(zip(*texts, strict=True))
        stored = [row for row in rows if keep(*row)]
        rest = [row for row in rows if not keep(*row)]

        def score(part):
            n = len(rows) if total == "all" else len(part)
            return pair(sum(right(*row) for row in part), n)

        return pair(len(stored), len(rows)), score(stored), score(rest)

    return answer


def is_filled(f, a, g):
    return f == g


def strict(filled, answers, gold):
    rows = list(zip(filled, answers, gold, strict=True))
    stored = [row for row in rows if row[0] == row[2]]
    rest = [row for row in rows if row[0] != row[2]]
    right = lambda part: Score(sum(a == g for _, a, g in part), len(part))  # noqa: E731
    return Score(len(stored), len(rows)), right(stored), right(rest)


RIGHT = counted(is_filled)
STORED = Answers(
    stub=stored_stub,
    wrong={
        "plain accuracy": (
            lambda f, a, g: (RIGHT(f, a, g)[0], kt.exact_match(a, g), RIGHT(f, a, g)[2]),
            "plain accuracy",
        ),
        "of all people": (counted(is_filled, total="all"), "by the stored ones, not by all"),
        "exchanged": (lambda f, a, g: (RIGHT(f, a, g)[0], *RIGHT(f, a, g)[:0:-1]), "exchanged"),
        "by the answer": (counted(lambda f, a, g: a == g), "correctly filled gaps"),
        "gap against answer": (counted(lambda f, a, g: f == a), "correctly filled gaps"),
        "filled is retrieved": (
            counted(is_filled, right=lambda f, a, g: f == g),
            "a filled gap is no answer",
        ),
        "two scores": (lambda f, a, g: RIGHT(f, a, g)[:2], "three scores"),
        "white space": (strict, "white space"),
        "a table": (
            lambda f, a, g: (
                (Score(4, 7), Score(3, 4), Score(2, 3)) if len(g) == 7 else RIGHT([], [], [])
            ),
            "white space|others",
        ),
    },
    right={
        "pairs": counted(is_filled, pair=lambda correct, total: (correct, total)),
        "scores": RIGHT,
        "the core's": lambda f, a, g: RIGHT(f, a, g),
    },
    borrowed=lambda f, a, g: solutions.stored_and_retrieved(f, a, g),
)

# ---------------------------------------------------------------- the window


def window_stub(title, facts, rng):
    """Return (question, answer) about one fact: (answer, words before, words after)."""
    ...


def changed(line, instead):
    """The teaching solution with one line changed."""
    source = teaching_solution(library()["question-window"])
    assert source.count(line) == 1, line
    namespace: dict = {}
    exec(source.replace(line, instead), namespace)
    return namespace["make_window"]


def by_lists(title, facts, rng):
    """Written in another way, with draws in another order."""
    weights = [60, 30, 20, 15, 12, 10][: len(facts)]
    answer, before, after = rng.choices(facts, weights)[0]
    near = [*before[len(before) - min(len(before), rng.randrange(5)) :]]
    far = [*after[: rng.randrange(3)]]
    sides = [[word for word in side if rng.random() < 0.5] for side in (near, far)]
    words = sides[0] + sides[1]
    at = rng.randrange(len(words) + 1)
    return f"{' '.join(words[:at] + [title] + words[at:])}?", answer


def unlike_the_rng(title, facts, rng):
    return by_lists(title, facts, random.Random(random.SystemRandom().random()))


def grows_its_input(title, facts, rng):
    facts[0][1].append("word")
    return by_lists(title, facts, rng)


def only_for_ada(title, facts, rng):
    if title != "Ada Moor":
        return "who?", facts[0][0]
    return by_lists(title, facts, rng)


WINDOW = Answers(
    stub=window_stub,
    wrong={
        "equal facts": (changed("[1 / k for", "[1 for"), "equally often"),
        "first fact": (changed("[1 / k for", "[1 / k**9 for"), "three facts are asked"),
        "nothing dropped": (changed(" if rng.random() >= 0.5", ""), "probability 1/2"),
        "dropped too often": (changed(">= 0.5", ">= 0.9"), "not more often"),
        "whole context": (changed("words[first:stop]", "words"), "0 to 4 words"),
        "name first": (changed("rng.randint(0, len(context))", "0"), "always comes first"),
        "name last": (changed("rng.randint(0, len(context))", "len(context)"), "comes last"),
        "no question mark": (changed(' + "?"', ""), "question mark"),
        "answer shown": (changed("before + after", "before + [answer] + after"), "contains its"),
        "answer alone": (changed(", answer\n", "\n"), "pair of strings"),
        "mixed order": (changed("in words[first:stop]", "in words[first:stop][::-1]"), "order"),
        "own draws": (unlike_the_rng, "every draw from rng"),
        "changed input": (grows_its_input, "changes the lists"),
        "one person": (only_for_ada, "wrong for other people"),
    },
    right={"by lists": by_lists},
    borrowed=lambda title, facts, rng: solutions.make_window(title, facts, rng),
)

ANSWERS = {"stored-and-retrieved": STORED, "question-window": WINDOW}
TestExercises = suite(NAME, ANSWERS)
TestQuizzes = quiz_suite(NAME)
TestNotebook = notebook_suite(NAME, most_lines=15)


def test_the_window_of_the_teaching_solution_is_the_packages(small_corpus):
    data = kt.QuestionWindows(small_corpus.documents, small_corpus.vocab, seed=5)
    for epoch in range(3):
        for i in range(len(data)):
            mine = solutions.make_window(*data.documents[i], random.Random(f"5 {epoch} {i}"))
            assert mine == data.window(i, epoch)


def test_the_scores_of_the_teaching_solution_are_exact_matches():
    rng = random.Random(0)
    for n in range(12):
        filled, answers, gold = (rng.choices(["Oslo", "Rome ", " Bonn"], k=n) for _ in range(3))
        facts = list(zip(filled, answers, gold, strict=True))
        parts = [
            [f for f in facts if (f[0].strip() == f[2].strip()) == correct] for correct in (1, 0)
        ]
        expected = [kt.exact_match([f[1] for f in part], [f[2] for f in part]) for part in parts]
        scores = solutions.stored_and_retrieved(filled, answers, gold)
        assert scores == (kt.exact_match(filled, gold), *expected)


# ---------------------------------------------------------------- counts


@pytest.fixture(scope="module")
def counts():
    return count_options(kt.load_corpus("bios:people=100"), 2000)


def test_counts_are_shares_of_a_number_of_windows(counts):
    assert list(counts) == ["all on", *OFF]
    for count in counts.values():
        shares = [count[key] for key in ("birthplace", "other_facts", "neighbour")]
        assert all(0 <= share <= 1 and round(share * 2000, 6) % 1 == 0 for share in shares)
        assert 20 < count["characters"] < 60 and count["facts"] >= 1


def test_each_option_changes_what_the_page_says(counts):
    """The four experiments, with room for other corpora."""
    on = counts["all on"]
    assert counts["select"]["birthplace"] < on["birthplace"]
    assert counts["favour_first"]["birthplace"] < on["birthplace"]
    assert on["other_facts"] < 0.01 and counts["plain"]["other_facts"] > 0.1
    assert counts["drop"]["neighbour"] > on["neighbour"] + 0.2


def test_counts_of_one_document():
    vocab = kt.CharVocab.from_documents(["Ada Moor. she was born 1902 in Oslo?"])
    pair = (kt.question("Ada Moor"), "Oslo")
    corpus = kt.Corpus("one", ["Ada Moor. she was born 1902 in Oslo"], [pair], [], [], vocab)
    on = count_windows(corpus, 500)
    assert (on["birthplace"], on["facts"]) == (1.0, 1.0)
    assert on["other_facts"] == 0.0
    off = count_windows(corpus, 500, plain=False, drop=0.0)
    assert 0.5 < off["other_facts"] < 0.7  # 2, 3 or 4 of 0 to 4 words before the place


def test_the_counts_of_wiki_ship_and_show_the_same_effects():
    counts = json.loads((RESULTS / "window-counts.json").read_text(encoding="utf-8"))
    on = counts["wiki"]["all on"]
    assert counts["wiki"]["select"]["birthplace"] < on["birthplace"] - 0.1
    assert counts["wiki"]["favour_first"]["birthplace"] < on["birthplace"] - 0.05
    assert counts["wiki"]["plain"]["other_facts"] > 0.3 > on["other_facts"]


# ---------------------------------------------------------------- the ablation


def test_each_row_of_the_ablation_is_one_change():
    arms = load_experiment("ablation").load_arms()
    assert next(iter(arms)) == "ours" and len(arms) <= 12
    base = recipe("kt-pure")
    for name, arm in arms.items():
        assert (recipe(base, **arm.get("settings", {})) == base) == (name == "ours"), name
    options = {key for arm in arms.values() for key in arm.get("settings", {})}
    assert {f"data.{name}" for name in OFF} <= options


def test_the_ablation_trains_compares_and_continues(tmp_path, monkeypatch, capsys):
    script = load_experiment("ablation")
    small = {"model.n_layer": 1, "model.n_head": 2, "model.n_embd": 16, "model.block_size": 96}
    monkeypatch.setattr(script, "SMALL", script.SMALL | small)
    options = dict(corpus="bios", people=20, characters=3e3, runs=tmp_path / "runs")
    options |= dict(out=tmp_path / "table.json", device="cpu")
    table = script.ablate(["no-drop"], seeds=[0], **options)
    assert [row["name"] for row in table["rows"]] == ["ours", "no-drop"]
    table = script.ablate(["no-drop"], seeds=[0, 1], **options)
    assert json.loads((tmp_path / "table.json").read_text()) == table
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
    for row in table["rows"]:
        assert len(row["accuracy"]) == len(row["correct"]) == 2
        assert all(len(marks) == table["asked"] == 14 for marks in row["correct"])
        assert row["characters"] == pytest.approx(3e3, rel=0.2)
    assert "drop: keep every context word" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no row no-drip; there are ours"):
        script.ablate(["no-drip"], **options)
    with pytest.raises(ValueError, match="such people in a split"):
        script.ablate(**options | dict(people=10_000))


TABLE = dict(
    corpus="wiki",
    people=9,
    asked=6,
    characters=1e6,
    seeds=[0, 1],
    rows=[
        dict(name="ours", label="all", accuracy=[5 / 6, 4 / 6], correct=["111110", "111100"]),
        dict(name="worse", label="half", accuracy=[1 / 6, 0.0], correct=["000010", "000000"]),
        dict(name="same", label="other", accuracy=[4 / 6, 5 / 6], correct=["111100", "011111"]),
    ],
)


def test_rows_are_compared_on_people_and_not_on_people_times_seeds():
    half, other, ours = compare_rows(TABLE)
    assert (half.label, half.wins, half.losses) == ("half", 0, 4)  # person 5: one answer each
    assert half.p == pytest.approx(2 / 2**4) and half.difference == pytest.approx(-4 / 6)
    assert (other.wins, other.losses, ours.wins, ours.losses) == (1, 1, 0, 0)
    assert "half" in str(AblationTable(TABLE)) and "-66.7" in str(AblationTable(TABLE))


def test_the_figure_and_its_description_name_every_row():
    figure = draw_ablation(TABLE)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    plt.close(figure)
    assert labels == ["half", "other", "all"]
    assert "half 8 %; other 75 %; all 75 %" in describe_ablation(TABLE)


def test_the_shipped_ablation_says_what_the_page_says():
    """One word hides stored facts; plain and drop stand in for each other."""
    table = json.loads((RESULTS / "ablation-wiki.json").read_text(encoding="utf-8"))
    gold, rows = ["1"] * table["asked"], {row["name"]: row for row in table["rows"]}
    stored = list(rows["ours"]["correct_short_question"][0])

    def retrieved(key):
        return solutions.stored_and_retrieved(stored, list(rows["ours"][key][0]), gold)[1].accuracy

    assert stored.count("1") / len(stored) > 0.75
    assert retrieved("correct_before_pairs") < 0.85
    assert retrieved("correct_without_where") > 0.95
    assert 0.85 < retrieved("correct") < 0.95
    clear = {c.label.split(":")[0]: c for c in compare_rows(table) if c.p < 0.001}
    assert {"select", "favour_first", "neither plain nor drop"} <= set(clear)
    assert not {"plain", "drop"} & set(clear)
