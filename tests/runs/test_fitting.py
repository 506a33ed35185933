"""The trainer: it learns, it repeats itself exactly, and it can be stopped at any moment and gone on with."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from kt_core.datasets import NamePlace, SpanCorruption
from kt_core.models import GPT, GPTConfig
from kt_core.runs.devices import mixed_precision
from kt_core.trainer import TrainConfig, Trainer, split
from kt_core.vocab import CharVocab

PAIRS = [(f"{who}?", "north" if i % 2 else "south") for i, who in enumerate("abcdefghij")]
DOCUMENTS = [f"{who} lives in the {where}. More of {who}." for who, where in PAIRS]
VOCAB = CharVocab.from_documents([*DOCUMENTS, *(q for q, _ in PAIRS)])


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("KT_PROGRESS", "off")


def tiny(variant="vanilla", dropout=0.0, seed=0):
    torch.manual_seed(seed)
    size = dict(block_size=32, n_layer=2, n_head=2, n_embd=16, bottleneck=16)
    return GPT(GPTConfig(vocab_size=len(VOCAB), variant=variant, dropout=dropout, **size))


def pairs():
    return NamePlace(PAIRS, VOCAB, 32)


def lines(**options):
    return SpanCorruption(DOCUMENTS, VOCAB, 32, **options)


def config(**more):
    return TrainConfig(
        **(dict(epochs=3.0, batch_size=4, learning_rate=1e-2, device="cpu", log_every=1) | more)
    )


def same(a, b):
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


# ---------------------------------------------------------------- micro-batches


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_a_batch_in_parts_is_the_same_training(parts):
    settings = dict(epochs=4.0, batch_size=5, bucket=False, shuffle=False)
    whole, cut = tiny(), tiny()
    one = Trainer(whole, lines(), config(**settings)).fit()
    several = Trainer(cut, lines(), config(**settings, parts=parts)).fit()
    assert [row["loss"] for row in several] == pytest.approx([row["loss"] for row in one], abs=1e-4)
    assert [row["characters"] for row in several] == [row["characters"] for row in one]
    for mine, theirs in zip(cut.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=0)


def test_parts_are_of_like_length_cut_short_and_weighed_by_what_they_ask_for():
    x = torch.zeros(5, 9, dtype=torch.long)
    y = torch.zeros_like(x)
    for row, (length, asked) in enumerate([(7, 3), (2, 1), (9, 4), (3, 0), (4, 2)]):
        x[row, :length] = row + 1
        y[row, length - 1 - asked : length - 1] = row + 1
    y[1, 0] = 2
    found = split(x, y, 3)
    assert [rows[:, 0].tolist() for rows, _, _ in found] == [[2, 4], [5, 1], [3]]
    assert [rows.shape[1] for rows, _, _ in found] == [3, 7, 9]
    assert [weight for _, _, weight in found] == [1 / 10, 5 / 10, 4 / 10]
    y[3] = y[1] = 0
    # one that asks for nothing
    assert [rows[:, 0].tolist() for rows, _, _ in split(x, y, 3)] == [[5, 1], [3]]
    assert all(a is b for a, b in zip(split(x, y, 1)[0], (x, y), strict=False))


# ---------------------------------------------------------------- saving


def test_saving_does_not_change_the_training(tmp_path):
    model, saved = tiny(dropout=0.2), tiny(dropout=0.2)
    Trainer(model, lines(), config()).fit()
    Trainer(saved, lines(), config(save_every=2), state=tmp_path / "state").fit()
    assert same(model, saved)


# ---------------------------------------------------------------- stopping and going on


def stop_at(step):
    def log(row):
        if row["step"] == step:
            raise KeyboardInterrupt

    return log


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    "at", [1, 4, 6, 9]
)  # mid-epoch, at an epoch's end (three steps each), at the very end
def test_going_on_gives_the_weights_of_an_uninterrupted_training(tmp_path, optimizer, at):
    settings = config(optimizer=optimizer)
    whole = tiny(dropout=0.2)
    history = Trainer(whole, lines(), settings).fit()
    assert len(history) == 9

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny(dropout=0.2), lines(), settings, state=state, log=stop_at(at)).fit()
    torch.manual_seed(99)
    model = tiny(dropout=0.2, seed=5)  # its weights come from the state
    resumed = Trainer(model, lines(), settings, state=state).fit(resume=True)
    assert same(model, whole)
    assert without_seconds(resumed) == without_seconds(history)
    assert [row["seconds"] for row in resumed] == sorted(row["seconds"] for row in resumed)


@pytest.mark.parametrize("at", [2, 5, 9])
def test_stopping_in_an_evaluation_makes_it_up(tmp_path, at):
    def evaluate(model):
        torch.rand(3)
        return dict(size=float(model.head.weight.detach().abs().sum()))

    settings = config(log_every=4, eval_every=1)
    whole = tiny(dropout=0.2)
    history = Trainer(whole, lines(), settings, evaluate=evaluate).fit()
    calls = []

    def stops(model):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return evaluate(model)

    with pytest.raises(KeyboardInterrupt):
        Trainer(
            tiny(dropout=0.2), lines(), settings, evaluate=stops, state=tmp_path / "state"
        ).fit()
    model = tiny(dropout=0.2, seed=5)
    resumed = Trainer(model, lines(), settings, evaluate=evaluate, state=tmp_path / "state").fit(
        resume=True
    )
    assert same(model, whole) and without_seconds(resumed) == without_seconds(history)


def test_a_row_across_the_stop_tells_the_mean_of_all_its_steps(tmp_path):
    settings = config(log_every=5, eval_every=2)

    def run(evaluate, resume=False):
        return Trainer(tiny(), lines(), settings, state=tmp_path / "state", evaluate=evaluate).fit(
            resume
        )

    def stops(model):
        raise KeyboardInterrupt

    history = Trainer(tiny(), lines(), settings, evaluate=lambda model: {}).fit()
    with pytest.raises(KeyboardInterrupt):
        run(stops)
    assert without_seconds(run(lambda model: {}, True)) == without_seconds(history)


def test_going_on_from_a_periodic_state_after_a_crash(tmp_path):
    whole = tiny(dropout=0.2)
    Trainer(whole, lines(), config()).fit()

    def crash(row):
        if row["step"] == 8:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        Trainer(
            tiny(dropout=0.2), lines(), config(save_every=5), state=tmp_path / "state", log=crash
        ).fit()
    steps, model = [], tiny(dropout=0.2, seed=5)
    Trainer(
        model,
        lines(),
        config(),
        state=tmp_path / "state",
        log=lambda row: steps.append(row["step"]),
    ).fit(resume=True)
    assert steps == [6, 7, 8, 9] and same(model, whole)


def test_stopping_twice(tmp_path):
    whole = tiny(dropout=0.2)
    Trainer(whole, lines(), config()).fit()
    for at, resume in ((2, False), (5, True)):
        with pytest.raises(KeyboardInterrupt):
            Trainer(
                tiny(dropout=0.2), lines(), config(), state=tmp_path / "s", log=stop_at(at)
            ).fit(resume)
    model = tiny(dropout=0.2)
    Trainer(model, lines(), config(), state=tmp_path / "s").fit(resume=True)
    assert same(model, whole)


def test_stopping_tells_where_and_leaves_the_model_in_eval_mode(tmp_path, capsys):
    model = tiny()
    with pytest.raises(KeyboardInterrupt):
        Trainer(
            model, pairs(), config(), state=tmp_path / "s", log=stop_at(4), title="finetune"
        ).fit()
    assert "finetune stopped at step 4 of 9; its state is kept" in capsys.readouterr().out
    assert not model.training


def test_without_a_state_file_ctrl_c_is_raised_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny(), pairs(), config(), log=stop_at(2)).fit()
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_amid_a_step_waits_for_its_end(tmp_path, monkeypatch):
    whole = tiny(dropout=0.2)
    Trainer(whole, lines(), config(optimizer="muon")).fit()
    calls, clip = [], torch.nn.utils.clip_grad_norm_

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(
                signal.SIGINT
            )  # the random state has moved on, the weights have not
        return clip(*arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted)
    settings = config(optimizer="muon")
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny(dropout=0.2), lines(), settings, state=tmp_path / "s").fit()
    assert len(calls) == 4
    model, steps = tiny(dropout=0.2, seed=5), []
    trainer = Trainer(
        model, lines(), settings, state=tmp_path / "s", log=lambda row: steps.append(row["step"])
    )
    history = trainer.fit(resume=True)
    assert same(model, whole) and len(calls) == 9
    assert [row["step"] for row in history] == list(range(1, 10)) and steps == [4, 5, 6, 7, 8, 9]


SCRIPT = """
import sys, torch
sys.path[:0] = [{tests!r}, {root!r}]
from test_trainer import *
model = tiny(dropout=0.2)
def log(row):
    print(row["step"], flush=True)
Trainer(model, lines(), config(steps=100_000, schedule="constant"), state={state!r}, log=log).fit()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_a_real_ctrl_c_leaves_a_state_that_goes_on_to_the_same_weights(tmp_path):
    here = os.path.dirname(__file__)
    code = SCRIPT.format(
        tests=here, root=os.path.dirname(os.path.dirname(here)), state=str(tmp_path / "state")
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "KT_PROGRESS": "off"},
    )
    for line in process.stdout:
        if int(line) >= 3:
            break
    process.send_signal(signal.SIGINT)
    told, error = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in error and "stopped at step" in told

    from safetensors import safe_open

    with safe_open(str(tmp_path / "state"), framework="pt") as file:
        at = json.loads(file.metadata()["state"])["step"]
    assert at >= 3
    settings = config(steps=100_000, schedule="constant")
    model, whole = tiny(dropout=0.2, seed=5), tiny(dropout=0.2)
    for fitted, state, resume in ((model, tmp_path / "state", True), (whole, None, False)):
        with pytest.raises(KeyboardInterrupt):
            Trainer(fitted, lines(), settings, state=state, log=stop_at(at + 4)).fit(resume)
    assert same(model, whole)


# ---------------------------------------------------------------- states that do not fit


@pytest.fixture
def stopped(tmp_path):
    state = tmp_path / "some.state"
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny(), lines(), config(), state=state, log=stop_at(4)).fit()
    return state


@pytest.mark.parametrize(
    "model, data, settings",
    [
        (dict(), dict(), dict(learning_rate=1e-3)),
        (dict(), dict(), dict(epochs=4.0)),
        (dict(), dict(), dict(optimizer="muon")),
        (dict(), dict(), dict(seed=1)),
        (dict(variant="rope"), dict(), dict()),
        (dict(dropout=0.1), dict(), dict()),
        (dict(), dict(seed=1), dict()),
        (dict(), dict(end_sentinel=True), dict()),
        (dict(), dict(loss="span"), dict()),
    ],
)
def test_other_settings_or_data_are_refused(stopped, model, data, settings):
    before = stopped.read_bytes()
    with pytest.raises(
        ValueError, match="some.state was saved by a training with other settings or data"
    ):
        Trainer(tiny(**model), lines(**data), config(**settings), state=stopped).fit(resume=True)
    assert stopped.read_bytes() == before


def test_settings_that_do_not_touch_the_weights_may_change(stopped):
    settings = config(log_every=2, eval_every=3, save_every=1)
    assert Trainer(tiny(), lines(), settings, state=stopped).fit(resume=True)[-1]["step"] == 9


def test_resume_without_a_state_starts_anew(tmp_path):
    assert len(Trainer(tiny(), lines(), config(), state=tmp_path / "new").fit(resume=True)) == 9


def test_without_resume_a_state_is_replaced(stopped):
    assert len(Trainer(tiny(), lines(), config(), state=stopped).fit()) == 9


def test_a_finished_training_is_not_done_again(tmp_path):
    model = tiny()
    history = Trainer(model, lines(), config(), state=tmp_path / "s").fit()
    again = tiny(seed=5)

    def never(row):
        raise AssertionError("no step is left")

    assert (
        Trainer(again, lines(), config(), state=tmp_path / "s", log=never).fit(resume=True)
        == history
    )
    assert same(model, again)


def flip(at):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[at] ^= 4
        path.write_bytes(data)

    return damage


def foreign(path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, str(path))


@pytest.mark.parametrize(
    "damage",
    [
        flip(-1),
        flip(-1000),
        flip(3),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no state at all, but some text"),
        foreign,
    ],
)
def test_a_damaged_state_is_a_clear_error(stopped, damage):
    damage(stopped)
    model = tiny(seed=5)
    with pytest.raises(ValueError, match="some.state is .*(damaged|no state)"):
        Trainer(model, lines(), config(), state=stopped).fit(resume=True)
    assert same(model, tiny(seed=5))  # nothing was taken from it


def test_an_interrupted_save_leaves_the_old_state(stopped, monkeypatch):
    before = stopped.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        Trainer(tiny(), lines(), config(), state=stopped).fit(resume=True)
    assert stopped.read_bytes() == before and [p.name for p in stopped.parent.iterdir()] == [
        "some.state"
    ]


# ---------------------------------------------------------------- errors


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_good_state(tmp_path):
    model, calls = tiny(), []

    def spoil(module, _):
        calls.append(1)
        if len(calls) == 5:
            with torch.no_grad():
                module.head.weight.fill_(math.nan)

    hook = model.register_forward_pre_hook(spoil)
    settings = config(log_every=9, save_every=1)
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step 5: lower the learning rate \(now 0.01\)"
    ):
        Trainer(model, lines(), settings, state=tmp_path / "s").fit()
    assert not model.training
    hook.remove()
    whole = tiny()
    Trainer(whole, lines(), settings).fit()
    Trainer(model, lines(), settings, state=tmp_path / "s").fit(resume=True)  # from step 4
    assert same(model, whole)


def test_tensorboard_missing_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        ValueError, match=r"tensorboard is not installed: pip install 'kt-core\[tensorboard\]'"
    ):
        Trainer(tiny(), pairs(), config(), tensorboard=tmp_path).fit()


def test_tensorboard_gets_the_rows(monkeypatch, tmp_path):
    told = []

    class Writer:
        def __init__(self, folder):
            told.append(folder)

        def add_scalar(self, name, value, step):
            told.append((name, step))

        def close(self):
            told.append("closed")

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    Trainer(tiny(), pairs(), config(epochs=1.0), tensorboard=tmp_path, title="t").fit()
    assert told[0] == str(tmp_path) and told[-1] == "closed"
    assert {("t/loss", 1), ("t/loss", 3), ("t/rate", 3)} <= set(told)


# ---------------------------------------------------------------- progress


def test_lines_at_evaluations_and_at_the_end(monkeypatch, capsys):
    monkeypatch.setenv("KT_PROGRESS", "lines")
    Trainer(
        tiny(),
        pairs(),
        config(eval_every=4),
        evaluate=lambda model: dict(dev=0.25),
        title="finetune",
    ).fit()
    told = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in told] == [f"finetune: step {n}/9" for n in (4, 8, 9)]
    assert all("loss " in line and "dev 0.25" in line and line.endswith(" left") for line in told)
    assert told[-1].endswith("0:00:00 left")


@pytest.mark.parametrize("mode", ["bar", "off"])
def test_other_modes_leave_the_output_alone(monkeypatch, capsys, mode):
    monkeypatch.setenv("KT_PROGRESS", mode)
    Trainer(tiny(), pairs(), config(epochs=1.0), title="finetune").fit()
    told = capsys.readouterr()
    assert told.out == "" and ("finetune" in told.err) == (mode == "bar")


def test_time_before_a_stop_counts(stopped):
    from safetensors import safe_open

    with safe_open(str(stopped), framework="pt") as file:
        before = json.loads(file.metadata()["state"])["seconds"]
    time.sleep(0.2)  # the pause does not
    began = time.perf_counter()
    seconds = Trainer(tiny(), lines(), config(), state=stopped).fit(resume=True)[-1]["seconds"]
    assert before <= seconds <= before + time.perf_counter() - began + 0.01


@pytest.mark.parametrize(
    "precision, native, bf16",
    [
        ("fp32", True, False),
        ("bf16", False, True),
        ("auto", True, False),
        ("native", True, True),
        ("native", False, False),
    ],
)
def test_precision_on_a_cpu(monkeypatch, precision, native, bf16):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    with mixed_precision(precision, torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if bf16 else torch.float32)
