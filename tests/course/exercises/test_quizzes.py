"""Questions: the files they come from, how they look, and how an answer is judged."""

from __future__ import annotations

import sys

import pytest

from kt_course.exercises import progress_store, quiz
from kt_course.exercises import quizzes as module
from kt_course.exercises.quizzes import Choice, Quiz, quizzes, read_quizzes

QUESTION = Quiz(
    "less",
    "01_attention_math",
    "Is 1 < 2?",
    (Choice("Yes & surely", "It is <smaller>.", correct=True), Choice("No", "Count again.")),
)
FILE = """
notebook = "01_attention_math"

[[quiz]]
id = "less"
question = "Is 1 < 2?"
answer = "a"
[[quiz.choices]]
text = "Yes & surely"
why = "It is <smaller>."
[[quiz.choices]]
text = "No"
why = "Count again."
"""


@pytest.fixture
def one_question(monkeypatch):
    monkeypatch.setattr(module, "quizzes", lambda: {"less": QUESTION})


# ---------------------------------------------------------------- files


def test_every_chapter_with_exercises_asks_questions_in_order():
    notebooks = [question.notebook for question in quizzes().values()]
    assert notebooks == sorted(notebooks) and len(set(notebooks)) >= 13


def test_a_file_is_read(tmp_path):
    path = tmp_path / "quiz.toml"
    path.write_text(FILE, encoding="utf-8")
    assert read_quizzes(path) == [QUESTION]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('answer = "a"', 'answer = "c"', "quiz less has no choice 'c'"),
        ('answer = "a"', "", "missing .* 'answer'"),
        ('answer = "a"', 'answer = ""', "quiz less needs a correct choice and a wrong one"),
        ('answer = "a"', 'answer = "ab"', "quiz less needs a correct choice and a wrong one"),
        ('why = "Count again."', "", "missing .* 'why'"),
        ('why = "Count again."', 'why = ""', "no explanation for 'No'"),
        ('text = "No"', 'txt = "No"', "argument:? 't(e)?xt'"),
        ('notebook = "01_attention_math"', "", "no entry `notebook`"),
        ("[[quiz]]", "[[quiz]", "Expected"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_the_file(tmp_path, old, new, message):
    path = tmp_path / "quiz.toml"
    path.write_text(FILE.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=f"quiz.toml: .*{message}"):
        read_quizzes(path)


# ---------------------------------------------------------------- asking and answering


def test_a_question_on_a_terminal(one_question, capsys):
    quiz("less")
    text = capsys.readouterr().out
    assert text.splitlines()[:3] == ["Is 1 < 2?", "  a) Yes & surely", "  b) No"]
    assert "It is <smaller>" not in text and 'quiz("less", "a")' in text
    quiz("less", "B")
    assert capsys.readouterr().out == "b is wrong. Count again.\n"
    assert progress_store.read_statuses() == {"less": "wrong"}
    quiz("less", "a")
    assert progress_store.read_statuses() == {"less": "right"}


@pytest.mark.parametrize("answer", ["c", "ab", "", 1])
def test_an_answer_is_one_of_the_letters(one_question, answer):
    with pytest.raises(ValueError, match="quiz less: an answer is one of a, b, not"):
        quiz("less", answer)


def test_an_unknown_id_lists_the_known_ones():
    with pytest.raises(ValueError, match="no quiz 'zzz'; known: .*wrong-axis"):
        quiz("zzz")


def test_a_static_page_keeps_the_folded_text(one_question, displayed, monkeypatch):
    monkeypatch.setenv("KT_PROGRESS", "off")  # nobody watches: no buttons in stored outputs
    quiz("less")
    assert len(displayed) == 1 and set(displayed[0]) == {"text/plain", "text/html"}
    page = displayed[0]["text/html"]
    assert "Is 1 &lt; 2?" in page and page.count("<details>") == page.count("</details>") == 2
    assert "a) Yes &amp; surely</summary><p>Right. It is &lt;smaller&gt;.</p>" in page
    assert "b) No</summary><p>Wrong. Count again.</p>" in page
    assert "<script" not in page and "open" not in page


def test_buttons_explain_and_record_the_answer(one_question, displayed, monkeypatch):
    monkeypatch.setenv("KT_PROGRESS", "bar")
    quiz("less")
    row, explanation = displayed[1].children
    assert [button.description for button in row.children] == ["a", "b"]
    row.children[1].click()
    assert explanation.value == "b is wrong. Count again."
    assert row.children[1].button_style == "warning"
    assert progress_store.read_statuses() == {"less": "wrong"}
    row.children[0].click()
    assert explanation.value == "a is right. It is &lt;smaller&gt;."
    assert progress_store.read_statuses() == {"less": "right"}


def test_without_ipywidgets_the_text_stands_alone(one_question, displayed, monkeypatch):
    monkeypatch.setenv("KT_PROGRESS", "bar")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    quiz("less")
    assert len(displayed) == 1
