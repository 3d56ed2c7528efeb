"""The language model's layers in 8 or 4 bits a weight, by torchao; all else stays as it is.

8: an integer a weight and a scale a row. 4: NF4 (QLoRA, arXiv 2305.14314), a scale in 8 bits for
every 64 weights. Both are put back into the numbers of the activations where a layer computes:
they take less memory, not less time.
"""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from rsd.models.openvla_oft.model import OpenVLAOFT

BLOCK = 64  # weights of a scale, in 4 bits
SCALES = 256  # of these in a block of their own

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def quantise(model: OpenVLAOFT, bits: int, device: torch.device | str) -> None:
    """Take the model to the device, its layers one by one and in so many bits: the device never
    holds more than the result and a layer."""
    llama = model.target.llama
    layers, llama.layers = llama.layers, nn.ModuleList()
    model.to(device)
    for layer in layers:
        layer.to(device)
        for each in layer.modules():
            if isinstance(each, nn.Linear):
                each.weight = nn.Parameter(_stored(each.weight.data, bits), requires_grad=False)
    llama.layers = layers


def _stored(weight: Tensor, bits: int) -> Tensor:
    if bits == 4:
        from torchao.quantization.quantize_.workflows import to_nf4

        nf4: Tensor = to_nf4(weight, BLOCK, math.gcd(weight.numel() // BLOCK, SCALES))
        return nf4
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    one = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    one.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(one, Int8WeightOnlyConfig(set_inductor_config=False))
    return one.weight.data


def doubled(module: M) -> M:
    """A copy in double precision, of the numbers that quantised weights stand for."""
    quantised = [each for each in module.parameters() if type(each) is not nn.Parameter]
    known = {id(each): _whole(each) for each in quantised}
    return copy.deepcopy(module, memo=known).double()


def _whole(weight: Tensor) -> nn.Parameter:
    """Of NF4, or of integers with scales."""
    nf4 = getattr(weight, "get_original_weight", None)
    return nn.Parameter((nf4() if nf4 else weight.dequantize()).double(), requires_grad=False)
