"""Our GPT and the learner's in TransformerLens, and rows by the datasets library.

Neither package is in .venv: `make lens` puts both into an environment of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / "build" / "lens" / "bin" / "python"
PAGE = ROOT / "notebooks" / "11_pretrained_models.ipynb"
needs_lens = pytest.mark.skipif(not PYTHON.exists(), reason="needs TransformerLens: make lens")

LOGITS = """
import json, sys
import torch
import kt_core as kt
from kt_course.chapters.pretrained_models import hub
from kt_course.exercises import my_gpt
hub.offline()
from transformer_lens.model_bridge import TransformerBridge
gaps = {}
for name, kind in {"kt_core": kt.GPT, "learner": my_gpt.load().GPT}.items():
    torch.manual_seed(0)
    model = kind(kt.GPTConfig(14, 16, 3, 2, 16, dropout=0.0)).eval()
    for p in model.parameters():
        p.data = 0.5 * torch.randn_like(p)  # so large that every mistake shows
    folder = f"{sys.argv[1]}/{name}"
    hub.as_gpt2(model).save_pretrained(folder)
    hub.char_tokenizer(kt.CharVocab("abcdefghijkl"), 16).save_pretrained(folder)
    hooked = TransformerBridge.boot_transformers(folder, device="cpu")
    idx = torch.arange(16)[None] % 14
    with torch.no_grad():
        logits, cache = hooked.run_with_cache(idx)
        gaps[name] = float((logits - model(idx)[0]).abs().max())
    if name == "kt_core":
        with kt.record_attention(model) as maps:
            model(idx)
        gaps["attention"] = float((cache["blocks.2.attn.hook_pattern"] - maps[2]).abs().max())
print(json.dumps(gaps))
"""

ROWS = """
import re, sys
import transformers as tf
import kt_core as kt
documents = kt.load_corpus("bios:people=40").documents
exec(sys.argv[1])  # the page's own cell
by_hand = pieces(train_text, truncation=True, max_length=64)["input_ids"]
assert type(train_rows).__name__ == "Dataset" and len(train_rows) == len(by_hand) > 50
assert [row["input_ids"] for row in train_rows] == by_hand
"""


def run(code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KT_MY_GPT": "off"}
    command = [str(PYTHON), "-c", code, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.splitlines()[-1] if process.stdout else ""


@needs_lens
@pytest.mark.slow
def test_transformer_lens_computes_the_same_logits(tmp_path):
    gaps = json.loads(run(LOGITS, str(tmp_path)))
    assert set(gaps) == {"kt_core", "learner", "attention"} and max(gaps.values()) < 1e-4


@needs_lens
@pytest.mark.slow
def test_the_datasets_library_gives_the_rows_of_the_page(tmp_path):
    cells = {cell.id: cell.source for cell in nbformat.read(PAGE, as_version=4).cells}
    run(ROWS, cells["rows"])
