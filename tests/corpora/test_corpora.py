import contextlib
import hashlib
import http.server
import os
import socket
import threading
import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from kt_core.corpora import loading, paths, wiki
from kt_core.corpora.loading import load_corpus, question, question_name, shared_names
from kt_core.corpora.textfiles import CorpusError, check_pair, read_documents, read_pairs
from kt_core.corpora.wiki import fetch_wiki
from kt_core.vocab import CharVocab

ROOT = Path(__file__).resolve().parents[2]

# Stand-ins for the assignment's files: same names and shapes, made-up people.
STAND_INS = {
    "wiki.txt": b"Ann Lee. Ann was born in Leeds.\nBo Ek. Bo came from Oslo.\nCy Day. Cy, of York.",
    "birth_places_train.tsv": b"Where was Ann Lee born?\tLeeds\n",
    "birth_dev.tsv": b"Where was Bo Ek born?\tOslo\n",
    "birth_test_inputs.tsv": b"Where was Cy Day born?\n",
}
HASHES = {name: (hashlib.sha256(body).hexdigest(),) for name, body in STAND_INS.items()}


def fill(folder, files=STAND_INS):
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (folder / name).write_bytes(body.encode() if isinstance(body, str) else body)
    return folder


# ---------------- bios through load_corpus


def test_bios_is_the_default_corpus():
    corpus = load_corpus()
    assert corpus == load_corpus("bios") and corpus.name == "bios"
    assert len(corpus.documents) == 4000
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (500, 250, 250)
    assert (
        repr(corpus).startswith("Corpus('bios': 4000 documents, 500 train")
        and len(repr(corpus)) < 100
    )
    assert corpus.vocab == CharVocab.from_documents(corpus.documents)
    assert shared_names(corpus) == []
    with pytest.raises(FrozenInstanceError):
        corpus.name = "other"


def test_bios_pairs_are_answered_in_the_documents():
    corpus = load_corpus("bios:people=100")
    for asks, answer in corpus.train + corpus.dev + corpus.test:
        own = [d for d in corpus.documents if d.startswith(question_name(asks) + ". ")]
        assert len(own) == 4 and all(answer in line for line in own)
        assert len(asks) <= 44


def test_knobs_in_the_name_equal_keywords():
    assert load_corpus("bios:people=300,lines=8") == load_corpus("bios", people=300, lines=8)
    assert load_corpus("bios:people=60,attributes=birth+work,seed=3") == load_corpus(
        "bios", people=60, attributes=("birth", "work"), seed=3
    )
    assert load_corpus("bios:people=300", people=60) == load_corpus("bios", people=60)


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("bios", {"persons": 3}, "no option of bios 'persons'; known: people, lines"),
        ("bios:peple=3", {}, "did you mean 'people'"),
        ("bios:people", {}, "'people' is not option=value"),
        ("bios:", {}, "is not option=value"),
        ("bios:people=40,people=50", {}, "people is given twice"),
        ("bios:people=many", {}, "people='many' must be a whole number"),
        ("bios:people=3", {}, "people=3 must be 20 to"),
        ("wiki", {"people": 3}, "only bios has options"),
        ("no-such", {}, "no-such: no such corpus; wanted: bios, wiki, or an existing folder"),
        ("bios", {"block_size": 30}, "a block of 30 holds 31"),
        (load_corpus("bios:people=20"), {"people": 3}, "is loaded takes no option"),
    ],
)
def test_bad_names_and_knobs(name, knobs, message):
    with pytest.raises(CorpusError, match=message):
        load_corpus(name, **knobs)


def test_question_and_its_name():
    assert question_name(question("Ann O. Lee")) == "Ann O. Lee"
    with pytest.raises(ValueError, match="does not read 'Where was NAME born"):
        question_name("When was Ann born?")


# ---------------- a folder of a user's own

GOOD = {
    "texts.txt": "Ann Lee. Born in Leeds.\n\nBo Ek. Of Oslo.\n",
    "my_train.tsv": "Where was Ann Lee born?\tLeeds\n",
    "my_dev.tsv": "Where was Bo Ek born?\tOslo\n",
    "my_test.tsv": "Where was Ann B. Lee born?\n",
}


def test_folder(tmp_path):
    corpus = load_corpus(fill(tmp_path / "own", GOOD))
    assert corpus.name == "own"
    assert corpus.documents == ["Ann Lee. Born in Leeds.", "Bo Ek. Of Oslo."]
    assert corpus.train == [("Where was Ann Lee born?", "Leeds")]
    assert corpus.dev == [("Where was Bo Ek born?", "Oslo")]
    assert corpus.test == [("Where was Ann B. Lee born?", None)]
    assert load_corpus(str(tmp_path / "own")) == corpus


def test_windows_files_are_the_same(tmp_path):
    plain = load_corpus(fill(tmp_path / "a" / "own", GOOD))
    windows = {
        name: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() for name, text in GOOD.items()
    }
    assert load_corpus(fill(tmp_path / "b" / "own", windows)) == plain


def test_several_texts_and_no_pairs(tmp_path):
    corpus = load_corpus(
        fill(tmp_path, {"b.txt": "two\n", "a.txt": "one", "note.md": "x", ".hid.txt": ""})
    )
    assert corpus.documents == ["one", "two"] and corpus.train == corpus.dev == corpus.test == []


def test_only_newlines_separate_documents(tmp_path):
    (tmp_path / "a.txt").write_text("one\u2028still one\x85and\ntwo", encoding="utf-8", newline="")
    assert read_documents(tmp_path / "a.txt") == ["one\u2028still one\x85and", "two"]


def test_other_questions_are_allowed(tmp_path):
    corpus = load_corpus(fill(tmp_path, {"a.txt": "Leeds, q", "train.tsv": "q Leeds?\tLeeds"}))
    assert corpus.train == [("q Leeds?", "Leeds")] and shared_names(corpus) == []


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        (
            "my_train.tsv",
            "Where was Ann Lee born?\tLeeds\na\tb\tc\n",
            "my_train.tsv, line 2: 3 columns",
        ),
        ("my_train.tsv", "\nWhere was Ann Lee born?\t \n", "my_train.tsv, line 2: empty answer"),
        ("my_train.tsv", "\tLeeds\n", "my_train.tsv, line 1: empty question"),
        ("my_train.tsv", "Ann\tLeeds\nAnn\n", r"line 2: 1 column\(s\) where earlier lines have 2"),
        (
            "my_dev.tsv",
            "Where was Bo Ek born?\n",
            "my_dev.tsv, line 1: 1 column; wanted: question TAB",
        ),
        ("my_dev.tsv", "Ann\tLeeds\n\nBo\t\xd8slo", r"line 3: character 'Ø' \(U\+00D8\) of 'Øslo'"),
        (
            "my_test.tsv",
            "Where was Xu born?\n",
            "my_test.tsv, line 1: character 'X' .* of 'Where was Xu born",
        ),
        ("my_dev.tsv", "Ann⁇\tLeeds\n", "my_dev.tsv, line 1: character '⁇'"),
        ("my_dev.tsv", "Ann\tLeeds\n" + "Ann " * 40 + "\tOslo", "my_dev.tsv, line 2: .* takes 165"),
        ("my_dev.tsv", "", "my_dev.tsv: empty"),
        ("texts.txt", "", "texts.txt: empty"),
        ("texts.txt", " \n\r\n", "texts.txt: empty"),
        ("texts.txt", b"Ann\nBo \xe9k\n", "texts.txt, line 2: not UTF-8 .byte 0xe9"),
        ("texts.txt", b"\xff\xfeA\x00", "texts.txt, line 1: not UTF-8"),
        ("texts.txt", "Ann\n\nA ⁇ here", "texts.txt, line 3: holds '⁇', which is reserved"),
        (
            "more_train.tsv",
            "Ann\tLeeds",
            "my_train.tsv: a second file for train, beside more_train.tsv",
        ),
        (
            "other.tsv",
            "Ann\tLeeds",
            "other.tsv: its name must hold one of train, dev, test, not none",
        ),
        ("train_dev.tsv", "Ann\tLeeds", r"one of train, dev, test, not \['train', 'dev'\]"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, name, body, message):
    folder = fill(tmp_path, {**GOOD, name: body})
    with pytest.raises(CorpusError, match=message):
        load_corpus(folder)


def test_folder_without_texts(tmp_path):
    with pytest.raises(CorpusError, match="no .txt file; wanted: one with a document per line"):
        load_corpus(tmp_path)
    with pytest.raises(CorpusError, match="cannot be read"):
        read_documents(tmp_path / "missing.txt")


def test_split_is_a_word_of_the_name(tmp_path):
    files = {**GOOD, "contest_dev.tsv": GOOD["my_dev.tsv"]}
    del files["my_dev.tsv"]
    assert load_corpus(fill(tmp_path, files)).dev[0][1] == "Oslo"


def test_shared_names_warn(tmp_path):
    folder = fill(tmp_path, {**GOOD, "my_dev.tsv": "Where was Ann Lee born?\tLeeds\n"})
    with pytest.warns(UserWarning, match="names in more than one split: Ann Lee"):
        corpus = load_corpus(folder)
    assert shared_names(corpus) == ["Ann Lee"]


def test_pairs_must_fit_the_block(tmp_path):
    vocab = CharVocab.from_documents(["abc"])
    check_pair("x", "abca", "bc", vocab, 7)  # 4 + ⁇ + 2 are read, the last ⁇ is only predicted
    with pytest.raises(CorpusError, match="^x: .* takes 8 characters; a block of 6 holds 7"):
        check_pair("x", "abca", "bc", vocab, 6)
    check_pair("x", "abcab", None, vocab, 7)
    (tmp_path / "x.tsv").write_text("\n\nabcab\n", encoding="utf-8")
    assert read_pairs(tmp_path / "x.tsv", vocab, 7) == [("abcab", None)]
    with pytest.raises(CorpusError, match="x.tsv, line 3"):
        read_pairs(tmp_path / "x.tsv", vocab, 6)
    (tmp_path / "x.tsv").unlink()
    folder = fill(tmp_path, {**GOOD, "my_train.tsv": "Ann\tLeeds\n" + "Ann " * 40 + "\tOslo"})
    assert len(load_corpus(folder, block_size=192).train) == 2


def test_read_pairs_strips_cells(tmp_path):
    (tmp_path / "a.tsv").write_text("q \t answer \n\nr\tother", encoding="utf-8")
    assert read_pairs(tmp_path / "a.tsv") == [("q", "answer"), ("r", "other")]


# ---------------- wiki: fetching


@contextlib.contextmanager
def server(files):
    """A local HTTP server of `files` (name -> body); yields its address and the requested paths."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            body = files.get(self.path.rsplit("/", 1)[-1])
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(
        target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/data/", requests
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.fixture
def pins(monkeypatch):
    """Pin other addresses and hashes than the assignment's: pins([address, ...])."""

    def pin(addresses=(), hashes=HASHES):
        monkeypatch.setattr(wiki, "WIKI_ADDRESSES", addresses)
        for module in (wiki, loading):
            monkeypatch.setattr(module, "WIKI_HASHES", hashes)

    pin()
    return pin


@pytest.fixture
def no_proxy(monkeypatch):
    pytest.importorskip("pooch")
    for key in [k for k in os.environ if k.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)


def dead_address():
    with socket.socket() as sock:  # a port that nobody listens on
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fetch(tmp_path, pins, no_proxy, capfd):
    with server(STAND_INS) as (address, requests):
        pins([address])
        out = fetch_wiki(folder=tmp_path / "deep" / "wiki")
        assert out == tmp_path / "deep" / "wiki" and contents(out) == STAND_INS
        assert len(requests) == 4
        fetch_wiki(folder=out)
        assert len(requests) == 4  # what is right is not fetched again
        (out / "birth_dev.tsv").write_bytes(b"spoiled")
        fetch_wiki(folder=out)
        assert len(requests) == 5 and contents(out) == STAND_INS
    assert capfd.readouterr() == ("", "")  # no bar where there is no terminal


def test_fetch_from_the_second_address(tmp_path, pins, no_proxy):
    with server({}) as (empty, _), server(STAND_INS) as (good, requests):
        pins([dead_address(), empty, good])
        fetch_wiki(folder=tmp_path)
    assert contents(tmp_path) == STAND_INS and len(requests) == 4


def test_corrupted_body_falls_back_and_is_never_kept(tmp_path, pins, no_proxy):
    corrupted = {**STAND_INS, "birth_dev.tsv": b"Where was Bo Ek born?\tParis\n"}
    with server(corrupted) as (bad, _), server(STAND_INS) as (good, requests):
        pins([bad, good])
        fetch_wiki(folder=tmp_path / "a")
        assert contents(tmp_path / "a") == STAND_INS and requests == ["/data/birth_dev.tsv"]
        pins([bad])
        with pytest.raises(CorpusError) as error:
            fetch_wiki(folder=tmp_path / "b")
    message = str(error.value)
    digest = hashlib.sha256(corrupted["birth_dev.tsv"]).hexdigest()
    assert (
        "birth_dev.tsv" in message and HASHES["birth_dev.tsv"][0] in message and digest in message
    )
    assert sorted(contents(tmp_path / "b")) == ["birth_places_train.tsv", "wiki.txt"]


def test_fetch_accepts_either_copy(tmp_path, pins, no_proxy):
    other = {**STAND_INS, "wiki.txt": STAND_INS["wiki.txt"] + b"\n"}
    hashes = {
        **HASHES,
        "wiki.txt": (hashlib.sha256(other["wiki.txt"]).hexdigest(), *HASHES["wiki.txt"]),
    }
    for files in (STAND_INS, other):
        with server(files) as (address, _):
            folder = tmp_path / str(len(files["wiki.txt"]))
            pins([address], hashes=hashes)
            fetch_wiki(folder=folder)
            assert contents(folder) == files


def test_offline_error_says_what_to_do(tmp_path, pins, no_proxy):
    pins([dead_address(), dead_address()])
    with pytest.raises(CorpusError, match="kt fetch wiki --from DIR") as error:
        fetch_wiki(folder=tmp_path)
    assert "wiki.txt could not be fetched" in str(error.value)
    assert str(error.value).count("no connection") == 2
    assert contents(tmp_path) == {}


def test_fetch_from_a_folder(tmp_path, pins):
    source = fill(tmp_path / "source")
    assert contents(fetch_wiki(source, tmp_path / "wiki")) == STAND_INS
    fetch_wiki(tmp_path / "wiki", tmp_path / "wiki")  # onto itself
    assert contents(tmp_path / "wiki") == STAND_INS


def test_fetch_from_a_folder_refuses_what_is_wrong(tmp_path, pins):
    with pytest.raises(CorpusError, match="no such folder"):
        fetch_wiki(tmp_path / "none", tmp_path / "wiki")
    source = fill(tmp_path / "source", {**STAND_INS, "birth_dev.tsv": b"other"})
    expected, digest = HASHES["birth_dev.tsv"][0], hashlib.sha256(b"other").hexdigest()
    with pytest.raises(CorpusError, match=f"birth_dev.tsv: .* expected {expected}, found {digest}"):
        fetch_wiki(source, tmp_path / "wiki")
    (source / "birth_dev.tsv").unlink()
    with pytest.raises(
        CorpusError, match="birth_dev.tsv: missing; wanted in this folder: wiki.txt"
    ):
        fetch_wiki(source, tmp_path / "wiki")
    assert not (tmp_path / "wiki").exists()  # all or nothing


def test_pins_are_well_formed():
    assert len(wiki.WIKI_ADDRESSES) == 2 and all(
        a.startswith("https://") for a in wiki.WIKI_ADDRESSES
    )
    digests = [digest for accepted in wiki.WIKI_HASHES.values() for digest in accepted]
    assert len(wiki.WIKI_HASHES) == 4 and len(set(digests)) == 5
    assert all(len(digest) == 64 and int(digest, 16) for digest in digests)


# ---------------- wiki: loading


def test_wiki_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("KT_DATA", str(tmp_path))
    with pytest.raises(CorpusError, match="get the corpus by: kt fetch wiki"):
        load_corpus("wiki")
    assert wiki.wiki_dir() == tmp_path / "wiki"


def test_wiki_loads_what_was_fetched(tmp_path, monkeypatch, pins):
    monkeypatch.setenv("KT_DATA", str(tmp_path))
    fetch_wiki(fill(tmp_path / "source"))
    corpus = load_corpus("wiki")
    assert corpus.name == "wiki" and len(corpus.documents) == 3
    assert corpus.test == [("Where was Cy Day born?", None)]


def test_wiki_does_not_warn_of_its_known_shared_names(tmp_path, monkeypatch):
    monkeypatch.setenv("KT_DATA", str(tmp_path))
    fill(tmp_path / "wiki", {**STAND_INS, "birth_test_inputs.tsv": b"Where was Bo Ek born?\n"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpus = load_corpus("wiki")
    assert shared_names(corpus) == ["Bo Ek"]


@pytest.fixture
def assignment():
    places = [os.environ.get("KT_WIKI_SOURCE"), ROOT.parent / "shared" / "data" / "cs224n"]
    for place in places:
        if place and (Path(place) / "wiki.txt").is_file():
            return Path(place)
    pytest.skip("the assignment's files are not here; set KT_WIKI_SOURCE to their folder")


@pytest.mark.parametrize("last_newline", [True, False])
def test_the_assignments_files(assignment, tmp_path, monkeypatch, last_newline):
    files = {name: (assignment / name).read_bytes() for name in wiki.WIKI_HASHES}
    files["wiki.txt"] = files["wiki.txt"].rstrip(b"\n") + b"\n" * last_newline
    assert len(files["wiki.txt"]) == 419_252 + last_newline
    monkeypatch.setenv("KT_DATA", str(tmp_path / "data"))
    fetch_wiki(fill(tmp_path / "source", files))
    corpus = load_corpus("wiki")
    assert len(corpus.documents) == 2937 and all(corpus.documents)
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (2000, 500, 437)
    assert len(corpus.vocab) == 256
    assert sum(answer == "London" for _, answer in corpus.dev) == 25
    assert all(answer is None for _, answer in corpus.test)
    assert len(shared_names(corpus)) == 3


# ---------------- folders


def test_folders_of_a_checkout(monkeypatch):
    monkeypatch.delenv("KT_DATA", raising=False)
    monkeypatch.setattr(paths, "_PACKAGE", ROOT / "kt_core")
    assert paths.data_dir() == ROOT / "data" == paths.corpora_dir()
    assert paths.checkpoints_dir() == ROOT / "data" / "checkpoints"
    assert (paths.data_dir() / "bios" / "cities.txt").is_file()


def test_folders_of_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "site-packages" / "kt_core")
    monkeypatch.delenv("KT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert paths.checkout_dir() is None
    assert paths.data_dir() == tmp_path / "site-packages" / "kt_core" / "_data"
    assert paths.corpora_dir() == tmp_path / "cache" / "kt-core"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert paths.corpora_dir() == Path.home() / ".cache" / "kt-core"
    monkeypatch.setenv("KT_DATA", str(tmp_path / "mine"))
    assert paths.corpora_dir() == tmp_path / "mine"
