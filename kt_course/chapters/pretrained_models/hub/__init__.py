"""Between kt_core and the `transformers` library: models and tokenizers in the formats of its hub.

repository.py   a checkpoint as a folder that the library loads without kt_core
modeling_kt.py  the wrapper that goes into such a folder; only this module imports the library
padding.py      batches padded on either side
card.py         the folder's README
conversion.py   our weights in the library's own classes, GPT-2 and GPT-NeoX
tokens.py       characters and byte pairs as tokenizers of the library
quiet.py        the library offline and silent
local_hub.py    a server on this computer that speaks the hub's protocol
real_hub.py     models of huggingface.co, where the network is there
minilm.py       a real pretrained sentence encoder, fetched on request

from kt_course.chapters.pretrained_models import hub
hub.offline()                                        # before anything imports transformers
hub.export_checkpoint("bios-rope-finetuned", "out")  # the same: kt export bios-rope-finetuned out
"""

from kt_course.chapters.pretrained_models.hub.card import model_card
from kt_course.chapters.pretrained_models.hub.conversion import as_gpt2, as_gpt_neox
from kt_course.chapters.pretrained_models.hub.local_hub import LocalHub
from kt_course.chapters.pretrained_models.hub.minilm import fetch_minilm, find_minilm
from kt_course.chapters.pretrained_models.hub.padding import left_aligned
from kt_course.chapters.pretrained_models.hub.quiet import offline
from kt_course.chapters.pretrained_models.hub.real_hub import fetch_model
from kt_course.chapters.pretrained_models.hub.repository import (
    export,
    export_checkpoint,
    source_files,
)
from kt_course.chapters.pretrained_models.hub.tokens import TokenLines, char_tokenizer, train_bpe

__all__ = [
    "LocalHub",
    "TokenLines",
    "as_gpt2",
    "as_gpt_neox",
    "char_tokenizer",
    "export",
    "export_checkpoint",
    "fetch_minilm",
    "fetch_model",
    "find_minilm",
    "left_aligned",
    "model_card",
    "offline",
    "source_files",
    "train_bpe",
]
