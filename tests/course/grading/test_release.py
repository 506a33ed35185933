"""Clean notebooks for learners: outputs gone, exercises back to stubs, all or nothing written."""

from __future__ import annotations

import os
import pathlib
import re

import nbformat
import pytest
from answering import posed, right_cell
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from kt_course.grading import cleaning
from kt_course.grading.cleaning import clean_notebook
from kt_course.grading.release import release
from kt_course.tools.cli import main
from kt_course.tools.workbook import find_notebooks, notebooks_dir

STUB = '''@exercise("causal-mask")
def my_causal_mask(T, *, strict=False):  # T: how many positions
    """(T, T) booleans.

    # True where position t (row) may look at position j (column)
    """
    ...'''
ANSWERED = STUB.replace(
    "    ...",
    """
    # all pairs, then the lower triangle
    pairs = torch.ones(T, T)
    return pairs.tril().bool()""",
)


def write(folder, name, *cells):
    notebook = new_notebook(
        cells=[*cells], metadata={"widgets": {"x": 1}, "papermill": {"duration": 3.1}}
    )
    notebook.metadata.kernelspec = {
        "name": "conda-env-mine",
        "display_name": "mine",
        "language": "python",
    }
    notebook.metadata.language_info = {
        "name": "python",
        "file_extension": ".py",
        "version": "3.11.7",
    }
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


@pytest.fixture
def answered(tmp_path):
    ran = {"tags": ["exercise"], "execution": {"shell.execute_reply": "2025"}, "collapsed": False}
    outputs = [new_output("stream", text="causal-mask: right. secret\n")]
    code = new_code_cell(
        f"helper = 1\n{ANSWERED}", execution_count=7, outputs=outputs, metadata=ran
    )
    text = new_markdown_cell("Text with $x$ and é", metadata={"jp-MarkdownHeadingCollapsed": True})
    return write(tmp_path / "mine", "01_one", text, code, new_code_cell("print('kept as it is')"))


def test_outputs_counts_and_traces_go_and_an_answer_becomes_its_stub(answered):
    notebook = nbformat.reads(clean_notebook(answered / "01_one.ipynb").text, as_version=4)
    before = nbformat.read(answered / "01_one.ipynb", as_version=4)
    text, exercise, other = notebook.cells
    assert exercise.source == posed("01_attention_math")["causal-mask"]
    assert exercise.outputs == [] and exercise.execution_count is None
    assert exercise.metadata == {"tags": ["exercise"]} and text.metadata == {}
    assert [cell.source for cell in (text, other)] == [
        "Text with $x$ and é",
        "print('kept as it is')",
    ]
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in before.cells]
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": cleaning.LANGUAGE,
    }


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_the_projects_own_notebooks_keep_their_text_and_stubs(path):
    own, released = (
        nbformat.read(path, as_version=4),
        nbformat.reads(clean_notebook(path).text, as_version=4),
    )
    assert [cell.source for cell in released.cells] == [cell.source for cell in own.cells]
    assert [cell.metadata for cell in released.cells] == [cell.metadata for cell in own.cells]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in released.cells)
    exercises = [cell for cell in own.cells if "exercise" in cell.metadata.get("tags", [])]
    assert all("\n@exercise(" in f"\n{cell.source}" for cell in exercises)
    assert bool(exercises) == (path.stem != "16_from_gpt2_to_today")  # which is for reading


MASK = '@exercise("causal-mask")\ndef f(T):\n    return SECRET'
LEAKS = [
    MASK,
    f"helper = SECRET\n{MASK}",
    f"# SECRET\n{STUB}",
    f"{STUB}\n\n\ndef second(T):\n    return SECRET",
    MASK.replace("exercise(", "exercise(id="),
    MASK.replace("@exercise", "@ exercise"),
    MASK.replace("@exercise", "@kt_course.exercises.exercise"),
    MASK.replace("(T)", "(T, x=SECRET)").replace("return SECRET", "..."),
    f"@SECRET\n{STUB}",
    STUB.replace("...", 'raise NotImplementedError("SECRET")'),
    'f = exercise("causal-mask")(lambda T: SECRET)',
    'def f(T):\n    return SECRET\n\n\nprint(kt_course.check("causal-mask", f))',
    "if True:\n" + "\n".join(f"    {line}" for line in MASK.splitlines()),
    f"%%writefile answer.py\n{MASK}",
    MASK.replace("return", "return ("),  # cannot be parsed
    'ID = "causal-mask"\n@exercise(ID)\ndef f(T): return SECRET',
    "@exercise('causal-mask')\nclass A:\n    k = SECRET\n    class In: SECRET\n    f = SECRET",
]


@pytest.mark.parametrize("source", LEAKS)
def test_of_an_answer_nothing_can_remain(source, tmp_path):
    metadata = {"jupyter": {"x": "SECRET"}, "tags": ["SECRET", "exercise"], "mine": "SECRET"}
    cell = new_code_cell(source, metadata=metadata)
    folder = write(tmp_path / "mine", "01_one", new_raw_cell("SECRET"), cell)
    clean = clean_notebook(folder / "01_one.ipynb")
    cells = nbformat.reads(clean.text, as_version=4).cells
    assert "SECRET" not in clean.text and clean.own_cells == ()
    assert [cell.source for cell in cells] == [posed("01_attention_math")["causal-mask"]]


def test_pictures_that_no_text_shows_and_unknown_tags_go(tmp_path):
    picture = {"image/png": "aGVsbG8="}
    cell = new_markdown_cell("![one](attachment:shown.png)", metadata={"tags": ["x", "solution"]})
    cell.attachments = {"shown.png": picture, "hidden.png": picture}
    folder = write(tmp_path / "mine", "01_one", cell)
    (clean,) = nbformat.reads(clean_notebook(folder / "01_one.ipynb").text, as_version=4).cells
    assert list(clean.attachments) == ["shown.png"] and clean.metadata == {"tags": ["solution"]}


@pytest.mark.parametrize("name", ["01_attention_math", "02_build_a_gpt"])
def test_an_answered_notebook_becomes_the_projects_own_again(name, tmp_path):
    own = nbformat.read(notebooks_dir() / f"{name}.ipynb", as_version=4)
    solved = nbformat.read(notebooks_dir() / f"{name}.ipynb", as_version=4)
    blanks = posed(name)
    for cell in solved.cells:
        for id, stub in blanks.items():
            if cell.source == stub:
                cell.source = right_cell(id, stub)
    assert sum(a.source != b.source for a, b in zip(own.cells, solved.cells, strict=True)) > 5
    (tmp_path / "solved").mkdir()
    nbformat.write(solved, tmp_path / "solved" / f"{name}.ipynb")
    clean = clean_notebook(tmp_path / "solved" / f"{name}.ipynb")
    cells = nbformat.reads(clean.text, as_version=4).cells
    assert [cell.source for cell in cells] == [cell.source for cell in own.cells]
    assert clean.own_cells == ()


def test_without_solutions_hints_stay_and_answers_go(tmp_path):
    path = notebooks_dir() / "02_build_a_gpt.ipynb"
    clean = clean_notebook(path, with_solutions=False)
    text = "\n".join(cell.source for cell in nbformat.reads(clean.text, as_version=4).cells)
    summaries = re.findall(r"<summary>(.*?)</summary>", text)
    assert {s.split()[0] for s in summaries} == {"Hint", "It"} and len(summaries) > 20
    assert text.count("<details>") == text.count("</details>") == len(summaries)
    assert "Overfit" in text or "overfit" in text
    full = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    questions = [q for q in re.findall(r"<summary>(\d+\. .*?)</summary>", full)]
    assert questions and all(question in text for question in questions)


def test_every_fold_of_the_notebooks_is_help_an_answer_or_a_question():
    for path in find_notebooks():
        for cell in nbformat.read(path, as_version=4).cells:
            n_folds = cell.source.count("<details>")
            assert n_folds == len(cleaning.FOLD.findall(cell.source)), path.name
            for summary, _ in cleaning.FOLD.findall(cell.source):
                kind = cleaning.HELP.match(summary) or cleaning.ANSWER.match(summary)
                assert kind or re.match(r"\d+\. |Why ", summary), summary


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('@exercise("causal-musk")\ndef f(T): ...', r"cell 2: no exercise 'causal-musk'"),
        ("@exercise(ID)\ndef f(T): ...", "cell 2: its exercise cannot be recognised"),
    ],
)
def test_an_exercise_that_is_not_known_is_named_and_nothing_is_written(
    answered, tmp_path, source, problem
):
    write(answered, "02_two", new_markdown_cell("x"), new_code_cell(source))
    with pytest.raises(ValueError, match=problem):
        release(tmp_path / "out", source=answered)
    (answered / "02_two.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="02_two.ipynb: not a notebook"):
        release(tmp_path / "out", source=answered)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_cells_that_the_project_does_not_have_stay_and_are_named(answered, tmp_path, capsys):
    release(tmp_path / "out", source=answered)
    assert "01_one.ipynb: the project does not have cells 1, 3" in capsys.readouterr().out


def test_a_folder_with_files_is_refused_unless_forced(answered, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    ask = ["release", str(out), "--from", str(answered)]
    assert main(ask) == 0 and "1 notebooks" in capsys.readouterr().out
    (out / "01_one.ipynb").write_text("old")
    (out / "notes.txt").write_text("mine")
    assert main(ask) == 2 and "not empty" in capsys.readouterr().err
    assert (out / "01_one.ipynb").read_text() == "old"
    assert main([*ask, "--force"]) == 0
    assert STUB.splitlines()[0] in nbformat.read(out / "01_one.ipynb", as_version=4).cells[1].source
    assert sorted(path.name for path in out.iterdir()) == ["01_one.ipynb", "notes.txt"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]  # no temporary folder is left


def test_an_empty_folder_is_filled(answered, tmp_path):
    (tmp_path / "out").mkdir()
    assert [path.name for path in release(tmp_path / "out", source=answered)] == ["01_one.ipynb"]
    assert (tmp_path / "out" / "01_one.ipynb").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_notebooks_themselves_are_never_the_target(answered, tmp_path):
    before = (answered / "01_one.ipynb").read_bytes()
    with pytest.raises(ValueError, match="the notebooks themselves"):
        release(answered, source=answered, force=True)
    assert (answered / "01_one.ipynb").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a file, not a folder"):
        release(tmp_path / "file", source=answered)


def test_a_write_that_fails_leaves_nothing_behind(answered, tmp_path, monkeypatch):
    write(answered, "02_two", new_code_cell("1"))
    written = pathlib.Path.write_text

    def full(path, *args, **kwargs):
        if path.name == "02_two.ipynb":
            raise OSError("no space left")
        return written(path, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        release(tmp_path / "out", source=answered)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
