"""Every file has a licence, and every licence that is named has its text."""

from __future__ import annotations

import fnmatch
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ANNOTATIONS = tomllib.loads((ROOT / "REUSE.toml").read_text(encoding="utf-8"))["annotations"]


def licence_of(path: str) -> str:
    """The licence of the last annotation that fits, as the REUSE specification has it."""
    fits = [a for a in ANNOTATIONS if any(fnmatch.fnmatch(path, glob) for glob in a["path"])]
    return fits[-1]["SPDX-License-Identifier"]


def test_every_named_licence_has_its_text():
    named = {annotation["SPDX-License-Identifier"] for annotation in ANNOTATIONS}
    texts = {path.stem for path in (ROOT / "LICENSES").glob("*.txt")}
    assert named == texts


def test_every_annotation_fits_a_file_of_the_project():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = listing.stdout.splitlines()
    for annotation in ANNOTATIONS:
        for glob in annotation["path"]:
            assert any(fnmatch.fnmatch(path, glob) for path in files), glob


@pytest.mark.parametrize(
    ("path", "licence"),
    [
        ("kt_core/models.py", "MIT"),
        ("notebooks/01_attention_math.ipynb", "CC-BY-4.0"),
        ("data/bios/cities.txt", "CC0-1.0"),
        ("data/checkpoints/wiki-rope-finetuned.safetensors", "CC-BY-SA-4.0"),
        ("data/results/predictions/wiki-rope-dev.txt", "CC-BY-SA-4.0"),
    ],
)
def test_what_derives_from_wikipedia_is_share_alike(path, licence):
    assert licence_of(path) == licence
