"""Count what training windows ask for and what they show, without training on them."""

import string
from collections import defaultdict

from kt_core.corpora.loading import Corpus, question_name
from kt_core.runs.question_windows import QuestionWindows
from kt_core.runs.text_rules import name_prefix_end, salient_spans

# What each of the four options is replaced by when it is switched off.
OFF = dict(select=False, plain=False, drop=0.0, favour_first=0)
TOTALS = ("birthplace", "characters", "other_facts", "neighbour")


def context_words(question: str, title: str) -> list[str]:
    """Return the words of a question without the person's name and the question mark."""
    return question.removesuffix("?").replace(title, " ", 1).split()


def count_windows(corpus: Corpus, n: int = 2000, seed: int = 0, **options) -> dict[str, float]:
    """Count over `n` windows about people of the train and dev questions.

    Args:
        options: Of `QuestionWindows`.

    Returns:
        facts: Facts per document.
        birthplace: Share of the windows that hide the person's birthplace.
        characters: Mean length of a window.
        other_facts: Share of the windows that show another name, date or number of the person.
        neighbour: Share of the windows that show the word directly before the answer.
    """
    data = QuestionWindows(corpus.documents, corpus.vocab, seed=seed, **options)
    places = {question_name(question): place for question, place in corpus.train + corpus.dev}
    rows = [i for i, (title, _) in enumerate(data.documents) if title in places]
    others, totals = facts_in_text(corpus.documents), dict.fromkeys(TOTALS, 0)
    for k in range(n):
        i, epoch = rows[k % len(rows)], k // len(rows)
        title, facts = data.documents[i]
        question, answer = data.window(i, epoch)
        words = context_words(question, title)
        totals["birthplace"] += answer == places[title]
        totals["characters"] += len(question) + len(answer) + 2
        totals["other_facts"] += not others[title].isdisjoint(words)
        before = next(before for name, before, _ in facts if name == answer)
        totals["neighbour"] += bool(before) and before[-1] in words
    per_document = sum(len(data.documents[i][1]) for i in rows) / len(rows)
    return {name: total / n for name, total in totals.items()} | dict(facts=per_document)


def facts_in_text(documents: list[str]) -> dict[str, set[str]]:
    """Return the words of all names, dates and numbers of each person, by title."""
    words: dict[str, set[str]] = defaultdict(set)
    for text in documents:
        start = name_prefix_end(text)
        title = text[:start].removesuffix(". ")
        for a, b in salient_spans(text):
            spans = text[a:b].split() if a >= start else ()
            words[title] |= {word.strip(string.punctuation) for word in spans if not word.islower()}
        words[title] -= set(title.split())
    return words


def count_options(corpus: Corpus, n: int = 2000, seed: int = 0, **on: float) -> dict[str, dict]:
    """Count with all options on ("all on"), and with each of them off, by its name."""
    trials = {"all on": {}} | {name: {name: off} for name, off in OFF.items()}
    return {name: count_windows(corpus, n, seed, **on | trial) for name, trial in trials.items()}
