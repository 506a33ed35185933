"""Fixtures of the exercises' tests: a progress file of their own, and a kernel to display in."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def progress_path(tmp_path, monkeypatch):
    """The file in which a test's answers are recorded, in its own folder."""
    path = tmp_path / "made" / "progress.json"
    monkeypatch.setenv("KT_PROGRESS_FILE", str(path))
    return path


@pytest.fixture
def displayed(monkeypatch):
    """A Jupyter kernel for the code under test; the list holds what was displayed."""
    shell = type("ZMQInteractiveShell", (), {})()
    things: list = []
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr("IPython.display.display", lambda thing, raw=False: things.append(thing))
    return things
