"""Files of answers, in the assignment's format: one per line, in the order of the questions."""

from collections.abc import Sequence
from pathlib import Path

from kt_core.corpora.files import write_atomically


def write_predictions(path: str | Path, answers: Sequence[str]) -> None:
    """Write one answer per line; line ends inside an answer become spaces."""
    write_atomically(path, "".join(" ".join(a.splitlines()) + "\n" for a in answers).encode())


def read_predictions(path: str | Path) -> list[str]:
    """Read the answers of a prediction file."""
    text = Path(path).read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n") if text else []
