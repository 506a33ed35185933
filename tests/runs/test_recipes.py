"""Recipes: options by dotted names, strings read by type, and the assignment's numbers."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest

import kt_core as kt
from kt_core.datasets import NamePlace, SpanCorruption
from kt_core.runs.recipes import PHASES, RECIPES, recipe, recipe_options


@pytest.fixture(scope="module")
def corpus(small_corpus):
    return small_corpus


def value_of(chosen, key):
    section, option = key.split(".")
    return getattr(getattr(chosen, section), option)


# ---------------------------------------------------------------- names and types


def test_the_recipes_are_found_by_name_and_carry_it():
    assert set(RECIPES) >= {"smoke", "quick", "a5", "kt", "kt-pure"}
    for name in RECIPES:
        assert recipe(name).name == name
        assert recipe(recipe(name)) == recipe(name)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'quik', did you mean 'quick'\?"):
        recipe("quik")


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("pretrain.epoch", "pretrain.epochs"),
        ("pretrain_lr", "pretrain.lr"),  # flat names of before
        ("finetune_muon_lr", "finetune.muon_lr"),
        ("n_embd", "model.n_embd"),
        ("optimizer", "pretrain.optimizer"),
        ("finetune_rl", "finetune.lr"),
        ("nembd", "model.n_embd"),
        ("model.nembd", "model.n_embd"),
    ],
)
def test_an_unknown_option_suggests_the_near_one(wrong, near):
    with pytest.raises(ValueError, match=f"{wrong!r}, did you mean '{near}'"):
        recipe("quick", **{wrong: 1})


def test_an_unknown_option_that_is_near_nothing_lists_all():
    with pytest.raises(ValueError, match="'zzzz'; known: model") as error:
        recipe("quick", zzzz=1)
    assert all(option.partition(".")[2] in str(error.value) for option in recipe_options())


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("model.n_layer", 2.5, "int"),
        ("model.n_layer", True, "int"),
        ("model.n_layer", None, "int"),
        ("pretrain.lr", [1e-3], "float"),
        ("pretrain.lr", False, "float"),
        ("pretrain.bucket", 1, "bool"),
        ("data.task", 3, "str"),
    ],
)
def test_a_wrong_type_names_the_option_and_the_type(key, value, kind):
    message = rf"recipe option {key} must be {kind}\b.*not {value!r}".replace("[", r"\[")
    with pytest.raises(ValueError, match=message):
        recipe("quick", **{key: value})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model.n_embd", "16", 16),
        ("model.n_embd", "1e2", 100),
        ("pretrain.epochs", "5", 5.0),
        ("pretrain.lr", "6e-3", 6e-3),
        ("pretrain.lr", ".5", 0.5),
        ("pretrain.bucket", "False", False),
        ("pretrain.bucket", "false", False),
        ("pretrain.bucket", "True", True),
        ("data.select", "true", True),
        ("data.task", "questions", "questions"),
    ],
)
def test_strings_are_read_as_the_options_type(key, text, value):
    parsed = value_of(recipe("quick", **{key: text}), key)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("model.n_embd", "many"),
        ("model.n_embd", "1.5"),
        ("model.n_embd", ""),
        ("model.n_embd", "null"),
        ("model.n_embd", "inf"),
        ("pretrain.lr", "fast"),
        ("pretrain.lr", "inf"),
        ("pretrain.lr", "nan"),
        ("pretrain.bucket", "yes"),
        ("pretrain.bucket", "1"),
    ],
)
def test_strings_that_cannot_be_read_name_the_option(key, text):
    with pytest.raises(ValueError, match=f"recipe option {key} must be"):
        recipe("quick", **{key: text})


def test_whole_numbers_serve_as_floats():
    assert type(recipe("quick", **{"pretrain.epochs": 3}).pretrain.epochs) is float


def test_options_that_depend_on_each_other_are_changed_together():
    chosen = recipe("quick", **{"model.n_embd": 30, "model.n_head": 3})
    assert (chosen.model.n_embd, chosen.model.n_head) == (30, 3)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.n_embd", 30, "n_embd"),
        ("model.block_size", 4, "random_offset"),
        ("model.random_offset", -1, "random_offset must be in 0 ... 127"),
        ("model.random_offset", 128, "random_offset must be in 0 ... 127"),
        ("model.dropout", 1.0, "dropout"),
        ("data.task", "riddles", "task"),
        ("data.mixed_pairs", -1, "data.mixed_pairs must be 0 or more"),
        ("data.views", 0, "data.views must be 1 or more"),
        ("data.drop", 1.5, "drop must be in 0"),
        ("data.drop", -0.5, "drop must be in 0"),
        ("pretrain.optimizer", "sgd", "optimizer"),
        ("pretrain.schedule", "step", "schedule"),
        ("pretrain.lr", -1.0, "pretrain.lr must be above 0"),
        ("pretrain.precision", "fp8", "precision"),
        ("pretrain.micro_batches", 0, "pretrain.micro_batches must be 1 or more"),
        ("finetune.schedule", "step", "finetune.schedule"),
        ("scratch.lr", 0.0, "scratch.lr must be above 0"),
        ("scratch.epochs", 0.0, "scratch.epochs"),
    ],
)
def test_values_that_no_run_can_have_are_refused_at_once(key, value, words):
    with pytest.raises(ValueError, match=words):
        recipe("quick", **{key: value})


def test_recipes_cannot_be_changed_and_overrides_leave_the_named_one_alone():
    with pytest.raises(FrozenInstanceError):
        RECIPES["quick"].model.n_embd = 3
    assert recipe("quick", **{"model.n_embd": 16}).model.n_embd == 16
    assert RECIPES["quick"].model.n_embd == 128


# ---------------------------------------------------------------- the assignment (2024-25)


def test_a5_model():
    config = recipe("a5").model_config(256, "vanilla")
    assert config == kt.GPTConfig(256)
    assert (config.n_layer, config.n_head, config.n_embd) == (4, 8, 256)
    assert (config.block_size, config.dropout, config.bottleneck) == (128, 0.1, 64)
    assert recipe("a5").model.random_offset == 0
    assert recipe("a5").new_model(256, "vanilla").n_parameters() == 3_323_392


def test_a5_pretraining():
    config, options = recipe("a5").phase("pretrain")
    assert (config.epochs, config.batch_size, config.lr) == (650, 128, 6e-3)
    assert (config.optimizer, config.betas) == ("adamw", (0.9, 0.95))
    assert (config.weight_decay, config.grad_clip, config.decay_on) == (0.1, 1.0, "all")
    assert (config.schedule, config.warmup_steps, config.final_fraction) == ("cosine", 0, 0.1)
    assert (config.bucket, config.shuffle, config.horizon) == (False, False, 0)
    assert options == dict(precision="auto", micro_batches=1, compile=False, random_offset=0)
    total = 650 * 23  # 2937 documents in batches of 128
    for step in (0, 1000, 7475, 14949):  # half a cosine over 650 epochs, cut off at 0.1
        half_cosine = 0.5 * (1 + math.cos(math.pi * step / total))
        assert config.rate(step, total) == pytest.approx(max(0.1, half_cosine))


def test_a5_finetuning():
    (after, _), (scratch, _) = (recipe("a5").phase(name) for name in ("finetune", "scratch"))
    assert (after.epochs, scratch.epochs) == (10, 75)
    for config in (after, scratch):
        assert (config.batch_size, config.lr, config.weight_decay) == (256, 6e-4, 0.1)
        assert (config.optimizer, config.schedule, config.decay_on) == ("adamw", "cosine", "all")
        assert (config.bucket, config.shuffle) == (False, False)
        assert config.horizon == math.ceil(75_187_200 / (256 * 128)) == 2295
        assert 75_187_200 == 200 * 2937 * 128
        half_cosine = 0.5 * (1 + math.cos(math.pi * 80 / 2295))
        assert config.rate(80, 80) == pytest.approx(half_cosine)  # hardly falls


def test_a5_data_is_the_assignments(corpus):
    a5 = recipe("a5")
    data = a5.pretrain_data(corpus, corpus.vocab, seed=4)
    plain = SpanCorruption(corpus.documents, corpus.vocab, 128, 4)
    assert len(data) == len(plain)
    assert [data.tokens(i, 3) for i in range(20)] == [plain.tokens(i, 3) for i in range(20)]
    finetuning = a5.finetune_data(corpus, corpus.vocab)
    pairs = NamePlace(corpus.train, corpus.vocab)
    assert len(finetuning) == len(pairs)
    assert all(finetuning.tokens(i) == pairs.tokens(i) for i in range(len(pairs)))


# ---------------------------------------------------------------- kinds, data and models


def test_the_kind_says_whether_pretraining_sees_the_pairs(corpus):
    n, m = len(corpus.documents), len(corpus.train)
    for chosen in RECIPES.values():
        views, times = chosen.data.views, chosen.data.mixed_pairs
        assert chosen.kind == ("mixed" if times else "pure")
        assert len(chosen.pretrain_data(corpus, corpus.vocab)) == views * n + times * m
    assert (recipe("kt").kind, recipe("kt-pure").kind) == ("mixed", "pure")


def test_no_finetuning_is_a_recipe_and_no_pretraining_is_not():
    assert recipe("quick", **{"finetune.epochs": 0}).finetune.epochs == 0
    with pytest.raises(ValueError, match="recipe quick: pretrain.epochs"):
        recipe("quick", **{"pretrain.epochs": 0})


def test_no_recipe_trains_on_dev_or_test(corpus):
    held_out = {question for question, _ in [*corpus.dev, *corpus.test]}
    for chosen in RECIPES.values():
        for make in (chosen.pretrain_data, chosen.finetune_data):
            data = make(corpus, corpus.vocab)
            ids = [data.tokens(i)[0] for i in range(len(data))]
            assert not held_out & {corpus.vocab.decode(each).split("⁇")[0] for each in ids}


def test_every_option_reaches_the_parts(corpus):
    """An option that nothing reads would have no effect."""
    words = dict(task="span_corruption", optimizer="adamw", schedule="constant")
    words |= dict(precision="bf16", decay_on="all")
    base = recipe("quick", **{"model.bottleneck": 32})

    def effect(chosen):
        data = (
            chosen.pretrain_data(corpus, corpus.vocab),
            chosen.finetune_data(corpus, corpus.vocab),
        )
        examples = [[part.tokens(i, 1) for i in range(len(part))] for part in data]
        phases = [chosen.phase(phase) for phase in PHASES]
        weight = chosen.new_model(9, "rope").blocks[0].mlp.proj.weight
        return str((examples, chosen.model_config(9, "rope"), phases, bool(weight.any())))

    before = effect(base)
    for key, field in recipe_options().items():
        value = value_of(base, key)
        if isinstance(value, bool):
            changed = not value
        elif isinstance(value, str):
            changed = words[field.name]
        elif field.name in ("dropout", "drop", "cooldown_from", "final_fraction"):
            changed = 0.6
        elif field.name == "block_size":
            changed = 96
        else:
            changed = value * 2 or type(value)(1)
        assert changed != value, key
        assert effect(recipe(base, **{key: changed})) != before, f"{key} changes nothing"


def test_smoke_is_small_and_the_small_model_is_under_a_million():
    assert recipe("smoke").new_model(80, "vanilla").n_parameters() < 50_000
    assert recipe("quick").new_model(80, "vanilla").n_parameters() < 1_000_000
    assert 3_200_000 < recipe("kt").new_model(256, "vanilla").n_parameters() < 3_400_000
