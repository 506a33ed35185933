"""Attack the `kt` command in this process: what it printed, and whether it touched a file.

    refused(here, "pretrain vanilla bad.txt --writing_params_path out", "bad.txt, line 2")

asserts a one-line message that names each of the words, no traceback, no endless wait, and that
every file below `here` is as it was.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings

from kt_course.tools.cli import main

# The same examples on every machine and in every run.
FIND = settings(
    max_examples=100,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SMALL = (
    "--set model.n_embd=16 --set model.n_layer=2 --set model.n_head=2 --set model.block_size=64 "
    "--set model.bottleneck=32 --device cpu"
)
# Contents of a file that should hold a JSON object.
BROKEN_JSON = {
    "nothing": b"",
    "a list": b"[]",
    "half of it": b'{"cells": [',
    "binary": bytes(range(256)),
    "UTF-16": '{"cells": []}'.encode("utf-16"),
    "nested deep": b"[" * 100_000,
    "nested deep inside": b'{"a":' * 100_000,
    "a number of 5000 digits": b'{"cells": ' + b"9" * 5000 + b"}",
}
LONGEST = 700  # characters of a message: a huge line is not repeated whole


class Hang(BaseException):
    """It took too long. Not an Exception, so that nothing mistakes it for a bad file."""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str


@contextmanager
def no_hang(seconds: float = 20.0) -> Iterator[None]:
    """Raise Hang in a block that takes longer."""

    def stop(number, frame):
        raise Hang(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def kt(line: str | Sequence[str], seconds: float = 20.0) -> Ran:
    """Run `kt LINE`. An error that the command does not catch, as a traceback, is raised here."""
    out, err = io.StringIO(), io.StringIO()
    tokens = shlex.split(line) if isinstance(line, str) else list(line)
    with redirect_stdout(out), redirect_stderr(err), no_hang(seconds):
        with warnings.catch_warnings(action="ignore"):
            status = main(tokens)
    return Ran(status, out.getvalue(), err.getvalue())


def refused(here: Path, line: str | Sequence[str], *words: str, status: int = 2) -> str:
    """Assert that a command fails as it should; return its message. Words are matched as regex."""
    before = files(here)
    ran = kt(line)
    assert ran.status == status, (ran, "it should have been refused")
    is_clear(ran.err, *words)
    assert ran.err.startswith(f"kt {(line.split() if isinstance(line, str) else line)[0]}: ")
    assert ran.err.count("\n") == 1
    assert files(here) == before, "a refused command changed a file"
    return ran.err


def is_clear(message: str, *words: str) -> None:
    """Assert that a message names all words, is short, and speaks of no inner workings."""
    for word in words:
        assert re.search(word, message, re.IGNORECASE), f"{message!r} does not match {word!r}"
    assert "Traceback" not in message and len(message) < LONGEST, message[:2000]
    assert not re.search(r"TrainConfig|GPTConfig|\bobject at 0x|NoneType|<class", message), message


def files(folder: Path) -> dict[str, object]:
    """What is below a folder: bytes of small plain files, links' targets, kinds of all others."""
    contents: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name, status = str(path.relative_to(folder)), path.lstat()
        if path.name.endswith(".lock") or path.name == ".lock":
            continue
        if stat.S_ISLNK(status.st_mode):
            contents[name] = os.readlink(path)
        elif stat.S_ISREG(status.st_mode) and status.st_size < 2**24:
            contents[name] = path.read_bytes()
        else:
            contents[name] = stat.S_IFMT(status.st_mode)
    return contents


def corpus_folder(folder: Path, corpus) -> Path:
    """Write a corpus as a folder of a user's: text.txt, train.tsv, dev.tsv and test.tsv."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text("\n".join(corpus.documents) + "\n", encoding="utf-8")
    for split in ("train", "dev", "test"):
        rows = "".join(f"{q}\t{a}\n" for q, a in getattr(corpus, split))
        (folder / f"{split}.tsv").write_text(rows, encoding="utf-8")
    return folder


def special_file(kind: str, path: Path) -> None:
    """Put something at `path` that is no plain file, or cannot be read."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(path.with_name("gone"))
    elif kind == "looping link":
        path.symlink_to(path)
    elif kind == "endless device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(3 * 2**30)  # takes no space
    elif kind == "below a file":
        path.symlink_to(path.with_name("train.tsv") / "x")
    else:
        raise ValueError(kind)


SPECIAL = ("pipe", "folder", "dangling link", "looping link", "endless device", "huge")
