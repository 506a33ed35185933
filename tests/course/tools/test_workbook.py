"""The workbook's run: parameters, order, offline pages, and what stays when a notebook fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import suppress

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import kt_core as kt
from kt_course.tools import workbook
from kt_course.tools.cli import main
from kt_course.tools.formulas import mathml
from kt_course.tools.html_export import write_page
from kt_course.tools.workbook import find_notebooks, known_parameters, parameters_for, run_workbook

PARAMETERS = """profile: str = "quick"  # smoke, quick or full
corpus: str = "bios"  # which corpus
{}seed: int = 0  # of everything random
device: str = "auto"  # where
runs_dir: str = "runs/notebooks"  # where results go
overrides: dict = {{}}  # fields of the recipe"""
TEXT = r"""# Title with $q^2$

Inline $\sqrt{d_k}$, block

$$\begin{aligned} a &= \frac{1}{2} \\ b &= x_i \end{aligned}$$

Two prices, \$5 and \$6, and `code $x$`.

<details><summary>Answer for $d=4$</summary>

It is $d^2$.

</details>
"""


def write(folder, name, *cells, extra=""):
    first = new_code_cell(PARAMETERS.format(extra), metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[new_markdown_cell(TEXT), first, *map(new_code_cell, cells)])
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture
def notebooks(tmp_path):
    folder = tmp_path / "notebooks"
    keep = "import json, os, pathlib, sys\npathlib.Path(runs_dir).mkdir(exist_ok=True)\n"
    write(
        folder,
        "01_one",
        keep
        + "facts = dict(rope=dict(correct=30, total=100), london=dict(correct=5, total=100))\n"
        + 'json.dump({"facts": facts}, '
        'open(f"{runs_dir}/01_one.json", "w"))',
        "print(sys.executable, os.getcwd(), profile, seed, overrides)",
    )
    write(
        folder,
        "02_two",
        "import os\nprint(variant, os.environ['KT_PROGRESS'])",
        extra='variant: str = "vanilla"  # which model\n',
    )
    return folder


def output_of(path):
    return "".join(
        o.get("text", "")
        for c in nbformat.read(path, as_version=4).cells
        for o in c.get("outputs", [])
    )


def test_all_notebooks_run_in_order_in_one_folder_with_their_parameters(
    notebooks, tmp_path, monkeypatch, capsys
):
    fake = tmp_path / "jupyter" / "kernels" / "python3"  # another python3, which must not be used
    fake.mkdir(parents=True)
    (fake / "kernel.json").write_text(
        '{"argv": ["/bin/false"], "display_name": "x", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.delenv("KT_PROGRESS", raising=False)
    out = run_workbook(
        profile="smoke",
        variant="rope",
        seed=3,
        settings=["finetune.epochs=2"],
        out=tmp_path / "out",
        source=notebooks,
    )
    assert output_of(out / "01_one.ipynb").split() == [
        sys.executable,
        str(out),
        "smoke",
        "3",
        "{'finetune.epochs':",
        "'2'}",
    ]
    assert output_of(out / "02_two.ipynb").split() == ["rope", "off"]
    results = json.loads((out / "results.json").read_text())
    assert list(results["notebooks"]) == ["01_one", "02_two"]
    one = results["notebooks"]["01_one"]
    assert one["facts"]["rope"] == {"correct": 30, "total": 100}
    assert one["error"] is None and one["seconds"] > 0
    assert one["peak_mib"] is None or 20 < one["peak_mib"] < 4000
    assert "30.0 % [21.9, 39.6]" in (out / "01_one.html").read_text(encoding="utf-8")
    for page in out.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r'(?:href|src)="(?!data:|https?:)([^"#?]+)', text):
            assert (out / name).exists(), f"{page.name} links to {name}"
    printed = capsys.readouterr().out
    assert re.search(r"\[1/2\] 01_one: \d+ s", printed)
    assert printed.rstrip().endswith(f"Open {out / 'index.html'}")


def test_notebooks_that_run_at_a_time_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    source = tmp_path / "notebooks"
    source.mkdir()
    for name in ("01_one", "02_two"):
        write(source, name, "import os\nprint(os.environ['OMP_NUM_THREADS'])")
    out = run_workbook(profile="smoke", out=tmp_path / "out", source=source, jobs=2)
    assert [output_of(out / f"{name}.ipynb") for name in ("01_one", "02_two")] == ["3\n"] * 2


def test_a_failing_cell_stops_the_run_named_and_what_was_done_stays(
    notebooks, tmp_path, monkeypatch, capsys
):
    write(notebooks, "03_three", "print('before')\nraise KeyError('here')", "print('after')")
    write(notebooks, "04_four", "print('never')")
    monkeypatch.setattr(workbook, "notebooks_dir", lambda: notebooks)
    out = tmp_path / "out"
    assert main(["workbook", "1", "3", "04_four", "--profile", "smoke", "--out", str(out)]) == 2
    assert "03_three, cell [3]: KeyError: 'here'" in capsys.readouterr().err
    assert output_of(out / "03_three.ipynb").strip() == "before"
    assert "KeyError" in (out / "03_three.html").read_text(encoding="utf-8")
    assert not (out / "04_four.ipynb").exists()
    results = json.loads((out / "results.json").read_text())["notebooks"]
    assert results["01_one"]["error"] is None and "KeyError" in results["03_three"]["error"]
    assert "KeyError" in (out / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_workbook_that_is_killed_keeps_its_notebooks_and_continues(notebooks, tmp_path, capsys):
    waits = (
        "import os, pathlib, time\nstarted = pathlib.Path('started')\nfirst = not started.exists()"
    )
    waits += "\nstarted.write_text(f'{os.getpid()}\\n')\ntime.sleep(100 * first)"
    write(notebooks, "02_two", waits)
    out, pid = tmp_path / "out", tmp_path / "out" / "started"
    options = ["workbook", "--profile", "smoke", "--out", str(out), "--source", str(notebooks)]
    process = subprocess.Popen([sys.executable, "-m", "kt_course.tools.cli", *options])
    try:
        while not pid.exists() or "\n" not in pid.read_text():
            assert process.poll() is None
            time.sleep(0.1)
        assert main(options) == 2  # a second one at the same time
        assert f"{out} is in use by another process" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(pid.read_text())).wait(20)  # the kernel ends by itself
    assert list(json.loads((out / "results.json").read_text())["notebooks"]) == ["01_one"]
    assert "01_one.html" in (out / "index.html").read_text(encoding="utf-8")
    before = (out / "01_one.ipynb").stat().st_mtime_ns
    assert main(options) == 0
    assert "1 of them were done before" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())["notebooks"]
    assert [results[name]["error"] for name in ("01_one", "02_two")] == [None, None]
    assert (out / "01_one.ipynb").stat().st_mtime_ns == before
    assert "02_two.html" in (out / "index.html").read_text(encoding="utf-8")


def test_a_folder_of_a_workbook_with_other_parameters_is_refused(tmp_path):
    (tmp_path / "results.json").write_text(
        json.dumps(dict(parameters={"profile": "full"}, seconds=1, notebooks={}))
    )
    write(tmp_path / "nb", "01_one", "1")
    with pytest.raises(ValueError, match="other parameters"):
        run_workbook(profile="smoke", out=tmp_path, source=tmp_path / "nb")


def test_notebooks_are_found_by_number_and_name(notebooks):
    names = lambda *patterns: [path.stem for path in find_notebooks(patterns, notebooks)]  # noqa: E731
    assert names() == ["01_one", "02_two"]
    assert names("2", "01") == ["01_one", "02_two"]
    assert names("02_two.ipynb") == names("02_t") == ["02_two"]
    for wrong in ("7", "two"):
        with pytest.raises(ValueError, match="01_one, 02_two"):
            names(wrong)
    write(notebooks, "02_twin", "1")
    with pytest.raises(ValueError, match="more than one"):
        names("02_tw")


def test_parameters_go_where_they_are_known_and_an_unknown_one_is_an_error(notebooks, tmp_path):
    paths = find_notebooks((), notebooks)
    parameters = parameters_for(paths, {"variant": "rope", "seed": 1})
    assert parameters == {paths[0]: {"seed": 1}, paths[1]: {"variant": "rope", "seed": 1}}
    with pytest.raises(
        ValueError, match="no parameter 'variant' in 01_one; there are corpus, device, overrides"
    ):
        parameters_for(paths[:1], {"variant": "rope"})
    assert known_parameters(paths[0])["seed"] == "0"
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "05_none.ipynb")
    with pytest.raises(ValueError, match="no cell tagged"):
        known_parameters(tmp_path / "05_none.ipynb")


def test_a_mistyped_override_stops_before_anything_runs(notebooks, tmp_path):
    for wrong in (dict(settings=["finetune.epoch=2"]), dict(corpus="nowhere")):
        with pytest.raises(ValueError, match="finetune.epochs|nowhere: no such corpus"):
            run_workbook(**wrong, out=tmp_path / "out", source=notebooks)
    assert not (tmp_path / "out").exists()


def test_pages_ask_nothing_of_the_network_and_draw_formulas_and_folds(tmp_path):
    widget = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "x"},
        "text/plain": "VBox()",
        "image/png": "iVBORw0KGgo=",
    }
    cell = new_code_cell("box", outputs=[nbformat.v4.new_output("display_data", widget)])
    notebook = new_notebook(cells=[new_markdown_cell(TEXT), cell], metadata={"widgets": {"x": {}}})
    nbformat.write(notebook, tmp_path / "a.ipynb")
    write_page(tmp_path / "a.ipynb", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="?(?:https?:)?//', page)
    assert not re.findall(r"@import|url\(['\"]?(?:https?:)?//|import\s*\(|\brequire\(", page)
    assert (
        page.count("<math") == 5
        and "ns0:" not in page
        and "<msqrt>" in page
        and "<mfrac>" in page
        and page.count("<mtr>") == 2
    )
    assert "$" not in re.sub(
        r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL
    ).replace("$5 and $6", "").replace("code $x$", "")
    start = page.index("<details>")
    folded = page[start : page.index("</details>", start)]  # the answer lies inside the fold
    assert re.search(r"<summary>Answer for <math", folded) and "It is <math" in folded
    assert "data:image/png;base64,iVBORw0KGgo=" in page and "VBox()" not in page


def test_printed_columns_keep_their_lines_and_a_page_says_what_a_widgets_picture_is(tmp_path):
    outputs = [
        nbformat.v4.new_output("stream", text="name      city\nAda Hall  Rome\n"),
        nbformat.v4.new_output("stream", text="    a sentence, which may wrap where it likes\n"),
        nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="}),
    ]
    widget = outputs[2].data | {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    for data, told_so in ((outputs[2].data, 0), (widget, 1)):
        outputs[2].data = data
        nbformat.write(
            new_notebook(cells=[new_code_cell("1", outputs=outputs)]), tmp_path / "a.ipynb"
        )
        write_page(tmp_path / "a.ipynb", tmp_path / "a.html")
        page = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert page.count('<pre class="columns">name ') == page.count('<pre class="columns">') == 1
        assert page.count("the controls are live in JupyterLab") == told_so


@pytest.mark.parametrize("formula", [r"\frac{1}{", r"\nosuch{x}", ""])
def test_a_formula_that_cannot_be_read_spoils_no_page(formula):
    assert mathml(formula).startswith(("<math", "<code>"))


def test_scores_are_found_wherever_facts_hold_them():
    facts = {
        "dev": {"correct": 1, "total": 4},
        "loss": 2.5,
        "by_variant": {"rope": {"correct": 3, "total": 4, "low": 0.3}},
        "none": None,
    }
    assert dict(workbook.scores(facts)) == {
        "dev": kt.Score(1, 4),
        "by variant rope": kt.Score(3, 4),
    }
