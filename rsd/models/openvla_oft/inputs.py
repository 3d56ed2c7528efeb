"""Observations to what the model reads, and what its heads say to actions, as OpenVLA-OFT's
evaluation does it (moojink/openvla-oft@213c5ff, experiments/robot/; PROTOCOL 6 to 9).

The published path calls TensorFlow; here are the same numbers without it, on any device. Every sum
has TensorFlow's order of terms, and products are rounded before they are added: of 7.5 million
values of 50 images 4 differ after resizing, each by one level of 255 (TensorFlow 2.21; the sines of
the kernel are a C library's there), and none for another reason.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rsd.errors import UserError
from rsd.models.openvla_oft.description import Normalisation
from rsd.models.openvla_oft.folder import Checkpoint
from rsd.models.openvla_oft.prompts import Prompts
from rsd.models.openvla_oft.statistics import Bounds, Statistics, suite_of
from rsd.types import ImageSpec, Observation

JPEG_QUALITY = 95  # and colours at half the resolution: TensorFlow's defaults
CROP_AREA = 0.9  # of the image, in its middle, is what training's random crops leave on average
EPSILON = 1e-8  # added to ranges that are divided by, or multiplied with
LANCZOS_RADIUS = 3


class Prepared(NamedTuple):
    """What a batch of observations is to the model, on its device."""

    pixels: Tensor  # float32 (B, images * 6, size, size): each for DINOv2, then for SigLIP
    prompt: Tensor  # int64 (B, P): tokens behind BOS, padded on the left
    valid: Tensor | None  # bool (B, P): False where the prompt is padding; None: nowhere
    proprio: Tensor  # float32 (B, 8), in [-1, 1]
    suites: Tensor  # int64 (B,): whose statistics a row goes by, for `Units.actions`


class Preparation:
    """Observations -> what the model reads."""

    def __init__(
        self, checkpoint: Checkpoint, images: ImageSpec, device: torch.device | str = "cpu"
    ) -> None:
        config = checkpoint.config
        self.units = Units(checkpoint.statistics, device)
        self._frame = (images.height, images.width, 3)
        self._pixels = ImagePath(config.image_size, checkpoint.normalisations, device)
        self._prompts = Prompts.of(checkpoint)
        self._device = device

    def __call__(self, observations: Sequence[Observation]) -> Prepared:
        """Raises UserError for frames of another size, an instruction that is too long, or one that
        no statistics are known for."""
        for seen in observations:
            if seen.agentview.shape != self._frame or seen.wrist.shape != self._frame:
                raise UserError(
                    f"frames of {seen.agentview.shape} and {seen.wrist.shape}; this policy reads "
                    f"{self._frame}"
                )
        frames = np.stack([[seen.agentview, seen.wrist] for seen in observations])
        instructions = [seen.instruction for seen in observations]
        prompt, valid = self._prompts(instructions)
        suites = self.units.suites_of(instructions)
        proprio = self.units.proprio(np.stack([seen.proprio for seen in observations]), suites)
        return Prepared(
            self._pixels(frames),
            torch.from_numpy(prompt).to(self._device),
            None if valid is None else torch.from_numpy(valid).to(self._device),
            torch.from_numpy(proprio).to(self._device),
            torch.from_numpy(suites).to(self._device),
        )


class Units:
    """Between the simulator's units and those that the model was trained in: quantiles at -1 and
    1. In double precision, element by element, rounded once at the end."""

    def __init__(
        self, statistics: Mapping[str, Statistics], device: torch.device | str = "cpu"
    ) -> None:
        self._statistics = dict(statistics)
        self._row_of: dict[str, int] = {}  # by instruction
        action = _table([each.action for each in statistics.values()])
        self._action = [torch.from_numpy(numbers).to(device) for numbers in action]
        self._proprio = _table([each.proprio for each in statistics.values()])

    def suites_of(self, instructions: Sequence[str]) -> np.ndarray:
        """int64 (B,): whose statistics each instruction goes by. Raises UserError for one of none
        of them."""
        for instruction in instructions:
            if instruction not in self._row_of:
                suite = suite_of(instruction, self._statistics)
                self._row_of[instruction] = list(self._statistics).index(suite)
        return np.array([self._row_of[instruction] for instruction in instructions])

    def proprio(self, values: np.ndarray, suites: np.ndarray) -> np.ndarray:
        """(B, 8) in metres and radians -> float32 (B, 8), in [-1, 1]."""
        low, extent, mask = (numbers[suites] for numbers in self._proprio)
        mapped = np.where(mask, 2 * (values - low) / extent - 1, values)
        return mapped.clip(-1, 1).astype(np.float32)

    def numbers(self, actions: Tensor, suite: str) -> Tensor:
        """(..., 7) actions as they are executed -> what a head should say of them: float32, motion
        in [-1, 1], the gripper 1 open and 0 closed."""
        row = list(self._statistics).index(suite)
        low, extent, mask = (numbers[row] for numbers in self._action)
        opened = torch.cat([actions[..., :-1], (1 - actions[..., -1:]) / 2], dim=-1).double()
        mapped = torch.where(mask, (2 * (opened - low) / extent - 1).clamp(-1, 1), opened)
        return mapped.float()

    def actions(self, normalised: Tensor, suites: Tensor) -> Tensor:
        """(B, T, 7) of a head -> float32 (B, T, 7) as they are executed: the gripper opens (-1) or
        closes (+1), nothing in between; the rest is cut off at -1 and 1, where robosuite's
        controller cuts it off too (scale_action). NaN stays."""
        low, extent, mask = (numbers[suites][:, None] for numbers in self._action)
        single = normalised if normalised.dtype == torch.float64 else normalised.float()
        mapped = torch.where(mask, (0.5 * (single + 1)).double() * extent + low, single.double())
        opens = 2 * mapped[..., -1] - 1  # from 0 closed, 1 open
        gripper = torch.where(opens > 0, -1.0, 1.0).masked_fill(torch.isnan(opens), torch.nan)
        return torch.cat([mapped[..., :-1].clamp(-1, 1), gripper[..., None]], dim=-1).float()


def _table(bounds: Sequence[Bounds]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower ends float64 (n, N), extents (n, N), where they count (n, N)."""
    low, high = (np.array([getattr(b, end) for b in bounds]) for end in ("low", "high"))
    return low, high - low + EPSILON, np.array([b.mask for b in bounds])


class Taps(NamedTuple):
    """How each of the outputs of an axis is made of its inputs."""

    places: Tensor  # int64 (outputs, n)
    weights: Tensor  # float32 (outputs, n)


class CropTaps(NamedTuple):
    """Between which two inputs each of the outputs of an axis lies, and where."""

    places: Tensor  # int64 (outputs, 2)
    weights: Tensor  # float32 (outputs, 1, 1), from 0 at the first to 1 at the second


class ImagePath:
    """Frames as the simulator draws them -> pixels as the towers read them."""

    def __init__(
        self, size: int, normalisations: Sequence[Normalisation], device: torch.device | str = "cpu"
    ) -> None:
        """Images of `size` pixels a side, normalised once for every tower."""
        _check_decoder()
        self.size, self.device = size, torch.device(device)
        self._mean, self._deviation = (
            torch.tensor(numbers, device=device)[:, :, None, None]  # (towers, 3, 1, 1)
            for numbers in (
                [each.mean for each in normalisations],
                [each.deviation for each in normalisations],
            )
        )
        # a GPU divides by a tensor as IEEE has it, by a number through its reciprocal
        self._white = torch.tensor(255.0, device=device)
        self._crop = _crop_taps(size, self.device)
        self._lanczos: dict[int, Taps] = {}  # by pixels of a side before

    def __call__(self, frames: np.ndarray) -> Tensor:
        """uint8 (B, images, H, W, 3) -> float32 (B, images * towers * 3, size, size)."""
        pixels = self.sized(frames.reshape(-1, *frames.shape[2:]))
        return self.normalised(self.cropped(pixels)).reshape(len(frames), -1, self.size, self.size)

    def sized(self, frames: np.ndarray) -> Tensor:
        """uint8 (N, H, W, 3) -> uint8 (N, size, size, 3), on the device, not cropped yet."""
        if frames.shape[1:3] == (self.size, self.size):  # as the published code has it
            return self._sent(frames)
        return self.resized(self._sent(jpeg_round_trips(frames)))

    def _sent(self, frames: np.ndarray) -> Tensor:
        sent = torch.from_numpy(np.ascontiguousarray(frames))
        if self.device.type == "cuda":
            sent = sent.pin_memory()
        return sent.to(self.device, non_blocking=True)

    def resized(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) -> uint8 (N, size, size, 3): Lanczos with three lobes, widened where
        it shrinks (tf.image.resize with antialias), rounded half to even."""
        pixels = images.float()
        for side in images.shape[1:3]:  # rows, then columns
            pixels = _sum_of_taps(pixels, self._lanczos_taps(side)).transpose(1, 2).contiguous()
        return pixels.round().clamp(0, 255).to(torch.uint8)

    def cropped(self, images: Tensor) -> Tensor:
        """uint8 (N, size, size, 3) -> uint8, the same shape: the middle 0.9 of the area, stretched
        with bilinear interpolation (tf.image.crop_and_resize); in [0, 1], cut off, not rounded."""
        pixels = images.float() * float(np.float32(1 / 255))
        for _ in range(2):  # columns, then rows
            pixels = pixels.transpose(1, 2).contiguous()
            low, high = (pixels.index_select(1, places) for places in self._crop.places.T)
            pixels = low + (high - low) * self._crop.weights
        return (pixels.clamp(0, 1) * 255.5).to(torch.uint8)

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 (N, size, size, 3) -> float32 (N, towers * 3, size, size)."""
        pixels = images.permute(0, 3, 1, 2)[:, None].float() / self._white
        return ((pixels - self._mean) / self._deviation).flatten(1, 2)

    def _lanczos_taps(self, side: int) -> Taps:
        if side not in self._lanczos:
            self._lanczos[side] = _lanczos_taps(side, self.size, self.device)
        return self._lanczos[side]


def _check_decoder() -> None:
    if importlib.util.find_spec("simplejpeg") is None:
        raise UserError(
            "OpenVLA-OFT's frames pass through libjpeg's fast transform, which needs simplejpeg: "
            "install what requirements.txt names"
        )


def jpeg_round_trips(frames: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3), each written as a JPEG and read again, side by side."""
    return np.stack(list(_threads.map(_jpeg_round_trip, frames)))


_threads = ThreadPoolExecutor(8, thread_name_prefix="jpeg")


def _jpeg_round_trip(frame: np.ndarray) -> np.ndarray:
    """TensorFlow reads with libjpeg's fast inverse transform (decode_image_op.cc), up to nine
    levels of 255 from its accurate one, which is what Pillow reads with; both write alike."""
    import simplejpeg

    written = io.BytesIO()
    Image.fromarray(frame).save(written, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    read: np.ndarray = simplejpeg.decode_jpeg(written.getbuffer(), fastdct=True, fastupsample=False)
    return read


def _sum_of_taps(images: Tensor, taps: Taps) -> Tensor:
    """Float32 images (N, H, W, 3) with other rows. One tap after the other: an order of summation
    that no library or device chooses."""
    total = torch.zeros((), device=images.device)
    for places, weights in zip(taps.places.T, taps.weights.T, strict=True):
        total = total + images.index_select(1, places) * weights[:, None, None]
    return total


def _lanczos_taps(inputs: int, outputs: int, device: torch.device) -> Taps:
    """In float32 as TensorFlow computes them (scale_and_translate_op.cc): centres of pixels at
    halves, weights that sum to 1, the edge cut off."""
    single = np.float32
    scale = single(1) / single(single(outputs) / single(inputs))  # pixels of the input for one
    widening = max(scale, single(1))
    centre = (np.arange(outputs, dtype=single) + single(0.5)) * scale
    reach = single(LANCZOS_RADIUS) * widening
    first = np.ceil(centre - reach - single(0.5)).clip(0, inputs - 1).astype(np.int64)
    last = np.floor(centre + reach - single(0.5)).clip(0, inputs - 1).astype(np.int64)
    places = first[:, None] + np.arange((last - first).max() + 1)
    distance = np.abs(places.astype(single) + single(0.5) - centre[:, None])
    weights = _lanczos(distance * (single(1) / widening))
    weights[places > last[:, None]] = 0
    total = np.zeros(outputs, dtype=single)
    for column in weights.T:
        total += column
    weights *= (single(1) / total)[:, None]
    return Taps(
        torch.from_numpy(places.clip(max=inputs - 1)).to(device),
        torch.from_numpy(weights).to(device),
    )


def _lanczos(x: np.ndarray) -> np.ndarray:
    """Lanczos' kernel at float32 distances from its centre. Sines are double precision's, rounded:
    within a unit in the last place of those of any C library."""
    pi, radius = np.float32(np.pi), np.float32(LANCZOS_RADIUS)
    at = np.maximum(x, np.float32(1e-3))
    wide, narrow = (
        np.sin(angle.astype(float)).astype("f4") for angle in (pi * at / radius, pi * at)
    )
    value = radius * narrow * wide / (pi * pi * at * at)
    return np.where(x > radius, np.float32(0), np.where(x <= 1e-3, np.float32(1), value))


def _crop_taps(size: int, device: torch.device) -> CropTaps:
    """In float32 as crop_and_resize_op.cc has it: corners of the crop on corners of the output."""
    single = np.float32
    side = np.sqrt(single(CROP_AREA))
    first = (single(1) - side) / single(2)
    step = (first + side - first) * single(size - 1) / single(size - 1)
    at = first * single(size - 1) + np.arange(size, dtype=single) * step
    places = np.stack([np.floor(at), np.ceil(at)], axis=1).astype(np.int64)
    return CropTaps(
        torch.from_numpy(places).to(device),
        torch.from_numpy(at - np.floor(at))[:, None, None].to(device),
    )
