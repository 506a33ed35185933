"""Trained models that run inside a notebook and inside an exported page, without a server.

`attach(models, view, alt=...)` shows an explorer over trained models, and `attach_data` one over
plain data, in JupyterLab, VS Code and Colab (through
anywidget), and leaves what an exported page needs to bring it to life again: `page_fragments`
turns that into HTML. Readers who can run neither see a picture with its description.
The JavaScript lies in `engine/`; `kt_engine.js` there is the forward pass.
"""

import base64
import html
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from kt_course.explorers.engine_files import DATA_VIEWS, MODEL_VIEWS, joined_modules, style_sheet
from kt_course.explorers.living_pictures import draw_view
from kt_course.explorers.packed_models import Given, PackedModel, pack, unpack, weights_text
from kt_course.figures.alt_text import small_png

MIME = "application/vnd.kt.living-page+json"  # what an exported page is made from

# ---------------------------------------------------------------- one explorer


@dataclass(frozen=True)
class LivingView:
    """An explorer over packed models; shows itself in a notebook. Build it with `attach`."""

    models: tuple[PackedModel, ...]
    view: str
    alt: str
    examples: tuple[tuple[str, str], ...]
    start: dict
    picture: bytes = field(repr=False)  # PNG
    data: dict | None = None  # of a view without models

    def given(self) -> dict:
        """What the page's `mount` takes, without the weights."""
        return {
            "view": self.view,
            "label": self.alt,
            "models": [model.head() for model in self.models],
            "examples": [{"question": q, "answer": a} for q, a in self.examples],
            "start": self.start,
            "data": self.data,
        }

    def stored(self) -> dict:
        """What a saved notebook keeps, and `page_fragments` takes."""
        return {"given": self.given(), "weights": {one.key: one.stored() for one in self.models}}

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        """The picture, its description, what an exported page needs, and the live widget."""
        data = {
            "text/plain": self.alt,
            "image/png": base64.b64encode(self.picture).decode(),
            MIME: self.stored(),
        }
        if importlib.util.find_spec("anywidget"):
            from kt_course.explorers.living_widget import widget_view

            data |= widget_view(self.given(), [model.weights for model in self.models])
        return data, {"image/png": {"alt": self.alt}}

    def to_html(self, title: str = "") -> str:
        """A whole page with this explorer alone, to be opened from a file."""
        (fragment,) = page_fragments([self.stored()], [(self.picture, self.alt)])
        heading = f"<h1>{html.escape(title)}</h1>" if title else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{html.escape(title or self.alt)}</title></head>\n"
            f"<body><main>{heading}{fragment}</main></body></html>\n"
        )


def attach(
    models: Mapping[str, Given],
    view: str = "attention",
    *,
    alt: str,
    examples: Sequence[tuple[str, str]],
    picture: Figure | None = None,
    **start: object,
) -> LivingView:
    """Show an explorer over trained models that also lives in the exported page.

    Args:
        models: The page's name of each model, and the model: the name of a shipped checkpoint
            ("bios-rope-finetuned"), a checkpoint file, or (model, vocab).
        view: "attention" (any text, heads to knock out), "ask" (answers side by side), "lens"
            (logit lens and patching) or "replay" (the models are snapshots of a training).
        alt: What the picture shows, for readers who do not see it or cannot run the explorer.
        examples: (question, true answer) pairs that the explorer offers; it opens on the first.
            "lens" patches between questions of equal length: give it some.
        picture: The picture for readers who cannot run it; drawn from the first example if None.
        start: What the view opens on, such as `layer=2, head=1` for "attention"; `hint` is the
            sentence that says what to try first, in place of the view's own. "replay" needs
            `record`, what data/results/replay.json holds.

    Raises:
        ValueError: For an unknown view, an empty `alt`, no models, or no examples.
    """
    _check(view, MODEL_VIEWS, alt)
    if not models or not examples:
        raise ValueError(f"attach got {len(models)} models and {len(examples)} examples")
    packed = tuple(pack(name, source) for name, source in models.items())
    pairs = {one.name: unpack(one) for one in packed}
    figure = picture or draw_view(view, pairs, *examples[0], **start)
    return LivingView(packed, view, alt, tuple((q, a) for q, a in examples), start, _png(figure))


def attach_data(view: str, data: dict, *, alt: str, picture: Figure, **start: object) -> LivingView:
    """Show an explorer that needs no model: see `data_views`, which makes `data` and `picture`.

    Raises:
        ValueError: For an unknown view or an empty `alt`.
    """
    _check(view, DATA_VIEWS, alt)
    return LivingView((), view, alt, (), start, _png(picture), data)


def _check(view: str, known: Sequence[str], alt: str) -> None:
    if view not in known:
        raise ValueError(f"view must be one of {', '.join(known)}, not {view!r}")
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the explorer shows")


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100, metadata={"Software": None})
    return small_png(png.getvalue())


# ---------------------------------------------------------------- exported pages


def page_fragments(stored: Sequence[dict], pictures: Sequence[tuple[bytes, str]]) -> list[str]:
    """HTML for the explorers of one page, in order.

    The first fragment brings the engine; weights that several explorers share come once.

    Args:
        stored: What `LivingView.stored` gave, one per explorer.
        pictures: The PNG and the description that show where scripts do not run, one each.
    """
    fragments, keys = [], set()
    views = {one["given"]["view"] for one in stored}
    for number, (one, (png, alt)) in enumerate(zip(stored, pictures, strict=True), 1):
        parts = [_engine(views)] if number == 1 else []
        root = f"kt-living-{number}"
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        image = f'<img src="{source}" alt="{html.escape(alt)}" style="max-width: 100%">'
        parts.append(f'<div id="{root}">{image}</div>')
        for key in one["weights"].keys() - keys:
            text = weights_text(one["weights"][key])
            parts.append(f'<script type="text/plain" id="kt-weights-{key}">{text}</script>')
        keys |= one["weights"].keys()
        given = _inside_script(json.dumps(one["given"], ensure_ascii=False))
        attributes = f'type="application/json" class="kt-view" data-root="{root}"'
        parts.append(f"<script {attributes}>{given}</script>\n<script>ktMountAll()</script>")
        fragments.append("\n".join(parts))
    return fragments


def _engine(views: set[str]) -> str:
    """Style and script of these views."""
    script = f"(() => {{\n{_inside_script(joined_modules(views))}\nreturn mountAll; }})()"
    return f"<style>{style_sheet()}</style>\n<script>globalThis.ktMountAll ??= {script}</script>"


def _inside_script(text: str) -> str:
    """The same JavaScript or JSON without a tag that would end the script element."""
    return text.replace("</", "<\\/")
