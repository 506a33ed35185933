"""Many runs, one table: report.md, report.csv and report.png, best first, beside London and the pass marks.

Runs that pretrained on the text alone (pure), that saw the train pairs while pretraining (mixed) and that
did not pretrain (no-pretrain) are different experiments: they keep their own rows and are never averaged
with one another.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kt_core.corpora.files import write_atomically
from kt_core.evaluation import Score
from kt_core.runs.experiment import Result
from kt_core.runs.recipes import RECIPES

# What the course asks of dev accuracy (CS224n, assignment 5, 2024-25 handout)
PASS_MARKS = {"vanilla": 0.10, "rope": 0.20, "perceiver": 0.06}
COLUMNS = (
    "corpus",
    "variant",
    "recipe",
    "kind",
    "seed",
    "dev",
    "dev_low",
    "dev_high",
    "test",
    "test_low",
    "test_high",
    "characters",
    "minutes",
    "hardware",
    "pass_mark",
    "path",
)


@dataclass(frozen=True)
class Row:
    """A line of the report. Accuracies are fractions; a mean row's low and high are its extreme seeds."""

    corpus: str
    variant: str
    recipe: str  # with the fields that differ from the recipe of that name
    kind: str  # no-pretrain, pure, mixed, or baseline
    seed: str
    dev: float | None = None
    dev_low: float | None = None
    dev_high: float | None = None
    test: float | None = None
    test_low: float | None = None
    test_high: float | None = None
    characters: int | None = None
    minutes: float | None = None
    hardware: str = ""
    pass_mark: float | None = None
    path: str = ""
    score: Score | None = None  # on dev
    problem: str = ""  # why a folder gives no row


def gather(paths: Iterable[str | Path]) -> list[Row]:
    """Rows of all runs in `paths` (folders of runs, or folders that hold such), by corpus, best first.

    Each corpus has its London row, and several seeds of the same settings get a mean row. A folder that
    holds an unfinished or damaged run gives a row with `problem` set, at the end. ValueError for a path
    without any run.
    """
    runs: dict[tuple, list[Row]] = {}
    london: dict[str, Score] = {}
    problems = []
    for folder in _folders(paths):
        try:
            result = Result.read(folder)
            told = result.told
            row = _row(result)
            fields = json.dumps(told["fields"], sort_keys=True)
            key = (row.corpus, row.variant, fields, row.kind, str(told.get("init")))
            baseline = told.get("london") and Score(
                told["london"]["correct"], told["london"]["total"]
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = str(error) if isinstance(error, ValueError) else f"not a run's result ({error!r})"
            problems.append(
                Row(
                    "",
                    "",
                    "",
                    "",
                    "",
                    path=str(folder),
                    problem=why.removeprefix(f"{folder}: ").removeprefix(f"{folder}/"),
                )
            )
            continue
        runs.setdefault(key, []).append(row)
        if baseline:
            london.setdefault(row.corpus, baseline)
    rows = [row for group in runs.values() for row in group]
    rows += [_mean(group) for group in runs.values() if len({row.seed for row in group}) > 1]
    rows += [
        Row(corpus, "always London", "", "baseline", "", *_three(score), score=score)
        for corpus, score in london.items()
    ]

    def corpus_then_best(row: Row) -> tuple:
        return row.corpus, -(-1.0 if row.dev is None else row.dev), row.variant, row.kind, row.seed

    return sorted(rows, key=corpus_then_best) + problems


def _folders(paths: Iterable[str | Path]) -> list[Path]:
    """Run folders in `paths`, each once: those with a config.json or a result.json."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise ValueError(
                f"{path}: no such folder; give folders of runs, or folders that hold such folders"
            )
        inside = {
            file.parent for name in ("config.json", "result.json") for file in path.rglob(name)
        }
        if not inside:
            raise ValueError(
                f"{path}: no run in it (a run's folder holds config.json and, when done, result.json)"
            )
        for folder in sorted(inside):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _three(score: Score | None) -> tuple:
    return (None, None, None) if score is None else (score.accuracy, score.low, score.high)


def _row(result: Result) -> Row:
    told = result.told
    phases = [told[phase] for phase in ("pretraining", "finetuning") if told.get(phase)]
    plain = asdict(RECIPES[told["recipe"]]) if told["recipe"] in RECIPES else {}
    changed = [
        f"{key}={value}"
        for key, value in told["fields"].items()
        if plain and plain.get(key, value) != value
    ]
    own_mark = told["corpus"] == "wiki" and told["kind"] != "no-pretrain"
    return Row(
        str(told["corpus"]),
        told["variant"],
        told["recipe"] + (f" ({', '.join(changed)})" if changed else ""),
        told["kind"],
        str(told["seed"]),
        *_three(result.dev),
        *_three(result.test),
        characters=sum(phase["characters"] for phase in phases) if phases else None,
        minutes=sum(phase["seconds"] for phase in phases) / 60 if phases else None,
        hardware=told.get("hardware", ""),
        pass_mark=PASS_MARKS.get(told["variant"]) if own_mark else None,
        path=str(result.path),
        score=result.dev,
    )


def _mean(group: Sequence[Row]) -> Row:
    """The mean of several seeds; low and high are the lowest and the highest of them."""

    def over(name: str) -> tuple:
        values = [getattr(row, name) for row in group if getattr(row, name) is not None]
        return (
            (sum(values) / len(values), min(values), max(values)) if values else (None, None, None)
        )

    first = group[0]
    hardware = first.hardware if len({row.hardware for row in group}) == 1 else "several"
    characters = over("characters")[0]
    return Row(
        first.corpus,
        first.variant,
        first.recipe,
        first.kind,
        f"mean of {len(group)}",
        *over("dev"),
        *over("test"),
        characters=None if characters is None else round(characters),
        minutes=over("minutes")[0],
        hardware=hardware,
        pass_mark=first.pass_mark,
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown, with what its columns mean and the folders that gave no row."""
    percent = lambda a, low, high: (
        "" if a is None else f"{100 * a:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    )  # noqa: E731
    lines = [
        "| corpus | variant | recipe | kind | seed | dev % [95 % interval] | test % [95 % interval] "
        "| characters | minutes | hardware |",
        "|---|---|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in (row for row in rows if not row.problem):
        passed = (
            ""
            if row.pass_mark is None or row.dev is None
            else " passes"
            if row.dev >= row.pass_mark
            else " below the mark"
        )
        cells = (
            row.corpus,
            row.variant,
            row.recipe,
            row.kind,
            row.seed,
            percent(row.dev, row.dev_low, row.dev_high) + passed,
            percent(row.test, row.test_low, row.test_high),
            "" if row.characters is None else f"{row.characters:,}",
            "" if row.minutes is None else f"{row.minutes:.{1 if row.minutes >= 1 else 2}f}",
            row.hardware,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    notes = []
    if any(row.seed.startswith("mean") for row in rows):
        notes.append("A mean row tells the lowest and the highest seed in place of the interval.")
    if any(row.corpus == "wiki" for row in rows if not row.problem):
        marks = ", ".join(f"{variant} {100 * mark:.0f} %" for variant, mark in PASS_MARKS.items())
        notes.append(f"The course's pass marks on wiki's dev: {marks}.")
    problems = [f"- {row.path}: {row.problem}" for row in rows if row.problem]
    parts = (
        ["\n".join(lines)]
        + notes
        + (["Not in the table:\n\n" + "\n".join(problems)] if problems else [])
    )
    return "\n\n".join(parts)


def write_report(paths: Iterable[str | Path], out: str | Path) -> str:
    """Gather the runs in `paths`; write report.md, .csv and .png to `out`; returns the Markdown."""
    rows = gather(paths)
    text, out = markdown(rows), Path(out)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in (row for row in rows if not row.problem):
        values = (getattr(row, name) for name in COLUMNS)
        writer.writerow(
            ["" if v is None else f"{v:.4f}" if isinstance(v, float) else v for v in values]
        )
    write_atomically(out / "report.md", f"# Runs\n\n{text}\n".encode())
    write_atomically(out / "report.csv", table.getvalue().encode())
    write_atomically(out / "report.png", chart(rows))
    return text


def chart(rows: Sequence[Row]) -> bytes:
    """A PNG, a panel of bars a corpus: single runs with Wilson whiskers, London, wiki's pass marks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from kt_course.figures import plots

    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row.score is not None:
            panels.setdefault(row.corpus, []).append(row)
    heights = [0.4 * len(panel) + 1.6 for panel in panels.values()] or [1.0]
    with plots.plt.rc_context(plots.STYLE):
        figure = Figure(figsize=(plots.WIDTH, sum(heights)), layout="constrained")
        FigureCanvasAgg(figure)
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (corpus, panel) in zip(parts, panels.items(), strict=False):
            bars = [
                (", ".join((r.variant, r.recipe, r.kind, f"seed {r.seed}")), r.score)
                for r in panel
                if r.kind != "baseline"
            ]
            london = next((r.score for r in panel if r.kind == "baseline"), None)
            plots.accuracy_bars(
                bars,
                london,
                PASS_MARKS if corpus == "wiki" else None,
                title=f"{corpus}, dev",
                ax=part.subplots(),
            )
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
