"""Empty and odd arguments of every command: the message names the argument that is wrong."""

import pytest
from attacking import refused

from kt_course.tools.cli import COMMANDS

# a command line with {} for the argument, and what its message calls it
ARGUMENTS = [
    ("pretrain rope {} --writing_params_path out", "CORPUS"),
    ("pretrain rope corpus/text.txt --writing_params_path {}", "--writing_params_path"),
    ("finetune rope {} --writing_params_path out", "CORPUS"),
    ("finetune rope corpus/text.txt --writing_params_path out --reading_params_path {}", "reading"),
    ("evaluate rope corpus/text.txt --reading_params_path {}", "--reading_params_path"),
    ("evaluate rope corpus/text.txt --eval_corpus_path {}", "--eval_corpus_path"),
    ("run --out {}", "--out"),
    ("score {}", "RUN"),
    ("fetch wiki --from {}", "--from"),
    ("sweep --grid seed=0 --out {}", "--out"),
    ("report {}", "RUNS"),
    ("report run {}", "RUNS"),
    ("report run --out {}", "--out"),
    ("workbook --out {}", "--out"),
    ("lab {}", "''"),
    ("doctor {}", "''"),
    ("progress {}", "''"),
    ("progress --certificate {}", "--certificate"),
    ("release {}", "FOLDER"),
    ("grade {} --out grades.csv", "SUBMISSIONS|FOLDER"),
    ("grade corpus --out {}", "--out"),
    ("grade corpus --out grades.csv --roster {}", "--roster"),
    ("export bios-rope-finetuned {}", "FOLDER"),
    ("export {} out", "CHECKPOINT|checkpoint"),
    ("baseline --corpus {}", "''.*no such corpus"),
    ("workbook --corpus {}", "''.*no such corpus"),
    ("run --corpus {}", "''.*no such corpus"),
    ("run --device {}", "device"),
    ("run --set {}", "--set ''"),
]


def test_every_command_is_tried():
    assert {line.split()[0] for line, _ in ARGUMENTS} == set(COMMANDS)


@pytest.mark.parametrize(("line", "name"), ARGUMENTS, ids=[line for line, _ in ARGUMENTS])
def test_an_empty_argument_is_named(here, line, name):
    refused(here, ["" if token == "{}" else token for token in line.split()], name)


# what replaces a folder of runs, submissions and so on, and what the message says about it
ODD = [
    ("report missing", "missing: no such folder"),
    ("report model", "model: not a folder"),
    ("report corpus", "corpus: no run in it"),
    ("score missing", "missing: no result.json"),
    ("score model", "model: no result.json"),
    ("score corpus", "corpus: no result.json"),
    ("grade missing --out grades.csv", "missing: no such file or folder"),
    ("grade corpus --out grades.csv", "no notebook in corpus"),
    ("fetch wiki --from missing", "missing: no such folder"),
    ("fetch wiki --from model", "model: no such folder"),
    ("fetch wiki --from corpus", "corpus/wiki.txt: missing"),
    ("baseline --corpus missing", "missing: no such corpus"),
    ("baseline --corpus model", "model: no such corpus"),
    ("release model", "model: a file, not a folder"),
    ("export missing out", "no checkpoint 'missing'; known: "),
    ("export corpus out", "corpus: no such checkpoint"),
    ("export model model", "model is a file: name a folder"),
    ("progress --certificate corpus", "corpus: not a plain file"),
    ("progress --certificate model", "model: the name of the page must end in .html"),
    ("workbook nope", "no notebook 'nope'"),
    ("doctor model", "'model': one argument too many; see kt doctor --help"),
]


@pytest.mark.parametrize(("line", "words"), ODD, ids=[line for line, _ in ODD])
def test_a_missing_wrong_or_empty_folder_is_named(here, line, words):
    refused(here, line, words)
