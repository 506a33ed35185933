"""The learner's copies of the notebooks: clean, updated, and never overwritten."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from kt_course.grading import cleaning, learner_copies
from kt_course.grading.learner_copies import update_copies
from kt_course.tools.cli import main


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two notebooks; the function writes a new version of one."""
    folder = tmp_path / "project"
    folder.mkdir()

    def write(name, text):
        notebook = new_notebook(cells=[new_markdown_cell(text, id="one")])
        nbformat.write(notebook, folder / f"{name}.ipynb")

    write("01_one", "first")
    write("02_two", "first")
    for module in (learner_copies, cleaning):
        monkeypatch.setattr(module, "find_notebooks", lambda: sorted(folder.glob("*.ipynb")))
    cleaning.project_cells.cache_clear()
    yield write
    cleaning.project_cells.cache_clear()


def text_of(path):
    return nbformat.read(path, as_version=4).cells[0].source


def test_copies_are_made_once_and_updated_while_untouched(project, tmp_path):
    mine = tmp_path / "mine"
    assert update_copies(mine) == [f"2 notebooks in {mine}, yours to work in"]
    assert update_copies(mine) == []
    project("01_one", "second")
    assert update_copies(mine) == ["01_one.ipynb: updated, you had not changed it"]
    assert text_of(mine / "01_one.ipynb") == "second" and text_of(mine / "02_two.ipynb") == "first"


def test_a_changed_copy_stays_and_each_new_version_is_laid_beside_it(project, tmp_path):
    mine = tmp_path / "mine"
    update_copies(mine)
    (mine / "01_one.ipynb").write_text("my work")
    assert update_copies(mine) == []
    project("01_one", "second")
    (line,) = update_copies(mine)
    assert "01_one.ipynb has changes of yours and stays" in line
    assert "'01_one (new version).ipynb'" in line
    assert update_copies(mine) == []
    (mine / "01_one (new version).ipynb").write_text("more work")
    project("01_one", "third")
    assert "(new version 2)" in update_copies(mine)[0]
    project("01_one", "fourth")
    assert "(new version 2)" in update_copies(mine)[0]  # untouched, so it is replaced
    assert (mine / "01_one.ipynb").read_text() == "my work"
    assert (mine / "01_one (new version).ipynb").read_text() == "more work"
    assert text_of(mine / "01_one (new version 2).ipynb") == "fourth"


def test_a_deleted_copy_comes_back_and_a_declined_version_does_not(project, tmp_path):
    mine = tmp_path / "mine"
    update_copies(mine)
    (mine / "01_one.ipynb").unlink()
    update_copies(mine)
    assert text_of(mine / "01_one.ipynb") == "first"
    (mine / "01_one.ipynb").write_text("my work")
    project("01_one", "second")
    update_copies(mine)
    (mine / "01_one (new version).ipynb").unlink()
    assert update_copies(mine) == []
    assert sorted(path.name for path in mine.glob("01*")) == ["01_one.ipynb"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe"])
def test_a_damaged_record_loses_nothing(project, tmp_path, content):
    mine = tmp_path / "mine"
    update_copies(mine)
    (mine / learner_copies.RECORD).write_bytes(content)
    (mine / "02_two.ipynb").write_text("my work")
    (line,) = update_copies(mine)
    assert "02_two.ipynb has changes of yours" in line
    assert (mine / "02_two.ipynb").read_text() == "my work"


def test_links_and_folders_of_that_name_are_never_written_through(project, tmp_path):
    mine, elsewhere = tmp_path / "mine", tmp_path / "elsewhere.ipynb"
    mine.mkdir()
    elsewhere.write_text("mine")
    (mine / "01_one.ipynb").symlink_to(elsewhere)
    (mine / "02_two.ipynb").mkdir()
    lines = update_copies(mine)
    assert elsewhere.read_text() == "mine" and (mine / "02_two.ipynb").is_dir()
    assert len(lines) == 2 and all("stays" in line for line in lines)


def test_the_command_makes_copies_without_opening(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "--no-open-lab"]) == 0
    assert "16 notebooks" in capsys.readouterr().out
    for path in (tmp_path / "my_notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") for cell in cells)
    (tmp_path / "file").write_text("")
    assert main(["lab", "--folder", "file", "--no-open-lab"]) == 2
    assert "a file, not a folder" in capsys.readouterr().err
