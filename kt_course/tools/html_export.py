"""Executed notebooks as HTML pages that need no network; see `site` for what is around them."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path

import nbformat
from jinja2 import pass_context
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import MarkdownWithMath

from kt_core.corpora.files import write_atomically
from kt_core.evaluation import Score
from kt_course.explorers.living_page import MIME as LIVING
from kt_course.explorers.living_page import page_fragments
from kt_course.tools.formulas import Renderer, convert_formulas
from kt_course.tools.site import TEMPLATES, Site, read_site

# What a cell shows if it offers several forms: its picture, never a widget that needs a kernel
PRIORITY = (
    "image/png image/jpeg image/svg+xml text/html text/markdown text/latex text/plain".split()
)
WIDGET = "application/vnd.jupyter.widget-view+json"
CAPTION = (
    '<p class="still">An explorer: this is its first picture, the controls are live in '
    "JupyterLab.</p>"
)
# Markup of lab's template that shows nothing here: buttons to collapse a cell, and the classes of
# what has the colour of the text in code (names, operators, punctuation, spaces)
COLLAPSER = re.compile(r'<div class="jp-Collapser[^>]*>\s*</div>\s*')
PLAIN_CODE = re.compile(r'<span class="(?:n[a-z]?|bp|o|p|w)">([^<]*)</span>')
COLUMNS = re.compile(r"<pre>(?=[^<]*\S {2,}\S)")  # printed text with columns


class PageExporter(HTMLExporter):
    """The pages of `page_template`: nbconvert's lab template without scripts from elsewhere."""

    def __init__(self, **options):
        folders = [str(TEMPLATES.parent)]
        super().__init__(
            template_name=TEMPLATES.name,
            extra_template_basedirs=folders,
            exclude_input_prompt=True,
            exclude_output_prompt=True,
            **options,
        )
        self.embed_images = True

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """Render a cell's markdown."""
        renderer = Renderer(
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
    text = convert_formulas(data[best]) if is_latex else data[best]
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


def write_page(
    notebook: str | Path,
    page: str | Path,
    site: Site | None = None,
    results: Sequence[tuple[str, Score]] = (),
) -> None:
    """Write an executed notebook (.ipynb) as one self-contained HTML file.

    Args:
        notebook: The notebook as it ran.
        page: The file to write.
        site: The site whose chapter it is; by default a site of this page alone.
        results: (what, score) pairs for the table at the end of the page.
    """
    path = Path(notebook)
    copy = nbformat.read(path, as_version=4)
    copy.metadata.pop("widgets", None)
    _bring_to_life(copy)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for output in cell.outputs for each in _for_page(output)]
    site = site or read_site([path])
    resources = {
        "metadata": {"name": path.stem, "path": str(path.parent)},
        "site": site,
        "chapter": site.chapter(path.stem),
        "results": results,
        "has_notebook": path.parent == Path(page).parent,
    }
    text, _ = PageExporter().from_notebook_node(copy, resources=resources)
    text = PLAIN_CODE.sub(r"\1", COLLAPSER.sub("", text))
    text = site.link_chapters(text)
    write_atomically(page, COLUMNS.sub('<pre class="columns">', text).encode())
