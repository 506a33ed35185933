"""Recipes: fields checked by name, strings read by type, and the assignment's numbers where they should be."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest

import kt_core as kt
from kt_core.datasets import NamePlace, SpanCorruption
from kt_core.runs.recipes import RECIPES, Recipe, recipe


@pytest.fixture(scope="module")
def corpus():
    return kt.load_corpus("bios:people=20")


# ---------------------------------------------------------------- names and types


def test_the_recipes_are_found_by_name_and_carry_it():
    assert set(RECIPES) == {"smoke", "quick", "a5", "kt", "kt-more"}
    for name in RECIPES:
        assert recipe(name).name == name
        assert recipe(recipe(name)) == recipe(name)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'quik'.*smoke.*quick.*kt.*a5"):
        recipe("quik")


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("pretrain_epoch", "pretrain_epochs"), ("finetune_rl", "finetune_lr"), ("nembd", "n_embd")],
)
def test_an_unknown_field_suggests_the_near_one_and_lists_all(wrong, near):
    with pytest.raises(ValueError, match=f"{wrong!r}, did you mean {near}") as raised:
        recipe("quick", **{wrong: 1})
    assert all(f.name in str(raised.value) for f in fields(Recipe))


def test_an_unknown_field_that_is_near_nothing_gets_no_suggestion():
    with pytest.raises(ValueError, match="'zzzz'; there are"):
        recipe("quick", zzzz=1)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("n_layer", 2.5, "int"),
        ("n_layer", True, "int"),
        ("n_layer", None, "int"),
        ("pretrain_lr", [1e-3], "float"),
        ("pretrain_lr", False, "float"),
        ("bucket", 1, "bool"),
        ("crop", 3, "str"),
    ],
)
def test_a_wrong_type_names_the_field_and_the_type(key, value, wanted):
    with pytest.raises(
        ValueError,
        match=rf"recipe field {key} must be {wanted}\b.*not {value!r}".replace("[", r"\["),
    ):
        recipe("quick", **{key: value})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("n_embd", "16", 16),
        ("n_embd", "1e2", 100),
        ("pretrain_epochs", "5", 5.0),
        ("pretrain_lr", "6e-3", 6e-3),
        ("pretrain_lr", ".5", 0.5),
        ("bucket", "False", False),
        ("bucket", "false", False),
        ("bucket", "True", True),
        ("end_sentinel", "true", True),
        ("crop", "prefix", "prefix"),
        ("name", "7", "7"),
    ],
)
def test_strings_are_read_as_the_fields_type(key, text, value):
    found = getattr(recipe("quick", **{key: text}), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("n_embd", "many"),
        ("n_embd", "1.5"),
        ("n_embd", ""),
        ("n_embd", "null"),
        ("n_embd", "inf"),
        ("pretrain_lr", "fast"),
        ("pretrain_lr", "inf"),
        ("pretrain_lr", "nan"),
        ("bucket", "yes"),
        ("bucket", "1"),
    ],
)
def test_strings_that_cannot_be_read_name_the_field(key, text):
    with pytest.raises(ValueError, match=f"recipe field {key} must be"):
        recipe("quick", **{key: text})


def test_whole_numbers_serve_as_floats():
    assert type(recipe("quick", pretrain_epochs=3).pretrain_epochs) is float


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("n_embd", 30, "n_embd"),
        ("block_size", 4, "block_size"),
        ("crop", "middle", "crop"),
        ("spans", "long", "spans"),
        ("loss", "none", "loss"),
        ("optimizer", "sgd", "optimizer"),
        ("schedule", "step", "schedule"),
        ("finetune_schedule", "step", "finetuning: .*schedule"),
        ("pretrain_lr", -1.0, "pretraining: .*learning_rate"),
        ("scratch_lr", 0.0, "without pretraining: .*learning_rate"),
        ("scratch_epochs", 0.0, "without pretraining: .*epochs"),
        ("mixed_pairs", -1, "mixed_pairs"),
        ("random_share", 1.5, "random_share"),
        ("ask", 1.5, "ask must lie in 0"),
        ("drop", -0.5, "drop must lie in 0"),
        ("dropout", 1.0, "dropout"),
        ("precision", "fp8", "precision"),
    ],
)
def test_values_that_no_run_can_have_are_refused_at_once(key, value, words):
    with pytest.raises(ValueError, match=words):
        recipe("quick", **{key: value})


def test_recipes_cannot_be_changed_and_overrides_leave_the_named_one_alone():
    with pytest.raises(FrozenInstanceError):
        RECIPES["quick"].n_embd = 3
    assert recipe("quick", n_embd=16).n_embd == 16
    assert RECIPES["quick"].n_embd == 128


def test_every_field_says_what_it_is():
    assert all(f.metadata["about"] for f in fields(Recipe))


# ---------------------------------------------------------------- the assignment's numbers (handout of 2024-25)


def test_a5_model():
    config = recipe("a5").model_config(256, "vanilla")
    assert config == kt.GPTConfig(256)
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size, config.dropout) == (
        4,
        8,
        256,
        128,
        0.1,
    )
    assert config.bottleneck == 64
    assert kt.GPT(config).n_parameters() == 3_323_392


def test_a5_pretraining():
    config = recipe("a5").pretrain_config()
    assert (config.epochs, config.batch_size, config.learning_rate) == (650, 128, 6e-3)
    assert (config.optimizer, config.betas, config.weight_decay, config.grad_clip) == (
        "adamw",
        (0.9, 0.95),
        0.1,
        1.0,
    )
    assert (config.schedule, config.warmup_steps, config.final_fraction) == ("cosine", 0, 0.1)
    assert (config.bucket, config.shuffle, config.parts) == (False, False, 1)
    assert config.decay_on == "all"
    total = 650 * 23  # 2937 documents in batches of 128
    for step in (
        0,
        1000,
        7475,
        14949,
    ):  # the assignment's rule: a half cosine over 650 epochs, cut off at 0.1
        assert config.rate(step, total) == pytest.approx(
            max(0.1, 0.5 * (1 + math.cos(math.pi * step / total)))
        )


def test_a5_finetuning():
    a5 = recipe("a5")
    after, scratch = a5.finetune_config(), a5.finetune_config(pretrained=False)
    assert (after.epochs, scratch.epochs) == (10, 75)
    for config in (after, scratch):
        assert (config.batch_size, config.learning_rate, config.weight_decay) == (256, 6e-4, 0.1)
        assert config.decay_on == "all"
        assert (config.optimizer, config.schedule, config.bucket, config.shuffle) == (
            "adamw",
            "cosine",
            False,
            False,
        )
        assert config.horizon == math.ceil(75_187_200 / (256 * 128)) == 2295
        assert 75_187_200 == 200 * 2937 * 128
        assert config.rate(80, 80) == pytest.approx(
            0.5 * (1 + math.cos(math.pi * 80 / 2295))
        )  # hardly falls


def test_a5_data_is_the_assignments(corpus):
    a5 = recipe("a5")
    assert (a5.crop, a5.spans, a5.loss, a5.end_sentinel, a5.mixed_pairs) == (
        "prefix",
        "random",
        "all",
        False,
        0,
    )
    data = a5.pretrain_data(corpus, corpus.vocab, seed=4)
    plain = SpanCorruption(corpus.documents, corpus.vocab, 128, 4)
    assert len(data) == len(plain)
    assert [data.tokens(i) for i in range(20)] == [plain.tokens(i) for i in range(20)]
    pairs = a5.finetune_data(corpus, corpus.vocab)
    assert [pairs.tokens(i) for i in range(len(pairs))] == [
        NamePlace(corpus.train, corpus.vocab).tokens(i) for i in range(len(pairs))
    ]


# ---------------------------------------------------------------- kinds and data


def test_the_kind_tells_whether_pretraining_sees_the_pairs(corpus):
    n, m = len(corpus.documents), len(corpus.train)
    for name in RECIPES:
        times = recipe(name).mixed_pairs
        assert recipe(name).kind == ("mixed" if times else "pure")
        assert (
            len(recipe(name).pretrain_data(corpus, corpus.vocab))
            == recipe(name).views * n + times * m
        )
    assert recipe("kt", mixed_pairs=0).kind == "pure"


def test_finetuning_keeps_documents_in_as_the_recipe_says(corpus):
    for times in (0, 1, 2):
        data = recipe("quick", finetune_documents=times).finetune_data(corpus, corpus.vocab)
        assert len(data) == len(corpus.train) + times * len(corpus.documents)


def test_no_recipe_trains_on_dev_or_test(corpus):
    asked = {q for q, _ in [*corpus.dev, *corpus.test]}
    for name in RECIPES:
        for data in (
            recipe(name).pretrain_data(corpus, corpus.vocab),
            recipe(name).finetune_data(corpus, corpus.vocab),
        ):
            texts = [corpus.vocab.decode(data.tokens(i)[0]).split("⁇")[0] for i in range(len(data))]
            assert not asked & set(texts)


def test_every_field_reaches_the_parts(corpus):
    """A field that nothing reads would be a setting without effect."""
    other = {
        str: {
            "name": "x",
            "activation": "relu2",
            "crop": "line",
            "spans": "random",
            "loss": "all",
            "optimizer": "adamw",
            "schedule": "constant",
            "finetune_schedule": "constant",
            "precision": "bf16",
            "decay_on": "all",
        }
    }
    base = replace(recipe("quick"), bottleneck=32)

    def shown(r):
        one, two = r.pretrain_data(corpus, corpus.vocab), r.finetune_data(corpus, corpus.vocab)
        for data in (one, two):
            data.set_epoch(1)
        seen = [[data.tokens(i) for i in range(len(data))] for data in (one, two)]
        configs = (
            r.model_config(9, "rope"),
            r.pretrain_config(),
            r.finetune_config(),
            r.finetune_config(False),
        )
        return str((seen, configs))

    for f in fields(Recipe):
        value = getattr(base, f.name)
        if f.name == "name":
            continue
        if isinstance(value, bool):
            changed = not value
        elif isinstance(value, str):
            changed = other[str][f.name]
        elif "share" in f.metadata["about"]:
            changed = 0.6
        elif f.name == "block_size":
            changed = 96
        else:
            changed = value * 2 or type(value)(1)
        assert changed != value, f.name
        assert shown(replace(base, **{f.name: changed})) != shown(base), f"{f.name} changes nothing"


def test_smoke_is_small_and_the_small_model_is_under_a_million():
    assert kt.GPT(recipe("smoke").model_config(80, "vanilla")).n_parameters() < 50_000
    assert kt.GPT(recipe("quick").model_config(80, "vanilla")).n_parameters() < 1_000_000
    assert 3_200_000 < kt.GPT(recipe("kt").model_config(256, "vanilla")).n_parameters() < 3_400_000
