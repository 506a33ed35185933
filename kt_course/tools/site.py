"""The workbook as a site: its chapters, their sections, the search index, and pages of text."""

import base64
import io
import json
import re
import tomllib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from bs4 import BeautifulSoup
from PIL import Image

from kt_core.corpora.files import write_atomically
from kt_core.corpora.paths import checkout_dir, data_dir
from kt_course.tools.formulas import markdown_to_html

HERE = Path(__file__).parent
TEMPLATES = HERE / "page_template"
ENVIRONMENT = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True)
SENTENCES = tomllib.loads((HERE / "chapters.toml").read_text(encoding="utf-8"))  # of the chapters
APPENDICES = {"glossary": "Glossary", "bibliography": "Bibliography"}  # rendered from docs/NAME.md
HEADINGS = ["h1", "h2", "h3"]
WORD = re.compile(r"[^\W_]+")
PICTURE_WIDTH = 480  # pixels, of a card
READING, SOLVING = 200, 12  # words per minute, minutes per exercise


@dataclass(frozen=True)
class Section:
    """A heading of a chapter and the text below it."""

    anchor: str
    title: str
    level: int
    text: str


@dataclass(frozen=True)
class Chapter:
    """What the site says about a notebook before it runs."""

    name: str  # of the file, such as "02_build_a_gpt"
    title: str
    sentence: str
    exercises: int
    words: int
    sections: tuple[Section, ...]

    def minutes(self, seconds: float) -> int:
        """A learner's time, to ten minutes; `seconds` are those of the cells."""
        total = self.words / READING + SOLVING * self.exercises + seconds / 60
        return max(10, 10 * round(total / 10))


@dataclass(frozen=True)
class Site:
    """All chapters, in order; templates read it."""

    chapters: tuple[Chapter, ...]

    @property
    def appendices(self) -> dict[str, str]:
        """Names and titles of the pages of text that this installation has."""
        return {name: title for name, title in APPENDICES.items() if _document(name)}

    def chapter(self, name: str) -> Chapter:
        """The chapter of that name."""
        return next(one for one in self.chapters if one.name == name)

    def neighbours(self, name: str) -> tuple[Chapter | None, Chapter | None]:
        """The chapters before and after that of this name."""
        chapters = None, *self.chapters, None
        at = chapters.index(self.chapter(name))
        return chapters[at - 1], chapters[at + 1]

    def link_chapters(self, text: str) -> str:
        """HTML in which links to notebooks lead to their pages; those without a page are text."""
        names = "|".join(re.escape(one.name) for one in self.chapters)
        text = re.sub(rf'(href=")[^":#]*?({names})\.ipynb(?=[#"])', r"\1\2.html", text)
        return re.sub(r'<a href="[^":#]*\.ipynb[#"][^>]*>(.*?)</a>', r"\1", text)

    @cached_property
    def search_index(self) -> str:
        """JSON [sections, words, numbers of the sections with each word]: deflated, in base64.

        A section is (page, chapter, anchor, title); its number is counted from the one before.
        """
        sections = [
            ((one.name, one.title, section.anchor, section.title), section.text)
            for one in self.chapters
            for section in one.sections
        ]
        pages = self.appendices.items()
        sections += [((name, title, "", title), _document(name)) for name, title in pages]
        places: dict[str, list[int]] = {}
        for number, (_, text) in enumerate(sections):
            for word in set(WORD.findall(text.lower())):
                places.setdefault(word, []).append(number)
        words = sorted(word for word in places if len(word) > 2)
        steps = [[b - a for a, b in pairwise([0, *places[word]])] for word in words]
        index = json.dumps([[heading for heading, _ in sections], words, steps], ensure_ascii=False)
        return base64.b64encode(zlib.compress(index.encode(), 9)).decode()


# ---------------------------------------------------------------- chapters


def read_site(notebooks: Sequence[Path]) -> Site:
    """Read the chapters of these notebooks."""
    return Site(tuple(read_chapter(path) for path in notebooks))


def read_chapter(path: Path) -> Chapter:
    """Read a notebook's title, sections, number of exercises and words."""
    notebook = nbformat.read(path, as_version=4)
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    soup = BeautifulSoup(markdown_to_html(prose), "html.parser")
    for root in soup.select("msqrt"):
        root.insert_before("√")
    for noise in soup.select(".anchor-link, :not(h1, h2, h3) > math"):
        noise.decompose()
    sections = tuple(_sections(soup))
    first = soup.find("p")
    sentence = re.split(r"(?<=[.!?])\s", first.get_text(" ", strip=True))[0] if first else ""
    title = next((one.title for one in sections if one.level == 1), path.stem)
    exercises = sum("exercise" in cell.metadata.get("tags", ()) for cell in notebook.cells)
    text = SENTENCES.get(path.stem, sentence)
    return Chapter(path.stem, title, text, exercises, len(prose.split()), sections)


def _sections(soup: BeautifulSoup):
    """The sections in order: text between two headings belongs to the first."""
    for heading in soup.find_all(HEADINGS):
        below = []
        for each in heading.next_siblings:
            if each.name in HEADINGS:
                break
            below.append(each.get_text(" ") if each.name else str(each))
        title = " ".join(heading.get_text().split())
        anchor = heading.get("id", "") if heading.name != "h1" else ""
        yield Section(anchor, title, int(heading.name[1]), " ".join([title, *below]))


def cover(notebook: nbformat.NotebookNode) -> bytes | None:
    """The cover of an executed chapter, a PNG: that of the cell tagged `cover`, else the first.

    None for a chapter without pictures.
    """
    cells = sorted(
        (cell for cell in notebook.cells if cell.cell_type == "code"),
        key=lambda cell: "cover" not in cell.metadata.get("tags", ()),
    )
    for cell in cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output["data"]["image/png"])
    return None


def small_picture(png: bytes, width: int = PICTURE_WIDTH) -> bytes:
    """The picture as PNG, at most `width` pixels wide and in 64 colours."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.width > width:
        height = round(image.height * width / image.width)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.quantize(64).save(file, format="png", optimize=True)
    return file.getvalue()


# ---------------------------------------------------------------- pages


def write_from_template(path: Path, template: str, **values: Any) -> None:
    """Write a page that is not a chapter's; nbconvert fills those."""
    write_atomically(path, ENVIRONMENT.get_template(template).render(values).encode())


@lru_cache
def _document(name: str) -> str:
    """The text of docs/NAME.md; "" where there is none."""
    folder = (checkout_dir() or data_dir()) / "docs"
    path = folder / f"{name}.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def write_appendices(site: Site, folder: Path) -> None:
    """Write the pages of text, such as the glossary."""
    for name, title in site.appendices.items():
        body = site.link_chapters(markdown_to_html(_document(name)))
        values = dict(site=site, name=name, title=title, body=body)
        write_from_template(folder / f"{name}.html", "text.html.j2", **values)
