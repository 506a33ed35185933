"""`kt doctor` names every failure with its cure, and never breaks itself."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import psutil
import pytest
import torch

import kt_core as kt
from kt_core.corpora import paths
from kt_core.corpora import wiki as fetch
from kt_course.tools import doctor
from kt_course.tools.doctor import Check


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """A folder with one sound checkpoint, in place of the shipped ones."""
    folder = tmp_path / "checkpoints"
    vocab = kt.CharVocab("ab")
    model = kt.GPT(kt.GPTConfig(len(vocab), 8, 1, 1, 8, "rope"))
    kt.save_checkpoint(folder / "rope.safetensors", model, vocab, {})
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
    assert str(Check("wiki", None, "none", "kt fetch wiki")) == "[--]   wiki: none -> kt fetch wiki"


def test_a_ready_machine_gets_status_0(checkpoints, wiki, capsys):
    assert doctor.doctor() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Ready."
    assert all(line.startswith(("[OK]   ", "[--]   ")) for line in lines[:-1])
    names = [line[7:].split(":")[0] for line in lines[:-1]]
    assert len(names) == len(set(names))
    assert {"python", "torch", "papermill", "threads", "device", "memory", "disk"} <= set(names)
    assert names[-3:] == ["corpus bios", "corpus wiki", "checkpoints"]


def test_one_failure_gives_status_1(checkpoints, wiki, monkeypatch, capsys):
    memory = SimpleNamespace(available=2**29)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert doctor.doctor() == 1
    out = capsys.readouterr().out
    assert "[FAIL] memory: 0.5 GiB available, needed: 2 GiB -> close programs" in out
    assert out.endswith("checks failed.\n")


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    assert doctor.check_python().ok is False


def test_requirements_are_those_of_pyproject():
    names = [line.split(">=")[0] for line in doctor.requirements()]
    assert names[:2] == ["torch", "numpy"]
    assert "pooch" in names and "pytest" not in names


def test_a_missing_package_an_old_one_and_a_broken_one(monkeypatch):
    missing = doctor.check_package("no-such-package>=1")
    assert (missing.ok, missing.cure) == (False, 'pip install "no-such-package>=1"')

    monkeypatch.setattr(metadata, "version", lambda name: "4.0+cpu")
    old = doctor.check_package("tqdm>=4.66")
    assert (old.ok, old.detail) == (False, "4.0+cpu, needed: >=4.66")

    def broken(name):
        raise OSError("a library is missing")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    check = doctor.check_package("tqdm>=4")
    assert (check.ok, check.cure) == (False, "pip install --force-reinstall tqdm")
    assert "a library is missing" in check.detail


def test_it_runs_where_torch_is_missing():
    code = "import sys, runpy; sys.modules['torch'] = None; "
    code += "runpy.run_module('kt_course.tools.doctor', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "[FAIL] torch: " in done.stdout
    assert done.stdout.endswith("checks failed.\n")


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    check = doctor.check_threads()
    assert check.ok is False and check.cure.startswith("set OMP_NUM_THREADS=")


@pytest.mark.parametrize(
    ("cuda", "mps", "detail"),
    [(True, False, "cuda, H200"), (False, True, "mps"), (False, False, "cpu")],
)
def test_no_device_is_a_failure(cuda, mps, detail, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H200")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert doctor.check_device() == Check("device", True, detail)


def test_a_full_disk(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**29))
    assert doctor.check_disk().ok is False


def test_wiki_fetched_damaged_and_missing(wiki):
    assert doctor.check_corpus_wiki().ok is None
    assert doctor.check_corpus_wiki().cure == "kt fetch wiki"
    wiki.mkdir()
    (wiki / "wiki.txt").write_bytes(b"text")
    assert doctor.check_corpus_wiki().ok is True
    (wiki / "wiki.txt").write_bytes(b"other")
    assert doctor.check_corpus_wiki().ok is False


def test_checkpoints_sound_damaged_without_card_and_missing(checkpoints):
    def check() -> Check:
        (one,) = doctor.run_checks(doctor.check_checkpoints)
        return one

    assert (check().ok, check().detail) == (True, f"1 in {checkpoints}")
    (checkpoints / "rope.safetensors").write_bytes(b"other")
    assert "rope.safetensors: SHA-256 is" in check().detail and check().ok is False
    (checkpoints / "rope.safetensors.json").write_text("[]")
    assert "rope.safetensors.json" in check().detail
    (checkpoints / "rope.safetensors.json").unlink()
    assert "rope.safetensors.json is missing" in check().detail
    (checkpoints / "rope.safetensors").unlink()
    assert check().ok is False and "restore data/checkpoints" in check().cure


def test_a_check_that_breaks_is_a_failed_check(monkeypatch):
    def surprise(folder):
        raise KeyError("surprise")

    monkeypatch.setattr(doctor.shutil, "disk_usage", surprise)
    (check,) = [check for check in doctor.diagnose() if check.name == "disk"]
    assert check.ok is False and "surprise" in check.detail
