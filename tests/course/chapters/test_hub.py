"""Exports that load without kt_core, tokenizers, and our weights in the library's own classes."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import kt_core as kt
from kt_core.blocks import VARIANTS
from kt_course.chapters.pretrained_models import hub, solutions
from kt_course.chapters.pretrained_models.hub import repository
from kt_course.chapters.pretrained_models.hub.card import NEEDS
from kt_course.shipped import shipped, shipped_result
from kt_course.tools.cli import main

ROOT = Path(__file__).resolve().parents[3]
HAS_LIBRARY = (
    subprocess.run([sys.executable, "-c", "import transformers"], capture_output=True).returncode
    == 0
)
needs_library = pytest.mark.skipif(
    not HAS_LIBRARY, reason="needs transformers: pip install 'kt-core[hub]'"
)
ODD = "\n ab,.é\xa0\xad\u200eאяカ"  # characters as a vocabulary may hold them; ⁇ and □ come on top


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The library, offline, with a folder of its own for other people's code."""
    before = dict(os.environ)
    hub.offline(tmp_path_factory.mktemp("code"))
    import transformers

    yield transformers
    os.environ.clear()
    os.environ.update(before)


def small(variant="vanilla", vocab=14, block=16, seed=0, **more):
    """A small model with weights so large that every mistake shows in its logits."""
    torch.manual_seed(seed)
    shape = dict(n_layer=3, n_head=2, n_embd=16, variant=variant, bottleneck=6, dropout=0.0)
    model = kt.GPT(kt.GPTConfig(vocab, block, **shape | more)).eval()
    for p in model.parameters():
        p.data = 0.5 * torch.randn_like(p)
    return model


def characters(n=14):
    return kt.CharVocab("abcdefghijklmnopqrstuvwxyz"[: n - 2])


def loaded(folder, **more):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **more)


def clean(code: str, *arguments, where) -> subprocess.CompletedProcess:
    """Run `code` in a process where nothing can import kt_core or jaxtyping."""
    hidden = (
        "import sys\nfor name in ('kt_core', 'kt_course', 'jaxtyping'): sys.modules[name] = None\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(where), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", hidden + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=where)


# ---------------------------------------------------------------- what needs no library


def test_kt_core_and_its_checks_need_no_library():
    code = f"""
import sys
for name in ('transformers', 'tokenizers', 'huggingface_hub'):
    sys.modules[name] = None
sys.path.insert(0, {str(ROOT)!r})
import kt_core as kt
from kt_course.chapters.pretrained_models import hub
from kt_course.exercises.registry import library
library()
print(len(hub.source_files()) > 3)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.anchor
    )
    assert done.stdout == "True\n", done.stderr


def test_the_exported_code_is_the_packages_own():
    files = hub.source_files()
    assert {"modeling_kt.py", "models.py", "blocks.py", "perceiver.py", "attention.py"} < set(files)
    for name, text in files.items():
        first, rest = text.split("\n", 1)
        module = re.match(r"# (kt_co[\w.]*) of kt_core", first)[1]
        own = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        assert len(rest.splitlines()) == len(own.splitlines())
        for ours, theirs in zip(own.splitlines(), rest.splitlines(), strict=True):
            assert ours == theirs or (
                re.match(r"from kt_co[\w.]* import", ours)
                and re.match(r"from \.\w+ import", theirs)
            )
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [other for other in names if other.startswith("kt_co")], name


def test_the_wrapper_itself_imports_from_every_file():
    """The library copies from a folder what the wrapper imports, and nothing that those import."""
    files = hub.source_files()
    direct = re.findall(r"^from \.(\w+) import", files["modeling_kt.py"], re.M)
    assert {f"{name}.py" for name in direct} == set(files) - {"modeling_kt.py"}


def test_a_file_that_the_models_come_to_need_goes_along(tmp_path, monkeypatch):
    """Imports are followed, not listed."""
    texts = {
        "kt_course.hub.wrapper": "from kt_core.models import GPT\n",
        "kt_core.models": "from kt_core.inner.deep import x\nfrom kt_core.models import y\n",
        "kt_core.inner.deep": "x = 1\n",
    }
    for module, text in texts.items():
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(repository, "PACKAGES", tmp_path)
    monkeypatch.setattr(repository, "WRAPPER", "kt_course.hub.wrapper")
    files = hub.source_files()
    assert list(files) == ["deep.py", "models.py", "wrapper.py"]
    assert "from .deep import x\nfrom .models import y\n" in files["models.py"]


@given(
    st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4),
    st.integers(0, 99),
)
def test_rows_are_packed_and_found_again(mask_rows, seed):
    mask = torch.tensor(mask_rows).long()
    idx = torch.randint(0, 50, mask.shape, generator=torch.Generator().manual_seed(seed))
    packed, back = hub.left_aligned(idx, mask)
    for b, row in enumerate(mask.bool()):
        assert packed[b].tolist() == idx[b][row].tolist() + idx[b][~row].tolist()
    assert torch.equal(packed.gather(1, back), idx)


words_of_letters = st.dictionaries(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=7).map(tuple),
    st.integers(1, 9),
    min_size=1,
    max_size=8,
)


@given(words_of_letters)
def test_merging_keeps_the_text_and_ends(words):
    def text(words):
        return sorted(("".join(word), times) for word, times in words.items())

    before, pairs = text(words), set()
    for _ in range(100):
        pair, words = solutions.merge(words)
        if pair is None:
            break
        assert pair not in pairs and all(
            pair not in zip(word, word[1:], strict=False) for word in words
        )
        pairs.add(pair)
        assert text(words) == before
    assert pair is None and all(len(word) == 1 for word in words)


def test_bits_of_a_uniform_guess():
    assert solutions.bits(math.log(256), 10, 10) == pytest.approx(8)  # one of 256, a character each
    assert solutions.bits(math.log(256), 10, 40) == pytest.approx(2)  # a token is four characters


# ---------------------------------------------------------------- the folder


@needs_library
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_export_computes_the_same(variant, library, tmp_path):
    model, vocab = (small(variant, qk_norm=variant in ("rope", "perceiver")), characters())
    written = hub.export(model, vocab, tmp_path / "out")
    assert {
        "config.json",
        "model.safetensors",
        "README.md",
        ".gitattributes",
        "tokenizer.json",
    } <= set(written)
    theirs, info = loaded(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()) and not theirs.training and theirs.dtype == torch.float32
    assert type(theirs).__module__.startswith("transformers_modules")
    idx = torch.randint(2, 14, (3, 16))
    with torch.no_grad():
        ours, logits = model(idx)[0], theirs(idx).logits
    assert ours.std() > 0.1
    torch.testing.assert_close(logits, ours, atol=1e-5, rtol=1e-5)


@needs_library
@pytest.mark.parametrize("variant", VARIANTS)
def test_generate_writes_what_kt_core_writes(variant, library, tmp_path):
    """One text, and a batch padded on the left; some texts run to the block's end, some stop."""
    vocab, prompts = characters(), ["abc⁇", "l", "hgfedcbaabcdefg", "ajkl" * 3, "bb", "k"]

    def written(model):
        return [vocab.decode(ids) for ids in kt.generate(model, [vocab.encode(p) for p in prompts])]

    def ends(answers):
        return {len(p) + len(a) == 17 for p, a in zip(prompts, answers, strict=True)}

    model = next(
        m for m in (small(variant, seed=seed) for seed in range(50)) if len(ends(written(m))) == 2
    )
    ours = written(model)
    hub.export(model, vocab, tmp_path)
    theirs = loaded(tmp_path)
    tokenizer = library.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    one_by_one = []
    for prompt in prompts:
        one = tokenizer([prompt], return_tensors="pt")
        text = theirs.generate(**one)[:, one.input_ids.size(1) :]
        one_by_one.append(tokenizer.decode(text[0], skip_special_tokens=True))
    assert one_by_one == ours
    batch = tokenizer(prompts, return_tensors="pt", padding=True)  # padding leaves a row less room
    text = theirs.generate(**batch)[:, batch.input_ids.size(1) :]
    answers = tokenizer.batch_decode(text, skip_special_tokens=True)
    assert [a for a, full in zip(answers, ours, strict=True) if full.startswith(a)] == answers
    assert answers[2] == ours[2] and any(answers)


@needs_library
def test_padding_on_either_side_changes_nothing(library, tmp_path):
    hub.export(small("perceiver_ar"), characters(), tmp_path)
    theirs = loaded(tmp_path)
    row = torch.tensor([[5, 3, 8, 2, 9]])
    pad = torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad():
        alone = theirs(row).logits
        left = theirs(
            torch.cat([pad, row], 1), attention_mask=torch.tensor([[0] * 4 + [1] * 5])
        ).logits[:, 4:]
        right = theirs(
            torch.cat([row, pad], 1), attention_mask=torch.tensor([[1] * 5 + [0] * 4])
        ).logits[:, :5]
        blind = theirs(torch.cat([pad, row], 1)).logits[:, 4:]
    torch.testing.assert_close(left, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(right, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(blind, alone, atol=1e-2)


@needs_library
def test_labels_are_the_librarys_and_the_loss_is_ours(library, tmp_path):
    model = small()
    hub.export(model, characters(), tmp_path)
    theirs = loaded(tmp_path)
    idx = torch.randint(2, 14, (3, 9))
    labels = idx.clone()
    labels[0, :4] = -100
    others = theirs(idx, labels=labels)
    targets = torch.where(labels == -100, 0, labels)
    torch.testing.assert_close(others.loss, model(idx[:, :-1], targets[:, 1:])[1])
    others.loss.backward()
    assert all(p.grad is not None for p in theirs.parameters())
    assert theirs(idx, return_dict=False)[0].shape == (3, 9, 14)
    with pytest.raises(ValueError, match="17 characters do not fit a block of 16"):
        theirs(torch.ones(1, 17, dtype=torch.long))


@needs_library
def test_an_export_that_was_changed_is_saved_and_loaded_again(library, tmp_path):
    """As after a finetuning with the library: the code goes along."""
    hub.export(small("rope"), characters(), tmp_path / "first")
    theirs = loaded(tmp_path / "first")
    with torch.no_grad():
        theirs.gpt.head.weight.mul_(2)
    theirs.save_pretrained(tmp_path / "second")
    again, idx = loaded(tmp_path / "second"), torch.randint(2, 14, (2, 8))
    assert set(hub.source_files()) <= {path.name for path in (tmp_path / "second").iterdir()}
    torch.testing.assert_close(again(idx).logits, theirs(idx).logits)
    assert (
        again.get_input_embeddings().weight.shape
        == again.get_output_embeddings().weight.shape
        == (14, 16)
    )


@needs_library
def test_a_missing_weight_is_drawn_anew_and_reported(library, tmp_path):
    from safetensors.torch import load_file, save_file

    hub.export(small("rope"), characters(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["gpt.blocks.1.mlp.up.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    theirs, info = loaded(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"gpt.blocks.1.mlp.up.weight"}
    assert 0.01 < theirs.gpt.blocks[1].mlp.up.weight.std() < 0.03  # GPT's own way to begin
    torch.testing.assert_close(theirs.gpt.head.weight, weights["gpt.head.weight"])


@needs_library
def test_configs_are_checked_and_told(library, tmp_path):
    hub.export(small("perceiver"), characters(), tmp_path)
    config = library.AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert (config.variant, config.hidden_size, config.max_position_embeddings) == (
        "perceiver",
        16,
        16,
    )
    text = json.loads((tmp_path / "config.json").read_text())
    assert text["architectures"] == ["KTForCausalLM"] and text["model_type"] == "kt_gpt"
    (tmp_path / "config.json").write_text(json.dumps({**text, "n_head": 3}))
    with pytest.raises(ValueError, match="n_embd must be a multiple of n_head .3., not 16"):
        loaded(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        library.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)


CLEAN = """
import json
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
logging.disable_progress_bar()
answers = {}
questions = json.loads(sys.argv[1])
for folder in sys.argv[2:]:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    prompts = tokenizer([q + "⁇" for q in questions], return_tensors="pt", padding=True)
    out = model.generate(**prompts)[:, prompts.input_ids.shape[1]:]
    answers[config.variant] = tokenizer.batch_decode(out, skip_special_tokens=True)
ours = [name for name, m in sys.modules.items() if m and name.startswith(("kt_core", "kt_course"))]
assert not ours, ours
print(json.dumps(answers))
"""


@needs_library
def test_shipped_models_answer_alike_in_a_process_without_kt_core(library, tmp_path):
    questions = [q for q, _ in kt.load_corpus("bios").dev[:9]]
    questions += map(kt.question, ("Ada Moor", "Bo Z. Quill", "Quentin Abernathy"))  # unknown
    assert len({len(q) for q in questions}) > 3
    folders, ours = [], {}
    for variant in VARIANTS:
        hub.export_checkpoint(f"bios-{variant}-finetuned", tmp_path / variant)
        folders.append(tmp_path / variant)
        model, vocab, _ = shipped("bios", variant, "finetuned")
        ours[variant] = kt.answer(model, vocab, questions)
    assert ours["rope"] != ours["perceiver"]
    done = clean(CLEAN, json.dumps(questions), *folders, where=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    assert json.loads(done.stdout) == ours


@needs_library
def test_bad_folders_and_models_are_refused(library, tmp_path):
    model, vocab = small(), characters()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file: name a folder"):
        hub.export(model, vocab, tmp_path / "file")
    for content in ("{}", "no JSON", '{"model_type": "gpt2"}', "[1]"):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "config.json").write_text(content)
        with pytest.raises(ValueError, match="something else than an earlier export"):
            hub.export(model, vocab, tmp_path / "other")
        assert len(list((tmp_path / "other").iterdir())) == 1
    with pytest.raises(ValueError, match="14 characters, the vocabulary 10"):
        hub.export(model, characters(10), tmp_path / "new")
    with pytest.raises(ValueError, match="encoder"):
        hub.export(small(causal=False), vocab, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    first = hub.export(model, vocab, tmp_path / "again")
    assert hub.export(small("rope"), vocab, tmp_path / "again") == first
    assert loaded(tmp_path / "again").config.variant == "rope"


@needs_library
def test_the_command(library, tmp_path, capsys):
    path = kt.save_checkpoint(
        tmp_path / "a.safetensors", small(), characters(), {"corpus": "mine", "phase": "pretrain"}
    )
    assert main(["export", str(path), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{len(hub.source_files()) + 7} files in ") and "modeling_kt.py" in out
    assert loaded(tmp_path / "out").config.vocab_size == 14
    assert main(["export", "bios-rope-unfinished", str(tmp_path / "none")]) == 2
    message = "kt export: no checkpoint 'bios-rope-unfinished', did you mean 'bios-rope-finetuned'?"
    assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "none").exists()


# ---------------------------------------------------------------- the model card


def front(card: str) -> dict:
    """The text between the two lines of ---, as the hub reads it."""
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_of_a_shipped_model_tells_its_own_numbers():
    model, _, card = shipped("bios", "rope", "finetuned")
    text = hub.model_card(model, card)
    assert front(text)["license"] == "mit" and front(text)["library_name"] == "transformers"
    dev = card["dev"]
    assert f"| dev | {dev['correct']} | {dev['total']} | {100 * dev['accuracy']:.1f} % |" in text
    assert f"{model.n_parameters():,} parameters" in text and "trust_remote_code=True" in text
    for heading in ("Use", "Training", "Evaluation", "Limits"):
        assert f"\n## {heading}\n" in text
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        ast.parse(code)


def test_the_card_asks_for_the_version_that_the_hub_extra_asks_for():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert f"transformers>={NEEDS}" in extras["hub"]
    assert f"transformers {NEEDS}" in hub.model_card(small(), {})


def test_the_card_of_a_model_of_unknown_origin_says_so():
    text = hub.model_card(small("perceiver"), {})
    assert front(text)["license"] == "unknown" and "language" not in front(text)
    assert "Data: unknown" in text and "Not evaluated." in text and "blind" in text
    text = hub.model_card(small(), {"corpus": "wiki", "licence": "trained on text, CC BY-SA"})
    assert front(text)["license"] == "other" and "- Licence: trained on text, CC BY-SA." in text


# ---------------------------------------------------------------- tokenizers


@needs_library
def test_characters_keep_their_ids(library, tmp_path):
    vocab = kt.CharVocab(ODD)
    tokenizer = hub.char_tokenizer(vocab, 16)
    assert len(tokenizer) == len(vocab)
    assert tokenizer(ODD).input_ids == vocab.encode(ODD)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (vocab.pad_id, vocab.mask_id)
    tokenizer.save_pretrained(tmp_path)
    again = library.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in ("a⁇b⁇", "a  b ,.", " a", "\n\na\n", "カ\u200e\xad\xa0", "⁇⁇", "□a"):
        assert again(text).input_ids == vocab.encode(text)
        assert again.decode(vocab.encode(text)) == text
    batch = again(["ab", "aaaa"], padding=True)
    assert dict(batch) == {
        "input_ids": [[0, 0, *vocab.encode("ab")], vocab.encode("aaaa")],
        "attention_mask": [[0, 0, 1, 1], [1, 1, 1, 1]],
    }
    with pytest.raises(Exception, match="UNK"):
        again("abz")


@needs_library
def test_whole_corpora_come_back_from_their_tokens(library):
    corpus = kt.load_corpus("bios:people=60")
    _, vocab, _ = shipped("wiki", "rope", "finetuned")
    assert hub.char_tokenizer(vocab, 128)("".join(vocab.chars[2:])).input_ids == list(
        range(2, len(vocab))
    )
    texts = corpus.documents + [q for q, _ in corpus.dev]
    for tokenizer in (hub.char_tokenizer(corpus.vocab, 128), hub.train_bpe(texts, 500, 128)):
        assert tokenizer.batch_decode(tokenizer(texts).input_ids) == texts
    assert hub.train_bpe(texts, 500, 128)("日本 ñ⁇").input_ids[-1] == 1  # bytes: nothing is unknown


@needs_library
def test_byte_pairs_are_those_of_merging_by_hand(library):
    """The library's first merges are ours, up to the first tie that its own rule decides."""
    texts = kt.load_corpus("bios:people=200").documents
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words: dict[tuple[str, ...], int] = {}
    for text in texts:
        for word, _ in split.pre_tokenize_str(text):
            words[tuple(word)] = words.get(tuple(word), 0) + 1
    ours = []
    for _ in range(25):
        pair, words = solutions.merge(words)
        ours.append("".join(pair))
    tokenizer = hub.train_bpe(texts, 258 + 25, 128)
    theirs = [
        token
        for token, i in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        if i >= 258
    ]
    assert sorted(theirs) == sorted(ours)


@needs_library
def test_training_byte_pairs_is_the_same_every_time_and_says_what_it_needs(library):
    texts = kt.load_corpus("bios:people=40").documents
    one, two = hub.train_bpe(texts, 400, 64), hub.train_bpe(iter(texts), 400, 64)
    assert one.get_vocab() == two.get_vocab() and len(one) == 400
    assert (one.convert_ids_to_tokens(0), one.convert_ids_to_tokens(1)) == (kt.PAD, kt.MASK)
    with pytest.raises(ValueError, match="at least 258"):
        hub.train_bpe(texts, 257, 64)
    assert one.tokenize("Ada")[0][0] != "Ġ"
    spaced = hub.train_bpe(texts, 400, 64, prefix_space=True)
    assert spaced.tokenize("Ada Moor") == spaced.tokenize(" Ada Moor")
    assert spaced.tokenize("was Ada Moor")[1:] == spaced.tokenize("Ada Moor")


@needs_library
def test_lines_of_tokens_are_trained_on_whole(library):
    corpus = kt.load_corpus("bios:people=20")
    tokenizer = hub.char_tokenizer(corpus.vocab, 32)
    lines = ["ab", "a" * 50]
    data = hub.TokenLines(tokenizer, lines, block_size=32)
    x, y = data[0]
    a, b = corpus.vocab.encode("ab")
    assert x[:4].tolist() == [1, a, b, 1] and y[:4].tolist() == [a, b, 1, 0]
    assert data.characters == 54 and len(data) == 2 and len(data.tokens(1)[0]) == 33
    x, y = data.stack([data.tokens(0), data.tokens(1)])
    assert x.shape == (2, 32) and torch.equal(y[1], x.new_full((32,), a))
    model = kt.GPT(kt.GPTConfig(len(tokenizer), 32, 1, 2, 16))
    history = kt.Trainer(model, data, kt.TrainConfig(steps=2, batch_size=2, device="cpu")).fit()
    assert math.isfinite(history[-1]["loss"])


# ---------------------------------------------------------------- the library's own classes

CLASSES = {"vanilla": hub.as_gpt2, "rope": hub.as_gpt_neox}


@needs_library
@pytest.mark.parametrize("variant", CLASSES)
def test_the_same_logits_in_the_librarys_class(variant, library, tmp_path):
    model = small(variant, rope_base=500.0, n_head=4)
    theirs = CLASSES[variant](model)
    idx = torch.randint(2, 14, (3, 16))
    with torch.no_grad():
        torch.testing.assert_close(theirs(idx).logits, model(idx)[0], atol=1e-5, rtol=1e-5)
    theirs.save_pretrained(tmp_path)
    again = library.AutoModelForCausalLM.from_pretrained(tmp_path)  # no code of ours
    with torch.no_grad():
        torch.testing.assert_close(again(idx).logits, model(idx)[0], atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in again.parameters()) == model.n_parameters()


@needs_library
@pytest.mark.parametrize("variant", CLASSES)
def test_their_cache_and_padding_write_what_we_write(variant, library):
    model, vocab = small(variant, seed=3), characters()
    theirs, tokenizer = CLASSES[variant](model), hub.char_tokenizer(vocab, 16)
    prompts = ["abc⁇", "l", "hgfed", "bb"]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    text = theirs.generate(**batch, max_new_tokens=8, do_sample=False)
    text = text[:, batch.input_ids.size(1) :]
    ours = kt.generate(model, [vocab.encode(p) for p in prompts], max_new=8, stop=(1,))
    assert tokenizer.batch_decode(text, skip_special_tokens=True) == [
        vocab.decode(i).replace("□", "") for i in ours
    ]


@needs_library
def test_a_model_without_room_in_their_class_is_refused(library):
    for make, other in (
        (hub.as_gpt2, "rope"),
        (hub.as_gpt_neox, "vanilla"),
        (hub.as_gpt2, "perceiver"),
    ):
        with pytest.raises(ValueError, match=f"not for {other}"):
            make(small(other))
    for variant, make in CLASSES.items():
        with pytest.raises(ValueError, match="qk_norm"):
            make(small(variant, qk_norm=True))
        with pytest.raises(ValueError, match="encoder"):
            make(small(variant, causal=False))


@needs_library
def test_a_setting_of_their_class_that_differs_shows(library):
    model, idx = small(), torch.randint(2, 14, (2, 12))
    right = model(idx)[0]
    for change in (
        dict(activation_function="gelu_new"),
        dict(scale_attn_weights=False),
        dict(tie_word_embeddings=True),
    ):
        assert not torch.allclose(hub.as_gpt2(model, **change)(idx).logits, right, atol=1e-5)


@needs_library
def test_the_library_is_quiet_and_fetches_nothing(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from kt_course.chapters.pretrained_models import hub
hub.offline({str(tmp_path / "code")!r})
from transformers import AutoConfig, GPT2Config
GPT2Config().save_pretrained({str(tmp_path / "x")!r})
try:
    AutoConfig.from_pretrained('kt-workbook/no-such-model')
except OSError:
    print('offline')
from transformers.utils import HF_MODULES_CACHE
print(HF_MODULES_CACHE)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == (f"offline\n{tmp_path / 'code'}\n", "")


def test_what_the_page_says_of_several_seeds():
    """Larger vocabularies make text cheaper, and the mistakes keep their order in every seed."""
    rows = shipped_result("pretrained_models")["rows"]
    assert len({row["seed"] for row in rows}) >= 3
    for row in rows:
        costs = list(row["bits_per_character"].values())
        assert costs == sorted(costs, reverse=True)
        mistakes = row["mistakes"]
        assert mistakes["no mistake"] == pytest.approx(costs[0], abs=1e-5)
        assert max(mistakes, key=mistakes.get) == "head tied to the token vectors"
