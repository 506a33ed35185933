"""Switches on run-time checks of the shapes in kt_core's annotations, before anything imports it."""

from __future__ import annotations

import importlib.util
import sys

import pytest

if all(importlib.util.find_spec(name) for name in ("jaxtyping", "beartype")):
    if "kt_core" in sys.modules:
        raise pytest.UsageError("kt_core was imported before its shape checks could be switched on")
    from jaxtyping import install_import_hook

    # Not beartype.beartype itself: it would stop the bad values that tests hand to functions without shapes,
    # before the ValueError that these functions promise.
    install_import_hook(["kt_core", "kt_course"], "shapecheck.check_shapes")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No progress bars, and no entries in the learner's own progress file."""
    monkeypatch.setenv("KT_PROGRESS", "off")
    monkeypatch.setenv("KT_PROGRESS_FILE", "off")


@pytest.fixture(scope="session")
def small_corpus():
    """The bios corpus with 20 people."""
    from kt_core.corpora.loading import load_corpus

    return load_corpus("bios:people=20")
