"""Clean notebooks for learners: outputs gone, exercises back to stubs, all or nothing written."""

from __future__ import annotations

import os
import pathlib

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kt_course.grading.release import clean_notebook, make_stub, release
from kt_course.tools.cli import main
from kt_course.tools.workbook import find_notebooks

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
    notebook = nbformat.reads(clean_notebook(answered / "01_one.ipynb"), as_version=4)
    before = nbformat.read(answered / "01_one.ipynb", as_version=4)
    text, exercise, other = notebook.cells
    assert exercise.source == STUB
    assert exercise.outputs == [] and exercise.execution_count is None
    assert exercise.metadata == {"tags": ["exercise"]} and text.metadata == {}
    assert [cell.source for cell in (text, other)] == [
        "Text with $x$ and é",
        "print('kept as it is')",
    ]
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in before.cells]
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py"},
    }


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_the_projects_own_notebooks_keep_their_text_and_stubs(path):
    own, given = (
        nbformat.read(path, as_version=4),
        nbformat.reads(clean_notebook(path), as_version=4),
    )
    assert [cell.source for cell in given.cells] == [cell.source for cell in own.cells]
    assert [cell.metadata for cell in given.cells] == [cell.metadata for cell in own.cells]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in given.cells)
    exercises = [cell for cell in own.cells if "exercise" in cell.metadata.get("tags", [])]
    assert exercises and all("\n@exercise(" in f"\n{cell.source}" for cell in exercises)


@pytest.mark.parametrize(
    "source",
    [
        STUB,
        STUB.replace("...", "pass"),
        STUB.replace("...", 'raise NotImplementedError("yours")'),
        STUB.replace("...", "scores = ...\n    return scores"),
        "x = 1\n" + STUB + "\nprint(my_causal_mask(3))",
        "exercises = [1]\nprint(exercises)",
        "%%bash\necho no exercise",
    ],
)
def test_a_cell_that_is_blank_or_no_exercise_stays_as_it_is(source):
    assert make_stub(source) == source


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ('@exercise("a")\ndef f(x,\n      y): return x', '@exercise("a")\ndef f(x,\n      y): ...'),
        ('@exercise("a")\ndef f(x):\n    return x\nf(1)', '@exercise("a")\ndef f(x):\n    ...'),
        (
            '\n\n%%time\n%pip list\n@exercise("a")\ndef f(x):\n  é = x; return é',
            '@exercise("a")\ndef f(x):\n  ...',
        ),
        (
            '@kt_course.exercises.exercise("a")\nclass A(B):\n    """Doc."""\n\n    k = 1\n\n'
            "    def f(self):\n        return 1\n\n"
            '    def g(self):\n        "Doc."\n        return 2',
            '@kt_course.exercises.exercise("a")\nclass A(B):\n    """Doc."""\n\n    k = 1\n\n'
            "    def f(self):\n        ...\n\n"
            '    def g(self):\n        "Doc."\n        ...',
        ),
    ],
)
def test_of_an_answer_nothing_but_signature_and_docstring_stays(source, wanted):
    assert make_stub(source) == wanted
    assert make_stub(wanted) == wanted


def test_an_exercise_cell_that_cannot_be_read_is_named_and_nothing_is_written(answered, tmp_path):
    write(
        answered,
        "02_two",
        new_markdown_cell("x"),
        new_code_cell('@exercise("a")\ndef f(:\n    ...'),
    )
    with pytest.raises(ValueError, match=r"02_two.ipynb, cell 2: .*line 2"):
        release(tmp_path / "out", source=answered)
    (answered / "02_two.ipynb").write_text("{}")
    with pytest.raises(ValueError, match="02_two.ipynb: not a notebook"):
        release(tmp_path / "out", source=answered)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


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
