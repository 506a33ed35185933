"""Exercises and questions of notebook 8: stored against found, what can be asked for, plain words, the name in both places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kt_core.evaluation import stored_and_found
from kt_core.runs.text_rules import arrange_window, askable_spans, plain_words
from kt_course.exercises.assertions import Wrong, describe, fresh_cases
from kt_course.exercises.random_cases import fresh_random, letters
from kt_course.exercises.registry import Exercise

NOTEBOOK = "08_making_knowledge_extractable"


# ---------------------------------------------------------------- stored and found


def fractions(result: Any) -> list[tuple[int, int]]:
    """Three scores as (right, asked); else Wrong."""
    if not isinstance(result, (tuple, list)) or len(result) != 3:
        raise Wrong(f"needed are three scores, (stored, found, guessed), not {describe(result)}")
    pairs = []
    for name, score in zip(("stored", "found", "guessed"), result, strict=True):
        pair = (score.correct, score.total) if hasattr(score, "correct") else score
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise Wrong(f"{name} should be kt.Score(right, asked), not {describe(score)}")
        pairs.append((int(pair[0]), int(pair[1])))
    return pairs


def check_stored(fn: Callable) -> str:
    gold = ["Oslo", "Rome", "Bonn", "Kiel", "York", "Bath", "Lyon"]
    filled = ["Oslo", "Rome", "Bonn", "Kiel", "Oslo", "Rome", "Bonn"]  # 4 stored
    answers = [
        "Oslo",
        "Rome",
        "Bonn",
        "York",
        "York",
        "Bath",
        "Oslo",
    ]  # 3 of these found, 2 of the others
    stored, found, guessed = fractions(fn(filled, answers, gold))
    if stored != (4, 7):
        raise Wrong(
            f"stored is {stored[0]} of {stored[1]} instead of 4 of 7: gaps filled rightly, of all people"
        )
    likely = {
        (3, 7): ": of the stored ones, not of all people",
        (5, 7): ": that is plain accuracy; count the people whose gap is filled",
        (4, 4): ": a filled gap is no answer; compare the answers with gold",
        (3, 3): ": it leaves out the people whose gap is filled and whose answer is wrong",
    }
    if found == (2, 3) and guessed == (3, 4):
        raise Wrong(
            "found and guessed are exchanged: found are the right answers where the gap is filled"
        )
    if found != (3, 4):
        raise Wrong(f"found is {found[0]} of {found[1]} instead of 3 of 4" + likely.get(found, ""))
    if guessed != (2, 3):
        raise Wrong(
            f"guessed is {guessed[0]} of {guessed[1]} instead of 2 of 3: right answers where the gap is not filled"
        )
    with fresh_cases("wrong for a single person whose answer has white space around it"):
        if fractions(fn([" Oslo"], ["Oslo "], ["Oslo"])) != [(1, 1), (1, 1), (0, 0)]:
            raise Wrong(
                "white space around an answer does not count: 'Oslo ' is Oslo, as in kt.exact_match"
            )
    with fresh_cases("right for seven people, wrong for others"):
        rng = fresh_random()
        for _ in range(10):
            n = rng.randint(1, 12)
            gold, filled, answers = ([rng.choice("abc") for _ in range(n)] for _ in range(3))
            kept = [f == g for f, g in zip(filled, gold, strict=True)]
            right = [a == g for a, g in zip(answers, gold, strict=True)]
            both = sum(map(min, kept, right))
            wanted = [(sum(kept), n), (both, sum(kept)), (sum(right) - both, n - sum(kept))]
            if (got := fractions(fn(filled, answers, gold))) != wanted:
                raise Wrong(
                    f"right for seven people; for {n} others it gives {got} instead of {wanted}"
                )
    return "stored of all, found of the stored, guessed of the rest"


# ---------------------------------------------------------------- what can be asked for


def spans(result: Any, text: str) -> list[str]:
    """The strings that (start, stop) pairs point to; else Wrong."""
    found = list(result)
    if any(isinstance(span, str) for span in found):
        raise Wrong(
            "the result holds strings; needed are the places, (start, stop), with text[start:stop] the span"
        )
    if any(not isinstance(span, (tuple, list)) or len(span) != 2 for span in found):
        raise Wrong(f"needed is a list of (start, stop), not {describe(result)}")
    return [text[start:stop] for start, stop in found]


def check_askable(fn: Callable) -> str:
    text = "Ada Moor. Later, Moor left Oslo to see Bo Ek and Bonn in 1902"
    right = ["Oslo", "Bo Ek", "Bonn", "1902"]
    likely = {
        ("Ada Moor", "Moor", *right): ": nothing is left out",
        ("Ada Moor", *right): ": the head itself is always in view; a span in it is no question",
        (
            "Moor",
            *right,
        ): ": 'Moor' stands in the head, so it can be copied and asks for no knowledge",
        tuple(right[:-1]): ": numbers and dates can be asked for too, unless names_only",
    }
    got = spans(fn(text), text)
    if got != right:
        raise Wrong(f"in {text!r} it finds {got} instead of {right}" + likely.get(tuple(got), ""))
    if (got := spans(fn(text, names_only=True), text)) != right[:-1]:
        raise Wrong(
            f"with names_only it finds {got} instead of {right[:-1]}: hand names_only on to kt.salient_spans"
        )
    for text, right, why in (
        (
            "Rome Bonn. He left Rome for Rome Kiel",
            ["Rome Kiel"],
            "what the head holds as a part is there to copy; more than that is not",
        ),
        (
            "some text of Bo Ek without a head",
            ["Bo Ek"],
            "a text without a head hides nothing: name_prefix_end gives 0",
        ),
        (
            "Ada Moor. ",
            ["Ada Moor"],
            "with nothing behind the head, the whole text may be asked for",
        ),
        ("Bo Ek. He came.", [], "there is nothing to ask for"),
    ):
        if (got := spans(fn(text), text)) != right:
            raise Wrong(f"in {text!r} it finds {got} instead of {right}: {why}")
    rng = fresh_random()
    with fresh_cases("right for some texts, wrong for others"):
        for _ in range(20):
            name = f"{letters(5, rng).capitalize()} {letters(6, rng).capitalize()}"
            said = [
                name.split()[rng.randrange(2)],
                letters(7, rng).capitalize(),
                str(rng.randint(10, 1999)),
            ]
            rng.shuffle(said)
            text = f"{name}. she " + ", then ".join(said)
            wanted = [text[a:b] for a, b in askable_spans(text)]
            if (got := spans(fn(text), text)) != wanted:
                raise Wrong(f"in {text!r} it finds {got} instead of {wanted}")
    return "salient spans behind the head that the head does not hold"


# ---------------------------------------------------------------- plain words


def check_plain(fn: Callable) -> str:
    def got(text: str, start: int, stop: int) -> str:
        result = fn(text, start, stop)
        if not isinstance(result, str):
            raise Wrong(f"needed is a string, not {describe(result)}")
        return result

    text = "Ada Moor. Moor, born 3 May 1902 in Oslo, Norway, wrote for Bo Ek in Rome"
    start, stop = text.index("Moor, born"), text.index("Oslo")
    right = "Moor, born in "
    likely = {
        text[start:stop]: ": nothing is left out",
        "Moor, born  in ": ": two spaces stay where the date was; the space in front of a span goes with it",
        "Moor, bornin ": ": one space too many is gone; take the one in front of a span, leave the one behind it",
        ", born in ": ": 'Moor' opens the sentence, so kt.salient_spans does not count it, and it stays",
        "Moor, born May in ": ": the month belongs to the date; take spans whole",
    }
    if (told := got(text, start, stop)) != right:
        whole = plain_words(text, 0, len(text))
        more = (
            ": that is the whole text; only text[start:stop] is asked for"
            if told == whole
            else likely.get(told, "")
        )
        raise Wrong(f"between {text[start:stop]!r} leaves {told!r} instead of {right!r}{more}")
    stop = text.index(", Norway")
    if (told := got(text, stop, len(text))) != ",, wrote for in":
        why = ": two spaces stay where a name was" if "  " in told else ""
        raise Wrong(f"{text[stop:]!r} leaves {told!r} instead of ',, wrote for in'{why}")
    if (told := got(text, text.index("May"), stop)) != "May 1902 in":
        raise Wrong(
            f"cut inside a date, {text[text.index('May') : stop]!r} leaves {told!r} instead of 'May 1902 in': "
            "only spans that lie in the piece as a whole are left out"
        )
    if (told := got("he met Bo Ek, then Bo Ek", 0, 24)) != "he met, then":
        raise Wrong(f"a name that comes twice goes twice: {told!r} instead of 'he met, then'")
    rng = fresh_random()
    with fresh_cases("right for one text, wrong for others"):
        for _ in range(20):
            text = "she " + " ".join(
                rng.choice(
                    [letters(5, rng), letters(6, rng).capitalize(), str(rng.randint(10, 1999))]
                )
                for _ in range(rng.randint(2, 8))
            )
            start, stop = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
            if (told := got(text, start, stop)) != (wanted := plain_words(text, start, stop)):
                raise Wrong(
                    f"of {text!r}, from {start} to {stop}, it leaves {told!r} instead of {wanted!r}"
                )
    return "names, dates and numbers are gone, the other words are as they were"


# ---------------------------------------------------------------- head first, head last


def check_arranged(fn: Callable) -> str:
    def got(*pieces: str, **options: Any) -> tuple[str, ...]:
        result = fn(*pieces, **options)
        if (
            not isinstance(result, (tuple, list))
            or len(result) != 3
            or not all(isinstance(p, str) for p in result)
        ):
            raise Wrong(
                f"needed are three strings, (prefix, masked, suffix), not {describe(result)}"
            )
        return tuple(result)

    pieces = ("Ada Moor. ", "born in ", "Oslo", ", she")
    first = got(*pieces)
    if first != ("Ada Moor. born in ", "Oslo", ", she"):
        why = (
            ": that is the name behind the words; by default it stands in front"
            if first[2].endswith("Moor.")
            else ""
        )
        raise Wrong(f"in front: {first} instead of ('Ada Moor. born in ', 'Oslo', ', she'){why}")
    last, right = got(*pieces, name_last=True), ("born in ", "Oslo", ", she Ada Moor.")
    likely = {
        ("Ada Moor. born in ", "Oslo", ", she"): ": nothing has moved",
        ("born in ", "Oslo", ", sheAda Moor. "): ": the head's space belongs in front of it now",
        (
            "born in ",
            "Oslo",
            ", she Ada Moor. ",
        ): ": a space is left at the end, which nothing in a question looks like",
        ("born in ", "Oslo", ", sheAda Moor."): ": a space is missing in front of the name",
        (
            "born in Ada Moor. ",
            "Oslo",
            ", she",
        ): ": the name stands between words and gap; it should stand last",
        (
            "born in ",
            "Oslo",
            " Ada Moor., she",
        ): ": the name stands before the words behind the gap; it should stand last",
        ("Ada Moor. born in ", "Oslo", ", she Ada Moor."): ": the name stands twice",
        (
            "born in ",
            "Oslo Ada Moor.",
            ", she",
        ): ": the name is in the masked piece, so it is hidden and asked for",
        (
            "born in ",
            "Oslo",
            ", she Ada Moor",
        ): ": the full stop is gone; only the space is taken away",
    }
    if last != right:
        raise Wrong(f"behind the words: {last} instead of {right}{likely.get(last, '')}")
    if (told := got("Bo Ek. ", "", "Kiel", "", name_last=True)) != ("", "Kiel", " Bo Ek."):
        raise Wrong(f"with no words at all: {told} instead of ('', 'Kiel', ' Bo Ek.')")
    rng = fresh_random()
    with fresh_cases("right for two names, wrong for others"):
        for _ in range(10):
            head, *rest = (letters(rng.randint(1, 9), rng) for _ in range(4))
            for last in (False, True):
                if got(f"{head}. ", *rest, name_last=last) != arrange_window(
                    f"{head}. ", *rest, last
                ):
                    raise Wrong(
                        f"right for two names; wrong for the head {head + '. '!r} and the pieces {rest}"
                    )
    return "the name in front of the words, or behind them"


EXERCISES = (
    Exercise(
        "stored-and-found", NOTEBOOK, "Stored, found, guessed", 2, 8, stored_and_found, check_stored
    ),
    Exercise(
        "askable-spans", NOTEBOOK, "What is worth asking for", 2, 8, askable_spans, check_askable
    ),
    Exercise(
        "name-last", NOTEBOOK, "The name in front or behind", 1, 4, arrange_window, check_arranged
    ),
    Exercise("plain-words", NOTEBOOK, "Only the name tells", 3, 15, plain_words, check_plain),
)
