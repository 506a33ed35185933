"""Run chapters 1, 2 and 5 (smoke) with the versions of IPython and ipywidgets that Colab has.

    make setup && .venv/bin/python tools/colab.py [NOTEBOOK ...]

The environment build/colab holds only the pinned packages; everything else, torch too, is borrowed
from the Python that runs this script.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ["ipython==7.34.0", "ipywidgets==7.7.1"]
CHAPTERS = ["01_attention_math", "02_build_a_gpt", "05_pretrain_finetune"]
VERSIONS = """import IPython, ipywidgets, torch
assert (IPython.__version__, ipywidgets.__version__) == ("7.34.0", "7.7.1")
print("IPython", IPython.__version__, "ipywidgets", ipywidgets.__version__)
print("torch", torch.__version__)
"""


def make_environment(folder: Path) -> Path:
    """Install the pins in a new environment that borrows the rest; return its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
        borrowed = Path(own.stdout.strip()) / "zz_borrowed.pth"
        borrowed.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        quiet = ["--quiet", "--disable-pip-version-check"]
        subprocess.run([python, "-m", "pip", "install", *quiet, *PINS], check=True)
    return python


def main(chapters: list[str]) -> int:
    """Run the chapters; the status is the number of those that fail."""
    out = ROOT / "build" / "colab-output"
    out.mkdir(parents=True, exist_ok=True)
    python = make_environment(ROOT / "build" / "colab")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KT_PROGRESS_FILE": "off"}
    environment |= {"KT_MY_GPT": "off", "OMP_NUM_THREADS": "1"}
    subprocess.run([python, "-c", VERSIONS], env=environment, check=True)
    failed = 0
    for chapter in chapters:
        began = time.monotonic()
        notebook = ROOT / "notebooks" / f"{chapter}.ipynb"
        command = [python, "-m", "papermill", str(notebook), str(out / notebook.name)]
        command += ["-p", "profile", "smoke", "-k", "python3", "--no-progress-bar"]
        done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True)
        result = "finished" if done.returncode == 0 else f"failed\n{done.stderr[-2000:]}"
        print(f"{chapter}: {result}, {time.monotonic() - began:.0f} s", flush=True)
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or CHAPTERS))
