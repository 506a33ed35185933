"""`kt report`: many runs in one table, best first, beside London and the course's pass marks.

Runs that pretrained on the text alone (pure), that saw the training pairs while pretraining (mixed)
and that did not pretrain (no-pretrain) are different experiments. They keep their own rows and are
never averaged with one another.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from kt_core.corpora.files import write_atomically
from kt_core.evaluation import Score
from kt_core.runs.experiment import Result, flatten
from kt_core.runs.recipes import RECIPES
from kt_course.figures import plots, style
from kt_course.tools.tables import markdown_table, markdown_text, percent, write_csv

# The dev accuracy that the course asks for (CS224n, assignment 5, 2024-25 handout).
PASS_MARKS = {"vanilla": 0.10, "rope": 0.20, "perceiver": 0.06}
PLAIN = {"text.parse_math": False}  # a name with $ in it is no formula
WHAT = "corpus variant recipe kind seed".split()
COST = "characters minutes hardware".split()


class Mean(NamedTuple):
    """A mean over seeds, with the lowest and the highest of them in place of an interval."""

    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """A line of the report: a run, a mean of several seeds, or London."""

    corpus: str
    variant: str
    recipe: str = ""  # with the settings that differ from the recipe of that name
    kind: str = ""  # no-pretrain, pure, mixed, or baseline
    seed: str = ""
    dev: Score | Mean | None = None
    test: Score | Mean | None = None
    characters: int | None = None
    minutes: float | None = None
    hardware: str = ""
    path: str = ""

    @property
    def pass_mark(self) -> float | None:
        """The course's pass mark on dev, where it has one."""
        is_asked = self.corpus == "wiki" and self.kind in ("pure", "mixed")
        return PASS_MARKS.get(self.variant) if is_asked else None


def report(runs: list[Path], /, *, out: Path = Path("runs/report")) -> None:
    """Gather runs into one table, best first: Markdown, CSV and a bar chart.

    Args:
        runs: Folders of runs, or folders that hold such folders.
        out: Folder for the table and the chart.
    """
    print(write_report(runs, out))


def write_report(paths: Iterable[str | Path], out: str | Path) -> str:
    """Gather the runs in `paths`; write report.md, .csv and .png to `out`; return the Markdown."""
    rows, problems = gather(paths)
    text, out = markdown(rows, problems), Path(out)
    bounds = [f"{split}{end}" for split in ("dev", "test") for end in ("", "_low", "_high")]
    headers = [*WHAT, *bounds, *COST, "pass_mark", "path"]
    lines = []
    for row in rows:
        values = dict(zip(bounds, _ends(row.dev) + _ends(row.test), strict=True))
        values = [values[name] if name in values else getattr(row, name) for name in headers]
        lines.append([f"{v:.4f}" if isinstance(v, float) else v for v in values])
    write_atomically(out / "report.md", f"# Runs\n\n{text}\n".encode())
    write_csv(out / "report.csv", headers, lines)
    write_atomically(out / "report.png", chart(rows))
    return text


def _ends(score: Score | Mean | None) -> list[float | None]:
    return [getattr(score, end, None) for end in Mean._fields]


def gather(paths: Iterable[str | Path]) -> tuple[list[Row], dict[str, str]]:
    """Read all runs in `paths` (folders of runs, or folders that hold such).

    Returns:
        The rows, by corpus and best first: one per run, a mean row for several seeds of the same
        settings, and London's row for each corpus. Then the folders that hold an unfinished or
        damaged run, each with what is wrong.

    Raises:
        ValueError: A path holds no run.
    """
    groups: dict[tuple, list[Row]] = {}
    london: dict[str, Row] = {}
    problems = {}
    for folder in find_runs(paths):
        try:
            result = Result.read(folder)
            row, details = _row(result), result.details
            recipe = json.dumps(details["recipe"], sort_keys=True)
            key = (row.corpus, row.variant, recipe, row.kind)
            if details.get("london"):
                score = Score(details["london"]["correct"], details["london"]["total"])
                baseline = Row(row.corpus, "always London", kind="baseline", dev=score)
                london.setdefault(row.corpus, baseline)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            is_clear = isinstance(error, OSError | ValueError)
            why = str(error) if is_clear else f"not a run's result ({error!r})"
            problems[str(folder)] = why.removeprefix(f"{folder}: ").removeprefix(f"{folder}/")
            continue
        groups.setdefault(key, []).append(row)
    rows = [row for group in groups.values() for row in group]
    rows += [_mean(group) for group in groups.values() if len({row.seed for row in group}) > 1]
    rows += london.values()
    best = {id(row): -row.dev.accuracy if row.dev else 1.0 for row in rows}
    rows.sort(key=lambda row: (row.corpus, best[id(row)], row.variant, row.kind, row.seed))
    return rows, problems


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Run folders in `paths`, each once: those with a config.json or a result.json."""
    folders: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            what = "not a folder" if path.exists() else "no such folder"
            raise ValueError(f"{path}: {what}; give folders of runs, or folders that hold such")
        names = ("config.json", "result.json")
        inside = {file.parent for name in names for file in path.rglob(name)}
        if not inside:
            raise ValueError(f"{path}: no run in it (a run's folder holds config.json)")
        for folder in sorted(inside):
            folders.setdefault(folder.resolve(), folder)
    return list(folders.values())


def _row(result: Result) -> Row:
    details = result.details
    costs = [details[phase] for phase in ("pretraining", "finetuning") if details.get(phase)]
    for cost in costs:
        if not all(0 <= cost[key] < 1e15 for key in ("characters", "seconds")):
            raise ValueError(f"impossible costs: {cost['characters']} characters")
    name = details["recipe"]["name"]
    plain = flatten(asdict(RECIPES[name])) if name in RECIPES else None
    fields = flatten(details["recipe"]).items() if plain else ()
    changed = ", ".join(f"{key}={value}" for key, value in fields if plain.get(key) != value)
    return Row(
        str(details["corpus"]),
        str(details["variant"]),
        f"{name} ({changed})" if changed else name,
        str(details["kind"]),
        str(details["seed"]),
        result.dev,
        result.test,
        sum(cost["characters"] for cost in costs) if costs else None,
        sum(cost["seconds"] for cost in costs) / 60 if costs else None,
        str(details.get("hardware", "")),
        str(result.path),
    )


def _mean(group: Sequence[Row]) -> Row:
    """The mean of several seeds."""

    def over(name: str) -> Mean | None:
        values = [getattr(row, name) for row in group if getattr(row, name) is not None]
        values = [getattr(value, "accuracy", value) for value in values]
        return Mean(sum(values) / len(values), min(values), max(values)) if values else None

    characters, minutes = over("characters"), over("minutes")
    return replace(
        group[0],
        seed=f"mean of {len(group)}",
        dev=over("dev"),
        test=over("test"),
        characters=characters and round(characters.accuracy),
        minutes=minutes and minutes.accuracy,
        hardware=group[0].hardware if len({row.hardware for row in group}) == 1 else "several",
        path="",
    )


def markdown(rows: Sequence[Row], problems: Mapping[str, str]) -> str:
    """The table as Markdown, with what its columns mean and the folders that gave no row."""
    lines = []
    for row in rows:
        passes = row.dev and row.pass_mark and row.dev.accuracy >= row.pass_mark
        mark = "" if not row.pass_mark else " passes" if passes else " below the mark"
        line = [getattr(row, name) for name in WHAT]
        line += [percent(*_ends(row.dev)) + mark, percent(*_ends(row.test))]
        line.append("" if row.characters is None else f"{row.characters:,}")
        digits = 1 if row.minutes and row.minutes >= 1 else 2
        line.append("" if row.minutes is None else f"{row.minutes:.{digits}f}")
        lines.append([*line, row.hardware])
    headers = [*WHAT, "dev % [95 % interval]", "test % [95 % interval]", *COST]
    parts = [markdown_table(headers, lines, "lllllrrrrl")]
    if any(row.seed.startswith("mean") for row in rows):
        parts.append("A mean row has the lowest and the highest seed in place of the interval.")
    if any(row.corpus == "wiki" for row in rows):
        marks = ", ".join(f"{variant} {100 * mark:.0f} %" for variant, mark in PASS_MARKS.items())
        parts.append(f"The course's pass marks on wiki's dev: {marks}.")
    if problems:
        lines = (markdown_text(f"{path}: {why}") for path, why in problems.items())
        listed = "\n".join(f"- {line}" for line in lines)
        parts.append(f"Not in the table:\n\n{listed}")
    return "\n\n".join(parts)


def chart(rows: Sequence[Row]) -> bytes:
    """A PNG with a panel per corpus: single runs with Wilson intervals, London, the pass marks."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(row.dev, Score):
            panels.setdefault(row.corpus, []).append(row)
    heights = [0.4 * len(panel) + 1.6 for panel in panels.values()] or [1.0]
    with plots.plt.rc_context(style.STYLE | PLAIN):
        figure = plots.plt.figure(figsize=(style.WIDTH, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (corpus, panel) in zip(parts, panels.items(), strict=False):
            runs = [row for row in panel if row.kind != "baseline"]
            labels = [f"{r.variant}, {r.recipe}, {r.kind}, seed {r.seed}" for r in runs]
            london = next((row.dev for row in panel if row.kind == "baseline"), None)
            bars = [(label, run.dev) for label, run in zip(labels, runs, strict=True)]
            marks = PASS_MARKS if corpus == "wiki" else None
            plots.accuracy_bars(bars, london, marks, f"{corpus}, dev", ax=part.subplots())
        return png(figure)


def png(figure) -> bytes:
    """The picture of a figure, which is closed."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    plots.plt.close(figure)
    return picture.getvalue()
