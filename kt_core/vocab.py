"""Characters and their numbers: □ (pad) is 0, ⁇ (mask) is 1, then the sorted characters of the documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

PAD = "□"  # fills a block up to its length; targets of 0 are left out of the loss
MASK = "⁇"  # opens and closes what the model has to fill in

# Every question has these characters, so that a pretrained vocabulary serves the finetuning too.
ALWAYS = frozenset("\nWhere was born?")


class CharVocab:
    """One id a character. `chars` are those after the two specials, in the order of their ids.

    Raises ValueError for an entry that is not one character, that comes twice, or that is a special.
    """

    def __init__(self, chars: Sequence[str]) -> None:
        chars = list(chars)
        for i, ch in enumerate(chars):
            if not isinstance(ch, str) or len(ch) != 1:
                raise ValueError(f"chars[{i}] is {ch!r}: each entry must be one character")
            if ch in (PAD, MASK):
                raise ValueError(
                    f"chars[{i}] is {ch!r}: ids 0 and 1 are given to {PAD} and {MASK} already"
                )
        if len(set(chars)) != len(chars):
            twice = sorted({c for c in chars if chars.count(c) > 1})
            raise ValueError(f"characters given twice: {twice}")
        self._chars = (PAD, MASK, *chars)
        self._ids = {ch: i for i, ch in enumerate(self._chars)}

    @classmethod
    def from_documents(cls, documents: Iterable[str]) -> CharVocab:
        """The sorted characters of all documents, the newline and the characters of "Where was … born?".

        Raises ValueError, with the document's index, where a document holds □ or ⁇ itself.
        """
        if isinstance(documents, str):
            raise ValueError("documents must be a list of strings, not one string")
        found = set(ALWAYS)
        for i, document in enumerate(documents):
            for special in (PAD, MASK):
                if special in document:
                    raise ValueError(
                        f"document {i} holds {special!r} at position {document.index(special)}: "
                        "this character is reserved, remove it from the text"
                    )
            found.update(document)
        return cls(sorted(found))

    @property
    def chars(self) -> list[str]:
        """All characters by id, the two specials first."""
        return list(self._chars)

    @property
    def pad_id(self) -> int:
        return 0

    @property
    def mask_id(self) -> int:
        return 1

    def encode(self, text: str) -> list[int]:
        """Ids of the characters of `text`; ValueError names an unknown character and its position."""
        try:
            return [self._ids[ch] for ch in text]
        except KeyError:
            at, ch = next((i, ch) for i, ch in enumerate(text) if ch not in self._ids)
            raise ValueError(
                f"character {ch!r} (U+{ord(ch):04X}) at position {at} of {_short(text)!r} is not among the "
                f"{len(self)} characters of this vocabulary"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids (any iterable of whole numbers, a 1-d tensor too), with □ and ⁇ as they are."""
        out = []
        for at, i in enumerate(ids):
            i = int(i)
            if not 0 <= i < len(self._chars):
                raise ValueError(
                    f"id {i} at position {at}: ids of this vocabulary are 0 to {len(self) - 1}"
                )
            out.append(self._chars[i])
        return "".join(out)

    def __contains__(self, ch: object) -> bool:
        return ch in self._ids

    def __len__(self) -> int:
        return len(self._chars)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharVocab) and self._chars == other._chars

    def __hash__(self) -> int:
        return hash(self._chars)

    def __repr__(self) -> str:
        return f"CharVocab({len(self)} characters)"


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
