"""Fixtures for all tests, and run-time checks of the shapes in annotations of our packages."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading

import pytest
from hypothesis import settings

settings.register_profile("busy machine", deadline=None)  # a slow example is no failure
settings.load_profile("busy machine")

if all(importlib.util.find_spec(name) for name in ("jaxtyping", "beartype")):
    if "kt_core" in sys.modules:
        raise pytest.UsageError("kt_core was imported before its shape checks could be switched on")
    from jaxtyping import install_import_hook

    # Not beartype.beartype itself: it would stop bad values that tests give to functions without
    # shapes, before the ValueError that these functions promise.
    install_import_hook(["kt_core", "kt_course"], "shapecheck.check_shapes")

if os.environ.get("KT_BROWSER") == "required":  # as in CI: no browser test is skipped silently
    from browsing import missing

    if missing():
        raise pytest.UsageError(missing())

# A job in the background may ignore Ctrl-C, and its children with it; the tests send it.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No progress bars, and nothing in the learner's own progress file and my_gpt.py."""
    monkeypatch.setenv("KT_PROGRESS", "off")
    monkeypatch.setenv("KT_MY_GPT", "off")
    monkeypatch.setenv("KT_PROGRESS_FILE", "off")


@pytest.fixture(scope="session")
def small_corpus():
    """The bios corpus with 20 people."""
    from kt_core.corpora.loading import load_corpus

    return load_corpus("bios:people=20")
