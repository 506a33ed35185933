"""Checkpoints: weights as safetensors, and beside them a JSON card that says what they are. No pickle anywhere."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from kt_core.corpora.files import sha256, write_atomically, write_json
from kt_core.models import GPT, GPTConfig
from kt_core.vocab import CharVocab


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not ours."""


def card_path(path: str | Path) -> Path:
    """`path` + ".json"."""
    return Path(f"{path}.json")


def hardware(device: torch.device | str = "cpu") -> str:
    """The machine in words: processor or GPU, threads, torch version."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def save_checkpoint(
    path: str | Path,
    model: GPT,
    vocab: CharVocab,
    card: dict | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write the model's weights to `path` and its card to `path` + ".json", each atomically; returns `path`.

    The card gets `config`, `vocab` and `sha256` in addition to what `card` says (recipe, seed, steps, scores ...).
    `dtype` (torch.float16 for shipping) converts the weights. ValueError if the vocabulary is not the model's.
    """
    from safetensors.torch import save

    if len(vocab) != model.config.vocab_size:
        raise ValueError(
            f"the model has {model.config.vocab_size} characters, the vocabulary {len(vocab)}: they do not belong together"
        )
    tensors = {name: t.detach().to("cpu", dtype).contiguous() for name, t in model.state_dict().items()}
    data = save(tensors)
    own = dict(
        config=dataclasses.asdict(model.config),
        vocab="".join(vocab.chars[2:]),
        sha256=sha256(data),
    )
    write_atomically(path, data)
    write_json(card_path(path), {**(card or {}), **own})
    return Path(path)


def load_card(path: str | Path) -> dict:
    """The card of a checkpoint; CheckpointError if it is missing or not a card."""
    card = card_path(path)
    try:
        found = json.loads(card.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{card} is missing: a checkpoint is two files, the weights and this card"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{card} is not JSON ({error}): the card is damaged, save the checkpoint again"
        ) from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{card} holds no JSON object: it is not a card that save_checkpoint wrote")
    missing = [key for key in ("config", "vocab", "sha256") if key not in found]
    if missing:
        raise CheckpointError(
            f"{card} lacks {', '.join(missing)}: it is not a card that save_checkpoint wrote"
        )
    return found


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> tuple[GPT, CharVocab, dict]:
    """(model in eval mode, in float32; vocab; card). CheckpointError names what is wrong with the files.

    The weights' SHA-256 is compared with the card's before anything is built from them.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    card = load_card(path)
    data = path.read_bytes()
    found = sha256(data)
    if found != card["sha256"]:
        raise CheckpointError(
            f"{path}: SHA-256 is {found}, its card says {card['sha256']}: weights and card do not belong together"
        )
    try:
        config = GPTConfig(**card["config"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{card_path(path)}: config: {error}") from None
    try:
        vocab = CharVocab(card["vocab"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{card_path(path)}: vocab: {error}") from None
    if len(vocab) != config.vocab_size:
        raise CheckpointError(
            f"{card_path(path)}: config says {config.vocab_size} characters, vocab has {len(vocab)} (with the two specials)"
        )
    model = GPT(config)
    try:
        model.load_state_dict({name: t.float() for name, t in load(data).items()})
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from None
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the card's config: {error}") from None
    return model.to(device).eval(), vocab, card


def load_average(
    paths: Sequence[str | Path], device: torch.device | str = "cpu"
) -> tuple[GPT, CharVocab, dict]:
    """The mean of the weights of several models of one training, as `load_checkpoint` gives one; the card is the last one's.

    States of one training lie in one valley, and their mean lies lower in it than each (Izmailov et al. 2018, arXiv
    1803.05407; Wortsman et al. 2022, arXiv 2203.05482). CheckpointError for models of different shapes or vocabularies.
    """
    found = [load_checkpoint(path) for path in paths]
    if not found:
        raise CheckpointError("no checkpoint to take the mean of")
    model, vocab, card = found[-1]
    for path, (other, characters, _) in zip(paths, found, strict=True):
        if other.config != model.config or characters != vocab:
            raise CheckpointError(
                f"{path} and {paths[-1]} differ in shape or vocabulary: their weights have no mean"
            )
    states = [each.state_dict() for each, _, _ in found]
    model.load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[-1]})
    return model.to(device), vocab, card
