"""Takes the README's picture of each chapter out of its executed notebook: docs/chapter-NN.png.

python tools/chapters.py
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kt_core.corpora.files import write_atomically  # noqa: E402

WIDTH = 800  # pixels at most
# notebook -> the cell whose first picture stands for the chapter
CELLS = {
    "01_attention_math": "9502715e",
    "02_build_a_gpt": "picture",
    "03_span_corruption": "0aa72cd9",
    "04_no_pretrain_baseline": "73aeb20b",
    "05_pretrain_finetune": "d606d78f",
    "06_perceiver_ar": "76a4fcd1",
    "07_rope": "01eba14a",
    "08_making_knowledge_extractable": "c07-031",
    "09_the_whole_transformer": "cross-maps",
    "10_masked_language_models": "c09-025",
    "11_pretrained_models": "hub-22",
    "12_finetuning_techniques": "ft-figure",
    "13_vision_transformer": "vit-explore",
    "14_what_does_it_know": "dec23e0e",
}


def picture(notebook: Path, id: str) -> bytes:
    """Return the first picture of the cell with this id, as PNG bytes; ValueError if none."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.id == id:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output["data"]["image/png"])
    raise ValueError(
        f"{notebook.name}: no picture under cell {id}; execute it first: make references"
    )


def small(png: bytes) -> bytes:
    """The same picture, at most WIDTH pixels wide and in 64 colours."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.width > WIDTH:
        image = image.resize(
            (WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS
        )
    out = io.BytesIO()
    image.quantize(64).save(out, format="png", optimize=True)
    return out.getvalue()


def main() -> None:
    """Write all of them."""
    for name, id in CELLS.items():
        found = small(picture(ROOT / "notebooks" / f"{name}.ipynb", id))
        write_atomically(ROOT / "docs" / f"chapter-{name[:2]}.png", found)


if __name__ == "__main__":
    main()
