"""The assignment's corpus "wiki", from Wikipedia (CC BY-SA), fetched and checked by SHA-256."""

import sys
from itertools import product
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
# The accepted SHA-256 of each file. wiki.txt circulates with and without its last newline.
WIKI_HASHES = {
    "wiki.txt": (
        "823bb536fca77c8b5a15b34b0dead6355d0cf1f806e822464bca28806c2fd055",
        "17e381468abd91b60be8acaff006c66b77532b4ea4c0ce097b0a686d2e8e8219",
    ),
    "birth_places_train.tsv": ("02364dfca78e23d2583a19f03a2d8cddd90ee3e1a3795ddec7f0addadea30b0d",),
    "birth_dev.tsv": ("101a56073eba0db9aad5e2aaf1aa9bf8bdae966ae3aaed8fc8cda5edfa7856da",),
    "birth_test_inputs.tsv": ("5ccd3b2a1682e0daf90d59488aef8805ef21b9d35795cc3bdabdea79d293aa1f",),
}


def wiki_dir() -> Path:
    """Return the folder of the fetched corpus."""
    return corpora_dir() / "wiki"


def fetch_wiki(source: Path | str | None = None, folder: Path | str | None = None) -> Path:
    """Put the four files into `folder` (by default `wiki_dir()`) and return it.

    They are copied from the folder `source`, or else downloaded if they are missing. A file appears
    complete and checked, or not at all; CorpusError says why.
    """
    folder = Path(folder) if folder is not None else wiki_dir()
    if source is not None:
        bodies = {name: _read_checked(Path(source), name) for name in WIKI_HASHES}
        for name, body in bodies.items():
            write_atomically(folder / name, body)
        return folder
    for name, digests in WIKI_HASHES.items():
        path = folder / name
        if not (path.is_file() and sha256(path.read_bytes()) in digests):
            _download(name, folder)
    return folder


def _read_checked(source: Path, name: str) -> bytes:
    """The content of one file of a folder, if its hash is right."""
    path, digests = source / name, WIKI_HASHES[name]
    if not source.is_dir():
        raise CorpusError(f"{source}: no such folder")
    if not path.is_file():
        raise CorpusError(f"{path}: missing; wanted in this folder: {', '.join(WIKI_HASHES)}")
    if (digest := sha256(body := path.read_bytes())) not in digests:
        accepted = " or ".join(digests)
        raise CorpusError(f"{path}: wrong SHA-256: expected {accepted}, found {digest}")
    return body


def _download(name: str, folder: Path) -> None:
    """Fetch one file; pooch keeps it only if its hash agrees."""
    try:
        import pooch
    except ImportError as error:
        raise CorpusError("fetching needs the package pooch: pip install pooch") from error
    pooch.get_logger().setLevel("WARNING")
    download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
    reasons = [f"{name} could not be fetched:"]
    for address, digest in product(WIKI_ADDRESSES, WIKI_HASHES[name]):  # pooch knows one hash
        try:
            pooch.retrieve(address + name, f"sha256:{digest}", name, folder, downloader=download)
            return
        except Exception as error:  # a wrong hash, no network, no such host, 404 ...
            offline = type(error).__name__ in ("ConnectionError", "ConnectTimeout")
            reason = (str(error) or type(error).__name__).splitlines()[0]
            reasons.append(f"{address}{name}: {'no connection' if offline else reason}")
    hint = "No network? Copy the four files from another machine and run: kt fetch wiki --from DIR"
    raise CorpusError("\n  ".join(reasons) + "\n" + hint)
