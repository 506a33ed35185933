"""One run, one folder: what it leaves, that it repeats itself, and that it can be resumed."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import kt_core as kt
from kt_core.corpora.files import one_writer
from kt_core.runs import phases
from kt_core.runs.experiment import Result, run_experiment
from kt_core.trainer import Trainer

TINY = {
    "model.block_size": 64,
    "model.n_embd": 16,
    "model.dropout": 0.1,
    "pretrain.epochs": 1,
    "pretrain.batch_size": 16,
    "finetune.epochs": 2,
    "finetune.batch_size": 4,
    "scratch.batch_size": 4,
}
CORPUS = "bios:people=20"


def run(out, variant="vanilla", pretrain=True, seed=0, corpus=CORPUS, overrides=None, **more):
    return run_experiment(
        corpus,
        variant,
        "smoke",
        pretrain,
        seed,
        out,
        overrides=TINY | (overrides or {}),
        device="cpu",
        **more,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, which other tests only read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KT_PROGRESS", "off")
        return run(tmp_path_factory.mktemp("whole") / "run")


def files(folder) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


def weights(folder, phase="finetuned"):
    return kt.load_checkpoint(Path(folder) / f"{phase}.safetensors")[0].state_dict()


def metrics(folder) -> list[dict]:
    rows = [json.loads(row) for row in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- what it leaves


def test_the_folder_holds_what_the_module_says(whole):
    assert set(files(whole.path)) == {
        ".lock",
        "config.json",
        "metrics.jsonl",
        "result.json",
        "predictions/dev.txt",
        "predictions/test.txt",
        "pretrained.safetensors",
        "pretrained.safetensors.json",
        "finetuned.safetensors",
        "finetuned.safetensors.json",
    }


def test_config(whole):
    config = json.loads((whole.path / "config.json").read_text())
    expected = dict(corpus=CORPUS, variant="vanilla", kind="mixed", seed=0)
    assert {key: config[key] for key in expected} == expected
    assert config["recipe"] == asdict(kt.recipe("smoke", **TINY))
    assert set(config["versions"]) == {"kt_core", "torch", "python"}
    assert "CPU" in config["hardware"]


def test_result(whole):
    details = json.loads((whole.path / "result.json").read_text())
    assert details == whole.details
    corpus = kt.load_corpus(CORPUS)
    assert whole.dev.total == len(corpus.dev)
    assert whole.test.total == len(corpus.test)
    for split in ("dev", "test"):
        score = getattr(whole, split)
        answers = kt.read_predictions(whole.path / "predictions" / f"{split}.txt")
        assert kt.exact_match(answers, [a for _, a in getattr(corpus, split)]) == score
        assert details[split]["correct"] == score.correct
        assert details[split]["low"] == pytest.approx(score.low, abs=1e-4)
    assert (details["recipe"]["name"], details["kind"]) == ("smoke", "mixed")
    assert details["recipe"]["model"]["n_embd"] == 16
    assert (
        details["parameters"]
        == kt.load_checkpoint(whole.path / "finetuned.safetensors")[0].n_parameters()
    )
    for phase, steps in (
        ("pretraining", 6),
        ("finetuning", 6),
    ):  # 90 examples in 16s; 2 x ceil(10 / 4)
        assert details[phase]["steps"] == steps
        assert details[phase]["characters"] > 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", details[phase]["date"])
    assert Result.read(whole.path) == whole


def test_cards(whole):
    for phase, name in (("pretrain", "pretrained"), ("finetune", "finetuned")):
        _, vocab, card = kt.load_checkpoint(whole.path / f"{name}.safetensors")
        assert vocab == kt.load_corpus(CORPUS).vocab
        assert (card["phase"], card["corpus"], card["variant"], card["seed"], card["kind"]) == (
            phase,
            CORPUS,
            "vanilla",
            0,
            "mixed",
        )
        assert card["recipe"]["model"]["n_embd"] == card["config"]["n_embd"] == 16
        assert card["dev"]["total"] == whole.dev.total
        assert {"cost", "hardware", "versions", "sha256"} <= set(card)
    assert card["dev"]["correct"] == whole.dev.correct


def test_metrics_tell_both_phases_in_order(whole):
    rows = metrics(whole.path)
    assert [row["phase"] for row in rows] == sorted((row["phase"] for row in rows), reverse=True)
    for phase in ("pretrain", "finetune"):
        steps = [row["step"] for row in rows if row["phase"] == phase]
        assert steps == sorted(set(steps))
        assert steps[-1] == 6
    assert all("dev" in row for row in rows)  # the mixed kind follows dev in pretraining too


@pytest.mark.parametrize("task", ["questions", "span_corruption"])
def test_pure_pretraining_is_scored_on_dev_where_its_windows_are_questions(tmp_path, task):
    result = run(tmp_path / "a", overrides={"data.mixed_pairs": 0, "data.task": task})
    assert result.details["kind"] == "pure"
    phases = {row["phase"] for row in metrics(result.path) if "dev" in row}
    assert phases == ({"pretrain", "finetune"} if task == "questions" else {"finetune"})


def test_without_finetuning_the_pretrained_model_answers(tmp_path):
    result = run(tmp_path / "a", overrides={"finetune.epochs": 0})
    assert equal(weights(result.path), weights(result.path, "pretrained"))
    assert {row["phase"] for row in metrics(result.path)} == {"pretrain"}
    assert "finetuning" not in result.details


def test_without_pretraining(tmp_path):
    result = run(tmp_path / "a", pretrain=False)
    assert result.details["kind"] == "no-pretrain"
    assert not (result.path / "pretrained.safetensors").exists()
    assert {row["phase"] for row in metrics(result.path)} == {"finetune"}
    assert result.details["finetuning"]["epochs"] == 2.0  # scratch.epochs of the recipe
    assert result.details["finetuning"]["steps"] == 6  # the pairs alone
    assert "pretraining" not in result.details


@pytest.mark.parametrize("variant", ["rope", "perceiver", "perceiver_ar"])
def test_every_variant_runs(tmp_path, variant):
    result = run(tmp_path / "a", variant)
    model, _, card = kt.load_checkpoint(result.path / "finetuned.safetensors")
    assert model.config.variant == card["variant"] == result.details["variant"] == variant


def test_overrides_reach_the_model_and_the_training(tmp_path):
    result = run(
        tmp_path / "a",
        overrides={"model.n_layer": "3", "finetune.epochs": "1", "model.qk_norm": "true"},
    )
    config = kt.load_checkpoint(result.path / "finetuned.safetensors")[0].config
    assert (config.n_layer, config.qk_norm) == (3, True)
    assert result.details["finetuning"]["epochs"] == 1.0


def test_the_default_folder_tells_the_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(None, "rope", pretrain=False, seed=3)
    assert result.path == Path("runs/bios-people-20-rope-smoke-no-pretrain-seed3")


# ---------------------------------------------------------------- corpora of other shapes


@pytest.fixture
def folder(tmp_path):
    """A corpus like wiki: test questions without answers."""
    source = kt.load_corpus(CORPUS)
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "text.txt").write_text("\n".join(source.documents))
    (root / "birth_train.tsv").write_text("".join(f"{q}\t{a}\n" for q, a in source.train))
    (root / "birth_dev.tsv").write_text("".join(f"{q}\t{a}\n" for q, a in source.dev))
    (root / "birth_test_inputs.tsv").write_text("".join(f"{q}\n" for q, _ in source.test))
    return root


def test_a_test_split_without_answers_is_answered_and_not_scored(tmp_path, folder):
    result = run(tmp_path / "a", corpus=folder)
    assert result.test is None
    assert result.details["test"] is None
    assert result.dev is not None
    assert Result.read(result.path).test is None
    lines = (result.path / "predictions" / "test.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) - 1 == len(kt.load_corpus(folder).test)


def test_a_corpus_with_train_pairs_alone(tmp_path, folder):
    for path in (folder / "birth_dev.tsv", folder / "birth_test_inputs.tsv"):
        path.unlink()
    result = run(tmp_path / "a", corpus=folder)
    assert (result.dev, result.test, result.details["london"]) == (None, None, None)
    assert not (result.path / "predictions").exists()


def test_a_corpus_object_gives_the_same_run(tmp_path, whole):
    result = run(tmp_path / "a", corpus=kt.load_corpus(CORPUS))
    assert equal(weights(result.path), weights(whole.path))


def test_bad_settings_leave_no_folder(tmp_path, folder):
    for more in (
        dict(variant="ropee"),
        dict(corpus="nowhere"),
        dict(overrides={"model.n_embd": 15}),
    ):
        with pytest.raises(ValueError):
            run(tmp_path / "a", **more)
    (folder / "birth_train.tsv").unlink()
    with pytest.raises(ValueError, match="no train pairs"):
        run(tmp_path / "a", corpus=folder)
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------- the same again


def test_the_same_seed_gives_the_same_run_whatever_torchs_random_state(tmp_path, whole):
    torch.manual_seed(12345)
    torch.rand(7)
    again = run(tmp_path / "again")
    assert equal(weights(again.path), weights(whole.path))
    assert metrics(again.path) == metrics(whole.path)
    for split in ("dev", "test"):
        assert (
            files(again.path)[f"predictions/{split}.txt"]
            == files(whole.path)[f"predictions/{split}.txt"]
        )


def test_another_seed_gives_another_run(tmp_path, whole):
    other = run(tmp_path / "other", seed=1)
    assert not equal(weights(other.path), weights(whole.path))
    assert metrics(other.path) != metrics(whole.path)


# ---------------------------------------------------------------- stopping and resuming


def stopped_at(monkeypatch, folder, phase, step, error=KeyboardInterrupt, **more):
    """A run in `folder` that is stopped at that step of that phase, by Ctrl-C or an error."""
    on_log = phases.MetricsFile.on_log

    def stopping(self, trainer, row):
        on_log(self, trainer, row)
        if (self.phase, row["step"]) == (phase, step):
            if error is not KeyboardInterrupt:
                raise error
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(phases.MetricsFile, "on_log", stopping)
        with pytest.raises(error):
            run(folder, **more)


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
@pytest.mark.parametrize("step", [2, 6])
def test_resuming_ends_as_if_never_stopped(monkeypatch, tmp_path, whole, phase, step):
    stopped_at(monkeypatch, tmp_path / "a", phase, step)
    assert not (tmp_path / "a" / "result.json").exists()
    model, vocab, card = kt.load_checkpoint(
        tmp_path / "a" / f"{phase}-stopped.safetensors"
    )  # usable as it is
    assert (
        card["stopped"]
        and card["phase"] == phase
        and len(kt.answer(model, vocab, ["Where was Ada born?"])) == 1
    )
    torch.manual_seed(99)
    result = run(tmp_path / "a", resume=True)
    assert equal(weights(result.path), weights(whole.path))
    assert metrics(result.path) == metrics(whole.path)
    assert set(files(result.path)) == set(files(whole.path))  # no state is left behind
    assert (result.dev, result.test) == (whole.dev, whole.test)


def test_resuming_after_a_crash_repeats_only_what_was_not_saved(monkeypatch, tmp_path, whole):
    stopped_at(monkeypatch, tmp_path / "a", "pretrain", 5, RuntimeError, save_every=2)
    result = run(tmp_path / "a", resume=True)
    assert equal(weights(result.path), weights(whole.path))
    assert metrics(result.path) == metrics(whole.path)


@pytest.mark.parametrize("phase", ["pretrained", "finetuned"])
def test_a_stop_between_the_last_step_and_the_checkpoint_loses_nothing(
    monkeypatch, tmp_path, whole, phase
):
    """The last evaluation may take a while: Ctrl-C in it must not cost the whole training."""
    plain = phases.save_checkpoint

    def stopping(path, *args, **options):
        if Path(path).stem == phase:
            raise KeyboardInterrupt
        return plain(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(phases, "save_checkpoint", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a")
    assert (
        tmp_path / "a" / f"{dict(pretrained='pretrain', finetuned='finetune')[phase]}.state"
    ).exists()

    trained = []
    step = torch.optim.AdamW.step
    with monkeypatch.context() as patch:
        patch.setattr(
            torch.optim.AdamW, "step", lambda self, *a: (trained.append(1), step(self, *a))[1]
        )
        result = run(tmp_path / "a", resume=True)
    assert len(trained) == (6 if phase == "pretrained" else 0)
    assert equal(weights(result.path), weights(whole.path))
    assert not list(result.path.glob("*.state"))


def test_a_checkpoint_without_its_card_is_made_again(tmp_path, whole):
    shutil.copytree(whole.path, tmp_path / "a")
    for name in ("result.json", "finetuned.safetensors.json"):
        (tmp_path / "a" / name).unlink()
    assert equal(weights(run(tmp_path / "a", resume=True).path), weights(whole.path))


def test_a_finished_phase_is_not_done_again(tmp_path, whole, monkeypatch):
    shutil.copytree(whole.path, tmp_path / "a")
    (tmp_path / "a" / "result.json").unlink()
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("nothing is left to train"))
    result = run(tmp_path / "a", resume=True)
    assert (result.dev, result.details["pretraining"]) == (whole.dev, whole.details["pretraining"])


def test_a_finished_run_gives_its_result(whole, monkeypatch):
    before = files(whole.path)
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("nothing is left to train"))
    assert run(whole.path, resume=True) == whole
    assert files(whole.path) == before


def test_a_finished_run_without_test_answers_gets_them(tmp_path, whole):
    assert run(tmp_path / "a", test=False).test is None
    assert run(tmp_path / "a", resume=True).test == whole.test


def test_an_existing_run_is_refused_without_resume_and_left_alone(whole):
    before = files(whole.path)
    with pytest.raises(ValueError, match="holds a run already.*--resume"):
        run(whole.path)
    with pytest.raises(ValueError, match="holds a run already"):
        run(whole.path, seed=1)
    assert files(whole.path) == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (dict(seed=1), "seed was 0, now 1"),
        (dict(variant="rope"), "variant was 'vanilla', now 'rope'"),
        (dict(corpus="bios:people=21"), "corpus was 'bios:people=20', now 'bios:people=21'"),
        (dict(pretrain=False), "kind was 'mixed', now 'no-pretrain'"),
        (dict(overrides={"model.n_embd": 32}), "model.n_embd was 16, now 32"),
        (dict(overrides={"finetune.lr": 1.0}), "finetune.lr was 0.0002, now 1.0"),
    ],
)
def test_other_settings_are_refused_by_name(whole, more, words):
    before = files(whole.path)
    with pytest.raises(ValueError, match=re.escape(words)):
        run(whole.path, resume=True, **more)
    assert files(whole.path) == before


def test_checkpoints_without_a_config_are_not_taken_over(tmp_path, whole):
    shutil.copytree(whole.path, tmp_path / "a")
    for name in ("config.json", "result.json"):
        (tmp_path / "a" / name).unlink()
    with pytest.raises(ValueError, match="safetensors without a config.json"):
        run(tmp_path / "a", variant="rope", seed=1, resume=True)


def test_a_corpus_that_was_edited_after_the_stop_is_refused(tmp_path, folder):
    run(tmp_path / "a", corpus=folder)
    (tmp_path / "a" / "result.json").unlink()
    text = folder / "text.txt"
    text.write_text(text.read_text().replace("born in", "born near", 1))
    with pytest.raises(ValueError, match="corpus_sha256 was"):
        run(tmp_path / "a", corpus=folder, resume=True)


def test_resume_in_an_empty_folder_starts(tmp_path, whole):
    assert run(tmp_path / "new", resume=True).dev == whole.dev


def test_one_process_writes_to_a_folder_and_a_crash_frees_it(tmp_path, whole):
    with (
        one_writer(tmp_path / "a" / ".lock", "the run"),
        pytest.raises(ValueError, match="a is in use by another process"),
    ):
        run(tmp_path / "a")
    assert run(tmp_path / "a").dev == whole.dev  # the lock file that is left stops nobody


@pytest.mark.parametrize(
    "change",
    [dict(correct=1.5), dict(total=0), dict(correct=6), dict(accuracy=0.9), dict(correct=True)],
)
def test_a_forged_score_is_refused(tmp_path, whole, change):
    details = whole.details | {"dev": whole.details["dev"] | change}
    (tmp_path / "result.json").write_text(json.dumps(details))
    with pytest.raises(ValueError, match="result.json: "):
        Result.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"dev": {"correct": 1}, "test": null}'])
def test_a_damaged_result_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(
        ValueError, match="result.json(: not a run's result| is not JSON| holds a JSON list)"
    ):
        Result.read(tmp_path)


def test_no_result_says_how_to_finish(tmp_path):
    with pytest.raises(ValueError, match="--resume"):
        Result.read(tmp_path)
