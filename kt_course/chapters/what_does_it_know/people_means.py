"""Means over people, with their 95 % intervals, as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kt_course.statistics import SeedSummary, Table, interval


@dataclass(frozen=True, repr=False)
class MeanTable(Table):
    """One mean over people per row."""

    summaries: Mapping[str, SeedSummary]
    unit: str
    headers = ("", "people", "mean", "95 % interval", "unit")

    def cells(self) -> list[list[str]]:
        """Return one row per quantity."""
        return [
            [name, str(len(s.values)), f"{s.mean:.2f}", interval(s.low, s.high, False), self.unit]
            for name, s in self.summaries.items()
        ]


def mean_table(values: Mapping[str, Sequence[float]], unit: str) -> MeanTable:
    """Show the mean over people of each row and the 95 % t-interval of that mean."""
    return MeanTable({name: SeedSummary(tuple(map(float, v))) for name, v in values.items()}, unit)
