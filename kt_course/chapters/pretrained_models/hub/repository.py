"""A checkpoint as a folder that the `transformers` library loads, here or from its hub.

config.json, generation_config.json, model.safetensors    what the library reads
tokenizer.json, tokenizer_config.json                     the characters
modeling_kt.py, models.py, attention.py ...               the code, copied from these packages
README.md, .gitattributes                                 the model card; files too large for git
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kt_core
from kt_core._validation import one_of
from kt_core.corpora.files import write_atomically
from kt_core.corpora.paths import checkpoints_dir
from kt_core.models import GPT
from kt_core.runs.checkpoints import load_checkpoint
from kt_core.vocab import CharVocab
from kt_course.chapters.pretrained_models.hub.card import model_card
from kt_course.chapters.pretrained_models.hub.tokens import char_tokenizer

PACKAGES = Path(kt_core.__file__).parent.parent
WRAPPER = "kt_course.chapters.pretrained_models.hub.modeling_kt"
AUTO_MAP = {
    "AutoConfig": "modeling_kt.KTConfig",
    "AutoModelForCausalLM": "modeling_kt.KTForCausalLM",
}
GIT_ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_IMPORT = re.compile(r"^from (kt_co(?:re|urse)[\w.]*\.(\w+)) import", re.MULTILINE)


def source_files() -> dict[str, str]:
    """Collect the code of an exported folder: the wrapper, and what it imports of our packages.

    The files are copies; only their imports of each other are made relative.

    Returns:
        Each file's name and text.
    """
    files, modules = {}, [WRAPPER]
    while modules:
        module = modules.pop()
        name = f"{module.rpartition('.')[2]}.py"
        if name in files:
            continue
        path = PACKAGES.joinpath(*module.split(".")).with_suffix(".py")
        text = path.read_text(encoding="utf-8")
        modules += [match[1] for match in _IMPORT.finditer(text)]
        version = f"kt_core {kt_core.__version__}, MIT licence"
        origin = f"# {module} of {version}; written by kt export, to be changed there\n"
        files[name] = origin + _IMPORT.sub(r"from .\2 import", text)
    return dict(sorted(files.items()))


def export(
    model: GPT, vocab: CharVocab, folder: str | Path, card: Mapping[str, Any] | None = None
) -> list[str]:
    """Write a folder for `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`.

    Returns the names of its files.

    Args:
        folder: A new folder, or an earlier export, which is replaced.
        card: The checkpoint's card, for the README.

    Raises:
        ValueError: For a vocabulary of another size, an encoder, or a folder of something else.
    """
    from transformers import GenerationConfig

    from kt_course.chapters.pretrained_models.hub.modeling_kt import KTConfig, KTForCausalLM

    c, folder = model.config, Path(folder)
    _refuse_impossible(model, vocab, folder)
    folder.mkdir(parents=True, exist_ok=True)
    theirs = KTForCausalLM(KTConfig(**asdict(c))).eval()
    theirs.gpt.load_state_dict(model.state_dict())
    theirs.config.auto_map = dict(AUTO_MAP)
    theirs.generation_config = GenerationConfig(
        do_sample=False,
        use_cache=False,
        pad_token_id=vocab.pad_id,
        eos_token_id=[vocab.mask_id, vocab.pad_id],
        max_length=c.block_size + 1,  # a full block still predicts one more character
    )
    theirs.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # the library makes it readable to its owner alone
    char_tokenizer(vocab, c.block_size).save_pretrained(folder)
    texts = {"README.md": model_card(model, card or {}), ".gitattributes": GIT_ATTRIBUTES}
    for name, text in (source_files() | texts).items():
        write_atomically(folder / name, text.encode())
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def export_checkpoint(checkpoint: str | Path, folder: str | Path) -> list[str]:
    """Export a checkpoint's file, or one that ships, by its name ("bios-rope-finetuned")."""
    path = Path(checkpoint)
    if not path.exists() and path.suffix != ".safetensors":
        names = [file.stem for file in checkpoints_dir().glob("*.safetensors")]
        path = checkpoints_dir() / f"{one_of('checkpoint', path.name, sorted(names))}.safetensors"
    model, vocab, card = load_checkpoint(path)
    return export(model, vocab, folder, card)


def _refuse_impossible(model: GPT, vocab: CharVocab, folder: Path) -> None:
    """Raise ValueError for what is no model to export, or no folder to write."""
    if len(vocab) != (size := model.config.vocab_size):
        sizes = f"the model has {size} characters, the vocabulary {len(vocab)}"
        raise ValueError(f"{sizes}: they do not belong together")
    if not model.config.causal:
        raise ValueError("an encoder (causal=False) writes no text: export a causal model")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder to write")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            is_export = config.get("model_type") == "kt_gpt"
        except (OSError, ValueError, AttributeError):
            is_export = False
        if not is_export:
            what = "holds something else than an earlier export"
            raise ValueError(f"{folder} {what}: name a new folder")
