"""Submissions, rosters and notebooks of learners: each gives a verdict, none ends the batch."""

from __future__ import annotations

import os

import nbformat
import psutil
import pytest
from attacking import (
    BROKEN_JSON,
    FIND,
    SPECIAL,
    files,
    is_clear,
    kt,
    no_hang,
    refused,
    special_file,
)
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kt_course.exercises.progress_store import read_statuses, remember
from kt_course.grading import batch
from kt_course.grading.answers import answers
from kt_course.grading.batch import grade
from kt_course.grading.cleaning import clean_notebook
from kt_course.grading.gradebook import Gradebook, Points, read_points
from kt_course.grading.judging import judge_notebook
from kt_course.grading.reports import write_gradebook
from kt_course.grading.roster import read_roster
from kt_course.grading.sandbox import Outcome
from kt_course.grading.submissions import Row, read_submission

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="grading needs Linux or macOS")

IMPORTS = "import torch\nfrom kt_course.exercises import exercise"
BODY = "return torch.ones(T, T).bool().tril()"
RIGHT = f'@exercise("causal-mask")\ndef mask(T):\n    {BODY}'


def notebook(*cells):
    return nbformat.writes(new_notebook(cells=list(map(new_code_cell, cells)))).encode()


def judged(*cells, id="causal-mask"):
    facts = judge_notebook(notebook(IMPORTS, *cells))
    return facts.get("problem") or facts["verdicts"][id]


# ---------------------------------------------------------------- honest ways to hand in

HONEST = {
    "id by its name": '@exercise(id="causal-mask")\ndef mask(T):\n    ' + BODY,
    "spaces": '@ exercise( "causal-mask" )\ndef mask(T):\n    ' + BODY,
    "a module in front": '@kt_course.exercises.exercise("causal-mask")\ndef mask(T):\n    ' + BODY,
    "two decorators": 'import functools\n@exercise("causal-mask")\n@functools.cache\n'
    f"def mask(T):\n    {BODY}",
    "called afterwards": f'def mask(T):\n    {BODY}\nmask = exercise("causal-mask")(mask)',
    "called without a name": f'def mask(T):\n    {BODY}\nexercise("causal-mask")(mask)',
    "a lambda": 'mask = exercise("causal-mask")(lambda T: torch.ones(T, T).bool().tril())',
    "a lambda by its name": 'mask = exercise(id="causal-mask")(\n'
    "    lambda T: torch.ones(T, T).bool().tril())",
    "under if": f'if True:\n    @exercise("causal-mask")\n    def mask(T):\n        {BODY}',
    "under if and else": f'if torch.__version__ < "0":\n    pass\nelse:\n'
    f'    @exercise("causal-mask")\n    def mask(T):\n        {BODY}',
    "under try": f'try:\n    @exercise("causal-mask")\n    def mask(T):\n        {BODY}\n'
    "except ImportError:\n    pass",
    "with a timer": "%%time\n" + RIGHT,
    "after a magic": "%matplotlib inline\n" + RIGHT,
    "Windows line ends": RIGHT.replace("\n", "\r\n"),
    "a comment above": "# my answer\n\n\n" + RIGHT,
    "annotations": RIGHT.replace("mask(T)", "mask(T: int) -> torch.Tensor"),
    "another name": RIGHT.replace("mask(T)", "my_own(T)"),
    "a global": f'SIZE = 1\n@exercise("causal-mask")\ndef mask(T):\n    {BODY} * SIZE > 0',
    "a helper in a class": "class Help:\n    @staticmethod\n    def low(x): return x.tril()\n"
    + RIGHT.replace("torch.ones(T, T).bool().tril()", "Help.low(torch.ones(T, T).bool())"),
}


@pytest.mark.parametrize("style", HONEST)
def test_an_honest_style_is_judged_right(style):
    assert judged(HONEST[style]) == "right"


def test_annotations_of_the_future_in_a_cell_of_their_own_hold_below():
    future = "from __future__ import annotations"
    answer = f'@exercise("causal-mask")\ndef mask(T: Unknown) -> Undefined:\n    {BODY}'
    assert judged(future, answer) == "right"
    assert judged(answer).startswith("wrong: its cell raised NameError")


@pytest.mark.parametrize(
    "above", ["%%script false\n", "%%html\n", "%%writefile x.py\n", "%%bash\n", "%%latex\n"]
)
def test_a_cell_that_python_never_runs_is_not_an_answer(above):
    other = '@exercise("scaled-score")\ndef score(query, key): ...'
    assert judged(above + RIGHT, other).startswith("not attempted")


@pytest.mark.parametrize("above", ["%%time\n", "%%capture\n", "\n\n%%time\n"])
def test_a_cell_that_python_runs_under_a_magic_is_one(above):
    assert judged(above + RIGHT) == "right"


# ---------------------------------------------------------------- results that are plain data

NUMBERS = {
    "numpy's float64": "return np.float64(low), np.float64(high)",
    "a numpy row": "return np.array([low, high])[0], np.array([low, high])[1]",
    "float32": "return float(np.float32(low)), float(np.float32(high))",
}
WILSON = """import math
import numpy as np
@exercise("wilson-interval")
def wilson(correct, total, z=1.959963984540054):
    if total == 0:
        return 0.0, 1.0
    p, n = correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
"""


@pytest.mark.parametrize("style", NUMBERS)
def test_numbers_of_other_libraries_are_plain_data(style):
    assert judged(f"{WILSON}    {NUMBERS[style]}", id="wilson-interval") == "right"


def test_an_object_that_compares_equal_to_everything_is_never_counted_right():
    forged = (
        "class All:\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "    def __getattr__(self, name): return lambda *a, **k: self\n"
        '@exercise("causal-mask")\ndef mask(T):\n    return All()'
    )
    assert judged(forged).startswith("wrong")
    row = Row("a", "finished", 1.0, "x", {"causal-mask": "right, unconfirmed: x"})
    assert (row.right, len(row.unconfirmed)) == (0, 1)


PATCH = (
    "from kt_course.exercises.registry import library\n"
    'object.__setattr__(library()["causal-mask"], "check", lambda fn: "fine")\n'
)


@pytest.mark.parametrize(
    "result", ["object()", "lambda: 1", "type('T', (), {})()", "iter([1])", "open('/dev/null')"]
)
def test_a_patched_check_and_no_data_is_wrong(result):
    answer = f'{PATCH}@exercise("causal-mask")\ndef mask(T):\n    return {result}'
    body = answer.replace("\n@", "\n@")
    inside = f'@exercise("causal-mask")\ndef mask(T):\n    {PATCH.strip()}'.replace(
        "\nobject", "\n    object"
    )
    for forged in (body, f"{inside}\n    return {result}"):
        assert not judged(forged).startswith("right"), judged(forged)


# ---------------------------------------------------------------- the batch goes on


def test_folders_named_like_notebooks_use_no_file_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "run_confined", lambda *arguments: Outcome([], "failed: x"))
    for number in range(50):
        (tmp_path / f"{number}.ipynb").mkdir()
    (tmp_path / "real.ipynb").write_bytes(b"{]")
    before = psutil.Process().num_fds()
    rows = grade([tmp_path], tmp_path / "out.csv", bubblewrap=False, log=lambda line: None)
    assert psutil.Process().num_fds() <= before + 3 and len(rows) == 51


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_submission_that_is_no_plain_file_gives_a_row(tmp_path, kind):
    special_file(kind, tmp_path / "a.ipynb")
    with no_hang():
        rows = grade(
            [tmp_path / "a.ipynb"] if kind != "folder" else [tmp_path],
            tmp_path / "out.csv",
            bubblewrap=False,
            log=lambda line: None,
        )
    assert [row.status.split(":")[0] for row in rows] == ["not a notebook"]


CONTENTS = BROKEN_JSON | {
    "cells that are a number": b'{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
    "another format": b'{"worksheets": [], "metadata": {}, "nbformat": 3, "nbformat_minor": 0}',
    "a format of the future": b'{"cells": [], "metadata": {}, "nbformat": 99}',
    "no cell": notebook(),
    "sources that are numbers": notebook("3").replace(b'"source": "3"', b'"source": 3'),
    "another language": nbformat.writes(
        new_notebook(
            metadata={"kernelspec": {"language": "julia", "name": "j", "display_name": "j"}}
        )
    ).encode(),
    "3,000 cells": notebook(*["1"] * 3000),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_that_is_no_notebook_of_ours_is_said(content):
    with no_hang():
        facts = judge_notebook(CONTENTS[content])
    is_clear(facts["problem"], "not a notebook|nothing to grade")


@FIND
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_judged(content):
    assert set(judge_notebook(content)) == {"problem"}


@FIND
@given(
    source=st.lists(
        st.sampled_from(
            [
                '@exercise("causal-mask")',
                "def f(T):",
                "    return 1",
                "(",
                "'",
                "\0",
                "if 1:",
                "\t",
                "%%time",
                "!ls",
                "?",
                "class A:",
                "    def g(self): ...",
                "lambda",
                "@",
                "\\",
            ]
        ),
        max_size=6,
    ).map("\n".join)
)
def test_any_cell_is_read_or_named(source):
    for answer in answers([source]).values():
        assert not isinstance(answer, str) or answer.startswith("the cell cannot be read")


# ---------------------------------------------------------------- rosters and points

ROSTERS = {
    "nothing": (b"", "no column 'id'"),
    "no id": (b"name\nAnn\n", "line 1: no column 'id'; there are name"),
    "no name": (b"id\n1\n", "line 1: no column 'name'"),
    "an id twice": (b"id,name\n1,Ann\n2,Bo\n1,Cy\n", "line 4: id '1' is twice"),
    "an id missing": (b"id,name\n1,Ann\n,Bo\n", "line 3: id '' is missing"),
    "no student": (b"id,name\n", "no student"),
    "UTF-16": ("id,name\n1,Ann\n".encode("utf-16"), "not UTF-8"),
    "Latin-1": (b"id,name\n1,Zo\xeb\n", "not UTF-8"),
    "null characters": (b"id,name\n1,A\0nn\n", "null|line"),
    "a huge cell": (b"id,name\n1," + b"a" * 200_000 + b"\n", "line 2|field larger"),
    "an open quote": (b'id,name\n1,"Ann\n2,Bo\n', "line|quote|no student|unexpected"),
    "too many cells": (b"id,name\n1,Ann,extra,more\n", "line 2"),
    "old Mac line ends": (b"id,name\r1,Ann\r", "line"),
}
POINTS = {
    "half": (b"[exercises", "points.toml"),
    "an unknown exercise": (b"[exercises]\ncausal-mosk = 3\n", "did you mean 'causal-mask'"),
    "an unknown entry": (b"exercise = 3\n", "did you mean 'exercises'"),
    "negative": (b"[exercises]\ncausal-mask = -1\n", "causal-mask must be a number of 0 or more"),
    "text": (b'default = "3"\n', "default must be a number"),
    "NaN": (b"default = nan\n", "default must be a number"),
    "without end": (b"default = inf\n", "default must be a number"),
    "true": (b"default = true\n", "default must be a number"),
    "unconfirmed": (b"unconfirmed = true\n", "unknown|no entry|unconfirmed"),
    "exercises that are a number": (b"exercises = 3\n", "exercises"),
    "UTF-16": ("default = 1".encode("utf-16"), "not UTF-8"),
    "deep": (b"default = " + b"[" * 100_000, "points.toml"),
}
GRADE = "grade submissions --out grades.csv --roster roster.csv"


@pytest.fixture
def handed_in(here):
    (here / "submissions").mkdir()
    (here / "submissions" / "ann.ipynb").write_bytes(b"{]")
    (here / "roster.csv").write_text("id,name\nann,Ann\n")
    (here / "grades.csv").write_text("last term\n")
    return here


@pytest.mark.parametrize("case", ROSTERS)
def test_a_bad_roster_is_named_before_anything_is_graded(handed_in, case):
    content, words = ROSTERS[case]
    (handed_in / "roster.csv").write_bytes(content)
    refused(handed_in, GRADE, r"roster\.csv", words)


@pytest.mark.parametrize("case", POINTS)
def test_bad_points_are_named_before_anything_is_graded(handed_in, case):
    content, words = POINTS[case]
    (handed_in / "points.toml").write_bytes(content)
    refused(handed_in, f"{GRADE} --points points.toml", r"points\.toml", words)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["roster.csv", "points.toml"])
def test_a_roster_that_is_no_plain_file(handed_in, kind, name):
    (handed_in / "points.toml").write_text("default = 1\n")
    special_file(kind, handed_in / name)
    refused(handed_in, f"{GRADE} --points points.toml", name)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("grade submissions --out grades.txt", "grades.txt: .*must end in .csv"),
        ("grade submissions --out corpus", "corpus: .*must end in .csv"),
        ("grade submissions --out corpus/text.txt/a.csv", "text.txt"),
        ("grade", "NOTEBOOKS|out"),
        ("grade corpus --out new.csv", "no notebook in corpus"),
        ("grade submissions --out grades.csv --points points.toml", "--points needs --roster"),
        ("grade submissions --out grades.csv --for canvas", "--for needs --roster"),
        (f"{GRADE} --for blackboard", "--for|blackboard"),
        (f"{GRADE} --memory 0", "memory must be above 0"),
        (f"{GRADE} --memory nan", "memory"),
        (f"{GRADE} --seconds 0", "--seconds"),
        (f"{GRADE} --cell-seconds -1", "--cell-seconds"),
        (f"{GRADE} --profile fast", "--profile"),
        ("grade submissions --out roster.csv --roster roster.csv", "roster.csv is read"),
        ("grade submissions --out submissions/ann.ipynb", "must end in .csv"),
    ],
)
def test_a_grading_that_cannot_be_meant(handed_in, line, words):
    refused(handed_in, line, words)


def test_grades_of_last_term_are_kept(handed_in, monkeypatch):
    monkeypatch.setattr(batch, "run_confined", lambda *arguments: Outcome([], "failed: x"))
    ran = kt(GRADE)
    assert ran.status == 0, ran
    assert (handed_in / "grades.csv~1").read_text() == "last term\n"
    assert "now grades.csv~1" in ran.out


@pytest.mark.parametrize("id", ["../../x", "/etc/x", "a/b", "..", ".", "a\0b", "CON", "x" * 300])
def test_a_students_id_names_no_file_elsewhere(tmp_path, id):
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "roster.csv").write_text("id,name\nplaceholder,Ann\n")
    (student,) = read_roster(folder / "roster.csv")
    student = type(student)(id, "Ann", login="ann")
    row = Row("ann.ipynb", "finished", 1.0, "01_attention_math", {"causal-mask": "right"})
    book = Gradebook.of([row], [student], Points())
    write_gradebook(book, folder / "grades.csv", "gradescope")
    assert all(name.startswith("inside") for name in files(tmp_path))
    assert read_points(None).of("causal-mask") > 0


# ---------------------------------------------------------------- release, lab, progress

LEAK = "SECRET_7531"
LEAKS = {
    "id by its name": f'@exercise(id="causal-mask")\ndef mask(T):\n    return {LEAK}',
    "a space": f'@ exercise("causal-mask")\ndef mask(T):\n    return {LEAK}',
    "under if": f'if True:\n    @exercise("causal-mask")\n    def mask(T):\n        return {LEAK}',
    "called": f'def mask(T):\n    return {LEAK}\nmask = exercise("causal-mask")(mask)',
    "a lambda": f'mask = exercise("causal-mask")(lambda T: {LEAK})',
    "a comment": f'@exercise("causal-mask")\ndef mask(T):\n    ...  # {LEAK}',
    "a helper": f'def help(T):\n    return {LEAK}\n@exercise("causal-mask")\ndef mask(T): ...',
    "a second definition": f'@exercise("causal-mask")\ndef mask(T): ...\ndef b(T): return {LEAK}',
    "a default": f'@exercise("causal-mask")\ndef mask(T, x={LEAK}): ...',
    "a docstring": f'@exercise("causal-mask")\ndef mask(T):\n    """{LEAK}"""\n    ...',
    "an error's text": '@exercise("causal-mask")\ndef mask(T):\n'
    f'    raise NotImplementedError("{LEAK}")',
    "a class's attribute": f'@exercise("causal-mask")\nclass Mask:\n    x = {LEAK}',
    "an inner class": f'@exercise("causal-mask")\nclass Mask:\n    class In:\n        x = {LEAK}',
    "a second decorator": f'@exercise("causal-mask")\n@wrap({LEAK})\ndef mask(T): ...',
    "an annotation": f'@exercise("causal-mask")\ndef mask(T: "{LEAK}"): ...',
}


def cleaned(tmp_path, cell, **options):
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "01_attention_math.ipynb")
    return clean_notebook(tmp_path / "01_attention_math.ipynb", **options).text


@pytest.mark.parametrize("style", LEAKS)
def test_nothing_of_an_answer_is_released(tmp_path, style):
    for tags in ([], ["exercise"]):
        cell = new_code_cell(LEAKS[style], metadata={"tags": tags})
        assert LEAK not in cleaned(tmp_path, cell)


def test_nothing_beside_the_sources_is_released(tmp_path):
    cell = new_code_cell("1 + 1", metadata={"tags": [LEAK], "jupyter": {"x": LEAK}, "more": LEAK})
    cell.outputs = [nbformat.v4.new_output("stream", text=LEAK)]
    assert LEAK not in cleaned(tmp_path, cell)
    text = new_markdown_cell("text", attachments={"a.png": {"image/png": LEAK}})
    assert LEAK not in cleaned(tmp_path, text)
    assert LEAK not in cleaned(tmp_path, nbformat.v4.new_raw_cell(LEAK))


@pytest.mark.parametrize(
    "cell",
    [
        f'@exercise(NAME)\ndef f():\n    return "{LEAK}"',
        f'@exercise("causal-mosk")\ndef f():\n    return "{LEAK}"',
        f'@exercise()\ndef f():\n    return "{LEAK}"',
    ],
)
def test_an_exercise_that_cannot_be_recognised_stops_the_release(here, cell):
    (here / "mine").mkdir()
    nbformat.write(new_notebook(cells=[new_code_cell(cell)]), here / "mine" / "01_mine.ipynb")
    refused(here, "release out --from mine", r"01_mine.ipynb, cell 1")


@pytest.mark.parametrize("content", CONTENTS)
def test_a_notebook_that_cannot_be_cleaned_stops_the_release(here, content):
    (here / "mine").mkdir()
    (here / "mine" / "01_mine.ipynb").write_bytes(CONTENTS[content])
    before = files(here)
    ran = kt("release out --from mine")
    if ran.status:
        is_clear(ran.err, r"01_mine\.ipynb")
        assert files(here) == before
    else:
        assert content in (
            "no cell",
            "3,000 cells",
            "another format",
            "another language",
            "sources that are numbers",
        )


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_notebook_that_is_no_plain_file_stops_the_release(here, kind):
    (here / "mine").mkdir()
    special_file(kind, here / "mine" / "01_mine.ipynb")
    refused(here, "release out --from mine", r"01_mine\.ipynb|no notebooks")


@pytest.mark.parametrize("content", [*BROKEN_JSON.values(), b"{}" * 3, b"null"])
def test_a_damaged_record_is_kept_and_its_backup_used(tmp_path, monkeypatch, content):
    path = tmp_path / "progress.json"
    monkeypatch.setenv("KT_PROGRESS_FILE", str(path))
    for id in ("one", "two", "three"):
        remember(id, "right")
    path.write_bytes(content)
    assert read_statuses() == {"one": "right", "two": "right"}
    remember("four", "wrong")
    assert read_statuses() == {"one": "right", "two": "right", "four": "wrong"}
    assert content in [one.read_bytes() for one in tmp_path.glob("progress.json~*")]


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_record_that_is_no_plain_file_stops_no_lesson(tmp_path, monkeypatch, kind):
    special_file(kind, tmp_path / "progress.json")
    monkeypatch.setenv("KT_PROGRESS_FILE", str(tmp_path / "progress.json"))
    with no_hang():
        remember("one", "right")
        assert read_statuses() in ({}, {"one": "right"})
        assert kt("progress").status == 0


def test_a_submission_is_read_once_and_not_through_a_link(tmp_path):
    (tmp_path / "real.ipynb").write_bytes(b"{}")
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "real.ipynb")
    assert read_submission(tmp_path / "real.ipynb") == b"{}"
    with pytest.raises(OSError):
        read_submission(tmp_path / "link.ipynb")
