"""`kt doctor`: every failure is named with its cure, and the doctor itself never breaks."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from kt_core.corpora import paths
from kt_core.corpora import wiki as fetch
from kt_course.tools import doctor
from kt_course.tools.doctor import Check, satisfies


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder with one sound checkpoint, in place of the shipped ones."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "rope.safetensors").write_bytes(b"weights")
    card = {"sha256": hashlib.sha256(b"weights").hexdigest()}
    (folder / "rope.safetensors.json").write_text(json.dumps(card))
    monkeypatch.setattr(paths, "checkpoints_dir", lambda: folder)
    return folder


@pytest.fixture
def wiki(tmp_path, monkeypatch):
    """A corpus of one file in place of wiki."""
    folder = tmp_path / "wiki"
    monkeypatch.setattr(fetch, "wiki_dir", lambda: folder)
    monkeypatch.setattr(fetch, "WIKI_HASHES", {"wiki.txt": (hashlib.sha256(b"text").hexdigest(),)})
    return folder


def test_a_check_is_one_line():
    assert str(Check("disk", True, "9 GiB")) == "[OK]   disk: 9 GiB"
    assert str(Check("disk", False, "0 GiB", "free some")) == "[FAIL] disk: 0 GiB -> free some"
    assert (
        str(Check("wiki", None, "not fetched", "kt fetch wiki"))
        == "[--]   wiki: not fetched -> kt fetch wiki"
    )
    with pytest.raises(ValueError, match="needs a cure"):
        Check("disk", False, "0 GiB")


def test_a_ready_machine_gets_code_0(shipped, wiki, capsys):
    assert doctor.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Ready."
    assert all(line.startswith(("[OK]   ", "[--]   ")) for line in lines[:-1])
    names = [line[7:].split(":")[0] for line in lines[:-1]]
    assert len(names) == len(set(names))
    assert {"python", "torch", "jupyterlab", "threads", "device", "memory", "disk"} <= set(names)
    assert names[-3:] == ["corpus bios", "corpus wiki", "checkpoints"]


def test_one_failure_gives_code_1(shipped, wiki, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "available_memory", lambda: (0.5, "available"))
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "[FAIL] memory: 0.5 GiB available, needed: 2 GiB -> close programs" in out
    assert out.endswith("checks failed.\n")


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    check = doctor._python()
    assert (check.ok, check.detail) == (False, "3.10.4, needed: >= 3.11")


# ---------------------------------------------------------------- packages


@pytest.mark.parametrize(
    ("version", "bounds", "right"),
    [
        ("2.6", ">=2.6", True),
        ("2.6.0+cpu", ">=2.6", True),
        ("2.13.0+cpu", ">=2.6", True),
        ("2.5.1", ">=2.6", False),
        ("4.6.6", ">=4.2,<5", True),
        ("5.0", ">=4.2,<5", False),
        ("10.0", ">=9.1, <11", True),
        ("3.0rc1", ">=3", True),
        ("1", "", True),
    ],
)
def test_satisfies(version, bounds, right):
    assert satisfies(version, bounds) is right


def test_bounds_that_it_does_not_know():
    with pytest.raises(ValueError, match="~=2.0"):
        satisfies("2.0", "~=2.0")


def test_requirements_are_pyprojects():
    names = [line.split(">=")[0] for line in doctor.requirements()]
    assert names[:2] == ["torch", "numpy"]
    assert "pooch" in names
    assert "pytest" not in names


def test_a_missing_package_an_old_one_and_a_broken_one(monkeypatch):
    missing = doctor._package("no-such-package", ">=1")
    assert (missing.ok, missing.cure) == (False, 'pip install "no-such-package>=1"')

    monkeypatch.setattr(metadata, "version", lambda name: "4.0")
    old = doctor._package("tqdm", ">=4.66")
    assert (old.ok, old.detail) == (False, "4.0, needed: >=4.66")

    def broken(name):
        raise OSError("a library is missing")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    check = doctor._package("tqdm", ">=4")
    assert (check.ok, check.cure) == (False, "pip install --force-reinstall tqdm")
    assert "a library is missing" in check.detail


def test_it_runs_as_a_file_where_torch_is_missing():
    code = "import sys, runpy; sys.modules['torch'] = None; sys.path.insert(0, ''); "
    code += f"runpy.run_path({doctor.__file__!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "[FAIL] torch: " in done.stdout
    assert done.stdout.endswith("checks failed.\n")


# ---------------------------------------------------------------- machine


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(doctor, "_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    check = doctor._threads()
    assert check.ok is False
    assert check.cure == "set OMP_NUM_THREADS=2"


@pytest.mark.parametrize(
    ("cuda", "mps", "found"),
    [(True, False, "cuda, H200"), (False, True, "mps"), (False, False, "cpu")],
)
def test_no_device_is_a_failure(cuda, mps, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H200")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert doctor._device() == Check("device", True, found)


def test_memory_and_disk_that_the_system_does_not_tell(monkeypatch):
    def silent(*args):
        raise OSError

    monkeypatch.setattr(Path, "read_text", silent)
    monkeypatch.setattr(os, "sysconf", silent, raising=False)
    monkeypatch.setattr(doctor, "_windows_memory", lambda: None)
    monkeypatch.setattr(doctor.shutil, "disk_usage", silent)
    assert doctor.available_memory() is None
    assert doctor._memory() == Check("memory", True, "unknown, needed: 2 GiB")
    assert doctor._disk() == Check("disk", True, "unknown, needed: 1 GiB")


def test_a_container_with_little_memory(monkeypatch):
    texts = {
        "meminfo": "MemTotal: 9 kB\nMemAvailable: 8388608 kB\n",
        "memory.max": f"{2**30}\n",
        "memory.current": f"{2**29}\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda path: texts[path.name])
    assert doctor.available_memory() == (0.5, "available")
    texts["memory.max"] = "max\n"
    assert doctor.available_memory() == (8.0, "available")


def test_a_full_disk(monkeypatch):
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2**29})
    )
    assert doctor._disk().ok is False


# ---------------------------------------------------------------- corpora and checkpoints


def test_wiki_fetched_damaged_and_not_there(wiki):
    assert doctor._wiki().ok is None
    assert doctor._wiki().cure == "kt fetch wiki"
    wiki.mkdir()
    (wiki / "wiki.txt").write_bytes(b"text")
    assert doctor._wiki().ok is True
    (wiki / "wiki.txt").write_bytes(b"other")
    assert doctor._wiki().ok is False


def test_checkpoints_sound_damaged_without_card_and_not_there(shipped):
    assert doctor._checkpoints() == Check("checkpoints", True, "rope")
    (shipped / "rope.safetensors").write_bytes(b"other")
    assert "SHA-256" in doctor._checkpoints().detail
    (shipped / "rope.safetensors.json").write_text("[]")
    assert "rope.safetensors.json is missing or damaged" in doctor._checkpoints().detail
    (shipped / "rope.safetensors").unlink()
    check = doctor._checkpoints()
    assert check.ok is False
    assert "kt checkpoints" in check.cure


def test_a_check_that_breaks_is_a_failed_check():
    def _odd():
        raise KeyError("surprise")

    check = doctor._guarded(_odd)
    assert (check.name, check.ok) == ("odd", False)
    assert "surprise" in check.detail
