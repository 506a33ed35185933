"""Recipes and options: a value that no run can have is refused by the name that was typed."""

from __future__ import annotations

import math

import pytest
from attacking import FIND, SMALL, is_clear, kt, no_hang, refused
from hypothesis import given
from hypothesis import strategies as st

from kt_core.runs.checkpoints import load_checkpoint
from kt_core.runs.recipes import RECIPES, recipe, recipe_options
from kt_core.runs.settings import parse_value

RUN = f"run --corpus bios:people=20 --recipe smoke --out new {SMALL}"
PRETRAIN = f"pretrain vanilla corpus/text.txt --writing_params_path out {SMALL}"
BAD = [
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "-1e9",
    "1e400",
    "x",
    "0x10",
    "1.5.2",
    "None",
    "[1]",
    "１２x",
]
NUMBER_OF = {key: type(option.default) in (int, float) for key, option in recipe_options().items()}
HUGE = {
    "model.n_layer": "n_layer",
    "model.n_embd": "n_embd",
    "model.block_size": "block_size",
    "pretrain.epochs": "epochs",
    "scratch.epochs": "epochs",
}


@pytest.mark.parametrize("key", recipe_options())
def test_a_value_that_is_none_is_refused_by_its_options_name(key):
    kind = type(recipe_options()[key].default)
    for value in [text for text in BAD if kind is not str or text not in ("x", "None", "[1]")]:
        try:
            chosen = recipe("smoke", **{key: value})
        except ValueError as error:
            is_clear(str(error), key.replace(".", r"\."))
            continue
        section, _, name = key.partition(".")
        held = getattr(getattr(chosen, section), name)
        assert kind is not str and held == parse_value(value, kind), (key, value, held)
        assert kind is bool or math.isfinite(held), (key, value, held)


@pytest.mark.parametrize("value", ["99999999999", "1e12", "1e308", str(10**30)])
@pytest.mark.parametrize("key", HUGE)
def test_a_size_that_no_machine_holds(here, key, value):
    refused(here, f"{RUN} --set {key}={value}".replace(f"--set {key}=16", ""), HUGE[key])


@FIND
@given(
    key=st.sampled_from(sorted(recipe_options())),
    value=st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.lists(st.integers(), max_size=2),
)
def test_any_value_gives_a_recipe_or_a_clear_error(key, value):
    try:
        chosen = recipe("kt", **{key: value})
    except ValueError as error:
        is_clear(str(error), key.replace(".", r"\."))
        return
    section, _, name = key.partition(".")
    held = getattr(getattr(chosen, section), name)
    assert type(held) is type(recipe_options()[key].default)
    assert not isinstance(held, float) or math.isfinite(held)


@FIND
@given(text=st.text(max_size=12), kind=st.sampled_from([int, float, bool]))
def test_any_text_is_read_as_a_value_or_refused(text, kind):
    try:
        value = parse_value(text, kind)
    except ValueError as error:
        assert repr(text) in str(error)
    else:
        assert type(value) is kind


@FIND
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="="), max_size=12))
def test_any_unknown_option_is_named(text):
    if text in recipe_options():
        return
    with pytest.raises(ValueError) as caught:
        recipe("smoke", **{text: "1"})
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("name", ["", "smok", "KT", "../kt", "a5 ", "none", "0"])
def test_an_unknown_recipe(here, name):
    refused(here, [*f"{RUN}".replace("--recipe smoke", "").split(), "--recipe", name], "no recipe")


def test_the_recipes_survive_a_round_trip():
    for chosen in RECIPES.values():
        again = {k: getattr(getattr(chosen, k.split(".")[0]), k.split(".")[1]) for k in NUMBER_OF}
        assert recipe(chosen, **again) == chosen
        assert recipe(chosen, **{k: str(v) for k, v in again.items()}) == chosen


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{RUN} --set", "--set"),
        (f"{RUN} --set =3", "no recipe option ''|KEY=VALUE"),
        (f"{RUN} --set n_embd", "--set n_embd: write KEY=VALUE"),
        (f"{RUN} --set n_embd=16", "did you mean 'model.n_embd'"),
        (f"{RUN} --set model.n_embd=16", "--set model.n_embd is given twice"),
        (f"{RUN} --set model=16", "no recipe option 'model'"),
        (f"{RUN} --set pretrain.lr=0", r"pretrain\.lr must be above 0"),
        (f"{RUN} --set pretrain.learning_rate=1", "did you mean 'pretrain.lr'"),
        (f"{RUN} --set scratch.batch_size=0", r"scratch\.batch_size"),
        (f"{RUN} --set pretrain.schedule=cosin", "did you mean 'cosine'"),
        (f"{RUN} --set pretrain.optimizer=moun", "did you mean 'muon'"),
        (f"{RUN} --set pretrain.precision=fp16", "precision"),
        (f"{RUN} --set data.task=question", "did you mean 'questions'"),
        (f"{RUN} --set model.random_offset=64", "random_offset must be in 0 ... 63"),
        (f"{RUN} --set data.drop=1.5", "drop must be in 0 ... 1"),
        (RUN.replace("n_embd=16", "n_embd=15"), "n_embd.*multiple of n_head"),
        (RUN.replace("bottleneck=32", "bottleneck=65") + " --variant perceiver", "bottleneck"),
        (RUN.replace("n_layer=2", "n_layer=1") + " --variant perceiver", "n_layer.*2 or more"),
        (RUN.replace("n_embd=16", "n_embd=6") + " --variant rope", "n_embd.*even number"),
        (RUN.replace("block_size=64", "block_size=16"), "block_size"),
        (f"{RUN} --seed -1", "--seed"),
        (f"{RUN} --seed 18446744073709551616", "--seed"),
        (f"{RUN} --seed 1.5", "--seed"),
        (f"{RUN} --seed nan", "--seed"),
        (f"{RUN} --variant lstm", "--variant"),
        (f"{RUN} --variant Rope", "--variant"),
        (f"{RUN.replace('cpu', 'gpu')}", "gpu.*device|device.*gpu"),
        (RUN.replace("--device cpu", "--device cuda:99"), "cuda"),
        (RUN.replace("--device cpu", "--device ''"), "device"),
        (f"{RUN} --recipee smoke", "recipee"),
        (f"{RUN} extra", "extra"),
        (f"{RUN} --resume=perhaps", "resume"),
        (f"{PRETRAIN} --max_steps 0", "max_steps"),
        (f"{PRETRAIN} --max_steps -3", "max_steps"),
        (f"{PRETRAIN} --max_steps 1.5", "max_steps"),
        (f"{PRETRAIN} --pretrain_lr 0", "pretrain.lr|pretrain_lr"),
        (f"{PRETRAIN} --pretrain_lr nan", "pretrain.lr|pretrain_lr"),
        (f"{PRETRAIN} --pretrain_lr -1", "pretrain.lr|pretrain_lr"),
        (f"{PRETRAIN} --pretrain_lr inf", "pretrain.lr|pretrain_lr"),
        (f"{PRETRAIN} --finetune_lr 0", "finetune.lr|finetune_lr"),
        (f"{PRETRAIN} --bottleneck_dim 16", "--set model.bottleneck=32: an option says 16"),
        (f"{PRETRAIN} --pretrain_lr 1e300", "pretrain.lr.*at most"),
        (f"{PRETRAIN} --bottleneck_dim 1.5", "bottleneck_dim.*1.5"),
        ("pretrain lstm corpus/text.txt --writing_params_path out", "lstm"),
        ("pretrain vanilla", "CORPUS"),
        ("pretrain", "VARIANT"),
        ("rnu", "did you mean 'run'"),
        ("sweep", "grid"),
        ("sweep run --grid seed", "--grid seed: write KEY=VALUE"),
        ("sweep run --grid sed=1,2", "sed"),
        ("sweep rnu --grid seed=1", "did you mean 'run'"),
        ("sweep run --grid seed=1,x", "seed"),
        ("sweep run --grid seed=", "seed"),
        ("sweep run --grid model.n_embd=15 --recipe smoke", "n_embd"),
        ("sweep run --grid people=1", "people=1 must be"),
        ("sweep run --grid seed=1 --grid seed=2", "seed is given twice"),
        ("sweep run --grid seed=1 --jobs 0", "--jobs"),
        ("sweep run --grid seed=1 --jobs -1", "--jobs"),
        ("sweep run --grid seed=1 --x people", "key of the grid 'people'"),
        ("workbook 1 --profile fast", "--profile"),
        ("workbook 99", "no notebook '99'"),
        ("workbook 0", "more than one|no notebook"),
        ("workbook 01_attention_moth", "no notebook '01_attention_moth'"),
        ("workbook 1 --jobs 0", "--jobs"),
        ("workbook 1 --from gone", "Unknown option|gone"),
        ("workbook 1 --source gone", "gone: no notebooks there"),
        ("workbook 1 --set epochs=3", "epochs"),
        ("fetch wik", "wik"),
        ("fetch wiki --from corpus", "corpus/wiki.txt: missing"),
        ("fetch wiki --from gone", "gone: no such folder"),
        ("doctor --ful", "--ful"),
        ("progress x", "x"),
        ("report", "RUNS"),
        ("grade", "NOTEBOOKS|--out"),
        ("release", "FOLDER"),
        ("lab --folder corpus/text.txt --no-open-lab", "a file, not a folder"),
    ],
)
def test_a_command_line_that_cannot_be_meant(here, line, words):
    refused(here, line, words)


@pytest.mark.parametrize(
    "change",
    [
        "data.views=3",
        "data.drop=1",
        "pretrain.batch_size=1000000000",
        "pretrain.micro_batches=1000000000",
        "pretrain.warmup_steps=1000000000000",
        "pretrain.horizon=1000000000000",
        "pretrain.final_fraction=1",
        "pretrain.cooldown_from=1",
        "pretrain.epochs=1e-9",
        "pretrain.lr=1e-300",
        "model.random_offset=63",
        "model.n_embd=2",
    ],
)
def test_an_extreme_value_that_is_allowed_trains(here, change):
    line = RUN.replace("--set model.n_embd=16", "") if "n_embd" in change else RUN
    line += "" if "epochs" in change else " --set pretrain.epochs=0.3"
    with no_hang(60):
        ran = kt(f"{line} --set finetune.epochs=1 --set {change}", seconds=60)
    assert (ran.status, ran.err) == (0, "")
    assert (here / "new" / "result.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        "pretrain.lr=1e6 --set pretrain.optimizer=adamw",
        "pretrain.lr=1e6 --set pretrain.muon_lr=1e6",
        "pretrain.weight_decay=1e6",
        "finetune.lr=1e6 --set finetune.weight_decay=1e6",
    ],
)
def test_a_training_that_diverges_says_so_and_leaves_no_broken_model(here, change):
    ran = kt(f"{RUN} --set {change}", seconds=60)
    assert ran.status in (0, 1) and not (ran.status == 0 and ran.err)
    if ran.status:
        is_clear(ran.err, "loss|finite")
        assert not (here / "new" / "result.json").exists()
    for path in (here / "new").glob("*.safetensors"):
        load_checkpoint(path)  # refuses what is not finite
