"""Exercises of notebook 8: stored or retrieved, askable spans, plain words, the name last."""

from __future__ import annotations

from collections.abc import Callable

from kt_core.evaluation import stored_and_retrieved
from kt_core.runs.text_rules import arrange_window, askable_spans, plain_words
from kt_course.exercises.assertions import Wrong, describe, fresh_cases
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.random_cases import fresh_random, letters
from kt_course.exercises.registry import Exercise

NOTEBOOK = "08_making_knowledge_extractable"

# ---------------------------------------------------------------- stored and retrieved

SCORES = ("stored", "retrieved", "guessed")


def check_stored_and_retrieved(fn: Callable) -> str:
    wrong = diagnoses(__file__, "stored-and-retrieved")

    def counts(filled: list[str], answers: list[str], gold: list[str]) -> list[tuple[int, int]]:
        """The three scores as (correct, total)."""
        result, pairs = fn(filled, answers, gold), []
        if not isinstance(result, tuple | list) or len(result) != 3:
            raise wrong("not three scores", result=describe(result))
        for name, score in zip(SCORES, result, strict=True):
            pair = (score.correct, score.total) if hasattr(score, "correct") else score
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise wrong("not a score", name=name, result=describe(score))
            pairs.append((int(pair[0]), int(pair[1])))
        return pairs

    gold = ["Oslo", "Rome", "Bonn", "Kiel", "York", "Bath", "Lyon"]
    filled = ["Oslo", "Rome", "Bonn", "Kiel", "Oslo", "Rome", "Bonn"]  # 4 are stored
    answers = ["Oslo", "Rome", "Bonn", "York", "York", "Bath", "Oslo"]  # 3 of them are retrieved
    stored, retrieved, guessed = counts(filled, answers, gold)
    if stored != (4, 7):
        raise wrong("stored", correct=stored[0], total=stored[1])
    if retrieved == (2, 3) and guessed == (3, 4):
        raise wrong("exchanged")
    if retrieved != (3, 4):
        causes = {(3, 7): "all people", (5, 7): "accuracy", (4, 4): "gap", (3, 3): "left out"}
        cause = wrong.texts("causes").get(causes.get(retrieved, ""), "")
        raise wrong("retrieved", correct=retrieved[0], total=retrieved[1], cause=cause)
    if guessed != (2, 3):
        raise wrong("guessed", correct=guessed[0], total=guessed[1])
    with fresh_cases("wrong for a single person whose answer has white space around it"):
        if counts([" Oslo"], ["Oslo "], ["Oslo"]) != [(1, 1), (1, 1), (0, 0)]:
            raise wrong("white space")
    with fresh_cases("right for seven people, wrong for others"):
        rng = fresh_random()
        for _ in range(10):
            n = rng.randint(1, 12)
            gold, filled, answers = (rng.choices("abc", k=n) for _ in range(3))
            is_stored = [f == g for f, g in zip(filled, gold, strict=True)]
            is_correct = [a == g for a, g in zip(answers, gold, strict=True)]
            n_stored, n_both = sum(is_stored), sum(map(min, is_stored, is_correct))
            rest = (sum(is_correct) - n_both, n - n_stored)
            if counts(filled, answers, gold) != [(n_stored, n), (n_both, n_stored), rest]:
                raise Wrong("other people")
    return "stored of all, retrieved of the stored, guessed of the rest"


# ---------------------------------------------------------------- askable spans


def check_askable_spans(fn: Callable) -> str:
    wrong = diagnoses(__file__, "askable-spans")

    def ask(text: str, **options: bool) -> list[str]:
        result = fn(text, **options)
        spans = list(result)
        if any(isinstance(span, str) for span in spans):
            raise wrong("strings")
        if any(not isinstance(span, tuple | list) or len(span) != 2 for span in spans):
            raise wrong("not pairs", result=describe(result))
        return [text[start:stop] for start, stop in spans]

    text = "Ada Moor. Later, Moor left Oslo to see Bo Ek and Bonn in 1902"
    expected = ["Oslo", "Bo Ek", "Bonn", "1902"]
    if (result := ask(text)) != expected:
        causes = {
            ("Ada Moor", "Moor", *expected): "nothing left out",
            ("Ada Moor", *expected): "the prefix itself",
            ("Moor", *expected): "part of the prefix",
            tuple(expected[:-1]): "numbers",
        }
        cause = wrong.texts("causes").get(causes.get(tuple(result), ""), "")
        raise wrong("spans", text=text, result=result, expected=expected, cause=cause)
    if (result := ask(text, names_only=True)) != expected[:-1]:
        raise wrong("names_only", result=result, expected=expected[:-1])
    for text, expected, cause in (
        ("Rome Bonn. He left Rome for Rome Kiel", ["Rome Kiel"], "partly in the prefix"),
        ("some text of Bo Ek without a name prefix", ["Bo Ek"], "no prefix"),
        ("Ada Moor. ", ["Ada Moor"], "nothing after the prefix"),
        ("Bo Ek. He came.", [], "nothing to ask"),
    ):
        if (result := ask(text)) != expected:
            cause = wrong.texts("causes")[cause]
            raise wrong("spans", text=text, result=result, expected=expected, cause=cause)
    rng = fresh_random()
    with fresh_cases("right for some texts, wrong for others"):
        for _ in range(20):
            name = f"{letters(5, rng).capitalize()} {letters(6, rng).capitalize()}"
            words = [rng.choice(name.split()), letters(7, rng).capitalize()]
            words.append(str(rng.randint(10, 1999)))
            rng.shuffle(words)
            text = f"{name}. she " + ", then ".join(words)
            if ask(text) != [text[start:stop] for start, stop in askable_spans(text)]:
                raise Wrong("another text")
    return "names, dates and numbers after the name prefix, without those that it contains"


# ---------------------------------------------------------------- plain words


def check_plain_words(fn: Callable) -> str:
    wrong = diagnoses(__file__, "plain-words")

    def plain(text: str, start: int, stop: int) -> str:
        result = fn(text, start, stop)
        if not isinstance(result, str):
            raise wrong("not a string", result=describe(result))
        return result

    text = "Ada Moor. Moor, born 3 May 1902 in Oslo, Norway, wrote for Bo Ek in Rome"
    start, stop = text.index("Moor, born"), text.index("Oslo")
    if (result := plain(text, start, stop)) != "Moor, born in ":
        causes = {
            text[start:stop]: "nothing left out",
            "Moor, born  in ": "two spaces",
            "Moor, bornin ": "a space too many",
            ", born in ": "sentence opener",
            "Moor, born May in ": "month",
            plain_words(text, 0, len(text)): "whole text",
        }
        cause = wrong.texts("causes").get(causes.get(result, ""), "")
        raise wrong("words", piece=text[start:stop], result=result, cause=cause)
    stop = text.index(", Norway")
    if (result := plain(text, stop, len(text))) != ",, wrote for in":
        cause = wrong.texts("causes")["two spaces"] if "  " in result else ""
        raise wrong("last piece", piece=text[stop:], result=result, cause=cause)
    start = text.index("May")
    if (result := plain(text, start, stop)) != "May 1902 in":
        raise wrong("cut span", piece=text[start:stop], result=result)
    if (result := plain("he met Bo Ek, then Bo Ek", 0, 24)) != "he met, then":
        raise wrong("twice", result=result)
    rng = fresh_random()
    with fresh_cases("right for one text, wrong for others"):
        for _ in range(20):
            text = "she"
            for _ in range(rng.randint(2, 8)):
                word, name, number = letters(5, rng), letters(6, rng), rng.randint(10, 1999)
                text += f" {rng.choice((word, name.capitalize(), number))}"
            start, stop = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
            if plain(text, start, stop) != plain_words(text, start, stop):
                raise Wrong("another text")
    return "names, dates and numbers are gone, the other words are as they were"


# ---------------------------------------------------------------- the name first or last


def check_arrange_window(fn: Callable) -> str:
    wrong = diagnoses(__file__, "name-last")

    def arrange(*pieces: str, **options: bool) -> tuple[str, ...]:
        result = fn(*pieces, **options)
        is_triple = isinstance(result, tuple | list) and len(result) == 3
        if not is_triple or not all(isinstance(piece, str) for piece in result):
            raise wrong("not three strings", result=describe(result))
        return tuple(result)

    pieces, name_first = ("Ada Moor. ", "born in ", "Oslo", ", she"), "Ada Moor. born in "
    if (result := arrange(*pieces)) != (name_first, "Oslo", ", she"):
        cause = wrong.texts("causes")["last by default"] if result[2].endswith("Moor.") else ""
        raise wrong("first", result=result, cause=cause)
    causes = {
        (name_first, "Oslo", ", she"): "nothing moved",
        ("born in ", "Oslo", ", sheAda Moor. "): "space not moved",
        ("born in ", "Oslo", ", she Ada Moor. "): "space at the end",
        ("born in ", "Oslo", ", sheAda Moor."): "no space",
        ("born in Ada Moor. ", "Oslo", ", she"): "before the gap",
        ("born in ", "Oslo", " Ada Moor., she"): "before the last words",
        (name_first, "Oslo", ", she Ada Moor."): "twice",
        ("born in ", "Oslo Ada Moor.", ", she"): "masked",
        ("born in ", "Oslo", ", she Ada Moor"): "no full stop",
    }
    if (result := arrange(*pieces, name_last=True)) != ("born in ", "Oslo", ", she Ada Moor."):
        cause = wrong.texts("causes").get(causes.get(result, ""), "")
        raise wrong("last", result=result, cause=cause)
    if (result := arrange("Bo Ek. ", "", "Kiel", "", name_last=True)) != ("", "Kiel", " Bo Ek."):
        raise wrong("no words", result=result)
    rng = fresh_random()
    with fresh_cases("right for two names, wrong for others"):
        for _ in range(10):
            name, *rest = (letters(rng.randint(1, 9), rng) for _ in range(4))
            for last in (False, True):
                expected = arrange_window(f"{name}. ", *rest, last)
                if arrange(f"{name}. ", *rest, name_last=last) != expected:
                    raise Wrong("another name")
    return "the name before the words, or after them"


EXERCISES = (
    Exercise(
        "stored-and-retrieved",
        NOTEBOOK,
        "Stored, retrieved, guessed",
        2,
        8,
        stored_and_retrieved,
        check_stored_and_retrieved,
    ),
    Exercise(
        "askable-spans",
        NOTEBOOK,
        "What is worth asking for",
        2,
        8,
        askable_spans,
        check_askable_spans,
    ),
    Exercise(
        "name-last", NOTEBOOK, "The name first or last", 1, 4, arrange_window, check_arrange_window
    ),
    Exercise("plain-words", NOTEBOOK, "Only the name tells", 3, 15, plain_words, check_plain_words),
)
