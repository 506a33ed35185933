"""Which dev people of the assignment's data does a model answer for?

By the position of the birthplace in their line, and by the number of train answers that name it.
Also: whom does one of two models know alone? Reads data/wiki (`kt fetch wiki`) and the predictions
in data/results.

    python tools/where.py     # writes data/results/wiki-where.json
"""

from collections import Counter
from pathlib import Path

import kt_core as kt
from kt_core.corpora.files import write_json

RESULTS = Path(__file__).resolve().parent.parent / "data" / "results"
ABSENT = "not in the line"
# label -> first value
ENDS = {"0–44": 0, "45–59": 45, "60–74": 60, "75–95": 75, "96–111": 96, "112+": 112}
TIMES = {"0": 0, "1–2": 1, "3–7": 3, "8–24": 8, "25+": 25}
PAIR = "rope-a5", "vanilla-a5"  # trained alike but for one thing


def group(value: int, starts: dict[str, int]) -> str:
    """Return the label of the last group that starts at `value` or before."""
    return max((start, label) for label, start in starts.items() if start <= value)[1]


def group_people(corpus: kt.Corpus) -> dict[str, list[str]]:
    """Return each dev person's group, for both ways to group them."""
    lines = {text[: kt.name_prefix_end(text)].removesuffix(". "): text for text in corpus.documents}
    frequency = Counter(answer for _, answer in corpus.train)
    ends = []
    for question, gold in corpus.dev:
        start = lines.get(kt.question_name(question), "").find(gold)
        ends.append(group(start + len(gold), ENDS) if start >= 0 else ABSENT)
    return {"ends": ends, "times": [group(frequency[gold], TIMES) for _, gold in corpus.dev]}


def score_groups(is_correct: list[bool], people: list[str], labels: list[str]) -> dict[str, dict]:
    """Return the score of each group."""
    marks = {
        label: [mark for mark, own in zip(is_correct, people, strict=True) if own == label]
        for label in labels
    }
    return {
        label: kt.Score(sum(group_marks), len(group_marks)).as_dict()
        for label, group_marks in marks.items()
    }


def main() -> None:
    """Write the table and print it."""
    corpus = kt.load_corpus("wiki")
    people = group_people(corpus)
    labels = {"ends": [*ENDS, ABSENT], "times": list(TIMES)}
    variants, correct = {}, {}
    for path in sorted((RESULTS / "predictions").glob("wiki-*-dev.txt")):
        answers = kt.read_predictions(path)
        golds = [gold for _, gold in corpus.dev]
        pairs = zip(answers, golds, strict=True)
        marks = [kt.exact_match([answer], [gold]).correct == 1 for answer, gold in pairs]
        name = path.stem.removeprefix("wiki-").removesuffix("-dev")
        correct[name] = {i for i, mark in enumerate(marks) if mark}
        variants[name] = {k: score_groups(marks, people[k], labels[k]) for k in people}
    one, other = (correct[name] for name in PAIR)
    paired = dict(models=PAIR, alone=[len(one - other), len(other - one)], both=len(one & other))
    table = dict(people=len(corpus.dev), variants=variants, paired=paired)
    write_json(RESULTS / "wiki-where.json", table)
    for name, kinds in variants.items():
        for kind, scores in kinds.items():
            print(name, kind, {k: f"{s['correct']}/{s['total']}" for k, s in scores.items()})


if __name__ == "__main__":
    main()
