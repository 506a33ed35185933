"""Fixtures for all tests, run-time checks of the shapes in annotations of our packages, and which
tests run together.

With `--dist loadgroup` a process takes one group of tests after the other: a test file, or a
notebook's cells under nbval with the test of what they measured.
"""

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

# The longest groups, longest first: they begin first, so that no process ends long after another.
LONGEST = (
    "test_browser",
    "test_answered_notebooks",
    "06_perceiver_ar",
    "05_pretrain_finetune",
    "test_distributed",
)

# A job in the background may ignore Ctrl-C, and its children with it; the tests send it.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Put each test into its group, and the longest groups first."""
    groups = {name: [] for name in LONGEST}
    # in a group, a notebook's cells come before the test of what they measured
    for item in sorted(items, key=lambda each: each.get_closest_marker("notebook") is not None):
        notebook = item.get_closest_marker("notebook")
        group = notebook.args[0] if notebook else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
        groups.setdefault(group, []).append(item)
    items[:] = [item for group in groups.values() for item in group]


def pytest_collection_finish(session):
    """Stop where groups have no effect: the cells of one notebook would run in two kernels."""
    grouping = session.config.getoption("loadgroup", False)  # xdist's own, in its workers
    if grouping and session.items and "@" not in session.items[0].nodeid:
        raise pytest.UsageError("pytest ignores the groups of tests: run make setup")


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
