"""Toy tasks from one sequence to another, drawn by rules, so that the correct alignment is known.

reverse     "friday" -> "yadirf": letter j of the answer comes from letter T - 1 - j.
dates       "Thursday, 4 May 1871" -> "1871-05-04".
translate   a small grammar into an invented language with the verb last and articles that agree.
summarise   a report of three sentences -> the one with news, without adjectives and days.

Each is a `Toy`; its pairs say which source tokens each token of the answer is made of. The tasks
are this workbook's own; their words are in toys.toml.
"""

import datetime
import random
import re
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path

from kt_course.chapters.the_whole_transformer.seq2seq_data import Pair, Toy

WORDS = tomllib.loads(Path(__file__).with_name("toys.toml").read_text(encoding="utf-8"))
LETTERS = tuple(string.ascii_lowercase)
MONTHS, WEEKDAYS, FORMATS = (WORDS["dates"][key] for key in ("months", "weekdays", "formats"))
NOUNS, ADJECTIVES, VERBS, ADVERBS = WORDS["translate"].values()
ARTICLES = {("the", "o"): "lo", ("a", "o"): "uno", ("the", "i"): "li", ("a", "i"): "uni"}
REPORT = WORDS["summarise"]


def _check_share(task: str, **shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{task}: {name} must lie in 0 ... 1, not {value!r}")


def reverse(shortest: int = 3, longest: int = 12) -> Toy:
    """Random letters, written backwards: position j of the answer is made of T - 1 - j."""
    if not 1 <= shortest <= longest:
        raise ValueError(f"reverse: 1 <= shortest <= longest, not {shortest} and {longest}")

    def draw(rng: random.Random) -> Pair:
        source = tuple(rng.choices(LETTERS, k=rng.randint(shortest, longest)))
        return Pair(source, source[::-1], tuple((i,) for i in reversed(range(len(source)))))

    return Toy(f"reverse {shortest}-{longest}", draw, LETTERS, LETTERS)


# ---------------------------------------------------------------- dates


def dates(slashed: float = 0.0, day_first: float = 0.7) -> Toy:
    """Dates of the years 1600 ... 2099 as people write them -> year-month-day (ISO 8601).

    Args:
        slashed: Share of the draws that are ambiguous, such as "03/04/1871": two different numbers
            of at most 12.
        day_first: Share of those that mean the third of April; the others mean the fourth of March.
    """
    _check_share("dates", slashed=slashed, day_first=day_first)
    first_date, n_days = datetime.date(1600, 1, 1), 182621  # up to 31 December 2099

    def draw(rng: random.Random) -> Pair:
        if slashed and rng.random() < slashed:
            a, b = rng.sample(range(1, 13), 2)
            is_day_first = rng.random() < day_first
            day, month = (a, b) if is_day_first else (b, a)
            date = datetime.date(rng.randint(1600, 2099), month, day)
            form = "{day}/{month}/{year}" if is_day_first else "{month}/{day}/{year}"
            return _write_date(form, date, {"day": f"{day:02d}", "month": f"{month:02d}"})
        date = first_date + datetime.timedelta(days=rng.randrange(n_days))
        month, weekday = MONTHS[date.month - 1], WEEKDAYS[date.weekday()]
        parts = {"day": str(date.day), "month": month, "weekday": weekday}
        return _write_date(rng.choice(FORMATS), date, parts)

    source = sorted(
        {character for word in (*MONTHS, *WEEKDAYS, ", /0123456789") for character in word}
    )
    return Toy(f"dates {slashed} {day_first}", draw, tuple(source), tuple("-0123456789"))


def _write_date(form: str, date: datetime.date, parts: dict[str, str]) -> Pair:
    """Write a date in a format; its ISO form is aligned to the characters of each part."""
    parts = parts | {"year": str(date.year)}
    source, spans = "", {}
    for i, piece in enumerate(re.split(r"\{(\w+)\}", form)):  # text, name, text, name, ..., text
        written = parts[piece] if i % 2 else piece
        spans[piece] = tuple(range(len(source), len(source) + len(written)))
        source += written
    year, month, day = spans["year"], spans["month"], spans["day"]
    months = [(i,) for i in month] if parts["month"].isdigit() else [month, month]
    days = [(day[0],), (day[-1],)]  # both digits of "04" come from a single "4"
    alignment = [*((i,) for i in year), (), *months, (), *days]
    return Pair(tuple(source), tuple(date.isoformat()), tuple(alignment))


# ---------------------------------------------------------------- translation


def translate(two_clauses: float = 0.3) -> Toy:
    """English of a small grammar -> an invented language.

    "the tall sailor sees a bird often" -> "ofte nalo vech lo piri uni vidat": the adverb comes
    first, the verb last, a noun before its adjective and its article. The form of the article
    depends on the noun, so it is made of two words. A share `two_clauses` of the draws joins two
    sentences with "and".
    """
    _check_share("translate", two_clauses=two_clauses)

    def draw(rng: random.Random) -> Pair:
        source: list[str] = []
        target = _clause(rng, source)
        if rng.random() < two_clauses:
            source.append("and")
            target.append(("ke", (len(source) - 1,)))
            target += _clause(rng, source)
        words, alignment = zip(*target, strict=True)
        return Pair(tuple(source), words, alignment)

    lexicons = (NOUNS, ADJECTIVES, VERBS, ADVERBS)
    english = ("the", "a", "and", *(word for lexicon in lexicons for word in lexicon))
    invented = ("ke", *ARTICLES.values(), *(w for lexicon in lexicons for w in lexicon.values()))
    return Toy(f"translate {two_clauses}", draw, english, invented, " ")


Aligned = list[tuple[str, tuple[int, ...]]]  # target words with the source positions they come from


def _add(source: list[str], word: str) -> int:
    """Append a word; returns its position."""
    source.append(word)
    return len(source) - 1


def _noun_phrase(rng: random.Random, source: list[str]) -> Aligned:
    article, noun = rng.choice(("the", "a")), rng.choice(list(NOUNS))
    adjective = rng.choice(list(ADJECTIVES)) if rng.random() < 0.5 else None
    at_article = _add(source, article)
    middle = [(ADJECTIVES[adjective], (_add(source, adjective),))] if adjective else []
    at_noun = _add(source, noun)
    form = ARTICLES[article, NOUNS[noun][-1]]
    return [(NOUNS[noun], (at_noun,)), *middle, (form, (at_article, at_noun))]


def _clause(rng: random.Random, source: list[str]) -> Aligned:
    """Append an English sentence to `source`; returns its translation."""
    subject = _noun_phrase(rng, source)
    verb = rng.choice(list(VERBS))
    at_verb = _add(source, verb)
    target = [*subject, *_noun_phrase(rng, source), (VERBS[verb], (at_verb,))]
    if rng.random() < 0.4:
        adverb = rng.choice(list(ADVERBS))
        target.insert(0, (ADVERBS[adverb], (_add(source, adverb),)))
    return target


# ---------------------------------------------------------------- headlines


def summarise(sentences: int = 3) -> Toy:
    """A report -> its headline. One sentence has a verb of news, the others have one of chatter.

    "on friday bob saw a red boat . ann won a ring in rome . eve knew a clock ." -> "ann won ring
    rome": person, verb, thing and, if there is one, the place of the sentence with news. Articles,
    adjectives and days are left out.
    """
    if sentences < 1:
        raise ValueError(f"summarise: a report has at least 1 sentence, not {sentences}")

    def draw(rng: random.Random) -> Pair:
        source: list[str] = []
        headline: list[int] = []
        news = rng.randrange(sentences)
        for i in range(sentences):
            for word, is_headline in _sentence(rng, i == news):
                position = _add(source, word)
                if is_headline:
                    headline.append(position)
        target = tuple(source[i] for i in headline)
        return Pair(tuple(source), target, tuple((i,) for i in headline))

    said = [word for key in ("people", "news", "things", "places") for word in REPORT[key]]
    rest = [word for key in ("chatter", "looks", "weekdays") for word in REPORT[key]]
    return Toy(
        f"summarise {sentences}", draw, ("on", "a", "in", ".", *said, *rest), tuple(said), " "
    )


def _sentence(rng: random.Random, is_news: bool) -> Iterator[tuple[str, bool]]:
    """Yield the words of a sentence, and whether each belongs to the headline."""
    if rng.random() < 0.3:
        yield "on", False
        yield rng.choice(REPORT["weekdays"]), False
    yield rng.choice(REPORT["people"]), is_news
    yield rng.choice(REPORT["news" if is_news else "chatter"]), is_news
    yield "a", False
    if rng.random() < 0.4:
        yield rng.choice(REPORT["looks"]), False
    yield rng.choice(REPORT["things"]), is_news
    if rng.random() < 0.4:
        yield "in", False
        yield rng.choice(REPORT["places"]), is_news
    yield ".", False
