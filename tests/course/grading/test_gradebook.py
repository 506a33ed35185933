"""From graded submissions to points, feedback and files for learning management systems."""

from __future__ import annotations

import csv
import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kt_course.grading import batch, gradebook
from kt_course.grading.batch import Row
from kt_course.grading.gradebook import (
    Gradebook,
    Points,
    Student,
    find_student,
    read_points,
    read_roster,
    similar_answers,
    write_gradebook,
)
from kt_course.grading.written import (
    marking_page,
    question_cells,
    written_answers,
    written_questions,
)
from kt_course.tools.cli import main

ADA = Student("1001", "Ada Moor", "ada@uni.edu", "amoor", "S-1", "A")
BO = Student("1002", "Bo Žižek-Li", "bo@uni.edu")
NAME = "01_attention_math"
RIGHT = {"causal-mask": "right", "scaled-score": "wrong: <b>no</b> =1+1", "masked-softmax": "right"}


@pytest.mark.parametrize(
    ("file", "student"),
    [
        ("subs/1001/01_attention_math.ipynb", ADA),
        ("subs/amoor_01_attention_math.ipynb", ADA),
        ("moorada_LATE_1001_998877_01_attention_math.ipynb", ADA),  # Canvas
        ("Ada Moor_55512_assignsubmission_file_/01_attention_math.ipynb", ADA),  # Moodle
        ("subs/bo@uni.edu/x.ipynb", BO),
        ("subs/Bo Zizek Li/x.ipynb", BO),
        ("subs/1001-and-1002/x.ipynb", None),
        ("subs/01_attention_math.ipynb", None),
        ("subs/10011/x.ipynb", None),
    ],
)
def test_whose_file_it_is(file, student):
    assert find_student(file, [ADA, BO]) == student


@pytest.mark.parametrize(
    "text",
    [
        "id,name,email\n1001,Ada Moor,ada@uni.edu\n",
        "\ufeffStudent,ID,SIS User ID,SIS Login ID,Section\n    Points Possible,,,,\n"
        "Ada Moor,1001,S-1,amoor,A\n",
        "Full name,ID number,Email address\r\nAda Moor,1001,ada@uni.edu\r\n",
    ],
)
def test_rosters_of_several_systems_are_read(tmp_path, text):
    (tmp_path / "r.csv").write_text(text, encoding="utf-8", newline="")
    (student,) = read_roster(tmp_path / "r.csv")
    assert (student.id, student.name) == ("1001", "Ada Moor")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name\nAda\n", "line 1: no column 'id'; there are name"),
        ("id,name\n1,A\n1,B\n", "line 3: id '1' is twice"),
        ("id,name\n,B\n", "line 2: id '' is missing"),
        ("id,name\n", "no student in it"),
        ("", "no column 'id'"),
    ],
)
def test_a_roster_that_cannot_be_used_is_named(tmp_path, text, problem):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(ValueError, match=f"r.csv.*{re.escape(problem)}"):
        read_roster(tmp_path / "r.csv")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[exercises]\ncausal-musk = 1", "did you mean 'causal-mask'"),
        ("[exercises]\ncausal-mask = -1", "causal-mask must be a number of 0 or more"),
        ("[exercises]\ncausal-mask = true", "must be a number"),
        ("defualt = 1", "did you mean 'default'"),
        ("unconfirmed = 1", "true or false"),
        ("x = ", "p.toml: "),
    ],
)
def test_a_points_file_that_cannot_be_used_is_named(tmp_path, text, problem):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(ValueError, match=problem):
        read_points(tmp_path / "p.toml")


def test_points(tmp_path):
    (tmp_path / "p.toml").write_text("default = 2\nunconfirmed = false\n[exercises]\nbatches = 5")
    points = read_points(tmp_path / "p.toml")
    assert (points.of("batches"), points.of("causal-mask")) == (5, 2)
    assert points.earned("batches", "right, unconfirmed: x") == 0
    assert Points().earned("causal-mask", "right, unconfirmed: x") == Points().of("causal-mask") > 0
    assert Points().earned("causal-mask", "wrong: x") == 0


@pytest.fixture
def book():
    rows = [
        Row("s/1001/a.ipynb", "finished", 1.0, NAME, RIGHT),
        Row("s/1001/b.ipynb", "finished", 1.0, NAME, dict.fromkeys(RIGHT, "not attempted")),
        Row("s/stranger/c.ipynb", "finished", 1.0, NAME, RIGHT),
    ]
    return Gradebook.of(rows, [ADA, BO], Points(default=2))


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_the_best_submission_counts_and_strangers_are_listed(book):
    assert book.unmatched == ["s/stranger/c.ipynb"]
    assert book.notebooks == {NAME: 6}
    assert (book.cell(ADA, NAME), book.cell(BO, NAME)) == ("4", "")


def test_the_file_for_canvas(book, tmp_path):
    write_gradebook(book, tmp_path / "g.csv", "canvas")
    assert read_csv(tmp_path / "g-canvas.csv") == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", NAME],
        ["    Points Possible", "", "", "", "", "6"],
        ["Ada Moor", "1001", "S-1", "amoor", "A", "4"],
        ["Bo Žižek-Li", "1002", "", "", "", ""],
    ]


def test_the_file_for_moodle(book, tmp_path):
    write_gradebook(book, tmp_path / "g.csv", "moodle")
    assert read_csv(tmp_path / "g-moodle.csv")[:2] == [
        ["ID number", "Full name", "Email address", NAME],
        ["1001", "Ada Moor", "ada@uni.edu", "4"],
    ]


def test_the_files_for_gradescope(book, tmp_path):
    write_gradebook(book, tmp_path / "g.csv", "gradescope")
    (path,) = tmp_path.rglob("results.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert path.parts[-4:-1] == ("g-gradescope", "1001", NAME)
    assert result["score"] == 4 and sum(test["max_score"] for test in result["tests"]) == 6
    assert {test["status"] for test in result["tests"]} == {"passed", "failed"}


def test_a_feedback_page_says_what_is_wrong_and_cannot_be_injected(book, tmp_path):
    write_gradebook(book, tmp_path / "g.csv", None)
    page = (tmp_path / "g-feedback" / "1001.html").read_text(encoding="utf-8")
    assert "4 of 6 points" in page and "&lt;b&gt;no&lt;/b&gt;" in page and "<b>no" not in page
    assert not re.findall(r"""(?:src|href)=""", page)
    other = (tmp_path / "g-feedback" / "1002.html").read_text(encoding="utf-8")
    assert "Nothing was handed in" in other


def test_a_student_id_cannot_leave_the_folder(tmp_path):
    student = Student("../../evil", "E")
    write_gradebook(Gradebook.of([], [student], Points()), tmp_path / "out" / "g.csv", "gradescope")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_written_questions_are_complete_and_map_to_chapters():
    questions = written_questions().values()
    assert len(questions) >= 15
    for q in questions:
        given = sum(float(re.search(r": ([\d.]+)(?: \(|$)", line)[1]) for line in q.rubric)
        assert given == q.points, q.id
        assert q.answer.strip() and q.editions


def test_answers_to_written_questions_are_collected(tmp_path):
    cells = question_cells("07_rope")
    assert set(written_answers(cells).values()) == {""}
    cells[2]["source"] = cells[2]["source"].replace("*Write your answer here.*", "Because <b>x</b>")
    cells.insert(3, new_code_cell("print(1)"))
    answers = written_answers(cells)
    assert answers == {
        "rope-as-complex-numbers": "Because <b>x</b>\n\nprint(1)",
        "rope-is-relative": "",
    }
    page = marking_page([("1001", id, text) for id, text in answers.items()])
    assert "Because &lt;b&gt;x" in page and "<i>no answer</i>" in page
    assert "matched with the two rows" in page


def test_equal_answers_are_found_whatever_the_spaces_and_comments():
    one = "def f(x):\n    total = x + 1\n    halved = total / 2\n    return halved  # mine"
    two = one.replace("    ", "  ").replace("# mine", "# yours")
    answers = {"a": one, "b": two, "c": one.replace("2", "3")}
    assert similar_answers(answers) == [("a", "b")]
    assert similar_answers({"a": "x", "b": "x"}) == []


def test_the_command_writes_everything_and_keeps_what_was_there(tmp_path, monkeypatch, capsys):
    answer = (
        '@exercise("causal-mask")\ndef mask(T):\n    return torch.ones(T, T).tril().bool() & True'
    )
    for name in ("1001", "1002"):
        (tmp_path / "subs" / name).mkdir(parents=True)
        cells = [new_code_cell(answer), new_markdown_cell("<!-- answer to copying -->\nIt copies.")]
        nbformat.write(new_notebook(cells=cells), tmp_path / "subs" / name / f"{NAME}.ipynb")
    (tmp_path / "r.csv").write_text("id,name\n1001,Ada\n1002,Bo\n")
    (tmp_path / "grades.csv").write_text("old")
    graded = lambda path, *_: Row(str(path), "finished", 1.0, NAME, RIGHT)  # noqa: E731
    monkeypatch.setattr(batch, "grade_one", graded)
    ask = ["grade", str(tmp_path / "subs"), "--out", str(tmp_path / "grades.csv")]
    assert main([*ask, "--for", "canvas"]) == 2
    assert "--for needs --roster" in capsys.readouterr().err
    assert main([*ask, "--roster", str(tmp_path / "r.csv"), "--for", "canvas"]) == 0
    assert (tmp_path / "grades.csv~1").read_text() == "old"
    assert len(read_csv(tmp_path / "grades-canvas.csv")) == 4
    assert read_csv(tmp_path / "grades-written.csv")[1] == ["1001", "copying", "", "It copies."]
    assert read_csv(tmp_path / "grades-equal-answers.csv")[1] == ["causal-mask", "2", "1001, 1002"]
    assert gradebook.LMS == ("canvas", "moodle", "gradescope")
