"""Guards over the committed notebooks: what nbval would let pass, and that nbval turns red."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from kt_course.lesson import PARAMETERS

ROOT = Path(__file__).resolve().parents[3]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in PATHS]
IGNORED = "nbval-ignore-output"


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def stored_text(cell) -> str:
    """All text that a cell's stored outputs hold."""
    kinds = ("text/plain", "text/html", "text/markdown")
    return "\n".join(
        o.get("text", "") + "\n".join(o.get("data", {}).get(kind, "") for kind in kinds)
        for o in cell.outputs
    )


def trailing_semicolon(source: str) -> bool:
    """nbval fails on `plot();` at a cell's end, though the notebook itself runs."""
    lines = [
        line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    return bool(lines) and re.sub(r"\s*#[^'\"]*$", "", lines[-1]).rstrip().endswith(";")


def unstable(text: str) -> list[str]:
    """What must not be in stored output: it differs between machines or runs."""
    patterns = {
        "path": r"(?<![\w.:/<])/(?:home|root|tmp|work|usr|var|opt|Users|private|mnt)/\S*"
        r"|[A-Z]:\\\S+",
        "address": r"\b0x[0-9a-f]{6,16}\b",
        "time": r"(?<![\w.,])\d+(?:\.\d+)? ?(?:s|ms|µs|μs|seconds|minutes|min)\b(?!\w)"
        r"|\b\d+:\d\d:\d\d\b|\b20\d\d-\d\d-\d\dT",
        "progress bar": r"\d+%\|",
    }
    return [
        f"{kind}: {match}"
        for kind, pattern in patterns.items()
        for match in re.findall(pattern, text)
    ]


def test_the_notebooks_are_numbered():
    numbers = [int(name[:2]) for name in NAMES]
    assert numbers == sorted(set(numbers)) and len(numbers) >= 13


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
class TestNotebook:
    def test_was_run_from_the_first_cell_to_the_last_without_errors(self, path):
        counts = [cell.execution_count for cell in code_cells(path)]
        assert counts == list(range(1, len(counts) + 1)), (
            "nbval compares no cell without a count: run `make references`"
        )
        assert not [
            o for cell in code_cells(path) for o in cell.outputs if o.output_type == "error"
        ]
        warned = [
            o.text for cell in code_cells(path) for o in cell.outputs if o.get("name") == "stderr"
        ]
        assert not warned, "warnings belong mended, not stored"

    def test_no_cell_ends_with_a_semicolon(self, path):
        assert not [cell.source for cell in code_cells(path) if trailing_semicolon(cell.source)]

    def test_few_cells_are_left_uncompared(self, path):
        cells = code_cells(path)
        tags = [set(cell.metadata.get("tags", [])) for cell in cells]
        assert sum(IGNORED in t for t in tags) <= 0.15 * len(cells)
        assert not [t for t in tags if t - {IGNORED, "parameters", "exercise", "cover"}], (
            "no other tag may switch a comparison off"
        )
        assert not [
            cell.source
            for cell in cells
            if re.search(r"(?i)#\s*nbval|#\s*pytest_validate", cell.source)
        ]

    def test_begins_with_annotated_parameters(self, path):
        first, *rest = code_cells(path)
        assert first.metadata.get("tags") == ["parameters"]
        assert not [cell for cell in rest if "parameters" in cell.metadata.get("tags", [])]
        lines = ast.parse(first.source).body
        assert lines and all(
            isinstance(line, ast.AnnAssign) and line.value is not None for line in lines
        )
        assert all("#" in line for line in first.source.splitlines() if line.strip()), (
            "each parameter is explained"
        )
        parameters = papermill.inspect_notebook(str(path))
        assert set(parameters) <= set(PARAMETERS)
        assert {"profile", "seed", "device", "runs_dir"} <= set(parameters)
        assert all(
            about["inferred_type_name"] == PARAMETERS[name].__name__
            for name, about in parameters.items()
        )
        assert all(about["help"] for about in parameters.values())
        assert parameters["profile"]["default"] in ('"quick"', "'quick'")

    def test_compared_output_tells_no_path_address_or_time(self, path):
        compared = [
            cell for cell in code_cells(path) if IGNORED not in cell.metadata.get("tags", [])
        ]
        assert not [match for cell in compared for match in unstable(stored_text(cell))]
        ignored = [
            match
            for cell in code_cells(path)
            for match in unstable(stored_text(cell))
            if not match.startswith("time")
        ]
        assert not ignored, "a path or an address of the author's machine"

    def test_is_small_and_tells_goals_minutes_and_memory(self, path):
        assert path.stat().st_size < 2.5e6
        header = nbformat.read(path, as_version=4).cells[0]
        assert header.cell_type == "markdown" and header.source.startswith("# ")
        for pattern in (r"(?i)goal|you will", r"(?i)minute", r"\b[MG]i?B\b"):
            assert re.search(pattern, header.source), f"the header misses {pattern}"

    def test_carries_no_volatile_metadata(self, path):
        notebook = nbformat.read(path, as_version=4)
        assert not {"widgets", "papermill"} & set(notebook.metadata)
        assert notebook.metadata.kernelspec.name == "python3"
        assert not [
            cell for cell in notebook.cells if {"papermill", "execution"} & set(cell.metadata)
        ]
        assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)

    def test_begins_and_ends_as_a_lesson(self, path):
        source = "\n".join(cell.source for cell in code_cells(path))
        assert re.search(r"^(import kt_core as kt|from kt_core)", source, re.MULTILINE)
        assert f'start_lesson("{path.stem}", globals())' in source and "lesson.result(" in source

    def test_shows_pictures_as_png(self, path):
        data = [o.get("data", {}) for cell in code_cells(path) for o in cell.outputs]
        assert sum("image/png" in d for d in data) >= 3
        assert not [
            d
            for d in data
            if "application/vnd.jupyter.widget-view+json" in d and "image/png" not in d
        ]
        assert not [
            d for d in data if "application/javascript" in d or "<script" in d.get("text/html", "")
        ]


def nbval(path: Path, *more: str) -> subprocess.CompletedProcess:
    """The comparison of make test on one notebook, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        str(path),
        "--nbval-current-env",
        "-p",
        "no:cacheprovider",
        "-q",
        "-c",
        str(path.parent / "pytest.ini"),
        "--nbval-sanitize-with",
        str(ROOT / "tests" / "nbval_sanitize.cfg"),
        *more,
    ]
    (path.parent / "pytest.ini").write_text("[pytest]\n")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "KT_PROGRESS": "off",  # as in make test: a bar would be an output of its own
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    return subprocess.run(
        command, capture_output=True, text=True, cwd=path.parent, env=environment, timeout=600
    )


def prints_a_number(cell) -> bool:
    """Does nbval compare a number that this cell printed?"""
    is_compared = cell.cell_type == "code" and IGNORED not in cell.metadata.get("tags", [])
    return is_compared and any(re.search(r"\d", output.get("text", "")) for output in cell.outputs)


def alter_one_number(notebook) -> None:
    """Change the last digit that a compared cell printed."""
    cell = next(cell for cell in reversed(notebook.cells) if prints_a_number(cell))
    output = next(o for o in cell.outputs if re.search(r"\d", o.get("text", "")))
    start, last, end = re.fullmatch(r"(?s)(.*)(\d)(\D*)", output.text).groups()
    output.text = f"{start}{(int(last) + 1) % 10}{end}"


def red_after_a_change(path: Path) -> None:
    """nbval passes as it is, and fails once one stored number is another."""
    passed = nbval(path)
    assert passed.returncode == 0, passed.stdout[-3000:]
    notebook = nbformat.read(path, as_version=4)
    alter_one_number(notebook)
    nbformat.write(notebook, path)
    failed = nbval(path)
    assert failed.returncode == 1, failed.stdout[-3000:]
    assert "1 failed" in failed.stdout


def test_a_changed_number_turns_nbval_red(tmp_path):
    cell = new_code_cell(
        "print('accuracy', 6 * 7, '%, took 3 s')",
        execution_count=1,
        outputs=[new_output("stream", name="stdout", text="accuracy 42 %, took 5 s\n")],
    )
    two = new_code_cell(
        "print(round(2 / 3, 3))",
        execution_count=2,
        outputs=[new_output("stream", name="stdout", text="0.667\n")],
    )
    notebook = new_notebook(
        cells=[cell, two], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    nbformat.write(notebook, tmp_path / "small.ipynb")
    red_after_a_change(tmp_path / "small.ipynb")


@pytest.mark.slow
def test_a_changed_number_turns_a_real_notebook_red(tmp_path):
    """Its cells up to the first that prints a number: nothing but the changed number is red."""
    notebook = nbformat.read(PATHS[0], as_version=4)
    number = next(i for i, cell in enumerate(notebook.cells) if prints_a_number(cell))
    del notebook.cells[number + 1 :]
    alter_one_number(notebook)
    nbformat.write(notebook, tmp_path / PATHS[0].name)
    failed = nbval(tmp_path / PATHS[0].name)
    assert failed.returncode == 1, failed.stdout[-3000:]
    assert f"1 failed, {len(code_cells(tmp_path / PATHS[0].name)) - 1} passed" in failed.stdout


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("plot();", True),
        ("plot(); # done", True),
        ("a = 1; b = 2", False),
        ("print(';')", False),
        ("plot();\n# end", True),
        ("", False),
    ],
)
def test_the_semicolon_guard_sees_what_it_should(source, is_found):
    assert trailing_semicolon(source) is is_found


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("see /home/me/x.py", True),
        ("<object at 0x7f3a2b1c4d50>", True),
        ("took 3.2 s", True),
        ("0:01:22 left", True),
        (" 10%|█ | 1/10", True),
        ("accuracy 95.0 %", False),
        ("and/or 3 steps", False),
        ("born in 1871", False),
    ],
)
def test_the_output_guard_sees_what_it_should(text, is_found):
    assert bool(unstable(text)) is is_found
