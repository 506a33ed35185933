"""The JavaScript and CSS of the living pages, as one script and one style sheet."""

import re
from collections.abc import Iterable
from pathlib import Path

ENGINE = Path(__file__).parent / "engine"
MODEL_VIEWS = ("attention", "ask", "lens", "replay")
DATA_VIEWS = tuple(
    "forgetting heads patches reach rotation spans tokens translation windows".split()
)
OWN_MODULE = (*MODEL_VIEWS, "patches")  # the other views are in data_views.js
_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|class|const|let)\b)", re.MULTILINE)
_NOISE = re.compile(r"^ *(//.*|/\*\*[\s\S]*?\*/)\n|^ +", re.MULTILINE)  # comments, indentation


def joined_modules(views: Iterable[str] = MODEL_VIEWS + DATA_VIEWS) -> str:
    """The engine and these views as one script without imports: a page from a file cannot import.

    They come in the order of their imports, without comments and indentation to save bytes.
    """
    modules = {f"{view}_view" if view in OWN_MODULE else "data_views" for view in views}
    names = ["kt_engine", "kt_analysis", "kt_weights", "kt_ui", *sorted(modules), "kt_page"]
    sources = (ENGINE.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in names)
    script = "\n".join(_EXPORT.sub("", _IMPORT.sub("", source)) for source in sources)
    return _NOISE.sub("", script)


def style_sheet() -> str:
    """The CSS of all views."""
    return ENGINE.joinpath("kt_page.css").read_text(encoding="utf-8")
