"""The JavaScript and CSS of the living pages, as one script and one style sheet."""

import re
from pathlib import Path

ENGINE = Path(__file__).parent / "engine"
MODULES = (  # in the order of their imports
    "kt_engine kt_weights kt_ui attention_view ask_view lens_view replay_view data_views "
    "patch_view kt_page"
).split()
_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|class|const|let)\b)", re.MULTILINE)
_COMMENT = re.compile(r"^ *(//.*|/\*\*[\s\S]*?\*/)\n", re.MULTILINE)  # whole lines of it


def joined_modules() -> str:
    """All modules as one script without imports: pages opened from a file cannot import.

    Comments stay in the files, so that pages are smaller.
    """
    sources = (ENGINE.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in MODULES)
    script = "\n".join(_EXPORT.sub("", _IMPORT.sub("", source)) for source in sources)
    return _COMMENT.sub("", script)


def style_sheet() -> str:
    """The CSS of all views."""
    return ENGINE.joinpath("kt_page.css").read_text(encoding="utf-8")
