"""A SmallVLA's weights: loaded into a policy, checked, saved."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from safetensors.torch import load_file
from torch import Tensor

from rsd.errors import UserError, writing
from rsd.models.code_policy import CodePolicy
from rsd.models.small_vla import checkpoint
from rsd.models.small_vla.checkpoint import CheckpointInfo
from rsd.models.small_vla.code_model import SmallVLACodeModel
from rsd.models.small_vla.model import SmallVLA
from rsd.models.small_vla.options import taken_apart
from rsd.outputs import aside
from rsd.types import ImageSpec


def load_model(spec: str) -> tuple[SmallVLA, CheckpointInfo]:
    """The model of a checkpoint: a folder, or a bundled one by name. Raises UserError where it is
    unfit."""
    info = checkpoint.inspect(spec)
    model = SmallVLA(info.model, info.images.height)
    scales = model.tokeniser.scales.clone()
    try:
        model.load_state_dict(load_file(info.path / checkpoint.WEIGHTS_FILE))
    except RuntimeError as error:
        raise UserError(
            f"{info.path} does not fit its {checkpoint.CONFIG_FILE}: {error}"
        ) from error
    _check_numbers(model, scales, str(info.path))
    return model, info


def load(spec: str, *, deterministic: bool, device: str) -> CodePolicy:
    """The policy of a checkpoint, computed as its spec says. Raises UserError where it is unfit."""
    place, runtime = taken_apart(spec)
    if runtime == "onnx" and device != "cpu":
        raise UserError(f"policy {spec!r}: runtime=onnx is for a CPU; leave it out")
    model, info = load_model(place)
    policy = policy_of(model, info.images, info.sha256, deterministic=deterministic, device=device)
    if runtime == "onnx":
        from rsd.models.small_vla.onnx_runtime import take_over

        take_over(model)  # the copy in double precision stays as it is
    return policy


def policy_of(
    model: SmallVLA,
    images: ImageSpec,
    checkpoint_sha256: str = "",
    *,
    deterministic: bool = True,
    device: str = "cpu",
) -> CodePolicy:
    """A policy from a model in memory."""
    if deterministic:  # TensorFloat-32 rounds far above a near tie
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    decoded = SmallVLACodeModel(model, images, device)
    return CodePolicy(
        decoded,
        images,
        checkpoint_sha256,
        chunk_steps=model.config.tokeniser.steps,
        precise=decoded.doubled() if deterministic else None,
    )


def _check_finite(tensors: dict[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {name} holds NaN or infinity; copy or train it again")


def _check_numbers(model: SmallVLA, scales: Tensor, where: str) -> None:
    """Raises UserError for weights that are no numbers, and for normalisation statistics or
    tokeniser scales (those of the configuration: `scales`) that cannot be this model's."""
    _check_finite(model.state_dict(), where)
    smallest = float(model.proprio_scale.min())
    if smallest <= 0:
        raise UserError(
            f"{where}: proprio_scale reaches {smallest:g}, a standard deviation is above 0; the "
            "normalisation statistics are another model's: copy or train it again"
        )
    if not torch.allclose(model.tokeniser.scales, scales):
        raise UserError(
            f"{where}: the tokeniser's scales are {model.tokeniser.scales.tolist()}, its settings "
            f"give {scales.tolist()}; it was trained by other code, train it again"
        )


def save(model: SmallVLA, path: Path, images: ImageSpec, origin: dict[str, object]) -> None:
    """Write a checkpoint folder; both files are written aside before either is replaced, the
    weights first.

    Raises UserError for weights that are no numbers, in half precision at the latest, and where
    the folder cannot be written.
    """
    stored = _stored(model)
    _check_finite(stored, f"{path} is not written")
    weights = safetensors.torch.save(stored)
    config = checkpoint.described(model.config, images, origin, weights)
    with (
        writing(path),
        aside(path / checkpoint.CONFIG_FILE) as config_file,
        aside(path / checkpoint.WEIGHTS_FILE) as weights_file,
    ):
        config_file.write(config)
        config_file.flush()
        weights_file.write(weights)


def round_to_storage(model: SmallVLA) -> None:
    """Give a model the weights that it will have after `save` and `load`."""
    model.load_state_dict(_stored(model))


def _stored(model: SmallVLA) -> dict[str, Tensor]:
    """What has two dimensions or more is stored in half precision (computation is in fp32);
    vectors, such as norms and statistics, and the tokeniser, whose reconstruction must not change
    by a bit, in fp32."""
    return {
        name: (
            tensor.half().contiguous()
            if tensor.is_floating_point() and tensor.ndim >= 2 and not name.startswith("tokeniser.")
            else tensor.contiguous()
        )
        for name, tensor in model.state_dict().items()
    }
