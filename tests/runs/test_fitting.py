"""`fit`: it can be stopped at any moment and resumed, and the hooks do what they promise."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_training import Rows, config, lines, pairs, same, stop_at, tiny, without_seconds

from kt_core.runs.fast_paths import mixed_precision
from kt_core.runs.fitting import fit
from kt_core.runs.hooks import split_batch
from kt_core.runs.resume import read_state

TESTS = Path(__file__).parents[1]


# ---------------------------------------------------------------- micro-batches


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_micro_batches_give_the_same_training(parts):
    settings = config(epochs=4.0, batch_size=5, bucket=False, shuffle=False)
    whole, split = tiny(), tiny()
    one = fit(whole, lines(), settings)
    several = fit(split, lines(), settings, micro_batches=parts)
    assert [row["loss"] for row in several] == pytest.approx([row["loss"] for row in one], abs=1e-4)
    assert [row["characters"] for row in several] == [row["characters"] for row in one]
    for mine, theirs in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=0)


def test_micro_batches_are_cut_to_their_longest_row_and_weighted_by_their_targets():
    x = torch.zeros(5, 9, dtype=torch.long)
    y = torch.zeros_like(x)
    for row, (length, targets) in enumerate([(7, 3), (2, 1), (9, 4), (3, 0), (4, 2)]):
        x[row, :length] = row + 1
        y[row, length - 1 - targets : length - 1] = row + 1
    y[1, 0] = 2
    parts = split_batch(x, y, 3)
    assert [rows[:, 0].tolist() for (rows, _), _ in parts] == [[2, 4], [5, 1], [3]]
    assert [rows.shape[1] for (rows, _), _ in parts] == [3, 7, 9]
    assert [weight for _, weight in parts] == [1 / 10, 5 / 10, 4 / 10]
    y[3] = y[1] = 0  # a part without targets is left out
    assert [rows[:, 0].tolist() for (rows, _), _ in split_batch(x, y, 3)] == [[5, 1], [3]]


def test_a_batch_without_targets_is_the_same_in_parts_and_whole():
    x, y = torch.ones(4, 3, dtype=torch.long), torch.zeros(4, 3, dtype=torch.long)
    [((rows, targets), weight)] = split_batch(x, y, 2)
    assert torch.equal(rows, x) and torch.equal(targets, y) and weight == 1.0


# ---------------------------------------------------------------- random offsets


@pytest.mark.parametrize("variant", ["vanilla", "perceiver"])
def test_random_offsets_shift_rows_in_training_alone(variant):
    model, positions = tiny(variant), []
    embed = type(model).embed

    def watch(self, idx, where):
        positions.append((self.training, idx.size(1), where.clone()))
        return embed(self, idx, where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "embed", watch)
        fit(model, pairs(), config(epochs=30.0), random_offset=4, evaluate=lambda m: evaluate(m))
    shifts = {tuple(row[:1].tolist()) for train, _, rows in positions if train for row in rows}
    assert shifts == {(k,) for k in range(5)}  # 0 ... 4, each row its own
    for train, length, rows in positions:
        assert (rows.diff(dim=-1) == 1).all() and rows.max() < 32
        assert train or torch.equal(rows, torch.arange(length)[None])
    assert "embed" not in vars(model)


def evaluate(model):
    model(torch.ones(2, 5, dtype=torch.long))
    return {}


def test_random_offsets_do_nothing_to_rotary_positions():
    plain, shifted = tiny("rope"), tiny("rope")
    fit(plain, pairs(), config())
    fit(shifted, pairs(), config(), random_offset=4)
    assert same(plain, shifted)


# ---------------------------------------------------------------- saving and resuming


def test_saving_does_not_change_the_training(tmp_path):
    model, saved = tiny(dropout=0.2), tiny(dropout=0.2)
    fit(model, lines(), config())
    fit(saved, lines(), config(), save_every=2, state=tmp_path / "state")
    assert same(model, saved)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("step", [1, 4, 6, 9])  # in an epoch, at its end (3 steps), at the very end
def test_resuming_gives_the_weights_of_an_uninterrupted_training(tmp_path, optimizer, step):
    settings = config(optimizer=optimizer)
    whole = tiny(dropout=0.2)
    history = fit(whole, lines(), settings)
    assert len(history) == 9

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(dropout=0.2), lines(), settings, state=state, more_hooks=[stop_at(step)])
    torch.manual_seed(99)
    model = tiny(dropout=0.2, seed=5)  # its weights come from the state
    resumed = fit(model, lines(), settings, state=state, resume=True)
    assert same(model, whole)
    assert without_seconds(resumed) == without_seconds(history)
    assert [row["seconds"] for row in resumed] == sorted(row["seconds"] for row in resumed)


@pytest.mark.parametrize("call", [2, 5, 9])
def test_ctrl_c_in_an_evaluation_waits_for_its_end(tmp_path, call):
    def size(model):
        torch.rand(3)
        return dict(size=float(model.head.weight.detach().abs().sum()))

    settings = config(log_every=4, eval_every=1)
    whole, calls = tiny(dropout=0.2), []
    history = fit(whole, lines(), settings, evaluate=size)

    def interrupted(model):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return size(model)

    options = dict(state=tmp_path / "state")
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(dropout=0.2), lines(), settings, evaluate=interrupted, **options)
    model = tiny(dropout=0.2, seed=5)
    resumed = fit(model, lines(), settings, evaluate=size, resume=True, **options)
    assert same(model, whole) and without_seconds(resumed) == without_seconds(history)
    assert len(calls) == call  # the evaluation of the stop was not repeated


def test_a_second_ctrl_c_does_not_wait_and_leaves_the_last_saved_state(tmp_path):
    def hangs(model):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            time.sleep(1.01)
        raise AssertionError("the second Ctrl-C was ignored")

    settings, state = config(eval_every=5), tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), lines(), settings, evaluate=hangs, state=state, save_every=4)
    model, whole = tiny(seed=5), tiny()
    fit(model, lines(), settings, state=state, resume=True)
    fit(whole, lines(), settings)
    assert same(model, whole)


def test_a_row_across_the_stop_reports_the_mean_loss_of_all_its_steps(tmp_path):
    settings = config(log_every=4, eval_every=0)
    history = fit(tiny(), lines(), settings)

    more = dict(state=tmp_path / "state", more_hooks=[stop_at(6)], evaluate=lambda model: {})
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), lines(), config(log_every=4, eval_every=6), **more)
    resumed = fit(tiny(), lines(), settings, state=tmp_path / "state", resume=True)
    assert [row["step"] for row in resumed] == [4, 6, 8, 9]
    whole = fit(tiny(), lines(), config())
    assert resumed[2]["loss"] == pytest.approx((whole[6]["loss"] + whole[7]["loss"]) / 2)
    assert resumed[-1] | dict(seconds=0) == history[-1] | dict(seconds=0)


def test_resuming_from_a_periodic_state_after_a_crash(tmp_path):
    whole = tiny(dropout=0.2)
    fit(whole, lines(), config())

    def crash(row):
        if row["step"] == 8:
            raise RuntimeError("power cut")

    state = tmp_path / "state"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(
            tiny(dropout=0.2),
            lines(),
            config(),
            save_every=5,
            state=state,
            more_hooks=[Rows(crash)],
        )
    rows, model = [], tiny(dropout=0.2, seed=5)
    fit(model, lines(), config(), state=state, more_hooks=[Rows(rows.append)], resume=True)
    assert [row["step"] for row in rows] == [6, 7, 8, 9] and same(model, whole)


def test_stopping_twice(tmp_path):
    whole = tiny(dropout=0.2)
    fit(whole, lines(), config())
    for step, resume in ((2, False), (5, True)):
        options = dict(state=tmp_path / "s", more_hooks=[stop_at(step)], resume=resume)
        with pytest.raises(KeyboardInterrupt):
            fit(tiny(dropout=0.2), lines(), config(), **options)
    model = tiny(dropout=0.2)
    fit(model, lines(), config(), state=tmp_path / "s", resume=True)
    assert same(model, whole)


def test_a_stop_says_where_and_leaves_the_model_in_eval_mode(tmp_path, capsys):
    model = tiny()
    options = dict(state=tmp_path / "s", more_hooks=[stop_at(4)], title="finetune")
    with pytest.raises(KeyboardInterrupt):
        fit(model, pairs(), config(), **options)
    assert "finetune stopped at step 4 of 9; its state is saved" in capsys.readouterr().out
    assert not model.training


def test_without_a_state_file_nothing_is_written_and_the_signal_handler_returns(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), pairs(), config(), more_hooks=[stop_at(2)])
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_within_a_step_waits_for_its_end(tmp_path, monkeypatch):
    whole, settings = tiny(dropout=0.2), config(optimizer="muon")
    fit(whole, lines(), settings)
    calls, clip = [], torch.nn.utils.clip_grad_norm_

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:  # the random state has moved on, the weights have not
            signal.raise_signal(signal.SIGINT)
        return clip(*arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(dropout=0.2), lines(), settings, state=tmp_path / "s")
    assert len(calls) == 4
    model, rows = tiny(dropout=0.2, seed=5), []
    options = dict(state=tmp_path / "s", more_hooks=[Rows(rows.append)], resume=True)
    history = fit(model, lines(), settings, **options)
    assert same(model, whole) and len(calls) == 9
    assert [row["step"] for row in history] == list(range(1, 10))
    assert [row["step"] for row in rows] == [5, 6, 7, 8, 9]


SCRIPT = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from small_training import *
from kt_core.runs.fitting import fit
def log(row):
    print(row["step"], flush=True)
settings = config(steps=100_000, schedule="constant")
fit(tiny(dropout=0.2), lines(), settings, state={state!r}, more_hooks=[Rows(log)])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_a_real_ctrl_c_leaves_a_state_that_resumes_to_the_same_weights(tmp_path):
    code = SCRIPT.format(tests=str(TESTS), root=str(TESTS.parent), state=str(tmp_path / "state"))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if int(line) >= 3:
            break
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in error or "Stopped" in error
    assert "stopped at step" in out

    step = read_state(tmp_path / "state")[0]["step"]
    assert step >= 3
    settings = config(steps=100_000, schedule="constant")
    model, whole = tiny(dropout=0.2, seed=5), tiny(dropout=0.2)
    for fitted, options in ((model, dict(state=tmp_path / "state", resume=True)), (whole, {})):
        with pytest.raises(KeyboardInterrupt):
            fit(fitted, lines(), settings, more_hooks=[stop_at(step + 4)], **options)
    assert same(model, whole)


def test_the_time_before_a_stop_counts_and_the_pause_does_not(stopped):
    before = read_state(stopped)[0]["seconds"]
    time.sleep(0.2)
    start = time.perf_counter()
    seconds = fit(tiny(), lines(), config(), state=stopped, resume=True)[-1]["seconds"]
    assert before <= seconds <= before + time.perf_counter() - start + 0.01


# ---------------------------------------------------------------- states that do not fit


@pytest.fixture
def stopped(tmp_path):
    state = tmp_path / "some.state"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), lines(), config(), state=state, more_hooks=[stop_at(4)])
    return state


@pytest.mark.parametrize(
    ("model", "data", "settings", "options"),
    [
        ({}, lines, dict(lr=1e-3), {}),
        ({}, lines, dict(epochs=4.0), {}),
        ({}, lines, dict(optimizer="muon"), {}),
        ({}, lines, dict(seed=1), {}),
        ({}, lines, {}, dict(micro_batches=2)),
        ({}, lines, {}, dict(random_offset=2)),
        (dict(variant="rope"), lines, {}, {}),
        (dict(dropout=0.1), lines, {}, {}),
        ({}, lambda: lines(seed=1), {}, {}),
        ({}, pairs, {}, {}),
    ],
)
def test_other_settings_or_data_are_refused(stopped, model, data, settings, options):
    before = stopped.read_bytes()
    message = "some.state was saved by a training with other settings or data"
    with pytest.raises(ValueError, match=message):
        fit(tiny(**model), data(), config(**settings), state=stopped, resume=True, **options)
    assert stopped.read_bytes() == before


def test_settings_that_do_not_touch_the_weights_may_change(stopped):
    settings = config(log_every=2, eval_every=3)
    history = fit(tiny(), lines(), settings, state=stopped, resume=True, save_every=1)
    assert history[-1]["step"] == 9


def test_resume_without_a_state_starts_from_the_beginning(tmp_path):
    assert len(fit(tiny(), lines(), config(), state=tmp_path / "new", resume=True)) == 9


def test_without_resume_a_state_is_replaced(stopped):
    assert len(fit(tiny(), lines(), config(), state=stopped)) == 9


def test_a_finished_training_is_not_repeated(tmp_path):
    model, again = tiny(), tiny(seed=5)
    history = fit(model, lines(), config(), state=tmp_path / "s")

    def never(row):
        raise AssertionError("no step is left")

    options = dict(state=tmp_path / "s", more_hooks=[Rows(never)], resume=True)
    assert fit(again, lines(), config(), **options) == history
    assert same(model, again)


def flip(position):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[position] ^= 4
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
        fit(model, lines(), config(), state=stopped, resume=True)
    assert same(model, tiny(seed=5))  # nothing was taken from it


def test_an_interrupted_save_leaves_the_old_state(stopped, monkeypatch):
    before = stopped.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        fit(tiny(), lines(), config(), state=stopped, resume=True)
    assert stopped.read_bytes() == before
    assert [p.name for p in stopped.parent.iterdir()] == ["some.state"]


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_good_state(tmp_path):
    model, calls = tiny(), []

    def spoil(module, _):
        calls.append(1)
        if len(calls) == 5:
            with torch.no_grad():
                module.head.weight.fill_(math.nan)

    hook = model.register_forward_pre_hook(spoil)
    settings, options = config(log_every=9), dict(state=tmp_path / "s", save_every=1)
    message = r"the loss is nan at step 5: lower the learning rate \(now 0.01\)"
    with pytest.raises(FloatingPointError, match=message):
        fit(model, lines(), settings, **options)
    assert not model.training
    hook.remove()
    whole = tiny()
    fit(whole, lines(), settings)
    fit(model, lines(), settings, resume=True, **options)  # from step 4
    assert same(model, whole)


# ---------------------------------------------------------------- TensorBoard, bars, precision


def test_tensorboard_missing_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    message = r"tensorboard is not installed: pip install 'kt-core\[tensorboard\]'"
    with pytest.raises(ValueError, match=message):
        fit(tiny(), pairs(), config(), tensorboard=tmp_path)


def test_tensorboard_gets_the_rows(monkeypatch, tmp_path):
    calls = []

    class Writer:
        def __init__(self, folder):
            calls.append(folder)

        def add_scalar(self, name, value, step):
            calls.append((name, step))

        def close(self):
            calls.append("closed")

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    fit(tiny(), pairs(), config(epochs=1.0), tensorboard=tmp_path, title="t")
    assert calls[0] == str(tmp_path) and calls[-1] == "closed"
    assert {("t/loss", 1), ("t/loss", 3), ("t/rate", 3)} <= set(calls)


@pytest.mark.parametrize(
    ("variables", "is_shown"),
    [({}, True), (dict(KT_PROGRESS="off"), False), (dict(TQDM_DISABLE="1"), False)],
)
def test_a_bar_on_standard_error_unless_it_is_off(variables, is_shown):
    code = "from small_training import *; import kt_core as kt\n"
    code += "kt.fit(tiny(), pairs(), config(epochs=1.0, eval_every=2), title='finetune',"
    code += " evaluate=lambda m: dict(dev=0.25))"
    environment = {k: v for k, v in os.environ.items() if k not in ("KT_PROGRESS", "TQDM_DISABLE")}
    environment |= dict(PYTHONPATH=os.pathsep.join([str(TESTS.parent), str(TESTS)])) | variables
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout == "" and ("finetune" in run.stderr) == is_shown


@pytest.mark.parametrize(
    ("precision", "native", "bf16"),
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


def test_a_training_in_bf16_learns_too():
    history = fit(tiny(), pairs(), config(epochs=20.0), precision="bf16")
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
