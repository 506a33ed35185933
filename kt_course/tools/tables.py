"""Tables of results: Markdown, CSV, and how an accuracy is written."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from kt_core.corpora.files import write_atomically


def percent(accuracy: float | None, low: float | None = None, high: float | None = None) -> str:
    """Write a fraction and its bounds in per cent: "85.2 [81.8, 88.0]"; "" for None."""
    if accuracy is None:
        return ""
    bounds = "" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * accuracy:.1f}{bounds}"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], numbers: str = "") -> str:
    """Write a Markdown table; None is an empty cell.

    Args:
        headers, rows: One title per column, and the cells, written as `str` gives them.
        numbers: One letter per column, r for columns that are aligned to the right.
    """
    align = ["right" if letter == "r" else "left" for letter in numbers.ljust(len(headers))]
    cells = [[_cell(value) for value in row] for row in rows]
    titles = list(map(_cell, headers))
    text = tabulate(cells, titles, tablefmt="pipe", colalign=align, disable_numparse=True)
    return text.replace("\\\\|", "\\|")


def _cell(value: Any) -> str:
    text = "" if value is None else printable(str(value), keep="\t\n")
    return markdown_text(text).replace("|", "\\|")


def markdown_text(text: str) -> str:
    """Text on one line of Markdown that can be neither HTML nor a link, picture or formula."""
    text = " ".join(text.split()).replace("<", "&lt;").replace("$", "&#36;")
    return text.replace("](", "]\\(")


def csv_text(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write CSV that is safe to open in a spreadsheet; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[_csv_cell(value) for value in row] for row in [headers, *rows]])
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    """Text that a spreadsheet does not take for a formula, without control characters."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@＝＋－＠") else text


def write_csv(path: Path, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Write `csv_text` to a file and return its path."""
    write_atomically(path, csv_text(headers, rows).encode())
    return path


def printable(text: str, keep: str = "") -> str:
    """Replace control characters, apart from those to keep."""
    return "".join(ch if ch.isprintable() or ch in keep else "�" for ch in text)
