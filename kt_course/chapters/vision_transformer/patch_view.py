"""A living view of a Vision Transformer: click a patch, see which patches it attends to.

The attention maps are computed once and lie in the page, which needs no kernel and no network.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kt_course._typing import Float, Tensor
from kt_course.chapters.vision_transformer.solutions import attention_rollout
from kt_course.explorers.engine_files import ENGINE, joined_modules, style_sheet
from kt_course.figures.style import array

HINT = (
    "click the patch with the odd one out, then another patch. Which heads change? "
    "With the keyboard: Tab to the image, then the arrow keys."
)


@dataclass(frozen=True)
class PatchView:
    """Attention maps of several images; shows itself in a notebook and in an exported page.

    Attributes:
        images: (n, 1, side, side), ink from 0 to 1.
        maps: Attention weights of each layer, (n, n_head, T, T); token 0 is the class token.
        notes: What is known about each image.
        alt: What the view shows, for readers who cannot run it.
    """

    images: Float[Tensor, "n 1 side side"]
    maps: Sequence[Float[Tensor, "n nh T T"]]
    notes: Sequence[str]
    alt: str

    def given(self) -> dict[str, Any]:
        """Return what `patchView` in patch_view.js takes."""
        weights = np.stack([array(layer) for layer in self.maps], axis=1)  # (n, L, nh, T, T)
        _, n_layer, n_head, T, _ = weights.shape
        return {
            "label": self.alt,
            "hint": HINT,
            "side": self.images.size(-1),
            "grid": round((T - 1) ** 0.5),
            "layers": n_layer,
            "heads": n_head,
            "most": min(1.0, round(float(weights[..., 1:].max()), 1) + 0.1),
            "pixels": packed(array(self.images)),
            "weights": packed(weights),
            "rollout": packed(array(attention_rollout(self.maps))),
            "images": [
                {"name": f"image {i}", "note": note} for i, note in enumerate(self.notes, 1)
            ],
        }

    def to_html(self) -> str:
        """Return a whole page with everything inside, which needs no network."""
        css = ENGINE.joinpath("patch_view.css").read_text(encoding="utf-8")
        script = joined_modules(("kt_ui", "patch_view"))
        data = json.dumps(self.given()).replace("</", "<\\/")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self.alt)}</title>"
            f"<style>body {{ margin: 0; }}\n{style_sheet()}{css}</style></head>\n"
            f'<body><main id="view"><p>{html.escape(self.alt)}</p></main>\n'
            f"<script>(() => {{\n{script}\n"
            f"patchView(document.getElementById('view'), {data});\n}})()</script></body></html>"
        )

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        page, title = html.escape(self.to_html()), html.escape(self.alt)
        style = "width: 100%; height: 44rem; border: 0"
        frame = f'<iframe title="{title}" style="{style}" srcdoc="{page}"></iframe>'
        return {"text/plain": self.alt, "text/html": frame}


def packed(shares: np.ndarray) -> str:
    """Return numbers from 0 to 1 as base64 of bytes."""
    return base64.b64encode((255 * shares).round().astype(np.uint8).tobytes()).decode()
