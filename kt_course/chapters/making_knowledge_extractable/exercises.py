"""Exercises of notebook 8: stored and retrieved facts, and the training window itself."""

import copy
import random
from collections import Counter
from collections.abc import Callable

from kt_core.runs.question_windows import QuestionWindows
from kt_course.chapters.making_knowledge_extractable import solutions
from kt_course.exercises.assertions import describe, fresh_cases, parts
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.diagnoses import Diagnoses, diagnoses
from kt_course.exercises.random_cases import fresh_random, letters

CHAPTER = Comparison(solutions, "08_making_knowledge_extractable")

# ---------------------------------------------------------------- stored and retrieved

GOLD = ["Oslo", "Rome", "Bonn", "Kiel", "York", "Bath", "Lyon"]
FILLED = ["Oslo", "Rome", "Bonn", "Kiel", "Oslo", "Rome", "Bonn"]  # 4 are stored
ANSWERS = ["Oslo", "Rome", "Bonn", "York", "York", "Bath", "Oslo"]  # 3 of them are retrieved
SPACES = "with white space around the answer"


@CHAPTER.exercise("stored-and-retrieved")
def scores_of(answer: Callable, seed: int) -> Results:
    """Score seven people, one of whom has spaces around the answer; or others for other seeds."""
    rng, texts = random.Random(seed), CHAPTER.texts["stored-and-retrieved"]
    cases = {"of 7 people": (FILLED, ANSWERS, GOLD), SPACES: ([" Oslo"], ["Oslo "], ["Oslo"])}
    if seed:
        sizes = rng.choices(range(1, 13), k=10)
        cases = {str(i): [rng.choices("abc", k=n) for _ in range(3)] for i, n in enumerate(sizes)}
    results: Results = {}
    for case, lists in cases.items():
        scores = parts(answer(*lists), 3, texts["not_three"])
        for name, score in zip(("stored", "retrieved", "guessed"), scores, strict=True):
            pair = (score.correct, score.total) if hasattr(score, "correct") else score
            message = f"{name} should be kt.Score(correct, total), not {{result}}"
            correct, total = parts(pair, 2, message)
            results[f"{name} {case}"] = f"{int(correct)} of {int(total)}"
    return results


# ---------------------------------------------------------------- the window

TITLE = "Ada Moor"
FACTS = [
    ("Oslo", ["she", "was", "born", "in"], ["as", "second"]),
    ("Rome", ["and", "studied", "law", "at"], ["until", "then"]),
    ("Lima", ["to", "teach", "physics", "near"], ["or", "by"]),
]
N_DRAWS = 1200


@CHAPTER.checked("question-window", forbidden=(QuestionWindows.window,))
def check_make_window(fn: Callable) -> str:
    wrong = diagnoses(__file__, "question-window")

    def draw(title: str, facts: list, seed: int) -> tuple[str, str, list[str]]:
        """(question, answer, context words) of one window."""
        argument = copy.deepcopy(facts)
        result = fn(title, argument, random.Random(seed))
        if argument != facts:
            raise wrong("changes its input")
        is_pair = isinstance(result, tuple | list) and len(result) == 2
        if not is_pair or not all(isinstance(text, str) for text in result):
            raise wrong("not a pair", result=describe(result))
        return *result, check_form(wrong, title, facts, *result)

    windows = [draw(TITLE, FACTS, seed) for seed in range(N_DRAWS)]
    if windows[:20] != [draw(TITLE, FACTS, seed) for seed in range(20)]:
        raise wrong("own random numbers")
    check_shares(wrong, windows)
    check_reach(wrong, draw)
    bare = draw(TITLE, [("Bonn", [], [])], 0)[0]
    wrong.reject({"no words": bare != "Ada Moor?"}, result=bare)
    with fresh_cases("right for Ada Moor, wrong for other people and facts"):
        rng = fresh_random()
        for _ in range(20):
            facts = [
                (letters(6, rng), [letters(5, rng) for _ in range(rng.randint(0, 4))], ["xyz"])
                for _ in range(rng.randint(1, 4))
            ]
            draw(letters(7, rng), facts, rng.randint(0, 99))
    return "one fact, some of its words in order, the name among them"


def check_form(wrong: Diagnoses, title: str, facts: list, question: str, answer: str) -> list[str]:
    """Raise Wrong unless this is a window of one of the facts; return its context words."""
    fact = next((fact for fact in facts if fact[0] == answer), None)
    if fact is None:
        raise wrong("not a fact", answer=answer)
    if not question.endswith("?") or question.endswith(" ?") or question.count("?") != 1:
        raise wrong("question mark", question=question)
    if question.count(title) != 1:
        raise wrong("title", question=question)
    text = question.removesuffix("?").replace(title, " ")
    words, everything = text.split(), [*fact[1], *fact[2]]
    if answer in words:
        raise wrong("leak", question=question, answer=answer)
    if others := [word for word in words if word not in everything]:
        raise wrong("other words", word=others[0], answer=answer)
    if "  " in question or question != question.strip():
        raise wrong("spaces", question=question)
    if [word for word in everything if word in words] != words:
        raise wrong("order", question=question)
    return words


def check_shares(wrong: Diagnoses, windows: list[tuple[str, str, list[str]]]) -> None:
    """Raise Wrong unless the draws have the frequencies that the exercise asks for."""
    n = len(windows)
    counts = Counter(answer for _, answer, _ in windows)
    if any(abs(counts[name] / n - share) > 0.06 for name, share in zip(NAMES, SHARES, strict=True)):
        is_equal = all(abs(counts[name] / n - 1 / 3) < 0.06 for name in NAMES)
        raise wrong("equal facts" if is_equal else "facts", counts=[counts[name] for name in NAMES])
    mean = sum(len(words) for *_, words in windows) / n
    expected = sum(
        len(solutions.make_window(TITLE, FACTS, random.Random(s))[0].split()) for s in range(n)
    )
    expected -= n * len(TITLE.split())
    if abs(mean - expected / n) > 0.35:
        too_many = "reach" if sum(map(has_gap, windows)) > 0.05 * n else "not dropped"
        cause = wrong.texts("lengths")[too_many if mean > expected / n else "too few"]
        raise wrong("length", mean=f"{mean:.1f}", expected=f"{expected / n:.1f}", cause=cause)
    first = sum(question.startswith(TITLE) for question, *_ in windows) / n
    last = sum(question.endswith(f"{TITLE}?") for question, *_ in windows) / n
    wrong.reject({"name first": first > 0.9, "name last": last > 0.9})
    if not (0.25 < first < 0.6 and 0.25 < last < 0.6):
        raise wrong("name", first=f"{100 * first:.0f}", last=f"{100 * last:.0f}")


def check_reach(wrong: Diagnoses, draw: Callable) -> None:
    """Raise Wrong unless words at each distance from the answer come as often as they should."""
    n, name_first = 3000, []  # does the name come first? of the windows with one word
    for n_before in (4, 2):
        before = [f"before-{k}" for k in range(n_before, 0, -1)]
        counts: Counter = Counter()
        for seed in range(n):
            question, _, words = draw(TITLE, [("Oslo", before, ["after-1", "after-2"])], seed)
            counts.update(words)
            if len(words) == 1:
                name_first.append(question.startswith(TITLE))
        wrong.reject({"far words": counts["before-4"] > counts["before-1"]})
        for word in (*before, "after-1", "after-2"):
            side, _, k = word.partition("-")
            share, expected = counts[word] / n, 0.5 - int(k) / (10 if side == "before" else 6)
            if abs(share - expected) > 0.045:
                raise wrong("distance", k=k, side=side, share=100 * share, expected=100 * expected)
    first = sum(name_first) / max(1, len(name_first))
    if abs(first - 0.5) > 0.08:
        raise wrong("name", first=f"{100 * first:.0f}", last=f"{100 - 100 * first:.0f}")


def has_gap(window: tuple[str, str, list[str]]) -> bool:
    """Is a word missing between two words that were both before, or both after the answer?"""
    _, answer, words = window
    sides = next(fact[1:] for fact in FACTS if fact[0] == answer)
    positions = [[side.index(word) for word in words if word in side] for side in sides]
    return any(at and at[-1] - at[0] + 1 > len(at) for at in positions)


NAMES = [name for name, *_ in FACTS]
SHARES = [6 / 11, 3 / 11, 2 / 11]  # 1 : 1/2 : 1/3


EXERCISES = CHAPTER.exercises()
