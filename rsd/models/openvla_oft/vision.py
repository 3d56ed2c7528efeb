"""Two vision towers and the projector: pixels to positions of the language model."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.errors import UserError
from rsd.models.openvla_oft.config import OFTConfig, TowerConfig

try:
    import timm
except (ImportError, RuntimeError) as error:  # the latter from a torchvision of another build
    raise UserError(
        f"OpenVLA-OFT's towers need timm, which does not import here: {error}; install it with a "
        "torchvision of torch's own build: pip install -r requirements-openvla.txt, or "
        "pip install 'rsd[openvla]'"
    ) from error

CHANNELS = 6  # of an image: three normalised for DINOv2, then the same three for SigLIP


def make_tower(config: TowerConfig, image_size: int) -> nn.Module:
    """timm's vision transformer with random weights."""
    sizes: dict[str, Any] = {
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.hidden / config.width,
    }
    tower: nn.Module = timm.create_model(
        config.name, pretrained=False, num_classes=0, img_size=image_size, **sizes
    )
    return tower


class Vision(nn.Module):
    """Features of the last but one block of DINOv2 and SigLIP, side by side.

    Names as in the checkpoints: `featurizer` is DINOv2, `fused_featurizer` SigLIP (comments in
    modeling_prismatic.py say otherwise).
    """

    def __init__(self, config: OFTConfig) -> None:
        super().__init__()
        self.images = config.images
        self.side_by_side = True  # on a GPU: both towers at once, on two streams
        self.featurizer = make_tower(config.dinov2, config.image_size)
        self.fused_featurizer = make_tower(config.siglip, config.image_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 6 images, H, W), normalised -> (B, patches of all images, width). Both images of
        every row run as one batch; on a GPU the towers share it, on two streams."""
        batch = len(pixels)
        images = pixels.reshape(batch * self.images, CHANNELS, *pixels.shape[2:])
        if pixels.is_cuda and self.side_by_side:
            dinov2, siglip = self._side_by_side(images)
        else:
            dinov2 = features(self.featurizer, images[:, :3])
            siglip = features(self.fused_featurizer, images[:, 3:])
        both = torch.cat([dinov2, siglip], dim=2)
        return both.reshape(batch, -1, both.shape[2])

    def _side_by_side(self, images: Tensor) -> tuple[Tensor, Tensor]:
        here = torch.cuda.current_stream(images.device)
        side = _side_stream(images.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            dinov2 = features(self.featurizer, images[:, :3])
        siglip = features(self.fused_featurizer, images[:, 3:])
        here.wait_stream(side)
        # What the side stream allocates is reused by its next call, which waits for `here` first.
        return dinov2, siglip


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The second one of a device; no model holds it, so that models can be copied."""
    return torch.cuda.Stream(device)


def features(tower: Any, images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, patches, width): the last but one block, without its norm and without
    class and register tokens; the last block does not run."""
    found: Tensor
    (found,) = tower.forward_intermediates(
        images,
        indices=[len(tower.blocks) - 2],
        norm=False,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    return found


class Projector(nn.Module):
    """Three linear maps with GELU between, as in the checkpoints."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, 4 * inputs)
        self.fc2 = nn.Linear(4 * inputs, outputs)
        self.fc3 = nn.Linear(outputs, outputs)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, patches, inputs) -> (B, patches, outputs)."""
        projected: Tensor = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(patches)))))
        return projected


class ProprioProjector(nn.Module):
    """Proprioception, normalised and clipped, to one position."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, outputs)
        self.fc2 = nn.Linear(outputs, outputs)

    def forward(self, proprio: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs)."""
        projected: Tensor = self.fc2(F.gelu(self.fc1(proprio)))
        return projected
