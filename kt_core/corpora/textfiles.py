"""Documents and question-answer pairs from text files; every complaint names the file and the line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kt_core.vocab import MASK, PAD, CharVocab

Pair = tuple[str, "str | None"]  # (question, answer); None where the file gives no answers


class CorpusError(ValueError):
    """A corpus that is missing, or a file of it that cannot be used."""


def read_lines(path: Path | str) -> list[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, each with its number from 1.

    Windows line ends and a byte order mark are removed. Only the newline ends a line: str.splitlines would
    also cut at characters such as U+2028 inside a document. Raises CorpusError for a file that cannot be
    read, is not UTF-8, or is empty.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{path}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from error
    lines = [(n, line.removesuffix("\r")) for n, line in enumerate(text.split("\n"), 1)]
    lines = [(n, line) for n, line in lines if line.strip()]
    if not lines:
        raise CorpusError(f"{path}: empty; at least one line is needed")
    return lines


def read_documents(path: Path | str) -> list[str]:
    """One document a line, blank lines left out. CorpusError as in `read_lines`, and for □ or ⁇."""
    lines = read_lines(path)
    for n, line in lines:
        for special in (PAD, MASK):
            if special in line:
                raise CorpusError(
                    f"{path}, line {n}: holds {special!r}, which is reserved; remove it"
                )
    return [line for _, line in lines]


def read_pairs(path: Path | str) -> list[Pair]:
    """(question, answer) from lines `question TAB answer`, or (question, None) from lines without a tab.

    CorpusError, with file and line, for more than two columns, an empty one, or the two kinds mixed.
    """
    return [pair for _, pair in numbered_pairs(path)]


def numbered_pairs(path: Path | str) -> list[tuple[int, Pair]]:
    """As `read_pairs`, each pair with the number of its line."""
    pairs: list[tuple[int, Pair]] = []
    columns = 0
    for n, line in read_lines(path):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) > 2:
            raise CorpusError(
                f"{path}, line {n}: {len(cells)} columns; wanted: question TAB answer"
            )
        if not cells[0]:
            raise CorpusError(f"{path}, line {n}: empty question; wanted: question TAB answer")
        if len(cells) == 2 and not cells[1]:
            raise CorpusError(f"{path}, line {n}: empty answer; wanted: question TAB answer")
        columns = columns or len(cells)
        if len(cells) != columns:
            raise CorpusError(
                f"{path}, line {n}: {len(cells)} column(s) where earlier lines have {columns}"
            )
        pairs.append((n, (cells[0], cells[1] if len(cells) == 2 else None)))
    return pairs


def check_pairs(
    pairs: Sequence[Pair],
    vocab: CharVocab,
    block_size: int = 128,
    path: Path | str | None = None,
    lines: Sequence[int] | None = None,
) -> None:
    """CorpusError where a pair has a character outside `vocab` or is too long for the block.

    A pair is question, ⁇, answer, ⁇ (an answer that is not given counts one character); the last ⁇ is
    predicted and never read, so it may stand just past the block.
    path: the file, for the message; lines: line numbers of the pairs (1, 2, 3 … if not given).
    """
    for i, (question, answer) in enumerate(pairs):
        n = lines[i] if lines else i + 1
        where = f"{path}, line {n}" if path else f"pair {n}"
        for what, text in (("question", question), ("answer", answer or "")):
            for at, ch in enumerate(text):
                if ch not in vocab or ch in (PAD, MASK):
                    raise CorpusError(
                        f"{where}: character {ch!r} (U+{ord(ch):04X}) at position {at} of the {what} "
                        f"{text!r} is in no document, so the vocabulary lacks it"
                    )
        needed = len(question) + 1 + len(answer or "?") + 1
        if needed > block_size + 1:
            raise CorpusError(
                f"{where}: {question!r} with its answer and two {MASK} takes {needed} characters; "
                f"a block of {block_size} holds {block_size + 1}"
            )
