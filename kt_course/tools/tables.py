"""Tables of results: Markdown, plain text, CSV, and how an accuracy is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate


def percent(accuracy: float | None, low: float | None = None, high: float | None = None) -> str:
    """Write a fraction and its bounds in per cent: "85.2 [81.8, 88.0]"; "" for None."""
    if accuracy is None:
        return ""
    bounds = "" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * accuracy:.1f}{bounds}"


def spread(median: float, low: float, high: float, *, digits: int = 1, **_) -> str:
    """Write a median with the lowest and the highest value: "1,583.0 (1,500.1-1,600.2)"."""
    return f"{median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], numbers: str = "") -> str:
    """Write a Markdown table.

    Args:
        headers: One title per column.
        rows: Cells, written as `str` gives them; None is an empty cell.
        numbers: One letter per column, r for columns that are aligned to the right.
    """
    return _table(headers, rows, numbers, "pipe").replace("\\\\|", "\\|")


def text_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], numbers: str = "") -> str:
    """Write a table for a terminal; arguments as in `markdown_table`."""
    return _table(headers, rows, numbers, "simple")


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]], numbers: str, style: str) -> str:
    align = ["right" if letter == "r" else "left" for letter in numbers.ljust(len(headers))]
    cells = [[_cell(value, style) for value in row] for row in rows]
    headers = [_cell(header, style) for header in headers]
    return tabulate(cells, headers, tablefmt=style, colalign=align, disable_numparse=True)


def _cell(value: Any, style: str) -> str:
    text = "" if value is None else " ".join(printable(str(value), keep="\t\n").split())
    return markdown_text(text).replace("|", "\\|") if style == "pipe" else text


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


def printable(text: str, keep: str = "") -> str:
    """Replace control characters, apart from those to keep."""
    return "".join(ch if ch.isprintable() or ch in keep else "�" for ch in text)
