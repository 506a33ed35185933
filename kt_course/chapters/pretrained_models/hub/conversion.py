"""Our weights in the library's own classes: vanilla as GPT-2, rope as GPT-NeoX, no remote code.

Both are pre-norm Transformers of the same shape as ours. What differs is the names, and how query,
key and value are put into one matrix. Tools for these classes work too, such as TransformerLens.
Sources: Radford et al. 2019 (GPT-2), Black et al. 2022, section 2 (GPT-NeoX).
"""

from typing import Any

import torch

from kt_core.models import GPT, GPTConfig
from kt_course._typing import Tensor
from kt_course.chapters.pretrained_models.solutions import fuse


def gpt2_weights(model: GPT) -> dict[str, Tensor]:
    """Convert all weights of a vanilla model to the names of `GPT2LMHeadModel`."""
    ours = {name: value.detach() for name, value in model.state_dict().items()}
    theirs = {
        "transformer.wte.weight": ours["tok_emb.weight"],
        "transformer.wpe.weight": ours["pos_emb"][0],  # (1, block, C) -> (block, C)
        "transformer.ln_f.weight": ours["ln_f.weight"],
        "transformer.ln_f.bias": ours["ln_f.bias"],
        "lm_head.weight": ours["head.weight"],
    }
    norms = {"ln1": "ln_1", "ln2": "ln_2"}
    maps = {"mlp.up": "mlp.c_fc", "mlp.proj": "mlp.c_proj"}
    for i, block in enumerate(model.blocks):
        prefix = f"transformer.h.{i}."
        for name, value in fuse(block.attn).items():
            theirs[f"{prefix}attn.{name}"] = value
        for our, their in (norms | maps).items():
            weight = ours[f"blocks.{i}.{our}.weight"]
            theirs[f"{prefix}{their}.weight"] = weight.T.contiguous() if our in maps else weight
            theirs[f"{prefix}{their}.bias"] = ours[f"blocks.{i}.{our}.bias"]
    return theirs


def as_gpt2(model: GPT, *, eos_token_id: int = 1, pad_token_id: int = 0, **changes: Any) -> Any:
    """Convert a vanilla model to a `GPT2LMHeadModel` with the same logits, in eval mode.

    Args:
        changes: Fields of `GPT2Config` to set differently, to see what they do.

    Raises:
        ValueError: For a model that does not fit that class: another variant, or qk_norm.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    c = _check_fits(model, "vanilla", "GPT-2")
    config = dict(
        n_positions=c.block_size,
        n_embd=c.n_embd,
        n_layer=c.n_layer,
        n_head=c.n_head,
        activation_function="gelu",
        layer_norm_epsilon=1e-5,
        embd_pdrop=c.dropout,
        resid_pdrop=c.dropout,
        attn_pdrop=c.dropout,
    )
    config |= _common_settings(c, eos_token_id, pad_token_id)
    converted = GPT2LMHeadModel(GPT2Config(**config | changes))
    converted.load_state_dict(gpt2_weights(model))
    return converted.eval()


def gpt_neox_weights(model: GPT) -> dict[str, Tensor]:
    """Convert all weights of a rope model but the head's to the names of `GPTNeoXModel`.

    Its query_key_value (3C, C) has nn.Linear's orientation and is sorted by head: the query, key
    and value rows of head 0, then those of head 1.
    """
    c, ours = model.config, {name: value.detach() for name, value in model.state_dict().items()}
    theirs = {
        "embed_in.weight": ours["tok_emb.weight"],
        "final_layer_norm.weight": ours["ln_f.weight"],
        "final_layer_norm.bias": ours["ln_f.bias"],
    }
    names = {
        "ln1": "input_layernorm",
        "ln2": "post_attention_layernorm",
        "attn.proj": "attention.dense",
        "mlp.up": "mlp.dense_h_to_4h",
        "mlp.proj": "mlp.dense_4h_to_h",
    }
    for i in range(c.n_layer):
        for part in ("weight", "bias"):
            for our, their in names.items():
                theirs[f"layers.{i}.{their}.{part}"] = ours[f"blocks.{i}.{our}.{part}"]
            three = [ours[f"blocks.{i}.attn.{name}.{part}"] for name in ("query", "key", "value")]
            by_head = [matrix.unflatten(0, (c.n_head, -1)) for matrix in three]  # (nh, hs, ...)
            rows = torch.stack(by_head, dim=1).flatten(0, 2)  # (nh, 3, hs, ...) -> (3C, ...)
            theirs[f"layers.{i}.attention.query_key_value.{part}"] = rows
    return theirs


def as_gpt_neox(model: GPT, *, eos_token_id: int = 1, pad_token_id: int = 0, **changes: Any) -> Any:
    """Convert a rope model to a `GPTNeoXForCausalLM` with the same logits; see `as_gpt2`."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    c = _check_fits(model, "rope", "GPT-NeoX")
    rope = {"rope_type": "default", "rope_theta": c.rope_base, "partial_rotary_factor": 1.0}
    config = dict(
        max_position_embeddings=c.block_size,
        hidden_size=c.n_embd,
        num_hidden_layers=c.n_layer,
        num_attention_heads=c.n_head,
        intermediate_size=4 * c.n_embd,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        use_parallel_residual=False,
        rope_parameters=rope,
        rotary_pct=1.0,
        attention_dropout=c.dropout,
        hidden_dropout=c.dropout,
    )
    config |= _common_settings(c, eos_token_id, pad_token_id)
    converted = GPTNeoXForCausalLM(GPTNeoXConfig(**config | changes))
    converted.gpt_neox.load_state_dict(gpt_neox_weights(model))
    # Its name, embed_out or lm_head, depends on the version of the library.
    converted.get_output_embeddings().load_state_dict(model.head.state_dict())
    return converted.eval()


def _common_settings(c: GPTConfig, end: int, pad: int) -> dict[str, Any]:
    """What the configurations of both classes call the same."""
    tokens = dict(bos_token_id=None, eos_token_id=end, pad_token_id=pad)
    return dict(vocab_size=c.vocab_size, tie_word_embeddings=False, **tokens)


def _check_fits(model: GPT, variant: str, name: str) -> GPTConfig:
    """Return the model's config if the class `name` computes the same."""
    c = model.config
    if c.variant != variant:
        kinds = f"{name} is the class for a {variant} model, not for {c.variant}"
        raise ValueError(f"{kinds}: export that one with its own code")
    if not c.causal:
        raise ValueError(f"{name} is causal, and this model is an encoder (causal=False)")
    if c.qk_norm:
        raise ValueError(
            f"{name} has no qk_norm (queries and keys of unit size), and would silently give other "
            "logits: train with qk_norm=False, or export the model with its own code"
        )
    return c
