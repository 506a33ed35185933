"""Progress bars, and work that Ctrl-C does not cut in two."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from kt_core.corpora.files import interrupts_held
from kt_core.runs.progress import is_watched, progress_bar


def test_a_bar_is_watched_in_a_terminal_or_a_notebook(monkeypatch):
    monkeypatch.delenv("KT_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert not is_watched()
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert is_watched()
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert is_watched()
    monkeypatch.setenv("KT_PROGRESS", "off")
    assert not is_watched()


@pytest.mark.parametrize("mode", ["off", ""])
def test_the_bar_is_on_stderr_and_can_be_switched_off(monkeypatch, capsys, mode):
    monkeypatch.setenv("KT_PROGRESS", mode)
    bar = progress_bar(10, "title", start=3)
    bar.update(2)
    bar.close()
    output = capsys.readouterr()
    assert output.out == "" and ("title" in output.err) == (mode != "off")


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
