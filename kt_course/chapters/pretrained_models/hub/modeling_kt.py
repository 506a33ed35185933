"""The GPT of kt_core as a model of the `transformers` library: a configuration and a thin wrapper, nothing else.

This file goes into every exported folder, beside `models.py` and what that imports. The library copies the files and
runs them for whoever loads the folder with trust_remote_code=True. Early versions copy only what this file itself
imports, so it has to import from every one of them.
"""

from __future__ import annotations

from dataclasses import asdict, fields

import torch
import torch.nn.functional as F
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from kt_core._typing import Int, Tensor
from kt_core.attention import rotary_table
from kt_core.models import GPT, GPTConfig
from kt_course.chapters.pretrained_models.hub.padding import left_aligned


class KTConfig(PreTrainedConfig):
    """The fields of `GPTConfig` as the library's configuration: what config.json holds."""

    model_type = "kt_gpt"
    attribute_map = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "block_size",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    def __init__(self, vocab_size: int = 256, **given):
        own = {
            field.name: given.pop(field.name) for field in fields(GPTConfig) if field.name in given
        }
        for name, value in asdict(
            GPTConfig(vocab_size, **own)
        ).items():  # validated: a ValueError names the field
            setattr(self, name, value)
        super().__init__(**{"tie_word_embeddings": False, **given})

    def gpt(self) -> GPTConfig:
        """The same settings as kt_core has them."""
        return GPTConfig(**{field.name: getattr(self, field.name) for field in fields(GPTConfig)})


class KTForCausalLM(PreTrainedModel, GenerationMixin):
    """`GPT` behind the library's interface: rows padded on either side, labels as the library wants them, `generate`.

    There is no cache here: every new token reads the whole text again. Texts longer than block_size are a ValueError.
    """

    config_class = KTConfig
    base_model_prefix = "gpt"
    main_input_name = "input_ids"

    def __init__(self, config: KTConfig):
        super().__init__(config)
        self.gpt = GPT(config.gpt())
        self.post_init()

    def init_weights(self):
        """Nothing to do: GPT drew its weights when it was built."""

    @torch.no_grad()
    def _init_weights(self, module):
        """What no file holds. The library builds a model without memory, so tables made at the start are gone."""
        GPT._init_weights(module)
        if isinstance(module, GPT) and module.config.rotary:
            config = module.config
            table = rotary_table(
                torch.arange(len(module.cos)), config.n_embd // config.n_head, config.rope_base
            )
            for buffer, values in zip((module.cos, module.sin), table, strict=True):
                buffer.copy_(values)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_input_embeddings(self):
        return self.gpt.tok_emb

    def set_input_embeddings(self, value):
        self.gpt.tok_emb = value

    def get_output_embeddings(self):
        return self.gpt.head

    def set_output_embeddings(self, value):
        self.gpt.head = value

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        return_dict: bool = True,
        **ignored,
    ) -> CausalLMOutput | tuple:
        """Logits (B, T, V) at every token of `input_ids` (B, T); `attention_mask` is 0 at padding, on either side.

        `labels` (B, T) are the tokens themselves, -100 where the loss asks for nothing: moving them by one place is
        done here, as everywhere in the library. (`GPT` itself wants targets that are moved already, 0 for nothing.)
        """
        if attention_mask is None or bool(attention_mask.all()):
            logits, _ = self.gpt(input_ids)
        else:
            packed, back = left_aligned(input_ids, attention_mask)
            logits = self.gpt(packed)[0]
            logits = logits.gather(
                1, back[..., None].expand_as(logits)
            )  # (B, T, V), at the tokens' own places
        loss = None
        if labels is not None:
            loss = F.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
            )
        if not return_dict:
            return (logits,) if loss is None else (loss, logits)
        return CausalLMOutput(loss=loss, logits=logits)
