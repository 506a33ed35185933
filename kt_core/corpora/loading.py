"""Corpora: "bios" (embedded), "wiki" (the assignment's, fetched on request), or a folder of a user's own."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_core.corpora import bios
from kt_core.corpora.textfiles import (
    CorpusError,
    Pair,
    check_pairs,
    numbered_pairs,
    read_documents,
    read_pairs,
)
from kt_core.corpora.wiki import WIKI_HASHES, fetch_wiki, wiki_dir
from kt_core.vocab import CharVocab

__all__ = [
    "Corpus",
    "CorpusError",
    "check_pairs",
    "fetch_wiki",
    "load_corpus",
    "question",
    "question_name",
    "read_documents",
    "read_pairs",
    "shared_names",
]

SPLITS = ("train", "dev", "test")
_BIOS_KNOBS = ("people", "lines", "attributes", "seed")
_QUESTION = re.compile(r"Where was (.+) born\?")


@dataclass(frozen=True, repr=False)
class Corpus:
    """Documents to pretrain on, and the question-answer pairs of the three splits.

    train, dev, test: (question, answer), the answer None where none is given. vocab: from the documents.
    """

    name: str
    documents: list[str]
    train: list[Pair]
    dev: list[Pair]
    test: list[Pair]
    vocab: CharVocab

    def __repr__(self) -> str:
        return (
            f"Corpus({self.name!r}: {len(self.documents)} documents, {len(self.train)} train, "
            f"{len(self.dev)} dev, {len(self.test)} test, {len(self.vocab)} characters)"
        )


def question(name: str) -> str:
    """The question about a person, as every corpus words it."""
    return f"Where was {name} born?"


def question_name(text: str) -> str:
    """The name in "Where was NAME born?"; ValueError for a question of another form."""
    match = _QUESTION.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} does not read 'Where was NAME born?'")
    return match[1]


def shared_names(corpus: Corpus) -> list[str]:
    """Names (whole questions, where they have another form) that occur in more than one split, sorted."""
    train, dev, test = (
        {_asked(q) for q, _ in split} for split in (corpus.train, corpus.dev, corpus.test)
    )
    return sorted(train & dev | train & test | dev & test)


def load_corpus(
    name_or_folder: str | Path = "bios", *, block_size: int = 128, **knobs: Any
) -> Corpus:
    """Loads "bios", "wiki", or a folder.

    bios: people=1000, lines=4 (a person), attributes=("birth", "study", "work", "death", "job", "family"),
        seed=0; documents[i * lines + j] is line j of person i. The knobs may stand in the name:
        "bios:people=300,lines=8,attributes=birth+work".
    wiki: from where `fetch_wiki` put it; 2937 documents, 2000 train, 500 dev, 437 test without answers.
    A folder: every line of its .txt files is a document; TSVs with train, dev, test in their names are the
        splits, `question TAB answer`; the test file may do without answers, and a split may be missing.
        A folder called bios or wiki is meant by "./bios".
    block_size: the longest pair allowed, in characters, ⁇ included.
    Raises CorpusError (a ValueError), naming file and line; warns of names that splits share.
    """
    if isinstance(name_or_folder, str):
        name, colon, spec = name_or_folder.partition(":")
        if name == "bios":
            return _bios(block_size, **{**(_parse_knobs(spec) if colon else {}), **knobs})
    if knobs:
        raise CorpusError(f"{name_or_folder}: unknown option {sorted(knobs)}; only bios has knobs")
    if str(name_or_folder) == "wiki" and isinstance(name_or_folder, str):
        return _wiki(block_size)
    folder = Path(name_or_folder).expanduser()
    if not folder.is_dir():
        raise CorpusError(
            f"{name_or_folder}: no such corpus; wanted: bios, wiki, or an existing folder"
        )
    corpus = _from_files(folder.name or str(folder), *_find_files(folder), block_size)
    if shared := shared_names(corpus):
        some = ", ".join(shared[:5]) + (f" and {len(shared) - 5} more" if len(shared) > 5 else "")
        warnings.warn(f"{folder}: names in more than one split: {some}", stacklevel=2)
    return corpus


def _bios(block_size: int, **knobs: Any) -> Corpus:
    if unknown := sorted(set(knobs) - set(_BIOS_KNOBS)):
        raise CorpusError(f"bios: unknown option {unknown}; known are {', '.join(_BIOS_KNOBS)}")
    try:
        made = bios.generate(**knobs)
    except ValueError as error:
        raise CorpusError(str(error)) from error
    documents = [line for lines in made.lines for line in lines]
    vocab = CharVocab.from_documents(documents)
    splits: list[list[Pair]] = []
    for members in (made.train, made.dev, made.test):
        people = [made.people[i] for i in members]
        splits.append([(question(person.name), person.birthplace) for person in people])
        check_pairs(splits[-1], vocab, block_size, "bios")
    return Corpus("bios", documents, *splits, vocab)


def _parse_knobs(spec: str) -> dict[str, Any]:
    """people=300,lines=8 as a dict; whole numbers become int, anything else is left to the generator."""
    knobs: dict[str, Any] = {}
    for part in spec.split(","):
        key, equals, value = (cell.strip() for cell in part.partition("="))
        if not equals or not key or not value:
            raise CorpusError(
                f"bios:{spec}: {part!r} is not option=value (bios:people=300,lines=8)"
            )
        if key in knobs:
            raise CorpusError(f"bios:{spec}: {key} is given twice")
        knobs[key] = int(value) if re.fullmatch(r"-?\d+", value) else value
    return knobs


def _wiki(block_size: int) -> Corpus:
    folder = wiki_dir()
    missing = [name for name in WIKI_HASHES if not (folder / name).is_file()]
    if missing:
        raise CorpusError(
            f"wiki: {', '.join(missing)} not in {folder}; get the corpus by: kt fetch wiki"
        )
    # Three names occur in two splits of it; `shared_names` tells which.
    texts = [folder / name for name in WIKI_HASHES if name.endswith(".txt")]
    return _from_files("wiki", texts, _find_splits([folder / n for n in WIKI_HASHES]), block_size)


def _find_files(folder: Path) -> tuple[list[Path], dict[str, Path]]:
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    if not texts:
        raise CorpusError(f"{folder}: no .txt file; wanted: one with a document a line")
    return texts, _find_splits(files)


def _find_splits(files: list[Path]) -> dict[str, Path]:
    """The TSV of each split, by the words of its name ("birth_dev.tsv"), else by a part of one."""
    found: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() != ".tsv":
            continue
        stem = path.stem.lower()
        words = re.split(r"[^a-z]+", stem)
        fits = [s for s in SPLITS if s in words] or [s for s in SPLITS if s in stem]
        if len(fits) != 1:
            raise CorpusError(
                f"{path}: its name must hold one of train, dev, test, not {fits or 'none'}"
            )
        if fits[0] in found:
            raise CorpusError(f"{path}: a second file for {fits[0]}, beside {found[fits[0]].name}")
        found[fits[0]] = path
    return found


def _from_files(name: str, texts: list[Path], tables: dict[str, Path], block_size: int) -> Corpus:
    documents = [document for path in texts for document in read_documents(path)]
    vocab = CharVocab.from_documents(documents)
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for split, path in tables.items():
        numbered = numbered_pairs(path)
        numbers, pairs = [n for n, _ in numbered], [pair for _, pair in numbered]
        if split != "test" and pairs[0][1] is None:
            raise CorpusError(
                f"{path}, line {numbers[0]}: 1 column; {split} needs question TAB answer"
            )
        check_pairs(pairs, vocab, block_size, path, numbers)
        splits[split] = pairs
    return Corpus(name, documents, splits["train"], splits["dev"], splits["test"], vocab)


def _asked(text: str) -> str:
    match = _QUESTION.fullmatch(text)
    return match[1] if match else text
