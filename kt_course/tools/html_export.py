"""Executed notebooks as HTML pages that need no network: formulas are MathML, widgets their pictures."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from kt_core.corpora.files import write_atomically
from kt_course.explorers.living_page import MIME as LIVING
from kt_course.explorers.living_page import page_fragments

# What a cell shows if it offers several forms: its picture, never a widget that lives in a kernel.
PRIORITY = [
    "image/png",
    "image/jpeg",
    "image/svg+xml",
    "text/html",
    "text/markdown",
    "text/latex",
    "text/plain",
]
_WIDGET = "application/vnd.jupyter.widget-view+json"
# The converter knows align*; environments of that kind become it, and one around a single line goes.
_LINES = re.compile(r"\\(begin|end)\{(?:align(?:ed|edat)?|split|gather(?:ed)?)\*?\}")
_ALONE = re.compile(r"\\(?:begin|end)\{equation\*?\}")
_BOLD = re.compile(r'(?<=<mi mathvariant="bold-italic">)([A-Za-z])(?=</mi>)')
# A font with mathematical measures, or subscripts stand too high; columns as the formula aligns them.
# On a phone nbconvert cuts code off and breaks words: code, tables and wide formulas scroll by themselves instead, and a
# touched picture takes its own size.
_PAGE_STYLE = """<style>
math { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", "Libertinus Math", "Noto Sans Math",
  "DejaVu Math TeX Gyre", math }
math[display="block"] { margin: .8em 0 } mtd[columnalign="left"] { text-align: left; padding-left: 0 }
mtd[columnalign="right"] { text-align: right; padding-right: 0 }
body.jp-Notebook { max-width: 80rem; margin: 0 auto } summary { cursor: pointer }
.jp-RenderedText pre { word-break: normal; overflow-wrap: anywhere }
.jp-RenderedText pre.columns { white-space: pre } .still { color: #555; margin: .2em 0 0 }
.highlight pre, .jp-RenderedText pre.columns, math[display="block"] { overflow-x: auto; overflow-y: hidden }
@media only screen and (max-width: 760px) {
  .jp-InputPrompt, .jp-OutputPrompt, .jp-InputArea-editor, .jp-OutputArea-child .jp-OutputArea-output { display: block;
    margin-left: 0; width: auto }
  .jp-RenderedHTMLCommon table { display: block; overflow-x: auto }
  .jp-RenderedImage { overflow-x: auto } .jp-RenderedImage img { cursor: zoom-in }
  .jp-RenderedImage img.large { max-width: none; cursor: zoom-out }
}
</style>
<script>
addEventListener("click", event => event.target.matches(".jp-RenderedImage img") && event.target.classList.toggle("large"))
</script></head>"""
_COLUMNS = re.compile(r"<pre>(?=[^<]*\S {2,}\S)")
_STILL = '<p class="still">An explorer: this is its first picture, the controls are live in JupyterLab.</p>'
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(?=\S)(.+?)(?<=\S)\$", re.DOTALL)


def mathml(formula: str, block: bool = False) -> str:
    """A LaTeX formula as MathML, which browsers draw themselves; as code if it cannot be read."""
    formula = _LINES.sub(r"\\\1{align*}", _ALONE.sub("", formula))
    try:
        drawn = latex_to_mathml(formula.strip(), display="block" if block else "inline")
        drawn = drawn.replace(
            ' xmlns="http://www.w3.org/1998/Math/MathML"', ""
        )  # headings would lose the formula to it
        return _BOLD.sub(lambda letter: chr(_bold_italic(letter[1])), drawn)
    except (
        Exception
    ):  # the library raises various errors, and a page with one formula as text is better than none
        return f"<code>{html.escape(formula)}</code>"


def _bold_italic(letter: str) -> int:
    """The code point of a letter in Unicode's bold italics: browsers ignore MathML's attribute for it."""
    return (
        0x1D468 + ord(letter) - ord("A") if letter.isupper() else 0x1D482 + ord(letter) - ord("a")
    )


def _formulas(text: str) -> str:
    """Formulas between dollar signs inside raw HTML, where the markdown parser does not look."""
    return _FORMULA.sub(
        lambda found: mathml(found[1] or found[2], block=found[1] is not None), text
    )


class _Renderer(IPythonRenderer):
    """Markdown to HTML with formulas as MathML."""

    def block_math(self, body: str) -> str:
        return mathml(body, block=True)

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

    def block_html(self, html: str) -> str:
        drawn = _formulas(html)
        # nbconvert looks for images here, and its parser closes an opened <details> at once: the answer would stand open
        return super().block_html(drawn) if "<img" in drawn else drawn


class PageExporter(HTMLExporter):
    """nbconvert's page without scripts from elsewhere."""

    def __init__(self, **kw):
        super().__init__(**kw)
        self.mathjax_url = self.require_js_url = self.mermaid_js_url = ""
        self.embed_images = True

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        cell = context.get("cell", {})
        path = context.get("resources", {}).get("metadata", {}).get("path", "")
        renderer = _Renderer(
            escape=False,
            attachments=cell.get("attachments", {}),
            embed_images=True,
            path=path,
            anchor_link_text=self.anchor_link_text,
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def _shown(output: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """An output in its one form for a page; below an explorer's picture a line says what it is."""
    data = output.get("data", {})
    best = next((kind for kind in PRIORITY if kind in data), None)
    if best is None:
        return [output]
    output["data"] = (
        {"text/html": _formulas(data[best])} if best == "text/latex" else {best: data[best]}
    )
    if best != "image/png" or _WIDGET not in data:
        return [output]
    return [output, nbformat.v4.new_output("display_data", {"text/html": _STILL})]


def _bring_to_life(notebook: nbformat.NotebookNode) -> None:
    """Replace the outputs of living pages by HTML with the models inside; see `living_page`."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    living = [output for output in outputs if LIVING in output.get("data", {})]
    pictures = [
        (base64.b64decode(output.data["image/png"]), output.data["text/plain"]) for output in living
    ]
    fragments = page_fragments([output.data[LIVING] for output in living], pictures)
    for output, fragment in zip(living, fragments, strict=True):
        output["data"] = {"text/html": fragment}


def _still(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy whose outputs are those that a page without a kernel can show."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata.pop("widgets", None)
    _bring_to_life(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for output in cell.outputs for each in _shown(output)]
    return notebook


def write_page(notebook: str | Path, page: str | Path) -> None:
    """The executed `notebook` (.ipynb) as one self-contained HTML file."""
    notebook = Path(notebook)
    text, _ = PageExporter().from_notebook_node(
        _still(nbformat.read(notebook, as_version=4)),
        resources={"metadata": {"name": notebook.stem, "path": str(notebook.parent)}},
    )
    text = re.sub(
        r'<script\b[^>]*src="[^"]*"[^>]*>\s*</script>|<script type="module">.*?</script>',
        "",
        text,
        flags=re.DOTALL,
    )
    text = _COLUMNS.sub('<pre class="columns">', text)
    write_atomically(page, text.replace("</head>", _PAGE_STYLE, 1).encode())


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ccc; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } .bad { color: #b03a00; display: block; min-width: 18rem }
img { max-width: 100% }
@media (max-width: 760px) { table { display: block; overflow-x: auto } }
"""


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """An HTML table; cells are HTML already."""
    rows = (
        "".join(
            f'<td class="n">{c}</td>' if i in numbers else f"<td>{c}</td>"
            for i, c in enumerate(line)
        )
        for line in lines
    )
    top = "".join(f"<th>{name}</th>" for name in head)
    return (
        f"<table><thead><tr>{top}</tr></thead><tbody>"
        + "".join(f"<tr>{row}</tr>" for row in rows)
        + "</tbody></table>"
    )


def write_index(
    folder: str | Path,
    results: dict,
    accuracies: Sequence[tuple[str, str, str]],
    report: str | None,
) -> None:
    """index.html of a workbook: pages, what each cost, accuracies (notebook, what, figure), the report."""
    safe = html.escape
    notebooks = [
        (
            f'<a href="{safe(name)}.html">{safe(name)}</a>' if facts["page"] else safe(name),
            f"{facts['seconds']:.0f}",
            "" if facts["peak_mib"] is None else f"{facts['peak_mib']:.0f}",
            f'<span class="bad">{safe(facts["error"])}</span>'
            if facts["error"]
            else "ran to the end",
            f'<a href="{safe(name)}.ipynb">notebook</a>',
        )
        for name, facts in results["notebooks"].items()
    ]
    parameters = ", ".join(
        f"{safe(str(k))} {safe(str(v))}" for k, v in results["parameters"].items()
    )
    parts = [
        "<h1>Workbook</h1>",
        f"<p>{parameters}</p>",
        _table(("page", "seconds", "peak memory (MiB)", "state", ""), notebooks, (1, 2)),
        f'<p>{results["seconds"]:.0f} seconds in all. Figures: <a href="results.json">results.json</a></p>',
    ]
    if accuracies:
        lines = [tuple(map(safe, line)) for line in accuracies]
        parts += [
            "<h2>Accuracies</h2>",
            '<p><img src="accuracies.png" alt="bars of accuracy"></p>',
            _table(("notebook", "what", "accuracy [95 % interval]"), lines, (2,)),
        ]
    if report is not None:
        parts += [
            "<h2>Runs trained here</h2>",
            '<p><img src="report/report.png" alt="bars of dev accuracy"></p>',
            MarkdownWithMath(renderer=_Renderer(escape=False)).render(report),
            '<p><a href="report/report.csv">report.csv</a></p>',
        ]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Workbook</title><style>{_STYLE}</style>" + "\n".join(parts)
    )
    write_atomically(Path(folder) / "index.html", (page + "\n</html>\n").encode())
