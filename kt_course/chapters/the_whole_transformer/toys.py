"""Toy tasks from one sequence to another, drawn by rules: the right answer is known, and so is where to look for it.

reverse     "friday" -> "yadirf": letter j of the answer comes from letter T - 1 - j.
dates       "Thursday, 4 May 1871" -> "1871-05-04".
translate   a small grammar into an invented language whose verb comes last and whose articles agree with the noun.
summarise   a report of three sentences -> the one that tells news, without adjectives and days.

Each is a `pairs.Toy`, whose pairs tell for each token of the answer which tokens of the source it is made of. The
tasks are this workbook's own.
"""

from __future__ import annotations

import datetime
import random

from kt_course.chapters.the_whole_transformer.seq2seq_data import Pair, Toy

# ---------------------------------------------------------------- letters backwards

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


def reverse(shortest: int = 3, longest: int = 12) -> Toy:
    """Random letters, written backwards. Place j of the answer is made of place T - 1 - j."""
    if not 1 <= shortest <= longest:
        raise ValueError(f"reverse: 1 <= shortest <= longest, not {shortest} and {longest}")

    def draw(rng: random.Random) -> Pair:
        source = tuple(rng.choices(LETTERS, k=rng.randint(shortest, longest)))
        return Pair(source, source[::-1], tuple((i,) for i in reversed(range(len(source)))))

    return Toy(f"reverse {shortest}-{longest}", draw, LETTERS, LETTERS)


# ---------------------------------------------------------------- dates

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FORMATS = (
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "{weekday}, {day} {month} {year}",
    "{year}, {month} {day}",
)
SLASHED = "{first}/{second}/{year}"  # day first or month first? nobody can tell


def dates(slashed: float = 0.0, day_first: float = 0.7) -> Toy:
    """Dates of the years 1600 ... 2099 as people write them -> year-month-day (ISO 8601).

    `slashed` of the draws are "03/04/1871", whose two numbers differ and are 12 at most: it means the third of
    April with probability `day_first`, the fourth of March otherwise. Such a source has two right answers.
    """
    for name, value in (("slashed", slashed), ("day_first", day_first)):
        if not 0 <= value <= 1:
            raise ValueError(f"dates: {name} must lie in 0 ... 1, not {value!r}")
    first_day, n_days = datetime.date(1600, 1, 1), 182621  # up to 31 December 2099

    def draw(rng: random.Random) -> Pair:
        if slashed and rng.random() < slashed:
            a, b = rng.sample(range(1, 13), 2)
            day, month = (a, b) if rng.random() < day_first else (b, a)
            date = datetime.date(rng.randint(1600, 2099), month, day)
            return _written(
                SLASHED, {"first": f"{a:02d}", "second": f"{b:02d}"}, date, (a, b) == (day, month)
            )
        date = first_day + datetime.timedelta(days=rng.randrange(n_days))
        parts = {
            "day": str(date.day),
            "month": MONTHS[date.month - 1],
            "weekday": DAYS[date.weekday()],
        }
        return _written(rng.choice(FORMATS), parts, date, True)

    target = tuple("-0123456789")
    every = sorted({ch for word in (*MONTHS, *DAYS, ", /0123456789") for ch in word})
    return Toy(f"dates {slashed} {day_first}", draw, tuple(every), target)


def _written(form: str, parts: dict[str, str], date: datetime.date, day_first: bool) -> Pair:
    """A date in the format `form`, its ISO form, and which characters each part of that is made of."""
    parts = parts | {"year": str(date.year)}
    source, places = "", {}
    for piece in form.replace("{", "\n{").replace("}", "}\n").split("\n"):
        name = piece.strip("{}")
        written = parts[name] if piece.startswith("{") else piece
        places[name] = tuple(range(len(source), len(source) + len(written)))
        source += written
    if "first" in places:
        places["day"], places["month"] = [
            places[n] for n in (("first", "second") if day_first else ("second", "first"))
        ]
    day = places["day"]
    months = [(i,) for i in places["month"]] if "first" in places else [places["month"]] * 2
    days = [(day[0],), (day[-1],)]  # of "4", both digits of "04" come from the one
    alignment = [*[(i,) for i in places["year"]], (), *months, (), *days]
    return Pair(tuple(source), tuple(date.isoformat()), tuple(alignment))


# ---------------------------------------------------------------- a language with another order

# English -> invented. Nouns in -o take lo, uno; nouns in -i take li, uni.
NOUNS = {
    "sailor": "nalo",
    "baker": "pemo",
    "farmer": "tigo",
    "boy": "kuro",
    "dog": "wafo",
    "horse": "halo",
    "boat": "bato",
    "book": "libo",
    "queen": "reni",
    "girl": "sivi",
    "sister": "mali",
    "doctor": "doki",
    "cat": "miri",
    "bird": "piri",
    "lamp": "lumi",
    "letter": "kati",
}
ADJECTIVES = {
    "tall": "vech",
    "young": "juv",
    "red": "rosh",
    "green": "verd",
    "small": "pik",
    "big": "gran",
    "quiet": "shul",
    "kind": "bon",
}
VERBS = {
    "sees": "vidat",
    "finds": "trovat",
    "loves": "amat",
    "follows": "sekat",
    "paints": "pintat",
    "draws": "rayat",
    "hears": "audat",
    "wants": "volat",
}
ADVERBS = {"today": "hodi", "often": "ofte", "here": "izhi", "never": "nul"}
ARTICLES = {("the", "o"): "lo", ("a", "o"): "uno", ("the", "i"): "li", ("a", "i"): "uni"}


def translate(two_clauses: float = 0.3) -> Toy:
    """English of a small grammar -> an invented language.

    "the tall sailor sees a bird often" -> "ofte nalo vech lo piri uni vidat": the adverb comes first, the verb last, a
    noun before its adjective and its article; the article's form depends on the noun, so it is made of two words.
    `two_clauses` of the draws join two sentences by "and".
    """
    if not 0 <= two_clauses <= 1:
        raise ValueError(f"translate: two_clauses must lie in 0 ... 1, not {two_clauses!r}")

    def clause(
        rng: random.Random, start: int
    ) -> tuple[list[str], list[str], list[tuple[int, ...]]]:
        source: list[str] = []

        def add(word: str) -> int:
            source.append(word)
            return start + len(source) - 1

        def noun_phrase() -> list[tuple[str, tuple[int, ...]]]:
            article, noun = rng.choice(("the", "a")), rng.choice(list(NOUNS))
            adjective = rng.choice(list(ADJECTIVES)) if rng.random() < 0.5 else None
            at_article = add(article)
            middle = [(ADJECTIVES[adjective], (add(adjective),))] if adjective else []
            at = add(noun)
            return [
                (NOUNS[noun], (at,)),
                *middle,
                (ARTICLES[article, NOUNS[noun][-1]], (at_article, at)),
            ]

        subject = noun_phrase()
        verb = rng.choice(list(VERBS))
        at_verb = add(verb)
        done = [*subject, *noun_phrase(), (VERBS[verb], (at_verb,))]
        if rng.random() < 0.4:
            adverb = rng.choice(list(ADVERBS))
            done = [(ADVERBS[adverb], (add(adverb),)), *done]
        return source, [word for word, _ in done], [at for _, at in done]

    def draw(rng: random.Random) -> Pair:
        source, target, alignment = clause(rng, 0)
        if rng.random() < two_clauses:
            second = clause(rng, len(source) + 1)
            alignment += [(len(source),), *second[2]]
            source, target = [*source, "and", *second[0]], [*target, "ke", *second[1]]
        return Pair(tuple(source), tuple(target), tuple(alignment))

    english = ("the", "a", "and", *NOUNS, *ADJECTIVES, *VERBS, *ADVERBS)
    invented = (
        "ke",
        *ARTICLES.values(),
        *(w for d in (NOUNS, ADJECTIVES, VERBS, ADVERBS) for w in d.values()),
    )
    return Toy(f"translate {two_clauses}", draw, english, invented, " ")


# ---------------------------------------------------------------- headlines

PEOPLE = ("ann", "bob", "cleo", "dan", "eve", "finn", "gus", "hana", "ivo", "june")
NEWS = ("won", "lost", "bought", "sold", "broke", "stole")
CHATTER = ("saw", "liked", "wanted", "knew", "missed", "praised")
THINGS = ("ring", "boat", "horse", "lamp", "clock", "violin", "garden", "coat")
LOOKS = ("dark", "red", "small", "golden", "plain")
PLACES = ("rome", "oslo", "lima", "cairo", "perth")
WEEKDAYS = ("monday", "friday", "sunday")


def summarise(sentences: int = 3) -> Toy:
    """A report -> its headline. One sentence tells news (`NEWS` verbs), the others are `CHATTER`.

    "on friday bob saw a red boat . ann won a ring in rome . eve knew a clock ." -> "ann won ring rome": person, verb,
    thing and, if told, the place of the sentence with news; articles, adjectives and days are left out.
    """
    if sentences < 1:
        raise ValueError(f"summarise: a report has 1 sentence or more, not {sentences}")

    def draw(rng: random.Random) -> Pair:
        source: list[str] = []
        target: list[str] = []
        alignment: list[tuple[int, ...]] = []
        news = rng.randrange(sentences)

        def add(word: str, kept: bool) -> None:
            if kept:
                target.append(word)
                alignment.append((len(source),))
            source.append(word)

        for i in range(sentences):
            told = i == news
            if rng.random() < 0.3:
                add("on", False)
                add(rng.choice(WEEKDAYS), False)
            add(rng.choice(PEOPLE), told)
            add(rng.choice(NEWS if told else CHATTER), told)
            add("a", False)
            if rng.random() < 0.4:
                add(rng.choice(LOOKS), False)
            add(rng.choice(THINGS), told)
            if rng.random() < 0.4:
                add("in", False)
                add(rng.choice(PLACES), told)
            add(".", False)
        return Pair(tuple(source), tuple(target), tuple(alignment))

    said = (*PEOPLE, *NEWS, *THINGS, *PLACES)
    return Toy(
        f"summarise {sentences}",
        draw,
        ("on", "a", "in", ".", *said, *CHATTER, *LOOKS, *WEEKDAYS),
        said,
        " ",
    )
