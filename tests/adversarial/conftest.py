"""A folder of small files that attacks may damage: a new copy for each test, made the current."""

from __future__ import annotations

import shutil

import pytest
from attacking import SMALL, corpus_folder, kt


@pytest.fixture(scope="session")
def original(small_corpus, tmp_path_factory):
    """corpus/ (a user's folder), two checkpoints, and a finished run."""
    folder = tmp_path_factory.mktemp("original")
    corpus_folder(folder / "corpus", small_corpus)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KT_PROGRESS", "off")
        patch.chdir(folder)
        for line in (
            f"pretrain vanilla corpus/text.txt --writing_params_path model --max_steps 2 {SMALL}",
            f"pretrain vanilla corpus/text.txt --writing_params_path other --max_steps 3 {SMALL}",
            "run --corpus corpus --recipe smoke --no-pretrain --out run "
            f"--set scratch.epochs=1 {SMALL}",
        ):
            ran = kt(line, seconds=60)
            assert ran.status == 0, ran
    return folder


@pytest.fixture
def here(original, tmp_path, monkeypatch):
    """A copy of `original`, as the current folder."""
    folder = tmp_path / "here"
    shutil.copytree(original, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder
