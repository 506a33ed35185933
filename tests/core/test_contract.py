"""The public names, as outside scripts use them: signatures, shapes, and the cost of an import."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import kt_core as kt

ROOT = Path(kt.__file__).resolve().parents[1]
CORPUS = "bios:people=20"
OVERRIDES = {"model.n_embd": 16, "model.block_size": 64}


@pytest.fixture(scope="module")
def corpus():
    return kt.load_corpus(CORPUS)


@pytest.fixture(scope="module")
def small(corpus):
    torch.manual_seed(0)
    return kt.GPT(kt.GPTConfig(len(corpus.vocab), 64, 2, 2, 16))


def leading(function) -> list[tuple]:
    """(name, default) of the parameters that can be given by position."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return [
        (p.name, None if p.default is p.empty else p.default)
        for p in inspect.signature(function).parameters.values()
        if p.kind in kinds
    ]


# ---------------------------------------------------------------- signatures

CONFIG = [
    ("vocab_size", None),
    ("block_size", 128),
    ("n_layer", 4),
    ("n_head", 8),
    ("n_embd", 256),
    ("variant", "vanilla"),
    ("bottleneck", 64),
    ("dropout", 0.1),
]
RUN = [
    ("corpus", "bios"),
    ("variant", "vanilla"),
    ("recipe", "quick"),
    ("pretrain", True),
    ("seed", 0),
    ("out", None),
]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (kt.GPTConfig, CONFIG),
        (kt.GPT.forward, [("self", None), ("idx", None), ("targets", None)]),
        (kt.record_attention, [("model", None)]),
        (kt.CharVocab.from_documents, [("documents", None)]),
        (
            kt.SpanCorruption,
            [("documents", None), ("vocab", None), ("block_size", 128), ("seed", 0)],
        ),
        (kt.NamePlace, [("pairs", None), ("vocab", None), ("block_size", 128)]),
        (kt.Trainer, [("model", None), ("data", None), ("config", None)]),
        (kt.answer, [("model", None), ("vocab", None), ("questions", None)]),
        (kt.exact_match, [("answers", None), ("gold", None)]),
        (kt.london_baseline, [("pairs", None)]),
        (kt.run_experiment, RUN),
        (kt.save_checkpoint, [("path", None), ("model", None), ("vocab", None), ("card", None)]),
        (kt.load_checkpoint, [("path", None)]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_signatures_begin_as_promised(function, expected):
    assert leading(function)[: len(expected)] == expected


def test_every_public_name_is_there():
    assert all(hasattr(kt, name) for name in kt.__all__)
    assert {"GPT", "GPTConfig", "run_experiment", "fetch_wiki", "Mixture", "recipe"} <= set(
        kt.__all__
    )
    assert len(set(kt.__all__)) == len(kt.__all__)
    modules = {name for name in kt.__all__ if inspect.ismodule(getattr(kt, name))}
    assert not modules, f"modules are not part of the contract: {modules}"


# ---------------------------------------------------------------- each works


def test_the_default_model_is_the_assignments():
    config = kt.GPTConfig(256)
    assert tuple(getattr(config, name) for name, _ in CONFIG) == (
        256,
        128,
        4,
        8,
        256,
        "vanilla",
        64,
        0.1,
    )
    assert kt.GPT(config).n_parameters() == 3_323_392
    assert kt.GPT(kt.GPTConfig(256, variant="rope")).n_parameters() == 3_290_624
    with pytest.raises(AttributeError):
        config.n_layer = 5
    with pytest.raises(ValueError, match="vanilla, rope, perceiver, perceiver_ar"):
        kt.GPTConfig(256, variant="plain")


@pytest.mark.parametrize("variant", ["vanilla", "rope", "perceiver", "perceiver_ar"])
def test_a_model_gives_logits_loss_and_maps(variant):
    model = kt.GPT(kt.GPTConfig(20, 16, 3, 2, 8, variant, 8)).eval()
    idx = torch.randint(1, 20, (2, 16))
    logits, loss = model(idx)
    assert logits.shape == (2, 16, 20)
    assert loss is None
    targets = idx.roll(-1, 1)
    targets[:, 8:] = 0
    expected = torch.nn.functional.cross_entropy(
        logits[:, :8].flatten(0, 1), targets[:, :8].flatten()
    )
    assert torch.allclose(model(idx, targets)[1], expected)
    with kt.record_attention(model) as maps:
        same, _ = model(idx)
    assert len(maps) == 3
    for weights in maps:
        assert weights.shape[:2] == (2, 2)
        assert not weights.requires_grad
    latent = variant.startswith("perceiver")
    assert maps[0].shape[2:] == ((8, 16) if latent else (16, 16))
    assert maps[1].shape[2:] == ((8, 8) if latent else (16, 16))
    assert maps[2].shape[2] == 16
    assert torch.allclose(same, logits, atol=1e-5)
    with pytest.raises(ValueError, match="17"):
        model(torch.ones(1, 17, dtype=torch.long))


def test_corpus_and_vocabulary(corpus):
    assert all(isinstance(document, str) for document in corpus.documents)
    for split in (corpus.train, corpus.dev, corpus.test):
        assert all(
            q == f"Where was {kt.question_name(q)} born?" and isinstance(a, str) for q, a in split
        )
    vocab = kt.CharVocab.from_documents(corpus.documents)
    assert vocab == corpus.vocab
    assert vocab.decode([0, 1, *vocab.encode("Where was\n")]) == "□⁇Where was\n"
    assert vocab.decode(range(2, len(vocab))) == "".join(sorted(vocab.decode(range(2, len(vocab)))))


def test_datasets(corpus):
    data = kt.SpanCorruption(corpus.documents, corpus.vocab, block_size=128, seed=0)
    pairs = kt.NamePlace(corpus.train, corpus.vocab, block_size=128)
    for each in (data, pairs):
        for i in range(len(each)):
            x, y = each[i]
            assert x.shape == y.shape == (128,)
            assert x.dtype == y.dtype == torch.int64
            at = (y[:-1] != 0).nonzero()[:, 0]
            assert torch.equal(y[at], x[at + 1])
    first = data[0]
    data.set_epoch(3)
    assert not torch.equal(data[0][0], first[0])
    data.set_epoch(0)
    assert torch.equal(data[0][0], first[0])


def test_training_answering_and_scoring(corpus, small):
    pairs = kt.NamePlace(corpus.train, corpus.vocab, block_size=64)
    history = kt.Trainer(small, pairs, kt.TrainConfig(steps=2, batch_size=4, device="cpu")).fit()
    assert history[-1]["step"] == 2
    answers = kt.answer(small, corpus.vocab, [q for q, _ in corpus.dev])
    assert all(isinstance(a, str) and not set("□⁇") & set(a) for a in answers)
    score = kt.exact_match(answers, [a for _, a in corpus.dev])
    assert 0 <= score.low <= score.accuracy <= score.high <= 1
    assert (kt.exact_match(["London", "Rome"], ["London", "Paris"]).correct, score.total) == (
        1,
        len(corpus.dev),
    )
    assert type(kt.london_baseline(corpus.dev)) is type(score)
    assert str(kt.Score(25, 500)) == "Correct: 25 out of 500: 5.0%"


def test_a_run(tmp_path):
    result = kt.run_experiment(
        corpus=CORPUS,
        variant="rope",
        recipe="smoke",
        pretrain=False,
        seed=0,
        out=tmp_path / "run",
        overrides=OVERRIDES,
    )
    assert isinstance(result.dev, kt.Score)
    assert isinstance(result.test, kt.Score)
    assert result.path == tmp_path / "run"


def test_checkpoints(tmp_path, corpus, small):
    path = tmp_path / "model.safetensors"
    kt.save_checkpoint(path, small, corpus.vocab, {"note": "mine"})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.safetensors",
        "model.safetensors.json",
    ]
    model, vocab, card = kt.load_checkpoint(path)
    assert (vocab, card["note"], model.config) == (corpus.vocab, "mine", small.config)


def test_bad_values_are_value_errors(tmp_path):
    for error in (kt.CorpusError, kt.CheckpointError):
        assert issubclass(error, ValueError)
    for wrong in (
        lambda: kt.load_corpus("nowhere"),
        lambda: kt.load_checkpoint(tmp_path / "none"),
        lambda: kt.run_experiment(recipe="none"),
        lambda: kt.recipe("quick", nothing=1),
        lambda: kt.TrainConfig(steps=0),
        lambda: kt.exact_match(["a"], []),
        lambda: kt.CharVocab("aa"),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_nothing_of_torch_that_we_call_is_deprecated(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for variant in ("rope", "perceiver"):
            kt.run_experiment(
                CORPUS,
                variant,
                "smoke",
                True,
                0,
                tmp_path / variant,
                device="cpu",
                overrides=OVERRIDES | {"pretrain.epochs": 0.3, "model.dropout": 0.1},
            )
    messages = [
        str(w.message)
        for w in caught
        if issubclass(w.category, DeprecationWarning | FutureWarning)
        or "deprecat" in str(w.message)
    ]
    assert messages == []


# ---------------------------------------------------------------- what an import costs

BLOCKED = """
import sys

class Blocker:
    names = ("tqdm", "safetensors", "matplotlib", "pooch", "papermill", "ipywidgets", "IPython")
    ours = None
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in self.names if self.ours is None else top not in self.ours:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Blocker())
import numpy, torch  # torch has needs of its own, and wishes: tqdm
before = {name.partition(".")[0] for name in sys.modules}
assert not before & set(Blocker.names)
Blocker.ours = before | set(sys.stdlib_module_names) | {"kt_core"}  # from here on, nothing else
"""


def run_python(code: str, folder: Path, **more: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_import_needs_torch_and_numpy_alone_and_does_nothing_else(tmp_path):
    code = (
        BLOCKED
        + """
state, threads = torch.get_rng_state(), torch.get_num_threads()
import kt_core as kt
after = {name.partition(".")[0] for name in sys.modules} - before
assert after - set(sys.stdlib_module_names) <= {"kt_core"}, after
assert torch.equal(state, torch.get_rng_state()) and threads == torch.get_num_threads()
corpus = kt.load_corpus("bios:people=20")
model = kt.GPT(kt.GPTConfig(len(corpus.vocab), 64, 2, 2, 16, "perceiver_ar", 32))
x, y = kt.NamePlace(corpus.train, corpus.vocab, 64)[0]
model(x[None], y[None])[1].backward()
print(len(kt.answer(model, corpus.vocab, [q for q, _ in corpus.dev])))
"""
    )
    assert run_python(code, tmp_path).splitlines()[-1] == "5"
    assert list(tmp_path.iterdir()) == []


def test_no_result_depends_on_the_hash_seed(tmp_path):
    code = """
import hashlib, kt_core as kt, torch
corpus = kt.load_corpus("bios:people=20")
data = kt.recipe("quick").pretrain_data(corpus, corpus.vocab, 3)
examples = [data.tokens(i, 2) for i in range(len(data))]
parts = corpus.documents, corpus.dev, corpus.vocab.chars, examples
print(hashlib.sha256(str(parts).encode()).hexdigest())
"""
    assert len({run_python(code, tmp_path, PYTHONHASHSEED=seed) for seed in ("0", "1")}) == 1
