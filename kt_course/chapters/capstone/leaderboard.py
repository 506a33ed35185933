"""The leaderboard: entries of data/leaderboard.toml, each with the command that reproduces it."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kt_core.corpora.paths import data_dir
from kt_core.evaluation import Score
from kt_course.chapters.capstone.scoring import BUDGET
from kt_course.statistics import Table, interval, percent


@dataclass(frozen=True)
class Entry:
    """One model; `attempt` counts how many runs its author scored on the test questions so far."""

    name: str
    by: str
    command: str
    date: str
    attempt: int
    cpu_minutes: float
    dev: Score
    test: Score


class Leaderboard(Table):
    """Entries, the best on the test questions first."""

    def __init__(self, entries: Sequence[Entry]):
        self.entries = sorted(entries, key=lambda entry: -entry.test.accuracy)
        rows = [
            [e.name, e.by, percent(e.dev.accuracy), percent(e.test.accuracy)]
            + [interval(e.test.low, e.test.high), f"{e.cpu_minutes:.1f}", str(e.attempt)]
            for e in self.entries
        ]
        headers = "", "by", "dev", "test", "95 % interval (test)", "CPU minutes", "attempt"
        super().__init__(headers, rows)


def leaderboard(path: str | Path | None = None) -> Leaderboard:
    """Read a leaderboard; ValueError for an entry that is incomplete or above the budget."""
    path, entries = Path(path or data_dir() / "leaderboard.toml"), []
    for row in tomllib.loads(path.read_text(encoding="utf-8"))["entries"]:
        try:
            entries.append(Entry(**row | {key: Score(*row[key]) for key in ("dev", "test")}))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path.name}: {row.get('name')}: {error}") from None
        if entries[-1].cpu_minutes > BUDGET:
            raise ValueError(f"{path.name}: {row['name']}: above {BUDGET} CPU minutes")
    return Leaderboard(entries)
