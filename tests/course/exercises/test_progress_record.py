"""The decorator, the record of answers, the table made from it, and solutions."""

import json
import subprocess
import sys
import types

import pytest
import torch
from checking import judged

import kt_core as kt
import kt_course
from kt_course import exercises as checks
from kt_course.exercises import progress_store as record
from kt_course.exercises.quizzes import quizzes
from kt_course.exercises.registry import library


def test_the_decorator_prints_one_line_and_gives_back_what_the_notebook_uses(capsys):
    for _ in range(2):  # a cell can be run again

        @checks.exercise("causal-mask")
        def right(T):
            return torch.ones(T, T).tril() > 0

        @checks.exercise("causal-mask")
        def blank(T): ...

        @checks.exercise("causal-mask")
        def wrong(T):
            return torch.ones(T, T).triu() > 0

        assert right.__name__ == "right" and right is not kt.causal_mask
        assert blank is kt.causal_mask and wrong is kt.causal_mask
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(". ")[0] for line in lines] == [
            "causal-mask: right",
            "causal-mask: not attempted yet",
            "causal-mask: wrong",
        ]


def test_check_judges_a_script_the_same_way(progress_path):
    verdict = kt_course.exercises.check("causal-mask", lambda T: torch.ones(T, T).tril() > 0)
    assert (verdict.id, verdict.status) == ("causal-mask", "right")
    assert json.loads(progress_path.read_text()) == {"causal-mask": "right"}
    assert judged("causal-mask", kt.causal_mask).status == "right"


def test_answers_are_kept_and_blanks_and_the_reference_are_not(progress_path, capsys):
    checks.check("causal-mask", None)
    checks.check("causal-mask", kt.causal_mask)
    assert not progress_path.exists()
    checks.check("causal-mask", lambda T: torch.ones(T, T))
    checks.check("scaled-score", lambda q, k: q @ k.mT / q.size(-1) ** 0.5)
    assert json.loads(progress_path.read_text()) == {
        "causal-mask": "wrong",
        "scaled-score": "right",
    }
    checks.check("causal-mask", None)  # the notebook opened again
    assert record.read_statuses()["causal-mask"] == "wrong"
    checks.progress()
    head, first, *_ = capsys.readouterr().out.splitlines()
    total = len(checks.exercise_ids("01_attention_math"))
    total += sum(quiz.notebook == "01_attention_math" for quiz in quizzes().values())
    assert head.split() == ["notebook", "done", "wrong", "open", "next"]
    assert first.split() == ["01_attention_math", "1", "1", str(total - 2), "causal-mask"]


def test_progress_says_when_all_is_done(progress_path, capsys):
    progress_path.parent.mkdir()
    progress_path.write_text(json.dumps({id: "right" for id in (*library(), *quizzes())}))
    checks.progress()
    rows = capsys.readouterr().out.splitlines()[1:]
    assert rows and all(row.endswith("all done") for row in rows)


@pytest.mark.parametrize("content", ["{not json", "[1, 2]", "3", "\xff"])
def test_a_damaged_record_is_kept_aside_and_a_new_one_begun(progress_path, content):
    progress_path.parent.mkdir()
    progress_path.write_text(content, encoding="latin-1")
    assert record.read_statuses() == {}
    record.remember("causal-mask", "right")
    assert record.read_statuses() == {"causal-mask": "right"}
    assert progress_path.with_name("progress.json~1").read_text("latin-1") == content


def test_of_a_damaged_record_only_the_last_answer_is_lost(progress_path):
    for id in ("causal-mask", "scaled-score", "batches"):
        record.remember(id, "right")
    progress_path.write_bytes(b"")
    assert record.read_statuses() == {"causal-mask": "right", "scaled-score": "right"}
    record.remember("batches", "wrong")
    assert len(record.read_statuses()) == 3


NOTE = """import sys
from kt_course.exercises.progress_store import remember
for i in range(60):
    remember(f"{sys.argv[1]}-{i}", "right")
"""


def test_processes_that_record_at_a_time_lose_nothing(progress_path):
    writers = [subprocess.Popen([sys.executable, "-c", NOTE, str(n)]) for n in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert len(record.read_statuses()) == 180


def test_a_record_that_cannot_be_written_stops_no_lesson(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KT_PROGRESS_FILE", str(tmp_path / "file" / "progress.json"))
    assert checks.check("causal-mask", lambda T: torch.ones(T, T)).status == "wrong"
    assert (tmp_path / "file").read_text() == "in the way"


def test_where_the_record_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("KT_PROGRESS_FILE", "off")
    assert record.progress_file() is None
    record.remember("causal-mask", "right")
    assert record.read_statuses() == {}
    monkeypatch.delenv("KT_PROGRESS_FILE")
    monkeypatch.setattr(record, "sys", types.SimpleNamespace(platform="linux"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert record.progress_file() == tmp_path / "kt-core" / "progress.json"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert record.progress_file() == tmp_path / ".local" / "share" / "kt-core" / "progress.json"


def test_solution_shows_the_teaching_solution(capsys):
    checks.solution("causal-mask")
    output = capsys.readouterr().out
    assert output.startswith("def causal_mask(T):") and "positions[None, :] <=" in output


def test_solution_is_highlighted_in_a_notebook(displayed):
    checks.solution("causal-mask")
    markdown = displayed[0]["text/markdown"]
    assert markdown.startswith("```python\ndef causal_mask(") and markdown.endswith("\n```")
