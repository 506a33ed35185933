"""`kt doctor`: is this machine ready? One line per fact, and a cure for every failure.

The module imports the standard library alone; each check imports what it needs, so a broken
installation is reported instead of ending the command. Where `kt` itself does not start, use
`python -m kt_course.tools.doctor`.
"""

import importlib
import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PYTHON = (3, 11)
MEMORY_GIB = 2.0  # `kt workbook` stays below this
DISK_GIB = 1.0  # for runs and fetched corpora
SET_UP = "make setup (or: pip install -r requirements.lock)"
MODULES = {"scikit-learn": "sklearn", "dask": "distributed"}  # package: module with another name


@dataclass(frozen=True)
class Check:
    """One fact about the machine."""

    name: str
    ok: bool | None  # None for something optional that is missing
    detail: str
    cure: str = ""  # what to do if it is not ok

    def __str__(self) -> str:
        mark = {True: "[OK]  ", False: "[FAIL]", None: "[--]  "}[self.ok]
        cure = f" -> {self.cure}" if self.cure and not self.ok else ""
        return f"{mark} {self.name}: {self.detail}{cure}"


def doctor() -> int:
    """Check whether this machine is ready, and say how to mend what is not."""
    checks = diagnose()
    for check in checks:
        print(check)
    n_failed = sum(check.ok is False for check in checks)
    print(f"{n_failed} of {len(checks)} checks failed." if n_failed else "Ready.")
    return int(n_failed > 0)


def diagnose() -> list[Check]:
    """Make all checks, in the order in which the cures should be applied; none of them raises."""
    groups = [check_python, check_packages, check_threads, check_device, check_memory, check_disk]
    groups += [check_corpus_bios, check_corpus_wiki, check_checkpoints]
    return [check for group in groups for check in run_checks(group)]


def run_checks(group: Callable[[], Check | list[Check]]) -> list[Check]:
    """Make one check, or several; one that raises an error has failed."""
    name = group.__name__.removeprefix("check_").replace("_", " ")
    try:
        checks = group()
    except (OSError, ValueError) as error:  # its message names the file
        return [Check(name, False, str(error), "restore the file, or install again")]
    except Exception as error:
        return [Check(name, False, f"{type(error).__name__}: {error}", f"install again: {SET_UP}")]
    return [checks] if isinstance(checks, Check) else checks


def check_python() -> Check:
    """Compare the version of Python with the oldest that works."""
    detail = f"{platform.python_version()}, needed: >= {PYTHON[0]}.{PYTHON[1]}"
    cure = "make setup PYTHON=python3.12, or use conda"
    return Check("python", tuple(sys.version_info[:2]) >= PYTHON, detail, cure)


def requirements() -> list[str]:
    """What the course needs ("torch>=2.6" ...), by pyproject.toml or the installation."""
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        if project["name"] == "kt-core":
            return project["dependencies"] + project["optional-dependencies"]["course"]
    lines = [line.partition(";") for line in metadata.requires("kt-core") or []]
    needed = ("", "extra == 'course'", 'extra == "course"')
    return [line.strip() for line, _, marker in lines if marker.strip() in needed]


def check_packages() -> list[Check]:
    """Check that every run-time dependency is installed, recent enough, and can be imported."""
    return [check_package(line) for line in requirements()]


def check_package(line: str) -> Check:
    """Check one dependency, such as "torch>=2.6"."""
    from packaging.requirements import Requirement

    needed = Requirement(line)
    cure = f'pip install "{line}"'
    try:
        version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return Check(needed.name, False, f"not installed, needed: {needed.specifier}", cure)
    if not needed.specifier.contains(version, prereleases=True):
        return Check(needed.name, False, f"{version}, needed: {needed.specifier}", cure)
    try:
        importlib.import_module(MODULES.get(needed.name, needed.name.replace("-", "_")))
    except Exception as error:  # a broken build raises anything
        cure = f"pip install --force-reinstall {needed.name}"
        return Check(needed.name, False, f"{version}, but import fails: {error}", cure)
    return Check(needed.name, True, version)


def check_threads() -> Check:
    """Compare the number of torch's threads with the cores that this process may use."""
    import psutil
    import torch

    process, n_threads = psutil.Process(), torch.get_num_threads()
    n_cores = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count()
    cure = f"set OMP_NUM_THREADS={n_cores}: more threads than cores are many times slower"
    detail = f"torch uses {n_threads}, cores: {n_cores}"
    return Check("threads", n_threads <= n_cores, detail, cure)


def check_device() -> Check:
    """Name the device that `--device auto` takes."""
    import torch

    if torch.cuda.is_available():
        return Check("device", True, f"cuda, {torch.cuda.get_device_name(0)}")
    return Check("device", True, "mps" if torch.backends.mps.is_available() else "cpu")


def check_memory() -> Check:
    """Compare the available memory with what the workbook needs."""
    import psutil

    return _amount("memory", psutil.virtual_memory().available, MEMORY_GIB, "close programs")


def check_disk() -> Check:
    """Compare the free space of this folder's disk with what runs and corpora need."""
    return _amount("disk", shutil.disk_usage(Path.cwd()).free, DISK_GIB, "free some space")


def _amount(name: str, n_bytes: int, needed_gib: float, cure: str) -> Check:
    gib = n_bytes / 2**30
    detail = f"{gib:.1f} GiB available, needed: {needed_gib:g} GiB"
    return Check(name, gib >= needed_gib, detail, cure)


def check_corpus_bios() -> Check:
    """Load the embedded corpus."""
    from kt_core.corpora.loading import load_corpus

    corpus = load_corpus("bios")
    questions = " + ".join(str(len(split)) for split in (corpus.train, corpus.dev, corpus.test))
    return Check("corpus bios", True, f"{len(corpus.documents)} lines, {questions} questions")


def check_corpus_wiki() -> Check:
    """Compare the fetched corpus with its SHA-256, if it was fetched."""
    from kt_core.corpora import wiki
    from kt_core.corpora.files import sha256

    folder, name, cure = wiki.wiki_dir(), "corpus wiki", "kt fetch wiki"
    missing = [file for file in wiki.WIKI_HASHES if not (folder / file).is_file()]
    if len(missing) == len(wiki.WIKI_HASHES):
        return Check(name, None, "not fetched, optional", cure)
    if missing:
        return Check(name, False, f"{folder / missing[0]} is missing", cure)
    for file, digests in wiki.WIKI_HASHES.items():
        if sha256((folder / file).read_bytes()) not in digests:
            return Check(name, False, f"{folder / file} has the wrong SHA-256", cure)
    return Check(name, True, f"{len(wiki.WIKI_HASHES)} files in {folder}")


def check_checkpoints() -> Check:
    """Load every shipped checkpoint, which compares it with the SHA-256 in its card."""
    from kt_core.corpora import paths
    from kt_core.runs.checkpoints import load_checkpoint

    folder = paths.checkpoints_dir()
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        load_checkpoint(path)
    cure = "restore data/checkpoints, or install again"
    return Check("checkpoints", bool(files), f"{len(files)} in {folder}", cure)


if __name__ == "__main__":
    sys.exit(doctor())
