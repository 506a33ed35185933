"""Progress bars."""

from __future__ import annotations

import pytest

from kt_core.runs.progress import progress_bar


@pytest.mark.parametrize(("value", "is_shown"), [("off", False), ("", True)])
def test_the_bar_is_on_stderr_and_can_be_switched_off(monkeypatch, capsys, value, is_shown):
    monkeypatch.setenv("KT_PROGRESS", value)
    with progress_bar(10, "title", start=3) as bar:
        bar.update(2)
    output = capsys.readouterr()
    assert output.out == "" and ("title" in output.err) == is_shown
