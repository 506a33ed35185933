"""Chapter 16, the appendix: it is short, names its sources, and says what its experiments show."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

import kt_core as kt
from kt_course.shipped import shipped, shipped_result

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOK = ROOT / "notebooks" / "16_from_gpt2_to_today.ipynb"
CELLS = {cell.id: cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
PROSE = "\n".join(cell.source for cell in CELLS.values() if cell.cell_type == "markdown")


def test_it_is_short():
    assert len(re.findall(r"\w[\w'’-]*", PROSE)) <= 1500


def test_every_work_that_it_cites_is_in_the_bibliography():
    works = re.findall(r"([A-Z]\w+)(?: and [A-Z]\w+| et al\.)? \(?(20\d\d)\)?", PROSE)
    keys = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "docs/bibliography.bib").read_text(), re.M))
    cited = {name.lower() + year for name, year in works}
    assert len(cited) >= 10 and cited <= keys, cited - keys


def test_its_models_behave_as_it_says():
    """RMSNorm changes no answer, and the prompt is not read; shared heads need more training."""
    namespace: dict = {}
    corpus = kt.load_corpus("bios")
    model, vocab, _ = shipped("bios", "rope", "finetuned")
    questions, gold = map(list, zip(*corpus.dev[:60], strict=True))
    exec("import copy\n" + CELLS["gqa-run"].source.split("\n\n\nfor")[0], namespace)
    namespace["c"] = model.config
    shared = namespace["share_heads"](model, 2)
    assert kt.exact_match(kt.answer(shared, vocab, questions), gold).accuracy < 0.2
    prompts = [f"{kt.question_name(q)} was born in Bogotá. {q}" for q in questions]
    follows = kt.exact_match(kt.answer(model, vocab, prompts), ["Bogotá"] * len(gold))
    assert follows.accuracy < 0.1
    assert len(shipped_result("live")["runs"]) == 3
