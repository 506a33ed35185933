"""Progress lines, and work that Ctrl-C does not cut in two."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from kt_core.corpora.files import interrupts_held
from kt_core.runs.progress import Progress, progress_mode


@pytest.mark.parametrize("mode", ["bar", "lines", "off"])
def test_the_mode_can_be_chosen(monkeypatch, mode):
    monkeypatch.setenv("KT_PROGRESS", mode)
    assert progress_mode() == mode


def test_an_unknown_mode_is_an_error(monkeypatch):
    monkeypatch.setenv("KT_PROGRESS", "loud")
    with pytest.raises(ValueError, match="KT_PROGRESS must be bar, lines or off, not 'loud'"):
        progress_mode()


def test_a_bar_only_where_somebody_watches(monkeypatch):
    monkeypatch.delenv("KT_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert progress_mode() == "lines"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert progress_mode() == "bar"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert progress_mode() == "bar"


def test_lines_tell_the_time_left(monkeypatch, capsys):
    monkeypatch.setenv("KT_PROGRESS", "lines")
    bar = Progress(400, "pretrain")
    bar.update(100)
    assert capsys.readouterr().out == ""
    bar.note("loss 1.234", 1220.0)
    assert (
        capsys.readouterr().out
        == "pretrain: step 100/400, loss 1.234, 0:20:20 so far, 1:01:00 left\n"
    )
    bar.close()


def test_time_left_after_a_resume_counts_the_steps_before_it(monkeypatch, capsys):
    monkeypatch.setenv("KT_PROGRESS", "lines")
    bar = Progress(200, "t", start=90)
    bar.update(10)
    bar.note("x", 100.0)  # a second a step, those before the resume included
    assert capsys.readouterr().out == "t: step 100/200, x, 0:01:40 so far, 0:01:40 left\n"


def test_before_the_first_step_no_division_by_zero(monkeypatch, capsys):
    monkeypatch.setenv("KT_PROGRESS", "lines")
    Progress(10, "t").note("x", 0.0)
    assert "step 0/10" in capsys.readouterr().out


def test_off_says_nothing_and_the_bar_goes_to_stderr(monkeypatch, capsys):
    for mode in ("off", "bar"):
        monkeypatch.setenv("KT_PROGRESS", mode)
        bar = Progress(10, "title", start=3)
        bar.update(2)
        bar.note("loss 1", 1.0)
        bar.close()
        told = capsys.readouterr()
        assert told.out == "" and ("title" in told.err) == (mode == "bar")


def test_ctrl_c_waits_until_the_end_of_the_block():
    done = []

    def work():
        with interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("in the block")
        done.append("behind it")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["in the block"] and signal.getsignal(signal.SIGINT) is before


def test_an_error_in_the_block_goes_through():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), interrupts_held():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is before


def test_holding_works_in_another_thread():
    done = []

    def work():
        with interrupts_held():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]
