"""The README's two pictures of the workbook in a browser: docs/lab.png and docs/page.png.

python tools/screenshots.py [--profile smoke]      needs Chromium and Playwright
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from answering import posed  # noqa: E402
from browsing import Notebook, chromium, jupyterlab, missing, tab  # noqa: E402

from kt_core.corpora.files import write_atomically  # noqa: E402
from kt_course.tools.html_export import write_page  # noqa: E402

SHARP = {"device_scale_factor": 1.5}
MOST = 200_000  # bytes a picture
MISTAKE = "return torch.ones(T, T, dtype=torch.bool).triu()"


def lab_picture(lab, browser) -> bytes:
    """JupyterLab with trained models that answer a question side by side."""
    with tab(browser, 1120, 1000, lab.address, **SHARP) as page:
        notebook = Notebook(page, lab, "05_pretrain_finetune")
        notebook.run_all()
        page.keyboard.press("Escape")
        page.keyboard.press("ControlOrMeta+B")  # no file browser
        page.locator(".kt-live[data-ready]").first.wait_for()
        notebook.cell("attach(").evaluate("cell => cell.scrollIntoView()")
        page.wait_for_timeout(1000)  # until all models have answered
        return page.screenshot()


def page_picture(lab, browser, folder: Path) -> bytes:
    """A page that `kt workbook` writes: an exercise, a wrong answer and its verdict."""
    with tab(browser, 1120, 1000, lab.address) as page:
        notebook = Notebook(page, lab, "01_attention_math")
        notebook.run_all()
        stub = posed("01_attention_math")["causal-mask"]
        notebook.answer("causal-mask", stub.rstrip().removesuffix("...") + MISTAKE)
        with page.expect_response(
            lambda told: told.request.method == "PUT" and "/api/contents/" in told.url
        ):
            page.keyboard.press("ControlOrMeta+S")
    write_page(lab.folder / "01_attention_math.ipynb", folder / "page.html")
    with tab(browser, 1000, 900, folder.as_uri(), **SHARP) as page:
        page.goto((folder / "page.html").as_uri())
        cells = page.locator(".jp-Cell")
        number = next(
            i
            for i, text in enumerate(cells.all_inner_texts())
            if "Exercise 3" in text and "Hint 1" in text
        )
        first, last = (cells.nth(i).bounding_box() for i in (number, number + 2))
        height = last["y"] + last["height"] - first["y"]
        clip = {"x": 0, "y": first["y"], "width": 1000, "height": height}
        return page.screenshot(full_page=True, clip=clip)


def small(png: bytes) -> bytes:
    """The picture in 256 colours, its own, where it would weigh more than MOST."""
    held = io.BytesIO()
    shown = Image.open(io.BytesIO(png)).convert("RGB")
    shown.save(held, "png", optimize=True)
    if held.tell() > MOST:
        held = io.BytesIO()
        few = shown.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
        few.save(held, "png", optimize=True)
    return held.getvalue()


def main() -> int:
    """Take both pictures; 1 if there is no browser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--profile", default="quick", help="of the notebooks that are run: quick or smoke"
    )
    profile = parser.parse_args().profile
    if missing():
        print(missing(), file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyterlab(Path(folder), profile) as lab,
        chromium() as browser,
    ):
        taken = {"lab": lab_picture(lab, browser)}
        lab.close("05_pretrain_finetune")
        taken["page"] = page_picture(lab, browser, Path(folder))
    for name, png in taken.items():
        write_atomically(ROOT / "docs" / f"{name}.png", shown := small(png))
        print(f"docs/{name}.png: {len(shown) / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
