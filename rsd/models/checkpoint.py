"""Checkpoints: a folder with `model.safetensors` and `config.json`. Checked here without torch.

config.json holds what decides what the tensors mean: sizes, image settings, conventions, and where
the policy comes from (data, code, training). A hash binds it to the weights, among which are the
statistics of normalisation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsd.architecture import SmallVLAConfig, from_json
from rsd.errors import UserError, unknown
from rsd.outputs import write_atomically
from rsd.types import ImageSpec

FORMAT = 4
ARCHITECTURE = "small_vla"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CONVENTIONS = {  # what a policy trained elsewhere may do otherwise; compared word for word
    "action": "libero: dxyz, daxis-angle, gripper -1 open +1 close, all in [-1, 1]",
    "image": "agentview and robot0_eye_in_hand, rotated by 180 degrees, uint8 RGB",
    "proprio": "eef_pos m, axis-angle rad without antipodal flip, gripper_qpos m",
}
_BUNDLED = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True)
class CheckpointInfo:
    """A checked checkpoint."""

    path: Path
    sha256: str  # over both files
    model: SmallVLAConfig
    images: ImageSpec
    origin: dict[str, Any]  # data, code and training that made it

    @property
    def suites(self) -> tuple[str, ...]:
        """LIBERO suites of the demonstrations; empty where the description does not say."""
        return _suites(self.origin)

    @property
    def chunk_steps(self) -> int:
        """T."""
        return self.model.tokeniser.steps

    @property
    def layers(self) -> int:
        """L."""
        return self.model.tokeniser.layers


def bundled() -> tuple[str, ...]:
    """Names of the checkpoints that come with this package."""
    return tuple(sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_FILE}")))


def for_suites(suites: Collection[str]) -> str:
    """The bundled checkpoint that was trained on these suites and on the fewest others.

    Raises UserError where there is none.
    """
    described = {name: _read_config(_BUNDLED / name / CONFIG_FILE) for name in bundled()}
    trained = {name: _suites(config["origin"]) for name, config in described.items()}
    fitting = [name for name, known in trained.items() if set(suites) <= set(known)]
    if not fitting:
        known = "; ".join(f"{name}: {', '.join(on)}" for name, on in trained.items())
        raise UserError(
            f"no bundled policy was trained on all of {', '.join(suites)}; name one with --policy "
            f"(bundled: {known})"
        )
    return min(fitting, key=lambda name: (len(trained[name]), name))


def _suites(origin: dict[str, Any]) -> tuple[str, ...]:
    while isinstance(origin.get("target"), dict):  # its draft was trained again, on other data
        origin = origin["target"]
    data = origin.get("data", {})
    return tuple(data.get("suites", ())) if isinstance(data, dict) else ()


def inspect(spec: str) -> CheckpointInfo:
    """Check the checkpoint in folder `spec`, or the bundled one of that name: files, sizes,
    architecture, tensors.

    Raises UserError that says what is wrong.
    """
    path = _BUNDLED / spec if spec in bundled() else Path(spec).expanduser()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise UserError(
                f"no checkpoint at {spec!r}: {path / name} is missing; give a folder that "
                f"jobs/train.py wrote, or a bundled one: {', '.join(bundled())}"
            )
    config = _read_config(path / CONFIG_FILE)
    _check_whole(path / WEIGHTS_FILE)
    model, weights = config["model"], (path / WEIGHTS_FILE).read_bytes()
    if config["description_sha256"] != _description(model, config["images"], weights):
        raise UserError(
            f"{path / WEIGHTS_FILE} does not hold the model that {CONFIG_FILE} describes: the two "
            "files were not written together, or changed since; copy both anew or train it again"
        )
    digest = hashlib.sha256((path / CONFIG_FILE).read_bytes())
    digest.update(weights)
    return CheckpointInfo(path, digest.hexdigest(), model, config["images"], config["origin"])


def write_config(
    path: Path, model: SmallVLAConfig, images: ImageSpec, origin: dict[str, Any]
) -> None:
    """Describe the tensors that lie in folder `path` already."""
    weights = (path / WEIGHTS_FILE).read_bytes()
    write_atomically(path / CONFIG_FILE, described(model, images, origin, weights))


def described(
    model: SmallVLAConfig, images: ImageSpec, origin: dict[str, Any], weights: bytes
) -> bytes:
    """The content of config.json beside these `weights`."""
    content = {
        "format": FORMAT,
        "architecture": ARCHITECTURE,
        "conventions": CONVENTIONS,
        "model": dataclasses.asdict(model),
        "images": dataclasses.asdict(images),
        "description_sha256": _description(model, images, weights),
        "origin": origin,
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        architecture = content["architecture"]
        if architecture != ARCHITECTURE:
            raise unknown("architecture", str(architecture), [ARCHITECTURE])
        if content["format"] != FORMAT:
            raise UserError(
                f"format {content['format']}, this version reads {FORMAT}; train it again, or use "
                "the code that wrote it"
            )
        for name, wanted in CONVENTIONS.items():
            if content["conventions"].get(name) != wanted:
                found = content["conventions"].get(name)
                raise UserError(f"its {name} convention is {found!r}, this code's is {wanted!r}")
        content["model"] = from_json(SmallVLAConfig, content["model"])
        content["images"] = from_json(ImageSpec, content["images"])
        content["description_sha256"] = str(content["description_sha256"])
        content.setdefault("origin", {})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a checkpoint description: {error!r}") from error
    except ValueError as error:  # JSON's, from_json's, and those raised above
        raise UserError(f"{path}: {error}") from error
    return content


def _check_whole(path: Path) -> None:
    """Raises UserError for a truncated or foreign safetensors file, by its header."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + length > size:
            raise UserError(f"{path} is truncated or no safetensors file ({size} bytes)")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise UserError(f"{path} is no safetensors file: {error}") from error
    try:
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no safetensors file: {error!r}") from error
    if 8 + length + end != size:
        raise UserError(f"{path} is truncated: {size} bytes instead of {8 + length + end}")


def _description(model: SmallVLAConfig, images: ImageSpec, weights: bytes) -> str:
    """sha256 over sizes, image settings and the content of the weights' file."""
    sizes = [dataclasses.asdict(model), dataclasses.asdict(images)]
    digest = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode())
    digest.update(weights)
    return digest.hexdigest()
