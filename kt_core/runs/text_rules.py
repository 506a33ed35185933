"""Rules on strings: which spans of a line to ask for, and how to word a training window.

Names, dates and numbers are recognised by their form, in any corpus. There is no list of names or
places and no cue such as "born in".
"""

import functools
import re

_UPPER = "".join(filter(str.isupper, map(chr, range(0x600))))  # Latin to Armenian
_CAPITALISED = rf"[{_UPPER}][\w'’-]+"
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
# Dates ("4 May 1871", "May 4, 1871"), numbers, and sequences of capitalised words, which may be
# joined by small words ("Rio de Janeiro").
SALIENT = re.compile(
    rf"(?P<number>{_MONTH}\b(?: \d+\b(?:, \d+)?)?|\d+(?:[.,:/-]\d+)*(?: {_CAPITALISED} \d+)?)"
    rf"|(?P<name>{_CAPITALISED}(?: (?:(?:of|the|de|del|la|di|da|von|van|upon) )*{_CAPITALISED})*)"
)
# The full stop that ends a name: not that of an initial ("John D. Smith") or a title ("Jr. ").
NAME_END = re.compile(r"(?<![ .][^\W\d_])(?<!^[^\W\d_])(?<! [JS]r)(?<! Dr)(?<! St)\. ")


@functools.lru_cache(maxsize=16)  # one line is asked for again and again, and then never more
def salient_spans(text: str, names_only: bool = False) -> tuple[tuple[int, int], ...]:
    """Find the names, dates and numbers of `text`: (start, stop) each, in order.

    A single capitalised word that opens a sentence ("He") is left out, since it may not be a name.
    `names_only` leaves out dates and numbers as well.
    """
    spans = []
    for match in SALIENT.finditer(text):
        opens = match.start() == 0 or text[: match.start()].endswith(". ")
        if not (opens and match.group().isalpha()) and not (names_only and match["number"]):
            spans.append(match.span())
    return tuple(spans)


def name_prefix_end(text: str) -> int:
    """Return where the text continues after its name prefix ("Ada Moor. "); 0 if it has none."""
    match = NAME_END.search(text)
    return match.end() if match else 0


def askable_spans(
    text: str, names_only: bool = False, leading: bool = False
) -> list[tuple[int, int]]:
    """Find the salient spans that test knowledge: after the name prefix, and not part of it.

    `names_only` leaves out dates and numbers; `leading` a span that follows another one and a
    comma, such as "Ontario" in "Cambridge, Ontario".
    """
    first = end if (end := name_prefix_end(text)) < len(text) else 0
    spans = salient_spans(text, names_only)
    ends = {stop for _, stop in spans} if leading else set()
    return [
        (a, b)
        for a, b in spans
        if a >= first
        and text[a:b] not in text[:first]
        and not (text[:a].endswith(", ") and a - 2 in ends)
    ]


def plain_words(text: str, start: int, stop: int) -> str:
    """Return text[start:stop] without its salient spans and the space before each of them."""
    parts = []
    for a, b in salient_spans(text):
        if start <= a and b <= stop:
            parts.append(text[start:a].removesuffix(" "))
            start = b
    return "".join([*parts, text[start:stop]])
