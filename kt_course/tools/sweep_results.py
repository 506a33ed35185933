"""The results of a sweep: a table (Markdown, CSV, JSON) and a plot. Seeds are in one row."""

from collections.abc import Sequence
from pathlib import Path

from kt_core.corpora.files import write_atomically, write_json
from kt_core.evaluation import Score
from kt_core.runs.experiment import Result
from kt_course.figures import plots
from kt_course.figures.style import WIDTH
from kt_course.tools.report import PLAIN, png
from kt_course.tools.tables import markdown_table, markdown_text, percent, write_csv
from kt_course.tools.workbook import figures, read_notebooks, scores


def read_values(folder: Path) -> dict[str, float]:
    """The values of a finished run or workbook by name; NAME_low and NAME_high bound a score."""
    if (folder / "results.json").exists():  # a workbook
        notebooks = read_notebooks(folder / "results.json")["notebooks"]
        facts = {name: notebook["facts"] for name, notebook in notebooks.items()}
    else:
        facts = Result.read(folder).details
        if facts["dev"] and facts["test"]:
            pooled = {key: facts["dev"][key] + facts["test"][key] for key in ("correct", "total")}
            facts["held_out"] = pooled
    values = {name: value for name, value in figures(facts) if not isinstance(value, Score)}
    for name, score in scores(facts).items():
        values |= {name: score.accuracy, f"{name}_low": score.low, f"{name}_high": score.high}
    return values


def write_results(rows: Sequence[dict], out: Path, title: str, x: str | None, y: str | None) -> str:
    """Write sweep.json, .csv, .md and, if there is something to plot, .png; return the Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row["values"]))
    lines = [
        [*row["settings"].values(), *map(row["values"].get, names), row["error"], row["folder"]]
        for row in rows
    ]
    text = f"{markdown_text(title)}\n\n{markdown(rows, names)}"
    write_json(out / "sweep.json", dict(title=title, cells=list(rows)))
    headers = [*rows[0]["settings"], *names, "error", "folder"]
    write_csv(out / "sweep.csv", headers, lines)
    write_atomically(out / "sweep.md", f"# Sweep\n\n{text}\n".encode())
    if names:
        with plots.plt.rc_context(PLAIN):
            write_atomically(out / "sweep.png", png(chart(rows, names, title, x, y)))
    return text


def over_seeds(rows: Sequence[dict], name: str) -> tuple[float | None, float | None, float | None]:
    """(mean, lowest, highest) over seeds; for one seed the ends of a score's 95 % interval."""
    results = [row["values"] for row in rows if name in row["values"]]
    values = [result[name] for result in results]
    if len(values) > 1:
        return sum(values) / len(values), min(values), max(values)
    if not results:
        return None, None, None
    return values[0], results[0].get(f"{name}_low"), results[0].get(f"{name}_high")


def group_seeds(rows: Sequence[dict]) -> list[list[dict]]:
    """Rows that differ in their seed alone, together."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        key = tuple(item for item in row["settings"].items() if item[0] != "seed")
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def markdown(rows: Sequence[dict], names: Sequence[str]) -> str:
    """The table; the last column says what went wrong."""
    keys = [key for key in rows[0]["settings"] if key != "seed"]
    is_score = {name: f"{name}_low" in names for name in names}
    columns = [name for name in names if is_score[name] and name != "london"]
    columns += [name for name in names if name.split()[-1] in ("loss", "parameters")]
    table = []
    for group in group_seeds(rows):
        done = [row for row in group if row["error"] is None]
        line = [*(group[0]["settings"][key] for key in keys), f"{len(done)} of {len(group)}"]
        for name in columns:
            mean, low, high = over_seeds(done, name)
            number = "" if mean is None else f"{mean:.4g}"
            line.append(percent(mean, low, high) if is_score[name] else number)
        errors = [f"{r['settings'].get('seed', '')} {r['error']}" for r in group if r["error"]]
        table.append([*line, "; ".join(errors).strip()])
    headers = [*keys, "seeds", *(f"{n} %" if is_score[n] else n for n in columns), "errors"]
    note = "In brackets: the lowest and the highest seed; of a single seed the 95 % interval."
    align = "l" * len(keys) + "r" * (len(columns) + 1)
    return f"{markdown_table(headers, table, align)}\n\n{note}"


def chart(rows: Sequence[dict], names: Sequence[str], title: str, x: str | None, y: str | None):
    """A figure of value `y` against key `x`, with a line for each combination of other settings."""
    y = y or (
        "dev" if "dev" in names else next((n for n in names if f"{n}_low" in names), names[0])
    )
    if y not in names:
        raise ValueError(f"--y {y}: no such value; there are {', '.join(names)}")
    n_values = {key: len({row["settings"][key] for row in rows}) for key in rows[0]["settings"]}
    x = x or max(n_values, key=lambda key: (n_values[key] > 1, key != "seed"))
    ticks = list(dict.fromkeys(row["settings"][x] for row in rows))
    is_numeric = all(tick.replace(".", "", 1).isdigit() for tick in ticks)
    position = {tick: float(tick) if is_numeric else i for i, tick in enumerate(ticks)}
    scale = 100 if f"{y}_low" in names else 1
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    for group in group_seeds(rows) if x != "seed" else [[row] for row in rows]:
        settings, (mean, low, high) = group[0]["settings"], over_seeds(group, y)
        others = [f"{key} {settings[key]}" for key in settings if key not in (x, "seed")]
        if mean is not None:
            below, above = (0.0 if end is None else scale * abs(mean - end) for end in (low, high))
            point = position[settings[x]], scale * mean, below, above
            lines.setdefault(", ".join(others), []).append(point)
    figure, ax = plots.rows(figsize=(WIDTH, 4.2))
    for i, (label, points) in enumerate(lines.items()):
        xs, ys, below, above = zip(*sorted(points), strict=True)
        line = dict(marker="os^Dv"[i % 5], ls="-" if is_numeric else "none", capsize=3)
        ax.errorbar(xs, ys, (below, above), label=label, **line)
    if y in ("dev", "held out") and "london" in names:
        london = {r["settings"][x]: 100 * r["values"]["london"] for r in rows if r["values"]}
        ax.plot(list(map(position.get, london)), list(london.values()), "k:", label="always London")
    ax.set_xticks(list(position.values()), ticks)
    ax.set(xlabel=x, ylabel=f"{y} accuracy (%)" if scale == 100 else y, title=title)
    if len(lines) > 1:
        figure.legend(loc="outside lower center", ncols=3)
    return figure
