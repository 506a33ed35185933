"""The site's front page: the course's one chart, a model to ask, a card per chapter."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

from kt_core.blocks import VARIANTS
from kt_core.corpora.loading import load_corpus
from kt_core.corpora.paths import data_dir
from kt_core.evaluation import Score
from kt_course.explorers.living_page import attach, page_fragments
from kt_course.shipped import shipped_path, shipped_result
from kt_course.tools.formulas import markdown_to_html
from kt_course.tools.site import Chapter, Site, cover, small_picture, write_from_template

ASKED = {"no pretraining": "scratch", "pretrained + finetuned": "finetuned"}  # shipped phases
KINDS = {
    "mixed": "Pretraining saw the training pairs as well as the biographies (mixed).",
    "pure": "Pretraining saw the biographies alone (pure).",
}


@dataclass(frozen=True)
class Bar:
    """One bar of the chart."""

    kind: str  # london, scratch, pretrained or finetuned
    model: str
    training: str
    score: Score


@dataclass(frozen=True)
class Card:
    """A chapter on the front page."""

    chapter: Chapter
    picture: str  # base64, "" for none
    minutes: int
    error: str | None


def headline(corpus: str = "bios") -> list[Bar]:
    """The bars of the course's one chart, from data/results: dev accuracy of each kind of training.

    Empty where no results of the corpus ship.
    """
    folder, bars = data_dir() / "results", []
    names = [path.stem for path in sorted(folder.glob(f"{corpus}-*-scratch-seed0.json"))]
    for name in names:
        result = shipped_result(name)
        bars.append(Bar("scratch", result["variant"], "no pretraining", _score(result["dev"])))
        if len(bars) == 1:
            london = _score(result["london"])
            bars.insert(0, Bar("london", "always “London”", "no training", london))
    for variant in VARIANTS:
        if (folder / f"{corpus}-{variant}-seed0.json").is_file():
            bars += _bars_of(shipped_result(f"{corpus}-{variant}-seed0"))
    return bars


def _score(counts: dict) -> Score:
    return Score(counts["correct"], counts["total"])


def _bars_of(result: dict) -> Iterator[Bar]:
    """The bars of a run: at the end of pretraining, if that was measured, and after finetuning."""
    finetuned, variant = _score(result["dev"]), result["variant"]
    shares = [row["dev"] for row in result["curve"] if row["phase"] == "pretrain" and "dev" in row]
    if shares:
        pretrained = Score(round(shares[-1] * finetuned.total), finetuned.total)
        yield Bar("pretrained", variant, "pretraining", pretrained)
    yield Bar("finetuned", variant, "pretraining + finetuning", finetuned)


def chart_alt(bars: list[Bar]) -> str:
    """What the chart shows, in words."""
    parts = [f"{bar.model}, {bar.training}: {100 * bar.score.accuracy:.1f} %" for bar in bars]
    return f"Bar chart of dev accuracy. {'; '.join(parts)}."


def chart_note(corpus: str, bars: list[Bar]) -> str:
    """The line below the chart: what was measured, and on which data."""
    finetuned = next(bar.model for bar in bars if bar.kind == "finetuned")
    kind = shipped_result(f"{corpus}-{finetuned}-seed0")["kind"]
    return (
        f"Corpus {corpus}, {bars[0].score.total} held-out people whose questions the models never "
        "saw. Exact match, one model per bar; lines and brackets are 95 % Wilson intervals. "
        f"{KINDS.get(kind, '')}"
    )


def ask_fragment() -> str:
    """HTML of the explorer that asks shipped models; "" where they do not ship."""
    models = {
        name: path.stem
        for name, phase in ASKED.items()
        if (path := shipped_path("bios", "vanilla", phase)).exists()
    }
    if not models:
        return ""
    dev = load_corpus("bios").dev
    alt = f"Ask the models: the five likeliest answers of {' and '.join(models)} to your question"
    view = attach(models, "ask", alt=alt, examples=dev[:4])
    (fragment,) = page_fragments([view.stored()], [(view.picture, alt)])
    return fragment


def write_front_page(folder: Path, site: Site, results: dict, report: str | None) -> None:
    """Write index.html to the workbook's folder.

    Args:
        folder, site: The folder, with the notebooks as they ran, and the chapters.
        results: The content of results.json.
        report: The report of the runs trained here, as Markdown, if there were any.
    """
    corpus = str(results["parameters"].get("corpus"))
    corpus = corpus if headline(corpus) else "bios"
    bars = headline(corpus)
    cards = [
        _card(folder, site.chapter(name), facts) for name, facts in results["notebooks"].items()
    ]
    parameters = (f"{name} {value}" for name, value in results["parameters"].items() if value)
    write_from_template(
        folder / "index.html",
        "front.html.j2",
        site=site,
        bars=bars,
        chart_alt=chart_alt(bars),
        chart_note=chart_note(corpus, bars),
        ask=ask_fragment(),
        cards=cards,
        report=markdown_to_html(report, escape=True) if report else "",
        parameters=", ".join(parameters),
        minutes=f"{results['seconds'] / 60:.0f}",
    )


def _card(folder: Path, chapter: Chapter, facts: dict) -> Card:
    path = folder / f"{chapter.name}.ipynb"
    png = cover(nbformat.read(path, as_version=4)) if path.exists() else None
    picture = base64.b64encode(small_picture(png)).decode() if png else ""
    return Card(chapter, picture, chapter.minutes(facts["seconds"]), facts["error"])
