"""Documents, question-answer pairs and predictions in text files; errors name file and line."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from kt_core.corpora.files import read_plain_file, write_atomically
from kt_core.vocab import MASK, PAD, CharVocab

Pair = tuple[str, "str | None"]  # (question, answer); None where the file gives no answers
WANTED_PAIR = "wanted: question TAB answer"


class CorpusError(ValueError):
    """A corpus that is missing, or a file of it that cannot be used."""


def read_numbered_lines(path: Path | str) -> list[tuple[int, str]]:
    """Return the lines of a UTF-8 file, each with its number from 1; CorpusError if it is not one.

    Letters with accents are composed (NFC), so that a name is the same text in every file. Lines
    end by newline or Windows' line end, not at characters such as U+2028.
    """
    try:
        raw = read_plain_file(path)
        text = unicodedata.normalize("NFC", raw.decode("utf-8-sig"))
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"0x{raw[error.start]:02x}"
        raise CorpusError(f"{path}, line {line}: not UTF-8 (byte {byte}); save as UTF-8") from error
    lines = [(n, line.removesuffix("\r")) for n, line in enumerate(text.split("\n"), 1)]
    for n, line in lines:
        if "\0" in line:
            raise CorpusError(f"{path}, line {n}: a null character; save as UTF-8, not UTF-16")
        if "\r" in line:
            raise CorpusError(f"{path}, line {n}: a carriage return; end lines by a newline alone")
    return lines


def read_lines(path: Path | str) -> list[tuple[int, str]]:
    """Return the lines that are not blank; CorpusError also if there is none."""
    lines = [(n, line) for n, line in read_numbered_lines(path) if line.strip()]
    if not lines:
        raise CorpusError(f"{path}: empty; at least one line is needed")
    return lines


def read_documents(path: Path | str) -> list[str]:
    """Return one document per line; CorpusError as in `read_lines`, and for □ or ⁇ in the text."""
    lines = read_lines(path)
    for n, line in lines:
        if special := next((mark for mark in (PAD, MASK) if mark in line), None):
            raise CorpusError(f"{path}, line {n}: holds {special!r}, which is reserved")
    return [line for _, line in lines]


def read_pairs(
    path: Path | str,
    vocab: CharVocab | None = None,
    block_size: int = 128,
    needs_answers: bool = False,
) -> list[Pair]:
    """Return (question, answer) of each line; None in a file without answers.

    With a vocabulary, each pair must have its characters and fit the block, see `check_pair`.
    """
    pairs: list[Pair] = []
    columns = 0
    for n, line in read_lines(path):
        cells = [cell.strip() for cell in line.split("\t")]
        columns = columns or len(cells)
        if len(cells) > 2 or (needs_answers and len(cells) == columns == 1):
            count = f"{len(cells)} column{'s' * (len(cells) > 1)}"
            raise CorpusError(f"{path}, line {n}: {count}; {WANTED_PAIR}")
        for what, cell in zip(("question", "answer"), cells, strict=False):
            if not cell:
                raise CorpusError(f"{path}, line {n}: empty {what}; {WANTED_PAIR}")
        if len(cells) != columns:
            problem = f"{len(cells)} column(s) where earlier lines have {columns}"
            raise CorpusError(f"{path}, line {n}: {problem}")
        pairs.append((cells[0], cells[1] if len(cells) == 2 else None))
        if vocab is not None:
            check_pair(f"{path}, line {n}", *pairs[-1], vocab, block_size)
    return pairs


def check_pair(where: str, question: str, answer: str | None, vocab: CharVocab, block_size: int):
    """Raise CorpusError if the pair has an unknown character or does not fit the block.

    It takes question, ⁇, answer, ⁇; the last ⁇ is never read, so it may be just past the block.
    """
    for text in (question, answer or ""):
        if unknown := [ch for ch in text if ch not in vocab or ch in (PAD, MASK)]:
            code = f"{unknown[0]!r} (U+{ord(unknown[0]):04X})"
            raise CorpusError(f"{where}: character {code} of {_cut(text)} is in no document")
    needed = len(question) + 1 + len(answer or "?") + 1
    if needed > block_size + 1:
        limit = f"a block of {block_size} holds {block_size + 1}"
        pair = f"{_cut(question)} with its answer and two {MASK}"
        raise CorpusError(f"{where}: {pair} takes {needed} characters; {limit}")


def _cut(text: str) -> str:
    """The text in quotes, its end left out if it is long."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def write_predictions(path: str | Path, answers: Sequence[str]) -> None:
    """Write one answer per line, as the assignment; line ends inside an answer become spaces."""
    write_atomically(path, "".join(" ".join(a.splitlines()) + "\n" for a in answers).encode())


def read_predictions(path: str | Path) -> list[str]:
    """Read the answers of a prediction file."""
    text = Path(path).read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n") if text else []
