"""Executed notebooks as HTML pages that need no network: MathML formulas, widgets as pictures."""

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
from tabulate import tabulate

from kt_core.corpora.files import write_atomically
from kt_course.explorers.living_page import MIME as LIVING
from kt_course.explorers.living_page import page_fragments

# What a cell shows if it offers several forms: its picture, never a widget that needs a kernel
PRIORITY = (
    "image/png image/jpeg image/svg+xml text/html text/markdown text/latex text/plain".split()
)
WIDGET = "application/vnd.jupyter.widget-view+json"
CAPTION = (
    '<p class="still">An explorer: this is its first picture, the controls are live in '
    "JupyterLab.</p>"
)
# latex2mathml knows align*: similar environments become it, and one around a single line goes
LIKE_ALIGN = re.compile(r"\\(begin|end)\{(?:align(?:ed|edat)?|split|gather(?:ed)?)\*?\}")
EQUATION = re.compile(r"\\(?:begin|end)\{equation\*?\}")
BOLD_ITALIC = re.compile(r'(?<=<mi mathvariant="bold-italic">)([A-Za-z])(?=</mi>)')
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(?=\S)(.+?)(?<=\S)\$", re.DOTALL)
COLUMNS = re.compile(r"<pre>(?=[^<]*\S {2,}\S)")  # printed text with columns
SCRIPTS = re.compile(
    r'<script\b[^>]*src="[^"]*"[^>]*>\s*</script>|<script type="module">.*?</script>', re.DOTALL
)
HERE = Path(__file__).parent


def mathml(formula: str, block: bool = False) -> str:
    """Convert a LaTeX formula to MathML, which browsers draw; to code if it cannot be read."""
    formula = LIKE_ALIGN.sub(r"\\\1{align*}", EQUATION.sub("", formula))
    try:
        text = latex_to_mathml(formula.strip(), display="block" if block else "inline")
    except Exception:  # of various kinds; a page with one formula as text is better than none
        return f"<code>{html.escape(formula)}</code>"
    text = text.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")  # headings would lose it
    return BOLD_ITALIC.sub(lambda letter: _bold_italic(letter[1]), text)


def _bold_italic(letter: str) -> str:
    """The letter in Unicode's bold italics: browsers ignore MathML's attribute for it."""
    base, first = (0x1D468, "A") if letter.isupper() else (0x1D482, "a")
    return chr(base + ord(letter) - ord(first))


def _convert_formulas(text: str) -> str:
    """Convert the formulas in raw HTML, where the markdown parser finds none."""
    return FORMULA.sub(lambda m: mathml(m[1] or m[2], block=m[1] is not None), text)


class _Renderer(IPythonRenderer):
    """Markdown to HTML with formulas as MathML."""

    def block_math(self, body: str) -> str:
        return mathml(body, block=True)

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

    def block_html(self, html: str) -> str:
        text = _convert_formulas(html)
        # nbconvert searches images with a parser that closes an opened <details> at once
        return super().block_html(text) if "<img" in text else text


class PageExporter(HTMLExporter):
    """The pages of `page_template`: nbconvert's lab template without scripts from elsewhere."""

    def __init__(self, **options):
        folders = [str(HERE)]
        super().__init__(template_name="page_template", extra_template_basedirs=folders, **options)
        self.mathjax_url = self.require_js_url = self.mermaid_js_url = ""
        self.embed_images = True

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """Render a cell's markdown."""
        renderer = _Renderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
            anchor_link_text=self.anchor_link_text,
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def _for_page(output: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """An output in one form; below an explorer's picture a line says what it is."""
    data = output.get("data", {})
    best = next((kind for kind in PRIORITY if kind in data), None)
    if best is None:
        return [output]
    is_latex = best == "text/latex"
    text = _convert_formulas(data[best]) if is_latex else data[best]
    output["data"] = {"text/html" if is_latex else best: text}
    if best != "image/png" or WIDGET not in data:
        return [output]
    return [output, nbformat.v4.new_output("display_data", {"text/html": CAPTION})]


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


def write_page(notebook: str | Path, page: str | Path) -> None:
    """Write an executed notebook (.ipynb) as one self-contained HTML file."""
    path = Path(notebook)
    copy = nbformat.read(path, as_version=4)
    copy.metadata.pop("widgets", None)
    _bring_to_life(copy)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for output in cell.outputs for each in _for_page(output)]
    resources = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    text, _ = PageExporter().from_notebook_node(copy, resources=resources)
    text = COLUMNS.sub('<pre class="columns">', SCRIPTS.sub("", text))
    head = (HERE / "page_head.html").read_text(encoding="utf-8")
    write_atomically(page, text.replace("</head>", f"{head}</head>", 1).encode())


def write_index(
    folder: str | Path,
    results: dict,
    accuracies: Sequence[tuple[str, str, str]],
    report: str | None,
) -> None:
    """Write a workbook's index.html: pages, costs, accuracies and the report.

    Args:
        folder: The workbook's folder.
        results: What results.json holds.
        accuracies: (notebook, what, accuracy in per cent) of each score.
        report: The report of the runs trained here, as Markdown.
    """
    rows = []
    for name, notebook in results["notebooks"].items():
        safe, error = html.escape(name), notebook["error"]
        link = f'<a href="{safe}.html">{safe}</a>' if notebook["page"] else safe
        state = f'<span class="bad">{html.escape(error)}</span>' if error else "ran to the end"
        memory = notebook["peak_mib"] and f"{notebook['peak_mib']:.0f}"
        seconds = f"{notebook['seconds']:.0f}"
        rows.append([link, seconds, memory, state, f'<a href="{safe}.ipynb">notebook</a>'])
    parameters = ", ".join(f"{key} {value}" for key, value in results["parameters"].items())
    total = f"{results['seconds']:.0f} seconds in all."
    parts = [
        f"<h1>Workbook</h1><p>{html.escape(parameters)}</p>",
        _html_table(["page", "seconds", "peak memory (MiB)", "state", ""], rows, "lrrll"),
        f'<p>{total} Figures: <a href="results.json">results.json</a></p>',
    ]
    if accuracies:
        rows = [[html.escape(cell) for cell in line] for line in accuracies]
        parts += [
            '<h2>Accuracies</h2><p><img src="accuracies.png" alt="bars of accuracy"></p>',
            _html_table(["notebook", "what", "accuracy % [95 % interval]"], rows, "llr"),
        ]
    if report is not None:
        image = '<p><img src="report/report.png" alt="bars of dev accuracy"></p>'
        parts += [
            f"<h2>Runs trained here</h2>{image}",
            MarkdownWithMath(renderer=_Renderer(escape=True)).render(report),
            '<p><a href="report/report.csv">report.csv</a></p>',
        ]
    style = (HERE / "index.css").read_text(encoding="utf-8")
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Workbook</title><style>{style}</style>" + "\n".join(parts)
    )
    write_atomically(Path(folder) / "index.html", f"{page}\n</html>\n".encode())


def _html_table(headers: Sequence[str], rows: Sequence[Sequence], align: str) -> str:
    """An HTML table of cells that are HTML already; align has l or r per column."""
    sides = ["right" if side == "r" else "left" for side in align]
    return tabulate(rows, headers, "unsafehtml", colalign=sides, disable_numparse=True)
