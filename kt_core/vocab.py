"""Characters as ids: □ (padding) is 0, ⁇ (mask) is 1, then the sorted characters of the text."""

from collections.abc import Iterable, Sequence

PAD = "□"  # fills a block up to its length; targets of 0 are left out of the loss
MASK = "⁇"  # opens and closes what the model has to fill in
# Every question has these characters (and the assignment's vocabulary the line break).
QUESTION_CHARACTERS = frozenset("\nWhere was born?")


class CharVocab:
    """One id per character, its place in the attribute `chars`: □, ⁇, and then those given."""

    pad_id, mask_id = 0, 1

    def __init__(self, chars: Sequence[str]) -> None:
        self.chars = (PAD, MASK, *chars)
        for i, char in enumerate(chars):
            if not isinstance(char, str) or len(char) != 1:
                raise ValueError(f"chars[{i}] is {char!r}: each entry must be one character")
            if char in (PAD, MASK):
                reason = f"{PAD} and {MASK} have ids 0 and 1 already"
                raise ValueError(f"chars[{i}] is {char!r}: {reason}")
        self._ids = {char: i for i, char in enumerate(self.chars)}
        if len(self._ids) != len(self.chars):
            twice = sorted({char for char in chars if list(chars).count(char) > 1})
            raise ValueError(f"characters given twice: {twice}")

    @classmethod
    def from_documents(cls, documents: Iterable[str]) -> "CharVocab":
        """Collect the characters of all documents, without □ and ⁇, and of "Where was … born?"."""
        if isinstance(documents, str):
            raise ValueError("documents must be a list of strings, not one string")
        chars = set(QUESTION_CHARACTERS)
        for i, document in enumerate(documents):
            for special in (PAD, MASK):
                if special in document:
                    where = f"document {i} holds {special!r} at position {document.index(special)}"
                    raise ValueError(f"{where}: it is reserved, remove it from the text")
            chars.update(document)
        return cls(sorted(chars))

    def encode(self, text: str) -> list[int]:
        """Return the ids of the characters; ValueError names an unknown one and its position."""
        try:
            return [self._ids[char] for char in text]
        except KeyError as error:
            char = error.args[0]
            excerpt = text if len(text) <= 60 else text[:59] + "…"
            where = f"{char!r} (U+{ord(char):04X}) at position {text.index(char)} of {excerpt!r}"
            problem = f"is not among the {len(self)} characters of this vocabulary"
            raise ValueError(f"character {where} {problem}") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids (whole numbers, or a 1-d tensor), with □ and ⁇ as they are."""
        ids = [int(i) for i in ids]
        for position, i in enumerate(ids):
            if not 0 <= i < len(self):
                raise ValueError(f"id {i} at position {position}: ids are 0 to {len(self) - 1}")
        return "".join(self.chars[i] for i in ids)

    def __contains__(self, char: object) -> bool:
        return char in self._ids

    def __len__(self) -> int:
        return len(self.chars)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharVocab) and self.chars == other.chars

    def __hash__(self) -> int:
        return hash(self.chars)

    def __repr__(self) -> str:
        return f"CharVocab({len(self)} characters)"
