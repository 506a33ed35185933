"""How often does a check name the mistake in a wrong answer that its author did not know?

tests/course/chapters/mistakes_by_others.toml holds the answers and explains its fields.

    python tools/diagnoses.py [ID ...]    # prints; without ids writes data/results/diagnoses.json
"""

import sys
import tomllib
from datetime import date
from importlib import import_module
from pathlib import Path
from re import IGNORECASE, search

import kt_core as kt
from kt_core.corpora.files import write_json
from kt_course.exercises.check import Verdict, judge
from kt_course.exercises.registry import find_exercise

ROOT = Path(__file__).resolve().parent.parent
ANSWERS = ROOT / "tests" / "course" / "chapters" / "mistakes_by_others.toml"


def judge_answer(answer: dict) -> tuple[str, Verdict]:
    """Return "right" (accepted), "wrong" or "named", and the verdict."""
    exercise = find_exercise(answer["id"])
    namespace = {name: import_module(name) for name in ("math", "random", "torch")}
    namespace |= dict(F=import_module("torch.nn.functional"), nn=import_module("torch.nn"), kt=kt)
    namespace |= vars(import_module(f"kt_course.chapters.{exercise.notebook[3:]}.solutions"))
    exec(answer["code"], namespace)
    verdict = judge(exercise, namespace[exercise.name])
    is_named = any(search(name, verdict.diagnosis, IGNORECASE) for name in answer["names"])
    return ("named" if verdict.status == "wrong" and is_named else verdict.status), verdict


def count(answers: list[dict], key: str) -> list[dict]:
    """Return a row of numbers for each part of the course and each round that has answers."""
    groups: dict[tuple[str, int], list[str]] = {}
    for answer in answers:
        is_early = find_exercise(answer["id"]).notebook < "09"
        part = "chapters 01-08" if is_early else "chapters 09-15"
        groups.setdefault((part, answer.get("round", 1)), []).append(answer[key])
    rows = []
    for (part, number), outcomes in groups.items():
        score = kt.Score(outcomes.count("named"), len(outcomes)).as_dict()
        rejected = len(outcomes) - outcomes.count("right")
        rows.append(dict(part=part, round=number, rejected=rejected, named=score))
    return rows


if __name__ == "__main__":
    answers = tomllib.loads(ANSWERS.read_text("utf-8"))["mistake"]
    for answer in [a for a in answers if a["id"] in sys.argv[1:] or not sys.argv[1:]]:
        answer["now"], verdict = judge_answer(answer)
        print(f"{answer['now']:5s} {answer['cause']}\n      {verdict}\n")
    if not sys.argv[1:]:
        table = {"date": str(date.today())}
        table |= {key: count(answers, key) for key in ("first", "now")}
        write_json(ROOT / "data" / "results" / "diagnoses.json", table)
