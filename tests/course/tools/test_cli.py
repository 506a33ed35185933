"""The kt command: the assignment's published sequences as printed, our own commands, and clear one-line errors."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import kt_core as kt
from kt_course.tools.cli import main

SMALL = (
    "--set n_embd=16 --set n_layer=2 --set n_head=2 --set block_size=64 --max_steps 2 --device cpu"
)
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "cs224n"
LINE = re.compile(r"^Correct: (\d+) out of (\d+): (\d+\.\d)%$", re.M)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Small files under the names of the assignment's."""
    corpus, root = kt.load_corpus("bios:people=20"), tmp_path_factory.mktemp("files")
    (root / "wiki.txt").write_text("\n".join(corpus.documents))
    (root / "birth_places_train.tsv").write_text("".join(f"{q}\t{a}\n" for q, a in corpus.train))
    (root / "birth_dev.tsv").write_text("".join(f"{q}\t{a}\n" for q, a in corpus.dev))
    (root / "birth_test_inputs.tsv").write_text("".join(f"{q}\n" for q, _ in corpus.test))
    return root


@pytest.fixture
def here(stand_ins, tmp_path, monkeypatch):
    """A folder with those files, made the current one."""
    for path in stand_ins.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kt_does(line: str, capsys) -> str:
    """What `kt LINE` prints; it must end well."""
    status = main(shlex.split(line))
    told = capsys.readouterr()
    assert status == 0, told.err
    return told.out


def kt_fails(line: str, capsys) -> str:
    """The one line on stderr of a `kt LINE` that must fail with status 1."""
    status = main(shlex.split(line))
    told = capsys.readouterr()
    assert status == 1
    assert told.err.count("\n") == 1, told.err
    assert told.err.startswith(f"kt {line.split()[0]}: ")
    assert "Traceback" not in told.err + told.out
    return told.err


def scored(out: str, outputs: Path, gold: Path) -> None:
    """The printed line is the assignment's, and tells what the outputs file holds."""
    (found,) = LINE.finditer(out)
    answers = [a for _, a in (row.split("\t") for row in gold.read_text().splitlines())]
    predicted = outputs.read_text(encoding="utf-8").split("\n")[:-1]
    right = sum(p.strip() == a for p, a in zip(predicted, answers, strict=True))
    assert (int(found[1]), int(found[2])) == (right, len(answers))
    assert found[3] == f"{100 * right / len(answers):.1f}"


# ---------------------------------------------------------------- the three published sequences


def test_finetuning_without_pretraining(here, capsys):
    kt_does(
        "finetune vanilla wiki.txt --writing_params_path vanilla.model.params "
        f"--finetune_corpus_path birth_places_train.tsv {SMALL}",
        capsys,
    )
    _, _, card = kt.load_checkpoint("vanilla.model.params")
    assert (card["phase"], card["settings"]["learning_rate"], card["settings"]["epochs"]) == (
        "finetune",
        6e-4,
        75,
    )
    out = kt_does(
        "evaluate vanilla wiki.txt --reading_params_path vanilla.model.params "
        "--eval_corpus_path birth_dev.tsv --outputs_path vanilla.nopretrain.dev.predictions",
        capsys,
    )
    scored(out, here / "vanilla.nopretrain.dev.predictions", here / "birth_dev.tsv")


def test_vanilla_pretrained_finetuned_and_evaluated(here, capsys):
    kt_does(
        f"pretrain vanilla wiki.txt --writing_params_path vanilla.pretrain.params {SMALL}", capsys
    )
    kt_does(
        "finetune vanilla wiki.txt --reading_params_path vanilla.pretrain.params "
        "--writing_params_path vanilla.finetune.params --finetune_corpus_path birth_places_train.tsv "
        "--max_steps 2 --device cpu",
        capsys,
    )
    model, _, card = kt.load_checkpoint("vanilla.finetune.params")
    assert (model.config.n_embd, card["settings"]["epochs"], card["steps"]) == (16, 10, 2)
    out = kt_does(
        "evaluate vanilla wiki.txt --reading_params_path vanilla.finetune.params "
        "--eval_corpus_path birth_dev.tsv --outputs_path vanilla.pretrain.dev.predictions",
        capsys,
    )
    scored(out, here / "vanilla.pretrain.dev.predictions", here / "birth_dev.tsv")
    out = kt_does(
        "evaluate vanilla wiki.txt --reading_params_path vanilla.finetune.params "
        "--eval_corpus_path birth_test_inputs.tsv --outputs_path vanilla.pretrain.test.predictions",
        capsys,
    )
    assert (
        out
        == "No answers to compare with in birth_test_inputs.tsv: 5 answers written to vanilla.pretrain.test.predictions\n"
    )
    assert len((here / "vanilla.pretrain.test.predictions").read_text().split("\n")) == 5 + 1
    assert not list(here.glob("*.state"))


def test_perceiver(here, capsys):
    kt_does(
        "pretrain perceiver wiki.txt --bottleneck_dim 64 --pretrain_lr 6e-3 "
        f"--writing_params_path perceiver.pretrain.params {SMALL}",
        capsys,
    )
    model, _, card = kt.load_checkpoint("perceiver.pretrain.params")
    assert (model.config.variant, model.config.bottleneck, card["settings"]["learning_rate"]) == (
        "perceiver",
        64,
        6e-3,
    )
    kt_does(
        "finetune perceiver wiki.txt --bottleneck_dim 64 --reading_params_path perceiver.pretrain.params "
        "--writing_params_path perceiver.finetune.params --finetune_corpus_path birth_places_train.tsv "
        "--max_steps 2 --device cpu",
        capsys,
    )
    out = kt_does(
        "evaluate perceiver wiki.txt --bottleneck_dim 64 --reading_params_path perceiver.finetune.params "
        "--eval_corpus_path birth_dev.tsv --outputs_path perceiver.pretrain.dev.predictions",
        capsys,
    )
    scored(out, here / "perceiver.pretrain.dev.predictions", here / "birth_dev.tsv")


def test_its_options_reach_the_training(here, capsys):
    kt_does(
        f"pretrain rope wiki.txt --writing_params_path a --pretrain_lr 1e-3 --set n_head=4 --seed 3 {SMALL}",
        capsys,
    )
    model, _, card = kt.load_checkpoint("a")
    assert (model.config.variant, model.config.n_head, card["seed"]) == (
        "rope",
        2,
        3,
    )  # the last --set counts
    assert (
        card["settings"]["learning_rate"],
        card["settings"]["batch_size"],
        card["settings"]["shuffle"],
    ) == (1e-3, 128, False)
    for start in ("", "--reading_params_path a"):
        kt_does(
            f"finetune rope wiki.txt {start} --writing_params_path b --finetune_lr 2e-4 "
            f"--finetune_corpus_path birth_places_train.tsv {SMALL}",
            capsys,
        )
        assert kt.load_checkpoint("b")[2]["settings"]["learning_rate"] == 2e-4
    kt_does(
        "pretrain vanilla wiki.txt --writing_params_path c --recipe smoke --finetune_corpus_path birth_places_train.tsv "
        f"--set mixed_pairs=2 {SMALL}",
        capsys,
    )
    assert kt.load_checkpoint("c")[2]["settings"]["optimizer"] == "muon"


# ---------------------------------------------------------------- our commands


def test_baseline(capsys):
    assert LINE.fullmatch(kt_does("baseline", capsys).strip())
    assert " out of 5: " in kt_does("baseline --corpus bios:people=20", capsys)


@pytest.mark.skipif(not REAL.is_dir(), reason="the assignment's data is not part of the project")
def test_fetch_from_a_folder_then_the_london_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KT_DATA", str(tmp_path / "data"))
    assert "kt fetch wiki" in kt_fails("baseline --corpus wiki", capsys)
    assert (
        kt_does(f"fetch wiki --from {shlex.quote(str(REAL))}", capsys)
        == f"wiki is in {tmp_path / 'data' / 'wiki'}\n"
    )
    assert kt_does("baseline --corpus wiki", capsys) == "Correct: 25 out of 500: 5.0%\n"


def test_doctor_tells_one_line_a_check(capsys):
    status = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("[FAIL]")]
    assert all(line.startswith(("[OK]", "[FAIL]", "[--]")) for line in lines[:-1])
    assert all("->" in line for line in failed)
    assert status == (1 if failed else 0)


def test_run_and_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = "--set n_embd=16 --set block_size=64 --device cpu"
    out = kt_does(
        f"run --corpus bios:people=20 --recipe smoke --no-pretrain --variant rope --out runs/one {small}",
        capsys,
    )
    assert out.endswith("kept in runs/one\n")
    kt_does("report runs/one --out runs/report", capsys)
    assert {p.suffix for p in (tmp_path / "runs" / "report").iterdir()} >= {".md", ".csv", ".png"}
    assert "nowhere" in kt_fails("report nowhere", capsys)


COMMANDS = (
    "pretrain",
    "finetune",
    "evaluate",
    "run",
    "baseline",
    "fetch",
    "doctor",
    "bench",
    "report",
    "workbook",
    "checkpoints",
    "ablate",
    "progress",
    "grade",
    "release",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: kt {command}")


def test_the_help_of_kt_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(re.search(rf"^ +{command}\b", out, re.M) for command in COMMANDS)


def test_ctrl_c_is_status_130_and_no_traceback(monkeypatch, capsys):
    import kt_core.runs.experiment as runs

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run_experiment", stopped)
    assert main(["run"]) == 130
    assert capsys.readouterr().err == "kt run: stopped\n"


def test_as_a_process(here):
    """The exit status and stderr of a real process."""
    command = [
        sys.executable,
        "-m",
        "kt_course.tools.cli",
        "evaluate",
        "vanilla",
        "wiki.txt",
        "--reading_params_path",
        "none",
        "--eval_corpus_path",
        "birth_dev.tsv",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, env=_environment())
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        1,
        "",
        "kt evaluate: none: no such checkpoint\n",
    )


def _environment() -> dict[str, str]:
    import os

    root = str(Path(kt.__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": root}


# ---------------------------------------------------------------- errors


PRETRAIN = f"pretrain vanilla wiki.txt --writing_params_path out {SMALL}"
FINETUNE = f"finetune vanilla wiki.txt --writing_params_path out --finetune_corpus_path birth_places_train.tsv {SMALL}"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (PRETRAIN.replace("wiki.txt", "nowhere.txt"), "nowhere.txt: cannot be read"),
        (FINETUNE.replace("birth_places_train.tsv", "nowhere.tsv"), "nowhere.tsv: cannot be read"),
        (
            "finetune vanilla wiki.txt --reading_params_path none --writing_params_path out "
            "--finetune_corpus_path birth_places_train.tsv",
            "none: no such checkpoint",
        ),
        ("pretrain vanilla wiki.txt", "--writing_params_path is needed"),
        ("finetune vanilla wiki.txt --writing_params_path out", "--finetune_corpus_path is needed"),
        (
            "evaluate vanilla wiki.txt --eval_corpus_path birth_dev.tsv",
            "--reading_params_path is needed",
        ),
        ("evaluate vanilla wiki.txt --reading_params_path out", "--eval_corpus_path is needed"),
        (f"{PRETRAIN} --recipe kt", "--finetune_corpus_path is needed"),
        (f"{PRETRAIN} --set n_embd", "write KEY=VALUE"),
        (f"{PRETRAIN} --set nembd=3", "did you mean n_embd"),
        (f"{PRETRAIN} --set n_embd=wide", "recipe field n_embd must be int"),
        (f"{PRETRAIN} --set name=mine --set n_embd=15", "n_embd"),
        (f"{PRETRAIN} --recipe best", "no recipe 'best'"),
        (f"{PRETRAIN} --device tpu", "device"),
        (f"{PRETRAIN} --bottleneck_dim 0", "bottleneck"),
        (PRETRAIN.replace("--max_steps 2", "--max_steps 0"), "steps"),
        (
            PRETRAIN.replace("vanilla", "perceiver") + " --bottleneck_dim 100",
            "must not exceed block_size",
        ),
        ("run --recipe quick --set pretrain_epochs=long", "pretrain_epochs must be float"),
        ("run --corpus nowhere", "no such corpus"),
        ("run --corpus bios:peeple=3", "peeple"),
        ("run --init none", "none: no such checkpoint"),
        ("baseline --corpus nowhere", "no such corpus"),
        ("fetch wiki --from nowhere", "nowhere: no such folder"),
    ],
)
def test_errors_are_one_line_that_says_what_and_where(here, capsys, line, words):
    before = sorted(here.iterdir())
    assert words in kt_fails(line, capsys)
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
def test_a_malformed_table_names_file_and_line(here, capsys, text, words):
    (here / "bad.tsv").write_text(text, encoding="utf-8")
    told = kt_fails(FINETUNE.replace("birth_places_train.tsv", "bad.tsv"), capsys)
    assert "bad.tsv" in told
    assert words in told


def test_the_assignments_commands_refuse_to_train_in_several_processes(here, capsys, monkeypatch):
    for name, value in dict(
        RANK="1", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1"
    ).items():
        monkeypatch.setenv(name, value)
    told = kt_fails(f"pretrain vanilla wiki.txt --writing_params_path a.params {SMALL}", capsys)
    assert "kt pretrain trains in one process" in told
    assert not Path("a.params").exists()


def test_questions_without_answers_cannot_be_finetuned_on(here, capsys):
    assert "no answer" in kt_fails(
        FINETUNE.replace("birth_places_train.tsv", "birth_test_inputs.tsv"), capsys
    )


def test_checkpoints_that_do_not_fit(here, capsys):
    kt_does(PRETRAIN.replace("vanilla", "perceiver") + " --bottleneck_dim 32", capsys)
    evaluate = "wiki.txt --reading_params_path out --eval_corpus_path birth_dev.tsv"
    assert "out holds a perceiver model, not rope" in kt_fails(f"evaluate rope {evaluate}", capsys)
    assert "has bottleneck 32, not 64" in kt_fails(
        f"evaluate perceiver {evaluate} --bottleneck_dim 64", capsys
    )
    long = "Where was " + "Ann " * 12 + "born?\tLondon\n"
    (here / "long.tsv").write_text(long)  # fits the recipe's block of 128, not the model's of 64
    assert "long.tsv, line 1" in kt_fails(
        f"evaluate perceiver {evaluate.replace('birth_dev', 'long')}", capsys
    )
    (here / "folder").mkdir()
    assert "folder" in kt_fails(f"evaluate perceiver {evaluate} --outputs_path folder", capsys)
    (here / "out").write_bytes(b"not weights")
    assert "SHA-256" in kt_fails(f"evaluate perceiver {evaluate}", capsys)


@pytest.mark.parametrize(
    "line",
    ["", "evaluate ropee wiki.txt", "run --variant ropee", "fetch", "nonsense", "run --seed x"],
)
def test_a_wrong_command_line_is_told_by_the_parser(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line))
    assert ended.value.code == 2
    assert "usage: kt" in capsys.readouterr().err


def test_a_stopped_training_goes_on(here, capsys, monkeypatch):
    from kt_core.trainer import Trainer

    kt_does(PRETRAIN, capsys)
    whole = (here / "out").read_bytes()
    plain = Trainer.__init__

    def stopping(self, *given, **named):
        def stop(row):
            if row["step"] == 1:
                raise KeyboardInterrupt

        plain(self, *given, **named, log=stop)
        object.__setattr__(self.config, "log_every", 1)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "__init__", stopping)
        assert main(shlex.split(PRETRAIN.replace("path out", "path again"))) == 130
    assert "stopped" in capsys.readouterr().err
    assert (here / "again.state").exists()
    kt_does(PRETRAIN.replace("path out", "path again") + " --resume", capsys)
    assert (here / "again").read_bytes() == whole
    assert not (here / "again.state").exists()
