"""How often do the checks name the mistake in a wrong answer that their authors did not know?

The answers are in tests/course/chapters/mistakes_by_others.toml. Each has `first`, what its first
run gave, before anything was improved: "right" (accepted), "wrong" (rejected only), or "named".

    python tools/diagnoses.py [ID ...]     # prints each diagnosis; writes data/results/diagnoses.json
"""

import sys
import tomllib
from collections.abc import Iterator
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


def read_answers() -> list[dict]:
    """Return the wrong answers in the order of the file."""
    return tomllib.loads(ANSWERS.read_text("utf-8"))["mistake"]


def judge_answer(answer: dict) -> tuple[str, Verdict]:
    """Return "right", "wrong" or "named", and the verdict."""
    exercise = find_exercise(answer["id"])
    solutions = import_module(f"kt_course.chapters.{exercise.notebook[3:]}.solutions")
    names = {name: import_module(name) for name in ("math", "random", "torch")}
    names |= dict(F=names["torch"].nn.functional, nn=names["torch"].nn, kt=kt)
    names |= vars(solutions)
    exec(compile(answer["code"], "<answer>", "exec"), names)
    verdict = judge(exercise, names[exercise.name])
    is_named = any(search(name, verdict.diagnosis, IGNORECASE) for name in answer["names"])
    return ("named" if verdict.status == "wrong" and is_named else verdict.status), verdict


def count(answers: list[dict], key: str) -> Iterator[dict]:
    """Yield a row for each sample: chapters 1 to 8 and 9 to 14, first and second round."""
    for part, numbers in {"chapters 01-08": range(1, 9), "chapters 09-14": range(9, 16)}.items():
        for number in (1, 2):
            outcomes = [
                answer[key]
                for answer in answers
                if int(find_exercise(answer["id"]).notebook[:2]) in numbers
                and answer.get("round", 1) == number
            ]
            if not outcomes:
                continue
            score = kt.Score(outcomes.count("named"), len(outcomes)).as_dict()
            rejected = len(outcomes) - outcomes.count("right")
            row = dict(part=part, round=number, n=score.pop("total"), rejected=rejected)
            yield row | dict(named=score.pop("correct")) | score


def main() -> None:
    """Print every diagnosis; without arguments, write the table."""
    answers = [a for a in read_answers() if not sys.argv[1:] or a["id"] in sys.argv[1:]]
    for answer in answers:
        answer["now"], verdict = judge_answer(answer)
        print(f"{answer['now']:5s} {answer['cause']}\n      {verdict}\n")
    if not sys.argv[1:]:
        tables = {key: list(count(answers, key)) for key in ("first", "now")}
        write_json(
            ROOT / "data" / "results" / "diagnoses.json", dict(date=str(date.today()), **tables)
        )


if __name__ == "__main__":
    main()
