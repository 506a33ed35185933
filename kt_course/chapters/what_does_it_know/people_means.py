"""Means over people, with their 95 % intervals, as a table."""

from collections.abc import Mapping, Sequence

from kt_course.statistics import SeedSummary, Table, interval


def mean_table(values: Mapping[str, Sequence[float]], unit: str) -> Table:
    """Show the mean over people of each row and the 95 % t-interval of that mean."""
    rows = []
    for name, numbers in values.items():
        s = SeedSummary(tuple(map(float, numbers)))
        ends = interval(s.low, s.high, is_percent=False)
        rows.append([name, str(len(s.values)), f"{s.mean:.2f}", ends, unit])
    return Table(("", "people", "mean", "95 % interval", "unit"), rows)
