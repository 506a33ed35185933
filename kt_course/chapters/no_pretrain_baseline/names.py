"""Train people with a name like a given one, and questions with a part of a name exchanged."""

from collections.abc import Sequence
from difflib import SequenceMatcher

from kt_core.corpora.loading import question

People = Sequence[tuple[str, str]]  # (name, birthplace)


def same_first_name(name: str, people: People) -> set[str]:
    """Return the birthplaces of people with the same first name."""
    return {place for other, place in people if other.split()[0] == name.split()[0]}


def same_last_name(name: str, people: People) -> set[str]:
    """Return the birthplaces of people with the same last name."""
    return {place for other, place in people if other.split()[-1] == name.split()[-1]}


def most_similar_names(name: str, people: People) -> set[str]:
    """Return the birthplaces of the three people whose names share most letters in order."""
    matcher = SequenceMatcher(b=name, autojunk=False)

    def similarity(person: tuple[str, str]) -> float:
        matcher.set_seq1(person[0])
        return matcher.ratio()

    return {place for _, place in sorted(people, key=similarity, reverse=True)[:3]}


LIKENESS = {
    "the same first name": same_first_name,
    "the same last name": same_last_name,
    "one of the 3 most similar names": most_similar_names,
}


def swap_part(i: int, part: int, people: People) -> str:
    """Return the question about person i with a part of the name taken from somebody else.

    Args:
        i: Number of the person.
        part: Which word of the name: 0 for the first name, -1 for the last.
        people: Whose names are used.
    """
    words = people[i][0].split()
    words[part] = people[(i + 37) % len(people)][0].split()[part]
    return question(" ".join(words))
