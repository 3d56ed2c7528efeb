"""The language model: transformers' `LlamaModel`, as it is or with its layers fused.

`fuse` puts layers of the same weights in place of transformers': query, key and value in one
product, gate and up in another, the residual added by the products' own accumulation, elementwise
work in `kernels`. For inference: no gradients, no LoRA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel

from rsd.models.openvla_oft import attention, kernels
from rsd.models.openvla_oft.attention import BlockCache
from rsd.models.openvla_oft.config import LlamaSizes


def make_llama(sizes: LlamaSizes) -> LlamaModel:
    """transformers' model with random weights and block-causal attention."""
    settings: dict[str, Any] = {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.hidden,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.heads,
        "rms_norm_eps": sizes.epsilon,
        "max_position_embeddings": 2048,
        "use_cache": False,
        "attn_implementation": attention.NAME,
    }
    return LlamaModel(LlamaConfig(**settings))


class FusedLayer(nn.Module):
    """A decoder layer with the weights of transformers' own, which it takes apart."""

    index: int
    heads: int
    epsilon: float
    split: bool
    norm1: nn.Parameter
    norm2: nn.Parameter
    out: nn.Parameter
    down: nn.Parameter

    def __init__(self, layer: Any, index: int, heads: int, split: bool) -> None:
        super().__init__()
        attention_, mlp = layer.self_attn, layer.mlp
        self.index, self.heads, self.split = index, heads, split
        self.epsilon = layer.input_layernorm.variance_epsilon
        self.norm1 = layer.input_layernorm.weight
        self.norm2 = layer.post_attention_layernorm.weight
        self.qkv = _stacked(attention_.q_proj, attention_.k_proj, attention_.v_proj)
        self.out = attention_.o_proj.weight
        self.gate_up = _stacked(mlp.gate_proj, mlp.up_proj)
        self.down = mlp.down_proj.weight

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: BlockCache,
        **_: Any,
    ) -> Tensor:
        """(B, N, W), overwritten with the layer's output."""
        batch, length, width = hidden_states.shape
        cache = past_key_values
        keys, values = cache.entries[self.index]
        x = kernels.rms_norm(hidden_states, self.norm1, self.epsilon)
        qkv = F.linear(x, self.qkv).view(batch, length, 3, self.heads, -1)
        query = kernels.rope_and_store(qkv, *position_embeddings, keys, values, cache.start)
        mixed = attention.attend(
            query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), cache, self.split
        )
        residual = hidden_states.view(-1, width)
        residual.addmm_(mixed.reshape(-1, width), self.out.T)
        x = kernels.rms_norm(hidden_states, self.norm2, self.epsilon)
        x = kernels.silu_mul(F.linear(x, self.gate_up))
        residual.addmm_(x.view(-1, x.shape[-1]), self.down.T)
        return hidden_states


def _stacked(*maps: nn.Linear) -> nn.Parameter:
    """Weights below each other; each map is left empty, so that memory does not double."""
    stacked = torch.cat([one.weight.data for one in maps])
    for one in maps:
        one.weight.data = one.weight.data.new_empty(0)
    return nn.Parameter(stacked, requires_grad=False)


@torch.no_grad()
def fuse(llama: LlamaModel, split: bool = True) -> None:
    """Put `FusedLayer`s in place of the layers, one at a time."""
    heads = llama.config.num_attention_heads
    for index in range(len(llama.layers)):
        llama.layers[index] = FusedLayer(llama.layers[index], index, heads, split)


def run(llama: LlamaModel, embeddings: Tensor, cache: BlockCache, start: int) -> Tensor:
    """Positions (B, N, W) at slots start.. -> hidden states (B, N, W) after the last norm. The
    embeddings may be overwritten."""
    cache.start = start
    positions = cache.positions[:, start : start + embeddings.shape[1]]
    output = llama(
        inputs_embeds=embeddings,
        position_ids=positions,
        past_key_values=cache,
        use_cache=False,
        blocks=cache,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden
