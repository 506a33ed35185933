"""Compare the attention explorer with bertviz and CircuitsVis on the same weights, offline.

pip install bertviz circuitsvis      in an environment of its own
python tools/compare_viewers.py [--out data/results/viewers.json]

Prints the table of docs/living-pages.md. Needs Chromium and Playwright.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browsing import chromium, tab  # noqa: E402

import kt_core as kt  # noqa: E402
from kt_core.corpora.files import write_json  # noqa: E402
from kt_core.runs.checkpoints import hardware  # noqa: E402
from kt_course.explorers.living_page import attach  # noqa: E402

LAYERS, HEADS, T = 4, 8, 128
PATIENCE = 60_000  # milliseconds until a page counts as blank
# What tells that a viewer has drawn, and what the mouse moves over
DRAWN = {"ours": ".kt-map", "bertviz": "#vis svg line", "CircuitsVis": "figure canvas"}
HOVERED = {"ours": ".kt-strip span", "bertviz": "#vis svg text", "CircuitsVis": "button"}
HOVER = """async ([selector, n]) => {
  const all = [...document.querySelectorAll(selector)].filter(e => e.getClientRects().length);
  const times = [];
  for (let i = 0; i < n; i++) {
    const target = all[Math.floor(i * all.length / n)], start = performance.now();
    for (const kind of ['mouseover', 'mouseenter', 'mousemove'])
      target.dispatchEvent(new MouseEvent(kind, { bubbles: kind !== 'mouseenter' }));
    await new Promise(done => requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = done;
      port2.postMessage(0);
    }));
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[Math.floor(0.95 * n)];
}"""


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


def measure(browser, name: str, path: Path) -> dict:
    """Size, time until it has drawn (None if it never does), and hover latency."""
    row = dict(megabytes=round(path.stat().st_size / 1e6, 2), drawn=None, hover=None)
    with tab(browser, 1280, 900, path.as_uri()) as page:
        page.goto(path.as_uri())
        try:
            page.locator(DRAWN[name]).first.wait_for(timeout=PATIENCE)
            row["drawn"] = round(page.evaluate("performance.now()"))
            row["hover"] = round(page.evaluate(HOVER, [HOVERED[name], 40]), 1)
        except Exception as error:
            if "Timeout" not in str(error):
                raise
        return row | dict(requests=len(set(page.strays)), errors=page.problems[:1])


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
    print(
        "| viewer | page, MB | drawn after, s | hover p95, ms | requests |\n|---|---|---|---|---|"
    )
    for name, row in rows.items():
        drawn = "never" if row["drawn"] is None else f"{row['drawn'] / 1000:.1f}"
        hover = "–" if row["hover"] is None else f"{row['hover']:.0f}"
        label = f"{name} {versions.get(name, '')}".strip()
        print(f"| {label} | {row['megabytes']} | {drawn} | {hover} | {row['requests']} |")


if __name__ == "__main__":
    main()
