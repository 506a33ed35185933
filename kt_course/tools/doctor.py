"""Is this machine ready? One line a fact, and for every failure its cure.

Needs the standard library alone until a check calls for more, so that it also runs where the installation is
broken: `kt doctor`, or, if that does not start, `python kt_core/doctor.py`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PYTHON = (3, 11)
MEMORY = 2.0  # GiB that `kt workbook` stays under
DISK = 1.0  # GiB for runs and fetched corpora
SET_UP = "make setup (or: pip install -r requirements.lock)"


@dataclass(frozen=True)
class Check:
    """One fact about the machine.

    ok: True, False (then `cure` says what to do), or None for something optional that is not there.
    """

    name: str
    ok: bool | None
    detail: str
    cure: str = ""

    def __post_init__(self) -> None:
        if self.ok is False and not self.cure:
            raise ValueError(f"{self.name}: a failed check needs a cure")

    def __str__(self) -> str:
        mark = {True: "[OK]  ", False: "[FAIL]", None: "[--]  "}[self.ok]
        return f"{mark} {self.name}: {self.detail}" + (
            "" if self.ok or not self.cure else f" -> {self.cure}"
        )


def diagnose() -> list[Check]:
    """All checks, in the order in which cures should be applied. None of them raises."""
    found = [_python(), *_packages()]
    for check in (_threads, _device, _memory, _disk, _bios, _wiki, _checkpoints):
        found.append(_guarded(check))
    return found


def report() -> int:
    """Print one line a check; 0 if nothing failed, else 1."""
    checks = diagnose()
    for check in checks:
        print(check)
    failed = sum(check.ok is False for check in checks)
    print(f"{failed} of {len(checks)} checks failed." if failed else "Ready.")
    return int(failed > 0)


main = report


def _guarded(check: Callable[[], Check]) -> Check:
    """A check that breaks is a failed check: the doctor itself always finishes."""
    name = check.__name__.strip("_")
    try:
        return check()
    except ImportError as error:
        return Check(name, False, f"could not be checked ({error})", SET_UP)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", "if it stays, install anew")


def _python() -> Check:
    found, wanted = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, PYTHON))
    if tuple(sys.version_info[:2]) >= PYTHON:
        return Check("python", True, found)
    return Check(
        "python",
        False,
        f"{found}, needed: >= {wanted}",
        "make setup PYTHON=python3.12, or use conda",
    )


# ---------------------------------------------------------------- packages


def requirements() -> list[str]:
    """The run-time dependencies ("torch>=2.6" ...), from pyproject.toml, else from the installation."""
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        if project["name"] == "kt-core":
            return list(project["dependencies"])
    return [line for line in metadata.requires("kt-core") or [] if "extra ==" not in line]


def satisfies(version: str, bounds: str) -> bool:
    """Whether a version such as "2.13.0+cpu" lies in bounds such as ">=2.6,<3"; knows >= and < alone.

    Numbers of the release are compared; a local label (+cpu) and a suffix (rc1, .dev2) count for nothing.
    """
    ours = _release(version)
    for bound in filter(None, (part.strip() for part in bounds.split(","))):
        match = re.fullmatch(r"(>=|<)\s*([\d.]+)", bound)
        if not match:
            raise ValueError(f"{bound!r} is not a bound of the form >=2.6 or <3")
        limit = _release(match[2])
        if ours < limit if match[1] == ">=" else ours >= limit:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """ "2.6.0+cpu" -> (2, 6): the numbers up to the first that is none, without zeros at the end."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(n) for n in numbers[0].split(".")] if numbers else [0]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


IMPORTED_AS = {"scikit-learn": "sklearn"}  # packages whose module has another name


def _packages() -> list[Check]:
    try:
        needed = requirements()
    except metadata.PackageNotFoundError:
        return [Check("kt-core", False, "not installed", SET_UP)]
    return [_package(*re.match(r"([\w.-]+)\s*([^;]*)", line).groups()) for line in needed]


def _package(name: str, bounds: str) -> Check:
    cure = f'pip install "{name}{bounds.strip()}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, False, f"not installed, needed: {bounds}", cure)
    if not satisfies(version, bounds):
        return Check(name, False, f"{version}, needed: {bounds}", cure)
    try:
        importlib.import_module(IMPORTED_AS.get(name, name))
    except Exception as error:  # a broken build raises whatever it likes
        cure = f"pip install --force-reinstall {name}"
        return Check(name, False, f"{version}, but import fails: {error}", cure)
    return Check(name, True, version)


# ---------------------------------------------------------------- machine


def _cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads() -> Check:
    import torch

    threads, cores = torch.get_num_threads(), _cores()
    detail = f"torch uses {threads}, cores: {cores}"
    if threads > cores:
        slow = "more threads than cores are many times slower"
        return Check("threads", False, f"{detail}; {slow}", f"set OMP_NUM_THREADS={cores}")
    return Check("threads", True, detail)


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("device", True, f"cuda, {torch.cuda.get_device_name(0)}")
    if torch.backends.mps.is_available():
        return Check("device", True, "mps")
    return Check("device", True, "cpu")


def available_memory() -> tuple[float, str] | None:
    """(GiB, "available" or "in all"), None where the system does not say."""
    amounts = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                amounts.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")  # a container may hold less than its machine
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            amounts.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    if amounts:
        return max(min(amounts), 0) / 2**30, "available"
    if sys.platform == "win32":
        return _windows_memory()
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, "in all"
    except (AttributeError, OSError, ValueError):
        return None


def _windows_memory() -> tuple[float, str] | None:
    import ctypes

    fields = [
        "total",
        "available",
        "page_total",
        "page_free",
        "virtual_total",
        "virtual_free",
        "extended",
    ]

    class Status(ctypes.Structure):
        _fields_ = [(f, ctypes.c_ulong) for f in ("length", "load")] + [
            (f, ctypes.c_ulonglong) for f in fields
        ]

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return status.available / 2**30, "available"


def _memory() -> Check:
    found = available_memory()
    if found is None:
        return Check("memory", True, f"unknown, needed: {MEMORY:g} GiB")
    size, what = found
    if size < MEMORY:
        return Check(
            "memory", False, f"{size:.1f} GiB {what}, needed: {MEMORY:g} GiB", "close programs"
        )
    return Check("memory", True, f"{size:.1f} GiB {what}")


def _disk() -> Check:
    try:
        free = shutil.disk_usage(Path.cwd()).free / 2**30
    except OSError:
        return Check("disk", True, f"unknown, needed: {DISK:g} GiB")
    if free < DISK:
        return Check(
            "disk", False, f"{free:.1f} GiB free here, needed: {DISK:g} GiB", "free some space"
        )
    return Check("disk", True, f"{free:.1f} GiB free here")


# ---------------------------------------------------------------- corpora and checkpoints


def _bios() -> Check:
    from kt_core.corpora.loading import load_corpus

    try:
        corpus = load_corpus("bios")
    except (OSError, ValueError) as error:
        return Check("corpus bios", False, str(error), "restore data/bios, or install kt-core anew")
    questions = " + ".join(str(len(split)) for split in (corpus.train, corpus.dev, corpus.test))
    return Check("corpus bios", True, f"{len(corpus.documents)} lines, {questions} questions")


def _wiki() -> Check:
    from kt_core.corpora.wiki import WIKI_HASHES, wiki_dir

    folder, cure = wiki_dir(), "kt fetch wiki"
    if not any((folder / name).is_file() for name in WIKI_HASHES):
        return Check("corpus wiki", None, "not fetched, optional", cure)
    for name, accepted in WIKI_HASHES.items():
        path = folder / name
        if not path.is_file():
            return Check("corpus wiki", False, f"{path} is missing", cure)
        if _sha256(path) not in accepted:
            return Check("corpus wiki", False, f"{path} has the wrong SHA-256", cure)
    return Check("corpus wiki", True, f"{len(WIKI_HASHES)} files in {folder}")


def _checkpoints() -> Check:
    from kt_core.corpora.paths import checkpoints_dir

    folder, name = checkpoints_dir(), "checkpoints"
    cure = "restore data/checkpoints, or train them anew: kt checkpoints"
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return Check(name, False, f"none in {folder}", cure)
    for path in files:
        try:
            wanted = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return Check(
                name, False, f"{path.name}: its card {path.name}.json is missing or damaged", cure
            )
        if _sha256(path) != wanted:
            return Check(name, False, f"{path.name}: its SHA-256 is not the one in its card", cure)
    return Check(name, True, ", ".join(path.stem for path in files))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    sys.exit(main())
