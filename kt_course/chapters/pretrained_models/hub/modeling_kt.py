"""The GPT of kt_core as a model of the `transformers` library: a configuration and a thin wrapper.

This file goes into every exported folder, with the modules of kt_core that it needs. The library
copies the files and runs them for whoever loads the folder with trust_remote_code=True. It copies
only what this file imports itself, so this file imports from every one of them.
"""

from dataclasses import asdict, fields

import torch
import torch.nn.functional as F
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from kt_core._validation import require  # noqa: F401
from kt_core.attention import attend  # noqa: F401
from kt_core.blocks import GPTConfig
from kt_core.models import GPT
from kt_core.perceiver import PerceiverStack  # noqa: F401
from kt_core.positions import Rotary
from kt_course._typing import Int, Tensor
from kt_course.chapters.pretrained_models.hub.padding import left_aligned


class KTConfig(PreTrainedConfig):
    """The fields of `GPTConfig` as the library's configuration: the content of config.json."""

    model_type = "kt_gpt"
    attribute_map = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "block_size",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    def __init__(self, vocab_size: int = 256, **settings):
        names = [field.name for field in fields(GPTConfig)]
        own = {name: settings.pop(name) for name in names if name in settings}
        for name, value in asdict(GPTConfig(vocab_size, **own)).items():  # validated
            setattr(self, name, value)
        super().__init__(**{"tie_word_embeddings": False, **settings})

    def gpt(self) -> GPTConfig:
        """Make kt_core's configuration."""
        return GPTConfig(**{field.name: getattr(self, field.name) for field in fields(GPTConfig)})


class KTForCausalLM(PreTrainedModel, GenerationMixin):
    """`GPT` with the library's interface: `generate`, its labels, rows padded on either side.

    There is no cache here: every new token reads the whole text again. Texts longer than block_size
    are a ValueError.
    """

    config_class = KTConfig
    base_model_prefix = "gpt"
    main_input_name = "input_ids"

    def __init__(self, config: KTConfig):
        super().__init__(config)
        self.gpt = GPT(config.gpt())
        self.post_init()

    def init_weights(self):
        """Do nothing: GPT initialised its weights when it was built."""

    @torch.no_grad()
    def _init_weights(self, module):
        """Compute what no file holds: the library builds a model on the meta device first."""
        GPT.init_weights(module)
        if isinstance(module, Rotary):
            c = self.config
            fresh = Rotary(c.n_embd // c.n_head, len(module.cos), c.rope_base)
            module.cos.copy_(fresh.cos)
            module.sin.copy_(fresh.sin)

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
        """Compute the logits, (B, T, V), and the loss if there are labels.

        Args:
            attention_mask: 0 at padding, on either side.
            labels: The tokens themselves, -100 where there is no loss. They are shifted by one
                here, as everywhere in the library. (`GPT` wants targets that are shifted already.)
        """
        if attention_mask is None or bool(attention_mask.all()):
            logits, _ = self.gpt(input_ids)
        else:
            packed, back = left_aligned(input_ids, attention_mask)
            logits, _ = self.gpt(packed)
            logits = logits.gather(1, back[..., None].expand_as(logits))  # at the tokens' positions
        loss = None
        if labels is not None:
            predicted = logits[:, :-1].flatten(0, 1).float()
            loss = F.cross_entropy(predicted, labels[:, 1:].flatten(), ignore_index=-100)
        if not return_dict:
            return (logits,) if loss is None else (loss, logits)
        return CausalLMOutput(loss=loss, logits=logits)
