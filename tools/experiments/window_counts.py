"""Count what each option of the windows does on bios and wiki, untrained.

python tools/experiments/window_counts.py          # writes data/results/window-counts.json
"""

from __future__ import annotations

from pathlib import Path

from kt_core.corpora.files import write_json
from kt_core.corpora.loading import load_corpus
from kt_core.runs.question_windows import QuestionWindows
from kt_core.runs.recipes import recipe
from kt_course import shipped
from kt_course.chapters.making_knowledge_extractable.window_counts import count_options

WINDOWS, SEED = 4000, 0


def main() -> None:
    """Count both corpora and write the file."""
    counts = {}
    for name in ("bios", "wiki"):
        on = recipe(shipped.RECIPE_OF[name]).data.arguments(QuestionWindows)
        on["drop"] = 0.5  # that of wiki; the recipes for bios keep every word
        counts[name] = count_options(load_corpus(name), WINDOWS, SEED, **on)
    table = dict(windows=WINDOWS, seed=SEED) | round_all(counts)
    write_json(Path("data/results/window-counts.json"), table)


def round_all(counts: dict) -> dict:
    """Round all numbers to four digits."""
    if isinstance(counts, dict):
        return {name: round_all(value) for name, value in counts.items()}
    return round(counts, 4)


if __name__ == "__main__":
    main()
