"""Checkpoints: two files that belong together, or an error that names the one that is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time

import pytest
import torch

from kt_core.blocks import VARIANTS, GPTConfig
from kt_core.corpora.files import write_atomically, write_json
from kt_core.models import GPT
from kt_core.runs.checkpoints import (
    CheckpointError,
    card_path,
    hardware,
    load_card,
    load_checkpoint,
    save_checkpoint,
    write_card,
)
from kt_core.runs.fast_paths import use_fast_paths
from kt_core.vocab import CharVocab

VOCAB = CharVocab.from_documents(["Łódź: où?"])


def tiny(variant="vanilla", seed=0, **more):
    torch.manual_seed(seed)
    size = dict(block_size=32, n_layer=2, n_head=2, n_embd=16, bottleneck=8) | more
    return GPT(GPTConfig(vocab_size=len(VOCAB), variant=variant, **size)).eval()


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path / "model.safetensors", tiny(), VOCAB, dict(seed=3))


def recard(path, **changes):
    """Write changes into a card; None removes a key."""
    card = load_card(path) | changes
    write_card(path, {k: v for k, v in card.items() if v is not None})


def replace_weights(path, data):
    """Put `data` in the weights' place, with a card that vouches for it."""
    path.write_bytes(data)
    recard(path, sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(tmp_path, variant):
    model = tiny(variant, dropout=0.3, qk_norm=True, rope_base=500.0)
    path = save_checkpoint(
        tmp_path / "new" / "folder" / "a.safetensors", model, VOCAB, dict(seed=3, recipe="smoke")
    )
    again, vocab, card = load_checkpoint(path)
    assert vocab == VOCAB and again.config == model.config and not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, t in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], t), name
    x = torch.randint(len(VOCAB), (2, 20))
    assert torch.equal(again(x)[0], use_fast_paths(model)(x)[0])
    assert card["seed"] == 3 and card["recipe"] == "smoke"


def test_what_the_card_says(saved):
    card = json.loads(card_path(saved).read_text(encoding="utf-8"))
    assert card_path(saved).name == "model.safetensors.json"
    assert card["config"]["n_embd"] == 16 and card["config"]["variant"] == "vanilla"
    assert card["vocab"] == "".join(VOCAB.chars[2:]) and card["seed"] == 3
    assert card["sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert "Ł" in card_path(saved).read_text(encoding="utf-8")  # readable, no escapes
    assert load_card(saved) == card


def test_a_cards_own_entries_cannot_be_overwritten(tmp_path):
    path = save_checkpoint(tmp_path / "a", tiny(), VOCAB, dict(sha256="no", vocab="no", config={}))
    load_checkpoint(path)


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path, saved):
    half = save_checkpoint(tmp_path / "half.safetensors", tiny(), VOCAB, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * saved.stat().st_size
    weights = load_checkpoint(half)[0].state_dict()
    for name, t in tiny().state_dict().items():
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], t.half().float()), name


def test_saving_leaves_the_model_alone(tmp_path):
    model = tiny().train()
    save_checkpoint(tmp_path / "a", model, VOCAB, dtype=torch.float16)
    assert model.training and all(p.dtype == torch.float32 for p in model.parameters())


def test_a_flipped_byte_is_found_and_the_file_named(saved):
    data = bytearray(saved.read_bytes())
    data[-5] ^= 1
    saved.write_bytes(data)
    with pytest.raises(CheckpointError, match="model.safetensors.*SHA-256"):
        load_checkpoint(saved)


def test_missing_files_are_named(tmp_path, saved):
    with pytest.raises(CheckpointError, match="none.safetensors: no such checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    card_path(saved).unlink()
    with pytest.raises(CheckpointError, match="model.safetensors.json is missing"):
        load_checkpoint(saved)


def test_the_card_of_another_checkpoint(tmp_path, saved):
    other = save_checkpoint(tmp_path / "other.safetensors", tiny(seed=1), VOCAB)
    card_path(saved).write_bytes(card_path(other).read_bytes())
    with pytest.raises(CheckpointError, match="do not belong together"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is not JSON"),
        ("[]", "holds a JSON list; an object is needed"),
        ("3", "holds a JSON int; an object is needed"),
        ('{"config": {}, "vocab": ""}', "lacks sha256"),
        ("{}", "lacks config, vocab, sha256"),
        (b"\xff\xfe", "is not JSON"),
        ("[" * 100_000, "is not JSON .nested too deep"),
    ],
)
def test_damaged_cards(saved, text, words):
    card_path(saved).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=f"model.safetensors.json {words}"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(config=dict(vocab_size=5, heads=3)), "json: config: .*heads"),
        (dict(config=dict(vocab_size=5, n_head=0)), "json: config: .*n_head"),
        (dict(config=dict(vocab_size=5, variant="lstm")), "json: config: .*lstm"),
        (dict(config=[1]), "json: config: "),
        (dict(vocab="aa"), "json: vocab: .*twice"),
        (dict(vocab=7), "json: vocab: "),
        (dict(vocab="ab"), "json: config says .* characters, vocab has 4"),
    ],
)
def test_wrong_entries_in_a_card_are_named(saved, change, words):
    recard(saved, **change)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(saved)


@pytest.mark.parametrize("field", ["n_layer", "n_embd", "block_size"])
@pytest.mark.parametrize("value", [10**3, 10**6, 10**12, 10**30])
def test_huge_sizes_are_refused_before_a_model_is_built(saved, field, value, monkeypatch):
    recard(saved, config=load_card(saved)["config"] | {field: value})
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="do not fit the card's config|must be"):
        load_checkpoint(saved)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("key", ["vocab", "seed", "config"])
def test_an_edited_card_is_refused(saved, key):
    card = load_card(saved)
    card["vocab" if key == "vocab" else key] = {
        "vocab": card["vocab"][::-1],
        "seed": 4,
        "config": card["config"] | {"dropout": 0.2},
    }[key]
    write_json(card_path(saved), card)
    with pytest.raises(CheckpointError, match="was edited or is damaged"):
        load_checkpoint(saved)
    del card["card_sha256"]
    write_json(card_path(saved), card)
    with pytest.warns(UserWarning, match="no digest of its own"):
        load_checkpoint(saved)


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
def test_weights_that_are_no_fractions_are_refused(saved, kind):
    from safetensors.torch import load, save

    tensors = load(saved.read_bytes())
    tensors["head.weight"] = tensors["head.weight"].to(kind)
    replace_weights(saved, save(tensors))
    with pytest.raises(CheckpointError, match="head.weight is torch.*, not floating point"):
        load_checkpoint(saved)


def test_weights_of_another_shape(tmp_path, saved):
    wide = save_checkpoint(tmp_path / "wide.safetensors", tiny(n_embd=32), VOCAB)
    recard(wide, config=load_card(saved)["config"])
    with pytest.raises(CheckpointError, match="wide.safetensors: the weights do not fit"):
        load_checkpoint(wide)


def test_weights_that_lack_a_tensor(saved):
    from safetensors.torch import load, save

    tensors = load(saved.read_bytes())
    tensors.pop("head.weight")
    replace_weights(saved, save(tensors))
    with pytest.raises(CheckpointError, match="head.weight"):
        load_checkpoint(saved)


class Bomb:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved, value):
    from safetensors.torch import load, save

    tensors = load(saved.read_bytes())
    tensors["head.weight"][0, 0] = value
    replace_weights(saved, save(tensors))
    with pytest.raises(CheckpointError, match="head.weight holds values that are not finite"):
        load_checkpoint(saved)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_no_pickle_is_loaded(tmp_path, saved, kind):
    bomb, trace = tmp_path / "bomb", tmp_path / "trace"
    if kind == "pickle":
        bomb.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save({"head.weight": Bomb(trace)}, bomb)
    replace_weights(saved, bomb.read_bytes())
    with pytest.raises(CheckpointError, match="model.safetensors is no safetensors file"):
        load_checkpoint(saved)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace))).close()
    assert trace.exists()  # it would have


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="do not belong together"):
        save_checkpoint(tmp_path / "a", tiny(), CharVocab(["a", "b"]))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_checkpoint_whole(saved, monkeypatch):
    before = {p: p.read_bytes() for p in saved.parent.iterdir()}

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, tiny(seed=1), VOCAB)
    assert {p: p.read_bytes() for p in saved.parent.iterdir()} == before  # no temporary file either
    load_checkpoint(saved)


def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space.*{tmp_path / 'a'}"):
        write_atomically(tmp_path / "a", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
def test_links_stay_and_special_files_are_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="not a plain file"):
            write_atomically(path, b"new")


def test_json_files_are_readable(tmp_path):
    write_json(tmp_path / "sub" / "a.json", dict(name="Łódź", n=[1]))
    assert (tmp_path / "sub" / "a.json").read_text(
        encoding="utf-8"
    ) == '{\n  "name": "Łódź",\n  "n": [\n    1\n  ]\n}\n'
    assert (tmp_path / "sub" / "a.json").stat().st_mode & 0o777 == 0o644


def test_hardware_in_words():
    assert "CPU" in hardware() and torch.__version__ in hardware("cpu")
