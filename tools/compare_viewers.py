"""Compare the attention explorer with bertviz and CircuitsVis on the same weights, offline.

pip install bertviz circuitsvis      in an environment of its own
python tools/compare_viewers.py [--out data/results/viewers.json]

Prints the table of docs/living-pages.md. Needs Chromium and Playwright.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browsing import CpuClock, chromium, event_to_paint, tab  # noqa: E402

import kt_core as kt  # noqa: E402
from kt_core.corpora.files import write_json  # noqa: E402
from kt_core.runs.checkpoints import hardware  # noqa: E402
from kt_course.explorers.living_page import attach  # noqa: E402

LAYERS, HEADS, T = 4, 8, 128
# What tells that a viewer has drawn, and what the mouse moves over
DRAWN = {"ours": ".kt-map", "bertviz": "#vis svg line", "CircuitsVis": "figure canvas"}
HOVERED = {"ours": ".kt-strip span", "bertviz": "#vis svg text", "CircuitsVis": "button"}
HOVER = """const all = [...document.querySelectorAll('SELECTOR')];
  const visible = all.filter(e => e.getClientRects().length);
  const target = visible[7 * i % visible.length];
  for (const kind of ['mouseover', 'mouseenter', 'mousemove'])
    target.dispatchEvent(new MouseEvent(kind, { bubbles: kind !== 'mouseenter' }));"""
TYPE = """const input = document.querySelector('.kt-live input');
  input.value = input.defaultValue.slice(0, -1 - i % 16);
  input.dispatchEvent(new Event('input', { bubbles: true }));"""


def page_of(body: str) -> str:
    return f'<!doctype html><html><head><meta charset="utf-8"></head><body>{body}</body></html>'


def pages() -> dict[str, str]:
    """The same attention, of an untrained model, in three viewers."""
    text = " ".join(kt.load_corpus("bios").documents)[:T]
    vocab = kt.CharVocab.from_documents([text])
    torch.manual_seed(0)
    model = kt.GPT(kt.GPTConfig(len(vocab), T, LAYERS, HEADS, 128, "rope", dropout=0.0)).eval()
    with torch.no_grad(), kt.record_attention(model) as maps:
        model(torch.tensor([vocab.encode(text)]))
    import bertviz
    import circuitsvis

    heads = torch.cat([layer[0] for layer in maps])  # (32, T, T): it shows one layer at a time
    view = attach({"rope": (model, vocab)}, alt="All heads of a model", examples=[(text[:-1], "")])
    bert = bertviz.head_view(maps, list(text), html_action="return").data
    circuits = circuitsvis.attention.attention_patterns(list(text), heads).local_src
    return {"ours": view.to_html(), "bertviz": page_of(bert), "CircuitsVis": page_of(circuits)}


def is_drawn(page, selector: str, clock: CpuClock) -> bool:
    """Wait until a page has drawn, or has stopped computing: less than 0.1 s of CPU in 10 s."""
    before = -math.inf
    while not (drawn := page.locator(selector).count() > 0):
        now = clock.milliseconds("ProcessTime")
        if now - before < 100:
            break
        before = now
        page.wait_for_timeout(10_000)
    return drawn


def measure(browser, name: str, path: Path) -> dict:
    """Size; CPU time until it has drawn, and from an event to the paint, or None."""
    row = dict(megabytes=round(path.stat().st_size / 1e6, 2), drawn=None, hover=None, typing=None)
    with tab(browser, 1280, 900, path.as_uri()) as page:
        page.goto(path.as_uri())
        clock = CpuClock(page)
        if is_drawn(page, DRAWN[name], clock):
            row["drawn"] = round(clock.milliseconds("ProcessTime"))
            row["hover"] = round(event_to_paint(page, HOVER.replace("SELECTOR", HOVERED[name])), 1)
        if name == "ours":
            row["typing"] = round(event_to_paint(page, TYPE), 1)
        return row | dict(requests=len(set(page.strays)), errors=page.problems[:1])


def table(rows: dict, versions: dict) -> str:
    """The measurements as Markdown."""
    lines = [
        "| viewer | page, MB | CPU until drawn, s | hover p95, ms | typing p95, ms | requests |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        drawn = "never" if row["drawn"] is None else f"{row['drawn'] / 1000:.1f}"
        times = ["–" if row[what] is None else f"{row[what]:.0f}" for what in ("hover", "typing")]
        label = f"{name} {versions.get(name, '')}".strip()
        cells = [label, str(row["megabytes"]), drawn, *times, str(row["requests"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the measurements, and print them as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "results" / "viewers.json")
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        for name, html in pages().items():
            path = Path(folder) / f"{name}.html"
            path.write_text(html, encoding="utf-8")
            rows[name] = measure(browser, name, path)
    versions = {name: version(name.lower()) for name in rows if name != "ours"}
    facts = dict(attention=[LAYERS, HEADS, T], versions=versions, hardware=hardware("cpu"))
    write_json(options.out, facts | dict(rows=rows))
    print(table(rows, versions))


if __name__ == "__main__":
    main()
