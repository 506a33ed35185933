"""Fetches the assignment's corpus "wiki" from pinned addresses; every file is checked by its SHA-256.

The texts come from Wikipedia (CC BY-SA); they are no part of this project.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kt_core.corpora.files import sha256, write_atomically
from kt_core.corpora.paths import corpora_dir
from kt_core.corpora.textfiles import CorpusError

WIKI_ADDRESSES = (
    "https://raw.githubusercontent.com/shasha3493/Self-Attention-Transformers-and-Pretraining/"
    "eab1999259a197e84baea59193081c77271a742d/",
    "https://raw.githubusercontent.com/sriahri/Transformers-and-Self-Attention/"
    "5d5630fe1297d5e2e0224ed24c1ca0879c3d1040/",
)
# Accepted SHA-256 of each file. wiki.txt circulates with its last newline (419,253 bytes) and without it.
WIKI_HASHES: Mapping[str, tuple[str, ...]] = {
    "wiki.txt": (
        "823bb536fca77c8b5a15b34b0dead6355d0cf1f806e822464bca28806c2fd055",
        "17e381468abd91b60be8acaff006c66b77532b4ea4c0ce097b0a686d2e8e8219",
    ),
    "birth_places_train.tsv": ("02364dfca78e23d2583a19f03a2d8cddd90ee3e1a3795ddec7f0addadea30b0d",),
    "birth_dev.tsv": ("101a56073eba0db9aad5e2aaf1aa9bf8bdae966ae3aaed8fc8cda5edfa7856da",),
    "birth_test_inputs.tsv": ("5ccd3b2a1682e0daf90d59488aef8805ef21b9d35795cc3bdabdea79d293aa1f",),
}


def wiki_dir() -> Path:
    """Where the fetched corpus lies."""
    return corpora_dir() / "wiki"


def fetch_wiki(
    source: Path | str | None = None,
    folder: Path | str | None = None,
    *,
    addresses: Sequence[str] = WIKI_ADDRESSES,
    hashes: Mapping[str, Sequence[str]] = WIKI_HASHES,
    timeout: float = 30.0,
) -> Path:
    """Puts the four files into `folder` (default: `wiki_dir()`) and returns it.

    source: a folder to copy from instead of the network. addresses: tried in turn for each file.
    hashes: accepted SHA-256 of each file. timeout: seconds without an answer. Files that are there already,
    and right, stay. A file appears whole and checked, or not at all.
    Raises CorpusError: no address answers, a file is missing in `source`, or a hash is wrong.
    """
    folder = Path(folder) if folder is not None else wiki_dir()
    if source is not None:
        return _copy(Path(source), folder, hashes)
    folder.mkdir(parents=True, exist_ok=True)
    for name, accepted in hashes.items():
        here = folder / name
        if not (here.is_file() and sha256(here.read_bytes()) in accepted):
            _download(name, folder, addresses, accepted, timeout)
    return folder


def _copy(source: Path, folder: Path, hashes: Mapping[str, Sequence[str]]) -> Path:
    if not source.is_dir():
        raise CorpusError(f"{source}: no such folder")
    bodies = {}
    for name, accepted in hashes.items():  # all are checked before one is written
        path = source / name
        if not path.is_file():
            raise CorpusError(f"{path}: missing; wanted in this folder: {', '.join(hashes)}")
        bodies[name] = path.read_bytes()
        found = sha256(bodies[name])
        if found not in accepted:
            raise CorpusError(
                f"{path}: wrong SHA-256: expected {' or '.join(accepted)}, found {found}"
            )
    for name, body in bodies.items():
        write_atomically(folder / name, body)
    return folder


def _download(
    name: str, folder: Path, addresses: Sequence[str], accepted: Sequence[str], timeout: float
) -> None:
    try:
        import pooch
    except ImportError as error:
        raise CorpusError("fetching needs the package pooch: pip install pooch") from error
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=timeout)
    logger = pooch.get_logger()
    level, reasons = logger.level, []
    logger.setLevel(logging.WARNING)
    try:
        for address in addresses:
            url = address.rstrip("/") + "/" + name
            for (
                digest
            ) in accepted:  # pooch knows one hash a file; the second copy costs a second download
                try:
                    # pooch downloads to a temporary file and moves it into place once the hash agrees
                    pooch.retrieve(url, f"sha256:{digest}", name, folder, downloader=downloader)
                    return
                except (
                    ValueError
                ) as error:  # the wrong hash: it names the file, the expected and the found
                    reasons.append(f"{url}: {_first_line(error)}")
                except Exception as error:  # no network, no such host, 404, a broken connection …
                    reasons.append(f"{url}: {_first_line(error)}")
                    break
    finally:
        logger.setLevel(level)
    raise CorpusError(
        f"{name} could not be fetched:\n  " + "\n  ".join(reasons) + "\n"
        "No network here? Copy the four files from another machine and run: kt fetch wiki --from DIR"
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, ConnectionError) or type(error).__name__ in (
        "ConnectionError",
        "ConnectTimeout",
    ):
        return "no connection"  # what requests says of it is long and repeats the address
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
