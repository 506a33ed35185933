"""Our weights in the clothes of the library's own classes: vanilla as GPT-2, rope as GPT-NeoX. No remote code needed.

Both are pre-norm Transformers of the same shape as ours; what differs is names, and how query, key and value lie in
one matrix. Sources: Radford et al. 2019 (GPT-2), Black et al. 2022, section 2 (GPT-NeoX).
"""

from __future__ import annotations

from typing import Any

import torch

from kt_core._typing import Tensor
from kt_core.attention import MultiHeadAttention
from kt_core.models import GPT


def gpt2_attention(layer: MultiHeadAttention) -> dict[str, Tensor]:
    """Weights of one attention layer as GPT-2 keeps them: c_attn.weight (C, 3C), c_attn.bias (3C,), c_proj.weight (C, C), c_proj.bias (C,).

    GPT-2 multiplies from the left, x @ W + b, so a matrix is the transpose of nn.Linear's; and it makes query, key and
    value in one product, side by side.
    """
    parts = (layer.query, layer.key, layer.value)
    return {
        "c_attn.weight": torch.cat([part.weight.detach().T for part in parts], dim=1),  # (C, 3C)
        "c_attn.bias": torch.cat([part.bias.detach() for part in parts]),
        "c_proj.weight": layer.proj.weight.detach().T.contiguous(),
        "c_proj.bias": layer.proj.bias.detach(),
    }


def gpt2_weights(model: GPT) -> dict[str, Tensor]:
    """All weights of a vanilla model under the names of `GPT2LMHeadModel`."""
    ours = {name: value.detach() for name, value in model.state_dict().items()}
    theirs = {
        "transformer.wte.weight": ours["tok_emb.weight"],
        "transformer.wpe.weight": ours["pos_emb"][0],  # (1, block, C) -> (block, C)
        "transformer.ln_f.weight": ours["ln_f.weight"],
        "transformer.ln_f.bias": ours["ln_f.bias"],
        "lm_head.weight": ours["head.weight"],
    }
    for i, block in enumerate(model.blocks):
        at = f"transformer.h.{i}."
        theirs |= {f"{at}attn.{name}": value for name, value in gpt2_attention(block.attn).items()}
        for our, their in (("ln1", "ln_1"), ("ln2", "ln_2")):
            theirs |= {
                f"{at}{their}.{part}": ours[f"blocks.{i}.{our}.{part}"]
                for part in ("weight", "bias")
            }
        for our, their in (("mlp.up", "mlp.c_fc"), ("mlp.proj", "mlp.c_proj")):
            theirs[f"{at}{their}.weight"] = ours[f"blocks.{i}.{our}.weight"].T.contiguous()
            theirs[f"{at}{their}.bias"] = ours[f"blocks.{i}.{our}.bias"]
    return theirs


def as_gpt2(model: GPT, *, eos_token_id: int = 1, pad_token_id: int = 0, **changes: Any) -> Any:
    """A `GPT2LMHeadModel` with this vanilla model's weights and the same logits, in eval mode.

    ValueError where that class has no room for the model: another variant, or queries and keys of unit size. `changes`
    are fields of `GPT2Config` to set otherwise, to see what they do.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    c = _plain(model, "vanilla", "GPT-2")
    config = dict(
        vocab_size=c.vocab_size,
        n_positions=c.block_size,
        n_embd=c.n_embd,
        n_layer=c.n_layer,
        n_head=c.n_head,
        activation_function=c.activation,
        layer_norm_epsilon=model.ln_f.eps,
        tie_word_embeddings=False,
        embd_pdrop=c.dropout,
        resid_pdrop=c.dropout,
        attn_pdrop=c.dropout,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )
    made = GPT2LMHeadModel(GPT2Config(**config | changes))
    made.load_state_dict(gpt2_weights(model))
    return made.eval()


def gpt_neox_weights(model: GPT) -> dict[str, Tensor]:
    """All weights of a rope model but those of its head, under the names of `GPTNeoXModel`.

    Its query_key_value (3C, C) is nn.Linear's way up, and sorted by head: the query, key and value rows of head 0, then
    those of head 1.
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
            heads = torch.stack(
                [one.unflatten(0, (c.n_head, -1)) for one in three], dim=1
            )  # (nh, 3, hs, ...)
            theirs[f"layers.{i}.attention.query_key_value.{part}"] = heads.flatten(0, 2)
    return theirs


def as_gpt_neox(model: GPT, *, eos_token_id: int = 1, pad_token_id: int = 0, **changes: Any) -> Any:
    """A `GPTNeoXForCausalLM` with this rope model's weights and the same logits, in eval mode; see `as_gpt2`."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    c = _plain(model, "rope", "GPT-NeoX")
    config = dict(
        vocab_size=c.vocab_size,
        max_position_embeddings=c.block_size,
        hidden_size=c.n_embd,
        num_hidden_layers=c.n_layer,
        num_attention_heads=c.n_head,
        intermediate_size=4 * c.n_embd,
        hidden_act=c.activation,
        layer_norm_eps=model.ln_f.eps,
        use_parallel_residual=False,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": c.rope_base,
            "partial_rotary_factor": 1.0,
        },
        rotary_pct=1.0,
        attention_dropout=c.dropout,
        hidden_dropout=c.dropout,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )
    made = GPTNeoXForCausalLM(GPTNeoXConfig(**config | changes))
    made.gpt_neox.load_state_dict(gpt_neox_weights(model))
    made.get_output_embeddings().load_state_dict(
        model.head.state_dict()
    )  # embed_out or lm_head, by the library's age
    return made.eval()


def _plain(model: GPT, variant: str, name: str) -> Any:
    """The model's config, if the class `name` has room for it."""
    c = model.config
    if c.variant != variant:
        raise ValueError(
            f"{name} is the class for a {variant} model, not for {c.variant}: export that one with its own code"
        )
    if not c.causal:
        raise ValueError(f"{name} looks back only, and this model is an encoder (causal=False)")
    if c.qk_norm:
        raise ValueError(
            f"{name} has no queries and keys of unit size (qk_norm), and would give other logits without a word: "
            "train with qk_norm=False, or export the model with its own code"
        )
    return c
