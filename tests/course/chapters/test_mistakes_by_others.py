"""Wrong answers by people who had not seen the checks: rejected, with the cause named."""

import collections
import tomllib

import pytest
from diagnoses import ANSWERS as FILE
from diagnoses import count, judge_answer

from kt_course.exercises.registry import exercise_ids

ANSWERS = tomllib.loads(FILE.read_text("utf-8"))["mistake"]
LEAST = 0.85  # the share of diagnoses that name the cause


@pytest.fixture(scope="module")
def judged():
    """The answers with `now`, what this version of the checks gives."""
    verdicts = [judge_answer(answer) for answer in ANSWERS]
    return [
        answer | dict(now=outcome, verdict=str(verdict))
        for answer, (outcome, verdict) in zip(ANSWERS, verdicts, strict=True)
    ]


def test_every_answer_says_what_its_first_run_gave():
    keys = {"id", "cause", "names", "first", "code", "widened", "round"}
    for answer in ANSWERS:
        assert answer["first"] in ("right", "wrong", "named")
        assert set(answer) <= keys
    causes = [(answer["id"], answer["cause"]) for answer in ANSWERS]
    assert len(set(causes)) == len(causes)


def test_each_exercise_has_two_different_answers_in_the_first_sample():
    counts = collections.Counter(a["id"] for a in ANSWERS if a.get("round", 1) == 1)
    assert set(counts) <= set(exercise_ids())
    assert set(counts.values()) == {2}


def test_every_wrong_answer_is_rejected(judged):
    assert not [answer["verdict"] for answer in judged if answer["now"] == "right"]


def test_most_diagnoses_name_the_cause(judged):
    for row in count(judged, "now"):
        part = [answer["verdict"] for answer in judged if answer["now"] == "wrong"]
        assert row["named"]["accuracy"] >= LEAST, "\n".join(part)
