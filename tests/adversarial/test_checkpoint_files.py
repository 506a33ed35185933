"""Checkpoints: whatever is wrong with weights or card is named before a model answers anything."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from attacking import (
    BROKEN_JSON,
    FIND,
    SMALL,
    SPECIAL,
    is_clear,
    kt,
    no_hang,
    refused,
    special_file,
)
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from kt_core.corpora.files import sha256
from kt_core.runs.checkpoints import CheckpointError, card_digest, load_checkpoint

EVALUATE = (
    "evaluate vanilla corpus/text.txt --reading_params_path model "
    "--eval_corpus_path corpus/dev.tsv --outputs_path answers"
)
FINETUNE = (
    "finetune vanilla corpus/text.txt --reading_params_path model --writing_params_path out "
    f"--finetune_corpus_path corpus/train.tsv {SMALL}"
)
HUGE = 10**30


def recard(here, vouch=True, **changes):
    """Change the card; `vouch` also gives it the digest that belongs to it. None removes a key."""
    path = here / "model.json"
    card = json.loads(path.read_text()) | changes
    card = {key: value for key, value in card.items() if value is not None}
    if vouch:
        card["card_sha256"] = card_digest(card)
    path.write_text(json.dumps(card))


def reconfigure(here, **changes):
    recard(here, config=json.loads((here / "model.json").read_text())["config"] | changes)


def reweigh(here, change):
    """Replace the weights by change(weights), vouched for by the card."""
    data = save(change(load((here / "model").read_bytes())))
    (here / "model").write_bytes(data)
    recard(here, sha256=sha256(data))


def replace_bytes(here, data):
    (here / "model").write_bytes(data)
    recard(here, sha256=sha256(data))


@pytest.mark.parametrize("line", [EVALUATE, FINETUNE], ids=["evaluate", "finetune"])
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["model", "model.json"])
def test_what_is_no_plain_file_is_refused_at_once(here, line, name, kind):
    special_file(kind, here / name)
    refused(here, line, name)


DAMAGE = {
    "no card": (lambda h: (h / "model.json").unlink(), r"model\.json is missing: .*two files"),
    "no weights": (lambda h: (h / "model").unlink(), "model: no such checkpoint"),
    "cut": (lambda h: os.truncate(h / "model", 999), "model: SHA-256 is .* do not belong"),
    "empty": (lambda h: (h / "model").write_bytes(b""), "model: SHA-256"),
    "the card of another": (
        lambda h: (h / "model.json").write_bytes((h / "other.json").read_bytes()),
        "model: SHA-256 .*do not belong together",
    ),
    "the weights of another": (
        lambda h: (h / "model").write_bytes((h / "other").read_bytes()),
        "model: SHA-256 .*do not belong together",
    ),
    "an edited card": (lambda h: recard(h, vouch=False, seed=5), "model.json was edited"),
    "an edited vocabulary": (
        lambda h: recard(
            h, vouch=False, vocab=json.loads((h / "model.json").read_text())["vocab"][::-1]
        ),
        "model.json was edited",
    ),
    "an edited shape": (
        lambda h: recard(h, vouch=False, config={"vocab_size": 9}),
        "model.json was edited",
    ),
    "a pickle": (lambda h: replace_bytes(h, b"\x80\x04cos\nsystem\n."), "no safetensors file"),
    "a header of 10 GB": (
        lambda h: replace_bytes(h, struct.pack("<Q", 10 * 2**30) + b"{}"),
        "no safetensors file",
    ),
    "a header that is no JSON": (
        lambda h: replace_bytes(h, struct.pack("<Q", 3) + b"abc"),
        "no safetensors file",
    ),
    "not a number": (
        lambda h: reweigh(h, lambda w: {k: t * float("nan") for k, t in w.items()}),
        "model: .*not finite",
    ),
    "one infinity": (
        lambda h: reweigh(h, lambda w: w | {"ln_f.weight": w["ln_f.weight"] / 0}),
        "model: ln_f.weight .*not finite",
    ),
    "whole numbers": (
        lambda h: reweigh(h, lambda w: {k: t.long() for k, t in w.items()}),
        "model: .*int64, not floating point",
    ),
    "true and false": (
        lambda h: reweigh(h, lambda w: {k: t > 0 for k, t in w.items()}),
        "model: .*bool, not floating point",
    ),
    "a weight missing": (
        lambda h: reweigh(h, lambda w: {k: t for k, t in w.items() if k != "ln_f.bias"}),
        "model: .*ln_f.bias is missing, wanted: 16",
    ),
    "a weight too many": (
        lambda h: reweigh(h, lambda w: w | {"extra": torch.ones(3)}),
        "model: .*extra is 3, wanted: missing",
    ),
    "a weight transposed": (
        lambda h: reweigh(h, lambda w: w | {"tok_emb.weight": w["tok_emb.weight"].T.contiguous()}),
        "model: .*tok_emb.weight is 16 x",
    ),
    "no weights inside": (lambda h: reweigh(h, lambda w: {}), "model: .*(missing|0 tensors)"),
    "a vocabulary too small": (lambda h: recard(h, vocab="abc"), r"model\.json: .*vocab has 5"),
    "a letter twice": (lambda h: recard(h, vocab="aab"), r"model\.json: vocab: .*twice"),
    "a vocabulary of numbers": (lambda h: recard(h, vocab=[1, 2]), r"model\.json: vocab: "),
    "a vocabulary that is a number": (lambda h: recard(h, vocab=7), r"model\.json: vocab: "),
    "padding in the vocabulary": (lambda h: recard(h, vocab="ab□"), r"model\.json: vocab: .*□"),
    "no configuration": (lambda h: recard(h, config=None), "model.json lacks config"),
    "no vocabulary": (lambda h: recard(h, vocab=None), "model.json lacks vocab"),
    "no digest": (lambda h: recard(h, sha256=None), "model.json lacks sha256"),
    "a configuration that is a list": (lambda h: recard(h, config=[1]), r"model\.json: config"),
    "an unknown field": (lambda h: reconfigure(h, heads=3), r"model\.json: config: .*heads"),
    "an unknown variant": (lambda h: reconfigure(h, variant="rop"), "config.*variant.*mean 'rope'"),
    "a variant that is a list": (lambda h: reconfigure(h, variant=["rope"]), "config.*variant"),
    "text for a number": (lambda h: reconfigure(h, n_layer="2"), "config: .*n_layer"),
    "a fraction of a layer": (lambda h: reconfigure(h, n_layer=1.5), "config: .*n_layer"),
    "no layer": (lambda h: reconfigure(h, n_layer=0), "config: .*n_layer"),
    "null": (lambda h: reconfigure(h, n_embd=None), "config: .*n_embd"),
    "heads that do not divide": (lambda h: reconfigure(h, n_head=3), "config: .*n_embd"),
    "a million layers": (lambda h: reconfigure(h, n_layer=10**6), "config: .*n_layer|2 tensors"),
    "layers without end": (lambda h: reconfigure(h, n_layer=HUGE), "config: .*n_layer.*at most"),
    "channels without end": (lambda h: reconfigure(h, n_embd=2**62), "config: .*n_embd.*at most"),
    "a block without end": (lambda h: reconfigure(h, block_size=10**12), "config.*block_size"),
    "dropout of NaN": (lambda h: reconfigure(h, dropout=float("nan")), "config: .*dropout"),
    "dropout of 1": (lambda h: reconfigure(h, dropout=1), "config: .*dropout"),
    "a base without end": (lambda h: reconfigure(h, rope_base=float("inf")), "config: .*rope_base"),
    "an encoder that generates": (lambda h: reconfigure(h, causal="no"), "config: .*causal"),
}
CARDS = BROKEN_JSON | {
    "a number": b"3",
    "a digest that is a number": b'{"config": {}, "vocab": "a", "sha256": 3}',
}


@pytest.mark.parametrize("line", [EVALUATE, FINETUNE], ids=["evaluate", "finetune"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(here, line, damage):
    change, words = DAMAGE[damage]
    change(here)
    refused(here, line, words)


@pytest.mark.parametrize("content", CARDS)
def test_a_card_that_is_none(here, content):
    (here / "model.json").write_bytes(CARDS[content])
    refused(here, EVALUATE, "model")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (EVALUATE.replace("vanilla", "rope"), "model holds a vanilla model, not rope"),
        (EVALUATE.replace("path model", "path corpus/text.txt"), "text.txt.json is missing"),
        (EVALUATE.replace("path model", "path ''"), "--reading_params_path '': the name is empty"),
        (f"{EVALUATE} --bottleneck_dim 0", "bottleneck"),
        (EVALUATE.replace("text.txt", "gone.txt"), "gone.txt: no such file"),
        ("export gone folder", "no checkpoint 'gone'"),
        ("export bios-rope-finetunde folder", "did you mean 'bios-rope-finetuned'"),
        ("export model corpus", "corpus holds something else"),
        ("export model model", "model is a file: name a folder"),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_command(here, line, words):
    refused(here, line, words)


def test_a_card_without_its_own_digest_is_doubted_aloud(here):
    card = json.loads((here / "model.json").read_text())
    del card["card_sha256"]
    (here / "model.json").write_text(json.dumps(card))
    with pytest.warns(UserWarning, match="model.json has no digest of its own"):
        load_checkpoint("model")


@FIND
@given(data=st.data())
def test_any_changed_byte_is_noticed(original, tmp_path, data):
    """In the weights, or in the card: then it says the same, or it is refused."""
    name = data.draw(st.sampled_from(["model", "model.json"]))
    contents = {one: (original / one).read_bytes() for one in ("model", "model.json")}
    changed = bytearray(contents[name])
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    for one, content in (contents | {name: bytes(changed)}).items():
        (tmp_path / one).write_bytes(content)
    with no_hang():
        try:
            card = load_checkpoint(tmp_path / "model")[2]
        except CheckpointError as error:
            is_clear(str(error), "model")
        else:
            assert name == "model.json" and card == json.loads(contents["model.json"])


@FIND
@given(length=st.integers(0, 20_000), name=st.sampled_from(["model", "model.json"]))
def test_any_cut_is_noticed(original, tmp_path, length, name):
    for one in ("model", "model.json"):
        (tmp_path / one).write_bytes((original / one).read_bytes())
    if length >= (tmp_path / name).stat().st_size - 1:  # the last byte of the card is a line end
        return
    os.truncate(tmp_path / name, length)
    with pytest.raises(CheckpointError, match="model"), no_hang():
        load_checkpoint(tmp_path / "model")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@FIND
@given(data=st.data())
def test_any_value_in_a_card_is_loaded_or_refused(original, tmp_path, data):
    for one in ("model", "model.json"):
        (tmp_path / one).write_bytes((original / one).read_bytes())
    card = json.loads((original / "model.json").read_text())
    key, value = data.draw(st.sampled_from(["vocab", "sha256", *card["config"]])), data.draw(JSON)
    if key in card["config"]:
        recard(tmp_path, config=card["config"] | {key: value})
    else:
        recard(tmp_path, **{key: value})
    with no_hang():
        try:
            load_checkpoint(tmp_path / "model")
        except CheckpointError as error:
            is_clear(str(error), "model")


def test_a_good_checkpoint_still_answers(here):
    assert kt(EVALUATE).status == 0
