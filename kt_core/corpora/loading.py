"""Corpora: "bios" (embedded), "wiki" (the assignment's, fetched on request), or a user's folder."""

import inspect
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from kt_core._validation import did_you_mean, one_of
from kt_core.corpora import bios
from kt_core.corpora.textfiles import CorpusError, Pair, check_pair, read_documents, read_pairs
from kt_core.corpora.wiki import WIKI_HASHES, wiki_dir
from kt_core.vocab import CharVocab

SPLITS = ("train", "dev", "test")
LARGE = 10**7  # characters of a folder's documents, whose preparation takes long
QUESTION = re.compile(r"^Where was (.+) born\?$")


@dataclass(frozen=True, repr=False)
class Corpus:
    """Documents to pretrain on, their vocabulary, and the (question, answer or None) pairs."""

    name: str
    documents: list[str]
    train: list[Pair]
    dev: list[Pair]
    test: list[Pair]
    vocab: CharVocab

    def __repr__(self) -> str:
        sizes = [f"{len(getattr(self, part))} {part}" for part in ("documents", *SPLITS)]
        return f"Corpus({self.name!r}: {', '.join(sizes)}, {len(self.vocab)} characters)"


def question(name: str) -> str:
    """Return the question about a person, as every corpus words it."""
    return f"Where was {name} born?"


def question_name(text: str) -> str:
    """Return the name in "Where was NAME born?"; ValueError for a question of another form."""
    if not (match := QUESTION.fullmatch(text.strip())):
        raise ValueError(f"{text!r} does not read 'Where was NAME born?'")
    return match[1]


def shared_names(corpus: Corpus) -> list[str]:
    """Return the names that occur in several splits, sorted (questions of another form whole)."""
    splits = [{QUESTION.sub(r"\1", q) for q, _ in getattr(corpus, split)} for split in SPLITS]
    return sorted(name for name, n in Counter(chain(*splits)).items() if n > 1)


def load_corpus(
    name_or_folder: str | Path | Corpus = "bios", *, block_size: int = 128, **options: Any
) -> Corpus:
    """Load "bios", "wiki" or a folder (CorpusError names file and line); a Corpus is returned.

    bios: `options` are those of `bios.generate`; they may also be part of the name, as in
        "bios:people=300,lines=8,attributes=birth+work".
    wiki: read from where `fetch_wiki` put it.
    A folder ("./bios" for one of that name): every line of its .txt files is a document. TSVs with
        train, dev or test in their names are the splits, `question TAB answer`; the test file may
        lack answers, and a split may be missing.

    `block_size` is the length of the longest pair allowed, in characters, ⁇ included.
    """
    if isinstance(name_or_folder, Corpus):
        if options:
            raise CorpusError(f"a corpus that is loaded takes no option {sorted(options)}")
        return name_or_folder
    name, colon, spec = str(name_or_folder).partition(":")
    if name == "bios" and isinstance(name_or_folder, str):
        return _load_bios(block_size, (_parse_options(spec) if colon else {}) | options)
    if options:
        raise CorpusError(f"{name_or_folder}: no option {sorted(options)}; only bios has options")
    if name_or_folder != "wiki":
        return _load_folder(name_or_folder, block_size)
    paths = [wiki_dir() / file for file in WIKI_HASHES]
    if missing := ", ".join(path.name for path in paths if not path.is_file()):
        raise CorpusError(f"wiki: {missing} not in {wiki_dir()}; get the corpus by: kt fetch wiki")
    return _load_files("wiki", paths, block_size)


def _load_folder(name: str | Path, block_size: int) -> Corpus:
    """A corpus of the user's, with warnings of doubtful scores and of a long wait."""
    folder = Path(name).expanduser()
    if not str(name) or not folder.is_dir():
        hint = did_you_mean(str(name), ("bios", "wiki")).removeprefix(", ")
        hint = f"{hint and hint + ' '}wanted: bios, wiki, or an existing folder"
        raise CorpusError(f"{str(name) or repr('')}: no such corpus; {hint}")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if not any(path.suffix.lower() == ".txt" for path in files):
        raise CorpusError(f"{folder}: no .txt file; wanted: one with a document per line")
    corpus = _load_files(folder.name or str(folder), files, block_size)
    problems = {"names in more than one split": shared_names(corpus)}
    for split in SPLITS:
        pairs = getattr(corpus, split)
        counts = Counter(question for question, _ in pairs)
        answers = Counter(question for question, _ in dict.fromkeys(pairs))
        twice = [q for q, n in counts.items() if n > 1 and answers[q] == 1]
        several = [q for q, n in answers.items() if n > 1]
        problems[f"questions that come twice in {split}"] = twice
        problems[f"questions with several answers in {split}"] = several
    if (size := sum(map(len, corpus.documents))) > LARGE:
        wait = "a training prepares 50 million characters for about a minute before its first step"
        problems[wait] = [f"{size:,} characters"]
    for problem, texts in problems.items():
        if texts:
            more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
            warnings.warn(f"{folder}: {problem}: {', '.join(texts[:5])}{more}", stacklevel=3)
    return corpus


def _load_bios(block_size: int, options: dict[str, Any]) -> Corpus:
    try:
        for name in options:
            one_of("option of bios", name, inspect.signature(bios.generate).parameters)
        data = bios.generate(**options)
    except ValueError as error:
        raise CorpusError(str(error)) from error
    documents = [line for lines in data.lines for line in lines]
    vocab = CharVocab.from_documents(documents)
    pairs: list[Pair] = [(question(person.name), person.birthplace) for person in data.people]
    for pair in pairs:
        check_pair("bios", *pair, vocab, block_size)
    splits = ([pairs[i] for i in members] for members in (data.train, data.dev, data.test))
    return Corpus("bios", documents, *splits, vocab)


def _parse_options(spec: str) -> dict[str, Any]:
    """people=300,lines=8 as a dict; whole numbers become int."""
    options: dict[str, Any] = {}
    for part in spec.split(","):
        key, _, value = (cell.strip() for cell in part.partition("="))
        if not key or not value:
            raise CorpusError(f"bios:{spec}: {part!r} is not option=value, such as people=300")
        if key in options:
            raise CorpusError(f"bios:{spec}: {key} is given twice")
        options[key] = int(value) if re.fullmatch(r"-?\d+", value) else value
    return options


def _load_files(name: str, files: Sequence[Path], block_size: int) -> Corpus:
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    documents = [document for path in texts for document in read_documents(path)]
    vocab = CharVocab.from_documents(documents)
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for split, path in _split_files(files).items():
        splits[split] = read_pairs(path, vocab, block_size, needs_answers=split != "test")
    return Corpus(name, documents, *splits.values(), vocab)


def _split_files(files: Sequence[Path]) -> dict[str, Path]:
    """The TSV of each split, by a word of its name ("birth_dev.tsv"), else by a part of one."""
    paths: dict[str, Path] = {}
    for path in (p for p in files if p.suffix.lower() == ".tsv"):
        stem = path.stem.lower()
        words = re.split(r"[^a-z]+", stem)
        matches = [s for s in SPLITS if s in words] or [s for s in SPLITS if s in stem]
        if len(matches) != 1:
            rule = f"must hold one of train, dev, test, not {matches or 'none'}"
            raise CorpusError(f"{path}: its name {rule}")
        if first := paths.get(matches[0]):
            raise CorpusError(f"{path}: a second file for {matches[0]}, beside {first.name}")
        paths[matches[0]] = path
    return paths
