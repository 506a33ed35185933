"""Results and reports: no impossible number is shown, and no name becomes HTML, Markdown or CSV."""

from __future__ import annotations

import csv
import io
import json
import shutil
from html.parser import HTMLParser

import pytest
from attacking import BROKEN_JSON, FIND, is_clear, kt, no_hang, refused, special_file
from hypothesis import given
from hypothesis import strategies as st

from kt_core.evaluation import Score
from kt_course.grading.batch import Row as Graded
from kt_course.grading.batch import table
from kt_course.grading.gradebook import Gradebook, Points
from kt_course.grading.reports import feedback_page
from kt_course.grading.roster import Student
from kt_course.grading.written import marking_page, written_questions
from kt_course.tools.formulas import markdown_to_html
from kt_course.tools.report import gather, write_report
from kt_course.tools.sweep_results import read_values, write_results
from kt_course.tools.tables import csv_text, markdown_table, markdown_text, printable
from kt_course.tools.workbook import _read_results

NASTY = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "a | b | c",
    "a\nb\r\nc",
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    " =1+1",
    "＝1+1",
    "a\x1b[31mred",
    "a\x00b",
    "a\u202eb",
    "$\\href{javascript:alert(1)}{x}$",
    "`code` **bold** # head",
    '"quoted", and; more',
    "&lt;b&gt; &amp;",
    "<!-- comment -->",
    "</td></tr></table><b>",
    "<javascript:alert(1)>",
    "x" * 5000,
]


def change_result(here, change):
    """Edit run/result.json."""
    path = here / "run" / "result.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def set_score(split="dev", **values):
    return lambda result: result[split].update(values)


IMPOSSIBLE = {
    "half a correct answer": set_score(correct=1.5),
    "more correct than asked": set_score(correct=99),
    "fewer than none": set_score(correct=-1),
    "nothing asked": set_score(correct=0, total=0),
    "true": set_score(correct=True),
    "text": set_score(correct="1"),
    "null": set_score(correct=None),
    "a list": set_score(total=[5]),
    "a digit number": set_score(total=10**400),
    "NaN": set_score(correct=float("nan")),
    "infinity": set_score(total=float("inf")),
    "another accuracy": set_score(accuracy=0.9),
    "another interval": set_score(high=1.0),
    "an accuracy that is text": set_score(accuracy="<b>"),
    "a score that is a number": lambda r: r.update(dev=0.5),
    "a score that is a list": lambda r: r.update(dev=[1, 2]),
    "no split": lambda r: r.pop("dev"),
    "no recipe": lambda r: r.pop("recipe"),
    "a recipe that is text": lambda r: r.update(recipe="smoke"),
    "a recipe without a name": lambda r: r["recipe"].pop("name"),
    "a recipe whose name is a list": lambda r: r["recipe"].update(name=["smoke"]),
    "no corpus": lambda r: r.pop("corpus"),
    "no seed": lambda r: r.pop("seed"),
    "costs below 0": lambda r: r["finetuning"].update(characters=-5),
    "costs without end": lambda r: r["finetuning"].update(seconds=float("inf")),
    "costs that are NaN": lambda r: r["finetuning"].update(seconds=float("nan")),
    "costs that are text": lambda r: r["finetuning"].update(seconds="long"),
    "costs of 400 digits": lambda r: r["finetuning"].update(characters=10**400),
    "costs that are a list": lambda r: r.update(finetuning=[1]),
    "London twice as good": lambda r: r["london"].update(correct=99),
    "London of another accuracy": lambda r: r["london"].update(accuracy=0.99),
    "London of text": lambda r: r.update(london="5 %"),
    "London on half a question": lambda r: r["london"].update(total=2.5),
}
STRANGE = {  # not impossible as numbers, but of a kind that no run writes
    "a variant that is a list": lambda r: r.update(variant=["rope"]),
    "a variant that is an object": lambda r: r.update(variant={"a": 1}),
    "hardware that is null": lambda r: r.update(hardware=None),
    "a seed that is text": lambda r: r.update(seed="zero"),
    "a corpus that is a number": lambda r: r.update(corpus=7),
}
CONTENTS = BROKEN_JSON | {"an empty object": b"{}"}


def report_of_two(here):
    """The report on a good run and on the edited one: its lines."""
    shutil.copytree(here / "good", here / "both" / "good")
    shutil.copytree(here / "run", here / "both" / "edited")
    ran = kt("report both --out report")
    assert (ran.status, ran.err) == (0, ""), ran
    return ran.out


@pytest.fixture
def good(here):
    shutil.copytree(here / "run", here / "good")
    return here


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_result_is_listed_and_never_shown(good, case):
    change_result(good, IMPOSSIBLE[case])
    text = report_of_two(good)
    rows, listed = text.split("Not in the table:")
    assert "both/edited" in listed and "Traceback" not in text
    assert rows.count("vanilla") == 1  # the good run alone
    assert "[0.0, 100.0]" not in text and "nan" not in rows.lower()


@pytest.mark.parametrize("case", STRANGE)
def test_a_strange_result_does_not_stop_the_others(good, case):
    change_result(good, STRANGE[case])
    text = report_of_two(good)
    assert "| vanilla" in text or "vanilla" in text


@pytest.mark.parametrize("name", ["result.json", "config.json"])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_file_does_not_stop_the_others(good, content, name):
    (good / "run" / name).write_bytes(CONTENTS[content])
    text = report_of_two(good)
    assert ("both/edited" in text.partition("Not in the table:")[2]) == (name == "result.json")


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless device", "looping link", "huge"])
def test_a_result_that_is_no_plain_file_does_not_stop_the_others(good, kind):
    special_file(kind, good / "run" / "result.json")
    ran = kt("report good run --out report")
    assert ran.status == 0 and "good" not in ran.out.partition("Not in the table")[2]
    assert "run" in ran.out.partition("Not in the table:")[2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("report gone", "gone: no such folder"),
        ("report corpus", "corpus: no run in it"),
        ("report model", "model: not a folder"),
        ("report run gone", "gone: no such folder"),
        ("report run --out model", "model"),
    ],
)
def test_a_report_of_nothing(here, line, words):
    refused(here, line, words)


def test_a_plot_of_nothing(here):
    rows = [dict(settings={"seed": "0"}, values={"dev": 0.5}, error=None, folder="x")]
    with pytest.raises(ValueError, match="--y dve: no such value; there are dev"):
        write_results(rows, here / "out", "run", None, "dve")
    assert not (here / "out" / "sweep.png").exists()  # the table is there


@pytest.mark.parametrize("content", CONTENTS)
def test_a_cell_of_a_sweep_with_a_damaged_result_is_named(here, content):
    (here / "run" / "result.json").write_bytes(CONTENTS[content])
    with pytest.raises(ValueError) as caught, no_hang():
        read_values(here / "run")
    is_clear(str(caught.value), "result.json")


@pytest.mark.parametrize("content", CONTENTS)
def test_the_damaged_results_of_a_workbook_are_named(here, content):
    (here / "book" / "runs").mkdir(parents=True)
    (here / "book" / "results.json").write_bytes(CONTENTS[content])
    parameters = dict(profile="smoke", corpus="bios", seed=0, overrides={})
    with pytest.raises(ValueError) as caught:
        _read_results(here / "book", parameters)
    is_clear(str(caught.value), "book/results.json")


@pytest.mark.parametrize("notebooks", [[], 3, {"01_attention_math": 3}, {"01_attention_math": {}}])
def test_workbook_results_of_another_shape_are_refused(here, notebooks):
    (here / "book" / "runs").mkdir(parents=True)
    parameters = dict(profile="smoke", corpus="bios", seed=0, overrides={})
    content = dict(parameters=parameters, seconds=1.0, notebooks=notebooks)
    (here / "book" / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        _read_results(here / "book", parameters)
    is_clear(str(caught.value), "book/results.json")


@pytest.mark.parametrize("change", ["seed", "corpus", "profile", "overrides"])
def test_a_workbook_of_other_parameters_is_not_continued(here, change):
    (here / "book" / "runs").mkdir(parents=True)
    parameters = dict(profile="smoke", corpus="bios", seed=0, overrides={})
    content = dict(parameters=parameters | {change: "other"}, seconds=1.0, notebooks={})
    (here / "book" / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="other parameters.*--out"):
        _read_results(here / "book", parameters)


# ---------------------------------------------------------------- names that are code


class Tags(HTMLParser):
    """The tags and addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("href", "src") or k.startswith("on")]


def is_harmless(html, allowed):
    page = Tags(html)
    assert set(page.tags) <= set(allowed.split()), page.tags
    assert not [address for address in page.addresses if "alert" in (address or "")]


@pytest.mark.parametrize("text", NASTY)
def test_a_name_in_a_report_stays_text(good, text):
    change_result(good, lambda r: r.update(corpus=text, variant=text, hardware=text))
    report = write_report(["good", "run"], "report")
    table = [line for line in report.splitlines() if line.startswith("|")]
    header = table[0].count("|")
    assert {line.replace("\\|", "").count("|") for line in table} == {header}
    html = markdown_to_html(report, escape=True)
    is_harmless(
        html,
        "p table thead tbody tr th td ul li div a code strong em h1 math mi mo mrow "
        "semantics annotation mtext mn msub msup span",
    )
    rows = list(csv.reader(io.StringIO((good / "report" / "report.csv").read_text())))
    assert len({len(row) for row in rows}) == 1
    is_plain_csv(rows)


def is_plain_csv(rows):
    """No cell is a formula in a spreadsheet, or drives a terminal."""
    for cell in (cell for row in rows for cell in row):
        assert cell.lstrip()[:1] not in ("=", "+", "@", "＝") or not cell.strip(), cell
        assert not (cell.lstrip().startswith("-") and not is_number(cell)), cell
        assert "\x1b" not in cell and "\0" not in cell


def is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("text", NASTY)
def test_a_problem_in_a_report_stays_text(good, text):
    name = text.replace("/", "_").replace("\0", "")[:100]
    shutil.copytree(good / "run", good / "bad" / name)
    (good / "bad" / name / "result.json").write_text(json.dumps({"dev": text}))
    report = write_report(["good", "bad"], "report")
    is_harmless(
        markdown_to_html(report, escape=True),
        "p table thead tbody tr th td ul li div code strong em h1 span",
    )
    assert len(gather(["good", "bad"])[1]) == 1


@pytest.mark.parametrize("text", NASTY)
def test_a_name_in_a_sweep_stays_text(here, text):
    row = dict(settings={"seed": "0", text: text}, values={"dev": 0.5}, error=text, folder=text)
    report = write_results([row], here / "out", text, "seed", "dev")
    is_harmless(
        markdown_to_html(report, escape=True),
        "p a table thead tbody tr th td ul li div code strong em h1 span",
    )
    is_plain_csv(csv.reader(io.StringIO((here / "out" / "sweep.csv").read_text())))


@pytest.mark.parametrize("text", NASTY)
def test_a_name_in_grades_and_feedback_stays_text(text):
    row = Graded(text, text, 1.0, "01_attention_math", {"causal-mask": f"wrong: {text}"})
    is_plain_csv(csv.reader(io.StringIO(table([row]))))
    student = Student(text, text, text, text)
    rows = {student.id: {"01_attention_math": row}}
    book = Gradebook([student], Points(), rows, [], {"01_attention_math": 5})
    html = feedback_page(book, student)
    is_harmless(html, "html meta title style h1 h2 p table tr th td")
    page = marking_page([(text, next(iter(written_questions())), text)], Points().of)
    is_harmless(page, "html meta title style h1 h2 h3 p b ul li details summary pre i")


@FIND
@given(cells=st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_any_text_survives_a_csv_file(cells):
    ((*_,), again) = csv.reader(io.StringIO(csv_text(["h"] * len(cells), [cells])))
    is_plain_csv([again])
    assert [c.removeprefix("'").lstrip() for c in again] == [
        printable(c).removeprefix("'").lstrip() for c in cells
    ]


@FIND
@given(cells=st.lists(st.text(max_size=12), min_size=2, max_size=4))
def test_any_text_stays_in_its_cell_of_a_markdown_table(cells):
    lines = markdown_table(["h"] * len(cells), [cells, cells]).splitlines()
    assert len(lines) == 4
    html = markdown_to_html("\n".join(lines), escape=True)
    assert html.count("<td") == 2 * len(cells), html
    assert "<script" not in html and "\n" not in markdown_text("a\nb")


@FIND
@given(correct=st.integers(-5, 50), total=st.integers(-5, 50))
def test_any_score_is_possible_or_refused(correct, total):
    try:
        score = Score(correct, total)
    except ValueError as error:
        is_clear(str(error), str(correct))
        assert not 0 <= correct <= total
    else:
        assert 0 <= score.low <= score.accuracy <= score.high <= 1
