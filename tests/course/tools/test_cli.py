"""The kt command: the assignment's published sequences, our own commands, clear one-line errors."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import kt_core as kt
from kt_core.blocks import VARIANTS
from kt_core.runs import hooks
from kt_course.tools import options
from kt_course.tools.cli import COMMANDS, main

SMALL = (
    "--set model.n_embd=16 --set model.n_layer=2 --set model.n_head=2 --set model.block_size=64 "
    "--set model.bottleneck=32 --max_steps 2 --device cpu"
)
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "cs224n"
LINE = re.compile(r"^Correct: (\d+) out of (\d+): (\d+\.\d)%$", re.M)
PAIRS = "--finetune_corpus_path birth_places_train.tsv"
PRETRAIN = f"pretrain vanilla wiki.txt --writing_params_path out {SMALL}"
FINETUNE = f"finetune vanilla wiki.txt --writing_params_path out {PAIRS} {SMALL}"


@pytest.fixture
def here(small_corpus, tmp_path, monkeypatch):
    """A folder with small files under the names of the assignment's, made the current one."""
    corpus = small_corpus
    (tmp_path / "wiki.txt").write_text("\n".join(corpus.documents))
    for name, pairs in (("birth_places_train", corpus.train), ("birth_dev", corpus.dev)):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{q}\t{a}\n" for q, a in pairs))
    (tmp_path / "birth_test_inputs.tsv").write_text("".join(f"{q}\n" for q, _ in corpus.test))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_kt(capsys):
    """A function that runs `kt LINE`, which must succeed, and returns what it prints."""

    def run(line: str) -> str:
        status = main(shlex.split(line))
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return run


@pytest.fixture
def fail_kt(capsys):
    """A function that runs `kt LINE`, which must fail, and returns its one line on stderr."""

    def fail(line: str, status: int = 2) -> str:
        assert main(shlex.split(line)) == status
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1, printed.err
        assert printed.err.startswith(f"kt {line.split()[0]}: ")
        assert "Traceback" not in printed.err + printed.out
        return printed.err

    return fail


def check_score(out: str, outputs: Path, gold: Path) -> None:
    """The printed line is the assignment's, and agrees with the file of answers."""
    (line,) = LINE.finditer(out)
    answers = [a for _, a in (row.split("\t") for row in gold.read_text().splitlines())]
    predicted = outputs.read_text(encoding="utf-8").split("\n")[:-1]
    correct = sum(p.strip() == a for p, a in zip(predicted, answers, strict=True))
    assert (int(line[1]), int(line[2])) == (correct, len(answers))
    assert line[3] == f"{100 * correct / len(answers):.1f}"


# ---------------------------------------------------------------- the assignment's sequences


def test_finetuning_without_pretraining(here, run_kt):
    run_kt(
        "finetune vanilla wiki.txt --writing_params_path vanilla.model.params "
        f"--finetune_corpus_path birth_places_train.tsv {SMALL}"
    )
    _, _, card = kt.load_checkpoint("vanilla.model.params")
    settings = card["settings"]
    assert card["phase"] == "finetune"
    assert (settings["lr"], settings["epochs"]) == (6e-4, 75)
    out = run_kt(
        "evaluate vanilla wiki.txt --reading_params_path vanilla.model.params "
        "--eval_corpus_path birth_dev.tsv --outputs_path vanilla.nopretrain.dev.predictions"
    )
    check_score(out, here / "vanilla.nopretrain.dev.predictions", here / "birth_dev.tsv")


def test_vanilla_pretrained_finetuned_and_evaluated(here, run_kt):
    run_kt(f"pretrain vanilla wiki.txt --writing_params_path vanilla.pretrain.params {SMALL}")
    run_kt(
        "finetune vanilla wiki.txt --reading_params_path vanilla.pretrain.params "
        f"--writing_params_path vanilla.finetune.params {PAIRS} --max_steps 2 --device cpu"
    )
    model, _, card = kt.load_checkpoint("vanilla.finetune.params")
    assert (model.config.n_embd, card["settings"]["epochs"], card["steps"]) == (16, 10, 2)
    evaluate = "evaluate vanilla wiki.txt --reading_params_path vanilla.finetune.params "
    predictions = "vanilla.pretrain.dev.predictions"
    out = run_kt(f"{evaluate} --eval_corpus_path birth_dev.tsv --outputs_path {predictions}")
    check_score(out, here / predictions, here / "birth_dev.tsv")
    predictions = "vanilla.pretrain.test.predictions"
    test = f"--eval_corpus_path birth_test_inputs.tsv --outputs_path {predictions}"
    assert run_kt(f"{evaluate} {test}") == (
        f"No answers to compare with in birth_test_inputs.tsv: 5 answers written to {predictions}\n"
    )
    assert len((here / predictions).read_text().split("\n")) == 5 + 1
    assert not list(here.glob("*.state"))


def test_perceiver(here, run_kt):
    run_kt(
        "pretrain perceiver wiki.txt --bottleneck_dim 32 --pretrain_lr 6e-3 "
        f"--writing_params_path perceiver.pretrain.params {SMALL}"
    )
    model, _, card = kt.load_checkpoint("perceiver.pretrain.params")
    assert (model.config.variant, model.config.bottleneck) == ("perceiver", 32)
    assert card["settings"]["lr"] == 6e-3
    run_kt(
        "finetune perceiver wiki.txt --bottleneck_dim 32 "
        "--reading_params_path perceiver.pretrain.params "
        f"--writing_params_path perceiver.finetune.params {PAIRS} --max_steps 2 --device cpu"
    )
    out = run_kt(
        "evaluate perceiver wiki.txt --bottleneck_dim 32 "
        "--reading_params_path perceiver.finetune.params "
        "--eval_corpus_path birth_dev.tsv --outputs_path perceiver.pretrain.dev.predictions"
    )
    check_score(out, here / "perceiver.pretrain.dev.predictions", here / "birth_dev.tsv")


def test_its_options_reach_the_training(here, run_kt):
    more = "--pretrain_lr 1e-3 --seed 3 --set pretrain.shuffle=true"
    run_kt(f"pretrain rope wiki.txt --writing_params_path a {more} {SMALL}")
    model, _, card = kt.load_checkpoint("a")
    settings = card["settings"]
    assert (model.config.variant, model.config.n_head, card["seed"]) == ("rope", 2, 3)
    assert (settings["lr"], settings["batch_size"]) == (1e-3, 128)
    assert settings["shuffle"] is True
    for start in ("", "--reading_params_path a"):
        line = f"finetune rope wiki.txt {start} --writing_params_path b --finetune_lr 2e-4"
        run_kt(f"{line} {PAIRS} {SMALL}")
        assert kt.load_checkpoint("b")[2]["settings"]["lr"] == 2e-4
    line = "pretrain vanilla wiki.txt --writing_params_path c --recipe smoke"
    run_kt(f"{line} {PAIRS} --set data.mixed_pairs=2 {SMALL}")
    assert kt.load_checkpoint("c")[2]["settings"]["optimizer"] == "muon"


def test_a_stopped_training_is_resumed(here, run_kt, fail_kt, monkeypatch):
    run_kt(PRETRAIN)
    whole, again = (here / "out").read_bytes(), PRETRAIN.replace("path out", "path again")

    def stop(self, trainer):
        raise hooks.Stopped  # as Ctrl-C does, between two steps

    with monkeypatch.context() as patch:
        patch.setattr(hooks.Progress, "on_step", stop)
        assert "stopped" in fail_kt(again, 130)
    assert (here / "again.state").exists()
    assert "again.state holds a stopped training" in fail_kt(again)
    run_kt(f"{again} --resume")
    assert (here / "again").read_bytes() == whole
    assert not (here / "again.state").exists()


# ---------------------------------------------------------------- our commands


def test_baseline(run_kt):
    assert LINE.fullmatch(run_kt("baseline").strip())
    assert " out of 5: " in run_kt("baseline --corpus bios:people=20")


@pytest.mark.skipif(not REAL.is_dir(), reason="the assignment's data is not part of the project")
def test_fetch_from_a_folder_then_the_london_row(tmp_path, monkeypatch, run_kt, fail_kt):
    monkeypatch.setenv("KT_DATA", str(tmp_path / "data"))
    assert "kt fetch wiki" in fail_kt("baseline --corpus wiki")
    out = run_kt(f"fetch wiki --from {shlex.quote(str(REAL))}")
    assert out == f"wiki is in {tmp_path / 'data' / 'wiki'}\n"
    assert run_kt("baseline --corpus wiki") == "Correct: 25 out of 500: 5.0%\n"


def test_run_and_report(tmp_path, monkeypatch, run_kt, fail_kt):
    monkeypatch.chdir(tmp_path)
    small = "--set model.n_embd=16 --set model.block_size=64 --device cpu"
    line = "run --corpus bios:people=20 --recipe smoke --no-pretrain --variant rope --out runs/one"
    out = run_kt(f"{line} {small} --set model.bottleneck=32")
    assert out.endswith("written to runs/one\n")
    run_kt("report runs/one --out runs/report")
    assert {p.suffix for p in (tmp_path / "runs" / "report").iterdir()} >= {".md", ".csv", ".png"}
    assert "nowhere" in fail_kt("report nowhere")


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: kt {command}")


def test_the_help_of_kt_lists_every_command_and_does_not_wait_for_torch():
    code = "import sys; from kt_course.tools.cli import main; main(['--help']); "
    code += "assert not {'torch', 'numpy', 'kt_core'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(re.search(rf"^│ {command} ", done.stdout, re.M) for command in COMMANDS)


def test_the_variants_are_those_of_the_core():
    assert typing.get_args(options.Variant) == VARIANTS


def test_ctrl_c_is_status_130(monkeypatch, fail_kt):
    from kt_course.tools import run_commands

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_commands, "run_experiment", stop)
    assert fail_kt("run", 130) == "kt run: stopped\n"


def test_as_a_process(here):
    """The exit status and stderr of a real process."""
    line = "evaluate vanilla wiki.txt --reading_params_path none --eval_corpus_path birth_dev.tsv"
    command = [sys.executable, "-m", "kt_course.tools.cli", *line.split()]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "kt evaluate: none: no such checkpoint\n"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (PRETRAIN.replace("wiki.txt", "nowhere.txt"), "nowhere.txt: "),
        (FINETUNE.replace("birth_places_train.tsv", "nowhere.tsv"), "nowhere.tsv: "),
        (f"{FINETUNE} --reading_params_path none", "none: no such checkpoint"),
        ("pretrain vanilla wiki.txt", "--writing_params_path is needed"),
        ("finetune vanilla wiki.txt --writing_params_path out", "--finetune_corpus_path is needed"),
        (
            "evaluate vanilla wiki.txt --eval_corpus_path birth_dev.tsv",
            "--reading_params_path is needed",
        ),
        ("evaluate vanilla wiki.txt --reading_params_path out", "--eval_corpus_path is needed"),
        (f"{PRETRAIN} --recipe kt", "--finetune_corpus_path is needed"),
        (PRETRAIN.replace("path out", "path wiki.txt"), "wiki.txt is read and would be"),
        (f"{PRETRAIN} --set n_embd", "write KEY=VALUE"),
        (f"{PRETRAIN} --set model.nembd=3", "did you mean 'model.n_embd'"),
        (f"{PRETRAIN} --set pretrain_lr=3", "did you mean 'pretrain.lr'"),
        (f"{PRETRAIN} --set model.n_head=4", "--set model.n_head is given twice"),
        (PRETRAIN.replace("n_embd=16", "n_embd=wide"), "n_embd"),
        (PRETRAIN.replace("n_embd=16", "n_embd=15"), "n_embd"),
        (f"{PRETRAIN} --recipe best", "no recipe 'best'"),
        (f"{PRETRAIN} --device tpu", "device"),
        (PRETRAIN.replace("bottleneck=32", "bottleneck=0"), "bottleneck"),
        (PRETRAIN.replace("--max_steps 2", "--max_steps 0"), "steps"),
        (f"{PRETRAIN} --set pretrain.epochs=long", "epochs"),
        ("run --corpus nowhere", "no such corpus"),
        ("run --corpus bios:peeple=3", "peeple"),
        ("baseline --corpus nowhere", "no such corpus"),
        ("fetch wiki --from nowhere", "nowhere: no such folder"),
        ("evaluate ropee wiki.txt", 'Did you mean "rope"?'),
        ("run --varaint rope", "Did you mean --variant?"),
        ("run --seed x", "--seed"),
        ("fetch", "WHAT requires an argument"),
        ("runn", "did you mean 'run'?"),
        ("nonsense", "there are pretrain, finetune"),
    ],
)
def test_errors_are_one_line_that_says_what_and_where(here, fail_kt, line, words):
    before = sorted(here.iterdir())
    assert words in fail_kt(line)
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Where was A born?\tB\tC\n", "line 1: 3 columns"),
        ("Where was Ann born?\tLondon\nWhere was Bo born?\t\n", "line 2: empty answer"),
        ("Where was Ann born?\tLondon\nWhere was Bo born?\n", "line 2: 1 column"),
        ("Where was 王 born?\tLondon\n", "line 1: character '王'"),
        (f"Where was {'Ann ' * 20}born?\tLondon\n", "line 1: "),
        ("", "empty"),
    ],
)
def test_a_malformed_table_names_file_and_line(here, fail_kt, text, words):
    (here / "bad.tsv").write_text(text, encoding="utf-8")
    message = fail_kt(FINETUNE.replace("birth_places_train.tsv", "bad.tsv"))
    assert "bad.tsv" in message and words in message


def test_the_assignments_commands_refuse_to_train_in_several_processes(here, fail_kt, monkeypatch):
    torchrun = dict(RANK="1", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1")
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    assert "kt pretrain trains in one process" in fail_kt(PRETRAIN)
    assert not Path("out").exists()


def test_questions_without_answers_cannot_be_finetuned_on(here, fail_kt):
    line = FINETUNE.replace("birth_places_train.tsv", "birth_test_inputs.tsv")
    assert "line 1: 1 column; wanted: question TAB answer" in fail_kt(line)


def test_checkpoints_that_do_not_fit(here, run_kt, fail_kt):
    run_kt(PRETRAIN.replace("vanilla", "perceiver"))
    evaluate = "wiki.txt --reading_params_path out --eval_corpus_path birth_dev.tsv"
    assert "out holds a perceiver model, not rope" in fail_kt(f"evaluate rope {evaluate}")
    assert "has bottleneck 32, not 64" in fail_kt(
        f"evaluate perceiver {evaluate} --bottleneck_dim 64"
    )
    long = "Where was " + "Ann " * 12 + "born?\tLondon\n"
    (here / "long.tsv").write_text(long)  # fits the recipe's block of 128, not the model's of 64
    line = evaluate.replace("birth_dev", "long")
    assert "long.tsv, line 1" in fail_kt(f"evaluate perceiver {line}")
    (here / "folder").mkdir()
    assert "folder" in fail_kt(f"evaluate perceiver {evaluate} --outputs_path folder")
    (here / "out").write_bytes(b"not weights")
    assert "SHA-256" in fail_kt(f"evaluate perceiver {evaluate}")
