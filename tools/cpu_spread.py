"""Do the notebooks print the same on other CPUs? Run them under emulated instruction sets, compare.

    python tools/cpu_spread.py [NOTEBOOK ...] [--kernels default avx2] [--seeds 0 1 2] [--quick]

Every notebook runs once per combination of instruction set (PyTorch's own kernels and oneDNN's),
number of threads and seed. The report lists the printed lines that differ from the first
combination, which has the notebook's own seed. Lines of cells tagged nbval-ignore-output are left
out, and so is what nbval's sanitizer removes. A seed's lines are compared with those of the same
seed; in addition the lines that depend on the seed are counted, because a claim among them holds by
chance.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
from collections import defaultdict
from configparser import ConfigParser
from pathlib import Path
from typing import Annotated

import cyclopts
import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kt_core._validation import one_of  # noqa: E402
from kt_course.tools.workbook import execute, find_notebooks  # noqa: E402

# PyTorch's kernels, oneDNN's kernels
INSTRUCTION_SETS = {
    "default": ("default", "SSE41"),
    "avx2": ("avx2", "AVX2"),
    "avx512": ("avx512", "AVX512_CORE"),
    "all": ("", ""),  # what this CPU has
}
IGNORED = "nbval-ignore-output"
Numbers = Annotated[list[int], cyclopts.Parameter(consume_multiple=True)]
Names = Annotated[list[str], cyclopts.Parameter(consume_multiple=True)]


def sanitizers() -> list[tuple[re.Pattern, str]]:
    """The replacements that nbval makes before it compares."""
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT / "tests" / "nbval_sanitize.cfg", encoding="utf-8")
    sections = [parser[name] for name in parser.sections()]
    return [(re.compile(s["regex"], re.M), s["replace"]) for s in sections]


def run(notebook: Path, kernels: str, threads: int, seed: int | None) -> dict[int, list[str]]:
    """Run a notebook in a kernel with these settings; the printed lines of each compared cell."""
    aten, onednn = INSTRUCTION_SETS[kernels]
    settings = {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn}
    settings |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    for name, value in settings.items():  # the kernel inherits them
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / notebook.name
        parameters = {"runs_dir": str(Path(folder) / "runs")}
        parameters |= {} if seed is None else {"seed": seed}
        outcome = execute(notebook, out, parameters, notebook.parent)
        if outcome.error is not None:
            return {0: [f"error: {outcome.error}"]}
        cells = nbformat.read(out, as_version=4).cells
    lines, replacements = {}, sanitizers()
    compared = [c for c in cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for number, cell in enumerate(compared):
        if cell.cell_type == "code" and IGNORED not in cell.metadata.get("tags", []):
            text = "".join(output.get("text", "") for output in cell.outputs)
            for pattern, replacement in replacements:
                text = pattern.sub(replacement, text)
            lines[number] = text.splitlines()
    return lines


def differences(first: dict[int, list[str]], other: dict[int, list[str]]) -> set[tuple]:
    """(cell, line, text in the first run) of all lines that differ."""
    places = set()
    for cell in sorted({*first, *other}):
        pairs = itertools.zip_longest(first.get(cell, []), other.get(cell, []), fillvalue="")
        places |= {(cell, i, a) for i, (a, b) in enumerate(pairs) if a != b}
    return places


def main(
    *notebooks: str,
    seeds: Numbers = (0, 1, 2, 3, 4),
    threads: Numbers = (1, 2),
    kernels: Names = tuple(INSTRUCTION_SETS),
    quick: bool = False,
) -> int:
    """Run notebooks under several instruction sets, threads and seeds, and compare what they print.

    Args:
        notebooks: By number, name or path; all by default.
        seeds: Values of the parameter `seed`.
        threads: Numbers of threads.
        kernels: Instruction sets, see `INSTRUCTION_SETS`.
        quick: The notebook's own seed alone.

    Returns:
        1 if a line differs between instruction sets or numbers of threads.
    """
    n_different = 0
    for name in kernels:
        one_of("instruction set", name, INSTRUCTION_SETS)
    for notebook in find_notebooks(notebooks):
        reference: dict[int | None, dict] = {}
        where = defaultdict(list)
        for seed in [None] if quick else [None, *seeds]:
            for name, n_threads in itertools.product(kernels, threads):
                lines = run(notebook, name, n_threads, seed)
                first = reference.setdefault(seed, lines)
                for place in differences(first, lines):
                    where[place].append(f"{name}, {n_threads} threads, seed {seed}")
        by_seed = set().union(*(differences(reference[None], each) for each in reference.values()))
        print(f"{notebook.stem}: {len(where)} lines depend on the CPU, {len(by_seed)} on the seed")
        for (cell, line, text), settings in sorted(where.items()):
            print(f"  cell {cell}, line {line + 1}: {text}\n    differs: {'; '.join(settings)}")
        for cell, line, text in sorted(by_seed):
            if re.search(r"\b(yes|no)\b", text):
                print(f"  cell {cell}, line {line + 1}: a claim depends on the seed: {text}")
        n_different += len(where)
    return int(n_different > 0)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # a run that is stopped keeps what it has printed
    app = cyclopts.App(version_flags=(), default_parameter=cyclopts.Parameter(negative=()))
    app.default(main)
    sys.exit(app())
