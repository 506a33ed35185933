"""The trainer: it learns, it repeats itself exactly, and hooks see every step."""

from __future__ import annotations

import math
import random

import pytest
import torch
from small_training import config, lines, pairs, same, tiny, without_seconds

from kt_core.blocks import VARIANTS
from kt_core.devices import choose_device
from kt_core.trainer import Hook, Trainer

# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_falls(variant, optimizer):
    settings = config(epochs=30.0, batch_size=5, optimizer=optimizer, muon_lr=0.03, log_every=10)
    history = Trainer(tiny(variant), pairs(), settings).fit()
    assert history[0]["loss"] > 1.5 and history[-1]["loss"] < 0.7  # ln 18 = 2.9 at first


def test_the_history():
    rows = []

    class Log(Hook):
        def on_log(self, trainer, row):
            rows.append(row)

    settings = config(
        epochs=2.0,
        log_every=2,
        eval_every=4,
        schedule="linear",
        cooldown_from=0.0,
        final_fraction=0.0,
    )
    history = Trainer(
        tiny(), pairs(), settings, evaluate=lambda model: dict(dev=0.5), hooks=[Log()]
    ).fit()
    assert rows == history
    assert [row["step"] for row in history] == [2, 4, 6]
    assert [row["epoch"] for row in history] == [0.667, 1.333, 2.0]
    assert ["dev" in row for row in history] == [False, True, True]
    assert set(history[0]) == {"step", "epoch", "loss", "rate", "characters", "seconds"}
    assert [row["rate"] for row in history] == pytest.approx([1 - 1 / 6, 1 - 3 / 6, 1 - 5 / 6])
    assert [row["seconds"] for row in history] == sorted(row["seconds"] for row in history)
    a_pass = sum(len(ids) - 1 for ids, _ in map(pairs().tokens, range(10)))
    assert (
        abs(history[-1]["characters"] - 2 * a_pass) <= 20
    )  # a row's last character may be in y alone
    assert 0 < history[-1]["loss"] < history[0]["loss"]


def test_gradients_from_before_the_training_do_not_count():
    models = tiny(), tiny()
    models[1](*(tensor[None] for tensor in pairs()[0]))[1].backward()
    first, second = (Trainer(model, pairs(), config(steps=1)).fit() for model in models)
    assert same(*models)
    assert without_seconds(first) == without_seconds(second)


def test_no_examples():
    with pytest.raises(ValueError, match="the data has no examples"):
        Trainer(tiny(), [], config())


def test_a_row_tells_the_mean_loss_since_the_row_before():
    single = Trainer(tiny(), pairs(), config(epochs=2.0)).fit()
    triple = Trainer(tiny(), pairs(), config(epochs=2.0, log_every=3)).fit()
    for i, row in enumerate(triple):
        assert row["loss"] == pytest.approx(
            sum(r["loss"] for r in single[3 * i : 3 * i + 3]) / 3, rel=1e-5
        )


@pytest.mark.parametrize(
    "settings, steps",
    [(dict(epochs=2.0), 6), (dict(epochs=0.5), 2), (dict(epochs=0.01), 1), (dict(steps=7), 7)],
)
def test_how_long(settings, steps):
    trainer = Trainer(tiny(), pairs(), config(log_every=0, **settings))
    assert trainer.total_steps == steps
    assert [row["step"] for row in trainer.fit()] == [steps]


def test_evaluation_sees_the_model_in_eval_mode_and_training_goes_on_in_train_mode():
    modes = []
    model = tiny(dropout=0.5)
    model.register_forward_pre_hook(lambda m, _: modes.append(m.training))
    Trainer(
        model,
        pairs(),
        config(epochs=1.0, eval_every=2),
        evaluate=lambda m: modes.append(("eval", m.training)) or {},
    ).fit()
    assert modes == [True, True, ("eval", False), True, ("eval", False)]
    assert not model.training


def test_the_learning_rates_follow_the_schedule():
    still = tiny()
    start = tiny()
    settings = config(steps=1, warmup_steps=10**6)
    Trainer(still, pairs(), settings).fit()
    moved = [
        (a - b).abs().max() for a, b in zip(still.parameters(), start.parameters(), strict=True)
    ]
    assert 0 < torch.stack(moved).max() < 1e-7 < settings.lr


# ---------------------------------------------------------------- hooks


class Events(Hook):
    """Notes what happens, in order."""

    def __init__(self):
        self.events = []

    def on_start(self, trainer):
        self.events.append(("start", trainer.step))

    def on_gradients(self, trainer):
        assert trainer.model.head.weight.grad is not None
        self.events.append(("gradients", trainer.step))

    def on_step(self, trainer):
        self.events.append(("step", trainer.step))

    def on_log(self, trainer, row):
        self.events.append(("log", row["step"]))

    def on_end(self, trainer, error):
        self.events.append(("end", type(error)))


def test_hooks_are_called_in_order():
    hook = Events()
    Trainer(tiny(), pairs(), config(steps=2, log_every=2), hooks=[hook]).fit()
    steps = [("gradients", 0), ("step", 1), ("gradients", 1), ("log", 2), ("step", 2)]
    assert hook.events == [("start", 0), *steps, ("end", type(None))]


def test_the_end_is_told_which_error_came():
    class Stop(Events):
        def on_step(self, trainer):
            raise KeyboardInterrupt

    hook = Stop()
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny(), pairs(), config(), hooks=[hook]).fit()
    assert hook.events[-1] == ("end", KeyboardInterrupt)


def test_any_model_that_owns_its_loss_trains_through_the_same_loop():
    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(1, 1)

        def forward(self, x, y):
            output = self.head(x)
            return output, ((output - y) ** 2).mean()

    class Points:
        block_size = None

        def __len__(self):
            return 32

        def tokens(self, i, epoch):
            return i / 16, 3 * i / 16 - 1

        def stack(self, examples, length):
            return tuple(torch.tensor(column)[:, None] for column in zip(*examples, strict=True))

    model = Line()
    settings = config(epochs=200.0, lr=0.03, bucket=False, weight_decay=0.0)
    Trainer(model, Points(), settings).fit()
    assert float(model.head.weight) == pytest.approx(3, abs=0.05)


# ---------------------------------------------------------------- repeating


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_same_seed_gives_the_same_weights_and_history(optimizer):
    results = []
    for _ in range(2):
        model = tiny(dropout=0.2)
        torch.manual_seed(random.randrange(10**6))  # what happened before does not matter
        results.append((model, Trainer(model, lines(), config(optimizer=optimizer)).fit()))
    assert same(results[0][0], results[1][0])
    assert without_seconds(results[0][1]) == without_seconds(results[1][1])
    other = tiny(dropout=0.2)
    Trainer(other, lines(), config(optimizer=optimizer, seed=1)).fit()
    assert not same(results[0][0], other)


def test_evaluating_does_not_change_the_training():
    def draw(model):
        torch.manual_seed(random.randrange(10**6))
        torch.rand(random.randrange(1, 50))
        return {}

    model, watched = tiny(dropout=0.2), tiny(dropout=0.2)
    Trainer(model, lines(), config(log_every=0)).fit()
    Trainer(watched, lines(), config(log_every=1, eval_every=2), evaluate=draw).fit()
    assert same(model, watched)


# ---------------------------------------------------------------- errors


def test_a_loss_that_is_no_number_stops_the_training():
    model, calls = tiny(), []

    def spoil(module, _):
        calls.append(1)
        if len(calls) == 5:
            with torch.no_grad():
                module.head.weight.fill_(math.nan)

    model.register_forward_pre_hook(spoil)
    message = r"the loss is nan at step 5: lower the learning rate \(now 0.01\)"
    with pytest.raises(FloatingPointError, match=message):
        Trainer(model, lines(), config()).fit()
    assert not model.training


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or mps, not 'gpu'"):
        choose_device("gpu")
    with pytest.raises(ValueError, match="device 'meta' is not available here"):
        choose_device("meta")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda' is not available here; 'auto'"):
            Trainer(tiny(), pairs(), config(device="cuda"))


@pytest.mark.parametrize(
    "there, chosen", [((True, True), "cuda"), ((False, True), "mps"), ((False, False), "cpu")]
)
def test_auto_takes_the_best_device(monkeypatch, there, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there[0])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there[1])
    assert choose_device("auto").type == chosen
