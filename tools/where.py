"""Which dev people of the assignment's data a model answers for: by the place of the birthplace
in their line, by the
number of train answers that name it; and whom one of two models knows alone. Reads data/wiki (`kt
fetch wiki`) and
the kept dev predictions of each variant.

    python tools/where.py     # writes data/results/wiki-where.json
"""

import bisect
from collections import Counter, defaultdict
from pathlib import Path

import kt_core as kt
from kt_core.corpora.files import write_json

RESULTS = Path(__file__).resolve().parent.parent / "data" / "results"
# label -> first character
ENDS = {"0–44": 0, "45–59": 45, "60–74": 60, "75–95": 75, "96–111": 96, "112+": 112}
PAIR = "rope-a5", "vanilla-a5"  # trained alike but for one thing
TIMES = {"0": 0, "1–2": 1, "3–7": 3, "8–24": 8, "25+": 25}


def group(value: int, starts: dict[str, int]) -> str:
    """The label of the group that `value` falls into: the last one that starts at or before it."""
    return list(starts)[bisect.bisect_right(list(starts.values()), value) - 1]


def main() -> None:
    """Writes the table and prints it."""
    corpus = kt.load_corpus("wiki")
    line_of = {
        line[: kt.name_prefix_end(line)].removesuffix(". "): line for line in corpus.documents
    }
    often = Counter(answer for _, answer in corpus.train)
    told, right = {}, {}
    for path in sorted((RESULTS / "predictions").glob("wiki-*-dev.txt")):
        answers = path.read_text(encoding="utf-8").splitlines()
        groups = {"ends": defaultdict(list), "times": defaultdict(list)}
        for (question, gold), answer in zip(corpus.dev, answers, strict=True):
            line = line_of.get(kt.question_name(question), "")
            at = line.find(gold)
            groups["ends"][group(at + len(gold), ENDS) if at >= 0 else "not in the line"].append(
                (answer, gold)
            )
            groups["times"][group(often[gold], TIMES)].append((answer, gold))
        name = path.stem.removeprefix("wiki-").removesuffix("-dev")
        right[name] = {
            i
            for i, (_, gold) in enumerate(corpus.dev)
            if kt.exact_match([answers[i]], [gold]).correct
        }
        told[name] = {
            kind: {
                label: kt.exact_match(*zip(*found[label], strict=True)).as_dict()
                for label in labels
                if label in found
            }
            for (kind, found), labels in zip(
                groups.items(), ([*ENDS, "not in the line"], TIMES), strict=True
            )
        }
    one, other = (right[name] for name in PAIR)
    paired = dict(models=PAIR, alone=[len(one - other), len(other - one)], both=len(one & other))
    write_json(
        RESULTS / "wiki-where.json", dict(people=len(corpus.dev), variants=told, paired=paired)
    )
    for variant, kinds in told.items():
        for kind, found in kinds.items():
            print(
                variant,
                kind,
                {label: f"{score['correct']}/{score['total']}" for label, score in found.items()},
            )


if __name__ == "__main__":
    main()
