"""OpenVLA-OFT as a family of policies. No torch until one is loaded."""

from __future__ import annotations

from rsd.errors import UserError
from rsd.models.openvla_oft.description import ARCHITECTURE, MODEL_TYPE
from rsd.models.openvla_oft.folder import inspect
from rsd.models.openvla_oft.hub import SCHEME
from rsd.models.seam import Family
from rsd.types import ImageSpec, Policy

__all__ = ["ARCHITECTURE", "FAMILY", "MODEL_TYPE", "SCHEME"]


def _load(spec: str, deterministic: bool, device: str) -> Policy:
    """In bfloat16 on a GPU, where nothing is settled (`PolicyInfo.settles_on_gpu`). On a CPU in
    float32, and if `deterministic` with a copy in double precision that settles near ties."""
    import torch

    from rsd.models.code_policy import CodePolicy
    from rsd.models.openvla_oft.code_model import OFTCodeModel
    from rsd.models.openvla_oft.folder import describe
    from rsd.models.openvla_oft.loading import load_model
    from rsd.models.openvla_oft.static_model import StaticOFTCodeModel

    on_cpu = device == "cpu"
    checkpoint, images = describe(spec), ImageSpec()
    if on_cpu and checkpoint.options.graphs:
        raise UserError(f"policy {spec!r}: graphs=1 is for a GPU; leave it out")
    settles = deterministic and on_cpu
    loaded = load_model(
        checkpoint, device, torch.float32 if on_cpu else torch.bfloat16, settles=settles
    )
    model: OFTCodeModel | StaticOFTCodeModel
    if checkpoint.options.graphs:
        model = StaticOFTCodeModel(loaded.model, checkpoint, images, device, graphed=True)
    else:
        model = OFTCodeModel(loaded.model, checkpoint, images, device)
    return CodePolicy(
        model,
        images,
        loaded.sha256,
        chunk_steps=checkpoint.config.tokeniser.steps,
        precise=model.doubled() if settles else None,
    )


FAMILY = Family(
    f"a folder of OpenVLA-OFT's, or one of the hub: {SCHEME}://owner/name[@revision]; either may "
    "end in ?bits=8 or ?bits=4, for a language model in fewer bits, and &graphs=1, for CUDA graphs",
    inspect,
    _load,
)
