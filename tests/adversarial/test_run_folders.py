"""Run folders and outputs: no input is replaced, no work lost, no foreign file taken for ours."""

from __future__ import annotations

import json
import os
import shutil
import stat

import pytest
import torch
from attacking import BROKEN_JSON, FIND, SMALL, files, is_clear, kt, refused, special_file
from hypothesis import given
from hypothesis import strategies as st

from kt_core.corpora.files import one_writer, read_json, write_atomically
from kt_core.runs import hooks
from kt_core.runs.checkpoints import load_checkpoint

RUN = "run --corpus corpus --recipe smoke --no-pretrain --out run --set scratch.epochs=1 " + SMALL
PRETRAIN = f"pretrain vanilla corpus/text.txt --max_steps 2 {SMALL} --writing_params_path"
FINETUNE = (
    "finetune vanilla corpus/text.txt --finetune_corpus_path corpus/train.tsv "
    f"--reading_params_path model --max_steps 2 {SMALL} --writing_params_path"
)
EVALUATE = (
    "evaluate vanilla corpus/text.txt --reading_params_path model "
    "--eval_corpus_path corpus/dev.tsv --outputs_path"
)


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def unfinished(here):
    """The run, as if it had been stopped before its result was written."""
    (here / "run" / "result.json").unlink()
    return here / "run"


# ---------------------------------------------------------------- outputs

INPUTS = ["corpus/text.txt", "corpus/train.tsv", "corpus/dev.tsv", "model", "model.json"]


@pytest.mark.parametrize("spelling", ["{}", "./{}", "corpus/../{}", "link"])
@pytest.mark.parametrize(
    ("line", "name"),
    [
        (PRETRAIN, "corpus/text.txt"),
        (FINETUNE, "corpus/text.txt"),
        (FINETUNE, "corpus/train.tsv"),
        (FINETUNE, "model"),
        (FINETUNE, "model.json"),
        *((EVALUATE, name) for name in INPUTS if "train" not in name),
    ],
)
def test_an_output_never_replaces_an_input(here, line, name, spelling):
    (here / "link").symlink_to(here / name)
    refused(here, f"{line} {spelling.format(name)}", "is read and would be overwritten")


@pytest.mark.parametrize("line", [PRETRAIN, FINETUNE, EVALUATE], ids=["pre", "fine", "evaluate"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "endless device", "looping link"])
def test_an_output_replaces_nothing_but_a_plain_file(here, line, kind):
    special_file(kind, here / "out")
    refused(here, f"{line} out", "out")


@pytest.mark.parametrize("line", [PRETRAIN, FINETUNE, EVALUATE], ids=["pre", "fine", "evaluate"])
def test_an_output_below_a_file_or_without_a_name(here, line):
    refused(here, f"{line} model/out", "model")
    refused(here, [*f"{line}".split(), ""], r"\.|''|name")
    refused(here, [*f"{line}".split(), "o" * 300], "too long|o{20}")
    refused(here, [*f"{line}".split(), "a\0b"], "null|plain|'")


def test_answers_and_checkpoint_in_one_file(here):
    line = f"{PRETRAIN} out --outputs_path out"
    refused(here, line, "out would be written twice")
    refused(here, line.replace("--outputs_path out", "--outputs_path out.json"), "twice")


@pytest.mark.parametrize("line", [PRETRAIN, FINETUNE], ids=["pretrain", "finetune"])
def test_a_finished_checkpoint_is_kept_beside_the_new_one(here, line):
    line = f"{line} model2"
    shutil.copy(here / "other", here / "model2")
    shutil.copy(here / "other.json", here / "model2.json")
    before = {name: (here / name).read_bytes() for name in ("other", "other.json")}
    ran = kt(line)
    assert ran.status == 0 and "model2 that was there is now model2~1" in ran.out
    assert (here / "model2~1").read_bytes() == before["other"]
    assert (here / "model2.json~1").read_bytes() == before["other.json"]
    assert kt(line).status == 0 and (here / "model2~2").exists()


@pytest.mark.parametrize("line", [PRETRAIN, FINETUNE], ids=["pretrain", "finetune"])
def test_a_stopped_training_is_not_replaced(here, monkeypatch, line):
    def stop(self, trainer):
        raise hooks.Stopped

    with monkeypatch.context() as patch:
        patch.setattr(hooks.Progress, "on_step", stop)
        assert kt(f"{line} out").status == 130
    refused(here, f"{line} out", "out.state holds a stopped training: add --resume, or delete it")
    refused(here, f"{line} out --resume --seed 5", "out.state was saved by a training with other")
    content = (here / "out.state").read_bytes()
    (here / "out.state").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(here, f"{line} out --resume", "out.state is damaged")
    (here / "out.state").write_bytes(content[: len(content) // 2])
    refused(here, f"{line} out --resume", "out.state is damaged")
    (here / "out.state").write_bytes(content)
    assert kt(f"{line} out --resume").status == 0 and not (here / "out.state").exists()


def test_a_stopped_training_is_not_resumed_on_an_edited_corpus(here, monkeypatch):
    def stop(self, trainer):
        raise hooks.Stopped

    with monkeypatch.context() as patch:
        patch.setattr(hooks.Progress, "on_step", stop)
        assert kt(f"{PRETRAIN} out").status == 130
    lines = (here / "corpus" / "text.txt").read_text().splitlines()
    (here / "corpus" / "text.txt").write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    refused(here, f"{PRETRAIN} out --resume", "other settings or data")


def test_two_writers_of_one_checkpoint(here):
    with one_writer(here / ".out.lock", "out"):
        refused(here, f"{PRETRAIN} out", "out is in use by another process")


@pytest.mark.parametrize(
    ("command", "target"),
    [("report run --out", "model"), ("release", "model"), ("export model", "other")],
)
def test_a_folder_that_is_a_file(here, command, target):
    refused(here, f"{command} {target}", target)


@pytest.mark.parametrize("command", ["release corpus", "release run", "export model corpus"])
def test_a_folder_of_other_things_is_left_alone(here, command):
    refused(here, command, "not empty|holds something else")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("line", [PRETRAIN, FINETUNE, EVALUATE])
def test_a_folder_that_cannot_be_written(here, line):
    (here / "locked").mkdir(mode=0o500)
    refused(here, f"{line} locked/out", "locked/out")


# ---------------------------------------------------------------- a write is whole, or nothing


class Full(OSError):
    """No space is left."""


@pytest.mark.parametrize("stage", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("line", [PRETRAIN, FINETUNE, EVALUATE], ids=["pre", "fine", "evaluate"])
def test_a_disk_that_is_full_leaves_what_was_there(here, monkeypatch, line, stage):
    (here / "out").write_bytes(b"earlier")
    earlier = b"earlier"

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, stage, fail)
        ran = kt(f"{line} out")
    if (ran.status, stage) == (0, "chmod"):  # there is no file whose permissions to keep
        return
    assert ran.status == 2
    is_clear(ran.err, "No space left on device.*(out|state)")
    contents = files(here)
    assert earlier in (contents.get("out"), contents.get("out~1"))
    assert not [name for name in contents if name.startswith(".") and "lock" not in name]


@FIND
@given(before=st.binary(max_size=50) | st.none(), after=st.binary(max_size=50))
def test_a_write_gives_the_new_content_and_keeps_permissions_and_links(tmp_path, before, after):
    for name in ("plain", "link"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "link").symlink_to(tmp_path / "plain")
    if before is not None:
        (tmp_path / "plain").write_bytes(before)
        (tmp_path / "plain").chmod(0o640)
    write_atomically(tmp_path / "link", after)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "plain").read_bytes() == after
    if before is not None:
        assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "plain"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_new_files_get_the_permissions_that_the_user_wants(here, mask):
    before = os.umask(mask)
    try:
        assert kt(f"{EVALUATE} out").status == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((here / "out").stat().st_mode) == 0o666 & ~mask


# ---------------------------------------------------------------- run folders

CHANGES = {
    "seed": ("--seed 1", "seed was 0, now 1"),
    "variant": ("--variant rope", "variant was 'vanilla', now 'rope'"),
    "recipe": ("--set scratch.batch_size=3", r"scratch\.batch_size was .*, now 3"),
    "dropout": ("--set model.dropout=0.3", r"model\.dropout was .*, now 0.3"),
    "corpus": ("--corpus bios:people=20", "corpus was 'corpus', now 'bios:people=20'"),
}


@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "unfinished"])
@pytest.mark.parametrize("change", CHANGES)
def test_another_run_is_not_continued(here, change, is_finished):
    if not is_finished:
        unfinished(here)
    option, words = CHANGES[change]
    line = RUN.replace("--corpus corpus ", "") if change == "corpus" else RUN
    line += "" if change == "corpus" else " "
    refused(here, f"{line} {option} --resume", "run holds a run with other settings", words)
    refused(here, f"{line} {option}", "run holds a run already", "--resume", "--out")


@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "unfinished"])
@pytest.mark.parametrize("name", ["text.txt", "train.tsv", "dev.tsv", "test.tsv"])
def test_a_run_is_not_continued_on_an_edited_corpus(here, name, is_finished):
    if not is_finished:
        unfinished(here)
    path = here / "corpus" / name
    lines = path.read_text().splitlines()
    path.write_text("\n".join(reversed(lines)) + "\n")
    refused(here, f"{RUN} --resume", "other settings", "corpus_sha256 was")


CONFIGS = BROKEN_JSON | {
    "an empty object": b"{}",
    "null values": b'{"corpus": null, "recipe": null}',
    "a recipe that is a list": b'{"recipe": [1, 2]}',
}


@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "unfinished"])
@pytest.mark.parametrize("content", CONFIGS)
def test_a_damaged_config_is_named(here, content, is_finished):
    if not is_finished:
        unfinished(here)
    (here / "run" / "config.json").write_bytes(CONFIGS[content])
    refused(here, f"{RUN} --resume", "run/config.json|run holds a run with other")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["config.json", "result.json"],
            "run holds (finetuned|pretrained).* without a config.json",
        ),
        (["config.json"], "without a config.json"),
    ],
)
@pytest.mark.parametrize("option", ["", "--resume", "--variant rope --seed 1"])
def test_weights_without_a_config_are_not_taken_over(here, names, words, option):
    for name in names:
        (here / "run" / name).unlink()
    refused(here, f"{RUN} {option}", words)


@pytest.mark.parametrize("damage", ["flip", "cut", "nan", "card", "empty"])
def test_damaged_weights_of_an_unfinished_run_are_named(here, damage):
    path = unfinished(here) / "finetuned.safetensors"
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif damage == "cut":
        path.write_bytes(content[:-3])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "card":
        edit_json(path.with_name(f"{path.name}.json"), lambda card: card.update(seed=9))
    elif damage == "nan":
        from safetensors.torch import load, save

        path.write_bytes(save({k: t * torch.nan for k, t in load(content).items()}))
    refused(here, f"{RUN} --resume", r"run/finetuned\.safetensors")


def test_weights_of_another_run_are_not_taken_over(here):
    line = f"{RUN.replace('--out run', '--out second')} --seed 1 --variant rope"
    assert kt(line).status == 0
    folder = unfinished(here)
    for name in ("finetuned.safetensors", "finetuned.safetensors.json"):
        shutil.copy(here / "second" / name, folder / name)
    refused(here, f"{RUN} --resume", "run/finetuned.safetensors", "seed|variant")


def test_foreign_files_in_a_folder_are_left_alone(here):
    (here / "new").mkdir()
    (here / "new" / "notes.txt").write_text("mine")
    assert kt(RUN.replace("--out run", "--out new")).status == 0
    assert (here / "new" / "notes.txt").read_text() == "mine"
    assert read_json(here / "new" / "result.json")["dev"] == read_json("run/result.json")["dev"]


@pytest.mark.parametrize("name", ["finetune.state", "pretrain.state"])
def test_a_state_without_a_config_is_not_taken_over(here, name):
    (here / "new").mkdir()
    (here / "new" / name).write_bytes(b"x")
    refused(here, RUN.replace("--out run", "--out new"), f"new holds {name} without")


def test_a_folder_in_use(here):
    with one_writer(here / "run" / ".lock", "run"):
        refused(here, f"{RUN} --resume", "run is in use by another process: wait until it ends")


@pytest.mark.parametrize("kind", ["pipe", "endless device", "looping link", "dangling link"])
def test_a_run_in_place_of_something_else(here, kind):
    special_file(kind, here / "thing")
    before = files(here)
    ran = kt(RUN.replace("--out run", "--out thing"))
    if kind == "dangling link" and ran.status == 0:  # the folder that it points to is made
        return
    is_clear(ran.err, "thing")
    assert ran.status == 2 and files(here) == before


def test_a_run_through_a_link_is_the_same_run(here):
    (here / "link").symlink_to(here / "run")
    refused(here, RUN.replace("--out run", "--out link"), "link holds a run already")
    assert kt(RUN.replace("--out run", "--out link") + " --resume").status == 0


@pytest.mark.parametrize(
    "corpus",
    ["bios:people=20,seed=1", "bios:people=20,attributes=birth+work", "./corpus/../corpus"],
)
def test_the_default_folder_stays_inside_runs(here, corpus):
    line = RUN.replace("--out run", "").replace("--corpus corpus", f"--corpus {corpus}")
    assert kt(line).status == 0
    (folder,) = (here / "runs").iterdir()
    assert (folder / "result.json").exists()


@FIND
@given(words=st.lists(st.text(max_size=10), min_size=4, max_size=4), seed=st.integers(0, 2**63 - 1))
def test_any_default_folder_is_one_name_inside_runs(words, seed):
    from kt_core.runs.experiment import _default_folder

    corpus, variant, name, kind = words
    folder = _default_folder(
        dict(corpus=corpus, variant=variant, recipe=dict(name=name), kind=kind, seed=seed)
    )
    assert folder.startswith("runs/") and "/" not in folder[5:] and "\0" not in folder
    assert folder[5:] not in ("", ".", "..")


def test_a_finished_run_gives_its_result_again(here):
    before = files(here)
    ran = kt(f"{RUN} --resume")
    assert ran.status == 0 and "dev: Correct: " in ran.out and files(here) == before
    load_checkpoint("run/finetuned.safetensors")
