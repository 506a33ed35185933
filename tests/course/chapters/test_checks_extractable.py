"""Answers to the exercises of notebook 8, right and wrong: every mistake gets its name."""

import re

from checking import Answers, notebook_suite, quiz_suite, suite

import kt_core as kt
from kt_core.evaluation import Score, stored_and_retrieved
from kt_core.runs.text_rules import arrange_window, askable_spans

# ---------------------------------------------------------------- stored and retrieved


def stored_stub(filled, answers, gold):
    """(stored, retrieved, guessed), three scores."""
    ...


def counted(keep, right=lambda f, a, g: a == g, total=None, pair=Score):
    """(stored, retrieved, guessed) by hand; `keep` says who is stored."""

    def answer(filled, answers, gold):
        rows = list(
            zip(
                *([text.strip() for text in texts] for texts in (filled, answers, gold)),
                strict=True,
            )
        )
        stored = [row for row in rows if keep(*row)]
        rest = [row for row in rows if not keep(*row)]

        def score(part):
            return pair(
                sum(right(*row) for row in part), len(rows) if total == "all" else len(part)
            )

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
    },
    borrowed=lambda filled, answers, gold: stored_and_retrieved(filled, answers, gold),
)

# ---------------------------------------------------------------- askable


def askable_stub(text, names_only=False):
    """(start, stop) of each span that is worth asking for."""
    ...


def behind(keep, head=lambda text: kt.name_prefix_end(text) % len(text), handed=True):
    """Salient spans for which keep(text, start, stop, first) holds."""

    def answer(text, names_only=False):
        spans = kt.salient_spans(text, names_only and handed)
        return [span for span in spans if keep(text, *span, head(text))]

    return answer


def by_comprehension(text, names_only=False):
    first = kt.name_prefix_end(text)
    first = 0 if first == len(text) else first
    return [
        [a, b]
        for a, b in kt.salient_spans(text, names_only)
        if not (a < first or text[a:b] in text[:first])
    ]


GOOD = behind(lambda text, a, b, first: a >= first and text[a:b] not in text[:first])
ASKABLE = Answers(
    stub=askable_stub,
    wrong={
        "nothing left out": (behind(lambda text, a, b, first: True), "nothing is left out"),
        "copies stay": (behind(lambda text, a, b, first: a >= first), "can be copied"),
        "the head stays": (
            behind(
                lambda text, a, b, first: a < first and b - a > 4 or text[a:b] not in text[:first]
            ),
            "always visible",
        ),
        "no numbers": (
            lambda text, names_only=False: GOOD(text, True),
            "numbers and dates can be asked",
        ),
        "names_only ignored": (
            behind(
                lambda text, a, b, first: a >= first and text[a:b] not in text[:first], handed=False
            ),
            "names_only",
        ),
        "strings": (
            lambda text, names_only=False: [text[a:b] for a, b in GOOD(text, names_only)],
            "holds strings",
        ),
        "word by word": (
            behind(
                lambda text, a, b, first: (
                    a >= first and not any(word in text[:first] for word in text[a:b].split())
                )
            ),
            "a longer span is not",
        ),
        "nothing behind": (
            behind(
                lambda text, a, b, first: a >= first and text[a:b] not in text[:first],
                head=kt.name_prefix_end,
            ),
            "nothing after the name prefix",
        ),
        "a head is needed": (
            lambda text, names_only=False: (
                GOOD(text, names_only) if kt.name_prefix_end(text) else []
            ),
            "without a name prefix",
        ),
    },
    right={"modulo": GOOD, "comprehension": by_comprehension},
    borrowed=lambda text, names_only=False: askable_spans(text, names_only),
)

# ---------------------------------------------------------------- plain words


def plain_stub(text, start, stop):
    """text[start:stop] without its names, dates and numbers."""
    ...


def cut_out(space=" ", inside=True, pick=kt.salient_spans, whole=False):
    """The text with each span cut out from the back, `space` with it."""

    def answer(text, start, stop):
        lo, hi = (0, len(text)) if whole else (start, stop)
        piece, first = text[lo:hi], lo
        for a, b in reversed(pick(text)):
            if (lo <= a and b <= hi) if inside else (a < hi and b > lo):
                a, b = max(a, first), min(b, hi)
                front = piece[: a - first]
                piece = (front.removesuffix(space) if space else front) + piece[b - first :]
        return piece

    return answer


def by_characters(text, start, stop):
    gone = set()
    for a, b in kt.salient_spans(text):
        if a >= start and b <= stop:
            gone.update(range(a, b))
            if a > start and text[a - 1] == " ":
                gone.add(a - 1)
    return "".join(text[i] for i in range(start, stop) if i not in gone)


def eats_behind(text, start, stop):
    piece = by_characters(text, start, stop)
    return re.sub("(?<=born) ", "", piece)


def first_ones(text):
    return [(a, b) for a, b in kt.salient_spans(text) if text.index(text[a:b]) == a]


PLAIN = Answers(
    stub=plain_stub,
    wrong={
        "nothing": (lambda text, start, stop: text[start:stop], "nothing is left out"),
        "two spaces": (cut_out(space=""), "two spaces"),
        "a space too many": (eats_behind, "one space too many"),
        "openers too": (
            lambda text, start, stop: re.sub(
                r" ?([A-Z]\w*|\b\d+)( [A-Z]\w*| \d+)*", "", text[start:stop]
            ),
            "opens the sentence",
        ),
        "the whole text": (cut_out(whole=True), "that is the whole text"),
        "cut spans too": (cut_out(inside=False), "cut inside a date"),
        "once": (cut_out(pick=first_ones), "both copies"),
        "a list": (
            lambda text, start, stop: by_characters(text, start, stop).split(),
            "return a string",
        ),
        "names only": (
            cut_out(pick=lambda text: kt.salient_spans(text, True)),
            "instead of 'Moor, born in '",
        ),
    },
    right={"from the back": cut_out(), "characters": by_characters},
    borrowed=lambda text, start, stop: kt.plain_words(text, start, stop),
)

# ---------------------------------------------------------------- head first, head last


def arranged_stub(head, before, masked, after, name_last=False):
    """(prefix, masked, suffix), the head in front or behind."""
    ...


def moved(behind):
    """The name first as it should be; last by the function `behind`."""
    return lambda h, b, m, a, name_last=False: behind(h, b, m, a) if name_last else (h + b, m, a)


ARRANGED = Answers(
    stub=arranged_stub,
    wrong={
        "nothing moves": (moved(lambda h, b, m, a: (h + b, m, a)), "nothing has moved"),
        "always last": (
            lambda h, b, m, a, name_last=False: (b, m, f"{a} {h}"[:-1]),
            "by default it comes first",
        ),
        "joined as it is": (moved(lambda h, b, m, a: (b, m, a + h)), "space belongs before"),
        "space at the end": (
            moved(lambda h, b, m, a: (b, m, f"{a} {h}")),
            "a space is left at the end",
        ),
        "no space": (moved(lambda h, b, m, a: (b, m, a + h[:-1])), "a space is missing"),
        "between": (moved(lambda h, b, m, a: (b + h, m, a)), "between the words and the gap"),
        "before the words": (
            moved(lambda h, b, m, a: (b, m, f" {h}"[:-1] + a)),
            "before the words that follow the gap",
        ),
        "twice": (moved(lambda h, b, m, a: (h + b, m, f"{a} {h}"[:-1])), "is there twice"),
        "masked": (moved(lambda h, b, m, a: (b, f"{m} {h}"[:-1], a)), "hidden and asked for"),
        "no full stop": (moved(lambda h, b, m, a: (b, m, f"{a} {h}"[:-2])), "full stop is gone"),
        "one string": (lambda h, b, m, a, name_last=False: h + b + m + a, "three strings"),
    },
    right={
        "join": moved(lambda h, b, m, a: [b, m, " ".join([a, h.rstrip(" ")])]),
        "slices": moved(lambda h, b, m, a: (b, m, a + " " + h[: len(h) - 1])),
    },
    borrowed=lambda head, before, masked, after, name_last=False: arrange_window(
        head, before, masked, after, name_last
    ),
)

ANSWERS = {
    "stored-and-retrieved": STORED,
    "askable-spans": ASKABLE,
    "name-last": ARRANGED,
    "plain-words": PLAIN,
}
TestExercises = suite("08_making_knowledge_extractable", ANSWERS)
TestQuizzes = quiz_suite("08_making_knowledge_extractable")
TestNotebook = notebook_suite("08_making_knowledge_extractable")
