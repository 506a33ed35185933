"""A checkpoint as a folder that the `transformers` library loads, here or from its hub, without kt_core.

config.json, generation_config.json, model.safetensors    what the library reads
tokenizer.json, tokenizer_config.json                     the characters
modeling_kt.py, models.py, attention.py ...               the code, copied from this package: no second version of it
README.md, .gitattributes                                 the model card; which files are too large for plain git
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kt_core
from kt_core.corpora.files import write_atomically
from kt_core.corpora.paths import checkpoints_dir
from kt_core.models import GPT
from kt_core.runs.checkpoints import load_checkpoint
from kt_core.vocab import CharVocab
from kt_course.chapters.pretrained_models.hub.card import model_card
from kt_course.chapters.pretrained_models.hub.tokens import char_tokenizer

WRAPPER = "kt_course.chapters.pretrained_models.hub.modeling_kt"
AUTO_MAP = {
    "AutoConfig": "modeling_kt.KTConfig",
    "AutoModelForCausalLM": "modeling_kt.KTForCausalLM",
}
GIT_ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_IMPORT = re.compile(r"^from (kt_core(?:\.\w+)*\.(\w+)) import", re.MULTILINE)


def source_files() -> dict[str, str]:
    """Name and text of every file of code that an exported folder needs: the wrapper, and what it imports of kt_core.

    They are this package's own files; their imports of each other are made relative, as a folder of its own needs it.
    """
    root, found, wanted = Path(kt_core.__file__).parent.parent, {}, [WRAPPER]
    while wanted:
        module = wanted.pop()
        name = f"{module.rpartition('.')[2]}.py"
        if name in found:
            continue
        text = root.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        wanted += [match[1] for match in _IMPORT.finditer(text)]
        origin = f"# {module} of kt_core {kt_core.__version__}, MIT licence; written by kt export, to be changed there\n"
        found[name] = origin + _IMPORT.sub(r"from .\2 import", text)
    return dict(sorted(found.items()))


def export(
    model: GPT, vocab: CharVocab, folder: str | Path, card: Mapping[str, Any] | None = None
) -> list[str]:
    """Write `folder` for `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`; the names of its files.

    `card` is the checkpoint's, for the README. ValueError if the vocabulary is not the model's, if the model is an
    encoder (causal=False), or if the folder holds something else already; an earlier export is replaced.
    """
    from transformers import GenerationConfig

    from kt_course.chapters.pretrained_models.hub.modeling_kt import KTConfig, KTForCausalLM

    if len(vocab) != model.config.vocab_size:
        raise ValueError(
            f"the model has {model.config.vocab_size} characters, the vocabulary {len(vocab)}: they do not belong together"
        )
    if not model.config.causal:
        raise ValueError(
            "an encoder (causal=False) writes no text: the wrapper here is for models that go on with a text"
        )
    folder = _prepared(Path(folder))
    theirs = KTForCausalLM(KTConfig(**asdict(model.config))).eval()
    theirs.gpt.load_state_dict(model.state_dict())
    theirs.config.auto_map = dict(AUTO_MAP)
    theirs.generation_config = GenerationConfig(
        do_sample=False,
        use_cache=False,
        pad_token_id=vocab.pad_id,
        eos_token_id=[vocab.mask_id, vocab.pad_id],
        max_length=model.config.block_size + 1,  # a full block still tells one character more
    )
    theirs.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # the library leaves it to its owner alone
    char_tokenizer(vocab, model.config.block_size).save_pretrained(folder)
    own = {
        **source_files(),
        "README.md": model_card(model, card or {}),
        ".gitattributes": GIT_ATTRIBUTES,
    }
    for name, text in own.items():
        write_atomically(folder / name, text.encode())
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def export_checkpoint(checkpoint: str | Path, folder: str | Path) -> list[str]:
    """`export` of a checkpoint's file, or of one that ships, by its name ("bios-rope-finetuned")."""
    path, shipped = Path(checkpoint), checkpoints_dir() / f"{checkpoint}.safetensors"
    model, vocab, card = load_checkpoint(
        shipped if not path.exists() and shipped.is_file() else path
    )
    return export(model, vocab, folder, card)


def _prepared(folder: Path) -> Path:
    """The folder, made if need be; ValueError if it is a file, or holds what no export wrote."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder to write")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(
                "model_type"
            )
        except (OSError, ValueError, AttributeError):
            kind = None
        if kind != "kt_gpt":
            raise ValueError(
                f"{folder} holds something else than an earlier export: name a new folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
