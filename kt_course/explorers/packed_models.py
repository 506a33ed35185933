"""Models as a living page carries them: half-precision weights, sizes and vocabulary."""

import base64
import hashlib
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from kt_core.corpora.paths import checkpoints_dir
from kt_core.models import GPT, GPTConfig
from kt_core.runs.checkpoints import load_card, load_checkpoint
from kt_core.vocab import CharVocab

Given = (
    str | Path | tuple[GPT, CharVocab]
)  # the name of a shipped checkpoint, a file, or a model in memory


@dataclass(frozen=True)
class PackedModel:
    """A model as the page reads it: its name there, sizes, vocabulary, half-precision weights."""

    name: str
    config: dict
    chars: str
    weights: bytes = field(repr=False)  # a safetensors file
    checkpoint: str | None = None  # name of the shipped checkpoint that holds these weights

    @property
    def key(self) -> str:
        """Names the weights: equal weights are stored once per page."""
        return hashlib.sha256(self.weights).hexdigest()[:16]

    def head(self) -> dict:
        """All but the weights."""
        return {"name": self.name, "config": self.config, "chars": self.chars, "key": self.key}

    def stored(self) -> dict:
        """What a saved notebook keeps: the shipped checkpoint's name, else the weights (base64)."""
        if self.checkpoint:
            return {"checkpoint": self.checkpoint}
        return {"base64": base64.b64encode(self.weights).decode()}


def pack_model(name: str, model: GPT, vocab: CharVocab) -> PackedModel:
    """Convert a model's weights to half precision, in the layout of `save_checkpoint`."""
    from safetensors.torch import save

    tensors = {
        key: value.detach().to("cpu", torch.float16).contiguous()
        for key, value in model.state_dict().items()
    }
    return PackedModel(name, asdict(model.config), "".join(vocab.chars[2:]), save(tensors))


def pack(name: str, source: Given) -> PackedModel:
    """Pack a shipped checkpoint ("bios-rope-finetuned"), a checkpoint file, or (model, vocab).

    Raises CheckpointError for a file that is missing or damaged.
    """
    if isinstance(source, tuple):
        return pack_model(name, *source)
    shipped = checkpoints_dir() / f"{source}.safetensors"
    if isinstance(source, str) and shipped.is_file():
        card = load_card(shipped)
        return PackedModel(name, card["config"], card["vocab"], shipped.read_bytes(), source)
    model, vocab, _ = load_checkpoint(source)
    return pack_model(name, model, vocab)


def unpack(packed: PackedModel) -> tuple[GPT, CharVocab]:
    """The model that the page computes with: half-precision weights, float32 arithmetic."""
    from safetensors.torch import load

    model = GPT(GPTConfig(**packed.config))
    model.load_state_dict({key: value.float() for key, value in load(packed.weights).items()})
    return model.eval(), CharVocab(packed.chars)


def weights_text(stored: dict) -> str:
    """The weights that `PackedModel.stored` gave or named, as text that `kt_weights.js` unpacks.

    It is 20 % smaller than base64.
    """
    if "base64" in stored:
        weights = base64.b64decode(stored["base64"])
    else:
        weights = (checkpoints_dir() / f"{stored['checkpoint']}.safetensors").read_bytes()
    return base64.b85encode(zlib.compress(weights[1::2] + weights[::2], 9)).decode()
