"""A sweep as a table (Markdown, CSV, JSON) and a plot: one axis swept, a line per other setting, bars over seeds.

Cells that differ in their seed alone share a row of the Markdown table and a point of the plot: their mean, with the
lowest and the highest seed. A single seed has its 95 % Wilson interval instead, where it is a score.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kt_core.corpora.files import write_atomically, write_json
from kt_course.tools.grid import Cell

_OF_RUNS = ("dev", "test", "held_out", "london", "loss", "characters", "minutes", "parameters")
_NAMES = {
    "held_out": "held-out",
    "loss": "loss (nats a character)",
    "characters": "characters trained on",
    "people": "people in the corpus",
    "lines": "lines a person",
    "pretrain_epochs": "epochs of pretraining",
}
_LONDON = "always London"


def per_cent(at: float, low: float | None = None, high: float | None = None) -> str:
    """A fraction with its bounds in per cent, as the report writes it."""
    return f"{100 * at:.1f}" + ("" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def numbers(facts: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """(what, number) of every plain number in a notebook's facts, nested or not; scores are left out."""
    if isinstance(facts, Mapping) and not {"correct", "total"} <= set(facts):
        for key, value in facts.items():
            yield from numbers(value, f"{name} {key}".strip().replace("_", " "))
    elif isinstance(facts, int | float) and not isinstance(facts, bool):
        yield name, facts


def check_axes(cells: Sequence[Cell], x: str | None, y: str | None) -> None:
    """ValueError for an x that is not swept, and for a y that no run tells (a notebook's are known when it has run)."""
    swept = list(cells[0].settings)
    if x is not None and x not in swept:
        raise ValueError(f"--x {x}: not a key of the grid; there are {', '.join(swept)}")
    if y is not None and cells[0].spec["kind"] == "run" and y not in _OF_RUNS:
        raise ValueError(f"--y {y}: no such figure of a run; there are {', '.join(_OF_RUNS)}")


def write_results(
    cells: Sequence[Cell],
    outcomes: Mapping[str, dict | None],
    out: Path,
    *,
    x: str | None = None,
    y: str | None = None,
    about: str = "",
) -> dict:
    """Write sweep.json, .csv, .md and, where there is something to plot, .png into `out`; returns sweep.json's content."""
    rows = []
    for cell in cells:
        told = outcomes[cell.folder] or dict(status="not run", values={}, error=None, seconds=None)
        rows.append(dict(settings=cell.settings, **told, folder=f"cells/{cell.folder}"))
    told = dict(about=about, keys=list(cells[0].settings), cells=rows)
    write_json(out / "sweep.json", told)
    write_atomically(out / "sweep.csv", as_csv(told).encode())
    write_atomically(out / "sweep.md", f"# Sweep\n\n{markdown(told)}\n".encode())
    picture = chart(told, x, y)
    if picture is not None:
        write_atomically(out / "sweep.png", picture)
    return told


def measures(told: dict) -> dict[str, bool]:
    """Names of what the cells found, in order; True for a score, False for a number."""
    found: dict[str, bool] = {}
    for cell in told["cells"]:
        for name, value in cell["values"].items():
            if isinstance(value, dict) or (
                isinstance(value, int | float) and not isinstance(value, bool)
            ):
                found.setdefault(name, isinstance(value, dict))
    return found


def groups(told: dict) -> list[tuple[dict[str, Any], list[dict]]]:
    """(settings without the seed, cells that share them), in the grid's order."""
    found: dict[tuple, tuple[dict, list]] = {}
    for cell in told["cells"]:
        settings = {key: value for key, value in cell["settings"].items() if key != "seed"}
        found.setdefault(tuple(settings.items()), (settings, []))[1].append(cell)
    return list(found.values())


def over_seeds(cells: Sequence[dict], name: str) -> tuple[float, float | None, float | None] | None:
    """(mean, lowest, highest) of cells that differ in their seed; of one alone its own interval, if it is a score."""
    values = [cell["values"][name] for cell in cells if cell["values"].get(name) is not None]
    if not values:
        return None
    plain = [value["accuracy"] if isinstance(value, dict) else value for value in values]
    if len(values) > 1:
        return sum(plain) / len(plain), min(plain), max(plain)
    return (
        (plain[0], values[0]["low"], values[0]["high"])
        if isinstance(values[0], dict)
        else (plain[0], None, None)
    )


def markdown(told: dict) -> str:
    """The table: a row for cells that differ in their seed alone; errors, and cells that did not run, in the last column."""
    found = measures(told)
    scores = [name for name, score in found.items() if score and name != "london"]
    rest = [name for name, score in found.items() if not score]
    shown = [name for name in rest if name in ("loss", "minutes")] if scores else rest[:6]
    keys = [key for key in told["keys"] if key != "seed"]
    head = [*keys, "seeds", *(f"{_NAMES.get(name, name)} %" for name in scores), *shown, "problems"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * (len(keys) + 1)]
    lines[1] += "---:|" * (len(scores) + len(shown)) + "---|"
    several = False
    for settings, cells in groups(told):
        done = [cell for cell in cells if cell["status"] == "done"]
        several = several or len(done) > 1
        row = [str(value) for value in settings.values()]
        row.append(f"{len(done)}" if len(done) == len(cells) else f"{len(done)} of {len(cells)}")
        for name in scores:
            score = over_seeds(done, name)
            row.append("" if score is None else per_cent(*score))
        for name in shown:
            number = over_seeds(done, name)
            row.append("" if number is None else f"{number[0]:.4g}")
        row.append("; ".join(_problem(cell) for cell in cells if cell["status"] != "done"))
        lines.append(
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        )
    notes = [
        "In brackets: the 95 % interval of one seed; of several, whose mean is told, the lowest and the highest."
    ]
    parts = [told["about"], "\n".join(lines), *(notes if scores else [])]
    return "\n\n".join(filter(None, parts))


def _problem(cell: dict) -> str:
    """Why a cell gives no figure."""
    seed = f"seed {cell['settings']['seed']}: " if "seed" in cell["settings"] else ""
    return seed + (cell["error"] or cell["status"])


def as_csv(told: dict) -> str:
    """A line a cell: settings, figures (scores with both ends of their interval), status, error, folder."""
    found = measures(told)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = {
        name: (name, f"{name}_low", f"{name}_high") if score else (name,)
        for name, score in found.items()
    }
    columns = [column for names in ends.values() for column in names]
    writer.writerow([*told["keys"], *columns, "status", "seconds", "error", "folder"])
    for cell in told["cells"]:
        row = list(cell["settings"].values())
        for name, score in found.items():
            value = cell["values"].get(name)
            if score:
                row += (
                    [value[part] for part in ("accuracy", "low", "high")] if value else ["", "", ""]
                )
            else:
                row.append("" if value is None else value)
        writer.writerow([*row, cell["status"], cell["seconds"], cell["error"], cell["folder"]])
    return text.getvalue()


def chart(told: dict, x: str | None = None, y: str | None = None) -> bytes | None:
    """A PNG of figure `y` against key `x`, a line for each other setting; None while nothing is done.

    x: the first key with several numbers, else with several values, if None. y: dev, or the first score, or the first
    number. Scores are drawn in per cent. ValueError for a y that no cell tells.
    """
    from kt_course.figures import plots
    from kt_course.figures.style import STYLE

    found = measures(told)
    if y is not None and found and y not in found:
        raise ValueError(f"--y {y}: no such figure; there are {', '.join(found)}")
    if not found:
        return None
    y = y or ("dev" if "dev" in found else min(found, key=lambda name: not found[name]))
    x = x or _axis(told)
    lines = _lines(told, x)
    values = list(dict.fromkeys(cell["settings"][x] for cell in told["cells"]))
    numeric = all(map(_is_number, values))
    place = {value: float(value) if numeric else float(i) for i, value in enumerate(values)}
    names = [_NAMES.get(name, name.replace("_", " ")) for name in (x, y)]
    seeds = max(len(cells) for points in lines.values() for cells in points.values())
    whiskers = "lowest and highest seed" if seeds > 1 else "95 % interval" if found[y] else ""
    with plots.plt.rc_context(STYLE):
        figure, ax = plots.rows(figsize=(plots.WIDTH, 4.2))
        _draw(ax, lines, y, place, numeric, 100 if found[y] else 1)
        if found[y]:
            if y in ("dev", "held_out"):
                _draw_london(ax, lines, place)
            ax.set_ylim(bottom=0)
        if numeric and 0 < 8 * min(values) <= max(values):
            ax.set_xscale("log")
        if not numeric:
            ax.set_xlim(-0.5, len(values) - 0.5)
        ax.set_xticks(list(place.values()), [str(value) for value in values])
        ax.minorticks_off()
        ax.set(
            xlabel=names[0],
            ylabel=f"{names[1]} accuracy (%)" if found[y] else names[1],
            title=told["about"] + (f"\nwhiskers: {whiskers}" if whiskers else ""),
        )
        named = [pair for pair in zip(*ax.get_legend_handles_labels(), strict=True) if pair[1]]
        if named:
            named.sort(key=lambda pair: pair[1] == _LONDON)
            figure.legend(*zip(*named, strict=True), loc="outside lower center", ncols=3)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
        plots.plt.close(figure)
    return picture.getvalue()


def _draw(ax, lines: dict, y: str, place: dict, numeric: bool, scale: float) -> None:
    """Each line's points with their whiskers; along names, side by side and not joined."""
    dodge = 0.0 if numeric else min(0.1, 0.5 / len(lines))
    for i, (label, points) in enumerate(lines.items()):
        drawn = []
        for value, cells in points.items():
            if (found := over_seeds(cells, y)) is not None:
                at, low, high = (scale * (found[0] if end is None else end) for end in found)
                shift = (i - (len(lines) - 1) / 2) * dodge
                drawn.append((place[value] + shift, at, max(at - low, 0.0), max(high - at, 0.0)))
        if drawn:
            xs, ys, below, above = zip(*sorted(drawn), strict=True)
            style = ["-", "--", "-.", ":"][i // 7 % 4] if numeric else "none"
            ax.errorbar(
                xs,
                ys,
                (below, above),
                ls=style,
                marker="os^Dv"[i % 5],
                ms=5,
                capsize=3,
                lw=1.6,
                label=label,
            )


def _draw_london(ax, lines: dict, place: dict) -> None:
    """What always answering "London" scores there."""
    from kt_course.figures.style import VERMILION

    cells = {
        value: [cell for points in lines.values() for cell in points.get(value, [])]
        for value in place
    }
    scores = [(place[value], over_seeds(here, "london")) for value, here in cells.items()]
    if known := sorted((at, 100 * score[0]) for at, score in scores if score is not None):
        ax.plot(*zip(*known, strict=True), color=VERMILION, ls=(0, (2, 2)), lw=1.2, label=_LONDON)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _axis(told: dict) -> str:
    """The key to plot against where none was asked for; the seed only where nothing else is swept."""
    several = {
        key: list(dict.fromkeys(cell["settings"][key] for cell in told["cells"]))
        for key in told["keys"]
    }
    order = sorted(
        several,
        key=lambda key: (
            key == "seed",
            len(several[key]) < 2,
            not all(map(_is_number, several[key])),
        ),
    )
    return order[0]


def _lines(told: dict, x: str) -> dict[str, dict[Any, list[dict]]]:
    """{label: {value of x: cells that are done}}; labels tell the other keys that have several values."""
    others = [
        key
        for key in told["keys"]
        if key not in (x, "seed")
        and len({str(cell["settings"][key]) for cell in told["cells"]}) > 1
    ]
    lines: dict[str, dict[Any, list[dict]]] = {}
    for cell in told["cells"]:
        settings = cell["settings"]
        label = ", ".join(
            str(settings[key])
            if isinstance(settings[key], str)
            else f"{settings[key]} {_NAMES.get(key, key)}"
            for key in others
        )
        points = lines.setdefault(label, {}).setdefault(settings[x], [])
        if cell["status"] == "done":
            points.append(cell)
    return lines
