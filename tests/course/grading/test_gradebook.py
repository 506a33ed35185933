"""From graded submissions to points, feedback and files for learning management systems."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kt_course.grading import batch, reports
from kt_course.grading.gradebook import Gradebook, Points, read_marks, read_points
from kt_course.grading.reports import write_gradebook
from kt_course.grading.roster import Student, find_student, read_roster
from kt_course.grading.similarity import normal_code, similar_pairs
from kt_course.grading.submissions import Row
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
        'First name,"Last name","ID number","Email address"\nAda,Moor,1001,ada@uni.edu\n',
        "LastName,FirstName,ID,SIS Login ID,Section\nPoints Possible,,,,\nMoor,Ada,1001,amoor,A\n",
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
        ("unconfirmed = true", "unconfirmed"),
        ("x = ", "p.toml: "),
    ],
)
def test_a_points_file_that_cannot_be_used_is_named(tmp_path, text, problem):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(ValueError, match=problem):
        read_points(tmp_path / "p.toml")


def test_points(tmp_path):
    (tmp_path / "p.toml").write_text("default = 2\n[exercises]\nbatches = 5")
    points = read_points(tmp_path / "p.toml")
    assert (points.of("batches"), points.of("causal-mask")) == (5, 2)
    assert points.earned("batches", "right, unconfirmed: x") == 0
    assert points.earned("batches", "right") == 5
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
    ]  # an empty cell for Bo would remove a grade that Canvas has


def test_the_file_for_moodle(book, tmp_path):
    write_gradebook(book, tmp_path / "g.csv", "moodle")
    assert read_csv(tmp_path / "g-moodle.csv") == [
        ["ID number", "Full name", "Email address", NAME],
        ["1001", "Ada Moor", "ada@uni.edu", "4"],
    ]


def test_the_files_for_gradescope(book, tmp_path):
    """Its autograder, as Gradescope runs it: the metadata name the student."""
    write_gradebook(book, tmp_path / "g.csv", "gradescope")
    root = tmp_path / "autograder"
    shutil.copytree(tmp_path / "g-gradescope", root / "source")
    (root / "submission").mkdir()
    (root / "submission" / f"{NAME}.ipynb").touch()
    for email, score in (("ada@uni.edu", 4), ("stranger@uni.edu", 0)):
        metadata = {"users": [{"email": email, "id": 1, "name": "Ada Moor"}]}
        (root / "submission_metadata.json").write_text(json.dumps(metadata))
        script = [sys.executable, str(root / "source" / "run_autograder"), str(root)]
        subprocess.run(script, check=True)
        result = json.loads((root / "results" / "results.json").read_text(encoding="utf-8"))
        assert result["score"] == score
        if score:
            assert sum(test["max_score"] for test in result["tests"]) == 6
            assert {test["status"] for test in result["tests"]} == {"passed", "failed"}
    assert (root / "source" / "setup.sh").read_text().startswith("#!")


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
        total = sum(float(re.search(r": ([\d.]+)(?: \(|$)", line)[1]) for line in q.rubric)
        assert total == q.points, q.id
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
    page = marking_page([("1001", id, text) for id, text in answers.items()], Points().of)
    assert "Because &lt;b&gt;x" in page and "<i>no answer</i>" in page
    assert "matched with the two rows" in page


ONE = "def f(x, n):\n    total = x.sum(0) + 1\n    halved = total / n\n    return halved[0]  # mine"
OTHER = "def f(x, n):\n    return (x.mean(1) * torch.ones(n)).exp().log() - x.amax(1, True) / 2"


def test_answers_that_are_alike_are_found_whatever_the_names_and_comments():
    two = ONE.replace("total", "summe").replace("# mine", "# yours").replace("    ", "  ")
    two = two.replace("(x, n):", "(x, n: int):\n  'Doc.'")
    pairs = similar_pairs({"f": {"a": ONE, "b": two, "c": OTHER, "d": "def f("}})
    assert [(p.students, p.similarity, p.typical, p.is_copy) for p in pairs] == [
        (("a", "b"), 1.0, None, False)
    ]
    assert normal_code(ONE) == normal_code(two) != normal_code(OTHER)
    assert similar_pairs({"f": {"a": "x = 1", "b": "x = 1"}}) == []


def test_what_a_class_writes_alike_is_reported_only_if_the_text_is_the_same():
    sources = {name: ONE.replace("total", f"t{name}") for name in "abcdef"}
    assert similar_pairs({"f": sources}) == []
    (pair,) = similar_pairs({"f": {**sources, "g": sources["a"]}})
    assert pair.students == ("a", "g") and pair.is_copy and pair.typical == 1


def marks_file(tmp_path, *lines):
    path = tmp_path / "marks.csv"
    path.write_text("student,question,points,comment,answer\n" + "\n".join(lines))
    return path


def test_marks_for_written_answers_are_one_more_column(tmp_path):
    path = marks_file(tmp_path, '1001,copying,"0,5",Say <b>why</b>.,x', "1002,copying,,,")
    rows = [Row("s/1001/a.ipynb", "finished", 1.0, NAME, RIGHT)]
    book = Gradebook.of(rows, [ADA, BO], Points(default=2), read_marks(path, [ADA, BO], Points()))
    column, most = f"{NAME} written", written_questions()["copying"].points
    assert book.notebooks == {NAME: 6, column: most}
    assert (book.cell(ADA, column), book.cell(BO, column)) == ("0.5", "")
    write_gradebook(book, tmp_path / "g.csv", "canvas")
    assert read_csv(tmp_path / "g-canvas.csv")[0][-2:] == [NAME, column]
    page = (tmp_path / "g-feedback" / "1001.html").read_text(encoding="utf-8")
    assert "Say &lt;b&gt;why" in page and f"0.5 of {most:g} points" in page


def test_an_unconfirmed_answer_gives_no_points_until_it_is_marked(tmp_path, monkeypatch, capsys):
    answer = '@exercise("causal-mask")\ndef mask(T):\n    return slow(T)'
    nbformat.write(new_notebook(cells=[new_code_cell(answer)]), tmp_path / "1001.ipynb")
    (tmp_path / "r.csv").write_text("id,name\n1001,Ada\n")
    verdicts = {"causal-mask": "right, unconfirmed: it takes too long", "scaled-score": "right"}
    graded = lambda path, *_: Row(str(path), "finished", 1.0, NAME, verdicts)  # noqa: E731
    monkeypatch.setattr(batch, "grade_one", graded)
    table, roster = str(tmp_path / "g.csv"), ["--roster", str(tmp_path / "r.csv")]
    assert main(["grade", str(tmp_path / "1001.ipynb"), "--out", table, *roster]) == 0
    assert "until you mark it by hand" in capsys.readouterr().out
    rest = Points().of("scaled-score")
    assert read_csv(tmp_path / "g-points.csv")[1][-1] == f"{rest:g}"
    page = (tmp_path / "g-written.html").read_text(encoding="utf-8")
    assert "return slow(T)" in page and "it takes too long" in page
    written = tmp_path / "g-written.csv"
    assert read_csv(written)[1][:2] == ["1001", "causal-mask"]
    written.write_text(written.read_text().replace("causal-mask,,", "causal-mask,0.5,fine"))
    final = ["grade", table, "--out", str(tmp_path / "f.csv"), *roster, "--marks", str(written)]
    assert main(final) == 0
    assert read_csv(tmp_path / "f-points.csv")[1][-1] == f"{rest + 0.5:g}"
    assert "marked by hand" in (tmp_path / "f-feedback" / "1001.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1003,copying,1,,", "line 2: .*student"),
        ("1001,copyng,1,,", "did you mean 'copying'"),
        ("1001,copying,100,,", "copying has 0 to"),
        ("1001,copying,one,,", "line 2: could not convert"),
        ("1001,copying,nan,,", "copying has 0 to"),
    ],
)
def test_marks_that_cannot_be_are_named(tmp_path, line, problem):
    with pytest.raises(ValueError, match=problem):
        read_marks(marks_file(tmp_path, line), [ADA], Points())


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
    written = tmp_path / "grades-written.csv"
    assert read_csv(written)[1] == ["1001", "copying", "", "", "It copies."]
    similar = read_csv(tmp_path / "grades-similar-answers.csv")
    assert similar[1] == ["1001", "1002", "causal-mask", "100", "", "same"]
    written.write_text(written.read_text().replace("1001,copying,", "1001,copying,1"))
    monkeypatch.setattr(batch, "grade_one", None)  # a table is read, nothing is graded again
    ask = ["grade", str(tmp_path / "grades.csv"), "--out", str(tmp_path / "final.csv")]
    assert main([*ask, "--marks", str(written)]) == 2
    assert main([*ask, "--roster", str(tmp_path / "r.csv"), "--marks", str(written)]) == 0
    assert (tmp_path / "final.csv").read_text() == (tmp_path / "grades.csv").read_text()
    assert read_csv(tmp_path / "final-points.csv")[1][-1] == "1"
    assert not (tmp_path / "final-written.csv").exists()
    assert main([*ask[:1], str(tmp_path / "r.csv"), *ask[2:]]) == 2
    assert "no table of kt grade" in capsys.readouterr().err
    assert tuple(reports.WRITERS) == ("canvas", "moodle", "gradescope")
