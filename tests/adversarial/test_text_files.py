"""Text files and corpora: each bad file is named with its line, each good one is read the same."""

from __future__ import annotations

import unicodedata
import warnings

import pytest
from attacking import FIND, SMALL, SPECIAL, is_clear, kt, no_hang, refused, special_file
from hypothesis import given
from hypothesis import strategies as st

from kt_core.corpora import loading
from kt_core.corpora.loading import load_corpus
from kt_core.corpora.textfiles import CorpusError, read_documents, read_pairs

GOOD = "Ann Bo. Ann Bo was born in Rome.\n"

# name: (content, what the message says besides the file's name)
BAD_TEXTS = {
    "nothing": (b"", "empty"),
    "blank lines": (b"\n \n\t\n", "empty"),
    "UTF-16 with a mark": (GOOD.encode("utf-16"), "line 1: not UTF-8.*save as UTF-8"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), "line 1: a null.*not UTF-16"),
    "UTF-32": (GOOD.encode("utf-32"), "line 1: (not UTF-8|a null)"),
    "Latin-1 on line 3": (f"{GOOD}\n".encode() + b"caf\xe9\n", "line 3: not UTF-8.*0xe9"),
    "cut in a character": (GOOD.encode() + "é".encode()[:1], "line 2: not UTF-8"),
    "a surrogate": (GOOD.encode() + b"\xed\xa0\x80\n", "line 2: not UTF-8"),
    "compressed": (b"\x1f\x8b\x08\x00" + bytes(range(256)), "line 1: not UTF-8"),
    "a null character": (GOOD.encode() * 3 + b"a\0b\n", "line 4: a null character"),
    "old Mac line ends": (GOOD.replace("\n", "\r").encode() * 3, "line 1: a carriage return"),
    "doubled line ends": (GOOD.replace("\n", "\r\r\n").encode(), "line 1: a carriage return"),
}
BAD_DOCUMENTS = {
    "padding": ((GOOD + "a □ b\n").encode(), "line 2.*'□'.*reserved"),
    "mask": (f"\n{GOOD}a ⁇\n".encode(), "line 3.*'⁇'.*reserved"),
}
BAD_TABLES = {
    "three columns": (b"\n\n\nWhere was Ann born?\tRome\tx\n", "line 4: 3 column.*question TAB"),
    "no answer": (b"Where was Ann born?\tRome\nWhere was Bo born?\t\n", "line 2: empty answer"),
    "no question": (b"\tRome\n", "line 1: empty question"),
    "a tab missing": (b"Where was Ann born?\tRome\n\nWhere was Bo born? Rome\n", "line 3: 1 col"),
    "commas": (b"Where was Ann born?,Rome\n", r"line 1: 1 column.*question TAB answer"),
    "a foreign character": ("Where was 王 born?\tRome\n".encode(), r"line 1.*'王' \(U\+738B\)"),
    "too long": (b"\nWhere was " + b"Ann " * 200 + b"born?\tRome\n", "line 2.*a block of"),
    "a mask": ("Where was ⁇ born?\tRome\n".encode(), "line 1.*⁇"),
    "padding": ("Where was Ann born?\t□\n".encode(), "line 1.*□"),
}
TEXT_COMMANDS = {
    "pretrain": f"pretrain vanilla corpus/text.txt --writing_params_path out {SMALL}",
    "finetune": "finetune vanilla corpus/text.txt --writing_params_path out "
    f"--finetune_corpus_path corpus/train.tsv {SMALL}",
    "run": f"run --corpus corpus --recipe smoke --out new {SMALL}",
    "baseline": "baseline --corpus corpus",
    "workbook": "workbook 1 --corpus corpus --profile smoke --out book",
}
TABLE_COMMANDS = {
    "finetune": ("train", TEXT_COMMANDS["finetune"]),
    "finetune from a checkpoint": (
        "train",
        TEXT_COMMANDS["finetune"].replace("--writing", "--reading_params_path model --writing"),
    ),
    "mixed pretraining": (
        "train",
        TEXT_COMMANDS["pretrain"]
        + " --finetune_corpus_path corpus/train.tsv --set data.mixed_pairs=1",
    ),
    "evaluate": (
        "dev",
        "evaluate vanilla corpus/text.txt --reading_params_path model "
        "--eval_corpus_path corpus/dev.tsv --outputs_path out",
    ),
    "run": ("test", TEXT_COMMANDS["run"]),
    "baseline": ("dev", TEXT_COMMANDS["baseline"]),
}


@pytest.mark.parametrize("command", TEXT_COMMANDS)
@pytest.mark.parametrize("bad", BAD_TEXTS | BAD_DOCUMENTS)
def test_a_bad_text_is_named_with_its_line(here, command, bad):
    content, words = (BAD_TEXTS | BAD_DOCUMENTS)[bad]
    (here / "corpus" / "text.txt").write_bytes(content)
    refused(here, TEXT_COMMANDS[command], "corpus/text.txt", words)


@pytest.mark.parametrize("command", TABLE_COMMANDS)
@pytest.mark.parametrize("bad", BAD_TEXTS | BAD_TABLES)
def test_a_bad_table_is_named_with_its_line(here, command, bad):
    content, words = (BAD_TEXTS | BAD_TABLES)[bad]
    split, line = TABLE_COMMANDS[command]
    (here / "corpus" / f"{split}.tsv").write_bytes(content)
    if command in ("evaluate", "run") and bad == "commas":
        return  # questions without answers, which these two accept and say so
    refused(here, line, f"corpus/{split}.tsv", words)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("command", ["pretrain", "finetune", "evaluate", "run", "baseline"])
def test_what_is_no_plain_file_is_refused_at_once(here, command, kind):
    name, line = "text.txt", TEXT_COMMANDS.get(command, "")
    if command in ("finetune", "evaluate"):
        split, line = TABLE_COMMANDS[command]
        name = f"{split}.tsv"
    special_file(kind, here / "corpus" / name)
    refused(here, line, f"corpus/{name}|corpus: no .txt|wanted")


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        ("", "''.*bios, wiki, or an existing folder"),
        ("bois", "bois.*did you mean 'bios'"),
        ("Wiki", "did you mean 'wiki'"),
        ("corpus/text.txt", "no such corpus"),
        ("/dev/null", "/dev/null: no such corpus"),
        ("gone/deep", "gone/deep: no such corpus"),
        ("bios:", "not option=value"),
        ("bios:people", "not option=value"),
        ("bios:people=", "not option=value"),
        ("bios:people=20,people=30", "people is given twice"),
        ("bios:people=many", "people='many' must be a whole number"),
        ("bios:people=0", "people=0 must be 20 to"),
        ("bios:people=-5", "people=-5 must be 20 to"),
        ("bios:people=99999999999999999999", "must be 20 to"),
        ("bios:people=1e3", "must be a whole number"),
        ("bios:lines=0", "lines=0 must be 1 to"),
        ("bios:lines=1000", "lines=1000 must be 1 to"),
        ("bios:atributes=birth", "did you mean 'attributes'"),
        ("bios:attributes=work", "must hold 'birth'"),
        ("bios:attributes=birth+wrok", "wrok"),
        ("bios:seed=x", "seed='x' must be a whole number"),
        ("~", "no .txt file|no such"),
        ("a\0b", "no such corpus|null"),
    ],
)
def test_a_corpus_that_does_not_exist(here, corpus, words):
    refused(here, ["baseline", "--corpus", corpus], words)
    refused(here, ["run", "--recipe", "smoke", "--out", "new", "--corpus", corpus], words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: (c / "text.txt").unlink(), "no .txt file"),
        (lambda c: (c / "train.tsv").unlink(), "no train pairs"),
        (lambda c: (c / "dev2.tsv").write_text("a\tb\n"), "dev2.tsv: a second file for dev"),
        (lambda c: (c / "more.tsv").write_text("a\tb\n"), "more.tsv: .*one of train, dev, test"),
        (lambda c: (c / "train_dev.tsv").write_text("a\tb\n"), "train_dev.tsv: .*one of"),
        (
            lambda c: (c / "train.tsv").write_text("Where was Ann born?\n"),
            r"train.tsv, line 1: 1 column.*question TAB",
        ),
        (
            lambda c: (c / "dev.tsv").write_text("Where was Ann born?\n"),
            r"dev.tsv, line 1: 1 column.*question TAB",
        ),
        (lambda c: (c / "text.txt").write_text("x\n"), "is in no document"),
    ],
)
def test_a_folder_that_is_no_corpus(here, change, words):
    change(here / "corpus")
    refused(here, TEXT_COMMANDS["run"], words)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "\n\n" + text.replace("\n", "\n \n"),
        lambda text: text.removesuffix("\n"),
        lambda text: unicodedata.normalize("NFD", text),
    ],
    ids=["Windows line ends", "byte order mark", "blank lines", "no last line end", "decomposed"],
)
def test_spellings_of_the_same_file_give_the_same_corpus(here, change):
    folder = here / "corpus"
    text = (folder / "text.txt").read_text() + "Zoë Ångström. Zoë Ångström was born in Zürich.\n"
    (folder / "text.txt").write_text(text)
    (folder / "dev.tsv").write_text("Where was Zoë Ångström born?\tZürich\n")
    plain = load_corpus(folder)
    for path in folder.iterdir():
        path.write_bytes(change(path.read_text()).encode())
    (folder / ".hidden.txt").write_bytes(b"\xff")
    again = load_corpus(folder)
    assert again == plain and len(again.vocab) == len(plain.vocab)


@pytest.mark.parametrize(
    ("split", "rows", "words"),
    [
        ("dev", "Where was A born?\tRome\nWhere was A born?\tParis\n", "several answers in dev"),
        ("dev", "Where was A born?\tRome\nWhere was A born?\tRome\n", "come twice in dev"),
        ("train", "Where was A born?\tRome\nWhere was A born?\tParis\n", "several answers in tr"),
        ("test", "Where was A born?\nWhere was A born?\n", "come twice in test"),
        ("dev", "Where was Zoë Aa born?\tRome\n", "names in more than one split: Zoë Aa"),
        ("dev", "Where was Zoe\u0308 Aa born?\tRome\n", "names in more than one split: Zoë Aa"),
    ],
)
def test_what_makes_a_score_doubtful_is_said(here, split, rows, words):
    folder = here / "corpus"
    with (folder / "text.txt").open("a") as file:
        file.write("Zoë Aa was born in Rome or Paris.\n")
    with (folder / "train.tsv").open("a") as file:
        file.write("Where was Zoë Aa born?\tRome\n")
    (folder / f"{split}.tsv").write_text(rows, encoding="utf-8")
    with pytest.warns(UserWarning, match=words):
        load_corpus(folder)


def test_a_long_wait_is_said(here, monkeypatch):
    monkeypatch.setattr(loading, "LARGE", 10)
    with pytest.warns(UserWarning, match=r"corpus: a training .* a minute .*: [\d,]+ characters"):
        load_corpus(here / "corpus")


# ---------------------------------------------------------------- any bytes, any text


@FIND
@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_as_they_are_or_refused(tmp_path, content):
    path = tmp_path / "any.txt"
    path.write_bytes(content)
    try:
        with no_hang():
            documents = read_documents(path)
    except CorpusError as error:
        is_clear(str(error), "any.txt")
        return
    text = unicodedata.normalize("NFC", content.decode("utf-8-sig")).replace("\r\n", "\n")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    assert documents == [line for line in lines if line.strip()]


LINES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0□⁇"), max_size=40)
)


@FIND
@given(lines=LINES)
def test_any_lines_are_read_back(tmp_path, lines):
    path = tmp_path / "any.txt"
    path.write_text("\n".join([*lines, "last"]), encoding="utf-8", newline="")
    expected = [unicodedata.normalize("NFC", line) for line in [*lines, "last"]]
    if expected[0].startswith("\ufeff"):
        expected[0] = expected[0][1:]
    assert read_documents(path) == [line for line in expected if line.strip()]


CELLS = st.text("abc ?é\u2028\x0b", min_size=1, max_size=8).filter(str.strip)


@FIND
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), data=st.data())
def test_the_line_of_a_bad_row_is_counted_as_an_editor_does(tmp_path, rows, data):
    path, lines = tmp_path / "any.tsv", []
    for question, answer in rows:
        lines += [""] * data.draw(st.integers(0, 2)) + [f"{question}\t{answer}"]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert read_pairs(path) == [
        tuple(unicodedata.normalize("NFC", cell.strip()) for cell in row) for row in rows
    ]
    bad = data.draw(st.integers(1, len(lines)))
    lines.insert(bad, "one\ttoo\tmany")
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    with pytest.raises(CorpusError, match=rf"any.tsv, line {bad + 1}: 3 col"):
        read_pairs(path)


@FIND
@given(spec=st.text("bios:people=lnst,+-0123 \t", max_size=30))
def test_any_corpus_name_is_loaded_or_refused(tmp_path_factory, spec):
    with warnings.catch_warnings(action="ignore"):
        try:
            corpus = load_corpus(f"bios:people=20,{spec}")
        except ValueError as error:
            is_clear(str(error), "bios")
        else:
            assert corpus.train and corpus.dev and corpus.test


def test_a_line_of_two_megabytes_is_read_and_a_message_does_not_repeat_it(here):
    with (here / "corpus" / "text.txt").open("a") as file:
        file.write("a" * 2 * 2**20 + "\n")
    assert len(load_corpus(here / "corpus").documents[-1]) == 2 * 2**20
    (here / "corpus" / "dev.tsv").write_text(f"Where was {'a' * 2**20} born?\tRome\n")
    refused(here, "baseline --corpus corpus", "dev.tsv, line 1")
    assert kt("baseline --corpus bios:people=20").status == 0
