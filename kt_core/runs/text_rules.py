"""What a line of text offers to ask for, and what the words around a gap may be: general rules on strings.

Names, dates and numbers are found by their looks, for any corpus; no list of names or places, no cue such as "born in".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Salient spans by general rules: dates ("4 May 1871", "May 4, 1871"), numbers, and runs of capitalised words, joined by
# small words inside ("Rio de Janeiro"). A single capitalised word that opens a sentence ("He") tells nothing.
_CAPITAL = (
    f"[{''.join(c for c in map(chr, range(0x600)) if c.isupper())}]"  # Latin, Greek, Cyrillic, Armenian
)
_CAPITALISED = rf"{_CAPITAL}[\w'’-]+"
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
SALIENT = re.compile(
    rf"(?P<number>{_MONTH}\b(?: \d+\b(?:, \d+)?)?|\d+(?:[.,:/-]\d+)*(?: {_CAPITALISED} \d+)?)"
    rf"|(?P<name>{_CAPITALISED}(?: (?:(?:of|the|de|del|la|di|da|von|van|upon) )*{_CAPITALISED})*)"
)


def salient_spans(text: str, names_only: bool = False) -> list[tuple[int, int]]:
    """(start, stop) of each date, number and run of capitalised words in `text`; `names_only`: of the last alone."""
    spans = []
    for match in SALIENT.finditer(text):
        opens = match.start() == 0 or text[: match.start()].endswith(". ")
        if not (opens and match.group().isalpha()) and not (names_only and match["number"]):
            spans.append(match.span())
    return spans


# The full stop that ends a name: not that of an initial ("John D. Smith") or of a title ("Jr. ").
HEAD = re.compile(r"(?<![ .][^\W\d_])(?<!^[^\W\d_])(?<! [JS]r)(?<! [DS]t)\. ")


def behind_head(text: str) -> int:
    """Where the text goes on behind its head, the name that a biography opens with ("Name. "); 0 if it has none."""
    found = HEAD.search(text)
    return found.end() if found else 0


def askable(text: str, names_only: bool = False, leading: bool = False) -> list[tuple[int, int]]:
    """(start, stop) of the salient spans behind the head that it does not hold: what it says already can be copied.

    `leading`: without those that follow another one and a comma, as "Ontario" in "Cambridge, Ontario" does.
    """
    first = behind_head(text)
    first = first if first < len(text) else 0  # nothing behind the head
    spans = salient_spans(text, names_only)
    ends = {stop for _, stop in spans} if leading else set()
    return [
        (a, b)
        for a, b in spans
        if a >= first and text[a:b] not in text[:first] and not (text[:a].endswith(", ") and a - 2 in ends)
    ]


def plain_words(text: str, start: int, stop: int) -> str:
    """text[start:stop] without the salient spans that lie in it, and without the space in front of each."""
    kept = []
    for a, b in salient_spans(text):
        if start <= a and b <= stop:
            kept.append(text[start:a].removesuffix(" "))
            start = b
    return "".join([*kept, text[start:stop]])


def arranged(head: str, before: str, masked: str, after: str, last: bool = False) -> tuple[str, str, str]:
    """(prefix, masked, suffix) of a window: its head in front of the words around the span, or behind them (`last`)."""
    if last:
        return before, masked, f"{after} {head.removesuffix(' ')}"
    return head + before, masked, after


def question_of(head: str, words: Sequence[str], before: int) -> str:
    """A window put as a question is, without its question mark: the first `before` words, the name, the other words."""
    return " ".join([*words[:before], head.removesuffix(". "), *words[before:]])
