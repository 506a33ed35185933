"""Markdown with LaTeX formulas as HTML with MathML, which browsers draw without a script."""

import html
import re

from latex2mathml.converter import convert as latex_to_mathml
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

# latex2mathml knows align* alone: similar environments are renamed, equation is removed.
LIKE_ALIGN = re.compile(r"\\(begin|end)\{(?:align(?:ed|edat)?|split|gather(?:ed)?)\*?\}")
EQUATION = re.compile(r"\\(?:begin|end)\{equation\*?\}")
BOLD_ITALIC = re.compile(r'(?<=<mi mathvariant="bold-italic">)([A-Za-z])(?=</mi>)')
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(?=\S)(.+?)(?<=\S)\$", re.DOTALL)


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


def convert_formulas(text: str) -> str:
    """Convert the formulas in raw HTML, where the markdown parser finds none."""
    return FORMULA.sub(lambda m: mathml(m[1] or m[2], block=m[1] is not None), text)


class Renderer(IPythonRenderer):
    """Markdown to HTML with formulas as MathML."""

    def block_math(self, body: str) -> str:
        return mathml(body, block=True)

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

    def block_html(self, html: str) -> str:
        text = convert_formulas(html)
        # nbconvert searches images with a parser that closes an opened <details> at once
        return super().block_html(text) if "<img" in text else text


def markdown_to_html(source: str, escape: bool = False) -> str:
    """Render Markdown; with `escape`, HTML in it is shown as text."""
    return MarkdownWithMath(renderer=Renderer(escape=escape)).render(source)
