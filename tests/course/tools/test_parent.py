"""A command stops, and saves its training, when the command that started it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SWEEP = "sweep run --recipe smoke --set pretrain.epochs=5000 --grid seed=0 --out sweep".split()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_sweep_leaves_no_orphan_and_its_cell_saves_its_state(tmp_path):
    """The sweep is a job in the background, whose children ignore Ctrl-C."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path)), "KT_PARENT": ""}
    sweep = subprocess.Popen(
        [sys.executable, "-m", "kt_course.tools.cli", *SWEEP],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    until(lambda: any(tmp_path.rglob("metrics.jsonl")), 90)
    children = psutil.Process(sweep.pid).children(recursive=True)
    assert children
    sweep.kill()
    sweep.wait()
    until(lambda: not any(child.is_running() for child in children), 30)
    assert [path.name for path in tmp_path.rglob("*.state")] == ["pretrain.state"]


def until(met, seconds: float) -> None:
    """Wait until `met()`."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, [str(path) for path in Path.cwd().iterdir()]
        time.sleep(0.2)
