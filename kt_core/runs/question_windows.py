"""Our pretraining data: every training window is a short question about one fact of a document.

Ada Moor. Ada Moor (born 4 May 1871 in Oslo) is a Norwegian author, living in Telemark.

born Ada Moor in?⁇Oslo⁇     author Ada Moor living?⁇Telemark⁇
"""

import random
import string
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from kt_core._validation import is_number, is_whole, require
from kt_core.datasets import TokenDataset
from kt_core.runs.text_rules import askable_spans, name_prefix_end, plain_words
from kt_core.vocab import CharVocab

WORDS_BEFORE, WORDS_AFTER = 4, 2  # how far from the hidden name a window may reach
PUNCTUATION = string.punctuation + "–—“”‘’…"


class QuestionWindows(TokenDataset):
    """Documents as questions: `context words, the person's name, context words?⁇hidden name⁇`.

    A document starts with its title, the name of a person ("Ada Moor. "). A fact is a capitalised
    name in the rest of the text; documents without one are left out. A window hides one fact and
    shows the title at a random position among some of the words around the fact. The loss falls on
    the hidden name and on the ⁇ after it.

    Args:
        select: Leave out names that are no own facts: the "Ontario" of "Cambridge, Ontario", other
            forms of the title ("Ada Maria Moor"), adjectives (words such as "Italian" often follow
            "an"), and words that the documents mostly write in lower case ("Born").
        plain: Show no other names, dates and numbers as context: they too would identify the fact.
        drop: Probability of leaving out each context word, so that no fixed phrase is needed.
        favour_first: Choose the k-th fact with a probability proportional to 1 / k**favour_first,
            since a text starts with its most important facts; 0 chooses all equally often. Names
            of several words that are in no other document come last: few are places.
    """

    def __init__(
        self,
        documents: Sequence[str],
        vocab: CharVocab,
        block_size: int = 128,
        seed: int = 0,
        *,
        select: bool = True,
        plain: bool = True,
        drop: float = 0.5,
        favour_first: float = 1.0,
    ):
        self.vocab, self.block_size, self.seed = vocab, block_size, seed
        self.select, self.plain, self.drop, self.favour_first = select, plain, drop, favour_first
        require(self, "block_size", is_whole(block_size, 16), "16 or more")
        for name in ("select", "plain"):
            require(self, name, isinstance(getattr(self, name), bool), "True or False")
        require(self, "drop", is_number(drop, 0, 1), "in 0 ... 1")
        require(self, "favour_first", is_number(favour_first, 0, 9), "in 0 ... 9")
        self.check_documents(documents)
        self.no_names = _no_names(documents) if select else frozenset()
        self.documents = [(name, facts) for name, facts in map(self._facts, documents) if facts]
        n = Counter(name for _, facts in self.documents for name in {fact[0] for fact in facts})
        for _, facts in self.documents:
            facts.sort(key=lambda fact: " " in fact[0] and n[fact[0]] == 1)
        if documents and not any(name for name, _ in self.documents):
            problem = 'none has a title and a fact, as "Ada Moor. Born in Oslo." has'
            raise ValueError(f"QuestionWindows: {len(documents)} documents, and {problem}")

    def __len__(self) -> int:
        return len(self.documents)

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        """Return the ids of window i, and the index of the first id in the loss."""
        question, answer = self.window(i, epoch)
        prompt = [*self.vocab.encode(question), self.vocab.mask_id]
        return [*prompt, *self.vocab.encode(answer), self.vocab.mask_id], len(prompt)

    def window(self, i: int, epoch: int = 0) -> tuple[str, str]:
        """Return (question, answer) of window i in an epoch, as text."""
        rng = random.Random(f"{self.seed} {epoch} {i}")
        name, facts = self.documents[i]
        weights = [1 / k**self.favour_first for k in range(1, len(facts) + 1)]
        answer, before, after = rng.choices(facts, weights)[0]
        words = self._choose_words(before, after, rng)
        words.insert(rng.randint(0, len(words)), name)
        return " ".join(words)[: self.block_size - len(answer) - 3] + "?", answer

    def _choose_words(self, before: list[str], after: list[str], rng: random.Random) -> list[str]:
        """Choose some of the context words, in their order."""
        words = before + after
        first = max(0, len(before) - rng.randint(0, WORDS_BEFORE))
        stop = len(before) + min(len(after), rng.randint(0, WORDS_AFTER))
        return [word for word in words[first:stop] if rng.random() >= self.drop]

    def _facts(self, text: str) -> tuple[str, list[tuple[str, list[str], list[str]]]]:
        """Return the title, and (name, words before, words after) of each fact in the text."""
        start = name_prefix_end(text)
        title, facts = text[:start].removesuffix(". "), []
        spans = askable_spans(text, names_only=True, leading=self.select)
        spans = spans or askable_spans(text, names_only=True) or askable_spans(text)
        if self.select:
            facts_alone = [(a, b) for a, b in spans if self._is_fact(title, text, a, b)]
            spans = facts_alone or spans
        for a, b in spans:
            if b - a > self.block_size // 2:
                continue  # no room for a question
            before = self._context(title, text, start, a)[-WORDS_BEFORE:]
            after = self._context(title, text, b, len(text))[:WORDS_AFTER]
            facts.append((text[a:b], before, after))
        return title, facts

    def _is_fact(self, title: str, text: str, a: int, b: int) -> bool:
        """Is text[a:b] no other form of the title, no adjective and no ordinary word?"""
        words = [_bare(word) for word in text[a:b].split()]
        title_names = {_bare(word) for word in title.split() if word[0].isupper()}
        is_name = text[:a].split()[-1:] not in (["a"], ["an"], ["A"], ["An"])  # nor an adjective
        return is_name and words[0] not in self.no_names and title_names.isdisjoint(words)

    def _context(self, title: str, text: str, a: int, b: int) -> list[str]:
        """Return the words of text[a:b] without punctuation and without those of the title."""
        part = plain_words(text, a, b) if self.plain else text[a:b]
        title_words = {"", *title.split()}
        return [word for word in map(_bare, part.split()) if word not in title_words]


def _no_names(documents: Sequence[str]) -> frozenset[str]:
    """Return words mostly in lower case, and adjectives: a quarter or more follow "a" or "an"."""
    words = [_bare(word) for text in documents for word in text.split()]
    n = Counter(words)
    ordinary = {w for w in n if n[w.lower()] > n[w.lower().capitalize()]}
    after_article = Counter(b for a, b in pairwise(words) if a.lower() in ("a", "an"))
    return frozenset(ordinary | {w for w, count in after_article.items() if 4 * count >= n[w]})


def _bare(word: str) -> str:
    return word.strip(PUNCTUATION)
